"""After migrations went both ways the hub goes on: what is derived from readings is made anew, on both databases."""

import datetime as dt
import decimal

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.database import reading, writing
from hub.expectations import mark
from hub.ledger import catch_up, keep_some
from hub.migrating import move
from hub.totals import Scope
from hub.totals_counted import count
from hub.versions import Arrival, store
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, Estate, make_estate

__all__ = ["database_url", "engine"]

SERIES = "7:310/3"
OLDEST = "0004"
"""Down to what the first gateways in the field were served by."""

HOURS = 24


def _differences(connection: Connection) -> list[object]:
    found = compare_metadata(MigrationContext.configure(connection), models.Base.metadata)
    # Partitions are tables of PostgreSQL alone.
    return [one for one in found if not (one[0] in {"remove_table", "remove_index"} and "readings_" in str(one[1]))]


async def _fill(engine: AsyncEngine) -> Estate:
    """Write rows of all that the versions after the oldest brought: expectations, chunks, sums, notes, flags."""
    estate = await make_estate(engine)
    async with writing(engine) as session:
        told = [{"series": SERIES, "interval": "hour", "anchor_seconds": None, "archive": 3}]
        await session.execute(sa.update(models.MeterDeviceConfig).values(expectations=told))
        await session.execute(sa.update(models.MeterDevice).values(commissioned=NOW - dt.timedelta(hours=HOURS - 1)))
        await mark(session, models.MeterDeviceConfig, estate.config)
    await _read(engine, estate, "M1", HOURS)
    while await keep_some(engine, NOW):
        pass
    # One note is left, and a chunk that is gone.
    await _read(engine, estate, "M2", 1)
    async with writing(engine) as session:
        await session.execute(sa.update(models.Reading).values(flags=1))
    return estate


async def _read(engine: AsyncEngine, estate: Estate, meter: str, hours: int) -> None:
    async with writing(engine) as session:
        arrivals = [
            Arrival(
                estate.organization,
                estate.meters[meter],
                estate.series[SERIES],
                NOW - dt.timedelta(hours=hour),
                decimal.Decimal(hour),
                NOW,
            )
            for hour in range(hours)
        ]
        await store(session, arrivals, NOW)


async def _stored(engine: AsyncEngine, estate: Estate) -> tuple[int, int]:
    await catch_up(engine, NOW)
    while await keep_some(engine, NOW):
        pass
    async with reading(engine) as session:
        window = NOW - dt.timedelta(hours=HOURS - 1), NOW + dt.timedelta(hours=1)
        found = await count(session, Scope(organization=estate.organization), *window, NOW)
    return found.expected, found.stored


async def test_the_ledger_is_made_anew_after_the_way_back_and_readings_stay(engine: AsyncEngine) -> None:
    estate = await _fill(engine)
    await move(engine, OLDEST)
    async with reading(engine) as session:
        assert await session.scalar(sa.text("SELECT count(*) FROM readings")) == HOURS + 1
    await move(engine)
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
    # What configs expected went with its column: said again, the ledger is made anew from the readings.
    async with writing(engine) as session:
        told = [{"series": SERIES, "interval": "hour", "anchor_seconds": None, "archive": 3}]
        await session.execute(sa.update(models.MeterDeviceConfig).values(expectations=told))
        await session.execute(sa.update(models.MeterDevice).values(commissioned=NOW - dt.timedelta(hours=HOURS - 1)))
        await mark(session, models.MeterDeviceConfig, estate.config)
    assert await _stored(engine, estate) == (2 * HOURS, HOURS + 1)


async def test_the_sums_of_a_ledger_that_is_there_are_made_by_the_migration(engine: AsyncEngine) -> None:
    estate = await _fill(engine)
    assert await _stored(engine, estate) == (2 * HOURS, HOURS + 1)
    await move(engine, "0013")
    await move(engine)
    async with reading(engine) as session:
        sums = (await session.execute(sa.select(models.LedgerSum.chunks, models.LedgerSum.everyone))).all()
    assert [tuple(one) for one in sums] == [(2, False)]
    assert await _stored(engine, estate) == (2 * HOURS, HOURS + 1)
