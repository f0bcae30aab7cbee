"""The one module that knows aiomqtt: one connection to the broker, for the agent's uplink and for ``invoke``.

MQTT 5, clean start, session expiry 0, QoS 1. A new client is made for each connection, because a client that connects
again keeps the messages of before. The incoming queue has no bound: aiomqtt acknowledges what it discards.
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

from agent.settings import BrokerAddress
from protocol.topics import QOS
from protocol.wire import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    # paho names it for type checkers only.
    from paho.mqtt.client import SocketLike

_FAILURE = 0x80
_SMALLEST_LIMIT = 256


class BrokerError(Exception):
    """The broker cannot be reached, refuses, or does not answer in time; the text names it."""


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
    response_topic: str | None
    correlation: bytes | None


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

    limit = MAX_MESSAGE_BYTES + 1024

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
        self._where = where
        self.limit = client.limit

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe and check every SUBACK.

        Raises:
            BrokerError: naming the filter that the broker refuses.
        """
        for topic in filters:
            with _translated(self._where):
                codes = await self._client.subscribe(topic, qos=QOS)
            for code in codes:
                value = code if isinstance(code, int) else code.value
                if value >= _FAILURE:
                    raise BrokerError(f"the broker {self._where} refuses the subscription to {topic}: {code}")

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
        with _translated(self._where):
            await self._client.publish(
                message.topic, message.payload, qos=QOS, retain=message.retain, properties=properties
            )

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what comes in, until the connection is gone.

        Raises:
            BrokerError: when it is.
        """
        with _translated(self._where):
            async for message in self._client.messages:
                payload = message.payload if isinstance(message.payload, bytes) else b""
                response = getattr(message.properties, "ResponseTopic", None)
                correlation = getattr(message.properties, "CorrelationData", None)
                yield Incoming(str(message.topic), payload, response, correlation)


@contextlib.asynccontextmanager
async def connect(access: Access, identifier: str | None, will: Outgoing | None = None) -> AsyncIterator[Connection]:
    """Open a connection for the length of the block; leaving it in order makes the broker drop the will.

    Raises:
        BrokerError: when the broker cannot be reached, refuses, or does not answer in time.
    """
    address = access.address
    where = f"{address.host}:{address.port}"
    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0
    properties.MaximumPacketSize = MAX_MESSAGE_BYTES + 1024
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
        tls_context=_tls(access),
        will=None if will is None else aiomqtt.Will(will.topic, will.payload, QOS, will.retain),
    )
    # Batches are few and large; the window bounds them, not a warning about pending calls.
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
