"""Many gateways of the bench ``stampede`` in one process: the real store, sender and uplink of each, without meters.

``python -m benchmarks._stampede_uplinks FOLDER BROKER GATEWAY=METER...`` makes their stores in FOLDER and then obeys
lines of JSON on its input, one at a time:

- ``{"do": "meet"}``: every uplink connects once and goes when it has its plan, as before; ``{"did": "meet"}``.
- ``{"do": "fill", "rows": N}``: every store gets N more readings, as in an outage; answered by ``{"did": "fill"}``.
- ``{"do": "return", "rate": R, "seconds": S}``: answered by ``{"ready": "return"}`` when all is made that will be fed;
  then, at the next line, whatever it says, all uplinks begin at once. With a rate above 0 so many readings a
  second are stored besides, all gateways together, for so long, from when all are connected. Each second a line tells
  how things stand; the last one has ``"did": "return"`` and how many readings each store was ever given. It comes when
  every row has its receipt, or after a line ``{"do": "give up"}``; all connections are gone then.
"""

import asyncio
import faulthandler
import itertools
import logging
import os
import pathlib
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import structlog

from agent import metrics
from agent.clocks import Clock
from agent.keys import load_or_make_key
from agent.settings import AgentSettings, Timing, parse_broker
from agent.store import Store
from agent.trust import ClockTrust
from agent.uplink import ANNOUNCE_PAUSE, Uplink
from benchmarks._children import listened, tell
from benchmarks.backlog import rows_of
from protocol.plans import plan_digest, read_plan
from protocol.reports import Online

NICE = 7
"""These processes stand for as many other machines: they must not take the processor from the hub. (With more they
would not get enough of two cores to offer twice the load.)"""

PATIENT = Timing(answer=120.0, keepalive=600)
"""Hundreds of uplinks share what the hub leaves of a processor and look at the broker's answers late; all else is the
default."""

LOOK = 1.0
ROWS_AT_ONCE = 48
"""Six quarters of an hour of a meter's eight series."""

_ENDLESS = 2**40


class Gateway:
    """One gateway's store and uplink. Implements ``agent.uplink.Listener``: plans and commands are not its affair."""

    def __init__(self, folder: pathlib.Path, broker: str, name: str, meter: uuid.UUID) -> None:
        self.name = name
        self.given = 0
        self._clock = Clock()
        path = folder / f"{name}.db"
        settings = AgentSettings(name, parse_broker(broker), folder, path, folder / f"{name}.key", PATIENT)
        self.store = Store(path, name, self._clock)
        trust = ClockTrust(self._clock, self.store)
        key = load_or_make_key(settings.key_file)
        self.uplink = Uplink(settings, key, self.store, self._clock, trust, self._life_sign)
        self.store.tell(self.uplink.stored)
        self.has_plan = asyncio.Event()
        self._plan_revision, self._plan_digest = 0, b""
        self._rows = rows_of([meter], _ENDLESS)
        self._ready: list[list[bytes]] = []

    def prepare(self, times: int) -> None:
        """Make what ``read`` stores the next times: making readings is the meters' work."""
        made = [list(itertools.islice(self._rows, ROWS_AT_ONCE)) for _ in range(times)]
        self._ready[:0] = reversed(made)

    def read(self, rows: int = ROWS_AT_ONCE) -> None:
        """Store so many new readings, as a session on a line would; first those that were prepared."""
        found = self._ready.pop() if self._ready else list(itertools.islice(self._rows, rows))
        with self.store.transaction():
            self.store.readings.append(found)
        self.given += len(found)

    def _life_sign(self) -> Online:
        store = self.store
        return Online(
            gateway=self.name,
            online=True,
            session=store.session,
            store=store.id,
            software="bench",
            at=self._clock.now(),
            plan_revision=self._plan_revision,
            plan_digest=self._plan_digest,
            readings_through=store.readings.through(),
            reports_through=store.reports.through(),
            depth=store.depth(),
            oldest=store.oldest_waiting(),
        )

    async def run(self) -> None:
        """Live until cancelled."""
        await self.uplink.run(self)

    def take_plan(self, body: bytes) -> None:
        """Note that it is applied: there are no meters. The one that is known already changes nothing."""
        if self._plan_digest == (digest := plan_digest(body)):
            return
        self._plan_revision, self._plan_digest = read_plan(body).revision, digest
        self.has_plan.set()
        self.uplink.announce()

    def take_command(self, body: bytes) -> None:
        """Leave the command: there are no meters."""

    def take_push(self, name: str, payload: bytes) -> None:
        """Leave what is pushed: there are no meters."""

    def take_invocation(
        self, caller: str, key: bytes, body: bytes, *, misdirected: bool, correlation: bytes | None
    ) -> None:
        """Leave the invocation: there are no meters."""


def _counted(name: str) -> int:
    return int(sum(sample.value for sample in metrics.counted() if sample.name == name))


def _standing(gateways: Sequence[Gateway]) -> dict[str, int]:
    """How things stand, all gateways together; the counters count from the start of the process."""
    return {
        "waiting": sum(gateway.store.depth() for gateway in gateways),
        "stored": sum(gateway.given for gateway in gateways),
        "windows": sum(gateway.uplink.window_bytes for gateway in gateways if gateway.uplink.connected),
        "online": sum(gateway.uplink.connected for gateway in gateways),
        "connections": _counted("connections_total"),
        "sent": _counted("batches_sent_total"),
        "resent": _counted("batches_resent_total"),
    }


async def _feed(gateways: Sequence[Gateway], rate: float, seconds: float) -> None:
    """Store new readings, a few on each gateway in turn, all together so many a second."""
    begun = due = time.monotonic()
    for gateway in itertools.cycle(gateways):
        if due - begun >= seconds:
            return
        gateway.read()
        due += ROWS_AT_ONCE / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _meet(gateways: Sequence[Gateway]) -> None:
    tasks = [asyncio.create_task(gateway.run()) for gateway in gateways]
    await asyncio.gather(*(gateway.has_plan.wait() for gateway in gateways))
    # So that the life sign with the plan has left.
    await asyncio.sleep(2 * ANNOUNCE_PAUSE)
    await _end(tasks)
    tell(did="meet")


async def _end(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _return(
    gateways: Sequence[Gateway], orders: "asyncio.Queue[dict[str, Any]]", rate: float, for_: float
) -> None:
    times = -(-int(rate * for_) // (ROWS_AT_ONCE * len(gateways)))
    for gateway in gateways:
        gateway.prepare(times)
    tell(ready="return")
    await orders.get()
    tell(at=time.monotonic(), feeding=False, **_standing(gateways))
    tasks = [asyncio.create_task(gateway.run()) for gateway in gateways]
    feeding: asyncio.Task[None] | None = None
    while orders.empty():
        await asyncio.sleep(LOOK)
        standing = _standing(gateways)
        if rate and feeding is None and standing["online"] == len(gateways):
            feeding = asyncio.create_task(_feed(gateways, rate, for_))
            tasks.append(feeding)
        tell(at=time.monotonic(), feeding=feeding is not None and not feeding.done(), **standing)
        if not standing["waiting"] and (not rate or (feeding is not None and feeding.done())):
            break
        for task in tasks:
            if task.done():
                # A bug of the product, not an outage: end with its cause. (Feeding ends without one.)
                task.result()
    given = {gateway.name: gateway.given for gateway in gateways}
    await _end(tasks)
    tell(did="return", at=time.monotonic(), feeding=False, given=given, **_standing(gateways))


async def run(folder: pathlib.Path, broker: str, named: Sequence[str]) -> None:
    """Obey until the input ends."""
    pairs = [text.partition("=") for text in named]
    gateways = [Gateway(folder, broker, name, uuid.UUID(meter)) for name, _, meter in pairs]
    tell(ready=len(gateways))
    async with listened() as orders:
        while (order := await orders.get())["do"] != "end":
            if order["do"] == "meet":
                await _meet(gateways)
            elif order["do"] == "fill":
                for gateway in gateways:
                    gateway.read(order["rows"])
                tell(did="fill")
            elif order["do"] == "return":
                await _return(gateways, orders, order["rate"], order["seconds"])
    for gateway in gateways:
        gateway.store.close()


def log_to_stderr() -> None:
    """Keep the output for the figures."""
    level = structlog.make_filtering_bound_logger(logging.WARNING)
    structlog.configure(wrapper_class=level, logger_factory=structlog.PrintLoggerFactory(sys.stderr))


if __name__ == "__main__":
    os.nice(NICE)
    # Where it is, when it does not end: kill -USR1.
    faulthandler.register(signal.SIGUSR1)
    log_to_stderr()
    asyncio.run(run(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
