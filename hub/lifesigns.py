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

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import dispatch, plans, rivals
from hub.connection import Incoming
from hub.database import writing
from hub.ingest import WRONG_KEY, pin_key, read_gateways
from hub.models import Batch, Gateway, OutboxProgress
from hub.once import insert_once
from protocol.envelopes import fingerprint
from protocol.reports import Online, Resend
from protocol.topics import Channel

ASK_AGAIN = dt.timedelta(minutes=1)
"""How long a Resend may take to show before it is sent again."""

_FOLD = 1000

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
        gone = 0
        self._waiting.append(message)
        self.bytes += len(message.payload)
        while self.bytes > self._limit and len(self._waiting) > 1:
            self.bytes -= len(self._waiting.popleft().payload)
            gone += 1
        self._filled.set()
        return gone

    async def take(self) -> Incoming:
        """Wait for a life sign and return it, oldest first."""
        await self._filled.wait()
        message = self._waiting.popleft()
        self.bytes -= len(message.payload)
        if not self._waiting:
            self._filled.clear()
        return message


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """What the hub owes a gateway that came online."""

    gateway: uuid.UUID
    gateway_id: str
    plan: bool = False
    resends: tuple[Resend, ...] = ()


async def note_life_sign(
    engine: AsyncEngine, sign: Online, key: bytes, now: dt.datetime, *, retained: bool
) -> Heard | None:
    """Note what the gateway says; return what it should be answered, None when nothing.

    ``key`` is the one that the envelope is signed with; ``retained`` means that the broker kept the message, so that it
    says nothing about when the gateway was last heard.
    """
    async with writing(engine) as session:
        known = (await read_gateways(session, [sign.gateway])).get(sign.gateway)
        if known is None:
            _log.warning("unknown_gateway", gateway=sign.gateway, advice="create it; its agent keeps all")
            return None
        if known.public_key is None:
            known = await pin_key(session, known, key)
        if known.public_key != key:
            _log.warning("gateway_wrong_key", gateway=sign.gateway, fingerprint=fingerprint(key), cause=WRONG_KEY)
            if sign.online and not retained:
                await rivals.note_key(session, known.id, key, now)
            return None
        gateway = (
            await session.execute(sa.select(Gateway).where(Gateway.id == known.id).with_for_update(key_share=True))
        ).scalar_one()
        if not _is_newer(gateway, sign, retained=retained):
            return None
        if gateway.online != sign.online or gateway.session != sign.session:
            _log.info(
                "gateway_online" if sign.online else "gateway_offline",
                gateway=sign.gateway,
                session=sign.session,
                revision=sign.plan_revision,
                depth=sign.depth,
            )
        if sign.online and not retained:
            rivals.note_store(gateway, sign, now)
        _note(gateway, sign, now, retained=retained)
        if not sign.online:
            return None
        await session.flush()
        await dispatch.interrupt_of_other_stores(session, gateway.id, sign.store, now)
        if gateway.content_digest is None:
            await plans.raise_changed(session, [gateway.id], now)
        plan = await _needs_plan(session, gateway, sign, now)
        resends = [
            Resend(sign.store, channel.value, first, now)
            for channel, through in ((Channel.READINGS, sign.readings_through), (Channel.REPORT, sign.reports_through))
            if (first := await missing_from(session, gateway.id, sign.store, channel.value, through, now)) is not None
        ]
        return Heard(gateway.id, sign.gateway, plan, tuple(resends))


def _is_newer(gateway: Gateway, sign: Online, *, retained: bool) -> bool:
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
    gateway.readings_through = sign.readings_through
    gateway.reports_through = sign.reports_through
    gateway.depth = sign.depth
    gateway.oldest = sign.oldest
    gateway.clock_believed = sign.clock_believed
    gateway.status = sign.status
    if (sign.session, sign.sequence) >= (gateway.applied_session, gateway.applied_sequence):
        gateway.applied_session, gateway.applied_sequence = sign.session, sign.sequence
        gateway.applied_revision = sign.plan_revision
        gateway.applied_digest = sign.plan_digest or None


async def _needs_plan(session: AsyncSession, gateway: Gateway, sign: Online, now: dt.datetime) -> bool:
    """Whether the gateway should get its plan (again); lifts the revision above one that this database did not give."""
    await session.refresh(gateway, ["desired_revision", "published_revision", "published_digest"])
    if sign.plan_revision == gateway.desired_revision:
        noted = gateway.published_revision == gateway.desired_revision
        if noted and sign.plan_digest == gateway.published_digest:
            return False
        rendered = await plans.render(session, gateway.id)
        if rendered is not None and rendered.digest == sign.plan_digest:
            # Not noted: the relay that sent it could not write that down. Sent once more, it is.
            return not noted
    if sign.plan_revision >= gateway.desired_revision and sign.plan_revision > 0:
        _log.warning(
            "gateway_ahead",
            gateway=sign.gateway,
            revision=sign.plan_revision,
            desired=gateway.desired_revision,
            advice="the database was put back from a backup; the plan is published anew above the gateway's",
        )
        await plans.lift_above(session, gateway.id, sign.plan_revision, now)
    return True


async def missing_from(
    session: AsyncSession, gateway: uuid.UUID, store: bytes, channel: str, through: int, now: dt.datetime
) -> int | None:
    """Return the first sequence to ask for again, None when the hub has all that the agent knows as receipted.

    What the gateway did not send although it was asked is taken as gone there too, and not asked for any more.
    """
    key = {"gateway": gateway, "store": store, "channel": channel}
    await insert_once(
        session,
        OutboxProgress,
        [key | {"through": 0, "asked_first": 0, "asked_through": 0, "asked_at": None}],
        *key,
    )
    progress = (
        await session.execute(
            sa.select(OutboxProgress).filter_by(**key).with_for_update().execution_options(populate_existing=True)
        )
    ).scalar_one()
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
    _log.warning("rows_asked_for_again", store=store.hex(), channel=channel, first=first, through=through)
    return first


async def _fold(session: AsyncSession, key: dict[str, object], through: int) -> int:
    """Follow the batches from ``through`` as far as they go without a gap."""
    while True:
        found = (
            await session.execute(
                sa.select(Batch.first, Batch.last)
                .filter_by(**key)
                .where(Batch.last > through)
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
