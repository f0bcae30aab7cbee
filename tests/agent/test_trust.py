"""Whether a clock is believed: a gateway with a wrong one does no harm."""

import datetime as dt
import pathlib
from collections.abc import Iterator

import pytest

from agent.clocks import Clock
from agent.store import Store
from agent.trust import ClockTrust, kernel_synchronised
from protocol.clock_settings import ClockSetting

T0 = dt.datetime(2026, 3, 2, 10, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


class SetClock(Clock):
    """A clock and a monotonic clock that show what the test says."""

    shown = T0
    elapsed = 0.0

    def now(self) -> dt.datetime:
        return self.shown

    def monotonic(self) -> float:
        return self.elapsed


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[Store]:
    made = Store(tmp_path / "agent.db", "gw-1", SetClock())
    yield made
    made.close()


def trust(clock: Clock, store: Store, *, synchronised: bool = False) -> ClockTrust:
    return ClockTrust(clock, store, lambda: synchronised)


def test_a_clock_that_nobody_ever_confirmed_is_not_believed(store: Store) -> None:
    assert not trust(SetClock(), store).believed()


def test_the_hub_confirms_what_agrees_within_five_minutes(store: Store) -> None:
    clock = SetClock()
    judge = trust(clock, store)
    judge.hear(T0 + dt.timedelta(minutes=5, seconds=1))
    assert not judge.believed()
    judge.hear(T0 - dt.timedelta(minutes=5))
    assert judge.believed()
    # It goes on evenly: still agreed, for as long as that lasts.
    clock.shown, clock.elapsed = T0 + 90 * DAY, 90 * 86_400
    assert judge.believed()


def test_a_confirmed_time_carries_a_restart_for_thirty_days_and_never_back(store: Store) -> None:
    clock = SetClock()
    assert trust(clock, store, synchronised=True).believed()
    clock.shown = T0 + 29 * DAY
    assert trust(clock, store).believed()
    # Being believed does not move the floor: thirty days from the confirmed time, not from the last look.
    clock.shown = T0 + 31 * DAY
    judge = trust(clock, store)
    assert "30 days" in judge.doubt()
    clock.shown = T0 - dt.timedelta(seconds=1)
    assert not trust(clock, store).believed()


def test_a_jump_after_the_agreement_needs_a_new_one(store: Store) -> None:
    clock = SetClock()
    judge = trust(clock, store)
    judge.hear(T0)
    clock.shown = T0 + 400 * DAY
    assert not judge.believed()
    clock.shown = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert not judge.believed()


def test_the_set_clock_of_a_test_is_believed(store: Store) -> None:
    assert trust(Clock(ClockSetting(T0, 0.0, 60.0)), store).believed()


def test_the_kernel_can_be_asked() -> None:
    assert kernel_synchronised() in {True, False}
