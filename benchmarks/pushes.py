"""What a flood of pushes costs those who are polled: the time of polls beside 10,000 P1 telegrams a second.

A line's worker polls a simulated meter (a process of its own) over TCP, one value after the other, at first alone,
then while another process floods a ``dsmr_p1`` receiver of the same agent. ``ratio`` is the median poll's time with the
flood over the one's without. The telegrams are thinned to a quarter of an hour: what is superfluous is counted, and
not a reading too many is stored. Exit status 0: a ratio of at most 1.25, and of each meter one reading per slot.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence

from agent.clocks import Clock
from agent.lines import LineWorker
from agent.links import open_link
from agent.receiving import Receiving
from agent.runs import Run, RunResult
from agent.store import Store
from benchmarks._pushes_flood import SERIAL
from protocol.plans import Device, Line, PushMeter, Receiver
from protocol.readings import NewMeterReading
from protocol.reports import DONE
from protocol.wire import decode

LONGEST_RATIO = 1.25
ZONE = "Europe/Amsterdam"
PATIENCE = 30.0


@dataclasses.dataclass(frozen=True)
class Figures:
    """What was measured; seconds of polls, telegrams that came, readings that were stored of them."""

    alone: list[float]
    flooded: list[float]
    telegrams: int
    seconds: float
    readings: int
    doubled: int
    share: float

    @property
    def ratio(self) -> float:
        """The median poll's time with the flood, over the one's without."""
        return statistics.median(self.flooded) / statistics.median(self.alone)


@contextlib.asynccontextmanager
async def _process(*command: str) -> AsyncIterator[str]:
    """Start one that says its endpoint first."""
    made = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, cwd=pathlib.Path(__file__).parents[1]
    )
    try:
        if made.stdout is None:
            raise RuntimeError("a pipe was asked for")
        async with asyncio.timeout(PATIENCE):
            said = await made.stdout.readline()
        yield str(json.loads(said)["endpoint"])
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.terminate()
        await made.wait()


async def measure(seconds: float, rate: int, folder: pathlib.Path) -> Figures:
    """Poll alone, then beside the flood, for so many seconds each."""
    clock = Clock()
    store = Store(folder / "agent.db", "gw-1", clock)
    simulate = ("-m", "agent.simulator", "--listen", "tcp:127.0.0.1:0", "--meter", "1:4711:EK280", "--fixed-rate")
    try:
        async with contextlib.AsyncExitStack() as stack:
            polled = await stack.enter_async_context(_process(*simulate, "--rate", "9600", "--offer", "9600"))
            flood = await stack.enter_async_context(_process("-m", "benchmarks._pushes_flood", str(rate)))
            poller = _Poller(polled, store, clock)
            await stack.enter_async_context(poller.working())
            await poller.poll_for(1.0)
            alone = await poller.poll_for(seconds)
            meters = [PushMeter(uuid.uuid4(), "house", SERIAL, ZONE), PushMeter(uuid.uuid4(), "gas", "G0017", ZONE)]
            receiver = Receiver(uuid.uuid4(), "p1", "dsmr_p1", flood, {}, meters)
            receiving = Receiving(store, clock, connect=open_link, believed=lambda: True)
            receiving.keep({receiver.id: receiver}, {})
            task = asyncio.create_task(receiving.run())
            try:
                async with asyncio.timeout(PATIENCE):
                    while not receiving.figures() or not receiving.figures()[0].superfluous:  # noqa: ASYNC110 - a counter
                        await asyncio.sleep(0.01)
                begun, spent, before = time.monotonic(), time.process_time(), receiving.figures()[0]
                flooded = await poller.poll_for(seconds)
                took, cost, after = time.monotonic() - begun, time.process_time() - spent, receiving.figures()[0]
            finally:
                task.cancel()
                await asyncio.wait([task])
            rows = store.readings.next_rows(0, 1 << 24)
            readings = [decode(body, NewMeterReading) for body in rows.bodies] if rows else []
            pushed = [
                (one.device, one.series, one.timestamp.replace(minute=one.timestamp.minute // 15 * 15, second=0))
                for one in readings
            ]
            return Figures(
                alone,
                flooded,
                after.superfluous - before.superfluous,
                took,
                len(pushed),
                len(pushed) - len(set(pushed)),
                cost / took,
            )
    finally:
        store.close()


class _Poller:
    """Polls one value again and again."""

    def __init__(self, endpoint: str, store: Store, clock: Clock) -> None:
        line = Line(uuid.uuid4(), "line", endpoint, 9600, fixed_rate=True)
        self._device = Device(uuid.uuid4(), "m-1", line.id, "Europe/Berlin", "1")
        self._results: asyncio.Queue[RunResult] = asyncio.Queue()
        self._worker = LineWorker(
            line,
            memory=store.memory,
            clock=clock,
            passwords={},
            on_started=lambda _run: None,
            on_result=self._results.put_nowait,
        )

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._worker.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def poll_for(self, seconds: float) -> list[float]:
        """The seconds that each poll took, session included."""
        took = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            begun = time.monotonic()
            kwargs = {"address": "2:300"}
            self._worker.submit(
                Run(uuid.uuid4(), self._device, "generic_lis200", "read_single_value", kwargs, command=uuid.uuid4())
            )
            async with asyncio.timeout(PATIENCE):
                result = await self._results.get()
            if result.outcome != DONE:
                raise RuntimeError(f"a poll failed: {result.cause}")
            took.append(time.monotonic() - begun)
        return took


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pushes", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of polling, alone and beside the flood each")
    parser.add_argument("--rate", type=int, default=10_000, help="telegrams a second")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(options.seconds, options.rate, pathlib.Path(folder)))
    held = figures.ratio <= LONGEST_RATIO and not figures.doubled and figures.readings > 0
    told = {
        "ratio": round(figures.ratio, 3),
        "poll_alone_ms": round(statistics.median(figures.alone) * 1000, 1),
        "poll_flooded_ms": round(statistics.median(figures.flooded) * 1000, 1),
        "polls": [len(figures.alone), len(figures.flooded)],
        "telegrams_per_second": round(figures.telegrams / figures.seconds),
        "readings": figures.readings,
        "doubled": figures.doubled,
        "cpu": round(figures.share, 3),
        "held": held,
    }
    if options.json:
        print(json.dumps(told))
    else:
        print(
            f"pushes: ratio {told['ratio']} (at most {LONGEST_RATIO}): a poll takes {told['poll_flooded_ms']} ms beside"
            f" {told['telegrams_per_second']} telegrams/s, {told['poll_alone_ms']} ms alone;"
            f" {figures.readings} readings stored, {figures.doubled} twice; {figures.share:.0%} of a core"
        )
    return 0 if held else 1
