"""The receivers of this gateway, by the plan: opened, told of changes, let go; and opened again when they fail.

Rules: one task for each receiver. A receiver that the plan changes ends, what it holds is stored, and it begins anew
with what it remembers. An endpoint that cannot be opened is tried again, at first after a second, later every minute.
"""

import asyncio
import collections
import contextlib
import dataclasses
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import structlog

from agent.clocks import Clock
from agent.links import LinkError
from agent.metrics import Sample
from agent.receiver_links import Connect, listen_to
from agent.reception import Pace, ReceiverFigures, Reception
from agent.store import Store
from protocol.plans import Receiver
from receivers.endpoints import Endpoint, Way, parse_endpoint

log = structlog.get_logger(__name__)

_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_STEADY = 30.0
_KEEP_HOUSE = 30.0
MOST_MESSAGES = 1000
"""Messages of the broker that wait for one receiver; of more the newest are missed, and counted."""
MOST_MESSAGE_BYTES = 1 << 20


class _Message(NamedTuple):
    payload: bytes
    source: str


@dataclasses.dataclass(slots=True)
class _Room:
    """One receiver with its task, and the messages of the broker that wait for it."""

    reception: Reception
    task: asyncio.Task[None]
    endpoint: Endpoint
    messages: collections.deque[_Message] = dataclasses.field(default_factory=collections.deque)
    size: int = 0
    come: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


class Receiving:
    """All receivers of one agent.

    Args:
        store: Where readings and reports go.
        clock: The agent's.
        connect: Opens serial ports and TCP connections.
        believed: Whether the gateway's clock is believed.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        connect: Connect,
        believed: Callable[[], bool],
    ) -> None:
        self._store, self._clock, self._connect = store, clock, connect
        self._believed = believed
        self._pace = Pace()
        self._wanted: dict[uuid.UUID, Receiver] = {}
        self._keys: Mapping[uuid.UUID, Mapping[str, bytes]] = {}
        self._rooms: dict[uuid.UUID, _Room] = {}
        self._changed = asyncio.Event()

    def keep(self, receivers: Mapping[uuid.UUID, Receiver], keys: Mapping[uuid.UUID, Mapping[str, bytes]]) -> None:
        """Have these received, as the plan has them, with the keys of their meters, which it has sealed."""
        self._wanted, self._keys = dict(receivers), keys
        self._changed.set()

    async def run(self) -> None:
        """Work until cancelled, then store what is held."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for known in list(self._rooms):
                    if self._wanted.get(known) != self._rooms[known].reception.plan:
                        await self._let_go(known)
                for receiver in self._wanted.values():
                    if receiver.id not in self._rooms:
                        self._begin(group, receiver)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_KEEP_HOUSE):
                        await self._changed.wait()
                for room in self._rooms.values():
                    room.reception.keep_house()

    def take_message(self, name: str, payload: bytes, source: str) -> None:
        """Give a message of the broker to the receiver with the endpoint ``mqtt:NAME``."""
        for room in self._rooms.values():
            if room.endpoint.way is Way.BROKER and room.endpoint.name == name:
                if len(room.messages) >= MOST_MESSAGES or room.size + len(payload) > MOST_MESSAGE_BYTES:
                    room.reception.missed(1)
                    return
                room.messages.append(_Message(payload, source))
                room.size += len(payload)
                room.come.set()
                return
        log.warning("push_for_nobody", name=name)

    def figures(self) -> list[ReceiverFigures]:
        """What each receiver did; also from another thread."""
        return [room.reception.figures() for room in list(self._rooms.values())]

    def trouble(self) -> str:
        """What people should know, for the life sign: endpoints that are not open."""
        return "; ".join(f"receiver {one.name}: {one.fault}" for one in self.figures() if one.fault)

    def samples(self) -> Iterator[Sample]:
        """The figures of the metrics page."""
        for one in self.figures():
            labels = {"receiver": one.name}
            yield Sample("receiver_open", "Whether its endpoint is open", int(not one.fault), labels)
            yield Sample("receiver_silent_seconds", "Since the last byte came", one.silent_seconds, labels)
            for name, text, value in (
                ("receiver_bytes_total", "Bytes that came", one.bytes),
                ("receiver_readings_total", "Readings stored", one.readings),
                ("receiver_superfluous_total", "Payloads that its raster left out", one.superfluous),
                ("receiver_undecodable_total", "Payloads that could not be taken", one.undecodable),
                ("receiver_missed_total", "Payloads lost in a flood", one.missed),
                ("receiver_undated_total", "Values left out while the clock was not believed", one.undated),
            ):
                yield Sample(name, text, value, labels, "counter")

    def _begin(self, group: asyncio.TaskGroup, receiver: Receiver) -> None:
        reception = Reception(receiver, self._store, self._clock, self._pace, believed=self._believed, keys=self._keys)
        endpoint = parse_endpoint(receiver.endpoint)
        log.info("receiver_begun", receiver=receiver.name, kind=receiver.receiver, endpoint=receiver.endpoint)
        task = group.create_task(self._work(receiver.id), name=f"receiver-{receiver.name}")
        self._rooms[receiver.id] = _Room(reception, task, endpoint)

    async def _let_go(self, receiver: uuid.UUID) -> None:
        room = self._rooms[receiver]
        room.task.cancel()
        await asyncio.wait([room.task])
        del self._rooms[receiver]
        log.info("receiver_ended", receiver=room.reception.plan.name)

    async def _work(self, receiver: uuid.UUID) -> None:
        room = self._rooms[receiver]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(room.reception.storing(), name=f"storing-{room.reception.plan.name}")
                await self._listen(room)
        finally:
            room.reception.end()

    async def _listen(self, room: _Room) -> None:
        wait = _FIRST_WAIT
        while True:
            begun = self._clock.monotonic()
            try:
                if room.endpoint.way is Way.BROKER:
                    await self._messages(room)
                else:
                    await listen_to(room.endpoint, room.reception.rate, room.reception, self._connect)
            except LinkError as error:
                room.reception.fails(error.what)
            if self._clock.monotonic() - begun > _STEADY:
                wait = _FIRST_WAIT
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
            wait = min(wait * 2, _LONGEST_WAIT)

    async def _messages(self, room: _Room) -> None:
        while True:
            await room.come.wait()
            while room.messages:
                message = room.messages.popleft()
                room.size -= len(message.payload)
                decoder = room.reception.begin()
                await room.reception.hear(decoder, message.payload, message.source)
                room.reception.cease(decoder, message.source)
            room.come.clear()
