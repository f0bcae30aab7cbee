"""Staged readings become readings when the reason is gone: an idempotent sweep, run as often as one likes.

It runs after every commit of a meter, type, config or series, after ingestion that staged something, and regularly:
a reading may be staged by a transaction that began before the commit that would have let it in. What waits for its
gateway only and was brought by the meter's own meanwhile is a duplicate, and goes (``drop_repeated``).
"""

import datetime as dt
import decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import versions
from hub.database import reading, writing
from hub.judging import FUTURE, NOT_THIS_GATEWAY, OLDEST, TIMESTAMP_OUT_OF_BOUNDS, Claim, look_up
from hub.models import StagedReading
from hub.staging import claim_of, find_repeated

ROWS = 2000
"""Staged readings adopted per round; the caller's transaction has one round."""

_GROUP = (
    StagedReading.gateway,
    StagedReading.organization,
    StagedReading.device,
    StagedReading.meter_device_name,
    StagedReading.series_name,
)


async def sweep(engine: AsyncEngine, now: dt.datetime) -> int:
    """Adopt all that can be adopted, in transactions of bounded size; return how many."""
    total = 0
    while True:
        async with writing(engine) as session:
            adopted = await adopt(session, now)
        total += adopted
        if adopted < ROWS:
            return total


async def drop_repeated(engine: AsyncEngine) -> int:
    """Drop what waits only because another gateway than its meter's sent it, and is stored by now; return how many.

    A copied store may have been sent before its original. Each look is of bounded size, and writes only if need be.
    """
    total, last = 0, 0
    while True:
        async with reading(engine) as session:
            found = await session.scalars(
                sa.select(StagedReading)
                .where(StagedReading.reason == NOT_THIS_GATEWAY, StagedReading.id > last)
                .order_by(StagedReading.id)
                .limit(ROWS)
            )
            waiting = [(row.id, (claim_of(row), row.reason)) for row in found.all()]
            directory = await look_up(session, (claim for _, (claim, _) in waiting))
            there = await find_repeated(session, directory, (claim for _, claim in waiting))
        repeated = [key for (key, _), held in zip(waiting, there, strict=True) if held]
        if repeated:
            async with writing(engine) as session:
                await session.execute(
                    sa.delete(StagedReading)
                    .where(StagedReading.id.in_(repeated))
                    .execution_options(synchronize_session=False)
                )
        total += len(repeated)
        if len(waiting) < ROWS:
            return total
        last = waiting[-1][0]


async def adopt(session: AsyncSession, now: dt.datetime, *, rows: int = ROWS) -> int:
    """Adopt up to ``rows`` staged readings in the caller's transaction; return how many.

    Whether a reading may be adopted hangs on its gateway, meter and series (and its timestamp), so these are judged
    once each, however many readings wait. What still has to wait for another reason than before is told the new one.
    """
    statement = sa.select(
        *_GROUP, sa.func.min(StagedReading.reason).label("least"), sa.func.max(StagedReading.reason).label("greatest")
    )
    groups = (await session.execute(statement.group_by(*_GROUP))).all()
    if not groups:
        return 0
    probes = [_probe(group, now) for group in groups]
    directory = await look_up(session, probes)
    adopted = 0
    for group, probe in zip(groups, probes, strict=True):
        judged = directory.judge(probe, now)
        of_group = [column.is_not_distinct_from(value) for column, value in zip(_GROUP, group, strict=False)]
        if isinstance(judged, str):
            if {group.least, group.greatest} != {judged}:
                await _give_reason(session, sa.and_(*of_group), judged, now)
        elif adopted < rows:
            adopted += await _adopt_group(session, sa.and_(*of_group), now, rows - adopted)
            if {group.least, group.greatest} != {TIMESTAMP_OUT_OF_BOUNDS}:
                out_of_bounds = sa.not_(StagedReading.timestamp.between(OLDEST, now + FUTURE))
                await _give_reason(session, sa.and_(*of_group, out_of_bounds), TIMESTAMP_OUT_OF_BOUNDS, now)
    return adopted


def _probe(group: Any, now: dt.datetime) -> Claim:  # noqa: ANN401 - a row of the groups
    """A reading of the group that no bound of time keeps out."""
    return Claim(
        meter=group.meter_device_name,
        series=group.series_name,
        timestamp=now,
        value=decimal.Decimal(0),
        collected=now,
        device=group.device,
        gateway=group.gateway,
        organization=group.organization,
    )


async def _adopt_group(session: AsyncSession, of_group: sa.ColumnElement[bool], now: dt.datetime, limit: int) -> int:
    found = await session.scalars(
        sa.select(StagedReading)
        .where(of_group, StagedReading.timestamp.between(OLDEST, now + FUTURE))
        .order_by(StagedReading.id)
        .limit(limit)
        # Two sweeps at once share the work.
        .with_for_update(skip_locked=True)
    )
    waiting = [(row.id, claim_of(row)) for row in found.all()]
    directory = await look_up(session, (claim for _, claim in waiting))
    judged = [(key, directory.judge(claim, now)) for key, claim in waiting]
    free = {key: arrival for key, arrival in judged if isinstance(arrival, versions.Arrival)}
    await versions.store(session, list(free.values()), now)
    await session.execute(
        sa.delete(StagedReading).where(StagedReading.id.in_(list(free))).execution_options(synchronize_session=False)
    )
    return len(free)


async def _give_reason(session: AsyncSession, of_group: sa.ColumnElement[bool], reason: str, now: dt.datetime) -> None:
    await session.execute(
        sa.update(StagedReading)
        .where(of_group, StagedReading.reason != reason)
        .values(reason=reason, updated_at=now)
        .execution_options(synchronize_session=False)
    )
