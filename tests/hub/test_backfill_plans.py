"""What is fetched, in which pieces, and when it is given up: rules that hold for all gaps."""

import datetime as dt
import itertools
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.backfill_plans import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MOST_SECONDS,
    MOST_TRIES,
    Archive,
    Gap,
    GatewayState,
    Kept,
    has_delivered,
    has_delivered_result,
    next_try,
    row_seconds,
    session_seconds,
    windows,
)
from protocol.rasters import Raster

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
SESSION = session_seconds(300, fixed=False)
METER, GATEWAY = uuid.UUID(int=1), uuid.UUID(int=2)
HERE = {GATEWAY: GatewayState(online=True, delivered=NOW)}


def hours(first: int, last: int) -> Gap:
    return Gap(NOW + first * HOUR, NOW + last * HOUR, Raster("hour"))


def archive(*gaps: Gap, seconds: float = 0.2) -> Archive:
    return Archive(METER, 3, GATEWAY, SESSION, seconds, HOUR, gaps)


spans = st.lists(st.tuples(st.integers(-150, 150), st.integers(0, 30)), max_size=6)


@given(gaps=spans, kept=spans, seconds=st.floats(0.01, 100))
def test_every_missing_hour_is_in_one_window_and_none_that_is_kept_is(
    gaps: list[tuple[int, int]], kept: list[tuple[int, int]], seconds: float
) -> None:
    one = archive(*(hours(first, first + length) for first, length in gaps), seconds=seconds)
    held = [Kept(NOW + first * HOUR, NOW + (first + length) * HOUR) for first, length in kept]
    found = windows([one], HERE, {one.key: held})
    missing = {first + step for first, length in gaps for step in range(length + 1)}
    cared = {first + step for first, length in kept for step in range(length + 1)}
    for hour in missing:
        at = NOW + hour * HOUR
        inside = [window for window in found if window.start <= at <= window.end]
        assert len(inside) == (hour not in cared)
    for window in found:
        assert window.start <= window.end
        assert not any(window.start <= NOW + hour * HOUR <= window.end for hour in cared)
        # What is asked for begins and ends with something that is missing.
        assert window.cost_seconds <= max(MOST_SECONDS, SESSION + 2 * seconds) + 0.1
    ordered = sorted(found, key=lambda window: window.start)
    assert all(before.end < after.start for before, after in itertools.pairwise(ordered))
    assert found == list(reversed(ordered)), "the newest is fetched first"


def test_series_of_one_archive_are_fetched_together_and_near_gaps_as_one() -> None:
    found = windows([archive(hours(0, 3), hours(2, 5), hours(12, 13))], HERE, {})
    assert [(window.start, window.end) for window in found] == [(NOW, NOW + 13 * HOUR)]
    # On a line where a row takes longer than a session, what is there is not read again.
    apart = windows([archive(hours(0, 3), hours(20, 21), seconds=10.0)], HERE, {})
    assert [(window.start, window.end) for window in apart] == [
        (NOW + 20 * HOUR, NOW + 21 * HOUR),
        (NOW, NOW + 3 * HOUR),
    ]


def test_between_windows_that_are_kept_there_is_nothing_where_no_slot_is() -> None:
    one = archive(hours(0, 9))
    held = [Kept(NOW, NOW + 4 * HOUR), Kept(NOW + 5 * HOUR, NOW + 8 * HOUR)]
    assert [(window.start, window.end) for window in windows([one], HERE, {one.key: held})] == [
        (NOW + 9 * HOUR, NOW + 9 * HOUR)
    ]


def test_nothing_is_planned_for_a_gateway_that_is_away_or_unknown() -> None:
    away = {GATEWAY: GatewayState(online=False, delivered=NOW)}
    assert windows([archive(hours(0, 3))], away, {}) == []
    assert windows([archive(hours(0, 3))], {}, {}) == []


def test_what_a_gateway_had_is_here_once_it_has_said_so() -> None:
    assert has_delivered(GatewayState(online=True, delivered=NOW + HOUR), NOW)
    assert not has_delivered(GatewayState(online=True, delivered=NOW), NOW)
    assert not has_delivered(GatewayState(online=True, delivered=None), NOW)
    assert not has_delivered(GatewayState(online=False, delivered=NOW + HOUR), NOW)


def test_a_life_sign_that_was_under_way_says_nothing_of_what_ended_meanwhile() -> None:
    def state(said: dt.datetime, oldest: dt.datetime | None = None) -> GatewayState:
        return GatewayState(online=True, delivered=NOW + HOUR, said=said, oldest=oldest)

    assert has_delivered_result(state(NOW + HOUR), NOW)
    assert has_delivered_result(state(NOW + HOUR, oldest=NOW + HOUR / 2), NOW)
    assert not has_delivered_result(state(NOW), NOW)
    assert not has_delivered_result(state(NOW + HOUR, oldest=NOW), NOW)
    assert not has_delivered_result(GatewayState(online=False, delivered=NOW, said=NOW + HOUR), NOW)


def test_pauses_double_are_bounded_and_end() -> None:
    pauses = []
    tries = 1
    while (again := next_try(tries, NOW)) is not None:
        pauses.append(again - NOW)
        tries += 1
    assert tries == MOST_TRIES
    assert pauses[0] == FIRST_PAUSE
    assert all(after in {2 * before, LONGEST_PAUSE} for before, after in itertools.pairwise(pauses))


def test_a_row_costs_what_reads_have_shown_or_what_rows_usually_do() -> None:
    assert row_seconds(300, fixed=True, seen=None) == pytest.approx(5.5)
    assert row_seconds(300, fixed=False, seen=None) == pytest.approx(165 * 10 / 9600)
    assert row_seconds(19200, fixed=False, seen=(9600, 100)) == pytest.approx(0.05)
