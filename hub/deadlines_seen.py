"""How a deadline's period stands: its row's figures, its parts, and what is known of its gateways."""

import datetime as dt
import uuid
from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.deadlines_periods import RATED, Period
from hub.deadlines_projected import (
    Outlook,
    possible_of,
    projected_by_gateway,
    projected_by_group,
    projected_of,
    usual_rate,
)
from hub.deadlines_tallies import Counted, Tally
from hub.deadlines_told import Part, part_of
from hub.models import AmrTaskGroup, Deadline, DeadlinePart, DeadlinePeriod, Gateway

GATEWAY, GROUP, ORGANIZATION = "gateway", "group", "organization"
KINDS = (GATEWAY, GROUP, ORGANIZATION)
"""What a period's figures are broken down by."""


def row_of(deadline: Deadline, period: Period) -> DeadlinePeriod:
    """Return the row of a period that begins."""
    return DeadlinePeriod(
        deadline=deadline.id,
        zone=period.zone,
        slot=period.slot,
        start=period.start,
        end=period.end,
        due_at=period.due_at,
        target_percent=deadline.target_percent,
    )


def period_now(deadline: Deadline, row: DeadlinePeriod) -> Period:
    """Return an open row's period, with the deadline as it is now."""
    due_at = row.end + dt.timedelta(seconds=deadline.within_seconds)
    return Period(row.zone, row.slot, row.start, row.end, due_at)


def note(row: DeadlinePeriod, deadline: Deadline, counted: Counted, outlook: Outlook | None, now: dt.datetime) -> None:
    """Write into an open row what a look found out; without an outlook nothing more will come in time."""
    total = counted.total
    row.due_at, row.target_percent, row.seen_at = period_now(deadline, row).due_at, deadline.target_percent, now
    row.expected, row.stored, row.late = total.expected, total.stored, total.late
    row.possible = row.projected = total.stored
    if outlook is not None:
        row.possible, row.projected = possible_of(total), projected_of(counted, outlook)
    row.reasons = total.lacking()


async def outlook_of(session: AsyncSession, row: DeadlinePeriod, counted: Counted) -> Outlook:
    """Return which gateways are away, and how well each did in its last periods."""
    ids = [gateway for gateway in counted.gateways if gateway is not None]
    there = select(Gateway.id).where(Gateway.id.in_(ids), Gateway.online, Gateway.clock_believed)
    away = frozenset(ids) - set(await session.scalars(there))
    last = (
        select(DeadlinePeriod.id)
        .where(
            DeadlinePeriod.deadline == row.deadline,
            DeadlinePeriod.zone == row.zone,
            DeadlinePeriod.closed_at.is_not(None),
            DeadlinePeriod.slot < row.slot,
        )
        .order_by(DeadlinePeriod.slot.desc())
        .limit(RATED)
    )
    shares: dict[uuid.UUID | None, list[tuple[int, int]]] = {}
    for key, expected, stored in await session.execute(
        select(DeadlinePart.key, DeadlinePart.expected, DeadlinePart.stored).where(
            DeadlinePart.period.in_(last.scalar_subquery()), DeadlinePart.kind == GATEWAY
        )
    ):
        shares.setdefault(key, []).append((expected, stored))
    return Outlook(away, {key: usual_rate(periods) for key, periods in shares.items()})


async def names_of(session: AsyncSession, kind: str, keys: Mapping[uuid.UUID | None, Tally]) -> dict[uuid.UUID, str]:
    """Return the names of gateways or groups."""
    model, name = (Gateway, Gateway.gateway_id) if kind == GATEWAY else (AmrTaskGroup, AmrTaskGroup.name)
    ids = [key for key in keys if key is not None]
    rows = await session.execute(select(model.id, name.label("name")).where(model.id.in_(ids)))
    return {row.id: row.name for row in rows}


def parts_of(
    kind: str, deadline: Deadline, counted: Counted, outlook: Outlook | None, names: Mapping[uuid.UUID, str]
) -> list[Part]:
    """Return a period's parts; without an outlook it is over, and nothing more will come in time."""
    if kind == ORGANIZATION:
        tallies: Mapping[uuid.UUID | None, Tally] = {deadline.organization: counted.total}
        projected: dict[uuid.UUID | None, int] = {}
        if outlook is not None:
            projected[deadline.organization] = projected_of(counted, outlook)
    elif kind == GROUP:
        tallies = counted.by_group()
        projected = projected_by_group(counted, outlook) if outlook is not None else {}
    else:
        tallies = counted.gateways
        projected = projected_by_gateway(counted, outlook) if outlook is not None else {}
    return [
        part_of(
            key,
            names.get(key, "") if key is not None else "",
            expected=tally.expected,
            stored=tally.stored,
            late=tally.late,
            projected=projected.get(key, tally.stored),
            reasons=tally.lacking(),
        )
        for key, tally in tallies.items()
    ]
