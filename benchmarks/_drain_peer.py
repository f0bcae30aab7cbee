"""The peer of the bench ``drain``, a process of its own: it only sends. Batches are prepared before the clock starts.

``python -m benchmarks._drain_peer BROKER GATEWAY READINGS DEVICE...`` keeps a wide window of batches without receipt,
waits for every receipt, and prints the readings per second from the first sending to the last receipt.
"""

import asyncio
import json
import sys
import time
import uuid
from collections.abc import Sequence

from agent.settings import parse_broker
from benchmarks.backlog import rows_of
from mqtt.connection import Access, Connection, Outgoing, connect
from protocol.envelopes import SigningKey, open_envelope
from protocol.readings import BatchName, batch_of, name_properties
from protocol.reports import Receipt, decode_receipt
from protocol.topics import Channel, topic_for
from protocol.wire import MAX_BATCH_BYTES, encode

WINDOW = 96
"""Batches without receipt: six MiB."""

BATCH_BYTES = MAX_BATCH_BYTES - 512


def prepare(gateway: str, meters: Sequence[uuid.UUID], readings: int) -> list[tuple[BatchName, Outgoing]]:
    """Return all batches, signed and ready."""
    store, key, topic = uuid.uuid4().bytes, SigningKey.generate(), topic_for(gateway, Channel.READINGS)
    prepared: list[tuple[BatchName, Outgoing]] = []
    rows: list[bytes] = []
    first, size = 1, 0

    def close() -> None:
        batch = batch_of(store, first, rows)
        payload = key.seal(topic, encode(batch))
        prepared.append((batch.name, Outgoing(topic, payload, user_properties=name_properties(batch.name))))

    for row in rows_of(meters, readings):
        if rows and size + len(row) > BATCH_BYTES:
            close()
            first, size, rows = first + len(rows), 0, []
        rows.append(row)
        size += len(row)
    close()
    return prepared


async def hear(connection: Connection, waiting: set[BatchName], slots: asyncio.Semaphore, done: asyncio.Event) -> None:
    """Take receipts until there is one for every batch."""
    async for message in connection.messages():
        receipt = decode_receipt(open_envelope(message.topic, message.payload).body)
        if isinstance(receipt, Receipt):
            for name in receipt.names:
                if name in waiting:
                    waiting.remove(name)
                    slots.release()
        if not waiting:
            done.set()
            return


async def run(broker: str, gateway: str, readings: int, meters: Sequence[uuid.UUID]) -> float:
    """Send everything; return the readings per second."""
    prepared = prepare(gateway, meters, readings)
    waiting = {name for name, _ in prepared}
    slots, done = asyncio.Semaphore(WINDOW), asyncio.Event()
    async with connect(Access(parse_broker(broker)), None) as connection:
        await connection.subscribe([topic_for(gateway, Channel.RECEIPT)])
        hearing = asyncio.create_task(hear(connection, waiting, slots, done))
        begun = time.monotonic()
        for _, message in prepared:
            await slots.acquire()
            await connection.publish(message)
        await done.wait()
        took = time.monotonic() - begun
        await hearing
    return readings / took


def main() -> None:
    """Read the command line, send, and print the figure."""
    broker, gateway, readings, *meters = sys.argv[1:]
    rate = asyncio.run(run(broker, gateway, int(readings), [uuid.UUID(meter) for meter in meters]))
    print(json.dumps({"rate": rate}), flush=True)


if __name__ == "__main__":
    main()
