"""Receivers of an agent at work in the test's own process: a store with them, and a look into what they stored."""

import asyncio
import datetime as dt
import pathlib
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from agent.clocks import Clock
from agent.links import Link, open_link
from agent.receiving import Receiving
from agent.simulator.pushing_ways import Outlet
from agent.store import Store
from protocol.plans import PushMeter, Receiver, SeriesMapping
from protocol.readings import NewMeterReading
from protocol.reports import UndecodablePush, decode_report
from protocol.wire import decode

METER, GAS = uuid.uuid4(), uuid.uuid4()
AT = dt.datetime(2026, 3, 2, 5, 0, 3, tzinfo=dt.UTC)
ZONE = "Europe/Amsterdam"


class Shown(Clock):
    """A clock that a test sets."""

    shown = AT

    def now(self) -> dt.datetime:
        return self.shown


class Gateway:
    """A store with receivers, and a look into what they stored."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.clock = Shown()
        self.store = Store(folder / "agent.db", "gw-1", self.clock)
        self.believed = True
        self.opened: list[str] = []
        self.receiving = Receiving(self.store, self.clock, connect=self._connect, believed=lambda: self.believed)

    async def _connect(self, endpoint: str, rate: int) -> Link:
        self.opened.append(f"{endpoint} {rate}")
        return await open_link(endpoint, rate)

    def readings(self) -> list[NewMeterReading]:
        rows = self.store.readings.next_rows(0, 1 << 24)
        return [decode(body, NewMeterReading) for body in rows.bodies] if rows else []

    def refused(self) -> list[UndecodablePush]:
        rows = self.store.reports.next_rows(0, 1 << 24)
        reports = [decode_report(body) for body in rows.bodies] if rows else []
        return [one for one in reports if isinstance(one, UndecodablePush)]


@asynccontextmanager
async def gateway(
    folder: pathlib.Path, *receivers: Receiver, keys: Mapping[uuid.UUID, Mapping[str, bytes]] | None = None
) -> AsyncIterator[Gateway]:
    """Have receivers at work while the context lasts."""
    made = Gateway(folder)
    made.receiving.keep({one.id: one for one in receivers}, keys or {})
    task = asyncio.create_task(made.receiving.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
        made.store.close()
        if not task.cancelled():
            task.result()


async def until(what: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - what is waited for lies in a file
            await asyncio.sleep(0.02)


def p1(endpoint: str, serial: str = "E0017", **kwargs: object) -> Receiver:
    """A P1 port with an electricity and a gas meter that the plan has."""
    meters = [
        PushMeter(METER, "house 7", serial.lower(), ZONE, [SeriesMapping(0, "1.8.1", "energy low")]),
        PushMeter(GAS, "house 7 gas", f"G{serial[1:]}", ZONE),
    ]
    return Receiver(uuid.UUID(int=7), "p1", "dsmr_p1", endpoint, kwargs, meters)


async def connected(out: Outlet) -> None:
    """Wait until the receiver listens to a device server: what is said before is heard by nobody."""
    await until(lambda: getattr(out, "_writers", True))
