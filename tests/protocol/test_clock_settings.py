"""The settable clock: a straight line, the same in every process, and refused on a real gateway."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.clock_settings import ENVIRONMENTS, read_clock_setting
from protocol.wire import ContractError

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@given(st.floats(0, 1e6), st.floats(0.01, 1e3))
def test_it_starts_at_start_and_runs_at_its_rate(elapsed: float, rate: float) -> None:
    setting = read_clock_setting(f"2026-01-01T01:00:00+01:00,{rate!r}", "demo", 1000.0)
    assert setting.at(1000.0) == START
    shown = (setting.at(1000.0 + elapsed) - START).total_seconds()
    assert shown == pytest.approx(elapsed * rate, abs=1e-3)


def test_processes_with_one_anchor_show_the_same_time() -> None:
    text = "2026-01-01T00:00:00Z@500.5,60"
    early, late = (read_clock_setting(text, "test", started) for started in (600.0, 900.0))
    assert early.at(1000.5) == late.at(1000.5) == START + dt.timedelta(seconds=30_000)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_it_is_allowed_where_no_real_meter_hangs_on_it(environment: str) -> None:
    assert read_clock_setting("2026-01-01T00:00:00Z,1", environment, 0.0).start == START


@pytest.mark.parametrize("environment", ["", "production", "Demo"])
def test_it_is_refused_on_a_real_gateway(environment: str) -> None:
    with pytest.raises(ContractError, match="METERGATE_ENVIRONMENT"):
        read_clock_setting("2026-01-01T00:00:00Z,1", environment, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00,1",
        "noon,1",
        "2026-01-01T00:00:00Z,0",
        "2026-01-01T00:00:00Z,nan",
        "2026-01-01T00:00:00Z@x,1",
        "2026-01-01T00:00:00Z@inf,1",
        "2026-01-01T00:00:00Z,1,2",
        "2026-01-01T00:00:00Z,-5",
    ],
)
def test_a_text_that_is_no_setting_is_named(text: str) -> None:
    with pytest.raises(ContractError, match="METERGATE_CLOCK="):
        read_clock_setting(text, "test", 0.0)
