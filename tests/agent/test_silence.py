"""Sixteen meters on one line: what a silent one costs its neighbours, and what the line then tells of it."""

import asyncio
import uuid

import msgspec

from agent.clocks import Clock
from agent.conversation import Times
from agent.lines import Limits, LineWorker
from agent.runs import Run, RunResult
from agent.silence import Silences
from agent.simulator.bus import serve_pty, virtual_bus
from agent.simulator.faults import Silent
from protocol import reports
from protocol.iec62056 import Parity
from protocol.plans import Device, Line
from tests.parts.wires import NOW, DictMemory, device_on, line_at

TIMES = Times(identification=1.2, tries=3, telegram=1.0, character=0.25, quiet=0.05)
"""A time-out that is much longer than everything else, so that it can be seen."""
METERS = 16


class Bus:
    """A worker on a line, and how long its meters wait for their readings."""

    def __init__(self, line: Line, limits: Limits) -> None:
        self.devices = [device_on(line, str(number)) for number in range(1, METERS + 1)]
        self.results: list[RunResult] = []
        self.news = asyncio.Event()
        self.worker = LineWorker(
            line,
            memory=DictMemory(),
            clock=Clock(),
            passwords={},
            on_started=lambda _run: None,
            on_result=self._ended,
            times=TIMES,
            limits=limits,
        )

    def _ended(self, result: RunResult) -> None:
        self.results.append(result)
        self.news.set()

    async def cycle(self, devices: list[Device], waited_for: list[Device]) -> float:
        """Read a value of each; return after how many seconds those that are waited for were there."""
        self.results.clear()
        begun = asyncio.get_running_loop().time()
        for device in devices:
            kwargs = {"address": "2:300"}
            run = Run(uuid.uuid4(), device, "generic_lis200", "read_single_value", kwargs, NOW, task=uuid.uuid4())
            self.worker.submit(run)
        wanted = {device.id for device in waited_for}
        async with asyncio.timeout(60):
            while not wanted <= {result.run.device.id for result in self.results}:
                self.news.clear()
                await self.news.wait()
        for result in self.results:
            if result.run.device.id in wanted and waited_for is not devices:
                assert result.outcome == reports.DONE, result.cause
        return asyncio.get_running_loop().time() - begun


async def test_a_silent_meter_costs_its_fifteen_neighbours_one_time_out_a_cycle() -> None:
    bus = virtual_bus(*(f"{number}:{4700 + number}:EK280" for number in range(1, METERS + 1)), history_days=0.1)
    silent, well = bus._conversations[0], slice(1, METERS)
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint, rate=19200, fixed_rate=True)
        site = Bus(line, Limits(back_off=0.05))
        worker = asyncio.create_task(site.worker.run())
        neighbours = site.devices[well]
        await site.cycle(neighbours, neighbours)
        quiet = await site.cycle(neighbours, neighbours)
        silent._faults = [Silent(None, "")]
        # The silent one is first in its queue: whoever is behind it waits for one call, not for three.
        first = await site.cycle(site.devices, neighbours)
        assert first < quiet + 1.6 * TIMES.identification
        assert not any(result.run.device == site.devices[0] for result in site.results), "it may be called again"
        async with asyncio.timeout(20):
            while not any(result.run.device == site.devices[0] for result in site.results):
                site.news.clear()
                await site.news.wait()
        failed = next(result for result in site.results if result.run.device == site.devices[0])
        assert failed.outcome == reports.FAILED
        assert "called 3x" in failed.cause
        await asyncio.sleep(0.1)
        probed = await site.cycle(site.devices, neighbours)
        assert probed < quiet + 1.6 * TIMES.identification
        figures = site.worker.figures()
        assert figures.silent == ["meter-1"]
        assert figures.timeouts["meter-1"] >= 4
        assert set(figures.timeouts) == {"meter-1"}
        assert figures.errors == {"no_answer": figures.timeouts["meter-1"]}
        assert figures.sessions >= 4 * len(neighbours)
        assert figures.bytes > 1000
        assert 3 * TIMES.identification < figures.busy_seconds < 60
        silent._faults = []
        await site.cycle(site.devices, site.devices)
        async with asyncio.timeout(20):
            while site.worker.figures().silent:
                await asyncio.sleep(0.1)
                await site.cycle(site.devices, site.devices)
        assert all(result.outcome == reports.DONE for result in site.results)
        worker.cancel()
        await asyncio.wait([worker])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(figures), type=reports.LineFigures) == figures


def test_back_off_doubles_up_to_its_bound_and_ends_with_the_first_answer() -> None:
    now = 0.0
    silences, meter = Silences(Limits(back_off=30, longest_back_off=900), lambda: now), uuid.uuid4()
    silences.unanswered(meter, "m", silent=False)
    assert silences.behind(meter)
    assert silences.until(meter) == 0
    assert silences.names() == []
    pauses = []
    for _ in range(8):
        silences.unanswered(meter, "m", silent=True)
        pauses.append(silences.until(meter) - now)
        now = silences.until(meter)
    assert pauses == [30, 60, 120, 240, 480, 900, 900, 900]
    assert not silences.behind(meter)
    assert silences.names() == ["m"]
    silences.answered(meter)
    assert (silences.until(meter), silences.names()) == (0, [])


def test_a_busy_line_does_not_keep_a_meter_waiting_for_ever() -> None:
    now = 0.0
    silences, meter = Silences(Limits(), lambda: now), uuid.uuid4()
    silences.unanswered(meter, "m", silent=False)
    now = 61.0
    assert not silences.behind(meter)
    silences.unanswered(meter, "m", silent=False)
    assert not silences.behind(meter)


def test_a_person_has_a_meter_called_more_often_than_a_schedule() -> None:
    silences, meter = Silences(Limits(), lambda: 0.0), uuid.uuid4()

    def calls(*, unanswered: int = 0, command: bool, parity: Parity | None = Parity.EVEN) -> int:
        return silences.calls(meter, unanswered=unanswered, tries=3, command=command, parity=parity)

    assert calls(command=False) == 1
    assert [calls(unanswered=count, command=True) for count in range(5)] == [3, 2, 1, 1, 1]
    silences.unanswered(meter, "m", silent=True)
    assert calls(unanswered=3, command=False) == 1
    assert calls(unanswered=3, command=True) == 1
    assert calls(unanswered=3, command=True, parity=None) == 2
