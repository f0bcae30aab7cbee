"""The gateways of the bench ``relays`` in one process: batches signed beforehand, sent as an agent sends them.

``python -m benchmarks._relays_publishers BROKER GATEWAY=METER...`` opens a few connections, each of which speaks for
many gateways, because receiving and sending is what is to be measured and not two hundred connections. Each gateway has
the real agent's window (``agent.window``): what is on its way is bounded by receipts, what has none in time is sent
again, and when a relay says that it has started, or its will that it is gone, all that travels is due within seconds.
The process then obeys lines of JSON on its input, one at a time:

- ``{"do": "meet"}``: every gateway says that it is online, and runs the plan that it had last; ``{"did": "meet"}``.
- ``{"do": "prepare", "readings": N, "rows": R}``: N more readings of each gateway are made into batches of R;
  ``{"did": "prepare"}`` tells how many batches these are, and the bytes of their packets.
- ``{"do": "go"}``: all are sent. Every quarter of a second a line tells how things stand, the last one with ``"did":
  "go"``, when there is a receipt for every batch. ``{"do": "mark"}`` meanwhile, which is said when a relay is ended,
  has the last line tell when there was a receipt for everything that was on its way at that moment.
- ``{"do": "listen"}``: from now on plans and commands are counted, as a connection sees them that only looks; ``{"did":
  "listen"}``. ``{"do": "heard"}`` is answered by ``{"did": "heard", "plans": ..., "commands": ..., "left": ...}``: how
  many revisions and commands were published so many times, and when each command was seen first (the machine's
  monotonic clock).
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import faulthandler
import os
import random
import signal
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from agent.settings import Timing, parse_broker
from agent.window import Window
from benchmarks._children import listened, tell
from benchmarks.backlog import readings_of
from hub.dispatch import SEND_AGAIN
from mqtt.connection import Access, Connection, Outgoing, connect
from protocol.commands import Command
from protocol.envelopes import Signed, SigningKey
from protocol.plans import plan_digest, read_plan
from protocol.readings import BatchName, batch_of, name_properties
from protocol.reports import Online, Receipt, decode_receipt
from protocol.topics import HELLO, Channel, parse_topic, topic_for
from protocol.wire import decode, encode

NICE = 7
"""As the processes of ``stampede``: these stand for other machines."""

CONNECTIONS = 4
IN_FLIGHT = 200
UNANSWERED = SEND_AGAIN.total_seconds() / 2
LOOK = 0.25
GREET_WITHIN, HURRY_WITHIN = 2.0, 1.0
"""Seconds within which an agent hears a relay's greeting, and sends again what travels (``agent.uplink``)."""


@dataclasses.dataclass(slots=True)
class Flights:
    """What is told of all gateways together."""

    sent: int = 0
    resent: int = 0
    receipted: int = 0
    """Batches that have their receipt, each once."""
    repeated: int = 0
    """Receipts for batches that had one."""
    marked: set[BatchName] = dataclasses.field(default_factory=set)
    marked_at: float = 0.0
    marked_until: float | None = None
    last_receipt: float = 0.0
    longest_silence: float = 0.0
    """Seconds without a receipt, at most, from when a relay was ended."""


class Gateway:
    """One gateway: its key, its store's id, its batches that wait, and its window."""

    def __init__(self, name: str, meter: uuid.UUID, flights: Flights) -> None:
        self.name = name
        self.meter = meter
        self._flights = flights
        self._key = SigningKey.generate()
        self._store = uuid.uuid4().bytes
        self._made = 0
        timing = Timing()
        self._window = Window(timing.resend * random.uniform(1.0, 1.5), timing.resend_max)  # noqa: S311 - jitter
        self._waiting: deque[tuple[BatchName, bytes]] = deque()
        self._messages: dict[BatchName, Outgoing] = {}
        self._wake = asyncio.Event()

    def prepare(self, readings: int, rows: int) -> list[int]:
        """Make so many more readings into signed batches; return the bytes of each packet."""
        topic = topic_for(self.name, Channel.READINGS)
        bodies = [encode(one) for one in readings_of([self.meter], self._made + readings, after=self._made)]
        for start in range(0, len(bodies), rows):
            batch = batch_of(self._store, self._made + start + 1, bodies[start : start + rows])
            payload = self._key.seal(topic, encode(batch))
            self._messages[batch.name] = Outgoing(topic, payload, user_properties=name_properties(batch.name))
            self._waiting.append((batch.name, payload))
        self._made += readings
        messages = (self._messages[name] for name, _ in self._waiting)
        return [message.overhead() + len(message.payload) for message in messages]

    def online(self, revision: int, digest: bytes) -> Outgoing:
        """Return the life sign of a gateway that runs this plan."""
        topic = topic_for(self.name, Channel.ONLINE)
        sign = Online(
            gateway=self.name,
            online=True,
            session=1,
            store=self._store,
            software="bench",
            at=dt.datetime.now(dt.UTC),
            plan_revision=revision,
            plan_digest=digest,
        )
        return Outgoing(topic, self._key.seal(topic, encode(sign)), retain=True)

    async def send_all(self, connection: Connection) -> None:
        """Send until every batch has its receipt."""
        while self._waiting or self._window.flights:
            self._wake.clear()
            for flight in self._window.overdue(time.monotonic()):
                self._flights.resent += 1
                await self._publish(connection, flight.name)
            while self._waiting and self._window.open(len(self._waiting[0][1])):
                name, payload = self._waiting.popleft()
                self._window.sent(name, payload, time.monotonic())
                await self._publish(connection, name)
            due = self._window.next_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                    await self._wake.wait()

    async def _publish(self, connection: Connection, name: BatchName) -> None:
        # A receipt may have come while another batch was being sent again.
        message = self._messages.get(name)
        if message is not None:
            self._flights.sent += 1
            await connection.publish(message)

    def receipted(self, names: Sequence[BatchName]) -> None:
        """Take a receipt."""
        flights, now = self._flights, time.monotonic()
        for name in names:
            if not self._window.receipted(name, now):
                flights.repeated += 1
                continue
            del self._messages[name]
            flights.receipted += 1
            if flights.marked_at:
                flights.longest_silence = max(flights.longest_silence, now - flights.last_receipt)
            flights.last_receipt = now
            if name in flights.marked:
                flights.marked.remove(name)
                if not flights.marked:
                    flights.marked_until = now
        self._wake.set()

    def under_way(self) -> list[BatchName]:
        """Return what has no receipt yet."""
        return list(self._window.flights)

    def hurry(self) -> None:
        """Hear that a relay has started or gone."""
        self._window.hurry(time.monotonic(), HURRY_WITHIN)
        self._wake.set()


class Fleet:
    """All gateways, and the connections that speak for them."""

    def __init__(self, named: Sequence[str]) -> None:
        self._flights = Flights()
        pairs = [text.partition("=") for text in named]
        self._gateways = {name: Gateway(name, uuid.UUID(meter), self._flights) for name, _, meter in pairs}
        self._connections: dict[str, Connection] = {}
        self._running: dict[str, tuple[int, bytes]] = {}
        """The plan that each gateway had last, by revision and digest."""
        self._plans: Counter[tuple[str, int]] = Counter()
        self._commands: Counter[uuid.UUID] = Counter()
        self._left: dict[str, float] = {}
        """When each command was seen first."""

    @contextlib.asynccontextmanager
    async def connected(self, broker: str) -> AsyncIterator[None]:
        """Hold the connections for the length of the block."""
        access = Access(parse_broker(broker), keepalive=600, answer=120.0)
        async with contextlib.AsyncExitStack() as stack:
            group = await stack.enter_async_context(asyncio.TaskGroup())
            hearing = []
            for number in range(CONNECTIONS):
                names = list(self._gateways)[number::CONNECTIONS]
                connection = await stack.enter_async_context(connect(access, None, in_flight=IN_FLIGHT))
                await connection.subscribe([*(topic_for(name, Channel.RECEIPT) for name in names), HELLO])
                self._connections |= dict.fromkeys(names, connection)
                hearing.append(group.create_task(self._hear(connection, names)))
            self._watching = await stack.enter_async_context(connect(access, None))
            hearing.append(group.create_task(self._watch(self._watching)))
            both = (Channel.PLAN, Channel.COMMAND)
            await self._watching.subscribe([topic_for(name, one) for name in self._gateways for one in both])
            try:
                yield
            finally:
                for task in hearing:
                    task.cancel()

    async def _hear(self, connection: Connection, names: Sequence[str]) -> None:
        async for message in connection.messages():
            if message.topic == HELLO:
                for name in names:
                    pause = random.uniform(0, GREET_WITHIN)  # noqa: S311 - jitter
                    asyncio.get_running_loop().call_later(pause, self._gateways[name].hurry)
                continue
            # Whose receipt it is an agent verifies; here that would be the processor of two hundred agents.
            receipt = decode_receipt(decode(message.payload, Signed).body)
            if isinstance(receipt, Receipt):
                self._gateways[parse_topic(message.topic).gateway].receipted(receipt.names)

    async def _watch(self, connection: Connection) -> None:
        async for message in connection.messages():
            topic, body = parse_topic(message.topic), decode(message.payload, Signed).body
            if topic.channel is Channel.PLAN:
                revision = read_plan(body).revision
                self._running[topic.gateway] = revision, plan_digest(body)
                self._plans[topic.gateway, revision] += 1
            else:
                command, now = decode(body, Command).id, time.monotonic()
                # These gateways answer nothing, and what is not answered is sent again after a while, as it should be.
                if now - self._left.setdefault(str(command), now) < UNANSWERED:
                    self._commands[command] += 1

    async def obey(self, orders: "asyncio.Queue[dict[str, Any]]") -> None:
        """Obey until the input ends."""
        while (order := await orders.get())["do"] != "end":
            match order:
                case {"do": "meet"}:
                    none = (0, b"")
                    signs = {name: one.online(*self._running.get(name, none)) for name, one in self._gateways.items()}
                    await asyncio.gather(*(self._connections[name].publish(sign) for name, sign in signs.items()))
                    tell(did="meet")
                case {"do": "prepare", "readings": int(readings), "rows": int(rows)}:
                    sizes = [size for one in self._gateways.values() for size in one.prepare(readings, rows)]
                    tell(did="prepare", batches=len(sizes), bytes=sum(sizes))
                case {"do": "go"}:
                    await self._go(orders)
                case {"do": "listen"}:
                    self._plans.clear()
                    self._commands.clear()
                    self._left.clear()
                    tell(did="listen")
                case {"do": "heard"}:
                    latest: dict[str, int] = {}
                    for name, revision in self._plans:
                        latest[name] = max(revision, latest.get(name, 0))
                    plans, commands = _times(self._plans.values()), _times(self._commands.values())
                    tell(did="heard", plans=plans, commands=commands, latest=latest, left=self._left)

    async def _go(self, orders: "asyncio.Queue[dict[str, Any]]") -> None:
        flights = self._flights
        for field in dataclasses.fields(Flights):
            default = field.default_factory() if callable(field.default_factory) else field.default
            setattr(flights, field.name, default)
        begun = flights.last_receipt = time.monotonic()
        async with asyncio.TaskGroup() as group:
            sending = [group.create_task(one.send_all(self._connections[name])) for name, one in self._gateways.items()]
            pending = set(sending)
            while pending:
                _, pending = await asyncio.wait(pending, timeout=LOOK)
                if not orders.empty() and orders.get_nowait()["do"] == "mark":
                    flights.marked_at = time.monotonic()
                    flights.marked = {name for one in self._gateways.values() for name in one.under_way()}
                tell(at=time.monotonic(), receipted=flights.receipted)
        tell(
            did="go",
            seconds=flights.last_receipt - begun,
            receipted=flights.receipted,
            sent=flights.sent,
            resent=flights.resent,
            repeated=flights.repeated,
            taken_over=None if flights.marked_until is None else flights.marked_until - flights.marked_at,
            longest_silence=flights.longest_silence,
        )


def _times(counts: Iterable[int]) -> dict[int, int]:
    """Return how many were seen so many times."""
    return dict(sorted(Counter(counts).items()))


async def run(broker: str, named: Sequence[str]) -> None:
    """Be the gateways until the input ends."""
    fleet = Fleet(named)
    async with fleet.connected(broker), listened() as orders:
        tell(ready=len(named))
        await fleet.obey(orders)


if __name__ == "__main__":
    os.nice(NICE)
    # Where it is, when it does not end: kill -USR1.
    faulthandler.register(signal.SIGUSR1)
    asyncio.run(run(sys.argv[1], sys.argv[2:]))
