"""What keeps the database in order beside ingestion: adoption, partitions ahead of need, what may be forgotten.

Every relay runs it; all of it is idempotent, and what must not be done twice at once is guarded by the database.
"""

import asyncio
import contextlib
import datetime as dt

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import adoption, retention_sweep
from hub.clocks import Clock
from hub.database import reading, writing
from hub.models import Quarantined, StagedReading
from hub.undecodable_pushes import forget_oldest

SWEEP_SECONDS = 2.0
"""Real seconds between two sweeps over staged readings, while there are any."""

ORDER_SECONDS = 600.0
"""Real seconds between two looks at partitions, at what may be forgotten, and at staged rows that are there twice."""

MONTHS_AHEAD = 3
REPLAYED_DAYS = 30
"""How long a quarantined payload is kept after it was replayed."""

_LOCK = 0x6D617274
"""PostgreSQL advisory lock: one process makes partitions at a time."""

_log = structlog.get_logger(__name__)


async def maintain(engine: AsyncEngine, clock: Clock, adopt: asyncio.Event) -> None:
    """Keep order for ever; ``adopt`` asks for a sweep at once."""
    next_order = clock.monotonic()
    while True:
        if clock.monotonic() >= next_order:
            await make_partitions(engine, clock.now())
            await forget(engine, clock.now())
            await retention_sweep.sweep(engine, clock.now())
            if dropped := await adoption.drop_repeated(engine):
                _log.info("repeated_dropped", count=dropped)
            next_order = clock.monotonic() + ORDER_SECONDS
        async with reading(engine) as session:
            staged = (await session.execute(sa.select(StagedReading.id).limit(1))).first() is not None
        if staged:
            adopted = await adoption.sweep(engine, clock.now())
            if adopted:
                _log.info("readings_adopted", count=adopted)
        with contextlib.suppress(TimeoutError):
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with what it waits for.
            async with asyncio.timeout(SWEEP_SECONDS):
                await adopt.wait()
        # Sweeps that are asked for in quick succession become one.
        await asyncio.sleep(SWEEP_SECONDS / 10)
        adopt.clear()


async def forget(engine: AsyncEngine, now: dt.datetime) -> None:
    """Delete what has done its service: quarantined payloads replayed long ago, old ones of what was pushed in vain."""
    async with writing(engine) as session:
        await session.execute(
            sa.delete(Quarantined)
            .where(Quarantined.replayed_at < now - dt.timedelta(days=REPLAYED_DAYS))
            .execution_options(synchronize_session=False)
        )
        await forget_oldest(session)


async def make_partitions(engine: AsyncEngine, now: dt.datetime) -> list[str]:
    """Make the months ahead on PostgreSQL, and those that the default partition has rows of; return the new ones."""
    if engine.dialect.name != "postgresql":
        return []
    wanted = {_month(now, step) for step in range(MONTHS_AHEAD + 1)}
    made = []
    async with reading(engine) as session:
        rows = await session.execute(
            sa.text("SELECT DISTINCT date_trunc('month', timestamp AT TIME ZONE 'UTC') FROM readings_default")
        )
        wanted |= {month.replace(tzinfo=dt.UTC) for (month,) in rows}
        names = await session.execute(
            sa.text(
                "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
                "WHERE i.inhparent = 'readings'::regclass"
            )
        )
        present = set(names.scalars())
    for month in sorted(wanted):
        if partition_name(month) in present:
            continue
        async with writing(engine) as session:
            if await _make_partition(session, month):
                made.append(partition_name(month))
                _log.info("partition_made", partition=partition_name(month))
    return made


def partition_name(month: dt.datetime) -> str:
    """Name the partition of the month."""
    return f"readings_{month:%Y_%m}"


def _month(instant: dt.datetime, step: int) -> dt.datetime:
    year, month = divmod(instant.year * 12 + instant.month - 1 + step, 12)
    return dt.datetime(year, month + 1, 1, tzinfo=dt.UTC)


async def _make_partition(session: AsyncSession, month: dt.datetime) -> bool:
    """Make one month's partition, with the rows that the default partition holds of it."""
    name = partition_name(month)
    if not await session.scalar(sa.text(f"SELECT pg_try_advisory_xact_lock({_LOCK})")):
        return False
    if await session.scalar(sa.text("SELECT to_regclass(:name)"), {"name": name}) is not None:
        return False
    bounds = f"'{month:%Y-%m-%d} 00:00:00+00'", f"'{_month(month, 1):%Y-%m-%d} 00:00:00+00'"
    within = f"timestamp >= {bounds[0]} AND timestamp < {bounds[1]}"
    for statement in (
        # In the order in which ingestion takes them, and never waited for long: there is a next time.
        "SET LOCAL lock_timeout = '5s'",
        "LOCK TABLE organizations, meter_devices, meter_reading_series, batches IN SHARE ROW EXCLUSIVE MODE",
        # So that no row of the month comes into the default partition between moving and attaching.
        "LOCK TABLE readings_default IN ACCESS EXCLUSIVE MODE",
        f"CREATE TABLE {name} (LIKE readings INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
        f"WITH moved AS (DELETE FROM readings_default WHERE {within} RETURNING *) INSERT INTO {name} SELECT * FROM moved",  # noqa: S608, E501 - our own names
        f"ALTER TABLE readings ATTACH PARTITION {name} FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]})",
    ):
        await session.execute(sa.text(statement))
    return True
