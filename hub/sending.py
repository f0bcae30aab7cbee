"""What a relay says to gateways: signed, published over the connection that there is now, or not at all.

What cannot be published is simply not: the reason that it was to be published remains in the database.
"""

import structlog

from hub.connection import Connection
from mqtt.connection import BrokerError
from protocol import reports
from protocol.commands import Command
from protocol.envelopes import SigningKey
from protocol.topics import Channel, topic_for
from protocol.wire import encode

_log = structlog.get_logger(__name__)


class Sending:
    """The hub's voice. ``connection`` is None while there is none."""

    def __init__(self, key: SigningKey) -> None:
        self.connection: Connection | None = None
        self._key = key

    async def send(
        self,
        gateway: str,
        channel: Channel,
        message: reports.Receipt | reports.Resend | Command,
        *,
        expiry: int | None = None,
    ) -> bool:
        """Sign and publish; return whether there is nothing more to try now. ``expiry`` is in seconds."""
        connection = self.connection
        topic = topic_for(gateway, channel)
        if connection is None:
            return False
        payload = self.sealed(topic, message)
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

    def sealed(self, topic: str, message: reports.Receipt | reports.Resend | reports.Hello | Command) -> bytes:
        """Return the message as its topic has it, signed with the hub's key."""
        return self._key.seal(topic, encode(message))

    def seal(self, topic: str, body: bytes) -> bytes:
        """Return what is encoded already, signed."""
        return self._key.seal(topic, body)
