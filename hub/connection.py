"""A connection of a relay to its broker: where that is, and publishing for as many gateways as there are.

The relay's incoming queue is bounded in bytes: what does not fit is lost, and only receipts count.
"""

import contextlib
import urllib.parse
import uuid
from collections.abc import AsyncIterator

from mqtt import connection as wire
from mqtt.addresses import DEFAULT_PORTS, BrokerAddress
from mqtt.connection import Access, Outgoing

IN_FLIGHT = 100
"""Publishes without PUBACK at once, where the broker allows that many."""

_FRAME_BYTES = 256
"""Room for topic and properties beside a payload."""


def read_url(url: str) -> Access:
    """Take a broker's URL apart: ``mqtt://[USER:PASSWORD@]HOST[:PORT]``, or ``mqtts://`` for TLS.

    Raises:
        ValueError: when it is none; the text does not repeat it, because it may hold a password.
    """
    parts = urllib.parse.urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the broker's URL has an unreadable port: {error}") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path.strip("/"):
        raise ValueError("the broker's URL is not of the form mqtt://[USER:PASSWORD@]HOST[:PORT] or mqtts://...")
    user = urllib.parse.unquote(parts.username) if parts.username else None
    password = urllib.parse.unquote(parts.password) if parts.password else None
    address = BrokerAddress(parts.hostname, port or DEFAULT_PORTS[parts.scheme], parts.scheme == "mqtts", user)
    return Access(address, password)


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


class Connection:
    """An open connection to the broker."""

    def __init__(self, opened: wire.Connection) -> None:
        self._opened = opened
        opened.refusals = True
        self.subscribe = opened.subscribe
        self.unsubscribe = opened.unsubscribe
        self.messages = opened.messages

    @property
    def payload_bytes(self) -> int:
        """The largest payload that the broker takes, with room for topic and properties."""
        return self._opened.limit - _FRAME_BYTES

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, expiry: int | None = None) -> None:
        """Publish and wait for the PUBACK, which proves no more than that the broker is there.

        Raises:
            RefusedError: when the broker does not take it, and says so.
            BrokerError: when the connection is gone, or no PUBACK comes in time.
        """
        await self._opened.publish(Outgoing(topic, payload, retain, expiry))


@contextlib.asynccontextmanager
async def connect(access: Access, queue_bytes: int, will: Outgoing | None = None) -> AsyncIterator[Connection]:
    """Open a connection for the length of the block; the broker publishes its will when it is lost.

    Raises:
        BrokerError: when the broker cannot be reached, refuses, or does not answer in time.
    """
    identifier = f"metergate-relay-{uuid.uuid4().hex[:12]}"
    async with wire.connect(access, identifier, will, queue_bytes=queue_bytes, in_flight=IN_FLIGHT) as opened:
        yield Connection(opened)
