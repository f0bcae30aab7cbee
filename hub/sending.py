"""What a relay says to gateways: signed, published over the connection that there is now, or not at all.

What cannot be published is simply not: the reason that it was to be published remains in the database.
"""

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence

import prometheus_client
import structlog

from hub.connection import Connection
from mqtt.connection import BrokerError
from protocol import reports
from protocol.commands import Command
from protocol.envelopes import ENVELOPE_BYTES, SigningKey
from protocol.readings import BatchName
from protocol.topics import Channel, topic_for
from protocol.wire import encode

NAMES_PER_RECEIPT = 500
RECEIPT_NAME_BYTES = 64
"""More than one batch's name takes in a receipt."""

_log = structlog.get_logger(__name__)
_receipted = prometheus_client.Counter("metergate_relay_receipts", "Batches receipted, by outcome", ["outcome"])


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

    async def receipt(self, named: Mapping[tuple[str, str, str], Sequence[BatchName]], now: dt.datetime) -> None:
        """Receipt batches, named by (gateway id, channel, outcome): those of one gateway together."""
        connection = self.connection
        if connection is None:
            return
        room = (connection.payload_bytes - ENVELOPE_BYTES - RECEIPT_NAME_BYTES) // RECEIPT_NAME_BYTES
        step = max(1, min(NAMES_PER_RECEIPT, room))
        publishes = []
        for (gateway, channel, outcome), names in named.items():
            unique = list(dict.fromkeys(names))
            _receipted.labels(outcome).inc(len(unique))
            for start in range(0, len(unique), step):
                receipt = reports.Receipt(channel, unique[start : start + step], now, outcome)
                publishes.append(self.send(gateway, Channel.RECEIPT, receipt))
        await asyncio.gather(*publishes)

    def sealed(self, topic: str, message: reports.Receipt | reports.Resend | reports.Hello | Command) -> bytes:
        """Return the message as its topic has it, signed with the hub's key."""
        return self._key.seal(topic, encode(message))

    def seal(self, topic: str, body: bytes) -> bytes:
        """Return what is encoded already, signed."""
        return self._key.seal(topic, body)
