"""Migrations go both ways, on both databases, with rows in the tables: what a version brought goes, readings stay."""

import datetime as dt
import decimal

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.database import MIGRATIONS, reading, writing
from hub.expectations import mark
from hub.ledger import catch_up, keep_some
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


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _down(connection: Connection, version: str) -> None:
    command.downgrade(_config(connection), version)


def _up(connection: Connection, version: str) -> None:
    command.upgrade(_config(connection), version)


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


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


async def test_each_version_goes_down_and_up_again_and_readings_stay(engine: AsyncEngine) -> None:
    estate = await _fill(engine)
    async with engine.begin() as connection:
        script = ScriptDirectory(str(MIGRATIONS))
        versions = [one.revision for one in script.walk_revisions(OLDEST, "head")]
        for version in versions[1:]:
            await connection.run_sync(_down, version)
            assert await connection.run_sync(_revision) == version
            assert await connection.scalar(sa.text("SELECT count(*) FROM readings")) == HOURS + 1
        for version in reversed(versions[:-1]):
            await connection.run_sync(_up, version)
        assert await connection.run_sync(_differences) == []
        assert await connection.scalar(sa.text("SELECT count(*) FROM readings")) == HOURS + 1
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
    async with engine.begin() as connection:
        before = await connection.run_sync(_revision)
        await connection.run_sync(_down, "0013")
        await connection.run_sync(_up, before or "head")
        sums = (await connection.execute(sa.select(models.LedgerSum.chunks, models.LedgerSum.everyone))).all()
        assert [tuple(one) for one in sums] == [(2, False)]
    assert await _stored(engine, estate) == (2 * HOURS, HOURS + 1)
