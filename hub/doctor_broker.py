"""The doctor's look at the broker: by trying what the hub needs of it, under one topic that nobody else has.

All is published below ``protocol.topics.DOCTOR``, with a random last level; relays and agents subscribe to nothing
there. A retained message is taken back at the end. What only its administrator can see (its queues, its disk) is tried
as far as that shows: a burst larger than most brokers' default queue.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from hub.doctor_lines import FAIL, OK, WARN, Line
from mqtt.connection import Access, BrokerError, Connection, Incoming, Outgoing, connect
from protocol.topics import DOCTOR, doctor_share
from protocol.wire import MAX_MESSAGE_BYTES

ANSWER_SECONDS = 5.0
QUIET_SECONDS = 0.5
"""Real seconds within which a message arrives, and in which it is believed that nothing more comes."""

EXPIRY_SECONDS = 1
SHARED = 20
BURST = 2000
"""Messages of a burst: twice what Mosquitto keeps for a slow subscriber unless it is told otherwise."""

IN_FLIGHT = 100
_QUEUE_BYTES = 64 * 1024 * 1024


class _Client:
    """A connection, and what it has heard."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._heard: asyncio.Queue[Incoming | BrokerError] = asyncio.Queue()

    async def listen(self) -> None:
        """Take what comes in, until the connection is gone."""
        try:
            async for message in self.connection.messages():
                self._heard.put_nowait(message)
        except BrokerError as error:
            self._heard.put_nowait(error)

    async def next(self, seconds: float = ANSWER_SECONDS) -> Incoming | None:
        """Return the next message; None when none comes in time.

        Raises:
            BrokerError: when the connection is gone.
        """
        try:
            async with asyncio.timeout(seconds):
                heard = await self._heard.get()
        except TimeoutError:
            return None
        if isinstance(heard, BrokerError):
            raise heard
        return heard

    async def rest(self, most: int, seconds: float = ANSWER_SECONDS) -> list[Incoming]:
        """Return what comes, until nothing does for a while or there is enough."""
        found: list[Incoming] = []
        while len(found) < most and (message := await self.next(seconds)) is not None:
            found.append(message)
        return found


@contextlib.asynccontextmanager
async def _client(access: Access) -> AsyncIterator[_Client]:
    identifier = f"metergate-doctor-{uuid.uuid4().hex[:12]}"
    async with connect(access, identifier, queue_bytes=_QUEUE_BYTES, in_flight=IN_FLIGHT) as connection:
        client = _Client(connection)
        listening = asyncio.create_task(client.listen())
        try:
            yield client
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening


async def examine(access: Access) -> list[Line]:
    """Try a broker."""
    begun = time.monotonic()
    try:
        async with _client(access) as client:
            took = time.monotonic() - begun
            text = f"{client.connection.where} speaks MQTT 5, connected in {1000 * took:.0f} ms"
            lines = [Line("broker", OK, text), _packets(client.connection)]
    except BrokerError as error:
        advice = "look at --broker, its user and password, and whether the broker runs and speaks MQTT 5"
        return [Line("broker", FAIL, str(error), advice)]
    for check, trial, advice in (
        ("broker.messages", _messages, f"let the hub's user publish and subscribe below {DOCTOR}"),
        ("broker.shared", _shared, "relays need $share: switch shared subscriptions on, or use another broker"),
        ("broker.retained", _retained, "plans are retained messages: switch retained messages on"),
        (
            "broker.expiry",
            _expiry,
            "nothing is lost by it: agents refuse what is too old; another broker would spare them",
        ),
        ("broker.large", _large, "raise the broker's maximum packet size (Mosquitto: max_packet_size)"),
        (
            "broker.burst",
            _burst,
            "raise the broker's queue (Mosquitto: max_queued_messages 0); agents send again, but slower",
        ),
    ):
        # Connections of its own for each: what one of them breaks, a packet too large for one, is that trial's alone.
        try:
            async with _client(access) as first, _client(access) as second:
                status, text = await trial(first, second, f"{DOCTOR}/{uuid.uuid4().hex[:12]}")
        except BrokerError as error:
            status, text = FAIL, str(error)
        lines.append(Line(check, status, text, "" if status == OK else advice))
    return lines


def _packets(connection: Connection) -> Line:
    text = f"packets up to {connection.limit / 1024:.0f} KiB"
    if connection.limit < MAX_MESSAGE_BYTES:
        advice = (
            f"raise the broker's maximum packet size to {MAX_MESSAGE_BYTES // 1024} KiB or more: plans grow with meters"
        )
        return Line("broker.packets", WARN, text, advice)
    return Line("broker.packets", OK, text)


_Verdict = tuple[str, str]
_Trial = Callable[[_Client, _Client, str], Awaitable[_Verdict]]


async def _messages(first: _Client, second: _Client, topic: str) -> _Verdict:
    await second.connection.subscribe([topic])
    begun = time.monotonic()
    await first.connection.publish(Outgoing(topic, b"messages", user_properties=[("name", "value")]))
    heard = await second.next()
    if heard is None:
        return FAIL, "a message was acknowledged and did not arrive"
    if (heard.payload, heard.user_properties) != (b"messages", (("name", "value"),)):
        return FAIL, "a message arrived as another one than was sent, or without its user properties"
    return OK, f"a message takes {1000 * (time.monotonic() - begun):.0f} ms"


async def _shared(first: _Client, second: _Client, topic: str) -> _Verdict:
    for client in (first, second):
        await client.connection.subscribe([doctor_share(topic)])
    for number in range(SHARED):
        await first.connection.publish(Outgoing(topic, str(number).encode()))
    found = [await client.rest(SHARED, QUIET_SECONDS) for client in (first, second)]
    payloads = [message.payload for messages in found for message in messages]
    if len(payloads) != SHARED or len(set(payloads)) != SHARED:
        return FAIL, f"of {SHARED} messages to a shared subscription {len(payloads)} arrived"
    shares = " and ".join(str(len(messages)) for messages in found)
    if not all(found):
        return (
            WARN,
            f"one of two subscribers got all {SHARED} messages ({shares}): several relays bring no more than one",
        )
    return OK, f"two subscribers shared {SHARED} messages: {shares}"


async def _retained(first: _Client, second: _Client, topic: str) -> _Verdict:
    await first.connection.publish(Outgoing(topic, b"retained", retain=True))
    try:
        await second.connection.subscribe([topic])
        heard = await second.next()
    finally:
        await first.connection.publish(Outgoing(topic, b"", retain=True))
    if heard is None or not heard.retained:
        return FAIL, "a retained message was not given to who subscribed later"
    return OK, "a retained message was given to who subscribed later"


async def _expiry(first: _Client, second: _Client, topic: str) -> _Verdict:
    await first.connection.publish(Outgoing(topic, b"expires", retain=True, expiry=EXPIRY_SECONDS))
    try:
        await asyncio.sleep(EXPIRY_SECONDS + 1.5)
        await second.connection.subscribe([topic])
        heard = await second.next(QUIET_SECONDS)
    finally:
        await first.connection.publish(Outgoing(topic, b"", retain=True))
    if heard is not None:
        return WARN, f"a message that was to expire after {EXPIRY_SECONDS} s was given out later"
    return OK, "a message that had expired was not given out"


async def _large(first: _Client, second: _Client, topic: str) -> _Verdict:
    size = min(MAX_MESSAGE_BYTES, first.connection.limit - 256)
    await second.connection.subscribe([topic])
    await first.connection.publish(Outgoing(topic, bytes(size)))
    heard = await second.next()
    if heard is None or len(heard.payload) != size:
        return FAIL, f"a message of {size / 1024:.0f} KiB was acknowledged and did not arrive"
    return OK, f"a message of {size / 1024:.0f} KiB arrived"


async def _burst(first: _Client, second: _Client, topic: str) -> _Verdict:
    await second.connection.subscribe([topic])
    under_way = asyncio.Semaphore(IN_FLIGHT)

    async def publish(number: int) -> None:
        async with under_way:
            await first.connection.publish(Outgoing(topic, number.to_bytes(256)))

    begun = time.monotonic()
    results = await asyncio.gather(*map(publish, range(BURST)), return_exceptions=True)
    if lost := next((result for result in results if isinstance(result, BaseException)), None):
        raise lost
    arrived = len({message.payload for message in await second.rest(BURST)})
    seconds = time.monotonic() - begun
    if arrived < BURST:
        return WARN, f"of a burst of {BURST} messages {arrived} arrived: the broker drops what is not taken at once"
    return OK, f"a burst of {BURST} messages arrived, {BURST / seconds:,.0f} a second"
