"""The gateways of the bench ``upgrade`` in one process: each sends a batch every so often, as an agent sends it.

``python -m benchmarks._upgrade_gateways BROKER GATEWAY=METER...`` obeys lines of JSON on its input: ``{"do": "flow",
"rows": R, "every": S}`` has every gateway send R readings every S seconds, from an instant of its own on;
``{"do": "stop"}`` ends that: answered by ``{"did": "flow", "given": {GATEWAY: READINGS}, "batches": ..., "resent":
...}`` when everything has its receipt. Every quarter of a second a line tells the longest time without any receipt, and
the longest that a batch waited for its own, of those that ended or came since the line before.
"""

import asyncio
import contextlib
import faulthandler
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

from benchmarks._children import listened, tell
from benchmarks._relays_publishers import LOOK, NICE, Fleet, Flights, Gateway
from mqtt.connection import Connection
from protocol.readings import BatchName


class Flowing(Gateway):
    """A gateway whose meters go on giving readings."""

    def __init__(self, name: str, meter: uuid.UUID, flights: Flights) -> None:
        super().__init__(name, meter, flights)
        self.given = 0
        self.batches = 0
        self.longest_wait = 0.0
        self._due: dict[int, float] = {}

    async def flow(self, connection: Connection, rows: int, every: float, stop: asyncio.Event) -> None:
        """Make a batch each time that one is due, and send what has no receipt; end when all have one."""
        due = time.monotonic() + random.uniform(0.0, every)  # noqa: S311 - no secret
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, due - time.monotonic())):
                    await stop.wait()
            while due <= time.monotonic() and not stop.is_set():
                self.prepare(rows, rows)
                self.given += rows
                self.batches += 1
                self._due[self.given] = due
                due += every
            # A batch that is due meanwhile waits, as it would behind a full window.
            await self.send_all(connection)

    def receipted(self, names: Sequence[BatchName]) -> None:
        """Take a receipt."""
        super().receipted(names)
        for name in names:
            if (due := self._due.pop(name.last, None)) is not None:
                self.longest_wait = max(self.longest_wait, time.monotonic() - due)

    def waits(self, now: float) -> float:
        """Return the longest wait since this was asked last, that of what still waits included."""
        longest = max([self.longest_wait, *(now - due for due in self._due.values())])
        self.longest_wait = 0.0
        return longest


async def _flow(fleet: "_Flow", rows: int, every: float, orders: "asyncio.Queue[dict[str, Any]]") -> None:
    stop = asyncio.Event()
    flights = fleet.flights
    flights.last_receipt = flights.marked_at = time.monotonic()
    async with asyncio.TaskGroup() as group:
        flowing = [
            group.create_task(one.flow(connection, rows, every, stop)) for one, connection in fleet.connected_gateways()
        ]
        pending = set(flowing)
        while pending:
            _, pending = await asyncio.wait(pending, timeout=LOOK)
            if not orders.empty():
                orders.get_nowait()
                stop.set()
            now = time.monotonic()
            silence = max(flights.longest_silence, now - flights.last_receipt)
            flights.longest_silence = 0.0
            tell(at=now, silence=silence, wait=max(one.waits(now) for one, _ in fleet.connected_gateways()))
    gateways = [one for one, _ in fleet.connected_gateways()]
    tell(
        did="flow",
        given={one.name: one.given for one in gateways},
        batches=sum(one.batches for one in gateways),
        resent=flights.resent,
    )


class _Flow(Fleet):
    """The fleet, of gateways that go on."""

    def __init__(self, named: Sequence[str]) -> None:
        super().__init__(named)
        pairs = [text.partition("=") for text in named]
        self.flights = self._flights
        self._flowing = {name: Flowing(name, uuid.UUID(meter), self._flights) for name, _, meter in pairs}
        self._gateways = dict(self._flowing)

    def connected_gateways(self) -> list[tuple[Flowing, Connection]]:
        """Return all gateways with the connections that speak for them."""
        return [(one, self._connections[name]) for name, one in self._flowing.items()]


async def run(broker: str, named: Sequence[str]) -> None:
    """Be the gateways until the input ends."""
    fleet = _Flow(named)
    async with fleet.connected(broker), listened() as orders:
        tell(ready=len(named))
        while (order := await orders.get())["do"] != "end":
            if order["do"] == "flow":
                await _flow(fleet, order["rows"], order["every"], orders)


if __name__ == "__main__":
    os.nice(NICE)
    # Where it is, when it does not end: kill -USR1.
    faulthandler.register(signal.SIGUSR1)
    asyncio.run(run(sys.argv[1], sys.argv[2:]))
