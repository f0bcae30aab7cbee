"""Retention on PostgreSQL: months that are older than all that keep them are dropped, the others lose rows."""

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import retention_months
from hub.database import reading
from hub.models import AuditEntry
from hub.months import partitions
from hub.partitions import make_partitions
from hub.retention_sweep import sweep
from tests.hub.test_retention import DAY, HOUR, PATH, READINGS, count_of, expect_hours, missing, push
from tests.parts.databases import drop_postgresql, engine, new_postgresql
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest"]

JANUARY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FEBRUARY = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)


@pytest.fixture
async def database_url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Return the URL of an empty PostgreSQL; who is refused a lock asks again at once."""
    monkeypatch.setattr(retention_months, "AGAIN_SECONDS", 0.02)
    name, url = await new_postgresql()
    yield url
    await drop_postgresql(name)


async def fill(rest: Rest, engine: AsyncEngine, fleet: Fleet, since: dt.datetime) -> int:
    """Have readings twice a day until now, in months of their own; return how many."""
    count = await push(rest, fleet, since, rest.clock.now(), 12 * HOUR)
    await make_partitions(engine, rest.clock.now())
    return count


async def months(engine: AsyncEngine) -> list[str]:
    """Which months up to now there are."""
    async with reading(engine) as session:
        return [one.month.table for one in await partitions(session) if one.month.table <= "readings_2026_03"]


async def versions_of(engine: AsyncEngine) -> int:
    """How many versions there are."""
    async with reading(engine) as session:
        return await session.scalar(sa.text("SELECT count(*) FROM reading_versions")) or 0


async def revise(rest: Rest, fleet: Fleet, at: dt.datetime, value: str = "2") -> None:
    """Give a reading another value."""
    rest.clock.advance(seconds=1)
    told = {"organization": fleet.organization, "meter_device": fleet.meter, "series": fleet.series}
    await rest.post(READINGS, **told, timestamp=at.isoformat(), value=value)


async def test_months_that_nobody_keeps_are_dropped(rest: Rest, engine: AsyncEngine) -> None:
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    begin = dt.datetime(2025, 11, 10, tzinfo=dt.UTC)
    await expect_hours(rest, fleet, FEBRUARY)
    await fill(rest, engine, fleet, begin)
    await push(rest, other, JANUARY, JANUARY + 5 * HOUR)
    for at in (begin, JANUARY, FEBRUARY):
        await revise(rest, fleet, at)
    assert await versions_of(engine) == 6
    now = rest.clock.now()
    assert now.date() == dt.date(2026, 3, 2)
    # The boundary is 10 February: three months go whole, and rows of the fourth.
    query = f"{PATH}/preview?readings_days=20"
    (nobody, first, second) = sorted(await rest.get(query), key=lambda one: str(one["name"] or ""))
    assert nobody["partitions"] == []
    told = {one["partition"]: one for one in second["partitions"] + first["partitions"]}
    assert sorted(told) == ["readings_2025_11", "readings_2025_12", "readings_2026_01"]
    assert [one["partition"] for one in first["partitions"]] == ["readings_2026_01"]
    assert told["readings_2025_12"]["end"] == "2026-01-01T00:00:00Z"
    assert told["readings_2025_12"]["bytes"] > 0
    assert told["readings_2025_12"]["rows_estimate"] in {None, 62}
    boundary = dt.datetime(2026, 2, 10, tzinfo=dt.UTC)
    older = (boundary - begin) // (12 * HOUR)
    assert (second["readings"]["count"], first["readings"]["count"]) == (older, 5)
    await rest.post(PATH, readings_days=20)
    assert (await sweep(engine, now))["readings"] == older + 5
    assert await months(engine) == ["readings_2026_02", "readings_2026_03"]
    assert await count_of(rest, READINGS) == (now - boundary) // (12 * HOUR)
    assert await versions_of(engine) == 0
    # Nothing of it is expected, and the ledger and its sums are those of the readings.
    expected, lacking = await missing(rest, engine, fleet)
    assert expected - lacking == await count_of(rest, READINGS)
    async with reading(engine) as session:
        notes = await session.scalars(sa.select(AuditEntry.after).where(AuditEntry.kind == "retention"))
        assert {note["partition"] for note in notes if note and "partition" in note} == set(told)
    assert (await sweep(engine, now))["readings"] == 0
    # What comes later of a month that is gone is taken, gets a month again, and goes when the boundary moves next.
    await push(rest, fleet, JANUARY, JANUARY + 3 * HOUR)
    await make_partitions(engine, now)
    assert (await sweep(engine, now))["readings"] == 0
    assert await count_of(rest, READINGS, "&end_time=2026-01-31T00:00:00Z") == 3
    rest.clock.advance(days=1)
    assert (await sweep(engine, rest.clock.now()))["readings"] == 5
    assert await months(engine) == ["readings_2026_02", "readings_2026_03"]


async def test_a_month_that_somebody_keeps_loses_the_rows_of_others(rest: Rest, engine: AsyncEngine) -> None:
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    count = await fill(rest, engine, fleet, JANUARY)
    await push(rest, other, JANUARY, JANUARY + 5 * HOUR)
    await rest.post(PATH, readings_days=20)
    longer = await rest.post(PATH, organization=other.organization, readings_days=400)
    assert [one["partitions"] for one in await rest.get(f"{PATH}/preview")] == [[], [], []]
    gone = (await sweep(engine, rest.clock.now()))["readings"]
    assert gone == (dt.datetime(2026, 2, 10, tzinfo=dt.UTC) - JANUARY) // (12 * HOUR)
    assert await months(engine) == ["readings_2026_01", "readings_2026_02", "readings_2026_03"]
    assert await count_of(rest, READINGS) == count - gone + 5
    # The day that it keeps them no longer, the month goes; so does an empty one.
    await rest.patch(f"{PATH}/{longer['id']}", readings_days=20)
    assert (await sweep(engine, rest.clock.now()))["readings"] == 5
    assert await months(engine) == ["readings_2026_02", "readings_2026_03"]


async def test_by_whole_months_no_row_is_deleted(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    count = await fill(rest, engine, fleet, JANUARY)
    policy = await rest.post(PATH, readings_days=20, readings_whole_months=True)
    assert policy["readings_whole_months"] is True
    (_, told) = await rest.get(f"{PATH}/preview")
    assert (told["readings"]["before"], told["readings"]["count"]) == ("2026-02-01T00:00:00Z", 62)
    assert [one["partition"] for one in told["partitions"]] == ["readings_2026_01"]
    (_, told) = await rest.get(f"{PATH}/preview?readings_days=1")
    assert told["readings"]["before"] == "2026-03-01T00:00:00Z"
    assert (await sweep(engine, rest.clock.now()))["readings"] == 62
    assert await count_of(rest, READINGS) == count - 62
    rest.clock.advance(days=18)
    assert (await sweep(engine, rest.clock.now()))["readings"] == 0
    rest.clock.advance(days=1)
    assert (await sweep(engine, rest.clock.now()))["readings"] == 56
    assert await months(engine) == ["readings_2026_03"]


async def test_readings_arrive_while_their_months_are_dropped(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    begin = dt.datetime(2025, 9, 1, tzinfo=dt.UTC)
    await fill(rest, engine, fleet, begin)
    await rest.post(PATH, readings_days=20)
    ended = asyncio.Event()

    async def ingest() -> int:
        number = 0
        while not ended.is_set() or number < 20:
            # Today's, and again some of the months that go, with another value: no delivery fails.
            await push(rest, fleet, rest.clock.now() + number * HOUR / 60, rest.clock.now() + (number + 1) * HOUR / 60)
            await revise(rest, fleet, begin + (number % 150) * DAY, str(number + 3))
            number += 1
        return number

    ingesting = asyncio.create_task(ingest())
    while await months(engine) != ["readings_2026_02", "readings_2026_03"]:
        await sweep(engine, rest.clock.now())
        rest.clock.advance(days=1)
    ended.set()
    await ingesting
    # All that is left of before is what came again; it goes when the boundary moves, and leaves no versions.
    rest.clock.advance(days=1)
    await sweep(engine, rest.clock.now())
    await make_partitions(engine, rest.clock.now())
    assert await count_of(rest, READINGS, "&end_time=2026-01-31T00:00:00Z") == 0
    assert await versions_of(engine) == 0


async def test_who_keeps_longer_and_comes_meanwhile_keeps_the_month(rest: Rest, engine: AsyncEngine) -> None:
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    count = await fill(rest, engine, fleet, JANUARY)
    await rest.post(PATH, readings_days=20)
    await rest.post(PATH, organization=other.organization)
    insert = sa.text(
        "INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected, "
        "version_count, created_at) SELECT :organization, :device, :series, :at, 1, '', 'meter', :at, 1, :at"
    )
    async with engine.begin() as arriving:
        values = {"organization": other.organization, "device": other.meter, "series": other.series}
        await arriving.execute(insert, {key: uuid.UUID(value) for key, value in values.items()} | {"at": JANUARY})
        # It has looked, and waits for the lock that this transaction has.
        sweeping = asyncio.create_task(sweep(engine, rest.clock.now()))
        await asyncio.sleep(0.6)
        assert not sweeping.done()
    gone = (await sweeping)["readings"]
    assert await months(engine) == ["readings_2026_01", "readings_2026_02", "readings_2026_03"]
    assert await count_of(rest, READINGS) == count - gone + 1


async def test_a_long_query_has_its_month_go_later(
    rest: Rest, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_months, "TRIES", 3)
    fleet = await create_fleet(rest)
    count = await fill(rest, engine, fleet, JANUARY)
    await rest.post(PATH, readings_days=20)
    async with engine.connect() as export:
        await export.execute(sa.text("SELECT count(*) FROM readings"))
        assert (await sweep(engine, rest.clock.now()))["readings"] == 0
        assert await count_of(rest, READINGS) == count
    assert (await sweep(engine, rest.clock.now()))["readings"] > 62
    assert await months(engine) == ["readings_2026_02", "readings_2026_03"]
