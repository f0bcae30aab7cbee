"""Gaps become windows: what nobody cares for yet is noted, and waits for its turn."""

import datetime as dt
import uuid
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import ledger
from hub.backfill_archives import archives_of, meters_of
from hub.backfill_plans import Kept, windows
from hub.backfill_rows import AUTO, CANCELLED, GAVE_UP, PILED_UP, add, log, states_of
from hub.models import Backfill, RunReport
from protocol.reports import DONE as RUN_DONE

HORIZON = dt.timedelta(days=400)
"""How far back the hub looks by itself: further than the archives of hours of any meter that it knows."""

ASKED_AGAIN = dt.timedelta(days=1)
"""After this what was given up is tried anew, if a read of that meter has succeeded since."""


async def notice(session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime) -> int:
    """Note the gaps of these meters that nobody cares for yet; return how many windows that is."""
    meters = await meters_of(session, devices, now)
    spans = await ledger.missing_spans(session, sorted(meters), now - HORIZON, now, now)
    archives = archives_of(meters, spans, auto=True)
    gateways = await states_of(session, {meter.gateway for meter in meters.values()})
    kept = await _kept(session, devices, now)
    # Looked at, once its last life sign says that nothing has piled up: else most of it is on its way.
    settled = {
        key: state
        for key, state in gateways.items()
        if state.delivered is not None and now - state.delivered < PILED_UP
    }
    found = windows(archives, settled, kept)
    add(session, found, meters, now, origin=AUTO)
    await session.flush()
    if found:
        log.info("gaps_noticed", windows=len(found), meters=len({window.device for window in found}))
    return len(found)


async def _kept(
    session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime
) -> dict[tuple[uuid.UUID, int], list[Kept]]:
    """Return what is cared for, or is not to be: what was given up counts until its meter was heard again."""
    rows = await session.execute(
        sa.select(Backfill).where(
            Backfill.meter_device.in_(devices),
            sa.or_(Backfill.ended_at.is_(None), Backfill.state.in_((GAVE_UP, CANCELLED))),
        )
    )
    found: dict[tuple[uuid.UUID, int], list[Kept]] = {}
    for row in rows.scalars():
        if row.state == GAVE_UP and row.ended_at is not None and now - row.ended_at > ASKED_AGAIN:
            heard = await session.execute(
                sa.select(RunReport.id)
                .where(
                    RunReport.device == row.meter_device,
                    RunReport.ended > row.ended_at,
                    RunReport.outcome == RUN_DONE,
                )
                .limit(1)
            )
            if heard.first() is not None:
                continue
        found.setdefault((row.meter_device, row.archive), []).append(Kept(row.start, row.end))
    return found
