"""Slots and instants over all zones and changes of the clock: a bijection, in order, without gaps."""

import datetime as dt
import itertools
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.rasters import CALENDAR, INTERVALS, SECONDS, Raster, local_anchor
from protocol.wire import ContractError

ZONES = st.sampled_from(sorted(zoneinfo.available_timezones() - {"Factory", "localtime"}))
# Samoa and Tokelau left out the 30th of December 2011 altogether: that day has no instant of its own.
INSTANTS = st.datetimes(dt.datetime(2012, 1, 2), dt.datetime(2037, 12, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001 - the zone is the third argument
HOUR = dt.timedelta(hours=1)


@st.composite
def rasters(draw: st.DrawFn) -> Raster:
    interval = draw(st.sampled_from(INTERVALS))
    shortest = SECONDS.get(interval) or CALENDAR[interval]
    anchor = draw(st.just(0) | st.integers(0, min(shortest, 27 * 86_400) - 1))
    return Raster(interval, anchor, draw(ZONES))


@given(rasters(), INSTANTS)
def test_every_slot_has_one_instant_and_every_instant_of_the_raster_one_slot(raster: Raster, near: dt.datetime) -> None:
    slot = raster.slot_at_or_before(near)
    for number in range(slot - 3, slot + 4):
        assert raster.slot_of(raster.instant_of(number)) == number


@given(rasters(), INSTANTS)
def test_slots_follow_one_another_in_time(raster: Raster, near: dt.datetime) -> None:
    slot = raster.slot_at_or_before(near)
    instants = [raster.instant_of(number) for number in range(slot - 3, slot + 4)]
    assert all(before < after for before, after in itertools.pairwise(instants))
    assert raster.instant_of(slot) <= near < raster.instant_of(slot + 1)


@given(rasters(), INSTANTS)
def test_the_first_slot_at_or_after_an_instant_is_the_next_one(raster: Raster, near: dt.datetime) -> None:
    slot = raster.first_slot_at_or_after(near)
    assert raster.instant_of(slot - 1) < near <= raster.instant_of(slot)


@given(rasters(), INSTANTS)
def test_an_instant_between_two_slots_has_none(raster: Raster, near: dt.datetime) -> None:
    found = raster.slot_of(near)
    assert found is None or raster.instant_of(found) == near
    assert raster.slot_of(raster.instant_of(raster.slot_at_or_before(near)) + dt.timedelta(microseconds=1)) is None


@given(st.sampled_from(sorted(SECONDS)), ZONES, INSTANTS)
def test_below_a_day_no_change_of_the_clock_is_felt(interval: str, zone: str, near: dt.datetime) -> None:
    raster = Raster(interval, local_anchor(interval, zone), zone)
    slot = raster.slot_at_or_before(near)
    assert raster.instant_of(slot + 1) - raster.instant_of(slot) == dt.timedelta(seconds=SECONDS[interval])


@pytest.mark.parametrize(("day", "hours"), [((2026, 3, 29), 23), ((2026, 10, 25), 25), ((2026, 6, 1), 24)])
def test_a_gas_day_begins_at_six_where_the_meter_stands(day: tuple[int, int, int], hours: int) -> None:
    raster = Raster("gas_day", 0, "Europe/Berlin")
    # The night of the change lies in the gas day of the day before.
    slot = dt.date(*day).toordinal() - 1
    begin, end = raster.instant_of(slot), raster.instant_of(slot + 1)
    assert begin.astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).hour == 6
    assert end.astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).hour == 6
    assert end - begin == hours * HOUR


def test_a_month_begins_on_its_first_day_where_the_meter_stands() -> None:
    raster = Raster("month", 6 * 3600, "Europe/Berlin")
    slot = raster.slot_of(dt.datetime(2026, 4, 1, 4, tzinfo=dt.UTC))
    assert slot is not None
    assert raster.instant_of(slot - 1) == dt.datetime(2026, 3, 1, 5, tzinfo=dt.UTC)


def test_a_midnight_that_the_clock_leaves_out_is_the_moment_after() -> None:
    # Cairo's clocks went from 00:00 to 01:00 on the 26th of April 2024.
    raster = Raster("day", 0, "Africa/Cairo")
    instant = raster.instant_of(dt.date(2024, 4, 26).toordinal())
    assert instant == dt.datetime(2024, 4, 25, 22, tzinfo=dt.UTC)
    assert raster.slot_of(instant) == dt.date(2024, 4, 26).toordinal()


def test_of_a_midnight_that_comes_twice_the_first_counts() -> None:
    # Havana's clocks went from 01:00 back to 00:00 on the 1st of November 2026.
    raster = Raster("day", 0, "America/Havana")
    first = dt.datetime(2026, 11, 1, 4, tzinfo=dt.UTC)
    assert raster.slot_of(first) == dt.date(2026, 11, 1).toordinal()
    assert raster.slot_of(first + HOUR) is None


@pytest.mark.parametrize(
    ("interval", "zone", "anchor"),
    [
        ("hour", "Europe/Berlin", 0),
        ("hour", "Asia/Kolkata", 1800),
        ("hour", "Asia/Kathmandu", 900),
        ("quarter_hour", "Asia/Kathmandu", 0),
        ("hour", "Australia/Lord_Howe", 1800),
        ("hour", "America/St_Johns", 1800),
        ("day", "Asia/Kolkata", 0),
    ],
)
def test_hours_begin_with_the_local_ones(interval: str, zone: str, anchor: int) -> None:
    assert local_anchor(interval, zone) == anchor
    Raster(interval, anchor, zone)


@pytest.mark.parametrize(
    ("interval", "anchor", "zone", "said"),
    [
        ("fortnight", 0, "UTC", "none of minute"),
        ("hour", 3600, "UTC", "within 0..3599"),
        ("month", -1, "UTC", "within 0..2332799"),
        ("day", 0, "Mars/Olympus", "no IANA time zone"),
        ("day", 0, "../etc/passwd", "no IANA time zone"),
    ],
)
def test_what_has_no_slots_is_refused(interval: str, anchor: int, zone: str, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        Raster(interval, anchor, zone)
