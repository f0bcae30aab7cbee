"""The doctor's look at the database: how it is set, how much room it has, and what has piled up in it."""

import asyncio
import datetime as dt
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.clocks import Clock
from hub.database import CONNECTIONS, UNREACHABLE, DatabaseError, reading, schema_of
from hub.doctor_lines import FAIL, OK, SKIPPED, WARN, Line, line
from hub.figures import COUNTED_TO, Found, find
from hub.models import Gateway
from hub.months import DEFAULT, partitions
from hub.partitions import MONTHS_AHEAD
from hub.settings import Settings
from hub.wellbeing import CLOCK_SECONDS, PATIENCE_SECONDS, wanted_room

REACHED: Final = "database"
SCHEMA: Final = "database.schema"
SLOW_SECONDS = 0.1
"""An answer to nothing that takes longer is said."""

LONG_SECONDS = 3600.0
"""A transaction that is open so long keeps rows that are gone, and months from coming and going."""

USED = 0.8
"""The share of connections from which it is said."""

LEAST_VERSION = 14
"""PostgreSQL's oldest version that its makers still mend."""

AWAY = dt.timedelta(minutes=15)
OLD_PLAN = dt.timedelta(minutes=15)
OLD_ROWS = dt.timedelta(hours=6)
_NAMED = 5
"""Gateways that a line names."""


async def examine(engine: AsyncEngine, clock: Clock) -> list[Line]:
    """Look at a database; nothing is changed."""
    path = Path(engine.url.database or "")
    if engine.dialect.name == "sqlite" and not await asyncio.to_thread(path.is_file):
        advice = "metergate-hub run makes it; else look at --data and --database"
        return [Line(REACHED, FAIL, f"there is no SQLite database {path}", advice)]
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            lines = [await _reached(engine)]
            schema = await schema_of(engine)
    except TimeoutError:
        advice = "see what it is busy with (pg_stat_activity), and whether a firewall drops its packets"
        return [Line(REACHED, FAIL, f"the database did not answer within {PATIENCE_SECONDS:g} s", advice)]
    except (DatabaseError, SQLAlchemyError, *UNREACHABLE) as error:
        return [broken_off(error)]
    if schema.problem:
        advice = "metergate-hub migrate --dry-run says what would be done"
        return [*lines, Line(SCHEMA, FAIL, schema.problem, advice)]
    lines.append(Line(SCHEMA, OK, f"schema {schema.name}, this version's is {schema.head}"))
    found = await find(engine, clock)
    if engine.dialect.name == "sqlite":
        lines += _of_sqlite(found)
    else:
        lines += _settings(found)
        async with reading(engine) as session:
            lines += [*await _connections(session), await _long_transactions(session), *await _months(session, found)]
    lines += _contents(engine, found)
    async with reading(engine) as session:
        lines += await _gateways(session, clock.now(), found)
    return lines


def broken_off(error: Exception) -> Line:
    """Return the line for a database that refuses us."""
    said = error.orig if isinstance(error, DBAPIError) else error
    text = f"{type(said).__name__}: {said}".partition("\n")[0][:300]
    return Line(REACHED, FAIL, f"the database cannot be used: {text}", "look at its URL, its log and pg_hba.conf")


async def _reached(engine: AsyncEngine) -> Line:
    async with reading(engine) as session:
        await session.execute(sa.text("SELECT 1"))
        begun = time.monotonic()
        await session.execute(sa.text("SELECT 1"))
        took = time.monotonic() - begun
        if engine.dialect.name == "sqlite":
            return Line(REACHED, OK, f"SQLite {sqlite3.sqlite_version}, {engine.url.database}")
        version = str(await session.scalar(sa.text("SHOW server_version")))
    text = f"PostgreSQL {version}, answers in {1000 * took:.1f} ms"
    if int(version.partition(".")[0]) < LEAST_VERSION:
        return Line(REACHED, WARN, text, f"update to {LEAST_VERSION} or newer")
    if took > SLOW_SECONDS:
        advice = "put the hub near its database: a batch takes several answers"
        return Line(REACHED, WARN, text, advice)
    return Line(REACHED, OK, text)


def _settings(found: Found) -> Iterator[Line]:
    if found.standby:
        yield Line("database.durability", FAIL, "it is a standby and takes no writes", "point the hub at the primary")
    elif found.careless:
        off = ", ".join(f"{name}=off" for name in found.careless)
        advice = "turn it on: a receipt promises that the reading is on a disk"
        yield Line("database.durability", FAIL, f"{off}: receipted readings may be lost in a crash", advice)
    else:
        yield Line("database.durability", OK, "synchronous_commit, fsync and full_page_writes are on")
    text = f"its clock and this machine's are {abs(found.clock_seconds):.3f} s apart"
    if abs(found.clock_seconds) > CLOCK_SECONDS:
        yield Line("database.clock", WARN, text, "have both machines keep time (NTP)")
    else:
        yield Line("database.clock", OK, text)
    yield Line(
        "database.disk", SKIPPED, f"{_mib(found.figures['database_bytes'])}; its disk is not to be seen from here"
    )


def _of_sqlite(found: Found) -> Iterator[Line]:
    size, free = found.figures.get("database_bytes", 0.0), found.figures.get("database_disk_free_bytes")
    if free is None:
        yield Line("database.disk", SKIPPED, "the disk cannot be looked at")
        return
    wanted = wanted_room(size)
    text = f"{_mib(size)}, {_mib(free)} free on its disk"
    if free < wanted:
        advice = f"make room: {_mib(wanted)} are wanted; a full disk stores nothing and receipts nothing"
        yield Line("database.disk", WARN, text, advice)
    else:
        yield Line("database.disk", OK, text)


async def _connections(session: AsyncSession) -> Iterator[Line]:
    row = (
        await session.execute(
            sa.text(
                "SELECT current_setting('max_connections')::int "
                "- current_setting('superuser_reserved_connections')::int AS most, "
                "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used, "
                "current_setting('autovacuum') AS autovacuum"
            )
        )
    ).one()
    text = f"{row.used} of {row.most} connections are used; a process takes {CONNECTIONS}, unless told otherwise"
    advice = "raise max_connections, start fewer processes, or put a pooler before it (docs/scaling.md)"
    lines = [line("database.connections", WARN if row.used > USED * row.most else OK, text, advice)]
    if row.autovacuum == "off":
        advice = "turn it on: without it tables grow and the planner guesses"
        lines.append(Line("database.autovacuum", WARN, "autovacuum is off", advice))
    return iter(lines)


async def _long_transactions(session: AsyncSession) -> Line:
    seconds = await session.scalar(
        sa.text(
            "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity "
            "WHERE datname = current_database() AND xact_start IS NOT NULL AND backend_type = 'client backend'"
        )
    )
    text = f"the oldest open transaction is {seconds or 0:.0f} s old"
    if (seconds or 0) > LONG_SECONDS:
        advice = "see pg_stat_activity and end it: it keeps rows that are gone, and months from coming and going"
        return Line("database.transactions", WARN, text, advice)
    return Line("database.transactions", OK, text)


async def _months(session: AsyncSession, found: Found) -> list[Line]:
    months = await partitions(session)
    some = sa.select(sa.literal(1)).select_from(sa.table(DEFAULT)).limit(COUNTED_TO + 1).subquery()
    late = await session.scalar(sa.select(sa.func.count()).select_from(some)) or 0
    text = f"{len(months)} months ({months[0].month.table} to {months[-1].month.table})" if months else "no months"
    if not found.next_month:
        text += "; the next month is not there"
    advice = f"a running relay makes {MONTHS_AHEAD} months ahead; see partitions_in_use in its log"
    lines = [line("database.partitions", OK if found.next_month else WARN, text, advice)]
    advice = "a running relay moves them within ten minutes; see docs/operations.md, readings in months"
    text = f"{late} readings lie in {DEFAULT}"
    return [*lines, line("database.default", WARN if late else OK, text, advice)]


def _contents(engine: AsyncEngine, found: Found) -> Iterator[Line]:
    figures, bounds = found.figures, Settings(str(engine.url))
    rows, most = figures["quarantined"], bounds.quarantine_rows
    status = FAIL if rows >= most else WARN if rows else OK
    text = f"{rows:.0f} of {most} payloads that could not be read"
    yield line("quarantine", status, text, "look at /v1/quarantine: replay after an update, or delete")
    staged = figures["staged_readings"]
    advice = "look at /v1/metering/staged-meter-readings: create the meter or series, or delete"
    yield line("staged", WARN if staged else OK, f"{staged:.0f} readings wait for a meter or series", advice)
    lost = figures["lost_readings"]
    advice = "see /v1/loss-records which, and why: outboxes that were full for long"
    yield line("losses", WARN if lost else OK, f"{lost:.0f} readings were given up by gateways", advice)
    notes = figures["ledger_notes"], figures["unjudged_notes"]
    text = f"{notes[0]:.0f} notes wait for the ledger, {notes[1]:.0f} for validation"
    status = WARN if max(notes) > COUNTED_TO else OK
    yield line("behind", status, text, "a running relay works them off; with none running they stay")


async def _gateways(session: AsyncSession, now: dt.datetime, found: Found) -> Iterable[Line]:
    figures = found.figures
    lines = []
    for check, condition, what, advice in (
        (
            "gateways.away",
            sa.and_(Gateway.online.is_(False), Gateway.last_seen < now - AWAY),
            f"were heard before and are away for more than {AWAY.seconds // 60} minutes",
            "see status and last_seen of /v1/gateways; their outboxes keep what they read",
        ),
        (
            "gateways.plans",
            sa.and_(
                Gateway.online,
                Gateway.desired_revision != Gateway.applied_revision,
                Gateway.desired_at < now - OLD_PLAN,
            ),
            f"are online and have not applied a plan of more than {OLD_PLAN.seconds // 60} minutes ago",
            "see /v1/gateways/{id}/plans/diff, and plan_too_large and plan_not_published in the relays' log",
        ),
        (
            "gateways.outboxes",
            sa.and_(Gateway.depth > 0, Gateway.oldest < now - OLD_ROWS),
            f"have rows without a receipt from more than {OLD_ROWS.seconds // 3600} hours ago",
            "metergate-agent outbox on the gateway says how fast they go",
        ),
        (
            "gateways.clocks",
            Gateway.clock_believed.is_(False),
            "do not believe their clock and run nothing",
            "have the gateway keep time (NTP), or see its battery",
        ),
        (
            "gateways.rivals",
            Gateway.rival_at > now - AWAY,
            "share their id with another agent",
            "stop one of the two and give it an id and an empty data folder of its own",
        ),
    ):
        names = (
            await session.scalars(
                select(Gateway.gateway_id).where(condition).order_by(Gateway.gateway_id).limit(_NAMED)
            )
        ).all()
        count = 0
        if names:
            count = await session.scalar(select(sa.func.count()).select_from(Gateway).where(condition)) or 0
        shown = f": {', '.join(names)}{', ...' if count > len(names) else ''}" if names else ""
        lines.append(line(check, WARN if count else OK, f"{count} {what}{shown}", advice))
    known, online = figures["gateways"], figures["gateways_online"]
    return [Line("gateways", OK, f"{known:.0f} known, {online:.0f} online"), *lines]


def _mib(size: float) -> str:
    return f"{size / 1024**2:,.0f} MiB"
