"""How far outboxes of gateways have come, and what to ask a gateway for again.

That are rows that its agent knows as receipted and this database does not have, because it was put back from a backup.
Whoever calls holds the rows of the gateways locked, so that nobody else moves the progress of their outboxes.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Mapping

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.among import among
from hub.database import writing
from hub.many import update_many
from hub.models import Batch, OutboxProgress
from hub.once import insert_once
from protocol.reports import Online, Resend
from protocol.topics import Channel
from protocol.wire import MAX_MESSAGE_BYTES

ASK_AGAIN = dt.timedelta(minutes=1)
"""How long a Resend may take to show before it is sent again."""

_FOLD = 1000
_LONGEST = MAX_MESSAGE_BYTES
"""No batch has more rows: each has a byte at least. So those before need not be looked at, however many there are."""

_KEY = ("gateway", "store", "channel")
_Key = tuple[uuid.UUID, bytes, str]
"""Gateway, store and channel: what an outbox's progress is kept by."""

_log = structlog.get_logger(__name__)


async def missing(
    session: AsyncSession, online: Mapping[uuid.UUID, Online], now: dt.datetime
) -> dict[uuid.UUID, tuple[Resend, ...]]:
    """Return what to ask these gateways for again."""
    said: dict[_Key, int] = {}
    for gateway, sign in online.items():
        said[gateway, sign.store, Channel.READINGS.value] = sign.readings_through
        said[gateway, sign.store, Channel.REPORT.value] = sign.reports_through
    known = await _read(session, said)
    # Of most nothing was receipted since their last sign.
    behind = {key: known.get(key, 0) for key, through in said.items() if through > known.get(key, 0)}
    if not behind:
        return {}
    await _make(session, behind.keys() - known.keys())
    followed = await _follow(session, behind)
    moved = [
        dict(zip(_KEY, key, strict=True)) | {"through": through}
        for key, through in followed.items()
        if through > behind[key]
    ]
    await update_many(session, OutboxProgress, _KEY, moved)
    left = [key for key, through in followed.items() if through < said[key]]
    resends: dict[uuid.UUID, tuple[Resend, ...]] = {}
    for progress in await _objects(session, left):
        gateway, store, channel = key = (progress.gateway, progress.store, progress.channel)
        first = await _first_missing(session, progress, said[key], now)
        if first is not None:
            resends[gateway] = (*resends.get(gateway, ()), Resend(store, channel, first, now))
    return resends


async def forget_asked(engine: AsyncEngine, unsent: Collection[tuple[uuid.UUID, Resend]]) -> None:
    """Forget that these gateways were asked: what they send next is no answer, and the next life sign asks them."""
    for gateway, one in unsent:
        # One by one, so that nobody who holds several of these rows waits for this.
        async with writing(engine) as session:
            await session.execute(
                sa.update(OutboxProgress)
                .filter_by(gateway=gateway, store=one.store, channel=one.channel)
                .values(asked_at=None)
                .execution_options(synchronize_session=False)
            )


async def _read(session: AsyncSession, keys: Collection[_Key]) -> dict[_Key, int]:
    """Return how far these outboxes are known to have come; none of which nothing is known."""
    rows = await session.execute(
        sa.select(OutboxProgress.gateway, OutboxProgress.store, OutboxProgress.channel, OutboxProgress.through).where(
            among(session, OutboxProgress.gateway, {gateway for gateway, _, _ in keys})
        )
    )
    return {key: row[3] for row in rows if (key := (row[0], row[1], row[2])) in keys}


async def _make(session: AsyncSession, keys: Collection[_Key]) -> None:
    """Begin to keep the progress of these."""
    begin = {"through": 0, "asked_first": 0, "asked_through": 0, "asked_at": None}
    rows = [dict(zip(_KEY, key, strict=True)) | begin for key in keys]
    await insert_once(session, OutboxProgress, rows, *_KEY)


async def _follow(session: AsyncSession, known: Mapping[_Key, int]) -> dict[_Key, int]:
    """Follow the batches of all these outboxes as far as they go without a gap, in one question; return how far.

    Where it brings too little because there are too many (``_FOLD``), what is missing is asked for one by one.
    """
    same = sa.and_(
        OutboxProgress.gateway == Batch.gateway,
        OutboxProgress.store == Batch.store,
        OutboxProgress.channel == Batch.channel,
    )
    found = await session.execute(
        sa.select(Batch.gateway, Batch.store, Batch.channel, Batch.first, Batch.last)
        .join(OutboxProgress, same)
        .where(
            among(session, OutboxProgress.gateway, {gateway for gateway, _, _ in known}),
            Batch.last > OutboxProgress.through,
            Batch.first > OutboxProgress.through - _LONGEST,
        )
        .order_by(Batch.gateway, Batch.store, Batch.channel, Batch.first)
        .limit(_FOLD * len(known))
    )
    followed = dict(known)
    for gateway, store, channel, first, last in found:
        key = (gateway, store, channel)
        if key in followed and first <= followed[key] + 1:
            followed[key] = max(followed[key], last)
    return followed


async def _objects(session: AsyncSession, keys: Collection[_Key]) -> list[OutboxProgress]:
    """Return what is kept of these, in one order."""
    if not keys:
        return []
    wanted = (
        sa.select(OutboxProgress)
        .where(among(session, OutboxProgress.gateway, {gateway for gateway, _, _ in keys}))
        .order_by(OutboxProgress.gateway, OutboxProgress.store, OutboxProgress.channel)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return [row for row in await session.scalars(wanted) if (row.gateway, row.store, row.channel) in keys]


async def _first_missing(session: AsyncSession, progress: OutboxProgress, through: int, now: dt.datetime) -> int | None:
    """Return the first sequence to ask for again, None when the hub has all that the agent knows as receipted.

    What the gateway did not send although it was asked is taken as gone there too, and not asked for any more.
    """
    if through <= progress.through:
        return None
    key = {"gateway": progress.gateway, "store": progress.store, "channel": progress.channel}
    progress.through = await _fold(session, key, progress.through)
    if progress.asked_at is not None and progress.through < progress.asked_through:
        answered = await session.scalar(
            sa.select(sa.func.count())
            .select_from(Batch)
            .filter_by(**key)
            .where(Batch.received_at >= progress.asked_at, Batch.last >= progress.asked_through)
        )
        if answered:
            progress.through = await _fold(session, key, progress.asked_through)
    if through <= progress.through:
        return None
    first = progress.through + 1
    if progress.asked_at is not None and progress.asked_first == first and now - progress.asked_at < ASK_AGAIN:
        return None
    progress.asked_first, progress.asked_through, progress.asked_at = first, through, now
    _log.warning(
        "rows_asked_for_again", store=progress.store.hex(), channel=progress.channel, first=first, through=through
    )
    return first


async def _fold(session: AsyncSession, key: dict[str, object], through: int) -> int:
    """Follow the batches from ``through`` as far as they go without a gap."""
    while True:
        found = (
            await session.execute(
                sa.select(Batch.first, Batch.last)
                .filter_by(**key)
                .where(Batch.last > through, Batch.first > through - _LONGEST)
                .order_by(Batch.first)
                .limit(_FOLD)
            )
        ).all()
        before = through
        for first, last in found:
            if first > through + 1:
                return through
            through = max(through, last)
        if through == before:
            return through
