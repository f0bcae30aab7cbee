"""What is told of commands: each change of a state is one row, written with the change, in the order of numbers.

Rules.
- A row is written in the transaction that changes the state, by whoever does so; there is no state without its row.
- ``number`` grows. On PostgreSQL numbers are given before commits, so a smaller one may become visible after a larger
  one. Who reads in the order of numbers (``hub.command_watch``) must know whether a number that is not there can come
  still; therefore each transaction holds a shared lock of its database from before its first number to its end.
  Nobody ever waits for it.
- Each of these transactions tells those who follow (``hub.notices``).
- What is older than ``KEPT`` goes, except the newest row: numbers are compared with it.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import prometheus_client
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.counted import count
from hub.models import Command, CommandEvent
from hub.notices import Notice, tell

KEPT = dt.timedelta(days=30)
"""How long it is told what state a command came into; the command itself tells its last one for ever."""

_LOCK = 0x6D636576
"""PostgreSQL advisory lock, shared: its holders may still bring numbers that are not there yet."""

_FORGOTTEN_AT_ONCE = 5_000

_states = prometheus_client.Counter("metergate_command_states", "Commands that have come into this state", ["state"])

SUBJECT = (Command.id, Command.organization, Command.gateway, Command.meter_device, Command.batch)
"""What a statement that changes states returns of each row, for ``told``."""


def told(row: Any, state: str, cause: str, at: dt.datetime) -> dict[str, Any]:  # noqa: ANN401 - a Command, or SUBJECT of one
    """Return the event of a command that has come into a state."""
    return {
        "command": row.id,
        "organization": row.organization,
        "gateway": row.gateway,
        "meter_device": row.meter_device,
        "batch": row.batch,
        "state": state,
        "cause": cause,
        "at": at,
    }


def begun(row: Mapping[str, Any], state: str, at: dt.datetime) -> dict[str, Any]:
    """Return the event of a command that is made as the row says."""
    subject = {name: row[name] for name in ("organization", "gateway", "meter_device", "batch")}
    return {"command": row["id"], **subject, "state": state, "cause": "", "at": at}


async def record(session: AsyncSession, events: Sequence[dict[str, Any]], *also: Notice) -> None:
    """Write events (of ``told``) in the caller's transaction; their commands are there, flushed.

    ``also`` is told with them.
    """
    if not events:
        return
    await tell(session, Notice.STATES, *also, asking=f"pg_advisory_xact_lock_shared({_LOCK})")
    connection = await session.connection()
    await connection.execute(sa.insert(CommandEvent), events)
    count(session, _states, (event["state"] for event in events))


async def writers(session: AsyncSession) -> frozenset[str]:
    """Return the transactions that may still bring numbers; none on SQLite, where numbers come in order."""
    if session.get_bind().dialect.name != "postgresql":
        return frozenset()
    statement = sa.text(
        "SELECT l.virtualtransaction FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
        "WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.classid = 0 "
        "AND l.objid = :lock AND l.granted"
    )
    return frozenset(await session.scalars(statement, {"lock": _LOCK}))


async def bounds(session: AsyncSession) -> tuple[int, int]:
    """Return the smallest and the largest number that are there; zeros when there is none."""
    row = (await session.execute(sa.select(sa.func.min(CommandEvent.number), sa.func.max(CommandEvent.number)))).one()
    return row[0] or 0, row[1] or 0


async def forget(session: AsyncSession, now: dt.datetime) -> int:
    """Delete what need not be told any more; return how many rows went."""
    _, newest = await bounds(session)
    oldest = await session.execute(
        sa.select(CommandEvent.number, CommandEvent.at).order_by(CommandEvent.number).limit(_FORGOTTEN_AT_ONCE)
    )
    old = [number for number, at in oldest if at < now - KEPT and number != newest]
    if old:
        # So many at once that a turn of maintenance stays short.
        await session.execute(
            sa.delete(CommandEvent).where(CommandEvent.number.in_(old)).execution_options(synchronize_session=False)
        )
    return len(old)
