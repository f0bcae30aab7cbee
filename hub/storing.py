"""The path of one batch, from the MQTT payload to its receipt. It is this page; everything else is what it calls.

``hear`` puts what the broker has brought into a lane (``hub.lanes``), or drops it when the lanes are full: its agent
sends again what has no receipt, and slower. From there several ``carry_some`` carry it, side by side, a group at a time
each, so that the database works on one group while the next is opened and the one before is receipted. For a whole
group the transaction (``hub.ingest.store_opened``) does this: has anything changed of the gateways and meters that are
known? (``hub.known_estate``); is it by the key that is pinned for this gateway? (``_admit``); one row in ``batches``
for each (``hub.arrived_batches``); is it a meter and a series that there is, of this gateway? (``hub.judging``; if not:
``hub.staging``); one INSERT for all that is plain and new (``hub.plain_readings``); is the rest new, repeated or
another version? (``hub.versions``); notes for the clerks who have to look at these (``hub.ledger_pending``,
``hub.unjudged``); COMMIT.

Rules: nothing is receipted but what is committed. What the database could not take goes back into its lane; where it
cannot take a group, each delivery is tried by itself (``hub.failures.all_or_each``). What waits is bounded in bytes. On
PostgreSQL two groups are stored at once (``hub.turns``): one of its processes works for each connection, and the second
works while the first waits for this process. They meet as those of two relays do.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.failures import DATABASE_ERRORS, all_or_each
from hub.ingest import STAGED, Delivery, Opened, Outcome, open_delivery, store_opened
from hub.lanes import Lanes
from hub.sending import Sending
from hub.settings import Settings
from hub.storing_figures import StoringFigures
from hub.turns import Turns
from mqtt.connection import Incoming
from protocol.topics import Channel

STORED_AT_ONCE = {"sqlite": 2, "postgresql": 2}
"""Groups that are stored at once. SQLite has one writer: there one is made ready while the other is written."""

BESIDE = 2
"""Groups beside those: one is opened, one receipted."""

UNPAUSED_SECONDS = {"sqlite": 0.0005, "postgresql": 0.002}
"""How long deliveries are opened until everything else in the process has a turn: a transaction of SQLite comes back
to the loop a dozen times and waits for it each time."""

_log = structlog.get_logger(__name__)


class Storing:
    """Stores what gateways deliver, and receipts it. ``staged`` is set when something was stored that has to wait."""

    def __init__(self, settings: Settings, engine: AsyncEngine, clock: Clock, turns: Turns, sending: Sending) -> None:
        self.staged = asyncio.Event()
        self.carriers = turns.together + BESIDE
        """How many should carry side by side."""
        self.lanes = Lanes(settings.queue_bytes)
        self.figures = StoringFigures(clock, self.lanes)
        self._settings = settings
        self._engine = engine
        self._clock = clock
        self._turns = turns
        self._sending = sending
        self._unpaused = UNPAUSED_SECONDS[engine.dialect.name]
        self._opening = asyncio.Lock()

    def hear(self, message: Incoming, channel: Channel) -> None:
        """Take a delivery that the broker has brought."""
        delivery = Delivery(message.topic, message.payload, message.user_properties, self._clock.now())
        if not self.lanes.put(delivery, channel):
            self.figures.no_room(delivery, self._settings.queue_bytes)

    async def carry_some(self) -> None:
        """Wait for deliveries; carry a group of them from payload to receipt.

        Raises:
            SQLAlchemyError, OSError: the database is away; the group waits to be carried again.
        """
        async with self._opening:
            deliveries = await self.lanes.take()
            opened = await self._open(deliveries)
        try:
            outcomes = await self._store(opened)
        except DATABASE_ERRORS:
            # Their agents would send them again, but only after a time that is long enough for a fleet's return.
            self.lanes.put_back(deliveries)
            raise
        for outcome in outcomes:
            await self._sending.receipt(outcome.receipts, self._clock.now())
        self.lanes.carried(deliveries)

    async def _open(self, deliveries: Sequence[Delivery]) -> list[Opened]:
        """Do what needs no database: is it signed? bytes to rows."""
        opened = []
        counts: Counter[str] = Counter()
        paused = self._clock.monotonic()
        for delivery in deliveries:
            one = open_delivery(delivery, counts)
            if one is not None:
                opened.append(one)
            if self._clock.monotonic() - paused > self._unpaused:
                await asyncio.sleep(0)
                paused = self._clock.monotonic()
        self.figures.count(counts)
        return opened

    async def _store(self, opened: Sequence[Opened]) -> list[Outcome]:
        """Have all of it committed, in one transaction unless the database refuses that."""
        outcomes = []

        async def store(group: Sequence[Opened]) -> None:
            async with self._turns.storing():
                outcome = await store_opened(self._engine, group, self._clock.now(), self._settings.quarantine_rows)
            self.lanes.stored(outcome.seconds, sum(len(one.delivery.payload) for one in group))
            self.figures.stored(group, outcome.seconds)
            self.figures.count(outcome.counts)
            if outcome.counts[STAGED]:
                self.staged.set()
            outcomes.append(outcome)

        def refused(one: Opened, cause: str) -> None:
            _log.error("delivery_failed", topic=one.delivery.topic, cause=cause)

        if opened:
            await all_or_each(opened, store, refused)
        return outcomes

    async def drain(self, silence: float) -> None:
        """Wait until nothing has come for so many seconds, and what came before is stored and receipted."""
        heard = -1
        while heard != self.lanes.heard or self.lanes.in_hand or self.lanes.bytes:
            heard = self.lanes.heard
            await asyncio.sleep(silence)
