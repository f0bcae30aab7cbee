"""Schedules over random instants: never early, never twice, never left out."""

import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.schedules import OFFSET_LIMITS, SCHEDULES, check_offset, due_ticks, tick_after, tick_at_or_before, ticks
from protocol.wire import ContractError

SECONDS = {
    "quarterly": 900,
    "hourly": 3600,
    "daily": 86_400,
    "weekly": 604_800,
    "monthly": 2_419_200,
    "yearly": 31_536_000,
}
INSTANTS = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2200, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001 - the zone is the third argument
NAMES = st.sampled_from(SCHEDULES)


def window(schedule: str, start: dt.datetime, periods: float) -> dt.datetime:
    return start + dt.timedelta(seconds=SECONDS[schedule] * periods)


def test_the_schedules_and_their_limits_are_the_published_ones() -> None:
    assert OFFSET_LIMITS == SECONDS


@given(NAMES, INSTANTS, st.floats(0, 1), st.floats(0, 5))
def test_a_run_never_starts_before_its_tick_plus_offset(
    schedule: str, last: dt.datetime, part: float, length: float
) -> None:
    offset = int(part * SECONDS[schedule])
    now = window(schedule, last, length)
    for tick in due_ticks(schedule, offset, last, now):
        assert last < tick + dt.timedelta(seconds=offset) <= now
        assert tick_at_or_before(schedule, tick) == tick


@given(NAMES, INSTANTS, st.floats(0, 1), st.floats(0, 4), st.floats(0, 4))
def test_two_looks_find_what_one_look_finds(
    schedule: str, a: dt.datetime, part: float, first: float, second: float
) -> None:
    """Due over (a, b] and then (b, c] is due over (a, c]: nothing twice, nothing left out, however often one looks."""
    offset = int(part * SECONDS[schedule])
    b = window(schedule, a, first)
    c = window(schedule, b, second)
    in_two = [*due_ticks(schedule, offset, a, b), *due_ticks(schedule, offset, b, c)]
    assert in_two == list(due_ticks(schedule, offset, a, c))


@given(NAMES, INSTANTS, st.floats(0, 20))
def test_ticks_rise_by_at_least_the_shortest_period(schedule: str, after: dt.datetime, length: float) -> None:
    found = list(ticks(schedule, after, window(schedule, after, length)))
    for earlier, later in itertools.pairwise(found):
        assert (later - earlier).total_seconds() >= SECONDS[schedule]
    assert abs(len(found) - length) <= 1 + length / 9


@given(NAMES, INSTANTS)
def test_every_instant_lies_between_its_two_ticks(schedule: str, at: dt.datetime) -> None:
    before, after = tick_at_or_before(schedule, at), tick_after(schedule, at)
    assert before <= at < after
    assert tick_after(schedule, before) == after
    assert tick_after(schedule, after - dt.timedelta(microseconds=1)) == after
    assert (before.second, before.microsecond, before.tzinfo) == (0, 0, dt.UTC)


@given(INSTANTS)
def test_ticks_fall_where_the_words_say(at: dt.datetime) -> None:
    assert tick_after("quarterly", at).minute in {0, 15, 30, 45}
    assert tick_after("hourly", at).minute == 0
    assert tick_after("weekly", at).weekday() == 0
    assert tick_after("monthly", at).day == 1
    yearly = tick_after("yearly", at)
    assert (yearly.month, yearly.day) == (1, 1)
    for schedule in ("daily", "weekly", "monthly", "yearly"):
        tick = tick_after(schedule, at)
        assert (tick.hour, tick.minute) == (0, 0)


@pytest.mark.parametrize(
    ("schedule", "at", "tick"),
    [
        ("quarterly", "2026-11-22T12:15:00+00:00", "2026-11-22T12:30:00+00:00"),
        ("quarterly", "2026-11-22T23:59:59.999999+00:00", "2026-11-23T00:00:00+00:00"),
        ("daily", "2026-03-29T00:30:00+01:00", "2026-03-29T00:00:00+00:00"),
        ("weekly", "2026-11-22T12:00:00+00:00", "2026-11-23T00:00:00+00:00"),
        ("monthly", "2024-01-31T12:00:00+00:00", "2024-02-01T00:00:00+00:00"),
        ("monthly", "2024-02-01T00:00:00+00:00", "2024-03-01T00:00:00+00:00"),
        ("yearly", "2024-01-01T00:00:00+00:00", "2025-01-01T00:00:00+00:00"),
        ("yearly", "2023-12-31T23:59:59+00:00", "2024-01-01T00:00:00+00:00"),
    ],
)
def test_known_ticks(schedule: str, at: str, tick: str) -> None:
    assert tick_after(schedule, dt.datetime.fromisoformat(at)) == dt.datetime.fromisoformat(tick)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_offset_beyond_the_limit_is_refused_with_the_limit_named(schedule: str) -> None:
    limit = SECONDS[schedule]
    assert [check_offset(schedule, offset) for offset in (0, limit)] == [0, limit]
    for offset in (-1, limit + 1):
        with pytest.raises(ContractError, match=rf"run_offset_seconds is {offset}; for {schedule} .* 0\.\.{limit}"):
            check_offset(schedule, offset)


def test_an_unknown_schedule_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(ContractError, match="'lunar' is none of quarterly, hourly, daily, weekly, monthly, yearly"):
        due_ticks("lunar", 0, dt.datetime.now(dt.UTC), dt.datetime.now(dt.UTC))


def test_a_clock_that_goes_back_makes_nothing_due() -> None:
    now = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
    assert list(due_ticks("quarterly", 0, now, now - dt.timedelta(days=3))) == []
