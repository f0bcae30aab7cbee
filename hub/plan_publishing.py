"""Publishing plans: which gateways' desired plans the broker should have, and bringing them there, many at a time.

Rules:
- What is published is what the edit kept (``gateway_plans``), byte for byte; it is rendered where nothing was kept.
- No lock is held while the network is waited for. After the PUBACKs what was published is compared with what is desired
  now, and with what another relay published meanwhile (which may have been overwritten at the broker): where they
  differ the gateway is owed its plan again. Only what is news is written down, in one transaction for all.
- Publishing does not wait for what was published to be noted, which takes turns with reports and life signs; a gateway
  whose plan is on the way is not given another one until that is noted. What waits to be noted is bounded in bytes.
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
from hub.plans_kept import Published, Standing, note_published, standing_of
from hub.sending import Sending
from hub.turns import Turns
from mqtt.connection import BrokerError
from protocol.envelopes import ENVELOPE_BYTES
from protocol.topics import Channel, topic_for
from protocol.wire import MAX_MESSAGE_BYTES

PLANS_AT_ONCE = 500
"""Plans that are read and published together."""

GROUPS = 2
"""While one group is published the next is read."""

UNNOTED_BYTES = 8 * 1024 * 1024
"""Published plans that wait to be noted may have so many bytes until no further group is begun."""

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
        # From when a plan is taken until it is noted, or was not published.
        self._flying: set[uuid.UUID] = set()
        self._unnoted: dict[uuid.UUID, plans.Rendered] = {}
        self._published = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

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
            self._add((gateway for gateway in behind if gateway not in self._flying), LEASE_SECONDS)
        done = await asyncio.gather(*(self._publish_all() for _ in range(GROUPS)), return_exceptions=True)
        for error in filter(None, done):
            raise error

    async def _publish_all(self) -> None:
        while (some := self._take_some()) and (connection := self._sending.connection) is not None:
            await self._publish_some(connection, some)
            await self._room.wait()

    def _take_some(self) -> dict[uuid.UUID, float]:
        """Take the next that are owed; those that are under way are looked at again when they are noted."""
        now = self._clock.monotonic()
        free = (one for one in self._owed.items() if one[0] not in self._flying)
        return {gateway: now - since for gateway, since in itertools.islice(free, PLANS_AT_ONCE)}

    async def _publish_some(self, connection: Connection, some: Mapping[uuid.UUID, float]) -> None:
        for gateway in some:
            del self._owed[gateway]
        self._flying |= some.keys()
        found: dict[uuid.UUID, plans.Rendered] | None = None
        try:
            mine = await claim(self._engine, some)
            async with reading(self._engine) as session:
                found = await plans.read_desired(session, list(mine)) if mine else {}
            done = await asyncio.gather(*(self._publish(connection, plan) for plan in found.values()))
            self._unnoted |= {gateway: plan for (gateway, plan), sent in zip(found.items(), done, strict=True) if sent}
        finally:
            self._flying -= some.keys() - self._unnoted.keys()
            if found is None:
                # The database failed.
                self._add(some, ALWAYS)
        self._look_at_room()
        if self._unnoted:
            self._published.set()

    def _look_at_room(self) -> None:
        if sum(len(plan.body) for plan in self._unnoted.values()) < UNNOTED_BYTES:
            self._room.set()
        else:
            self._room.clear()

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

    async def note(self) -> None:
        """Wait until plans were published, and note them; where the broker should have another one it is owed.

        Raises:
            SQLAlchemyError, OSError: the database is away; the plans are published again.
        """
        await self._published.wait()
        self._published.clear()
        found, self._unnoted = self._unnoted, {}
        self._look_at_room()
        left: Iterable[uuid.UUID] = found
        try:
            left = await self._settle(found)
        finally:
            # Also when the database fails.
            self._flying -= found.keys()
            self._add(left, ALWAYS)
            if self._owed:
                self._wake.set()

    async def _settle(self, found: Mapping[uuid.UUID, plans.Rendered]) -> frozenset[uuid.UUID]:
        """Note what was published; return the gateways that the broker should have another plan of."""
        published = {key: Published(key, plan.revision, plan.body, plan.digest) for key, plan in found.items()}
        known = [one for one in published.values() if found[one.gateway].noted]
        news = [one for one in published.values() if not found[one.gateway].noted]
        standings: dict[uuid.UUID, Standing] = {}
        if known:
            async with reading(self._engine) as session:
                standings = await standing_of(session, known)
            news += [one for one in known if one.gateway in standings and not standings[one.gateway].knows(one)]
        if news:
            async with self._turns.alone(), writing(self._engine) as session:
                standings |= await note_published(session, news, self._clock.now())
        again = frozenset(key for key, one in published.items() if key in standings and not standings[key].settled(one))
        for one in news:
            if one.gateway in standings and one.gateway not in again:
                plan = found[one.gateway]
                _log.info("plan_published", gateway=plan.gateway, revision=plan.revision, size=len(plan.body))
        return again
