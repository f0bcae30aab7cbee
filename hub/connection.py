"""The hub's one module that knows aiomqtt: a connection of a relay to its broker.

MQTT 5, clean start, session expiry 0, QoS 1. Rules that aiomqtt (2.x) makes necessary:
- A new client for each connection: one that connects again keeps the messages of before.
- It acknowledges a message before anybody has seen it, and discards what its queue cannot take. That is no loss here,
  because only receipts count, so the queue is bounded in bytes.
- A publish that waits for its PUBACK does not notice that the connection is gone; here it does.
"""

import asyncio
import contextlib
import ssl
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import aiomqtt
from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from protocol.topics import QOS
from protocol.wire import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    # paho names it for type checkers only.
    from paho.mqtt.client import SocketLike

ANSWER_SECONDS = 10.0
KEEPALIVE_SECONDS = 20
IN_FLIGHT = 100
"""Publishes without PUBACK at once."""

_REFUSED = 0x80
_PACKET_BYTES = MAX_MESSAGE_BYTES + 1024
_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


class ConnectionLostError(Exception):
    """The broker cannot be reached, refuses, or is gone; the text names it."""


class BrokerUrl(NamedTuple):
    """Where the broker is: ``mqtt://[USER:PASSWORD@]HOST[:PORT]``, or ``mqtts://`` for TLS."""

    host: str
    port: int
    user: str | None
    password: str | None
    tls: bool

    def __str__(self) -> str:
        """Name the broker without its secrets."""
        return f"{self.host}:{self.port}"


class Incoming(NamedTuple):
    """A message from the broker with its user properties."""

    topic: str
    payload: bytes
    retained: bool
    properties: tuple[tuple[str, str], ...]


def read_url(url: str) -> BrokerUrl:
    """Take a broker's URL apart.

    Raises:
        ValueError: when it is none; the text does not repeat it, because it may hold a password.
    """
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the broker's URL has an unreadable port: {error}") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.path.strip("/"):
        raise ValueError("the broker's URL is not of the form mqtt://[USER:PASSWORD@]HOST[:PORT] or mqtts://...")
    return BrokerUrl(
        parts.hostname,
        port or _DEFAULT_PORTS[parts.scheme],
        urllib.parse.unquote(parts.username) if parts.username else None,
        urllib.parse.unquote(parts.password) if parts.password else None,
        parts.scheme == "mqtts",
    )


def with_password(url: str, password: str) -> str:
    """Return the URL with a password in it.

    Raises:
        ValueError: when it names no user whose password that could be.
    """
    parts = urllib.parse.urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    if not user:
        raise ValueError("there is a password for the broker, but its URL names no user: mqtt://USER@HOST[:PORT]")
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{user}:{urllib.parse.quote(password, safe='')}@{place}"))


def _bounded(limit: int) -> type["asyncio.Queue[aiomqtt.Message]"]:
    class BoundedQueue(asyncio.Queue[aiomqtt.Message]):
        """Refuses what would make the payloads in it larger than the limit."""

        held = 0

        def put_nowait(self, item: aiomqtt.Message) -> None:
            if self.held + _size(item) > limit:
                raise asyncio.QueueFull
            super().put_nowait(item)

        def _put(self, item: aiomqtt.Message) -> None:
            self.held += _size(item)
            super()._put(item)

        def _get(self) -> aiomqtt.Message:
            item = super()._get()
            self.held -= _size(item)
            return item

    return BoundedQueue


def _size(message: aiomqtt.Message) -> int:
    return len(message.payload) if isinstance(message.payload, bytes) else 0


class _Client(aiomqtt.Client):
    """aiomqtt's client, which drops what the CONNACK says; the Maximum Packet Size stands there."""

    packet_bytes = _PACKET_BYTES

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
            self.packet_bytes = min(self.packet_bytes, int(announced))
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
    """An open connection to the broker."""

    def __init__(self, client: _Client, where: str) -> None:
        self._client = client
        self._where = where
        self._lost = asyncio.Event()
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    @property
    def payload_bytes(self) -> int:
        """The largest payload that the broker takes, with room for topic and properties."""
        return self._client.packet_bytes - 256

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe and check every SUBACK.

        Raises:
            ConnectionLostError: naming the filter that the broker refuses.
        """
        for topic in filters:
            with _translated(self._where):
                codes = await self._client.subscribe(topic, qos=QOS)
            for code in codes:
                if (code if isinstance(code, int) else code.value) >= _REFUSED:
                    raise ConnectionLostError(f"broker {self._where} refuses the subscription to {topic}: {code}")

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry: int | None = None) -> None:
        """Publish and wait for the PUBACK, which proves no more than that the broker is there.

        Raises:
            ConnectionLostError: when the connection is gone, or no PUBACK comes in time.
        """
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's is not typed
        if expiry is not None:
            properties.MessageExpiryInterval = expiry
        async with self._slots:
            sending = asyncio.ensure_future(
                self._client.publish(topic, payload, qos=QOS, retain=retain, properties=properties)
            )
            losing = asyncio.ensure_future(self._lost.wait())
            try:
                await asyncio.wait({sending, losing}, return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    raise ConnectionLostError(f"broker {self._where}: the connection was lost while publishing")
                sending.result()
            except (aiomqtt.MqttError, OSError) as error:
                raise ConnectionLostError(f"broker {self._where}: {error}") from error
            finally:
                for task in (sending, losing):
                    task.cancel()
                await asyncio.gather(sending, losing, return_exceptions=True)

    async def messages(self) -> AsyncIterator[Incoming]:
        """Yield what comes in until the connection is gone.

        Raises:
            ConnectionLostError: when it is.
        """
        try:
            async for message in self._client.messages:
                payload = message.payload if isinstance(message.payload, bytes) else b""
                properties = tuple(getattr(message.properties, "UserProperty", ()))
                yield Incoming(str(message.topic), payload, bool(message.retain), properties)
        except (aiomqtt.MqttError, OSError) as error:
            raise ConnectionLostError(f"broker {self._where}: {error}") from error

    def lose(self) -> None:
        """Let everybody who waits for a PUBACK know that none will come."""
        self._lost.set()


@contextlib.asynccontextmanager
async def connect(url: BrokerUrl, queue_bytes: int, will: tuple[str, bytes] | None = None) -> AsyncIterator[Connection]:
    """Open a connection for the length of the block; the broker publishes its will (topic, payload) when it is lost.

    Raises:
        ConnectionLostError: when the broker cannot be reached, refuses, or does not answer in time.
    """
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's is not typed
    properties.SessionExpiryInterval = 0
    properties.MaximumPacketSize = _PACKET_BYTES
    client = _Client(
        url.host,
        url.port,
        username=url.user,
        password=url.password,
        identifier=f"metergate-relay-{uuid.uuid4().hex[:12]}",
        queue_type=_bounded(queue_bytes),
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=True,
        properties=properties,
        timeout=ANSWER_SECONDS,
        keepalive=KEEPALIVE_SECONDS,
        max_inflight_messages=IN_FLIGHT,
        tls_context=ssl.create_default_context() if url.tls else None,
        will=None if will is None else aiomqtt.Will(*will, qos=QOS),
    )
    client.pending_calls_threshold = 10 * IN_FLIGHT
    connection = Connection(client, str(url))
    try:
        with _translated(str(url)):
            await client.__aenter__()
        try:
            yield connection
        finally:
            connection.lose()
            # What ends the block is what matters; a connection that cannot be closed in order is abandoned.
            with contextlib.suppress(ConnectionLostError, asyncio.InvalidStateError), _translated(str(url)):
                await client.__aexit__(None, None, None)
    finally:
        client.abandon()


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
        raise ConnectionLostError(f"broker {where}: {error}") from error
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
