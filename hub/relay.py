"""The relay: between the broker and the database. As many as needed may run at once, on one database and broker.

Rules:
- The broker is a wire. What it loses is sent again: batches by their agents, because only receipts count; plans and
  commands by the relay, on each of its connections and on each life sign of a gateway that shows the need.
- Nothing is acknowledged to an agent but what is committed. What the relay holds unprocessed is bounded in bytes;
  beyond that it drops, without a receipt.
- No database lock is held while the network is waited for: what was published is noted by compare-and-set, and looked
  at again after its PUBACK. Nor while this process works on something else: groups of deliveries and of life signs take
  turns (``hub.turns``), because a transaction that waits for the processor between two statements keeps its rows from
  whoever edits them.
- A relay that is asked to end leaves its share to the others (unsubscribes), stores and receipts what it was given, and
  ends without a word. Only where that does not succeed in time do gateways hear that they have to send again.

Theory of operation. Five tasks live as long as the relay: *connection* (connect, subscribe, sort what comes in, and
again with back-off), *storing* (batches, and their receipts: ``hub.storing`` has the whole path on a page),
*listening* (life signs and what they are owed), and two that publish what the database has and the broker has not:
*commands* (``hub.command_publishing``) and *plans* (``hub.plan_publishing``; a task of its own notes what was
published). ``hub.maintenance`` runs beside them. A message that cannot be published is simply not: the reason that it
was to be published remains in the database.
"""

import asyncio
import contextlib
import functools
import random
import uuid
from collections.abc import Sequence

import prometheus_client
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.backfilling import Filler
from hub.clerk import keep_ledger
from hub.clocks import Clock
from hub.command_publishing import CommandPublisher
from hub.connection import Connection, connect, read_url
from hub.deadlines_kept import Keeper
from hub.failures import DATABASE_ERRORS, RETRY_SECONDS, all_or_each, first_line, for_ever
from hub.flagging import keep_judging
from hub.key_sealing import Sealer
from hub.lifesigns import note_life_signs
from hub.maintenance import maintain
from hub.notices import Notice, notices_of
from hub.outbox_progress import forget_asked
from hub.partitions import keep_partitions
from hub.plan_publishing import PlanPublisher
from hub.secrets_box import unseal
from hub.sending import Sending
from hub.settings import Settings
from hub.signs_waiting import LifeSign, Signs
from hub.storing import STORED_AT_ONCE, Storing
from hub.turns import Turns
from hub.webhooks import Sender, Unseal
from mqtt.connection import Access, BrokerError, Incoming, Outgoing, RefusedError
from protocol import reports
from protocol.envelopes import SigningKey
from protocol.topics import HELLO, Channel, echo_topic, parse_topic, relay_filters
from protocol.wire import ContractError

DRAIN_SECONDS = 5.0
"""How long a relay that is asked to end may take to store and receipt what it has."""

DRAIN_SILENCE = 0.2
"""Seconds without a delivery, after what the relay said to itself came back, for brokers that keep no such order."""

GOODBYE_SECONDS = 2.0
"""How long a relay that ends waits for the broker to take its last word."""

_log = structlog.get_logger(__name__)
_connected = prometheus_client.Gauge("metergate_relay_connected", "Whether the relay is connected and subscribed")


async def run_relay(
    settings: Settings,
    engine: AsyncEngine,
    clock: Clock,
    key: SigningKey,
    *,
    ready: asyncio.Event,
    stopping: asyncio.Event | None = None,
    opens: Unseal | None = None,
) -> None:
    """Relay until ``stopping`` is set, and then for as long as what is here needs to be stored and receipted.

    ``ready`` is set while it is connected and subscribed. Cancelled, it ends with what is here unstored.

    What is to be published it hears by ``hub.notices``, and looks for at intervals. ``opens`` opens secrets; without
    it the hub's key does.

    Raises:
        ValueError: when ``settings.broker`` is no broker's URL.
    """
    if settings.broker is None:
        raise ValueError("the relay needs a broker's URL")
    opens = opens or functools.partial(unseal, key)
    relay = Relay(settings, read_url(settings.broker), engine, clock, key, ready, opens)
    await relay.run(stopping or asyncio.Event())


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
        opens: Unseal,
    ) -> None:
        self._settings = settings
        self._access = access
        self._engine = engine
        self._clock = clock
        self._ready = ready
        self._opens = opens
        self._name = uuid.uuid4().hex[:12]
        self._signs = Signs(settings.queue_bytes // 4)
        self._ending = False
        self._drained = False
        self._echo = echo_topic(self._name)
        self._echoed = asyncio.Event()
        self._turns = Turns(STORED_AT_ONCE[engine.dialect.name])
        self._sending = Sending(key)
        self._storing = Storing(settings, engine, clock, self._turns, self._sending)
        self._commands = CommandPublisher(engine, clock, self._sending)
        self._plans = PlanPublisher(engine, clock, self._sending, self._turns)

    async def run(self, stopping: asyncio.Event) -> None:
        """Relay until ``stopping`` is set; then finish what has come, within ``DRAIN_SECONDS``."""
        async with asyncio.TaskGroup() as group:
            storing = group.create_task(self._keep_storing(), name="relay-storing")
            rest = group.create_task(self._keep_publishing(), name="relay-publishing")
            await stopping.wait()
            rest.cancel()
            await self._drain()
            storing.cancel()

    async def _keep_storing(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay_connected(), name="relay-connection")
            for number in range(self._storing.carriers):
                group.create_task(for_ever("storing", self._storing.carry_some), name=f"relay-storing-{number}")

    async def _keep_publishing(self) -> None:
        """Do all that others do as well when this relay ends."""
        async with asyncio.TaskGroup() as group:
            group.create_task(for_ever("listening", self._listen), name="relay-listening")
            # Two tasks: a command does not wait behind a thousand plans.
            group.create_task(for_ever("publishing commands", self._commands.step), name="relay-commands")
            group.create_task(for_ever("publishing plans", self._plans.step), name="relay-plans")
            group.create_task(for_ever("noting plans", self._plans.note), name="relay-plans-noted")
            group.create_task(
                for_ever("maintaining", lambda: maintain(self._engine, self._clock, self._storing.staged)),
                name="relay-maintenance",
            )
            group.create_task(
                for_ever("partitions", lambda: keep_partitions(self._engine, self._clock)),
                name="relay-partitions",
            )
            group.create_task(for_ever("judging", lambda: keep_judging(self._engine)), name="relay-judging")
            group.create_task(for_ever("ledger", lambda: keep_ledger(self._engine, self._clock)), name="relay-ledger")
            filler = Filler(self._engine, self._clock)
            group.create_task(for_ever("backfilling", filler.keep_on), name="relay-backfilling")
            keeper = Keeper(self._engine, self._clock)
            group.create_task(for_ever("keeping deadlines", keeper.keep_on), name="relay-deadlines")
            sender = Sender(self._engine, self._clock, self._opens, self._settings.webhook_hosts)
            group.create_task(for_ever("sending webhooks", sender.keep_on), name="relay-webhooks")
            sealer = Sealer(self._engine, self._clock, self._opens)
            group.create_task(for_ever("sealing keys", sealer.keep_on), name="relay-sealing")

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
                _log.warning("relay_disconnected", cause=first_line(error), pause_seconds=pause)
            finally:
                self._sending.connection = None
                self._ready.clear()
                _connected.set(0)
            if self._ending:
                return
            # Jitter, so that relays which lost one broker together do not come back together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, RETRY_SECONDS[1])

    async def _begin(self, connection: Connection) -> None:
        self._sending.connection = connection
        await self._plans.owe_all()
        notices_of(self._engine).hear(Notice.COMMANDS)
        with contextlib.suppress(RefusedError):
            # It hurries gateways, no more than that; the log says that the broker does not allow it.
            await connection.publish(HELLO, self._hello())
        self._ready.set()
        _connected.set(1)

    def _hello(self) -> bytes:
        return self._sending.sealed(HELLO, reports.Hello(self._clock.now(), self._name))

    async def _drain(self) -> None:
        """Take nothing more from the broker, and wait until what it gave us is stored and receipted.

        What was delivered to us is acknowledged before anybody has looked at it (``mqtt.connection``), so the broker
        gives it to nobody else. When all of it has its receipt, no gateway needs to hear that this relay is gone.
        """
        connection = self._sending.connection
        self._ending = True
        if connection is None:
            # Nobody would hear a receipt.
            return
        self._ready.clear()
        begun = self._clock.monotonic()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await connection.unsubscribe(relay_filters())
                # What the broker has for us already comes after the UNSUBACK too; this comes behind it.
                await connection.subscribe([self._echo])
                await connection.publish(self._echo, b"")
                await self._echoed.wait()
                await self._storing.drain(DRAIN_SILENCE)
        except (BrokerError, TimeoutError):
            _log.warning("relay_not_drained", queued_bytes=self._storing.lanes.bytes, advice="gateways send it again")
            return
        self._drained = self._sending.connection is connection
        _log.info("relay_drained", seconds=round(self._clock.monotonic() - begun, 3))

    async def _say_goodbye(self, connection: Connection) -> None:
        """Say what the will says, because a connection that is closed in order has none."""
        if self._drained:
            return
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
                if message.topic == self._echo:
                    self._echoed.set()
                else:
                    _log.warning("delivery_dropped", topic=message.topic, cause=str(error))
                continue
            if channel is Channel.ONLINE:
                self._hear(message)
                continue
            self._storing.hear(message, channel)

    # Life signs

    def _hear(self, message: Incoming) -> None:
        self._tell_of_gone(self._signs.put(message))

    def _tell_of_gone(self, gone: int) -> None:
        if gone:
            self._storing.figures.dropped(gone)
            _log.warning("life_signs_dropped", count=gone, advice="each gateway gives another within a minute")

    async def _listen(self) -> None:
        signs = await self._signs.take()

        def refused(sign: LifeSign, cause: str) -> None:
            _log.warning("life_sign_dropped", gateway=sign.sign.gateway, cause=cause)

        try:
            await all_or_each(signs, self._note, refused)
        except DATABASE_ERRORS:
            # Nobody sends them again while the connection lasts.
            self._tell_of_gone(self._signs.put_back(signs))
            raise

    async def _note(self, signs: Sequence[LifeSign]) -> None:
        """Note life signs, and answer them."""
        if not signs:
            return
        async with self._turns.alone():
            owed = await note_life_signs(self._engine, signs, self._clock.now())
        resends = [(heard, resend) for heard in owed.heard for resend in heard.resends]
        sent = await asyncio.gather(
            *(self._sending.send(heard.gateway_id, Channel.RECEIPT, resend) for heard, resend in resends)
        )
        unsent = [(heard.gateway, resend) for (heard, resend), done in zip(resends, sent, strict=True) if not done]
        wanting = {heard.gateway for heard in owed.heard if heard.plan}
        self._plans.owe(wanting)
        await self._commands.send(owed.commands)
        if unsent:
            await forget_asked(self._engine, unsent)
