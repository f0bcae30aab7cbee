"""Flags of readings as pure functions: each one's rule, at its bounds; they hang on values and times alone."""

import datetime as dt
import decimal
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.validation import (
    FLAGS,
    LEAST_STEPS,
    METER_REPLACED,
    NEGATIVE,
    NOT_MONOTONIC,
    OUTSIDE_LIMITS,
    SPIKE,
    STEPS,
    STUCK,
    Limit,
    Point,
    judge,
    names_of,
)

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
D = decimal.Decimal


def points(*values: str | int, minutes: int = 60) -> list[Point]:
    return [Point(START + n * dt.timedelta(minutes=minutes), D(value)) for n, value in enumerate(values)]


def limit(**rules: object) -> Limit:
    return Limit(series="2:300", **rules)  # type: ignore[arg-type]


def test_flags_have_their_bits_for_ever() -> None:
    assert FLAGS == {
        "negative": 1,
        "not_monotonic": 2,
        "outside_limits": 4,
        "spike": 8,
        "stuck": 16,
        "meter_replaced": 32,
    }
    assert names_of(0) == []
    assert names_of(NOT_MONOTONIC | STUCK) == ["not_monotonic", "stuck"]


def test_without_a_limit_nothing_is_judged() -> None:
    assert judge(points(5, -1, 10**9, 10**9), None, []) == [0, 0, 0, 0]
    assert judge(points(5, -1, 10**9, 10**9), limit(), []) == [0, 0, 0, 0]


def test_outside_configured_bounds() -> None:
    assert judge(points("0.99", "1", "2.50", "2.51"), limit(min=D(1), max=D("2.5")), []) == [
        OUTSIDE_LIMITS,
        0,
        0,
        OUTSIDE_LIMITS,
    ]


def test_a_change_per_hour_is_exact_to_the_last_digit() -> None:
    quarter = points("0", "2.5", "5.000000000000000001", "2.5", minutes=15)
    assert judge(quarter, limit(max_per_hour=D(10)), []) == [0, 0, OUTSIDE_LIMITS, OUTSIDE_LIMITS]
    huge = [Point(START, D("9" * 37 + "0")), Point(START + dt.timedelta(hours=1), D("9" * 37 + "1"))]
    assert judge(huge, limit(max_per_hour=D(1)), []) == [0, 0]
    assert judge(huge, limit(max_per_hour=D("0.999999999999999999")), []) == [0, OUTSIDE_LIMITS]


def test_a_counter_that_goes_back_and_one_below_zero() -> None:
    assert judge(points(5, 5, 4, 6), limit(monotonic=True), []) == [0, 0, NOT_MONOTONIC, 0]
    assert judge(points(1, -1), limit(monotonic=True), []) == [0, NEGATIVE | NOT_MONOTONIC]
    assert judge(points(1, "-0.1", "-0", 2), limit(not_negative=True), []) == [0, NEGATIVE, 0, 0]


def test_stuck_begins_when_the_time_is_full_and_ends_with_the_next_change() -> None:
    rule = limit(stuck_hours=3)
    assert judge(points(1, 2, "2.0", 2, 2, 2, 3, 3), rule, []) == [0, 0, 0, 0, STUCK, STUCK, 0, 0]


def test_a_spike_is_one_against_the_own_history_only() -> None:
    steady = [str(n) for n in range(LEAST_STEPS + 1)]
    rule = limit(spike_factor=5.0)
    assert judge(points(*steady, LEAST_STEPS + 5), rule, [])[-1] == 0
    assert judge(points(*steady, LEAST_STEPS + 6), rule, [])[-1] == SPIKE
    assert judge(points(*steady[:-1], LEAST_STEPS + 60), rule, [])[-1] == 0, "no history yet"
    # A house where nobody is at night: steps of zero are no history.
    quiet = [value for value in steady for _ in range(3)]
    assert judge(points(*quiet, LEAST_STEPS + 1), rule, [])[-1] == 0
    assert judge(points(*quiet, LEAST_STEPS + 9), rule, [])[-1] == SPIKE


def test_a_new_meter_begins_anew() -> None:
    rule = limit(monotonic=True, max_per_hour=D(10), stuck_hours=2)
    replaced = [START + dt.timedelta(hours=2)]
    assert judge(points(1000, 1001, 3, 4, 4), rule, replaced) == [0, 0, METER_REPLACED, 0, 0]
    assert judge(points(1000, 1001, 3, 4), None, replaced) == [0, 0, METER_REPLACED, 0]
    assert judge(points(1, 2), rule, [START - dt.timedelta(days=1)]) == [0, 0], "nothing is known of a meter before"


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(0, 150))
def test_a_history_that_is_long_enough_is_as_good_as_all_of_it(seed: int, cut: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    rule = limit(min=D(3), monotonic=True, max_per_hour=D(7), stuck_hours=chance.choice([1, 5, 30]), spike_factor=1.5)
    value = 0
    all_of_it = []
    at = START
    for _ in range(200):
        value += chance.choice([0, 0, 1, 2, 9, -1])
        at += dt.timedelta(minutes=chance.choice([15, 60, 300]))
        all_of_it.append(Point(at, D(value)))
    replaced = sorted(START + dt.timedelta(hours=chance.randrange(600)) for _ in range(chance.choice([0, 1, 2])))
    judged = judge(all_of_it, rule, replaced)
    first = all_of_it[cut].timestamp
    since = first - dt.timedelta(hours=rule.stuck_hours or 0)
    low = max(0, cut - STEPS - 1)
    while low > 0 and all_of_it[low].timestamp > since:
        low -= 1
    assert judge(all_of_it[low:], rule, replaced)[cut - low :] == judged[cut:]
