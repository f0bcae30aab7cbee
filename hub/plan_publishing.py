"""Publishing plans: which gateways' desired plans the broker should have, and bringing them there, many at a time.

Rules:
- What is published is what the edit kept (``gateway_plans``), byte for byte; it is rendered where nothing was kept.
- No lock is held while the network is waited for. After the PUBACKs what was published is compared with what is desired
  now, and with what another relay published meanwhile (which may have been overwritten at the broker): where they
  differ the gateway is owed its plan again. Only what is news is written down, in one transaction for all.
- Of several relays one publishes a revision (``hub.plan_claims``): all of them hear of an edit, and of a life sign.
- A plan that cannot be published is simply not: that it is behind remains in the database, and at each connection all
  are owed, because the broker may have lost what it kept.
"""

import asyncio
import itertools
import uuid
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import plans
from hub.clocks import Clock
from hub.connection import Connection
from hub.database import reading, writing
from hub.models import Gateway
from hub.notices import Notice, look_seconds, notices_of, wait
from hub.plan_claims import ALWAYS, HEARD_SECONDS, LEASE_SECONDS, claim
from hub.plans_kept import Published, note_published, standing_of
from hub.sending import Sending
from hub.turns import Turns
from mqtt.connection import BrokerError
from protocol.envelopes import ENVELOPE_BYTES
from protocol.topics import Channel, topic_for
from protocol.wire import MAX_MESSAGE_BYTES

PLANS_AT_ONCE = 200
"""Plans that are read, published and noted together."""

_log = structlog.get_logger(__name__)


class PlanPublisher:
    """Publishes what gateways should run. ``turn`` is what transactions of the relay's groups take turns by."""

    def __init__(self, engine: AsyncEngine, clock: Clock, sending: Sending, turns: Turns) -> None:
        self._engine = engine
        self._clock = clock
        self._sending = sending
        self._turns = turns
        self._wake = notices_of(engine).heard(Notice.PLANS)
        # By gateway from which monotonic instant on it is enough that another relay begins to publish its plan.
        self._owed: dict[uuid.UUID, float] = {}
        self._flying: frozenset[uuid.UUID] = frozenset()

    def owe(self, gateways: Iterable[uuid.UUID]) -> None:
        """Hear that these gateways should get their plans; those that are being published get them anyway."""
        self._add((gateway for gateway in gateways if gateway not in self._flying), HEARD_SECONDS)
        if self._owed:
            self._wake.set()

    def _add(self, gateways: Iterable[uuid.UUID], seconds: float) -> None:
        """Owe these their plans, unless another relay began to publish them within so many seconds, or does later."""
        since = self._clock.monotonic() - seconds
        for gateway in gateways:
            self._owed[gateway] = max(since, self._owed.get(gateway, since))

    async def owe_all(self) -> None:
        """Owe every gateway its plan: the broker may have lost them, and an agent may come before it is heard."""
        async with reading(self._engine) as session:
            found = await session.scalars(sa.select(Gateway.id).where(Gateway.desired_revision > 0))
            # What another relay publishes from now on is there for whoever came to the broker before this relay.
            self._add(found, 0.0)
        self._wake.set()

    async def step(self) -> None:
        """Wait until plans are to be published, and publish all of them."""
        await wait(self._wake, look_seconds(self._engine, self._clock))
        if self._sending.connection is None:
            return
        async with reading(self._engine) as session:
            behind = await session.scalars(
                sa.select(Gateway.id).where(Gateway.desired_revision > Gateway.published_revision)
            )
            self._add(behind, LEASE_SECONDS)
        while self._owed and (connection := self._sending.connection) is not None:
            await self._publish_some(connection)

    async def _publish_some(self, connection: Connection) -> None:
        now = self._clock.monotonic()
        some = {gateway: now - since for gateway, since in itertools.islice(self._owed.items(), PLANS_AT_ONCE)}
        for gateway in some:
            del self._owed[gateway]
        self._flying = left = frozenset(some)
        try:
            mine = await claim(self._engine, some)
            async with reading(self._engine) as session:
                found = await plans.read_desired(session, list(mine)) if mine else {}
            done = await asyncio.gather(*(self._publish(connection, plan) for plan in found.values()))
            published = {gateway: plan for (gateway, plan), sent in zip(found.items(), done, strict=True) if sent}
            left = await self._settle(published) if published else frozenset()
        finally:
            # Also when the database fails.
            self._flying = frozenset()
            self._add(left, ALWAYS)

    async def _publish(self, connection: Connection, plan: plans.Rendered) -> bool:
        """Publish a plan; return whether the broker has it."""
        topic = topic_for(plan.gateway, Channel.PLAN)
        size, limit = len(plan.body) + ENVELOPE_BYTES, min(connection.payload_bytes, MAX_MESSAGE_BYTES)
        if size > limit:
            advice = "raise the broker's maximum packet size, or give some of its meters to another gateway"
            _log.error("plan_too_large", gateway=plan.gateway, size=size, limit=limit, advice=advice)
            return False
        try:
            await connection.publish(topic, self._sending.seal(topic, plan.body), retain=True)
        except BrokerError as error:
            _log.warning("plan_not_published", gateway=plan.gateway, cause=str(error))
            return False
        return True

    async def _settle(self, found: Mapping[uuid.UUID, plans.Rendered]) -> frozenset[uuid.UUID]:
        """Note what was published; return the gateways that the broker should have another plan of."""
        published = [Published(key, plan.revision, plan.body, plan.digest) for key, plan in found.items()]
        async with reading(self._engine) as session:
            standings = await standing_of(session, published)
        news = [one for one in published if one.gateway in standings and not standings[one.gateway].knows(one)]
        if news:
            async with self._turns.alone(), writing(self._engine) as session:
                standings |= await note_published(session, news, self._clock.now())
        again = frozenset(
            one.gateway for one in published if one.gateway in standings and not standings[one.gateway].settled(one)
        )
        for one in news:
            if one.gateway not in again:
                plan = found[one.gateway]
                _log.info("plan_published", gateway=plan.gateway, revision=plan.revision, size=len(plan.body))
        return again
