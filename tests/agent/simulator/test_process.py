"""What flows: the same everywhere, never back, and physically consistent."""

from hypothesis import given
from hypothesis import strategies as st

from agent.simulator.process import BEGIN, DAY, GasProcess

PROCESSES = {seed: GasProcess(seed, "4711") for seed in range(3)}
SECONDS = st.integers(BEGIN, BEGIN + 40 * 366 * DAY)


@given(st.sampled_from(sorted(PROCESSES)), SECONDS, st.integers(0, 100_000))
def test_volumes_never_go_back(seed: int, second: int, later: int) -> None:
    process = PROCESSES[seed]
    assert process.standard(second) <= process.standard(second + later)
    assert process.actual(second) <= process.actual(second + later)


@given(SECONDS)
def test_a_process_follows_from_seed_and_name_alone(second: int) -> None:
    assert GasProcess(1, "4711").standard(second) == PROCESSES[1].standard(second)
    assert PROCESSES[2].standard(second) != PROCESSES[1].standard(second)


@given(SECONDS, st.sampled_from([900, 3600, DAY]))
def test_the_conversion_factor_is_that_of_the_fact_sheet(second: int, step: int) -> None:
    """C = (p / 1.01325 bar) * (273.15 / (T + 273.15)) / K, LIS-200 fact sheet 3.5."""
    process = PROCESSES[0]
    span = second, second + step
    pressure, deviation = process.pressure(*span) / 1e5, process.deviation(*span) / 1e5
    expected = pressure / 1.01325 * 273.15 / (process.temperature(*span) / 100 + 273.15) / deviation
    assert abs(process.conversion(*span) / 1e5 - expected) < 2e-5


def test_values_stay_as_they_are_for_ever() -> None:
    """A truth file of last year has to fit the simulator of this year."""
    process = GasProcess(1, "4711")
    assert (process.standard(1_760_000_000), process.actual(1_760_000_000)) == (GOLDEN_STANDARD, GOLDEN_ACTUAL)


GOLDEN_STANDARD, GOLDEN_ACTUAL = 28_985_301_912, 7_584_295_510
