"""Retention by months, on PostgreSQL: what is older than all policies that hold for it goes with its partition.

A month is dropped when all organizations that have readings in it keep none of it. One that keeps longer has its rows
there: then the others' are deleted, by ``hub.retention_sweep``. Rows of what was dropped need no vacuum, and their
place on the disk is free at once.

Rules:
- Before, nothing of the month is expected any more (that is ``hub.retention_sweep``'s), and after it nothing is left of
  its readings: versions of them go in slices before, and the last ones in the transaction of the drop.
- Who has readings in a month is asked again under the lock: what came meanwhile of one that keeps longer keeps it.
- Where the lock is not to be had, by a long query or pg_dump, nothing else is deleted instead: it is for the next turn.
"""

import asyncio
import dataclasses
import datetime as dt
import secrets
import uuid
from collections.abc import Mapping

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import audit
from hub.database import reading, writing
from hub.models import ReadingVersion
from hub.months import Month, is_refused, is_table, lock_readings, partitions, run, take_turn

AGAIN_SECONDS = 1.0
"""Real seconds, on average, until a lock that was refused is asked for again."""

TRIES = 20
ROWS = 2000
"""Readings with several versions that are deleted in one transaction."""

_log = structlog.get_logger(__name__)


class GoingMonth(msgspec.Struct, kw_only=True):
    """A partition that goes whole, with the readings of all organizations in it.

    ``rows_estimate`` is the database's own estimate of all of them (null: it has none yet), ``bytes`` what is freed.
    """

    partition: str
    start: dt.datetime
    end: dt.datetime
    rows_estimate: int | None
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Dropped:
    """How many readings went with their months; ``refused`` when a month could not be dropped now."""

    readings: int = 0
    refused: bool = False


async def going_months(
    session: AsyncSession, before: Mapping[uuid.UUID, dt.datetime]
) -> list[tuple[GoingMonth, set[uuid.UUID]]]:
    """Return the months that go whole, with whose readings they have; of each organization goes what is before this."""
    if session.get_bind().dialect.name != "postgresql" or not before:
        return []
    newest = max(before.values())
    found = []
    for one in await partitions(session):
        month = one.month
        if month.end <= newest and _all_go(whose := await _organizations(session, month), month, before):
            told = GoingMonth(
                partition=month.table, start=month.start, end=month.end, rows_estimate=one.rows, bytes=one.bytes
            )
            found.append((told, whose))
    return found


async def drop_months(engine: AsyncEngine, before: Mapping[uuid.UUID, dt.datetime], now: dt.datetime) -> Dropped:
    """Drop the months that go whole, oldest first."""
    async with reading(engine) as session:
        going = await going_months(session, before)
    readings = 0
    for told, _ in going:
        month = Month.of(told.start)
        readings += await _delete_versions(engine, month)
        async with reading(engine) as session:
            rows = await session.scalar(sa.text(f"SELECT count(*) FROM {month.table}")) or 0  # noqa: S608 - our own name
        for refused in range(TRIES):
            if (dropped := await _drop(engine, month, before, now, refused)) is not None:
                break
            await asyncio.sleep(AGAIN_SECONDS * secrets.randbelow(2000) / 1000)
        else:
            _log.warning("partitions_in_use", tried=TRIES, partition=month.table)
            return Dropped(readings, refused=True)
        if dropped:
            _log.info("partition_dropped", partition=month.table, readings=rows)
            readings += rows
    return Dropped(readings)


def _all_go(whose: set[uuid.UUID], month: Month, before: Mapping[uuid.UUID, dt.datetime]) -> bool:
    return all(one in before and month.end <= before[one] for one in whose)


async def _organizations(session: AsyncSession, month: Month) -> set[uuid.UUID]:
    """Return whose readings a month has: its index is asked once for each, however many readings there are."""
    table = month.table
    rows = await session.scalars(
        sa.text(f"""
            WITH RECURSIVE found AS (
                (SELECT organization FROM {table} ORDER BY organization LIMIT 1)
                UNION ALL
                SELECT (SELECT organization FROM {table} WHERE organization > found.organization
                        ORDER BY organization LIMIT 1)
                FROM found WHERE organization IS NOT NULL
            ) SELECT organization FROM found WHERE organization IS NOT NULL
        """).columns(sa.column("organization", sa.Uuid))  # noqa: S608 - our own name
    )
    return set(rows)


async def _delete_versions(engine: AsyncEngine, month: Month) -> int:
    """Delete the readings of a month that have several versions, with these; return how many they were."""
    same = "{0}.meter_device = k.meter_device AND {0}.series = k.series AND {0}.timestamp = k.timestamp"
    statement = sa.text(f"""
        WITH k AS MATERIALIZED (
            SELECT DISTINCT meter_device, series, timestamp FROM reading_versions
            WHERE timestamp >= :start AND timestamp < :end LIMIT :rows
        ), readings_gone AS (DELETE FROM {month.table} r USING k WHERE {same.format("r")} RETURNING 1),
        versions_gone AS (DELETE FROM reading_versions v USING k WHERE {same.format("v")} RETURNING 1)
        SELECT (SELECT count(*) FROM readings_gone), (SELECT count(*) FROM versions_gone)
    """)  # noqa: S608 - our own names
    readings: int = 0
    while True:
        async with writing(engine) as session:
            some, versions = (
                await session.execute(statement, {"start": month.start, "end": month.end, "rows": ROWS})
            ).one()
        readings += int(some)
        if not versions:
            return readings


async def _drop(
    engine: AsyncEngine, month: Month, before: Mapping[uuid.UUID, dt.datetime], now: dt.datetime, refused: int
) -> bool | None:
    """Drop one month; return whether it is gone now by us, None when a lock was not to be had."""
    try:
        async with audit.changing(engine, audit.the_hub("retention"), now) as session:
            if not await take_turn(session, refused):
                return None
            await lock_readings(session)
            if not await is_table(session, month.table):
                return False
            whose = await _organizations(session, month)
            if not _all_go(whose, month, before):
                return False
            if whose:
                for organization in sorted(whose):
                    told = {"before": before[organization], "of": "readings", "partition": month.table}
                    audit.note(session, audit.DELETE, "retention", None, organization, after=told)
            else:
                audit.note_nothing(session)
            version = ReadingVersion.timestamp
            await session.execute(
                sa.delete(ReadingVersion)
                .where(version >= month.start, version < month.end)
                .execution_options(synchronize_session=False)
            )
            await run(session, f"DROP TABLE {month.table}")
    except DBAPIError as error:
        if is_refused(error):
            return None
        raise
    return True
