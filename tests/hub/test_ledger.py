"""The ledger knows every reading, whatever happens to it: late, twice, adopted, deleted; and what is expected anew."""

import asyncio
import datetime as dt
import decimal
import uuid

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import models
from hub.clerk import keep_ledger
from hub.clocks import Clock
from hub.database import create_engine, reading, writing
from hub.expectations import expectations_of, mark
from hub.ledger import bits_of, catch_up, differences, keep_some, missing_spans, settle
from hub.ledger_chunks import filling, size_of
from hub.ledger_pending import note
from hub.ledger_rebuilding import ask_for_rebuild
from hub.ledger_sums import wrong_sums
from hub.totals import Scope
from hub.totals_counted import count
from hub.versions import Arrival, store
from tests.parts.databases import database_url, engine, new_sqlite
from tests.parts.estates import NOW, Estate, make_estate
from tests.parts.rest import Rest, rest

__all__ = ["database_url", "engine", "rest"]

SERIES = "7:310/3"
HOUR = dt.timedelta(hours=1)
BEGIN = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
END = BEGIN + 24 * HOUR


async def expect(
    engine: AsyncEngine, estate: Estate, *told: dict[str, object], commissioned: dt.datetime = BEGIN - 240 * HOUR
) -> None:
    """Have the config expect this, of meters that were commissioned long ago, and the clerk know it."""
    async with writing(engine) as session:
        wanted = [{"anchor_seconds": None, "archive": 3} | one for one in told]
        await session.execute(sa.update(models.MeterDeviceConfig).values(expectations=wanted))
        await session.execute(sa.update(models.MeterDevice).values(commissioned=commissioned))
        await mark(session, models.MeterDeviceConfig, estate.config)
    await work_off(engine)


async def work_off(engine: AsyncEngine, now: dt.datetime = NOW) -> None:
    while await keep_some(engine, now):
        pass


def arrival(estate: Estate, at: dt.datetime, value: str = "1", series: str = SERIES, meter: str = "M1") -> Arrival:
    return Arrival(estate.organization, estate.meters[meter], estate.series[series], at, decimal.Decimal(value), NOW)


async def put(engine: AsyncEngine, *arrivals: Arrival) -> None:
    async with writing(engine) as session:
        await store(session, arrivals, NOW)


async def missing(engine: AsyncEngine, estate: Estate, meter: str = "M1") -> list[tuple[dt.datetime, dt.datetime, int]]:
    async with reading(engine) as session:
        found = await missing_spans(session, [estate.meters[meter]], BEGIN, END, NOW)
    return [(one.start, one.end, one.count) for one in found]


async def agrees(engine: AsyncEngine, estate: Estate) -> bool:
    """Whether chunks are what the readings say, and sums and totals what the chunks say, over any window."""
    async with writing(engine) as session:
        found = await expectations_of(session, estate.meters.values())
        assert [await differences(session, one) for one in found] == [None] * len(found)
        for raster in (await session.execute(sa.select(models.LedgerRaster))).scalars():
            assert await wrong_sums(session, raster.id, size_of(raster.interval)) == []
        by_id = {one.id: one for one in found}
        chunks = sa.select(models.LedgerChunk).where(models.LedgerChunk.expectation.in_(by_id))
        for row in (await session.execute(chunks)).scalars():
            one = by_id[row.expectation]
            size = size_of(one.raster.interval)
            assert row.state == filling(int.from_bytes(row.bits, "little"), size, row.chunk, one.since, one.until)
        for hours in ((0, 24), (3, 5), (-2000, 24), (-300, -100), (-241, -239), (5, 5.5), (-3000, 3000)):
            start, end = (BEGIN + hour * HOUR for hour in hours)
            await _totals_agree(session, estate, start, end)
    return True


async def _totals_agree(session: AsyncSession, estate: Estate, start: dt.datetime, end: dt.datetime) -> None:
    expecting = await expectations_of(session, estate.meters.values())
    bits = await bits_of(session, expecting)
    expected = stored = 0
    lacking = []
    for one in expecting:
        first, last = one.window(start, end, NOW)
        expected += max(0, last - first + 1)
        stored += bits[one.id].count(first, last)
        lacking += [one.id] if bits[one.id].missing(first, last) else []
    totals = await count(session, Scope(organization=estate.organization), start, end, NOW)
    assert (totals.expected, totals.stored, totals.lacking) == (expected, stored, lacking)


async def test_what_is_not_stored_is_missing_with_its_span(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    await put(engine, *(arrival(estate, BEGIN + hour * HOUR) for hour in range(24) if hour not in {3, 4, 20}))
    await catch_up(engine, NOW)
    assert await missing(engine, estate) == [
        (BEGIN + 3 * HOUR, BEGIN + 4 * HOUR, 2),
        (BEGIN + 20 * HOUR, BEGIN + 20 * HOUR, 1),
    ]
    assert await missing(engine, estate, "M2") == [(BEGIN, BEGIN + 23 * HOUR, 24)]


async def test_late_data_fill_their_slots_and_revisions_none(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    await put(engine, arrival(estate, BEGIN), arrival(estate, BEGIN + HOUR + dt.timedelta(seconds=1)))
    await put(engine, arrival(estate, BEGIN, "2"), arrival(estate, BEGIN, "3"))
    await catch_up(engine, NOW)
    assert await missing(engine, estate) == [(BEGIN + HOUR, BEGIN + 23 * HOUR, 23)]
    await put(engine, *(arrival(estate, BEGIN + hour * HOUR) for hour in range(24)))
    await catch_up(engine, NOW)
    assert await missing(engine, estate) == []


async def test_staged_readings_count_when_they_are_adopted(engine: AsyncEngine, rest: Rest) -> None:
    estate = await make_estate(engine)
    rest.clock.shown = NOW
    await expect(engine, estate, {"series": SERIES, "interval": "day"})
    body = {"series": SERIES, "timestamp": BEGIN.isoformat(), "value": "1", "organization": str(estate.organization)}
    await rest.call("POST", "/v1/metering/new-meter-readings", {"meter": "M3", **body}, 201)
    await rest.patch(f"/v1/metering/meter-devices/{estate.meters['M1']}", name="M3")
    await catch_up(engine, NOW)
    # Midnight in Berlin, not in UTC: off the raster of days.
    assert [count for _, _, count in await missing(engine, estate)] == [1]
    at = BEGIN - HOUR + 24 * HOUR
    await rest.call(
        "POST", "/v1/metering/new-meter-readings", {"meter": "M3", **body, "timestamp": at.isoformat()}, 201
    )
    await catch_up(engine, NOW)
    assert await missing(engine, estate) == []


async def test_a_deleted_reading_is_missing_again(engine: AsyncEngine, rest: Rest) -> None:
    estate = await make_estate(engine)
    rest.clock.shown = NOW
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    await put(engine, *(arrival(estate, BEGIN + hour * HOUR) for hour in range(24)))
    rows = (await rest.get(f"/v1/metering/meter-readings?meter_device={estate.meters['M1']}&limit=3"))["results"]
    await rest.call("DELETE", f"/v1/metering/meter-readings/{rows[1]['id']}", status=204)
    await rest.call("DELETE", f"/v1/metering/meter-readings/{rows[2]['id']}", status=204)
    await put(engine, arrival(estate, BEGIN + 2 * HOUR))
    await catch_up(engine, NOW)
    assert await missing(engine, estate) == [(BEGIN + HOUR, BEGIN + HOUR, 1)]
    assert await agrees(engine, estate)


async def test_another_raster_makes_the_series_anew_and_says_so_meanwhile(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    await put(engine, *(arrival(estate, BEGIN + hour * HOUR / 2) for hour in range(40)))
    await work_off(engine)
    async with writing(engine) as session:
        half = [{"series": SERIES, "interval": "half_hour", "anchor_seconds": None, "archive": 3}]
        await session.execute(sa.update(models.MeterDeviceConfig).values(expectations=half))
        await mark(session, models.MeterDeviceConfig, estate.config)
    assert (await missing(engine, estate))[0] == (BEGIN + 20 * HOUR, BEGIN + 23 * HOUR, 4)
    await keep_some(engine, NOW)
    async with reading(engine) as session:
        assert {one.rebuilding for one in await expectations_of(session, estate.meters.values())} == {True}
    assert await missing(engine, estate) == []
    await work_off(engine)
    assert await missing(engine, estate) == [(BEGIN + 20 * HOUR, BEGIN + 23.5 * HOUR, 8)]
    assert await agrees(engine, estate)


async def test_a_series_that_is_expected_no_longer_ends_and_begins_again_whole(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    await put(engine, arrival(estate, BEGIN), arrival(estate, NOW + HOUR))
    await expect(engine, estate)
    async with reading(engine) as session:
        ended = await expectations_of(session, [estate.meters["M1"]])
    assert [one.raster.instant_of(one.until or 0) for one in ended] == [NOW]
    assert [count for _, _, count in await missing(engine, estate)] == [23]
    assert await agrees(engine, estate)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    async with reading(engine) as session:
        again = await expectations_of(session, [estate.meters["M1"]])
    assert [(one.id, one.until) for one in again] == [(ended[0].id, None)]
    assert await agrees(engine, estate)


async def test_nothing_is_expected_before_a_meter_comes_and_after_it_goes(engine: AsyncEngine, rest: Rest) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"}, commissioned=BEGIN + 3 * HOUR)
    meter = f"/v1/metering/meter-devices/{estate.meters['M1']}"
    await rest.patch(meter, decommissioned=(BEGIN + 5.5 * HOUR).isoformat())
    await work_off(engine)
    assert await missing(engine, estate) == [(BEGIN + 3 * HOUR, BEGIN + 5 * HOUR, 3)]
    assert await rest.wrong_fields("PATCH", meter, {"commissioned": "1990-01-01T00:00:00Z"}) == {"commissioned"}
    assert await rest.wrong_fields("PATCH", meter, {"decommissioned": BEGIN.isoformat()}) == {"decommissioned"}


async def test_momentary_values_fill_the_slot_of_their_run(engine: AsyncEngine, rest: Rest) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate)
    rest.clock.shown = BEGIN + dt.timedelta(minutes=1)
    organization = str(estate.organization)
    task = {
        "name": "volume",
        "schedule": "hourly",
        "run_offset_seconds": 300,
        "meter_execution_type": "generic_lis200",
        "task_call": "read_single_value",
        "task_kwargs": {"address": "2:300"},
    }
    made = (await rest.post("/v1/metering/amr-tasks", organization=organization, **task))["id"]
    await rest.patch(f"/v1/metering/meter-devices/{estate.meters['M1']}", meter_tasks=[made])
    await work_off(engine, rest.clock.now())
    # What ran at 05:05 ended later; nothing is expected of the time before the task was there.
    late = dt.timedelta(minutes=7, seconds=3, milliseconds=210)
    hours = [hour for hour in range(24) if hour != 9]
    await put(engine, *(arrival(estate, BEGIN + hour * HOUR + late, series="2:300") for hour in hours))
    await catch_up(engine, NOW)
    tick = BEGIN + 9 * HOUR + dt.timedelta(minutes=5)
    assert await missing(engine, estate) == [(tick, tick, 1)]
    first = (await rest.get(f"/v1/metering/meter-readings?meter_device={estate.meters['M1']}&limit=1"))["results"][0]
    await rest.call("DELETE", f"/v1/metering/meter-readings/{first['id']}", status=204)
    await catch_up(engine, NOW)
    assert [count for _, _, count in await missing(engine, estate)] == [1, 1]
    await rest.patch(f"/v1/metering/amr-tasks/{made}", is_active=False)
    await work_off(engine)
    assert [count for _, _, count in await missing(engine, estate)] == [1, 1]


@pytest.mark.parametrize("begin", [dt.datetime(2026, 3, 29, tzinfo=dt.UTC), dt.datetime(2026, 10, 25, tzinfo=dt.UTC)])
async def test_days_of_23_and_25_hours_are_days(engine: AsyncEngine, begin: dt.datetime) -> None:
    estate = await make_estate(engine)
    told: list[dict[str, object]] = [
        {"series": SERIES, "interval": "gas_day"},
        {"series": "2:300", "interval": "hour"},
    ]
    await expect(engine, estate, *told, commissioned=begin - 100 * HOUR)
    async with reading(engine) as session:
        found = await missing_spans(session, [estate.meters["M1"]], begin, begin + 48 * HOUR, NOW)
    assert sorted(one.count for one in found) == [2, 48]


async def test_what_is_settled_as_lost_is_not_missing_until_the_raster_says_otherwise(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    for _ in range(2):
        async with writing(engine) as session:
            ends = BEGIN + 2 * HOUR, BEGIN + 5 * HOUR
            made = await settle(
                session, estate.meters["M1"], estate.series[SERIES], *ends, evidence="#0103: empty", now=NOW
            )
            assert made == 1
    assert await missing(engine, estate) == [(BEGIN, BEGIN + HOUR, 2), (BEGIN + 6 * HOUR, BEGIN + 23 * HOUR, 18)]
    async with reading(engine) as session:
        rows = await session.scalar(sa.select(sa.func.count()).select_from(models.LedgerSettled))
    assert rows == 1


async def test_a_deleted_meter_leaves_nothing(engine: AsyncEngine, rest: Rest) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    await put(engine, arrival(estate, BEGIN))
    await work_off(engine)
    await put(engine, arrival(estate, BEGIN + HOUR))
    await rest.call("DELETE", f"/v1/metering/meter-devices/{estate.meters['M1']}?with_readings=true", status=204)
    await work_off(engine)
    async with reading(engine) as session:
        left = await session.scalars(
            sa.select(models.Expectation.device)
            .join(models.LedgerChunk, models.LedgerChunk.expectation == models.Expectation.id)
            .distinct()
        )
        assert left.all() == [estate.meters["M2"]]
        waiting = await session.scalars(sa.select(models.LedgerPending.id))
        assert waiting.all() == []


async def test_a_clerk_folds_what_comes_beside_it(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    clerk = asyncio.create_task(keep_ledger(engine, Clock()))
    try:
        async with asyncio.timeout(20):
            await put(engine, *(arrival(estate, BEGIN + hour * HOUR) for hour in range(24)))
            while await missing(engine, estate):  # noqa: ASYNC110 - what it waits for is in the database
                await asyncio.sleep(0.05)
    finally:
        clerk.cancel()
        await asyncio.gather(clerk, return_exceptions=True)


@pytest.fixture(scope="module")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return asyncio.run(new_sqlite(tmp_path_factory.mktemp("ledger") / "hub.db"))


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["store", "store", "store", "delete", "clerk", "rebuild", "commission", "end", "raster", "leave", "come"]
        ),
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_STEPS)
def test_however_it_came_about_it_is_what_a_rebuild_makes(sqlite_url: str, steps: list[tuple[str, int]]) -> None:
    asyncio.run(_play(sqlite_url, steps, 1))


async def _play(url: str, steps: list[tuple[str, int]], clerks: int) -> None:
    engine = create_engine(url)
    try:
        await _play_on(engine, steps, clerks)
    finally:
        await engine.dispose()


async def _play_on(engine: AsyncEngine, steps: list[tuple[str, int]], clerks: int) -> None:
    """Do the steps, some twice, with clerks beside them; then compare with the readings and with a rebuild."""
    estate = await make_estate(engine, gateway_id=f"gw-{uuid.uuid4().hex}", meters=("M1", "M2", "M3"))
    await expect(engine, estate, {"series": SERIES, "interval": "hour"}, {"series": "2:300", "interval": "gas_day"})
    done = asyncio.Event()

    async def clerk() -> None:
        while not done.is_set():
            await keep_some(engine, NOW)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(clerks):
            group.create_task(clerk())
        for what, number in steps:
            await _step(engine, estate, what, number)
        done.set()
    await catch_up(engine, NOW)
    await work_off(engine)
    assert await agrees(engine, estate)
    before = await _all_bits(engine, estate)
    async with writing(engine) as session:
        await ask_for_rebuild(session, estate.meters.values())
    await work_off(engine)
    assert await agrees(engine, estate)
    assert await _all_bits(engine, estate) == before


async def _step(engine: AsyncEngine, estate: Estate, what: str, number: int) -> None:
    at = BEGIN + dt.timedelta(minutes=30 * number)
    if what == "store":
        late = [arrival(estate, at), arrival(estate, at + HOUR, series="2:300"), arrival(estate, at, str(number))]
        await put(engine, *late, arrival(estate, at, meter="M2"), arrival(estate, at - 60 * HOUR, meter="M3"))
    elif what == "delete":
        async with writing(engine) as session:
            # What deleting a reading over REST does.
            key = (estate.meters["M1"], estate.series[SERIES], at)
            gone = False
            for model in (models.ReadingVersion, models.Reading):
                columns = (model.meter_device, model.series, model.timestamp)
                conditions = [column == part for column, part in zip(columns, key, strict=True)]
                rows = await session.execute(sa.delete(model).where(*conditions).returning(model.id))
                gone = rows.first() is not None
            if gone:
                await note(session, [(key[0].int, key[1].int, at)], removed=True)
    elif what == "clerk":
        await keep_some(engine, NOW)
    elif what == "rebuild":
        async with writing(engine) as session:
            await ask_for_rebuild(session, estate.meters.values())
    elif what == "leave":
        # As with a meter that is deleted over REST: its expectations and chunks go with it.
        async with writing(engine) as session:
            await session.execute(sa.delete(models.Reading).where(models.Reading.meter_device == estate.meters["M3"]))
            await session.execute(sa.delete(models.Expectation).where(models.Expectation.device == estate.meters["M3"]))
    else:
        await _edit(engine, estate, what, at - 240 * HOUR)


async def _edit(engine: AsyncEngine, estate: Estate, what: str, at: dt.datetime) -> None:
    """Change what is expected: since when, until when, on which raster, of whom."""
    meter = sa.update(models.MeterDevice).where(models.MeterDevice.id == estate.meters["M2"])
    async with writing(engine) as session:
        if what == "commission":
            await session.execute(meter.values(commissioned=at))
        elif what == "end":
            await session.execute(meter.values(decommissioned=at + 240 * HOUR))
        elif what == "raster":
            interval = "half_hour" if at.minute else "hour"
            told = [{"series": SERIES, "interval": interval, "anchor_seconds": None, "archive": 3}]
            config = sa.update(models.MeterDeviceConfig).where(models.MeterDeviceConfig.id == estate.config)
            await session.execute(config.values(expectations=told))
        await mark(session, models.MeterDeviceConfig, estate.config)


async def _all_bits(engine: AsyncEngine, estate: Estate) -> list[dict[int, int]]:
    async with reading(engine) as session:
        found = await expectations_of(session, estate.meters.values())
        bits = await bits_of(session, found)
    return [{chunk: number for chunk, number in bits[one.id].chunks.items() if number} for one in found]


async def test_several_clerks_at_once_make_one_ledger(engine: AsyncEngine) -> None:
    steps = [("store", number % 31) for number in range(40)] + [("delete", 4), ("store", 4), ("delete", 5)]
    await _play_on(engine, steps, 3)
