"""Background commands: what a line gives them, how they yield, and where they go on."""

import asyncio
import datetime as dt
import decimal
import pathlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.background import BEGIN_SECONDS, CLOSING_SECONDS, Allowance, Background, IdleTime, comes_in_slices, rest_of
from agent.background import SAVED_SECONDS as SAVED
from agent.clocks import Clock
from agent.conversation import Times
from agent.lines import LineWorker
from agent.runs import Earlier, Run, RunResult
from agent.simulator.bus import serve_pty, virtual_bus
from agent.simulator.faults import Silent
from contexts.meters import Answer, Value
from protocol import reports
from protocol.plans import Device, Line
from tests.parts.wires import NOW, QUICK, DictMemory, device_on, heard, line_at
from tests.parts.workers import Results, at_work

SHORT = Times(block=0.3, quiet=0.05)
ARCHIVE = {"start_date": "2025-03-10T00:00:00Z", "archive_number": 3, "control_position": 3}


@given(
    share=st.floats(0.01, 1),
    steps=st.lists(st.tuples(st.floats(0, 600), st.floats(0, 30)), max_size=60),
)
def test_over_any_time_no_more_is_taken_than_the_share_and_what_was_saved(
    share: float, steps: list[tuple[float, float]]
) -> None:
    allowance, now, taken = Allowance(share, 0.0), 0.0, 0.0
    longest = 0.0
    for pause, wanted in steps:
        now += pause
        if allowance.wait(now) <= 0:
            allowance.take(wanted, now)
            taken += wanted
            longest = max(longest, wanted)
        assert taken <= share * (SAVED + now) + longest + 1e-6
        assert allowance.left(now) <= share * SAVED + 1e-9


def test_a_line_without_a_share_gives_nothing_and_one_that_gave_all_says_when_it_gives_again() -> None:
    assert Allowance(0.0, 0.0).wait(1e9) == float("inf")
    allowance = Allowance(0.1, 0.0)
    allowance.take(60.0, 0.0)
    assert allowance.wait(0.0) == pytest.approx(BEGIN_SECONDS)
    assert allowance.wait(BEGIN_SECONDS) == 0


def test_a_slice_begins_only_if_opening_and_two_blocks_fit_before_the_next_schedule() -> None:
    idle = IdleTime(Background(), 0.0, 3.0)
    idle.opened(2.0)
    idle.block_came(4.0, first=True)
    idle.block_came(1.0, first=False)
    needed = 2.0 + 4.0 + 1.0 + CLOSING_SECONDS
    assert idle.may_begin(needed + 0.1, 0.0)
    assert not idle.may_begin(needed - 0.1, 0.0)
    assert idle.may_go_on(1.0 + CLOSING_SECONDS + 0.1, 7.0, 0.0)
    assert not idle.may_go_on(1.0 + CLOSING_SECONDS - 0.1, 7.0, 0.0)
    assert not idle.may_go_on(1000.0, 60.0, 0.0), "its share is used up"
    assert not IdleTime(Background(open=lambda: False), 0.0, 3.0).may_begin(1000.0, 0.0)


def _background(device: Device, call: str = "read_archive_by_date", **more: Any) -> Run:  # noqa: ANN401 - fields of Run
    kwargs = {"kwargs": ARCHIVE, **more}
    return Run(uuid.uuid4(), device, "generic_lis200", call, command=uuid.uuid4(), background=True, **kwargs)


def test_what_is_left_after_a_slice_begins_at_its_last_row_and_knows_what_came_before() -> None:
    run = _background(device_on(line_at("/dev/null")), earlier=Earlier(3, 100, ""))
    instants = [dt.datetime(2025, 3, 10, hour, tzinfo=dt.UTC) for hour in (1, 2, 3)]
    answer = Answer(values=[Value("2:300", decimal.Decimal(1), "m3", at) for at in instants], problems=["odd"])
    rest = rest_of(RunResult(run, reports.DONE, "", None, NOW, answer, 50))
    assert rest.kwargs == {**ARCHIVE, "start_date": "2025-03-10T03:00:00+00:00"}
    assert rest.earlier == Earlier(6, 150, "odd")
    assert (rest.id, rest.command) == (run.id, run.command)
    assert comes_in_slices(rest)
    assert not comes_in_slices(_background(run.device, "read_events", kwargs={}))


class Site(Results):
    """A line's worker, what it told, and what a test says of the schedule."""

    def __init__(self, line: Line, share: float = 1.0, times: Times = SHORT) -> None:
        super().__init__()
        self.line, self.memory = line, DictMemory()
        self.started: list[uuid.UUID] = []
        self.parts: list[RunResult] = []
        self.next_scheduled: dt.datetime | None = None
        self.open = True
        self.worker = LineWorker(
            line,
            memory=self.memory,
            clock=Clock(),
            passwords={},
            times=times,
            on_started=lambda run: self.started.append(run.id),
            on_result=self._ended,
            background=Background(share, lambda _line: self.next_scheduled, self._part, lambda: self.open),
        )

    def _part(self, result: RunResult, rest: Run) -> bool:
        assert rest.id == result.run.id
        self.parts.append(result)
        self._news.set()
        return True

    def read(self, device: Device) -> Run:
        run = Run(
            uuid.uuid4(), device, "generic_lis200", "read_single_value", {"address": "2:300"}, NOW, task=uuid.uuid4()
        )
        self.worker.submit(run)
        return run

    def backfill(self, device: Device, **more: Any) -> Run:  # noqa: ANN401 - fields of Run
        run = _background(device, **more)
        self.worker.submit(run)
        return run

    async def until(self, what: str, seconds: float = 20) -> None:
        """Wait until there is one ``parts`` or ``results`` more."""
        before = len(getattr(self, what))
        async with asyncio.timeout(seconds):
            while len(getattr(self, what)) == before:
                self._news.clear()
                await self._news.wait()

    def stamps(self, run: Run) -> list[dt.datetime]:
        """When the rows of all of a run's slices were, in the order in which they came."""
        answers = [result.answer for result in (*self.parts, *self.results) if result.run.id == run.id]
        return [
            value.timestamp
            for answer in answers
            if answer
            for value in answer.values
            if value.series == "2:300" and value.timestamp
        ]


@asynccontextmanager
async def site_of(
    log: pathlib.Path | None = None,
    **settings: Any,  # noqa: ANN401 - what Site takes
) -> AsyncIterator[tuple[Site, Any]]:
    """Two meters on a line of 19200 baud that keeps its speed: a block takes 0.3 s."""
    bus = virtual_bus(
        "1:4711:EK280",
        "2:4712:EK280",
        seed=7,
        now=lambda: NOW,
        language="german",
        history_days=2,
        throttle=True,
        opening_rate=19200,
        fixed_rate=True,
        log=log,
    )
    async with serve_pty(bus) as endpoint:
        site = Site(line_at(endpoint, rate=19200, fixed_rate=True), **settings)
        async with at_work(site.worker):
            yield site, bus


async def test_a_backfill_yields_to_what_is_due_and_then_brings_every_row(tmp_path: pathlib.Path) -> None:
    async with site_of(tmp_path / "log") as (site, bus):
        first, second = device_on(site.line, "1", "4711"), device_on(site.line, "2", "4712")
        backfill = site.backfill(first)
        await asyncio.sleep(1.5)
        begun = asyncio.get_running_loop().time()
        scheduled = [site.read(second), site.read(first)]
        for run in scheduled:
            assert (await site.result_of(run)).outcome == reports.DONE
        assert asyncio.get_running_loop().time() - begun < 3.0
        assert len(site.parts) == 1
        assert backfill.id not in [result.run.id for result in site.results]
        result = await site.result_of(backfill, 40)
        assert result.outcome == reports.DONE
        assert result.run.earlier.readings > 0
        stamps = site.stamps(backfill)
        wanted = {row.clock for row in bus.meters[0].archives.rows(3)}
        assert len(set(stamps)) == len(wanted)
        assert len(stamps) - len(set(stamps)) == len(site.parts), "only the last row of a slice comes again"
        assert site.started.count(backfill.id) == 2


async def test_it_does_not_begin_shortly_before_a_schedule_and_ends_its_slice_in_time() -> None:
    async with site_of() as (site, _):
        device = device_on(site.line, "1", "4711")
        soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
        site.next_scheduled = soon
        backfill = site.backfill(device)
        await asyncio.sleep(1.5)
        assert not site.started
        site.next_scheduled = None
        await asyncio.sleep(2.5)
        assert site.started == [backfill.id]
        site.next_scheduled = wanted = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1.2)
        await site.until("parts")
        assert dt.datetime.now(dt.UTC) <= wanted
        site.next_scheduled = None
        assert (await site.result_of(backfill, 40)).outcome == reports.DONE


async def test_it_takes_no_more_than_its_share_and_yields_to_a_command_of_a_person() -> None:
    async with site_of(share=0.004) as (site, _):
        device = device_on(site.line, "1", "4711")
        backfill = site.backfill(device)
        await site.until("parts")
        await asyncio.sleep(2.0)
        # Two seconds and a half were saved up; the next slice is far away.
        assert len(site.parts) == 1
        assert site.worker.cancel(backfill.id)
        result = await site.result_of(backfill, 1)
        assert result.outcome == reports.CANCELLED


async def test_no_archive_is_read_while_the_outbox_takes_none() -> None:
    async with site_of() as (site, _):
        site.open = False
        backfill = site.backfill(device_on(site.line, "1", "4711"))
        await asyncio.sleep(1.2)
        assert not site.started
        site.open = True
        assert (await site.result_of(backfill, 40)).outcome == reports.DONE


async def test_a_silent_meter_is_not_called_for_the_background_more_often_than_for_schedules(
    tmp_path: pathlib.Path,
) -> None:
    log = tmp_path / "log"
    async with site_of(log, times=QUICK) as (site, bus):
        bus._conversations[1]._faults = [Silent(None, "")]
        silent = device_on(site.line, "2", "4712")
        backfill = site.backfill(silent)
        assert (await site.result_of(backfill)).outcome == reports.FAILED
        waiting = site.backfill(silent)
        await asyncio.sleep(1.0)
        assert heard(log).count(b"/?2!") == QUICK.tries
        assert waiting.id not in site.started
