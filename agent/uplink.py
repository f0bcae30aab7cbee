"""The uplink: the agent's one connection to the broker, and what goes through it.

Clean start; subscribe and check every SUBACK; then say that we are online. The broker is a wire: whatever it loses is
sent again, until the hub's receipt has come. The hub's messages are believed by its key, pinned at first sight or by
the settings; callers are believed by their keys in the plan (``agent.commands``).
"""

import asyncio
import collections
import random
import secrets
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec
import structlog

from agent import metrics
from agent.clocks import Clock
from agent.sender import Sender
from agent.settings import AgentSettings
from agent.storage_faults import StoreFullError
from agent.store import Store
from agent.trust import ClockTrust
from mqtt.connection import Access, BrokerError, Connection, Incoming, Outgoing, connect
from protocol.envelopes import Signed, SigningKey, fingerprint, open_envelope
from protocol.reports import Online, Receipt, decode_receipt
from protocol.topics import HELLO, Channel, agent_filters, parse_topic, topic_for
from protocol.wire import ContractError, encode

log = structlog.get_logger(__name__)

REPLY_EXPIRY = 3600
"""Seconds that a broker keeps an answer for a caller that is away."""

MOST_REPLIES = 1000
"""Answers that wait for a connection; the oldest go first (the hub has every step anyway)."""

ANNOUNCE_EVERY = 60.0
ANNOUNCE_PAUSE = 2.0
"""Real seconds between two life signs: at most so long, and at least so long unless something else changed."""

READINGS_AFTER = 0.05
"""Seconds by which readings follow a command's state that was stored with them: who waits for the result has them in
it, and a small hub would store them while it answers."""

_HELLO_WITHIN = 2.0
"""Seconds after a relay's start within which gateways answer it: a fleet should not do so in one moment."""

_STEADY = 30.0
"""A connection that lasted so many seconds ends the back-off."""

_HUB_KEY = "hub_key"


def pauses_between(shortest: float, longest: float) -> Iterator[float]:
    """Yield for ever how long (s) to wait before the next attempt: twice as long each time, bounded, with jitter."""
    pause = shortest
    while True:
        # Gateways that lost one broker together do not come back together.
        yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
        pause = min(pause * 2, longest)


class Listener(Protocol):
    """Who hears what comes in. Each may raise ContractError for what cannot be read."""

    def take_plan(self, body: bytes) -> None:
        """Hear a plan that the hub signed."""

    def take_command(self, body: bytes) -> None:
        """Hear a command that the hub signed."""

    def take_push(self, name: str, payload: bytes) -> None:
        """Hear what somebody pushed to the topic of the endpoint ``mqtt:NAME``; nobody has signed it."""

    def take_invocation(
        self, caller: str, key: bytes, body: bytes, *, misdirected: bool, correlation: bytes | None
    ) -> None:
        """Hear a command on a caller's topic; whether the caller may is still to be judged."""


class Uplink:
    """Keeps the connection up and both outboxes moving."""

    def __init__(
        self,
        settings: AgentSettings,
        key: SigningKey,
        store: Store,
        clock: Clock,
        trust: ClockTrust,
        life_sign: Callable[[], Online],
    ) -> None:
        self._settings = settings
        self._gateway = settings.gateway
        self._pushes = topic_for(settings.gateway, Channel.PUSH, "x").removesuffix("x")
        self._key = key
        self._store = store
        self._clock = clock
        self._trust = trust
        self._life_sign = life_sign
        self._access = Access(
            settings.broker,
            settings.broker_password,
            str(settings.ca_file) if settings.ca_file else None,
            settings.timing.keepalive,
            settings.timing.answer,
        )
        self._senders = {
            channel: Sender(self._gateway, channel, store, key, clock, settings.timing)
            # Reports first: somebody waits for a command's result, and its readings are in it.
            for channel in (Channel.REPORT, Channel.READINGS)
        }
        self._replies: collections.deque[Outgoing] = collections.deque(maxlen=MOST_REPLIES)
        self._reply_waits = asyncio.Event()
        self._announce = asyncio.Event()
        self._listener: Listener | None = None
        self._foreign_key = ""
        self._process = secrets.token_hex(4)
        self.connected = False

    @property
    def warning(self) -> str:
        """What an operator should know about this connection; empty if nothing."""
        return self._foreign_key

    @property
    def window_bytes(self) -> int:
        """How much of readings may travel without a receipt now."""
        return self._senders[Channel.READINGS].window_bytes

    def stored(self) -> None:
        """Hear that the outbox has new rows."""
        self._senders[Channel.REPORT].wake()
        readings = self._senders[Channel.READINGS]
        if self._store.reports.awaited:
            asyncio.get_running_loop().call_later(READINGS_AFTER, readings.wake)
        else:
            readings.wake()

    def announce(self) -> None:
        """Say again that we are online, because what that says has changed."""
        self._announce.set()

    def reply(self, caller: str, update: bytes, correlation: bytes | None) -> None:
        """Publish an encoded CommandUpdate to a caller, now or when there is a connection."""
        topic = topic_for(self._gateway, Channel.REPLY, caller)
        payload = self._key.seal(topic, update)
        self._replies.append(Outgoing(topic, payload, expiry=REPLY_EXPIRY, correlation=correlation))
        self._reply_waits.set()

    async def run(self, listener: Listener) -> None:
        """Keep a connection for ever; waits between attempts grow, bounded, with jitter."""
        self._listener = listener
        timing = self._settings.timing
        pauses = pauses_between(timing.reconnect, timing.reconnect_max)
        while True:
            begun = self._clock.monotonic()
            try:
                await self._connected()
            except BrokerError as error:
                log.warning("broker_away", cause=str(error))
            finally:
                self.connected = False
            if self._clock.monotonic() - begun > _STEADY:
                pauses = pauses_between(timing.reconnect, timing.reconnect_max)
            await asyncio.sleep(next(pauses))

    async def _connected(self) -> None:
        """Live through one connection.

        Raises:
            BrokerError: when it could not be made, or is gone.
        """
        session = self._store.next_session()
        # By store and process, so that a second agent with the same name, or a copy of the whole card, does not fight
        # for the connection: it is reported.
        identifier = f"metergate-{self._gateway}-{self._store.id.hex()[:8]}-{self._process}"
        async with connect(self._access, identifier, self._online_message(online=False)) as connection:
            await connection.subscribe(agent_filters(self._gateway))
            await connection.publish(self._online_message(online=True))
            self.connected = True
            metrics.count("connections_total")
            log.info("online", session=session, packet_limit=connection.limit)
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._receive(connection), name="receive")
                    tasks.create_task(self._announcing(connection), name="announce")
                    tasks.create_task(self._replying(connection), name="reply")
                    for channel, sender in self._senders.items():
                        tasks.create_task(sender.run(connection), name=f"send-{channel}")
            except ExceptionGroup as group:
                broken, other = group.split(BrokerError)
                if broken is None or other is not None:
                    raise
                raise BrokerError(str(broken.exceptions[0])) from group
            except asyncio.CancelledError:
                await self._say_goodbye(connection)
                raise

    async def _say_goodbye(self, connection: Connection) -> None:
        """Say that we go, because a connection that is closed in order has no will."""
        try:
            async with asyncio.timeout(2.0):
                await connection.publish(self._online_message(online=False))
        except (BrokerError, TimeoutError):
            log.info("goodbye_not_said")

    async def _announcing(self, connection: Connection) -> None:
        while True:
            try:
                # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with what it waits for.
                async with asyncio.timeout(ANNOUNCE_EVERY):
                    await self._announce.wait()
            except TimeoutError:
                log.debug("life_sign")
            # Before the sign is made: what changes from here on needs another.
            self._announce.clear()
            await connection.publish(self._online_message(online=True))
            await asyncio.sleep(ANNOUNCE_PAUSE)

    async def _replying(self, connection: Connection) -> None:
        while True:
            self._reply_waits.clear()
            while self._replies:
                message = self._replies[0]
                if message.overhead() + len(message.payload) <= connection.limit:
                    await connection.publish(message)
                else:
                    log.error("reply_too_large", topic=message.topic, bytes=len(message.payload))
                if self._replies and self._replies[0] is message:
                    self._replies.popleft()
            await self._reply_waits.wait()

    async def _receive(self, connection: Connection) -> None:
        async for message in connection.messages():
            if message.topic.startswith(self._pushes):
                self._take_push(message)
                continue
            try:
                await self._hear(message)
            except (ContractError, StoreFullError) as error:
                # What could not be stored is not answered, so it is sent again.
                log.warning("message_refused", topic=message.topic, cause=str(error))

    async def _hear(self, message: Incoming) -> None:
        signed = open_envelope(message.topic, message.payload)
        if message.topic == HELLO:
            if self._is_hub(signed):
                self._greet()
            return
        topic = parse_topic(message.topic)
        listener = self._listener
        if topic.gateway != self._gateway or listener is None:
            raise ContractError("not for this gateway")
        if topic.channel is Channel.INVOKE:
            reply_topic = topic_for(self._gateway, Channel.REPLY, topic.caller)
            listener.take_invocation(
                topic.caller,
                signed.key,
                signed.body,
                misdirected=message.response_topic not in {None, reply_topic},
                correlation=message.correlation,
            )
        elif not self._is_hub(signed):
            return
        elif topic.channel is Channel.PLAN:
            listener.take_plan(signed.body)
        elif topic.channel is Channel.COMMAND:
            listener.take_command(signed.body)
        elif topic.channel is Channel.RECEIPT:
            self._take_receipt(signed.body)

    def _take_push(self, message: Incoming) -> None:
        if self._listener is not None:
            self._listener.take_push(message.topic.removeprefix(self._pushes), message.payload)

    def _greet(self) -> None:
        """A relay has started: end the back-off and say that we are online, with jitter."""
        # Later, so that what comes in meanwhile is not kept waiting.
        pause = random.uniform(0, _HELLO_WITHIN)  # noqa: S311 - jitter, no secret
        asyncio.get_running_loop().call_later(pause, self._hurry)

    def _hurry(self) -> None:
        for sender in self._senders.values():
            sender.hurry()
        self.announce()

    def _take_receipt(self, body: bytes) -> None:
        message = decode_receipt(body)
        sender = next((sender for channel, sender in self._senders.items() if channel == message.channel), None)
        if sender is None:
            raise ContractError(f"a receipt for the channel {message.channel!r}")
        if not isinstance(message, Receipt):
            rows = sender.send_again(message)
            log.info("sending_again", channel=message.channel, first=message.first, rows=rows)
            return
        waited = self._store.oldest_waiting() is not None
        if sender.receipted(message):
            # Only a receipt for what was just sent: an old one, played again, tells an old time.
            self._trust.hear(message.hub_time)
        if waited and self._store.oldest_waiting() is None:
            # Everything is delivered: people who wait for that look at the life sign.
            self.announce()

    def _is_hub(self, signed: Signed) -> bool:
        """Whether the key is the hub's; the first one seen is pinned unless the settings name one."""
        named = self._settings.hub_key
        shown = fingerprint(signed.key)
        pinned: bytes | None = self._store.get(_HUB_KEY)
        if named is not None:
            trusted = shown == named
        elif pinned is None:
            with self._store.transaction():
                self._store.put(_HUB_KEY, signed.key)
            log.info("hub_key_pinned", fingerprint=shown)
            trusted = True
        else:
            trusted = signed.key == pinned
        if not trusted:
            expected = named or fingerprint(pinned or b"")
            warning = f"messages of a hub with the key {shown} are ignored: this gateway trusts {expected}"
            if warning != self._foreign_key:
                log.warning("hub_not_trusted", cause=warning)
                self._foreign_key = warning
                self.announce()
        return trusted

    def _online_message(self, *, online: bool) -> Outgoing:
        topic = topic_for(self._gateway, Channel.ONLINE)
        sign = self._life_sign()
        if not online:
            sign = msgspec.structs.replace(sign, online=False)
        return Outgoing(topic, self._key.seal(topic, encode(sign)), retain=True)
