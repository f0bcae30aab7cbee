"""The one module that knows aiomqtt: one connection to a broker.

MQTT 5, clean start, session expiry 0, QoS 1. Rules that aiomqtt (2.x) makes necessary:
- A new client for each connection: one that connects again keeps the messages of before.
- It acknowledges a message before anybody has seen it, and discards what its queue cannot take: a queue has a bound
  only where that is no loss.
- What it leaves open is closed here, and a cancellation that it swallows still counts.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mqtt.addresses import BrokerAddress
from mqtt.queues import bounded
from protocol.topics import QOS
from protocol.wire import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    # paho names it for type checkers only.
    from paho.mqtt.client import SocketLike

_FAILURE = 0x80
_SMALLEST_LIMIT = 256
_PACKET_BYTES = MAX_MESSAGE_BYTES + 1024


class BrokerError(Exception):
    """The broker cannot be reached, refuses, is gone, or does not answer in time; the text names it."""


class Access(NamedTuple):
    """How to reach a broker. ``answer`` is the longest wait for any answer, ``keepalive`` for a sign of life (s)."""

    address: BrokerAddress
    password: str | None = None
    ca_file: str | None = None
    keepalive: int = 20
    answer: float = 10.0


class Incoming(NamedTuple):
    """A message from the broker, with what MQTT 5 says beside the payload."""

    topic: str
    payload: bytes
    retained: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


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
    """aiomqtt's client, which drops what the CONNACK says; the Maximum Packet Size stands there."""

    limit = _PACKET_BYTES

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
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_socket_register_write(self, client: PahoClient, userdata: object, sock: "SocketLike") -> None:  # noqa: ARG002 - paho's
        # aiomqtt has the loop wait for a number, which may be nobody's or another's by the time it does.
        self._loop.call_soon_threadsafe(self._await_writable, sock)

    def _await_writable(self, sock: "SocketLike") -> None:
        if sock.fileno() >= 0:
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

    async def publish(self, message: Outgoing) -> None:
        """Publish and wait for the PUBACK, which proves nothing but that the broker is there.

        Raises:
            BrokerError: when the connection is gone or no PUBACK comes in time.
        """
        properties = _properties(PacketTypes.PUBLISH)
        if message.expiry is not None:
            properties.MessageExpiryInterval = message.expiry
        if message.correlation is not None:
            properties.CorrelationData = message.correlation
        if message.response_topic is not None:
            properties.ResponseTopic = message.response_topic
        if message.user_properties:
            properties.UserProperty = list(message.user_properties)
        with _translated(self.where):
            await self._client.publish(
                message.topic, message.payload, qos=QOS, retain=message.retain, properties=properties
            )

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what comes in, until the connection is gone.

        Raises:
            BrokerError: when it is.
        """
        with _translated(self.where):
            async for message in self._client.messages:
                payload = message.payload if isinstance(message.payload, bytes) else b""
                yield Incoming(
                    str(message.topic),
                    payload,
                    bool(message.retain),
                    getattr(message.properties, "ResponseTopic", None),
                    getattr(message.properties, "CorrelationData", None),
                    tuple(getattr(message.properties, "UserProperty", ())),
                )


@contextlib.asynccontextmanager
async def connect(
    access: Access,
    identifier: str | None,
    will: Outgoing | None = None,
    *,
    queue_bytes: int | None = None,
    in_flight: int | None = None,
) -> AsyncIterator[Connection]:
    """Open a connection for the length of the block; leaving it in order makes the broker drop the will.

    ``queue_bytes`` bounds the payloads that wait to be looked at; what comes beyond is acknowledged and gone.
    ``in_flight`` is how many publishes may be without PUBACK at once (paho's 20, unless given).

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
        queue_type=None if queue_bytes is None else bounded(queue_bytes),
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=True,
        properties=properties,
        keepalive=access.keepalive,
        timeout=access.answer,
        max_inflight_messages=in_flight,
        tls_context=_tls(access),
        will=None if will is None else aiomqtt.Will(will.topic, will.payload, QOS, will.retain),
    )
    # What is under way is bounded by whoever publishes, not by a warning about pending calls.
    client.pending_calls_threshold = 1000
    try:
        with _translated(where):
            await client.__aenter__()
        try:
            yield Connection(client, where)
        finally:
            # What ends the block is what matters; a connection that cannot even be closed in order is closed by force.
            with contextlib.suppress(BrokerError, asyncio.InvalidStateError), _translated(where):
                await client.__aexit__(None, None, None)
    finally:
        client.abandon()


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
