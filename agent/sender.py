"""Sends one channel's outbox in batches through a window, until every row has its receipt.

Oldest first; and while there is a backlog the newest of the rows that were stored since the connection was made (or
just before) go in batches of their own beside it, one at a time, so that a fresh reading or a command's result does not
wait for an outage to be made up for. The rows of such batches are passed over when the backlog has come to them.

A batch is formed once and then sent as it is, again and again, until its receipt has come or the connection is gone;
after that batches are formed anew. A publish that fails loses nothing: only receipts count.
"""

import asyncio
import contextlib
import random
import uuid

import structlog

from agent import metrics
from agent.clocks import Clock
from agent.outbox import Rows
from agent.settings import Timing
from agent.storage_faults import StoreFullError
from agent.store import Store
from agent.window import Window
from mqtt.connection import Connection, Outgoing
from protocol.envelopes import ENVELOPE_BYTES, SigningKey
from protocol.readings import MAX_SEQUENCE, BatchName, NewMeterReading, batch_of, name_properties
from protocol.reports import LossRecord, Receipt, Resend
from protocol.topics import Channel, topic_for
from protocol.wire import MAX_BATCH_BYTES, ContractError, decode, encode

log = structlog.get_logger(__name__)

_BATCH_HEADER = 96
"""More than the MessagePack of a batch adds to its rows: store id, sequences, digest, array headers."""

_HURRY_WITHIN = 1.0
_FRESH_ROWS = 100
"""So many of the rows that wait when a connection is made count as fresh: the hub sees soon how things stand now."""


class Sender:
    """One channel. ``run`` lives as long as its connection; the times measured live on."""

    def __init__(
        self, gateway: str, channel: Channel, store: Store, key: SigningKey, clock: Clock, timing: Timing
    ) -> None:
        self.channel = channel
        self._topic = topic_for(gateway, channel)
        self._store = store
        self._outbox = store.readings if channel is Channel.READINGS else store.reports
        self._key = key
        self._clock = clock
        # Jittered, so that gateways that start together do not ask together.
        first = timing.resend * random.uniform(1.0, 1.5)  # noqa: S311 - jitter, no secret
        self._window = Window(first, timing.resend_max)
        # Up to here rows are in batches of this connection, oldest first; and what was taken beyond, in order.
        self._formed = 0
        self._ahead: list[tuple[int, int]] = []
        # The last row that is not fresh, or was taken already.
        self._tip = 0
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Hear that there may be something to send."""
        self._wake.set()

    @property
    def window_bytes(self) -> int:
        """How much may travel without a receipt now."""
        return self._window.size

    def receipted(self, receipt: Receipt) -> bool:
        """Take a receipt over; whether it was for a batch that this connection sent."""
        fresh = False
        accepted = 0
        with self._store.transaction(durable=False):
            for name in receipt.names:
                if name.store == self._store.id:
                    accepted += self._outbox.accept(name)
        for name in receipt.names:
            fresh |= self._window.receipted(name, self._clock.monotonic())
        if accepted:
            metrics.count("rows_receipted_total", accepted, channel=str(self.channel))
            log.debug("receipted", channel=str(self.channel), rows=accepted, outcome=receipt.outcome)
        self._wake.set()
        return fresh

    def send_again(self, asked: Resend) -> int:
        """Take receipts back, for a hub that was restored; return how many rows that are, none of another store."""
        if asked.store != self._store.id:
            return 0
        first = asked.first
        with self._store.transaction():
            rows = self._outbox.send_again(first)
            if rows:
                self._store.note_renumbered(self.channel, self._outbox.renumber(first))
        self._begin()
        self._wake.set()
        return rows

    def hurry(self) -> None:
        """A relay has started: end the back-off, with jitter."""
        self._window.hurry(self._clock.monotonic(), _HURRY_WITHIN)
        self._wake.set()

    async def run(self, connection: Connection) -> None:
        """Send over this connection until it is gone.

        Raises:
            BrokerError: when it is.
        """
        self._begin()
        room = self._room(connection.limit)
        with contextlib.suppress(StoreFullError), self._store.transaction():
            self._outbox.take_back(room)
        while True:
            self._wake.clear()
            for flight in self._window.overdue(self._clock.monotonic()):
                log.info("batch_sent_again", channel=str(self.channel), first=flight.name.first, sends=flight.sends)
                metrics.count("batches_resent_total", channel=str(self.channel))
                await self._publish(connection, flight.name, flight.body)
            while await self._send_next(connection, room):
                pass
            due = self._window.next_due()
            try:
                # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with what it waits for.
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _begin(self) -> None:
        """Form all batches anew: what waits is backlog but for its last rows, what is stored from now on is fresh."""
        self._window.clear()
        self._formed = self._outbox.through()
        self._ahead.clear()
        self._tip = max(self._formed, self._outbox.last() - _FRESH_ROWS)

    async def _send_next(self, connection: Connection, room: int) -> bool:
        """Send the next batch that may leave now, the fresh one first; return whether there was one."""
        rows, fresh = self._newest(room), True
        if rows is None and self._window.open(room):
            rows, fresh = self._next(room), False
        if rows is None:
            return False
        batch = batch_of(self._store.id, rows.first, rows.bodies)
        body = encode(batch)
        if fresh:
            self._ahead.append((rows.first, batch.name.last))
            self._tip = batch.name.last
        else:
            self._formed = batch.name.last
        self._outbox.sent.add(batch.name.first, batch.name.last, self._outbox.through())
        self._window.sent(batch.name, body, self._clock.monotonic(), fresh=fresh)
        await self._publish(connection, batch.name, body)
        return True

    def _newest(self, room: int) -> Rows | None:
        """Return the newest rows, if they would have to wait for older ones."""
        if not self._window.open_for_fresh() or (self._formed >= self._tip and self._window.open(room)):
            return None
        return self._outbox.newest_rows(max(self._formed, self._tip), min(room, self._window.fresh_bytes))

    def _next(self, room: int) -> Rows | None:
        """Return the oldest rows that fit and are in no batch yet, and set aside what fits nowhere."""
        limit = min(room, self._window.batch_bytes)
        while True:
            before = self._ahead[0][0] if self._ahead else MAX_SEQUENCE
            rows = self._outbox.next_rows(self._formed, limit, before)
            if rows is None and self._ahead:
                _, self._formed = self._ahead.pop(0)
            elif rows is None:
                self._formed = max(self._formed, self._tip)
                return None
            elif len(rows.bodies) > 1 or len(rows.bodies[0]) <= room:
                return rows
            else:
                self._set_aside(rows, room)

    def _set_aside(self, rows: Rows, room: int) -> None:
        body = rows.bodies[0]
        log.error("row_set_aside", channel=str(self.channel), sequence=rows.first, bytes=len(body), room=room)
        with self._store.transaction():
            self._outbox.set_aside(rows.first)
            if self.channel is not Channel.READINGS:
                return
            reason = f"a row of {len(body)} bytes fits into no batch that the broker takes; it is kept at the gateway"
            try:
                reading = decode(body, NewMeterReading)
            except ContractError:
                return
            record = LossRecord(
                id=uuid.uuid4(),
                device=reading.device,
                meter=reading.meter,
                series=reading.series,
                start=reading.timestamp,
                end=reading.timestamp,
                count=1,
                reason=reason,
            )
            self._store.reports.append([encode(record)])

    def _room(self, limit: int) -> int:
        """Return how many bytes of rows fit into one batch, for the contract and for the broker."""
        widest = BatchName(self._store.id, MAX_SEQUENCE, MAX_SEQUENCE, bytes(16))
        frame = Outgoing(self._topic, b"", user_properties=name_properties(widest)).overhead()
        return min(MAX_BATCH_BYTES, limit - frame) - ENVELOPE_BYTES - _BATCH_HEADER

    async def _publish(self, connection: Connection, name: BatchName, body: bytes) -> None:
        metrics.count("batches_sent_total", channel=str(self.channel))
        payload = self._key.seal(self._topic, body)
        await connection.publish(Outgoing(self._topic, payload, user_properties=name_properties(name)))
