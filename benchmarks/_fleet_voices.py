"""All gateways of the bench ``fleet`` in one process: what they say, over one connection, without stores and meters.

``python -m benchmarks._fleet_voices BROKER GATEWAYS METERS SERIES`` obeys lines of JSON on its input:

- ``{"do": "connect"}``: connect and subscribe to all plans and receipts; ``{"did": "connect"}``. From then on each
  gateway lives as its agent would: it applies the plan it gets, reports that and says so in its life sign (retained);
  says that it is online when a relay has started, and when all it has is receipted; and says so every minute.
- ``{"do": "greet"}``: every gateway says that it is online; ``{"did": "greet"}`` when the broker has all of it.
- ``{"do": "prepare", "at": TIMESTAMP}``: make a batch of each gateway: a reading of each series of all its meters.
- ``{"do": "burst", "within": SECONDS}``: publish them, evenly over so long, and again as an agent's window has it; the
  line with ``{"did": "burst"}`` comes when each has its receipt.
- ``{"do": "part"}``: end the connection (the broker goes); ``{"did": "part"}``.

Each plan that comes is counted: a line tells how many came since the last ``{"do": "count"}``, of how many gateways,
and when the last one of these had its first.
"""

import asyncio
import dataclasses
import datetime as dt
import decimal
import hashlib
import os
import random
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec

from agent.uplink import ANNOUNCE_EVERY
from agent.window import Window
from benchmarks._children import listened, tell
from benchmarks._stampede_uplinks import log_to_stderr
from hub.connection import IN_FLIGHT, read_url
from mqtt.connection import Connection, Outgoing, connect
from protocol.envelopes import Signed, SigningKey
from protocol.plans import plan_digest
from protocol.readings import BatchName, NewMeterReading, batch_of, name_properties
from protocol.reports import Online, PlanApplied, Receipt, decode_receipt
from protocol.topics import HELLO, Channel, parse_topic, topic_for
from protocol.wire import decode, encode

NICE = 7
"""This process stands for as many other machines: it must not take the processor from the hub."""

RESEND, RESEND_MAX = 60.0, 90.0
"""The agent's own (``agent.settings.Timing``)."""

GREET_WITHIN = 2.0
TELL_EVERY = 0.1
_QUEUE_BYTES = 1 << 30


class _Header(msgspec.Struct, frozen=True, array_like=True):
    gateway: str
    revision: int


def name_of(number: int) -> str:
    """The id in topics of a gateway."""
    return f"gw-{number}"


def meter_of(number: int, position: int) -> uuid.UUID:
    """The id of a meter of a gateway, as ``_fleet_estate`` makes it in SQL."""
    return uuid.UUID(bytes=hashlib.md5(f"meter {number} {position}".encode(), usedforsecurity=False).digest())


@dataclasses.dataclass(slots=True)
class Voice:
    """One gateway."""

    number: int
    name: str
    key: SigningKey
    store: bytes
    session: int
    sequence: int = 0
    revision: int = 0
    digest: bytes = b""
    readings: int = 0
    reports: int = 0
    readings_through: int = 0
    reports_through: int = 0
    waiting: dict[BatchName, str] = dataclasses.field(default_factory=dict)
    window: Window = dataclasses.field(default_factory=lambda: Window(RESEND * random.uniform(1, 1.5), RESEND_MAX))  # noqa: S311 - jitter, as the agent's
    batch: Outgoing | None = None
    named: BatchName | None = None

    @classmethod
    def of(cls, number: int) -> "Voice":
        """Make a gateway; its key is the same in every run, its store a new one."""
        name = name_of(number)
        key = SigningKey(hashlib.sha256(b"fleet " + name.encode()).digest())
        return cls(number, name, key, os.urandom(16), int(time.time()))

    def online(self) -> Outgoing:
        """Its life sign as it is now."""
        sign = Online(
            gateway=self.name,
            online=True,
            session=self.session,
            store=self.store,
            software="bench",
            at=dt.datetime.now(dt.UTC),
            plan_revision=self.revision,
            plan_digest=self.digest,
            readings_through=self.readings_through,
            reports_through=self.reports_through,
            depth=sum(name.last - name.first + 1 for name in self.waiting),
            sequence=self.sequence,
        )
        topic = topic_for(self.name, Channel.ONLINE)
        return Outgoing(topic, self.key.seal(topic, encode(sign)), retain=True)

    def batch_of(self, channel: Channel, rows: list[bytes]) -> Outgoing:
        """A batch of new rows, which waits for its receipt from now on."""
        topic = topic_for(self.name, channel)
        before = self.readings if channel is Channel.READINGS else self.reports
        batch = batch_of(self.store, before + 1, rows)
        if channel is Channel.READINGS:
            self.readings = batch.name.last
        else:
            self.reports = batch.name.last
        self.named = batch.name
        self.waiting[batch.name] = channel.value
        return Outgoing(topic, self.key.seal(topic, encode(batch)), user_properties=name_properties(batch.name))

    def apply(self, body: bytes) -> Outgoing | None:
        """Apply a plan; return the report of it, None when it is the one that runs."""
        digest = plan_digest(body)
        header = msgspec.msgpack.decode(zlib.decompress(body), type=_Header)
        if digest == self.digest or header.revision < self.revision:
            return None
        self.revision, self.digest = header.revision, digest
        self.sequence += 1
        now = dt.datetime.now(dt.UTC)
        applied = PlanApplied(uuid.uuid4(), self.revision, digest, now, self.session, self.sequence)
        return self.batch_of(Channel.REPORT, [encode(applied)])

    def receipted(self, receipt: Receipt) -> bool:
        """Take a receipt; whether nothing waits any more, and something did."""
        waited = bool(self.waiting)
        for name in receipt.names:
            if self.waiting.pop(name, None) is None:
                continue
            if receipt.channel == Channel.READINGS:
                self.readings_through = max(self.readings_through, name.last)
                self.window.receipted(name, time.monotonic())
            else:
                self.reports_through = max(self.reports_through, name.last)
        return waited and not self.waiting


class Fleet:
    """All gateways, and the connection that carries what they say."""

    def __init__(self, broker: str, gateways: int, meters: int, series: list[str]) -> None:
        self._access = read_url(broker)._replace(answer=120.0, keepalive=600)
        self._voices = {name_of(number): Voice.of(number) for number in range(gateways)}
        self._meters = meters
        self._series = series
        self._out: asyncio.Queue[tuple[Outgoing, asyncio.Future[None] | None]] = asyncio.Queue()
        self._came = 0
        self._came_at = 0.0
        self._fresh: set[str] = set()
        self._told = 0
        self._receipts: dict[BatchName, float] = {}
        self._burst: set[BatchName] = set()
        self._burst_over = asyncio.Event()
        self._resent = 0
        self._latest_receipt = 0.0
        self._connected: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def obey(self, order: dict[str, Any]) -> None:
        """Do what a line says, and tell when it is done."""
        does: dict[str, Callable[[dict[str, Any]], Coroutine[Any, Any, dict[str, Any]]]] = {
            "connect": self._connect,
            "greet": self._greet,
            "prepare": self._prepare,
            "burst": self._send_burst,
            "part": self._part,
            "count": self._count,
        }
        told = await does[order["do"]](order)
        tell(did=order["do"], **told)

    async def _connect(self, _order: dict[str, Any]) -> dict[str, Any]:
        self._connected = asyncio.create_task(self._live())
        await self._ready.wait()
        return {}

    async def _live(self) -> None:
        # Each connection of an agent begins a session of its own.
        for voice in self._voices.values():
            voice.session += 1
        async with connect(self._access, None, queue_bytes=_QUEUE_BYTES, in_flight=IN_FLIGHT) as connection:
            every = (topic_for("x", channel).replace("/x/", "/+/") for channel in (Channel.PLAN, Channel.RECEIPT))
            await connection.subscribe([*every, HELLO])
            self._ready.set()
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(IN_FLIGHT):
                        group.create_task(self._publish(connection))
                    group.create_task(self._live_on())
                    group.create_task(self._tell_counts())
                    async for message in connection.messages():
                        self._hear(message.topic, message.payload, retained=message.retained)
            finally:
                self._ready.clear()

    async def _part(self, _order: dict[str, Any]) -> dict[str, Any]:
        if self._connected is not None:
            self._connected.cancel()
            await asyncio.wait([self._connected])
        while not self._out.empty():
            self._out.get_nowait()
        return {}

    async def _publish(self, connection: Connection) -> None:
        while True:
            message, done = await self._out.get()
            await connection.publish(message)
            if done is not None and not done.done():
                done.set_result(None)

    def _say(self, message: Outgoing) -> None:
        self._out.put_nowait((message, None))

    async def _all_out(self, messages: Iterable[Outgoing]) -> None:
        loop = asyncio.get_running_loop()
        waits = []
        for message in messages:
            done = loop.create_future()
            waits.append(done)
            self._out.put_nowait((message, done))
        await asyncio.gather(*waits)

    def _hear(self, topic: str, payload: bytes, *, retained: bool) -> None:
        if topic == HELLO:
            for voice in self._voices.values():
                pause = random.uniform(0, GREET_WITHIN)  # noqa: S311 - jitter, as the agent's
                asyncio.get_running_loop().call_later(pause, self._announce, voice)
            return
        gateway, channel, _ = parse_topic(topic)
        if gateway not in self._voices:
            return
        voice = self._voices[gateway]
        # Signatures of the hub are checked by agents, each on a machine of its own.
        body = decode(payload, Signed).body
        if channel is Channel.PLAN:
            if not retained:
                self._came += 1
                if topic not in self._fresh:
                    self._fresh.add(topic)
                    self._came_at = time.monotonic()
            report = voice.apply(body)
            if report is not None:
                self._say(report)
                self._announce(voice)
            return
        receipt = decode_receipt(body)
        if isinstance(receipt, Receipt):
            self._take(voice, receipt)

    def _take(self, voice: Voice, receipt: Receipt) -> None:
        if receipt.channel == Channel.READINGS:
            self._burst.difference_update(receipt.names)
            self._latest_receipt = time.monotonic()
            if not self._burst:
                self._burst_over.set()
        if voice.receipted(receipt):
            # Everything is delivered: people who wait for that look at the life sign.
            self._announce(voice)

    def _announce(self, voice: Voice) -> None:
        self._say(voice.online())

    async def _live_on(self) -> None:
        """Every minute each gateway gives its life sign, one after the other."""
        pause = ANNOUNCE_EVERY / len(self._voices)
        await asyncio.sleep(ANNOUNCE_EVERY)
        due = time.monotonic()
        while True:
            for voice in self._voices.values():
                self._announce(voice)
                due += pause
                if (left := due - time.monotonic()) > 0:
                    await asyncio.sleep(left)

    async def _tell_counts(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            if self._told != self._came:
                self._told = self._came
                tell(plans=self._came, gateways=len(self._fresh), at=self._came_at)

    async def _count(self, _order: dict[str, Any]) -> dict[str, Any]:
        self._came = self._told = 0
        self._fresh.clear()
        return {}

    async def _greet(self, _order: dict[str, Any]) -> dict[str, Any]:
        begun = time.monotonic()
        await self._all_out(voice.online() for voice in self._voices.values())
        return {"seconds": time.monotonic() - begun, "began": begun}

    async def _prepare(self, order: dict[str, Any]) -> dict[str, Any]:
        at = dt.datetime.fromtimestamp(order["at"], dt.UTC)
        size = 0
        for voice in self._voices.values():
            run = uuid.uuid4()
            rows = [
                encode(
                    NewMeterReading(
                        f"meter {position}", series, at, decimal.Decimal(order["at"] + position).scaleb(-4), "m3",
                        meter_of(voice.number, position), at + dt.timedelta(seconds=20), "meter", -1.5, run,
                    )
                )
                for position in range(self._meters)
                for series in self._series
            ]  # fmt: skip
            voice.batch = voice.batch_of(Channel.READINGS, rows)
            size += len(voice.batch.payload)
            await asyncio.sleep(0)
        return {"bytes": size}

    async def _send_burst(self, order: dict[str, Any]) -> dict[str, Any]:
        voices = list(self._voices.values())
        random.shuffle(voices)
        self._burst = {voice.named for voice in voices if voice.named is not None}
        self._burst_over.clear()
        self._resent = 0
        begun = due = time.monotonic()
        again = asyncio.create_task(self._again(voices))
        for voice in voices:
            self._send(voice)
            due += order["within"] / len(voices)
            if (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
        published = time.monotonic()
        try:
            async with asyncio.timeout(order["at_most"]):
                await self._burst_over.wait()
        except TimeoutError:
            pass
        again.cancel()
        await asyncio.wait([again])
        took = self._latest_receipt - begun
        return {
            "seconds": took, "published": published - begun, "resent": self._resent, "missing": len(self._burst),
        }  # fmt: skip

    def _send(self, voice: Voice) -> None:
        if voice.batch is not None and voice.named is not None:
            voice.window.sent(voice.named, voice.batch.payload, time.monotonic())
            self._say(voice.batch)

    async def _again(self, voices: list[Voice]) -> None:
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for voice in voices:
                if voice.window.overdue(now) and voice.batch is not None:
                    self._resent += 1
                    self._say(voice.batch)


async def run(fleet: Fleet) -> None:
    """Obey until the input ends."""
    async with listened() as orders:
        tell(ready=True)
        while (order := await orders.get())["do"] != "end":
            await fleet.obey(order)
    await fleet.obey({"do": "part"})


if __name__ == "__main__":
    os.nice(NICE)
    log_to_stderr()
    asyncio.run(run(Fleet(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(","))))
