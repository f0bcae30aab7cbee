"""The relay: between the broker and the database. As many as needed may run at once, on one database and broker.

Rules:
- The broker is a wire. What it loses is sent again: batches by their agents, because only receipts count; plans and
  commands by the relay, on each of its connections and on each life sign of a gateway that shows the need.
- Nothing is acknowledged to an agent but what is committed. What the relay holds unprocessed is bounded in bytes;
  beyond that it drops, without a receipt.
- No database lock is held while the network is waited for: what was published is noted by compare-and-set, and looked
  at again after its PUBACK. Nor while this process works on something else: groups of deliveries and of life signs take
  turns (``_turn``), because a transaction that waits for the processor between two statements keeps its rows from
  whoever edits them.

Theory of operation. Four tasks live as long as the relay: *connection* (connect, subscribe, sort what comes in into two
lanes, and again with back-off), *storing* (drain the lane of batches, one transaction for many, then their receipts),
*listening* (life signs and what they are owed), *publishing* (plans and commands that the database has and the broker
has not). ``hub.maintenance`` runs beside them. A message that cannot be published is simply not: the reason that it was
to be published remains in the database.
"""

import asyncio
import contextlib
import functools
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg
import prometheus_client
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import dispatch, plans
from hub.backfilling import Filler
from hub.clerk import keep_ledger
from hub.clocks import Clock
from hub.connection import Connection, connect, read_url
from hub.database import is_out_of_strength, reading, writing
from hub.deadlines_kept import Keeper
from hub.flagging import keep_judging
from hub.ingest import STAGED, Delivery, Outcome, store_deliveries
from hub.key_sealing import Sealer
from hub.lanes import Lanes
from hub.lifesigns import LifeSign, Signs, note_life_signs
from hub.maintenance import maintain
from hub.models import Gateway
from hub.partitions import keep_partitions
from hub.plans_kept import Made, note_published, standing_of
from hub.secrets_box import unseal
from hub.settings import Settings
from hub.webhooks import Sender, Unseal
from mqtt.connection import Access, BrokerError, Incoming, Outgoing
from protocol import reports
from protocol.commands import Command
from protocol.envelopes import ENVELOPE_BYTES, SigningKey, open_envelope
from protocol.topics import HELLO, Channel, parse_topic, relay_filters, topic_for
from protocol.wire import MAX_MESSAGE_BYTES, ContractError, encode

POLL_SECONDS = {"sqlite": 1.0, "postgresql": 0.25}
"""Seconds between two looks for plans and commands. On SQLite only this process writes, and wakes the relay itself."""

RETRY_SECONDS = (0.2, 15.0)
"""Shortest and longest pause before the broker, or the database, is tried again."""

GOODBYE_SECONDS = 2.0
"""How long a relay that ends waits for the broker to take its last word."""

SAY_EVERY = 5.0
"""Seconds between two lines in the log about a full queue."""

PLANS_AT_ONCE = 8
NAMES_PER_RECEIPT = 500
RECEIPT_NAME_BYTES = 64
"""More than one batch's name takes in a receipt."""

DATABASE_ERRORS = (SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a database that is away or refuses raises; asyncpg's own when connecting fails."""

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)
_deliveries = prometheus_client.Counter(
    "metergate_relay_outcomes", "What became of deliveries and their rows, by word", ["outcome"]
)
_dropped = prometheus_client.Counter("metergate_relay_dropped", "Messages dropped because the relay's queue was full")
_stored = prometheus_client.Histogram(
    "metergate_relay_store_seconds",
    "One transaction of deliveries, from its begin to its commit",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_receipted = prometheus_client.Counter("metergate_relay_receipts", "Batches receipted, by outcome", ["outcome"])
_connected = prometheus_client.Gauge("metergate_relay_connected", "Whether the relay is connected and subscribed")
_failures = prometheus_client.Counter("metergate_relay_database_failures", "Steps that the database failed", ["doing"])
_queued = prometheus_client.Gauge("metergate_relay_queued_bytes", "Bytes that wait in the relay to be stored")


async def run_relay(
    settings: Settings,
    engine: AsyncEngine,
    clock: Clock,
    key: SigningKey,
    *,
    ready: asyncio.Event,
    wake: asyncio.Event,
    opens: Unseal | None = None,
) -> None:
    """Relay for ever. ``ready`` is set while it is connected and subscribed; ``wake`` makes it look at the database.

    ``opens`` opens secrets; without it the hub's key does.

    Raises:
        ValueError: when ``settings.broker`` is no broker's URL.
    """
    if settings.broker is None:
        raise ValueError("the relay needs a broker's URL")
    opens = opens or functools.partial(unseal, key)
    relay = Relay(settings, read_url(settings.broker), engine, clock, key, ready, wake, opens)
    await relay.run()


class Relay:
    """One relay; see the module's docstring."""

    def __init__(
        self,
        settings: Settings,
        access: Access,
        engine: AsyncEngine,
        clock: Clock,
        key: SigningKey,
        ready: asyncio.Event,
        wake: asyncio.Event,
        opens: Unseal,
    ) -> None:
        self._settings = settings
        self._access = access
        self._engine = engine
        self._clock = clock
        self._key = key
        self._ready = ready
        self._wake = wake
        self._opens = opens
        self._name = uuid.uuid4().hex[:12]
        self._connection: Connection | None = None
        self._lanes = Lanes(settings.queue_bytes)
        self._signs = Signs(settings.queue_bytes // 4)
        self._adopt = asyncio.Event()
        self._turn = asyncio.Lock()
        self._to_publish: set[uuid.UUID] = set()
        self._said_full = -SAY_EVERY
        self._unsaid = 0

    async def run(self) -> None:
        """Relay until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay_connected(), name="relay-connection")
            group.create_task(self._for_ever("storing", self._store), name="relay-storing")
            group.create_task(self._for_ever("listening", self._listen), name="relay-listening")
            group.create_task(self._for_ever("publishing", self._look_and_publish), name="relay-publishing")
            group.create_task(
                self._for_ever("maintaining", lambda: maintain(self._engine, self._clock, self._adopt)),
                name="relay-maintenance",
            )
            group.create_task(
                self._for_ever("partitions", lambda: keep_partitions(self._engine, self._clock)),
                name="relay-partitions",
            )
            group.create_task(self._for_ever("judging", lambda: keep_judging(self._engine)), name="relay-judging")
            group.create_task(
                self._for_ever("ledger", lambda: keep_ledger(self._engine, self._clock)), name="relay-ledger"
            )
            filler = Filler(self._engine, self._clock)
            group.create_task(self._for_ever("backfilling", filler.keep_on), name="relay-backfilling")
            keeper = Keeper(self._engine, self._clock)
            group.create_task(self._for_ever("keeping deadlines", keeper.keep_on), name="relay-deadlines")
            sender = Sender(self._engine, self._clock, self._opens, self._settings.webhook_hosts)
            group.create_task(self._for_ever("sending webhooks", sender.keep_on), name="relay-webhooks")
            sealer = Sealer(self._engine, self._clock, self._opens)
            group.create_task(self._for_ever("sealing keys", sealer.keep_on), name="relay-sealing")

    async def _for_ever(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step; when the database fails it pauses and goes on, because gateways keep what has no receipt."""
        pause = RETRY_SECONDS[0]
        while True:
            try:
                await step()
                pause = RETRY_SECONDS[0]
            except DATABASE_ERRORS as error:
                _failures.labels(what).inc()
                _log.error("database_failed", doing=what, cause=_first_line(error), pause_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS[1])

    # The connection and what comes in

    async def _stay_connected(self) -> None:
        pause = RETRY_SECONDS[0]
        while True:
            try:
                # Its will: what the broker had given to a relay that is lost nobody else gets, until it is sent again.
                will = Outgoing(HELLO, self._hello())
                async with connect(self._access, 2 * self._settings.queue_bytes, will) as connection:
                    await connection.subscribe(relay_filters())
                    _log.info("relay_connected", broker=str(self._access.address), relay=self._name)
                    pause = RETRY_SECONDS[0]
                    await self._begin(connection)
                    try:
                        await self._sort(connection)
                    except asyncio.CancelledError:
                        await self._say_goodbye(connection)
                        raise
            except (BrokerError, *DATABASE_ERRORS) as error:
                _log.warning("relay_disconnected", cause=_first_line(error), pause_seconds=pause)
            finally:
                self._connection = None
                self._ready.clear()
                _connected.set(0)
            # Jitter, so that relays which lost one broker together do not come back together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, RETRY_SECONDS[1])

    async def _begin(self, connection: Connection) -> None:
        self._connection = connection
        async with reading(self._engine) as session:
            # The broker may have lost them, and an agent may come before its life sign is heard.
            found = await session.scalars(sa.select(Gateway.id).where(Gateway.desired_revision > 0))
            self._to_publish.update(found.all())
        self._wake.set()
        await connection.publish(HELLO, self._hello())
        self._ready.set()
        _connected.set(1)

    def _hello(self) -> bytes:
        return self._sealed(HELLO, reports.Hello(self._clock.now(), self._name))

    async def _say_goodbye(self, connection: Connection) -> None:
        """Say what the will says, because a connection that is closed in order has none."""
        try:
            async with asyncio.timeout(GOODBYE_SECONDS):
                await connection.publish(HELLO, self._hello())
        except (BrokerError, TimeoutError):
            _log.info("goodbye_not_said")

    async def _sort(self, connection: Connection) -> None:
        async for message in connection.messages():
            try:
                channel = parse_topic(message.topic).channel
            except ContractError as error:
                _log.warning("delivery_dropped", topic=message.topic, cause=str(error))
                continue
            if channel is Channel.ONLINE:
                self._hear(message)
                continue
            delivery = Delivery(message.topic, message.payload, message.user_properties, self._clock.now())
            if not self._lanes.put(delivery, channel):
                self._drop(message.topic)
            _queued.set(self._lanes.bytes)

    def _drop(self, topic: str) -> None:
        """Count a message that is dropped; say so at most every few seconds, for there may be thousands."""
        _dropped.inc()
        self._unsaid += 1
        now = self._clock.monotonic()
        if now - self._said_full >= SAY_EVERY:
            limit = self._settings.queue_bytes
            _log.warning("relay_queue_full", topic=topic, limit=limit, dropped=self._unsaid)
            self._said_full, self._unsaid = now, 0

    # Batches and receipts

    async def _store(self) -> None:
        group = await self._lanes.take()
        _queued.set(self._lanes.bytes)

        def refused(delivery: Delivery, cause: str) -> None:
            _log.error("delivery_failed", topic=delivery.topic, cause=cause)

        try:
            await _all_or_each(group, self._store_group, refused)
        except DATABASE_ERRORS:
            # Their agents would send them again, but only after a time that is long enough for a fleet's return.
            self._lanes.put_back(group)
            _queued.set(self._lanes.bytes)
            raise

    async def _store_group(self, group: Sequence[Delivery]) -> None:
        now = self._clock.now()
        async with self._turn:
            begun = self._clock.monotonic()
            outcome = await store_deliveries(self._engine, group, now, self._settings.quarantine_rows)
            took = self._clock.monotonic() - begun
        _stored.observe(took)
        self._lanes.stored(took)
        _count(outcome.counts)
        if outcome.counts[STAGED]:
            self._adopt.set()
        await self._send_receipts(outcome)

    async def _send_receipts(self, outcome: Outcome) -> None:
        connection = self._connection
        if connection is None:
            return
        room = (connection.payload_bytes - ENVELOPE_BYTES - RECEIPT_NAME_BYTES) // RECEIPT_NAME_BYTES
        step = max(1, min(NAMES_PER_RECEIPT, room))
        sending = []
        for (gateway, channel, word), names in outcome.receipts.items():
            unique = list(dict.fromkeys(names))
            _receipted.labels(word).inc(len(unique))
            for start in range(0, len(unique), step):
                receipt = reports.Receipt(channel, unique[start : start + step], self._clock.now(), word)
                sending.append(self._send(gateway, Channel.RECEIPT, receipt))
        await asyncio.gather(*sending)

    # Life signs

    def _hear(self, message: Incoming) -> None:
        self._tell_of_gone(self._signs.put(message))

    def _tell_of_gone(self, gone: int) -> None:
        if gone:
            _dropped.inc(gone)
            _log.warning("life_signs_dropped", count=gone, advice="each gateway gives another within a minute")

    async def _listen(self) -> None:
        messages = await self._signs.take()
        signs = [sign for message in messages if (sign := _read_sign(message)) is not None]

        def refused(sign: LifeSign, cause: str) -> None:
            _log.warning("life_sign_dropped", gateway=sign.sign.gateway, cause=cause)

        try:
            await _all_or_each(signs, self._note, refused)
        except DATABASE_ERRORS:
            # Nobody sends them again while the connection lasts.
            self._tell_of_gone(self._signs.put_back(messages))
            raise

    async def _note(self, signs: Sequence[LifeSign]) -> None:
        """Note life signs, and answer them."""
        if not signs:
            return
        async with self._turn:
            owed = await note_life_signs(self._engine, signs, self._clock.now())
        await asyncio.gather(
            *(self._send(heard.gateway_id, Channel.RECEIPT, resend) for heard in owed.heard for resend in heard.resends)
        )
        wanting = {heard.gateway for heard in owed.heard if heard.plan}
        if wanting:
            self._to_publish |= wanting
            self._wake.set()
        await self._send_commands(owed.commands)

    # Plans and commands

    async def _look_and_publish(self) -> None:
        with contextlib.suppress(TimeoutError):
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with what it waits for.
            async with asyncio.timeout(POLL_SECONDS[self._engine.dialect.name]):
                await self._wake.wait()
        self._wake.clear()
        if self._connection is None:
            await self._end_overdue()
            return
        now = self._clock.now()
        async with reading(self._engine) as session:
            behind = await session.scalars(
                sa.select(Gateway.id).where(Gateway.desired_revision > Gateway.published_revision)
            )
            self._to_publish.update(behind.all())
            work = await dispatch.has_work(session, now)
        if work:
            # In one transaction: somebody waits for the command, and each one waits for its turn to write.
            async with writing(self._engine) as session:
                await dispatch.end_overdue(session, now)
                outgoing = await dispatch.claim_outgoing(session, now)
            await self._send_commands(outgoing)
        some = [self._to_publish.pop() for _ in range(min(PLANS_AT_ONCE, len(self._to_publish)))]
        await asyncio.gather(*(self._publish_plan(gateway) for gateway in some))
        if self._to_publish and self._connection is not None:
            self._wake.set()

    async def _end_overdue(self) -> None:
        now = self._clock.now()
        async with reading(self._engine) as session:
            work = await dispatch.has_work(session, now)
        if work:
            async with writing(self._engine) as session:
                await dispatch.end_overdue(session, now)

    async def _send_commands(self, outgoing: list[dispatch.Outgoing]) -> None:
        failed = []
        for one in outgoing:
            # The broker counts real seconds.
            expiry = max(1, int(one.expiry_seconds / self._clock.rate))
            if await self._send(one.gateway, Channel.COMMAND, one.command, expiry=expiry):
                _log.info("command_sent", gateway=one.gateway, command=str(one.command.cancels or one.command.id))
            else:
                failed.append(one)
        if failed:
            async with writing(self._engine) as session:
                await dispatch.give_back(session, failed, self._clock.now())

    async def _publish_plan(self, gateway: uuid.UUID) -> None:
        """Publish the desired plan, and again while another revision is desired or was published meanwhile."""
        while True:
            async with reading(self._engine) as session:
                rendered = await plans.render(session, gateway)
            if rendered is None:
                return
            topic = topic_for(rendered.gateway, Channel.PLAN)
            connection = self._connection
            if connection is None:
                return
            size, limit = len(rendered.body) + ENVELOPE_BYTES, min(connection.payload_bytes, MAX_MESSAGE_BYTES)
            if size > limit:
                advice = "raise the broker's maximum packet size, or give some of its meters to another gateway"
                _log.error("plan_too_large", gateway=rendered.gateway, size=size, limit=limit, advice=advice)
                return
            payload = self._key.seal(topic, rendered.body)
            try:
                await connection.publish(topic, payload, retain=True)
            except BrokerError as error:
                _log.warning("plan_not_published", gateway=rendered.gateway, cause=str(error))
                return
            if await self._note_published(gateway, rendered):
                _log.info("plan_published", gateway=rendered.gateway, revision=rendered.revision, size=len(payload))
                return

    async def _note_published(self, gateway: uuid.UUID, rendered: plans.Rendered) -> bool:
        """Note what was published; return whether it is what the broker should keep."""
        async with self._turn, writing(self._engine) as session:
            await session.execute(
                sa.update(Gateway)
                .where(Gateway.id == gateway, Gateway.published_revision <= rendered.revision)
                .values(published_revision=rendered.revision, published_digest=rendered.digest)
                .execution_options(synchronize_session=False)
            )
            row = (await session.execute(standing_of(gateway, rendered.revision))).one_or_none()
            if row is not None and (row.published_at is None or row.digest != rendered.digest):
                made_at = row.desired_at if row.desired_revision == rendered.revision else None
                one, now = Made(gateway, rendered.revision, rendered.body), self._clock.now()
                await note_published(session, one, made_at or now, now, kept=row.digest is not None)
        return row is None or (row.desired_revision <= rendered.revision >= row.published_revision)

    # Sending

    async def _send(
        self,
        gateway: str,
        channel: Channel,
        message: reports.Receipt | reports.Resend | Command,
        *,
        expiry: int | None = None,
    ) -> bool:
        """Sign and publish; return whether there is nothing more to try now. Why it is sent stands in the database."""
        connection = self._connection
        topic = topic_for(gateway, channel)
        if connection is None:
            return False
        payload = self._sealed(topic, message)
        if len(payload) > connection.payload_bytes:
            # The broker would end the connection, and all others' messages with it.
            _log.error("too_large_for_broker", topic=topic, size=len(payload), limit=connection.payload_bytes)
            return True
        try:
            await connection.publish(topic, payload, expiry=expiry)
        except BrokerError as error:
            _log.warning("not_published", topic=topic, cause=str(error))
            return False
        return True

    def _sealed(self, topic: str, message: reports.Receipt | reports.Resend | reports.Hello | Command) -> bytes:
        return self._key.seal(topic, encode(message))


def _read_sign(message: Incoming) -> LifeSign | None:
    """Open a life sign; None, and a word in the log, when it is none."""
    if not message.payload:
        return None
    try:
        topic = parse_topic(message.topic)
        envelope = open_envelope(message.topic, message.payload)
        sign = reports.decode_online(envelope.body)
    except ContractError as error:
        _log.warning("life_sign_dropped", topic=message.topic, cause=str(error))
        return None
    if sign.gateway != topic.gateway:
        _log.warning("life_sign_dropped", topic=message.topic, cause=f"it is {sign.gateway}'s")
        return None
    return LifeSign(sign, envelope.key, message.retained)


async def _all_or_each(
    group: Sequence[_T], work: Callable[[Sequence[_T]], Awaitable[None]], refused: Callable[[_T, str], None]
) -> None:
    """Do the work for all of a group; where the database cannot take that, for each one by itself.

    One that it cannot take must not keep the others waiting; what is told of it is up to ``refused``.

    Raises:
        DBAPIError: when the database is away, or cannot work now: nobody's fault, and worth another try.
    """
    try:
        await work(group)
    except DBAPIError as error:
        if _is_away(error):
            raise
        _log.warning("group_failed", size=len(group), cause=_first_line(error))
    else:
        return
    for one in group:
        try:
            await work([one])
        except DBAPIError as error:
            if _is_away(error):
                raise
            refused(one, _first_line(error))


def _is_away(error: DBAPIError) -> bool:
    if isinstance(error, InterfaceError) and isinstance(getattr(error.orig, "__cause__", None), ValueError):
        # The driver calls a value that it cannot send an error of its interface; tried again it is no better.
        return False
    return isinstance(error, (OperationalError, InterfaceError)) or is_out_of_strength(error)


def _count(counts: Counter[str]) -> None:
    for word, count in counts.items():
        _deliveries.labels(word).inc(count)


def _first_line(error: Exception) -> str:
    # A database's error repeats statement and values; the first line says what happened.
    return f"{type(error).__name__}: {error}".partition("\n")[0][:500]
