"""What the database says of the whole hub, read for ``/metrics``, ``/health`` and the doctor in a few cheap statements.

Rules:
- Nothing here grows with the readings: beyond ``COUNTED_TO`` rows PostgreSQL is asked what it estimates. SQLite has no
  estimate and counts, so what was found serves ``AGAIN`` times as long as it took to find it; those who ask at once
  share one answer. So asking often, which everybody may, costs a small part of the database.
- Nothing by gateway, meter or customer: one figure each for the hub, however many gateways it has.
"""

import asyncio
import dataclasses
import datetime as dt
import os
import time
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.clocks import Clock
from hub.database import reading
from hub.models import (
    Backfill,
    Base,
    Command,
    Gateway,
    LedgerPending,
    LossRecord,
    Quarantined,
    Reading,
    StagedReading,
    UnjudgedReadings,
)
from hub.months import DEFAULT, Month
from hub.rivals import conflict_of
from protocol.commands import FINAL_STATES

FIGURES: Final[Mapping[str, str]] = {
    "gateways": "Gateways known",
    "gateways_online": "Gateways online",
    "gateways_out_of_step": "Gateways that do not run their newest plan",
    "gateway_plan_oldest_seconds": "Since when, at most, a gateway that is online does not run its newest plan",
    "gateway_outbox_rows": "Rows that wait on gateways for a receipt",
    "gateway_outbox_oldest_seconds": (
        "Age of the oldest row that waits on a gateway for a receipt, as of its last life sign"
    ),
    "gateways_in_conflict": "Gateways whose id a second agent uses",
    "gateways_clock_doubted": "Gateways that do not believe their clock and run nothing",
    "readings": "Readings stored; on PostgreSQL, beyond some thousands, as the database estimates",
    "staged_readings": "Readings that wait for a reason to go; counted as the readings are",
    "quarantined": "Payloads that could not be read",
    "lost_readings": "Readings that gateways had to give up",
    "open_commands": "Commands that have not ended",
    "backfills_open": "Gaps that are being closed",
    "backfill_line_seconds": "Line time that the gaps which are being closed will take",
    "ledger_notes": "Transactions whose readings are not in the ledger yet, 10,001 at most",
    "ledger_behind_seconds": "For how long the oldest of them has waited, as far as this process has seen",
    "unjudged_notes": "Transactions whose readings validation has not judged yet, 10,001 at most",
    "unjudged_behind_seconds": "For how long the oldest of them has waited, as far as this process has seen",
    "database_bytes": "Size of the database",
    "database_disk_free_bytes": "Room on the disk of the database; only where this process sees it, on SQLite",
}
"""The figures of the whole hub, with what they say; on the page each has ``metergate_`` before it."""

COUNTED_TO = 10_000
"""Rows that are counted; of more tables' sizes PostgreSQL's estimate is told."""

AGAIN = 20.0
LONGEST_SECONDS = 60.0
"""How many times as long as it took what was found serves, but not longer than this (real seconds)."""

_SAMPLES = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What was found: ``figures`` by the names of ``FIGURES``, and of the database itself what health depends on."""

    figures: dict[str, float]
    schema: str = ""
    """The schema that the database has."""
    standby: bool = False
    """Whether this PostgreSQL takes no writes."""
    careless: tuple[str, ...] = ()
    """Settings of PostgreSQL that are off, and without which a crash loses what was committed."""
    clock_seconds: float = 0.0
    """How far the database's clock is ahead of this process's."""
    default_seconds: float = 0.0
    """For how long readings lie in the partition for what has no month, as far as this process has seen."""
    next_month: bool = True
    """Whether the next month's partition is there."""
    lacking_seconds: float = 0.0
    """For how long it is not, as far as this process has seen."""


class _Behind:
    """Since when the oldest note waits: notes have numbers and no times, so it is what this process saw of them."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=_SAMPLES)

    def seconds(self, now: float, first: int | None, last: int | None) -> float:
        """Take the smallest and largest number that are there; return since when the smallest was, at least."""
        if first is None or last is None:
            self._seen.clear()
            return 0.0
        while self._seen and self._seen[0][1] < first:
            self._seen.popleft()
        if not self._seen or self._seen[-1][1] < last:
            self._seen.append((now, last))
        return now - self._seen[0][0]


class _Finder:
    """What one process finds in its database, and found last."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._found: Found | None = None
        self._until = 0.0
        self._ledger, self._unjudged, self._default, self._month = _Behind(), _Behind(), _Behind(), _Behind()

    async def find(self, engine: AsyncEngine, clock: Clock) -> Found:
        """Return what was found a moment ago, or look."""
        async with self._turn:
            begun = time.monotonic()
            if self._found is not None and begun < self._until:
                return self._found
            self._found = await self._look(engine, clock.now())
            took = time.monotonic() - begun
            self._until = begun + took + min(AGAIN * took, LONGEST_SECONDS)
            return self._found

    async def _look(self, engine: AsyncEngine, now: dt.datetime) -> Found:
        async with reading(engine) as session:
            figures = await _gateways(session, now)
            figures["readings"] = await _size(session, Reading)
            figures["staged_readings"] = await _size(session, StagedReading)
            figures |= await _sums(session)
            seen = time.monotonic()
            for name, model, behind in (
                ("ledger", LedgerPending, self._ledger),
                ("unjudged", UnjudgedReadings, self._unjudged),
            ):
                count = await session.scalar(_counted(model))
                first, last = (await session.execute(select(func.min(model.id), func.max(model.id)))).one()
                figures[f"{name}_notes"] = float(count or 0)
                figures[f"{name}_behind_seconds"] = behind.seconds(seen, first, last)
            if engine.dialect.name == "sqlite":
                return await _of_sqlite(engine, session, figures)
            return await _of_postgresql(session, figures, now, self._default, self._month)


_finders: weakref.WeakKeyDictionary[AsyncEngine, _Finder] = weakref.WeakKeyDictionary()


async def find(engine: AsyncEngine, clock: Clock) -> Found:
    """Return what there is in a process's database, as new as it is worth.

    Raises:
        SQLAlchemyError, OSError: when the database does not answer.
    """
    return await _finders.setdefault(engine, _Finder()).find(engine, clock)


async def _gateways(session: AsyncSession, now: dt.datetime) -> dict[str, float]:
    behind = Gateway.desired_revision != Gateway.applied_revision
    row = (
        await session.execute(
            select(
                func.count(),
                func.count().filter(Gateway.online),
                func.count().filter(behind),
                func.min(Gateway.desired_at).filter(behind, Gateway.online),
                func.coalesce(func.sum(Gateway.depth), 0),
                func.min(Gateway.oldest).filter(Gateway.depth > 0),
                func.count().filter(Gateway.clock_believed.is_(False)),
            )
        )
    ).one()
    known, online, out_of_step, planned, depth, oldest, doubted = row
    rivalled = (await session.scalars(select(Gateway).where(Gateway.rival_at.is_not(None)))).all()

    def age(instant: dt.datetime | None) -> float:
        return max(0.0, (now - instant).total_seconds()) if instant is not None else 0.0

    return {
        "gateways": known,
        "gateways_online": online,
        "gateways_out_of_step": out_of_step,
        "gateway_plan_oldest_seconds": age(planned),
        "gateway_outbox_rows": float(depth),
        "gateway_outbox_oldest_seconds": age(oldest),
        "gateways_in_conflict": sum(bool(conflict_of(gateway)) for gateway in rivalled),
        "gateways_clock_doubted": doubted,
    }


async def _sums(session: AsyncSession) -> dict[str, float]:
    """Return what is counted of tables that stay small."""
    row = (
        await session.execute(
            select(
                select(func.count())
                .select_from(Quarantined)
                .where(Quarantined.replayed_at.is_(None))
                .scalar_subquery(),
                select(func.coalesce(func.sum(LossRecord.count), 0)).scalar_subquery(),
                select(func.count()).select_from(Command).where(Command.state.not_in(FINAL_STATES)).scalar_subquery(),
                select(func.count()).select_from(Backfill).where(Backfill.ended_at.is_(None)).scalar_subquery(),
                select(func.coalesce(func.sum(Backfill.cost_seconds), 0))
                .where(Backfill.ended_at.is_(None))
                .scalar_subquery(),
            )
        )
    ).one()
    names = ("quarantined", "lost_readings", "open_commands", "backfills_open", "backfill_line_seconds")
    return {name: float(value) for name, value in zip(names, row, strict=True)}


def _counted(model: type[Base]) -> sa.Select[int]:
    some = select(sa.literal(1)).select_from(model).limit(COUNTED_TO + 1).subquery()
    return select(func.count()).select_from(some)


async def _size(session: AsyncSession, model: type[Base]) -> float:
    """Return how many rows a table has: counted, or of a large one on PostgreSQL its own estimate."""
    if session.get_bind().dialect.name == "sqlite":
        return float(await session.scalar(select(func.count()).select_from(model)) or 0)
    counted = float(await session.scalar(_counted(model)) or 0)
    if counted <= COUNTED_TO:
        return counted
    estimate = sa.text(
        "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0) FROM pg_class c WHERE c.oid = CAST(:name AS regclass) "
        "OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = CAST(:name AS regclass))"
    )
    return max(float(counted), float(await session.scalar(estimate, {"name": model.__tablename__}) or 0))


async def _of_sqlite(engine: AsyncEngine, session: AsyncSession, figures: dict[str, float]) -> Found:
    path = Path(engine.url.database or "")
    room = await asyncio.to_thread(_room_of, path)
    if room is not None:
        figures["database_bytes"], figures["database_disk_free_bytes"] = room
    return Found(figures, schema=await _schema(session))


def _room_of(path: Path) -> tuple[int, int] | None:
    """Return the size of an SQLite database with its log, and the room beside it; None when it is no file."""
    try:
        place = os.statvfs(path.parent)
        files = [path, path.with_name(f"{path.name}-wal")]
        return sum(file.stat().st_size for file in files if file.exists()), place.f_bavail * place.f_frsize
    except OSError:
        return None


async def _of_postgresql(
    session: AsyncSession, figures: dict[str, float], now: dt.datetime, default: _Behind, month: _Behind
) -> Found:
    asked = time.time()
    row = (
        await session.execute(
            sa.text(
                "SELECT extract(epoch FROM clock_timestamp())::float8 AS clock, pg_is_in_recovery() AS standby, "
                "pg_database_size(current_database()) AS size, "
                "current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync, "
                "current_setting('full_page_writes') AS full_page_writes, to_regclass(:next) IS NOT NULL AS ahead"
            ),
            {"next": Month.of(now).later(1).table},
        )
    ).one()
    middle = (asked + time.time()) / 2
    late = await session.scalar(select(func.min(sa.column("id"))).select_from(sa.table(DEFAULT)))
    figures["database_bytes"] = row.size
    careless = [name for name in ("synchronous_commit", "fsync", "full_page_writes") if getattr(row, name) == "off"]
    return Found(
        figures,
        schema=await _schema(session),
        standby=row.standby,
        careless=tuple(careless),
        clock_seconds=row.clock - middle,
        default_seconds=default.seconds(time.monotonic(), late, late),
        next_month=row.ahead,
        lacking_seconds=month.seconds(time.monotonic(), *((None, None) if row.ahead else (1, 1))),
    )


async def _schema(session: AsyncSession) -> str:
    return str(await session.scalar(sa.text("SELECT version_num FROM alembic_version")) or "")
