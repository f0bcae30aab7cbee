"""What the hub knows of gateways' outboxes beside their life signs: how fast they drain, and what fails there.

Both are read from what has arrived (batches, run reports), so they say what was until the last delivery. What is asked
here is bounded whatever the tables hold: it stands in every answer that shows gateways.
"""

import collections
import datetime as dt
import itertools
import uuid
from collections.abc import Collection

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Batch, RunReport
from protocol.reports import DONE

WINDOW = dt.timedelta(minutes=1)
"""The rate is that of the last batches, at most so long before the last one."""

IDLE = dt.timedelta(seconds=5)
"""A longer pause between two batches is not counted: nothing was sent in it."""

ERRORS_OF = dt.timedelta(days=7)
_BATCHES_LOOKED_AT = 5000


class RunErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that ended in one way in the 7 days before the last one that failed, and the last cause."""

    kind: str
    count: int
    last: dt.datetime
    cause: str
    meter_device: uuid.UUID


async def read_rates(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, float]:
    """Return the rows per second that arrived while these gateways were sending; none for those too silent to tell."""
    if not gateways:
        return {}
    newest = sa.select(sa.func.coalesce(sa.func.max(Batch.id), 0)).scalar_subquery()
    found = await session.execute(
        sa.select(Batch.gateway, Batch.stored_at, Batch.last - Batch.first + 1)
        .where(Batch.id > newest - _BATCHES_LOOKED_AT, Batch.gateway.in_(gateways))
        .order_by(Batch.stored_at)
    )
    arrived: dict[uuid.UUID, list[tuple[dt.datetime, int]]] = collections.defaultdict(list)
    for gateway, at, rows in found:
        arrived[gateway].append((at, rows))
    rates = {gateway: _rate(batches) for gateway, batches in arrived.items()}
    return {gateway: rate for gateway, rate in rates.items() if rate > 0}


def _rate(batches: list[tuple[dt.datetime, int]]) -> float:
    begin = batches[-1][0] - WINDOW
    inside = [(at, rows) for at, rows in batches if at >= begin]
    busy = sum((min(IDLE, later - at) for (at, _), (later, _) in itertools.pairwise(inside)), dt.timedelta())
    # The first batch was sent before the time that is measured.
    rows = sum(rows for at, rows in inside if at > inside[0][0])
    return rows / busy.total_seconds() if busy else 0.0


async def read_errors(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, list[RunErrors]]:
    """Return for each gateway the last error of each kind (the run's outcome), the latest first."""
    if not gateways:
        return {}
    failed = RunReport.outcome != sa.literal_column(f"'{DONE}'")
    mine = sa.and_(RunReport.gateway.in_(gateways), failed)
    kind = (RunReport.gateway, RunReport.outcome)
    newest_first = (RunReport.ended.desc(), RunReport.id)
    since = await session.scalar(sa.select(sa.func.max(RunReport.ended)).where(mine))
    if since is None:
        return {}
    ranked = (
        sa.select(
            RunReport.gateway,
            RunReport.outcome,
            RunReport.ended,
            RunReport.cause,
            RunReport.device,
            sa.func.count().over(partition_by=kind).label("runs"),
            sa.func.row_number().over(partition_by=kind, order_by=newest_first).label("place"),
        )
        .where(mine, RunReport.ended >= since - ERRORS_OF)
        .subquery()
    )
    found = await session.execute(sa.select(ranked).where(ranked.c.place == 1).order_by(ranked.c.ended.desc()))
    errors: dict[uuid.UUID, list[RunErrors]] = collections.defaultdict(list)
    for row in found:
        errors[row.gateway].append(
            RunErrors(kind=row.outcome, count=row.runs, last=row.ended, cause=row.cause, meter_device=row.device)
        )
    return errors
