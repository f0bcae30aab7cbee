"""What has become of commands: what came is stored, what the meter did not have is lost for good, the rest waits again.

Nothing is concluded before the gateway has delivered what it had when the command ended: its rows may still be there.
A meter that was moved to another gateway meanwhile is not waited for there.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import ledger
from hub.backfill_plans import has_delivered_result
from hub.backfill_rows import (
    CANCELLED,
    DONE,
    FETCHING,
    GAVE_UP,
    ROWS_PER_TURN,
    SETTLING,
    end,
    in_state,
    lacking,
    retry,
    states_of,
    wait_again,
)
from hub.ledger import MissingSpan
from hub.models import Backfill, Command, Gateway, MeterDevice, NetworkInterface, ReadingSeries, StagedReading
from protocol import commands

HARDLY_OVER = dt.timedelta(hours=1)
"""How old a slot must be for a meter's answer to say that it does not have it: meters' clocks are off."""


async def follow(session: AsyncSession, now: dt.datetime) -> int:
    """Note which commands have ended; return how many."""
    rows = (
        await session.execute(
            sa.select(Backfill)
            .outerjoin(Command, Command.id == Backfill.command)
            .where(
                *in_state(FETCHING),
                sa.or_(Command.id.is_(None), Command.state.in_(commands.FINAL_STATES)),
            )
            .order_by(Backfill.id)
            .limit(ROWS_PER_TURN)
            .with_for_update(of=Backfill, skip_locked=True)
        )
    ).scalars()
    ended = 0
    for row in rows:
        row.state, row.noticed_at, row.updated_at = SETTLING, now, now
        ended += 1
    await session.flush()
    return ended


async def conclude(session: AsyncSession, now: dt.datetime) -> int:
    """Settle what has ended, once the gateway has delivered what came of it; return how many windows."""
    by_then = sa.func.coalesce(Command.ended_at, Backfill.noticed_at)
    elsewhere = sa.and_(NetworkInterface.gateway.is_not(None), NetworkInterface.gateway != Backfill.gateway)
    # As hub.backfill_plans.has_delivered_result, which has the last word: a gateway that is away keeps nobody else's.
    may_have = sa.and_(Gateway.online, Gateway.said_at > by_then, sa.or_(Gateway.depth == 0, Gateway.oldest > by_then))
    found = (
        await session.execute(
            sa.select(Backfill, Command, NetworkInterface.gateway, Gateway.backfill_paused)
            .join(Gateway, Gateway.id == Backfill.gateway)
            .join(MeterDevice, MeterDevice.id == Backfill.meter_device)
            .outerjoin(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
            .outerjoin(Command, Command.id == Backfill.command)
            .where(*in_state(SETTLING), sa.or_(may_have, elsewhere))
            .order_by(Backfill.noticed_at, Backfill.id)
            .limit(ROWS_PER_TURN)
            .with_for_update(of=Backfill, skip_locked=True)
        )
    ).all()
    gateways = await states_of(session, {row.gateway for row, *_ in found})
    known = await lacking(session, [row for row, *_ in found], now)
    concluded = 0
    for row, command, gateway, held in found:
        ended = command.ended_at if command is not None else None
        if has_delivered_result(gateways[row.gateway], ended or row.noticed_at):
            concluded += await _conclude(session, row, command, known.within(row), now, held=held or row.paused)
        elif gateway not in {None, row.gateway}:
            retry(row, "the meter was moved to another gateway meanwhile", now)
            concluded += 1
    await session.flush()
    return concluded


async def _conclude(
    session: AsyncSession,
    row: Backfill,
    command: Command | None,
    left: list[MissingSpan] | None,
    now: dt.datetime,
    *,
    held: bool,
) -> bool:
    """Settle one; ``held``: somebody has paused it or its gateway. False while what is missing is not known."""
    if left is None:
        return False
    young = 0
    if command is not None and command.state == commands.DONE:
        # What was hardly over when the meter was asked may not have been in its archive yet.
        old = [span for span in left if span.start < (command.ended_at or now) - HARDLY_OVER]
        young, left = len(left) - len(old), old
    slots = sum(span.count for span in left)
    if not left:
        end(row, DONE, "all else was hardly over when the meter was asked" if young else "everything is stored", now)
    elif command is not None and command.state == commands.DONE:
        staged = await _staged(session, row, {span.series for span in left})
        if staged:
            end(row, GAVE_UP, f"{slots} slots were read, and wait as staged readings: {staged}", now)
        else:
            evidence = _words(row, command)
            await _lose(session, row, left, evidence, asked=command.ended_at or now, now=now)
            end(row, DONE, f"{slots} slots are lost for good: {evidence}", now)
    elif command is not None and command.state == commands.CANCELLED:
        if held:
            wait_again(row, now)
        else:
            end(row, CANCELLED, command.cause, now)
    else:
        retry(row, "its command is gone" if command is None else f"{command.state}: {command.cause}", now)
    return True


async def _lose(
    session: AsyncSession,
    row: Backfill,
    left: Sequence[MissingSpan],
    evidence: str,
    *,
    asked: dt.datetime,
    now: dt.datetime,
) -> None:
    for span in left:
        await ledger.settle(
            session,
            span.device,
            span.series,
            span.start,
            min(span.end, asked - HARDLY_OVER),
            evidence=evidence,
            now=now,
            command=row.command,
        )


def _words(row: Backfill, command: Command) -> str:
    """Say what the meter answered when it was asked for the window."""
    answer = command.result.get("answer") or f"{command.result.get('rows', 0)} rows, and none of these"
    when = command.ended_at or command.updated_at
    span = f"from {row.start:%Y-%m-%dT%H:%M:%SZ} to {row.end:%Y-%m-%dT%H:%M:%SZ}"
    return f"archive {row.archive} was asked {span} on {when:%Y-%m-%dT%H:%M:%SZ}; the meter answered: {answer}"


async def _staged(session: AsyncSession, row: Backfill, series: Collection[uuid.UUID]) -> str:
    """Return why readings of the window and these series wait; empty when none does."""
    names = sa.select(ReadingSeries.name).where(ReadingSeries.id.in_(series))
    condition: Any = sa.and_(
        StagedReading.device == row.meter_device,
        StagedReading.series_name.in_(names),
        StagedReading.timestamp >= row.start,
        StagedReading.timestamp <= row.end,
    )
    return await session.scalar(sa.select(StagedReading.reason).where(condition).limit(1)) or ""
