"""The one module that knows aiomqtt: one connection to a broker.

MQTT 5, clean start, session expiry 0, QoS 1. Rules that aiomqtt (2.x) makes necessary:
- A new client for each connection: one that connects again keeps the messages of before.
- A message is acknowledged before anybody has seen it, and what the inbox cannot take is gone: an inbox has a bound
  only where that is no loss.
- What it leaves open is closed here, and a cancellation that it swallows still counts.

What is done for each message is ours, without a task and without a look at all others: see ``mqtt.receiving``.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt.addresses import BrokerAddress
from mqtt.inbox import Inbox
from mqtt.packets import Incoming
from mqtt.receiving import Receiving
from protocol.topics import QOS
from protocol.wire import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    # paho names it for type checkers only.
    from paho.mqtt.client import SocketLike

__all__ = ["Access", "BrokerError", "Connection", "Incoming", "Outgoing", "RefusedError", "connect"]

_FAILURE = 0x80
_IN_FLIGHT = 20
_TELL_SECONDS = 60.0
_SMALLEST_LIMIT = 256
_PACKET_BYTES = MAX_MESSAGE_BYTES + 1024

_log = logging.getLogger(__name__)


class BrokerError(Exception):
    """The broker cannot be reached, refuses, is gone, or does not answer in time; the text names it."""


class RefusedError(BrokerError):
    """The broker did not take a message, and says so; the connection lives."""


class Access(NamedTuple):
    """How to reach a broker. ``answer`` is the longest wait for any answer, ``keepalive`` for a sign of life (s)."""

    address: BrokerAddress
    password: str | None = None
    ca_file: str | None = None
    keepalive: int = 20
    answer: float = 10.0


class Outgoing(NamedTuple):
    """A message for the broker. ``expiry`` is in seconds."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry: int | None = None
    correlation: bytes | None = None
    response_topic: str | None = None
    user_properties: Sequence[tuple[str, str]] = ()

    def overhead(self) -> int:
        """Bytes of the PUBLISH packet around the payload (MQTT 5, 3.3): headers, topic, packet id, properties."""
        properties = sum(5 + len(key.encode()) + len(value.encode()) for key, value in self.user_properties)
        properties += 5 if self.expiry is not None else 0
        properties += 3 + len(self.correlation) if self.correlation is not None else 0
        properties += 3 + len(self.response_topic.encode()) if self.response_topic is not None else 0
        # Fixed header 1 + remaining length up to 4, topic length 2, packet id 2, property length up to 4.
        return 13 + len(self.topic.encode()) + properties


class _Client(aiomqtt.Client):
    """aiomqtt's client, with what it does for each message replaced.

    It also drops what the CONNACK says; Maximum Packet Size and Receive Maximum stand there.
    """

    limit = _PACKET_BYTES

    def receive(self, inbox: Inbox, in_flight: int) -> None:
        """Have messages go into this inbox, by the quick way; before it connects."""
        self.inbox = inbox
        self._in_flight = in_flight
        self.acknowledged: dict[int, asyncio.Future[str]] = {}
        self._thread = threading.get_ident()
        # aiomqtt makes its client itself.
        self._client.__class__ = Receiving
        client = self._client
        if isinstance(client, Receiving):
            client.take, client.held, client.longest = self._take, bytearray(), _PACKET_BYTES

    def _take(self, message: Incoming) -> None:
        if not self.inbox.put(message):
            _log.warning("the inbox is full, a message is gone: %s", message.topic)

    async def publish_one(self, message: Outgoing) -> str:
        """Publish and wait for the PUBACK; return why the broker did not take the message, if so.

        Raises:
            MqttError: when the connection is gone or no PUBACK comes in time.
        """
        async with self._slots:
            return await self._publish_one(message)

    async def _publish_one(self, message: Outgoing) -> str:
        info = self._client.publish(message.topic, message.payload, QOS, message.retain, _told(message))
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(info.rc, "Could not publish message") from self.cause
        future: asyncio.Future[str] = self._loop.create_future()
        self.acknowledged[info.mid] = future
        try:
            async with asyncio.timeout(self.timeout):
                return await future
        except TimeoutError:
            raise aiomqtt.MqttError("Operation timed out") from None
        finally:
            self.acknowledged.pop(info.mid, None)

    def _on_publish(
        self,
        client: PahoClient,  # noqa: ARG002 - all of these are paho's
        userdata: object,  # noqa: ARG002
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,  # noqa: ARG002
    ) -> None:
        future = self.acknowledged.get(mid)
        if future is not None and not future.done():
            future.set_result(str(reason_code) if reason_code.is_failure else "")

    def watch(self) -> None:
        """Have whoever waits for a PUBACK hear when none will come; once it is connected."""
        self._disconnected.add_done_callback(self._lose)

    def _lose(self, _disconnected: object = None) -> None:
        for future in self.acknowledged.values():
            if not future.done():
                future.set_exception(aiomqtt.MqttError("the connection was lost while publishing"))

    async def next(self) -> Incoming:
        """Wait for a message.

        Raises:
            MqttError: when the connection is gone and no message is left.
        """
        message = self.inbox.take()
        while message is None:
            if self._disconnected.done():
                raise aiomqtt.MqttError("Disconnected during message iteration") from self.cause
            await self.inbox.wait(self._disconnected)
            message = self.inbox.take()
        return message

    @property
    def cause(self) -> BaseException | None:
        """Why there is no connection any more, if somebody said so."""
        gone = self._disconnected
        return gone.exception() if gone.done() and not gone.cancelled() else None

    def _on_connect(
        self,
        client: PahoClient,
        userdata: object,
        flags: ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        announced = getattr(properties, "MaximumPacketSize", None)
        if announced is not None:
            self.limit = max(_SMALLEST_LIMIT, min(self.limit, int(announced)))
        # More without PUBACK would be a reason to end the connection (MQTT 5, 3.2.2.3.3).
        self._slots = asyncio.Semaphore(min(self._in_flight, int(getattr(properties, "ReceiveMaximum", 65535))))
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_socket_register_write(self, client: PahoClient, userdata: object, sock: "SocketLike") -> None:  # noqa: ARG002 - paho's
        # aiomqtt has the loop wait for a number, which may be nobody's or another's by the time it does.
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._write_at_once, sock)
        else:
            self._loop.call_soon_threadsafe(self._write_at_once, sock)

    def _write_at_once(self, sock: "SocketLike") -> None:
        """Write, with all that was to be written in the same turn; wait only when the system takes no more."""
        if sock.fileno() >= 0:
            self._write()
        if self._client.want_write() and sock.fileno() >= 0:
            self._loop.add_writer(sock, self._write)

    def _write(self) -> None:
        try:
            self._client.loop_write()
        except (OSError, ValueError) as error:
            if not self._disconnected.done():
                self._disconnected.set_exception(error)

    def _on_socket_unregister_write(self, client: PahoClient, userdata: object, sock: "SocketLike") -> None:  # noqa: ARG002
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock)

    def abandon(self) -> None:
        """Close what aiomqtt leaves open when a connection never came about, was lost or cannot be ended in order."""
        self._client.disconnect()
        self._lose()
        # A goodbye that nobody took in time has cancelled it: that is no cancellation of whoever waited.
        if self._disconnected.done() and not self._disconnected.cancelled():
            # Looked at, so that the loop does not report it when the future is collected.
            self._disconnected.exception()
        opened = self._client.socket()
        if opened is not None:
            self._on_socket_unregister_write(self._client, None, opened)
            self._on_socket_close(self._client, None, opened)
            opened.close()


class Connection:
    """An open connection. ``limit`` is the largest packet, in bytes, that the broker takes."""

    def __init__(self, client: _Client, where: str) -> None:
        self._client = client
        self.where = where
        """The broker, as errors name it."""
        self.limit = client.limit
        self.refusals = False
        """Whether ``publish`` raises when the broker does not take a message; in the log it is said anyway."""
        self._refused, self._told = 0, -_TELL_SECONDS

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe and check every SUBACK.

        Raises:
            BrokerError: naming the filter that the broker refuses.
        """
        for topic in filters:
            with _translated(self.where):
                codes = await self._client.subscribe(topic, qos=QOS)
            for code in codes:
                value = code if isinstance(code, int) else code.value
                if value >= _FAILURE:
                    raise BrokerError(f"the broker {self.where} refuses the subscription to {topic}: {code}")

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe; what the broker had begun to deliver, or holds for us, may still come (MQTT 5, 3.10.4).

        Raises:
            BrokerError: when the connection is gone or no UNSUBACK comes in time.
        """
        # One by one: the embedded broker (iotcore 0.4) answers each filter of an UNSUBSCRIBE by itself.
        for topic in filters:
            with _translated(self.where):
                await self._client.unsubscribe(topic)

    async def publish(self, message: Outgoing) -> None:
        """Publish and wait for the PUBACK, which proves nothing but that the broker is there.

        Raises:
            RefusedError: when the broker does not take the message, if ``refusals`` are to be raised.
            BrokerError: when the connection is gone or no PUBACK comes in time.
        """
        with _translated(self.where):
            refused = await self._client.publish_one(message)
        if refused:
            self._tell_of_refused(message.topic, refused)

    def _tell_of_refused(self, topic: str, reason: str) -> None:
        """Say it in the log, every minute at most: who may publish nothing there says so of each message."""
        self._refused += 1
        if (now := time.monotonic()) - self._told >= _TELL_SECONDS:
            _log.warning(
                "the broker %s refused %d messages, at last on %s: %s", self.where, self._refused, topic, reason
            )
            self._told, self._refused = now, 0
        if self.refusals:
            raise RefusedError(f"the broker {self.where} refuses a message on {topic}: {reason}")

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what comes in, until the connection is gone.

        Raises:
            BrokerError: when it is.
        """
        with _translated(self.where):
            while True:
                yield await self._client.next()


@contextlib.asynccontextmanager
async def connect(
    access: Access,
    identifier: str | None,
    will: Outgoing | None = None,
    *,
    queue_bytes: int | None = None,
    in_flight: int = _IN_FLIGHT,
) -> AsyncIterator[Connection]:
    """Open a connection for the length of the block; leaving it in order makes the broker drop the will.

    ``queue_bytes`` bounds the payloads that wait to be looked at; what comes beyond is acknowledged and gone.
    ``in_flight`` is how many publishes may be without PUBACK at once; a broker may allow fewer.

    Raises:
        BrokerError: when the broker cannot be reached, refuses, or does not answer in time.
    """
    address = access.address
    where = str(address)
    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0
    properties.MaximumPacketSize = _PACKET_BYTES
    client = _Client(
        address.host,
        address.port,
        username=address.user,
        password=access.password,
        identifier=identifier,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=True,
        properties=properties,
        keepalive=access.keepalive,
        timeout=access.answer,
        # A PUBLISH right after a PUBACK would wait for the broker's delayed ACK, up to 40 ms.
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        # They are counted here: paho would look through all of them for each PUBACK.
        max_inflight_messages=0,
        tls_context=_tls(access),
        will=None if will is None else aiomqtt.Will(will.topic, will.payload, QOS, will.retain),
    )
    client.receive(Inbox(queue_bytes), in_flight)
    try:
        with _translated(where):
            await client.__aenter__()
        client.watch()
        try:
            yield Connection(client, where)
        finally:
            # What ends the block is what matters; a connection that cannot even be closed in order is closed by force.
            with contextlib.suppress(BrokerError, asyncio.InvalidStateError), _translated(where):
                await client.__aexit__(None, None, None)
    finally:
        client.abandon()


def _told(message: Outgoing) -> Properties | None:
    """Return what a message says beside its payload; None, which costs nothing, when that is nothing."""
    if not message.user_properties and {message.expiry, message.correlation, message.response_topic} == {None}:
        return None
    properties = _properties(PacketTypes.PUBLISH)
    if message.expiry is not None:
        properties.MessageExpiryInterval = message.expiry
    if message.correlation is not None:
        properties.CorrelationData = message.correlation
    if message.response_topic is not None:
        properties.ResponseTopic = message.response_topic
    if message.user_properties:
        properties.UserProperty = list(message.user_properties)
    return properties


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho leaves its constructor untyped


def _tls(access: Access) -> ssl.SSLContext | None:
    if not access.address.tls:
        return None
    try:
        return ssl.create_default_context(cafile=access.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(f"the certificates in {access.ca_file} (ca_file) cannot be read: {error}") from error


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    """Turn the client's errors into ours, and end with the cancellation that came meanwhile.

    aiomqtt waits with wait_for, which in Python 3.11 swallows a cancellation that comes with what it waits for.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except (aiomqtt.MqttError, OSError) as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        reason = str(error) or type(error).__name__
        raise BrokerError(f"the broker {where}: {reason}") from error
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
