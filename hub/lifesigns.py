"""Life signs of gateways: what they say about themselves, and what the hub owes them for it.

An agent that is ahead of this database shows that the database was put back from a backup: the desired revision is
lifted above the agent's, and rows that the agent knows as receipted and this database does not have are asked for
again. Nobody has to announce a restore. A life sign of an older session than the last one changes nothing; several
relays hear every life sign, and what they do about it may be done twice.
"""

import asyncio
import dataclasses
import datetime as dt
import uuid
from collections import deque
from collections.abc import Collection, Mapping, Sequence

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import dispatch, plans, rivals
from hub.among import among
from hub.database import writing
from hub.ingest import WRONG_KEY
from hub.models import Batch, Gateway, OutboxProgress
from hub.once import insert_once
from mqtt.connection import Incoming
from protocol.envelopes import fingerprint
from protocol.reports import LineFigures, Online, Resend
from protocol.topics import Channel
from protocol.wire import MAX_MESSAGE_BYTES

SIGNS_AT_ONCE = 200
"""Life signs that are noted in one transaction; it locks the rows of their gateways."""

ASK_AGAIN = dt.timedelta(minutes=1)
"""How long a Resend may take to show before it is sent again."""

_FOLD = 1000
_LONGEST = MAX_MESSAGE_BYTES
"""No batch has more rows: each has a byte at least. So those before need not be looked at, however many there are."""

_log = structlog.get_logger(__name__)


class Signs:
    """Life signs as they came that wait to be noted, bounded in bytes: the oldest go first, for they say least."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        """How many bytes wait."""
        self._limit = limit
        self._waiting: deque[Incoming] = deque()
        self._filled = asyncio.Event()

    def put(self, message: Incoming) -> int:
        """Take the life sign; return how many older ones had to go for it."""
        self._waiting.append(message)
        return self._keep_to_limit(len(message.payload))

    def put_back(self, messages: Sequence[Incoming]) -> int:
        """Take back what could not be noted, before all that came since: a later sign is the one that counts."""
        self._waiting.extendleft(reversed(messages))
        return self._keep_to_limit(sum(len(message.payload) for message in messages))

    def _keep_to_limit(self, added: int) -> int:
        gone = 0
        self.bytes += added
        while self.bytes > self._limit and len(self._waiting) > 1:
            self.bytes -= len(self._waiting.popleft().payload)
            gone += 1
        self._filled.set()
        return gone

    async def take(self) -> list[Incoming]:
        """Wait for a life sign; return as many as one transaction should have, oldest first."""
        await self._filled.wait()
        taken = [self._waiting.popleft() for _ in range(min(SIGNS_AT_ONCE, len(self._waiting)))]
        self.bytes -= sum(len(message.payload) for message in taken)
        if not self._waiting:
            self._filled.clear()
        return taken


@dataclasses.dataclass(frozen=True, slots=True)
class LifeSign:
    """A life sign that can be read. ``key`` is the one that its envelope is signed with.

    ``retained`` means that the broker kept it, so that it says nothing about when the gateway was last heard.
    """

    sign: Online
    key: bytes
    retained: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """What the hub owes a gateway that came online."""

    gateway: uuid.UUID
    gateway_id: str
    plan: bool = False
    resends: tuple[Resend, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Owed:
    """What the hub owes gateways for their life signs; it is committed and may be sent."""

    heard: list[Heard]
    commands: list[dispatch.Outgoing]


async def note_life_signs(engine: AsyncEngine, signs: Sequence[LifeSign], now: dt.datetime) -> Owed:
    """Note what gateways say, in one transaction for all; return what they should be answered.

    A fleet that returns gives a thousand life signs in a moment: what costs a round trip is done once for all of them.
    """
    async with writing(engine) as session:
        rows = await _lock_gateways(session, signs, now)
        news: dict[uuid.UUID, Online] = {}
        for one in signs:
            gateway = rows.get(one.sign.gateway)
            if gateway is not None and await _is_its_own(session, gateway, one, now) and _take(gateway, one, now):
                news[gateway.id] = one.sign
        await session.flush()
        online = {key: sign for key, sign in news.items() if sign.online}
        if not online:
            return Owed([], [])
        by_id = {gateway.id: gateway for gateway in rows.values()}
        for served in await dispatch.with_commands_sent(session, online):
            await dispatch.interrupt_of_other_stores(session, served, online[served].store, now)
        fresh = [key for key in online if by_id[key].content_digest is None]
        await plans.raise_changed(session, fresh, now)
        resends = await _missing(session, online, now)
        wanting = await _wanting_plans(session, by_id, online, fresh, now)
        heard = [Heard(key, sign.gateway, key in wanting, resends.get(key, ())) for key, sign in online.items()]
        return Owed(heard, await dispatch.claim_outgoing(session, now, gateways=online))


async def _lock_gateways(session: AsyncSession, signs: Sequence[LifeSign], now: dt.datetime) -> dict[str, Gateway]:
    """Return the gateways that spoke, by their ids in topics, locked in one order; a first key is pinned."""
    found = await session.scalars(
        sa.select(Gateway)
        .where(among(session, Gateway.gateway_id, {one.sign.gateway for one in signs}))
        .order_by(Gateway.gateway_id)
        .with_for_update(key_share=True)
    )
    rows = {gateway.gateway_id: gateway for gateway in found}
    for one in signs:
        gateway = rows.get(one.sign.gateway)
        if gateway is None:
            _log.warning("unknown_gateway", gateway=one.sign.gateway, advice="create it; its agent keeps all")
        elif gateway.public_key is None:
            gateway.public_key = one.key
            gateway.updated_at = now
            _log.info("gateway_key_pinned", gateway=gateway.gateway_id, fingerprint=fingerprint(one.key))
    return rows


async def _is_its_own(session: AsyncSession, gateway: Gateway, one: LifeSign, now: dt.datetime) -> bool:
    """Whether the sign is signed with the gateway's pinned key; another key is reported."""
    if gateway.public_key == one.key:
        return True
    _log.warning("gateway_wrong_key", gateway=gateway.gateway_id, fingerprint=fingerprint(one.key), cause=WRONG_KEY)
    if one.sign.online and not one.retained:
        await rivals.note_key(session, gateway.id, one.key, now)
    return False


def _take(gateway: Gateway, one: LifeSign, now: dt.datetime) -> bool:
    """Note the sign in the gateway's row; False when it is older than what is known."""
    sign = one.sign
    if rivals.is_late(gateway, sign, now):
        return False
    if not _is_newer(gateway, sign, retained=one.retained):
        if sign.online and not one.retained and sign.store == gateway.store_id and sign.session < gateway.session:
            rivals.note_session(gateway, sign, now)
        return False
    if gateway.online != sign.online or gateway.session != sign.session:
        _log.info(
            "gateway_online" if sign.online else "gateway_offline",
            gateway=sign.gateway,
            session=sign.session,
            revision=sign.plan_revision,
            depth=sign.depth,
        )
    if sign.online and not one.retained:
        rivals.note_store(gateway, sign, now)
    _note(gateway, sign, now, retained=one.retained)
    return True


def _is_newer(gateway: Gateway, sign: Online, *, retained: bool) -> bool:
    if sign.session == gateway.session and sign.store == gateway.store_id and sign.online and not gateway.online:
        # Each connection has a session of its own: after its will or goodbye only late messages of it can come.
        return False
    if sign.session >= gateway.session:
        return True
    # A new store may count its sessions anew; neither a will of the old one, nor what a broker kept of it, counts.
    return sign.online and not retained and sign.store != gateway.store_id


def _note(gateway: Gateway, sign: Online, now: dt.datetime, *, retained: bool) -> None:
    gateway.online = sign.online
    gateway.session = sign.session
    gateway.updated_at = now
    gateway.last_seen = max(gateway.last_seen or sign.at, min(sign.at, now)) if retained else now
    if not sign.online:
        # A will was written when the connection began: all else in it is old.
        return
    if gateway.store_id != sign.store:
        gateway.store_id = sign.store
        if sign.session < gateway.applied_session:
            # The new store counts its sessions anew. (Otherwise its PlanApplied may have come before this sign.)
            gateway.applied_session = gateway.applied_sequence = 0
    gateway.software = sign.software
    if sign.sealing_key and sign.sealing_key != gateway.sealing_key:
        # A sign without one does not take it back: the gateway's plan needs none just now.
        gateway.sealing_key, gateway.keys_wanted = sign.sealing_key, True
        _log.info("gateway_sealing_key", gateway=sign.gateway, fingerprint=fingerprint(sign.sealing_key))
    gateway.readings_through = sign.readings_through
    gateway.reports_through = sign.reports_through
    gateway.depth = sign.depth
    gateway.oldest = sign.oldest
    gateway.clock_believed = sign.clock_believed
    gateway.status = sign.status
    gateway.lines = [msgspec.to_builtins(_named(line)) for line in sign.lines]
    if (sign.session, sign.sequence) >= (gateway.applied_session, gateway.applied_sequence):
        gateway.applied_session, gateway.applied_sequence = sign.session, sign.sequence
        gateway.applied_revision = sign.plan_revision
        gateway.applied_digest = sign.plan_digest or None


def _named(line: LineFigures) -> dict[str, object]:
    return {name: getattr(line, name) for name in line.__struct_fields__}


async def _wanting_plans(
    session: AsyncSession,
    rows: Mapping[uuid.UUID, Gateway],
    online: Mapping[uuid.UUID, Online],
    fresh: Collection[uuid.UUID],
    now: dt.datetime,
) -> set[uuid.UUID]:
    """Return the gateways that should get their plans (again).

    Revisions are lifted above those that this database did not give.

    ``fresh``: the rows of these were changed in this transaction, beside the objects.
    """
    if fresh:
        changed = sa.select(Gateway).where(among(session, Gateway.id, fresh)).execution_options(populate_existing=True)
        (await session.scalars(changed)).all()
    unsure = [key for key, sign in online.items() if _runs_desired(rows[key], sign) and not _is_noted(rows[key], sign)]
    desired = await plans.read_desired(session, unsure) if unsure else {}
    wanting = set()
    for key, sign in online.items():
        gateway = rows[key]
        if _runs_desired(gateway, sign):
            if _is_noted(gateway, sign):
                continue
            if key in desired and desired[key].digest == sign.plan_digest:
                # Not noted: the relay that sent it could not write that down. Sent once more, it is.
                if gateway.published_revision != gateway.desired_revision:
                    wanting.add(key)
                continue
        wanting.add(key)
        if sign.plan_revision >= gateway.desired_revision and sign.plan_revision > 0:
            _log.warning(
                "gateway_ahead",
                gateway=sign.gateway,
                revision=sign.plan_revision,
                desired=gateway.desired_revision,
                advice="the database was put back from a backup; the plan is published anew above the gateway's",
            )
            await plans.lift_above(session, gateway.id, sign.plan_revision, now)
    return wanting


def _runs_desired(gateway: Gateway, sign: Online) -> bool:
    return sign.plan_revision == gateway.desired_revision


def _is_noted(gateway: Gateway, sign: Online) -> bool:
    """Whether it is noted that what the gateway runs was published."""
    return gateway.published_revision == sign.plan_revision and gateway.published_digest == sign.plan_digest


_Key = tuple[uuid.UUID, bytes, str]
"""Gateway, store and channel: what an outbox's progress is kept by."""


async def _missing(
    session: AsyncSession, online: Mapping[uuid.UUID, Online], now: dt.datetime
) -> dict[uuid.UUID, tuple[Resend, ...]]:
    """Return what to ask these gateways for again: rows that an agent knows as receipted and the hub does not have."""
    known: dict[_Key, int] = {}
    for gateway, sign in online.items():
        known[gateway, sign.store, Channel.READINGS.value] = sign.readings_through
        known[gateway, sign.store, Channel.REPORT.value] = sign.reports_through
    rows = await _progress(session, known)
    await _follow(session, {key: progress for key, progress in rows.items() if known[key] > progress.through})
    resends: dict[uuid.UUID, tuple[Resend, ...]] = {}
    for key, progress in sorted(rows.items()):
        first = await _first_missing(session, progress, known[key], now)
        if first is not None:
            gateway, store, channel = key
            resends[gateway] = (*resends.get(gateway, ()), Resend(store, channel, first, now))
    return resends


async def _progress(session: AsyncSession, keys: Collection[_Key]) -> dict[_Key, OutboxProgress]:
    """Return how far these outboxes are known to have come, locked in one order; new ones are at their begin."""
    wanted = (
        sa.select(OutboxProgress)
        .where(among(session, OutboxProgress.gateway, {gateway for gateway, _, _ in keys}))
        .order_by(OutboxProgress.gateway, OutboxProgress.store, OutboxProgress.channel)
        .with_for_update()
        .execution_options(populate_existing=True)
    )

    async def there() -> dict[_Key, OutboxProgress]:
        found = {(row.gateway, row.store, row.channel): row for row in await session.scalars(wanted)}
        return {key: row for key, row in found.items() if key in keys}

    rows = await there()
    new = [
        dict(zip(("gateway", "store", "channel"), key, strict=True))
        | {"through": 0, "asked_first": 0, "asked_through": 0, "asked_at": None}
        for key in keys
        if key not in rows
    ]
    if new:
        await insert_once(session, OutboxProgress, new, "gateway", "store", "channel")
        rows = await there()
    return rows


async def _follow(session: AsyncSession, rows: Mapping[_Key, OutboxProgress]) -> None:
    """Follow the batches of all these outboxes as far as they go without a gap, in one question.

    Where it brings too little because there are too many (``_FOLD``), what is missing is asked for one by one.
    """
    if not rows:
        return
    same = sa.and_(
        OutboxProgress.gateway == Batch.gateway,
        OutboxProgress.store == Batch.store,
        OutboxProgress.channel == Batch.channel,
    )
    found = await session.execute(
        sa.select(Batch.gateway, Batch.store, Batch.channel, Batch.first, Batch.last)
        .join(OutboxProgress, same)
        .where(
            among(session, OutboxProgress.gateway, {gateway for gateway, _, _ in rows}),
            Batch.last > OutboxProgress.through,
            Batch.first > OutboxProgress.through - _LONGEST,
        )
        .order_by(Batch.gateway, Batch.store, Batch.channel, Batch.first)
        .limit(_FOLD * len(rows))
    )
    for gateway, store, channel, first, last in found:
        progress = rows.get((gateway, store, channel))
        if progress is not None and first <= progress.through + 1:
            progress.through = max(progress.through, last)


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
