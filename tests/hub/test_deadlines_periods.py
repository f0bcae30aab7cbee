"""Periods of deadlines on every calendar: they follow one another, days are as long as clocks say; the projection."""

import datetime as dt
import decimal
import uuid

from hypothesis import given
from hypothesis import strategies as st

from hub.deadlines_periods import (
    MOST_OPEN,
    PERIODS,
    Alert,
    has_zones,
    is_below,
    open_slots,
    percent_of,
    period_of,
    raster_of,
    running_slot,
)
from hub.deadlines_projected import (
    Outlook,
    possible_of,
    projected_by_gateway,
    projected_by_group,
    projected_of,
    usual_rate,
)
from hub.deadlines_tallies import Counted, Tally
from protocol.rasters import Raster

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "Pacific/Apia",
    "America/Sao_Paulo",
)
HOUR = dt.timedelta(hours=1)
INSTANTS = st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2045, 1, 1), timezones=st.just(dt.UTC))  # noqa: DTZ001 - bounds
RASTERS = st.builds(raster_of, st.sampled_from(PERIODS), st.just(0), st.sampled_from(ZONES))


@given(RASTERS, INSTANTS)
def test_every_instant_lies_in_one_period_and_its_end_belongs_to_it(raster: Raster, now: dt.datetime) -> None:
    slot = running_slot(raster, now)
    period = period_of(raster, slot, 60)
    assert period.start < now <= period.end
    assert period_of(raster, slot + 1, 60).start == period.end
    start, end = period.window
    assert start <= now < end


@given(RASTERS, INSTANTS, st.floats(0, 1))
def test_open_are_those_that_have_begun_and_are_not_yet_due(raster: Raster, now: dt.datetime, share: float) -> None:
    within = int(share * MOST_OPEN * raster.seconds)
    slots = open_slots(raster, within, now)
    assert running_slot(raster, now) == slots[-1]
    assert len(slots) <= MOST_OPEN + 2
    for slot in range(slots[0] - 2, slots[-1] + 3):
        period = period_of(raster, slot, within)
        assert (slot in slots) == (period.start < now <= period.due_at)


@given(st.sampled_from(ZONES), st.dates(dt.date(2001, 1, 1), dt.date(2040, 1, 1)), st.sampled_from(["day", "gas_day"]))
def test_a_day_has_the_hours_that_clocks_show(zone: str, date: dt.date, interval: str) -> None:
    raster = raster_of(interval, 0, zone)
    period = period_of(raster, date.toordinal(), 0)
    length = period.end - period.start
    hours = Raster("hour", 0)
    first, last = period.window
    count = hours.first_slot_at_or_after(last) - hours.first_slot_at_or_after(first)
    whole = (
        length % HOUR == dt.timedelta()
        and (period.start - dt.datetime(2000, 1, 1, tzinfo=dt.UTC)) % HOUR == dt.timedelta()
    )
    assert dt.timedelta(0) <= length <= 48 * HOUR
    if whole:
        assert count == length / HOUR


def test_gas_days_in_berlin_have_23_24_and_25_hours() -> None:
    raster = raster_of("gas_day", 0, "Europe/Berlin")
    lengths = {}
    for day in (dt.date(2026, 3, 27), dt.date(2026, 3, 28), dt.date(2026, 10, 24), dt.date(2026, 10, 25)):
        period = period_of(raster, day.toordinal(), 3600)
        lengths[day.isoformat()] = (period.end - period.start) / HOUR
        assert period.due_at == period.end + HOUR
    assert lengths == {"2026-03-27": 24, "2026-03-28": 23, "2026-10-24": 25, "2026-10-25": 24}


def test_hours_are_the_same_everywhere() -> None:
    assert not has_zones("hour")
    assert raster_of("hour", 0, "Asia/Kolkata") == raster_of("hour", 0, "Europe/Berlin")


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.decimals("0.0001", "100", places=4))
def test_below_the_target_is_exact(count: int, expected: int, target: decimal.Decimal) -> None:
    count = min(count, expected)
    below = is_below(count, expected, target)
    assert below == (decimal.Decimal(count) * 100 < target * expected)
    shown = percent_of(count, expected)
    assert (shown is None) == (expected == 0)
    if shown is not None:
        assert shown <= 100 * count / expected + 1e-9
        assert (shown == 100) == (count == expected)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 400)), max_size=40), st.integers(0, 600))
def test_what_is_told_has_held_for_as_long_as_patience_says(looks: list[tuple[bool, int]], patience: int) -> None:
    alert, now = Alert(), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    since, held, told = now, False, False
    for below, seconds in looks:
        now += dt.timedelta(seconds=seconds)
        if below != held:
            held, since = below, now
        alert = alert.step(below=below, now=now, patience=dt.timedelta(seconds=patience))
        if alert.told != told:
            assert alert.told == below
            assert now - since >= dt.timedelta(seconds=patience)
            told = alert.told
        elif below != told:
            assert now - since < dt.timedelta(seconds=patience)


def tally(expected: int, asked: int, stored: int, **states: int) -> Tally:
    one = Tally(expected, asked, stored)
    one.states.update(states)
    return one


def test_the_projection_is_what_the_page_says() -> None:
    near, far = uuid.uuid4(), uuid.uuid4()
    here = tally(100, 50, 30, on_gateway=5, due=4, being_fetched=3, missing=2, unrecoverable=1)
    counted = Counted({near: here, far: tally(100, 50, 30, on_gateway=5, due=15), None: tally(10, 5, 5)})
    assert (here.unexplained, here.to_come) == (5, 50)
    outlook = Outlook(frozenset({far}), {near: 0.5})
    # 30 stored + 5 on the gateway + half of (4 due + 3 being fetched + 5 unexplained + 50 to come); 30; 5 + 5.
    assert projected_by_gateway(counted, outlook) == {near: 66, far: 30, None: 10}
    assert projected_of(counted, outlook) == 106
    assert (possible_of(here), possible_of(counted.total)) == (99, 209)
    assert counted.total.lacking() == {
        "being_fetched": 3, "due": 4 + 50 + 15 + 50 + 5, "on_gateway": 10, "unexplained": 5, "unrecoverable": 1
    }  # fmt: skip


def test_parts_of_slots_add_up_over_many_gateways() -> None:
    gateways = [uuid.uuid4() for _ in range(100)]
    counted = Counted({key: tally(24, 0, 0) for key in gateways})
    counted.groups = {(None, key): one for key, one in counted.gateways.items() if key is not None}
    outlook = Outlook(frozenset(), dict.fromkeys(gateways, 0.996))
    assert projected_of(counted, outlook) == int(2400 * 0.996) == 2390
    assert projected_by_group(counted, outlook) == {None: 2390}


def test_one_bad_day_is_no_habit() -> None:
    assert usual_rate([]) == 1
    assert usual_rate([(0, 0)]) == 1
    assert usual_rate([(24, 24), (24, 0), (24, 24)]) == 1
    assert usual_rate([(24, 18), (24, 18), (24, 24)]) == 0.75
    assert usual_rate([(24, 18), (24, 24)]) == 0.75
