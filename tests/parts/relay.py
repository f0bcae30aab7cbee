"""A peer for agents under test that speaks the contract with a key of its own: what a hub says and hears over MQTT.

It keeps what arrives, and sends receipts for it only while ``receipting``. It is not a hub: it stores nothing and
judges nothing but envelopes and batches.
"""

import asyncio
import contextlib
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from agent.settings import parse_broker
from mqtt.connection import Access, Connection, Incoming, Outgoing, connect
from protocol.commands import Command, CommandUpdate
from protocol.envelopes import SigningKey, open_envelope
from protocol.plans import CallerGrant, Device, Line, Task, render_plan
from protocol.readings import Batch, BatchName, NewMeterReading, checked_batch
from protocol.reports import (
    Hello,
    Online,
    PlanApplied,
    Receipt,
    Report,
    Resend,
    RunReport,
    decode_online,
    decode_report,
)
from protocol.topics import HELLO, Channel, parse_topic, topic_for
from protocol.wire import decode, encode

PATIENCE = 25.0

T = TypeVar("T", bound=Report)


def now() -> dt.datetime:
    """The machine's time: what a hub says as its own."""
    return dt.datetime.now(dt.UTC)


class Relay:
    """The hub's end of the wire for one gateway."""

    def __init__(self, connection: Connection, gateway: str, key: SigningKey) -> None:
        self.gateway = gateway
        self.key = key
        self.receipting = True
        self.batches: list[tuple[Channel, Batch]] = []
        self.packets: list[int] = []
        self.readings: list[NewMeterReading] = []
        self.reports: list[Report] = []
        self.online: list[Online] = []
        self.receipts: list[tuple[Channel, BatchName]] = []
        self._connection = connection
        self._heard = asyncio.Event()

    async def hear(self) -> None:
        """Take in what comes, for ever."""
        async for message in self._connection.messages():
            await self._take(message)
            self._heard.set()

    async def _take(self, message: Incoming) -> None:
        channel = parse_topic(message.topic).channel
        body = open_envelope(message.topic, message.payload).body
        if channel is Channel.ONLINE:
            self.online.append(decode_online(body))
            return
        self.packets.append(len(message.payload))
        batch = checked_batch(body)
        self.batches.append((channel, batch))
        if not self.receipting:
            return
        if channel is Channel.READINGS:
            self.readings += [decode(row, NewMeterReading) for row in batch.rows]
        else:
            self.reports += [decode_report(row) for row in batch.rows]
        await self.receipt(channel, batch.name)

    async def receipt(self, channel: Channel, name: BatchName) -> None:
        """Say that a batch is committed."""
        self.receipts.append((channel, name))
        await self.say(Channel.RECEIPT, encode(Receipt(str(channel), [name], now())))

    async def resend(self, channel: Channel, store: bytes, first: int) -> None:
        """Ask for everything from a sequence on, as a restored hub does."""
        await self.say(Channel.RECEIPT, encode(Resend(store, str(channel), first, now())))

    async def hello(self) -> None:
        """Say that a relay has started."""
        await self._connection.publish(Outgoing(HELLO, self.key.seal(HELLO, encode(Hello(now())))))

    async def plan(self, revision: int, **items: Any) -> bytes:  # noqa: ANN401 - the items of render_plan
        """Publish a plan; without lines, devices, tasks or callers where none are given."""
        body = render_plan(
            self.gateway,
            revision,
            now(),
            lines=items.get("lines", []),
            devices=items.get("devices", []),
            tasks=items.get("tasks", []),
            callers=items.get("callers", []),
        )
        await self.say(Channel.PLAN, body)
        return body

    async def command(self, command: Command) -> None:
        """Publish a command of the hub."""
        await self.say(Channel.COMMAND, encode(command))

    async def say(self, channel: Channel, body: bytes, key: SigningKey | None = None) -> None:
        """Publish a body on one of the gateway's channels, signed."""
        topic = topic_for(self.gateway, channel)
        await self._connection.publish(Outgoing(topic, (key or self.key).seal(topic, body), retain=channel.retained))

    def of(self, kind: type[T]) -> list[T]:
        """Return the reports of one kind, each once, in the order in which they came."""
        found: dict[uuid.UUID, T] = {}
        for report in self.reports:
            if isinstance(report, kind):
                found.setdefault(report.id, report)
        return list(found.values())

    def runs(self) -> list[RunReport]:
        """Return the run reports."""
        return self.of(RunReport)

    def applied(self) -> list[PlanApplied]:
        """Return the reports of applied plans."""
        return self.of(PlanApplied)

    def updates(self, command: uuid.UUID) -> list[CommandUpdate]:
        """Return the steps of a command in their order."""
        steps = [update for update in self.of(CommandUpdate) if update.command_id == command]
        return sorted(steps, key=lambda update: (update.session, update.sequence))

    async def until(self, what: Callable[[], object], seconds: float = PATIENCE) -> None:
        """Wait until something is so; fails with what was heard if it does not come."""
        try:
            async with asyncio.timeout(seconds):
                while not what():
                    self._heard.clear()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._heard.wait(), 0.1)
        except TimeoutError:
            raise AssertionError(
                f"not within {seconds:g} s; heard {len(self.readings)} readings, reports {self.reports[-8:]}, "
                f"online {self.online[-1:]}"
            ) from None


@contextlib.asynccontextmanager
async def relay(url: str, gateway: str, key: SigningKey | None = None) -> AsyncIterator[Relay]:
    """Connect the hub's end for the length of the block."""
    async with connect(Access(parse_broker(url)), None) as connection:
        channels = (Channel.READINGS, Channel.REPORT, Channel.ONLINE)
        await connection.subscribe([topic_for(gateway, channel) for channel in channels])
        peer = Relay(connection, gateway, key or SigningKey.generate())
        hearing = asyncio.create_task(peer.hear())
        try:
            yield peer
        finally:
            hearing.cancel()
            await asyncio.wait([hearing])
            if not hearing.cancelled():
                hearing.exception()


def a_line(endpoint: str, name: str = "line-1") -> Line:
    """A TCP or pty line of simulated meters."""
    return Line(uuid.uuid4(), name, endpoint, 300)


def a_device(line: Line, name: str = "meter-1", address: str = "1", tasks: list[uuid.UUID] | None = None) -> Device:
    """A meter on that line."""
    return Device(uuid.uuid4(), name, line.id, "Europe/Berlin", address, None, tasks or [])


def a_task(schedule: str = "quarterly", *, name: str = "total", missed: str = "default", offset: int = 0) -> Task:
    """A task that reads one total."""
    return Task(
        uuid.uuid4(), name, schedule, offset, "generic_lis200", "read_single_value", {"address": "2:300"}, missed
    )


def an_archive_task(schedule: str = "hourly", *, missed: str = "default") -> Task:
    """A task that reads the rows of the interval archive that are not held."""
    return Task(
        uuid.uuid4(),
        "archive",
        schedule,
        0,
        "generic_lis200",
        "read_archive_by_offset_seconds",
        {"archive_number": 3, "control_position": 3, "offset_seconds": 7200},
        missed,
    )


def a_grant(name: str, key: SigningKey, *allowed: str, expires: dt.datetime | None = None) -> CallerGrant:
    """A caller who may make these calls."""
    return CallerGrant(name, key.public, list(allowed), expires)
