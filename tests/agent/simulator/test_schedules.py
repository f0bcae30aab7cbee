"""When rows arise: each schedule counts what it lists, and follows the local clock."""

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.simulator.process import BEGIN, DAY
from agent.simulator.schedules import Days, Intervals, Scattered, Schedule, SummerTime, is_summer, local_time

BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")
SCHEDULES = [
    Intervals(3600, BERLIN),
    Intervals(900, KOLKATA),
    Days(BERLIN),
    Days(BERLIN, monthly=True),
    Scattered("key", 3 * DAY),
    Scattered("key", 3 * DAY, -20),
    SummerTime(BERLIN),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@given(second=st.integers(BEGIN, BEGIN + 30 * 366 * DAY))
def test_the_next_moment_is_one_more(schedule: Schedule, second: int) -> None:
    following = schedule.after(second)
    assert following > second
    if following < BEGIN + 70 * 366 * DAY:
        assert schedule.count(following) == schedule.count(second) + 1
        assert schedule.count(following - 1) == schedule.count(second)


@given(st.integers(BEGIN + DAY, BEGIN + 30 * 366 * DAY))
def test_periods_end_where_the_next_begins(second: int) -> None:
    for schedule in (Intervals(3600, KOLKATA), Days(BERLIN), Days(BERLIN, monthly=True)):
        end = schedule.after(second)
        assert schedule.before(end) <= second < end
        assert schedule.after(schedule.before(end)) == end


def test_hours_end_on_the_local_clock() -> None:
    assert local_time(Intervals(3600, KOLKATA).after(BEGIN), KOLKATA).minute == 0


def test_a_gas_day_begins_at_six_also_when_the_clock_changes() -> None:
    second = int(dt.datetime(2025, 10, 26, 0, tzinfo=BERLIN).timestamp())
    begin = Days(BERLIN).after(second)
    assert local_time(begin, BERLIN).strftime("%d %H:%M") == "26 06:00"
    assert begin - Days(BERLIN).before(begin) == 25 * 3600


def test_summer_time_is_known() -> None:
    change = SummerTime(BERLIN).after(int(dt.datetime(2025, 7, 1, tzinfo=dt.UTC).timestamp()))
    assert dt.datetime.fromtimestamp(change, dt.UTC) == dt.datetime(2025, 10, 26, 1, tzinfo=dt.UTC)
    assert is_summer(change - 1, BERLIN)
    assert not is_summer(change, BERLIN)
    assert SummerTime(KOLKATA).count(change) == 0
