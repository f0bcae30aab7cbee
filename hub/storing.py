"""The path of one batch, from the MQTT payload to its receipt. It is this page; everything else is what it calls.

1. ``Storing.hear``: the broker has brought a message. It waits in a lane (``hub.lanes``), or is dropped when the lanes
   are full: its agent sends again what has no receipt, and slower.
2. ``Storing.open_some`` takes as many deliveries of a lane as a transaction should have, and does with each what needs
   no database: ``hub.ingest.open_delivery`` (is it signed? bytes to rows), mostly by way of ``hub.plain_readings``.
3. ``Storing.store_some`` has ``hub.ingest.store_opened`` do one transaction for the group. In it, in this order:
   ``_admit`` (by the key that is pinned for this gateway?), ``hub.arrived_batches`` (one row in ``batches`` for each),
   ``hub.judging`` (is it a meter and series that there is, of this gateway? if not: ``hub.staging``),
   ``hub.plain_readings`` (one INSERT for all that is plain and new), ``hub.versions.store`` (the rest: new, repeated or
   another version?), with them ``hub.ledger_pending`` and ``hub.unjudged`` (clerks have to look at these), COMMIT.
   When the database fails the group goes back into its lane; when only one delivery cannot be stored, each is tried by
   itself (``hub.failures.all_or_each``).
4. ``Storing.receipt_some`` publishes the names of what is committed, those of one gateway together.

``Storing.drain`` waits for the end of it all: a relay that is asked to end takes nothing more and finishes what it has.

Each of steps 2 to 4 is a task of its own, so that the database works on one group while the next is opened and the one
before is receipted; on PostgreSQL step 3 is two.

Rules: nothing is receipted but what is committed. What waits is bounded in bytes. On PostgreSQL two groups are stored
at once (``hub.turns``): one of its processes works for each connection, and the second works while the first waits for
this process. They meet as those of two relays do.
"""

import asyncio
import contextlib
import datetime as dt
import functools
from collections import Counter
from collections.abc import Iterator, Sequence

import prometheus_client
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.failures import DATABASE_ERRORS, all_or_each
from hub.ingest import STAGED, Delivery, Opened, Outcome, open_delivery, store_opened
from hub.lanes import LANES, Lanes
from hub.sending import Sending
from hub.settings import Settings
from hub.turns import Turns
from mqtt.connection import Incoming
from protocol import reports
from protocol.envelopes import ENVELOPE_BYTES
from protocol.topics import Channel

NAMES_PER_RECEIPT = 500
RECEIPT_NAME_BYTES = 64
"""More than one batch's name takes in a receipt."""

UNPAUSED_SECONDS = {"sqlite": 0.0005, "postgresql": 0.002}
"""How long deliveries are opened until everything else in the process has a turn: a transaction of SQLite comes back
to the loop a dozen times and waits for it each time."""

SAY_EVERY = 5.0
"""Seconds between two lines in the log about full lanes."""

STORED_AT_ONCE = {"sqlite": 1, "postgresql": 2}
"""Groups whose transactions are open at once: SQLite has one writer."""

_log = structlog.get_logger(__name__)
_outcomes = prometheus_client.Counter(
    "metergate_relay_outcomes", "What became of deliveries and their rows, by word", ["outcome"]
)
_dropped = prometheus_client.Counter("metergate_relay_dropped", "Messages dropped because the relay's queue was full")
_stored = prometheus_client.Histogram(
    "metergate_relay_store_seconds",
    "One transaction of deliveries, from its begin to its commit",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_receipted = prometheus_client.Counter("metergate_relay_receipts", "Batches receipted, by outcome", ["outcome"])
_took = prometheus_client.Histogram(
    "metergate_relay_delivery_seconds",
    "From when the relay heard a delivery to the commit that stored it",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
_queued = prometheus_client.Gauge("metergate_relay_queued_bytes", "Bytes that wait in the relay to be stored")
_waiting = prometheus_client.Gauge(
    "metergate_relay_waiting_deliveries", "Deliveries that wait in the relay to be stored, by lane", ["lane"]
)
_longest = prometheus_client.Gauge("metergate_relay_waiting_seconds", "For how long the oldest of them has waited")


def _count(counts: Counter[str]) -> None:
    for word, count in counts.items():
        _outcomes.labels(word).inc(count)


class Storing:
    """Stores what gateways deliver, and receipts it. ``staged`` is set when something was stored that has to wait."""

    def __init__(self, settings: Settings, engine: AsyncEngine, clock: Clock, turns: Turns, sending: Sending) -> None:
        self.staged = asyncio.Event()
        self._settings = settings
        self._engine = engine
        self._clock = clock
        self._turns = turns
        self._sending = sending
        self._unpaused = UNPAUSED_SECONDS[engine.dialect.name]
        self._lanes = Lanes(settings.queue_bytes)
        self._opened: asyncio.Queue[list[Opened]] = asyncio.Queue(1)
        self._committed: asyncio.Queue[Outcome] = asyncio.Queue(1)
        _queued.set_function(lambda: self._lanes.bytes)
        for lane in LANES:
            _waiting.labels(lane).set_function(functools.partial(self._lanes.count, lane))
        _longest.set_function(lambda: self._seconds_since(self._lanes.oldest))
        self._heard = 0
        self._busy = 0
        """How many of the steps have something in hand that waits nowhere."""
        self._said_full = -SAY_EVERY
        self._unsaid = 0

    def hear(self, message: Incoming, channel: Channel) -> None:
        """Take a delivery that the broker has brought."""
        self._heard += 1
        delivery = Delivery(message.topic, message.payload, message.user_properties, self._clock.now())
        if not self._lanes.put(delivery, channel):
            self._drop(message.topic)

    async def open_some(self) -> None:
        """Wait for deliveries; open a group of them, while the one before is stored."""
        group = await self._lanes.take()
        with self._at_work():
            await self._open_group(group)

    async def _open_group(self, group: Sequence[Delivery]) -> None:
        counts: Counter[str] = Counter()
        opened = []
        paused = self._clock.monotonic()
        for delivery in group:
            one = open_delivery(delivery, counts)
            if one is not None:
                opened.append(one)
            if self._clock.monotonic() - paused > self._unpaused:
                await asyncio.sleep(0)
                paused = self._clock.monotonic()
        _count(counts)
        if opened:
            await self._opened.put(opened)

    async def store_some(self) -> None:
        """Wait for an opened group; store it.

        Raises:
            SQLAlchemyError, OSError: the database is away; the group waits to be stored again.
        """
        group = await self._opened.get()

        def refused(one: Opened, cause: str) -> None:
            _log.error("delivery_failed", topic=one.delivery.topic, cause=cause)

        with self._at_work():
            try:
                await all_or_each(group, self._store_group, refused)
            except DATABASE_ERRORS:
                # Their agents would send them again, but only after a time that is long enough for a fleet's return.
                self._lanes.put_back([one.delivery for one in group])
                raise

    async def _store_group(self, group: Sequence[Opened]) -> None:
        now = self._clock.now()
        async with self._turns.storing():
            begun = self._clock.monotonic()
            outcome = await store_opened(self._engine, group, now, self._settings.quarantine_rows)
            took = self._clock.monotonic() - begun
        _stored.observe(took)
        committed = self._clock.now()
        for one in group:
            _took.observe(self._seconds_between(one.delivery.received_at, committed))
        self._lanes.stored(took, sum(len(one.delivery.payload) for one in group))
        _count(outcome.counts)
        if outcome.counts[STAGED]:
            self.staged.set()
        await self._committed.put(outcome)

    async def receipt_some(self) -> None:
        """Wait for a committed group; receipt it, while the next one is stored."""
        outcome = await self._committed.get()
        with self._at_work():
            await self._send_receipts(outcome)

    async def drain(self, silence: float) -> None:
        """Wait until nothing has come for so many seconds, and what came before is stored and receipted."""
        heard = -1
        while (
            heard != self._heard or self._busy or self._lanes.bytes or self._opened.qsize() or self._committed.qsize()
        ):
            heard = self._heard
            await asyncio.sleep(silence)

    @property
    def queued_bytes(self) -> int:
        """How many bytes wait to be stored."""
        return self._lanes.bytes

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Have something in hand; begun without an await between it and the queue, so that ``drain`` misses nothing."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1

    def _seconds_since(self, instant: dt.datetime | None) -> float:
        """Return how many real seconds ago that was; none when it never was."""
        return self._seconds_between(instant, self._clock.now()) if instant else 0.0

    def _seconds_between(self, instant: dt.datetime, later: dt.datetime) -> float:
        """Return how many real seconds lie between them; none when the clock was put back."""
        return max(0.0, (later - instant).total_seconds()) / self._clock.rate

    async def _send_receipts(self, outcome: Outcome) -> None:
        connection = self._sending.connection
        if connection is None:
            return
        room = (connection.payload_bytes - ENVELOPE_BYTES - RECEIPT_NAME_BYTES) // RECEIPT_NAME_BYTES
        step = max(1, min(NAMES_PER_RECEIPT, room))
        publishes = []
        for (gateway, channel, word), names in outcome.receipts.items():
            unique = list(dict.fromkeys(names))
            _receipted.labels(word).inc(len(unique))
            for start in range(0, len(unique), step):
                receipt = reports.Receipt(channel, unique[start : start + step], self._clock.now(), word)
                publishes.append(self._sending.send(gateway, Channel.RECEIPT, receipt))
        await asyncio.gather(*publishes)

    def dropped(self, count: int) -> None:
        """Count messages that were dropped."""
        _dropped.inc(count)

    def _drop(self, topic: str) -> None:
        """Count a message that is dropped; say so at most every few seconds, for there may be thousands."""
        self.dropped(1)
        self._unsaid += 1
        now = self._clock.monotonic()
        if now - self._said_full >= SAY_EVERY:
            limit = self._settings.queue_bytes
            _log.warning("relay_queue_full", topic=topic, limit=limit, dropped=self._unsaid)
            self._said_full, self._unsaid = now, 0
