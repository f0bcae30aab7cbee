"""What gateways say of commands: their updates set the state, and tell the hub of invocations that it did not make.

Updates count in the order of (session, sequence), whatever the order of arrival, and are kept, every one. An end that
the hub set (``hub.dispatch``) is overwritten only by an end that the gateway reports: the gateway knows.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import command_events, models
from hub.dispatch import OWN, SENT, STATES
from hub.once import insert_once
from protocol import commands

UNKNOWN_COMMAND = "unknown_command"
UNKNOWN_STATE = "unknown_state"

_Row = models.Command


async def apply_updates(
    session: AsyncSession,
    gateway: uuid.UUID,
    organization: uuid.UUID,
    updates: Sequence[tuple[int, commands.CommandUpdate]],
    now: dt.datetime,
) -> dict[int, str]:
    """Apply one gateway's updates, each with its position; return the positions of those that fit nothing, and why."""
    if not updates:
        return {}
    left: dict[int, str] = {}
    await _record_invocations(session, gateway, organization, [update for _, update in updates], now)
    rows = await session.scalars(
        sa.select(_Row)
        .where(_Row.id.in_({update.command_id for _, update in updates}), _Row.gateway == gateway)
        .order_by(_Row.id)
        .with_for_update()
        # Rows of an earlier group of this session would otherwise be given back as they were.
        .execution_options(populate_existing=True)
    )
    known = {row.id: row for row in rows.all()}
    history, events = [], []
    for position, update in updates:
        row = known.get(update.command_id)
        if row is None:
            left[position] = UNKNOWN_COMMAND
            continue
        if update.state not in STATES:
            left[position] = UNKNOWN_STATE
            continue
        before = row.state, row.cause
        _apply(row, update, now)
        if (row.state, row.cause) != before:
            events.append(command_events.told(row, row.state, row.cause, update.at))
        history.append(
            {
                "id": update.id,
                "command": row.id,
                "state": update.state,
                "at": update.at,
                "session": update.session,
                "sequence": update.sequence,
                "cause": update.cause,
            }
        )
    await session.flush()
    await insert_once(session, models.CommandUpdate, history, "id")
    await command_events.record(session, events)
    return left


def _apply(row: models.Command, update: commands.CommandUpdate, now: dt.datetime) -> None:
    if (update.session, update.sequence) <= (row.session, row.sequence):
        return
    if row.state in commands.FINAL_STATES and update.state not in commands.FINAL_STATES:
        return
    if row.state == commands.INTERRUPTED and update.state == commands.REFUSED:
        # A new store refuses what an old one may have run.
        return
    row.state, row.cause = update.state, update.cause
    row.session, row.sequence = update.session, update.sequence
    row.updated_at = now
    row.ended_at = update.at if update.state in commands.FINAL_STATES else None
    if update.readings:
        row.readings = [
            {
                "meter": reading.meter,
                "series": reading.series,
                "timestamp": reading.timestamp.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"),
                "value": format(reading.value, "f"),
                "unit": reading.unit,
                "provenance": reading.provenance,
            }
            for reading in update.readings
        ]
    if update.result:
        row.result = document(update.result)


async def _record_invocations(
    session: AsyncSession,
    gateway: uuid.UUID,
    organization: uuid.UUID,
    updates: Sequence[commands.CommandUpdate],
    now: dt.datetime,
) -> None:
    """Make the rows of direct invocations, which the hub first hears of through their updates."""
    direct = {
        update.command_id: (update.origin, update.command)
        for update in updates
        if update.command is not None and update.origin not in OWN and update.command.id == update.command_id
    }
    if not direct:
        return
    devices = {command.device for _, command in direct.values() if command.device is not None}
    known = set(
        (await session.scalars(sa.select(models.MeterDevice.id).where(models.MeterDevice.id.in_(devices)))).all()
    )
    rows = [
        {
            "id": key,
            "organization": organization,
            "gateway": gateway,
            "meter_device": command.device if command.device in known else None,
            "meter": command.meter,
            "context": command.context,
            "call": command.call,
            "kwargs": document(command.kwargs),
            "delay_seconds": command.delay_seconds,
            "ttl_seconds": command.ttl_seconds,
            "state": SENT,
            "cause": "",
            "origin": origin,
            "expires_at": _later(command.issued, command.ttl_seconds),
            "store_id": command.store,
            "published_at": command.issued,
            "session": 0,
            "sequence": 0,
            "readings": [],
            "result": {},
            "ended_at": None,
            "cancel_requested": False,
            "cancel_published_at": None,
            "priority": 0,
            "created_at": command.issued,
            "updated_at": now,
        }
        for key, (origin, command) in sorted(direct.items())
    ]
    await insert_once(session, models.Command, rows, "id")


def _later(instant: dt.datetime, seconds: int) -> dt.datetime:
    try:
        return instant + dt.timedelta(seconds=seconds)
    except OverflowError:
        return instant


def document(value: Any) -> Any:  # noqa: ANN401 - whatever MessagePack had
    """Return a value of the wire as JSON can hold it: decimals, times and bytes become text."""
    return msgspec.json.decode(msgspec.json.encode(value))
