"""A line says goodbye before it makes an answer of many rows: in order, cancelled, asked after all, beside others."""

import asyncio
import dataclasses
import datetime as dt
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.clocks import Clock
from agent.lines import LineWorker
from agent.links import Link, open_link
from agent.runs import Run, RunResult
from agent.session import open_session
from agent.simulator.bus import serve_pty, virtual_bus
from agent.turns import Turns
from contexts.meters import Held
from protocol import reports
from protocol.plans import Device
from tests.parts.wires import BREAK, NOW, QUICK, DictMemory, device_on, line_at
from tests.parts.workers import Results, at_work

ARCHIVE = {"start_date": "2025-03-12T00:00:00Z", "archive_number": 3, "control_position": 3}
NEW = {"archive_number": 3, "control_position": 3}
ENDED = "ended"


class NoTurn(Turns):
    """The turn does not come before the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_for, self.comes = asyncio.Event(), asyncio.Event()

    async def mine(self) -> None:
        self.waited_for.set()
        await self.comes.wait()


@dataclasses.dataclass
class Noting:
    """A link that notes what is said, and counts what passes."""

    link: Link
    notes: list[bytes | str]
    passed: int = 0

    @property
    def arrived(self) -> float:
        return self.link.arrived

    async def read(self, timeout: float) -> bytes:  # noqa: ASYNC109 - as in Link
        data = await self.link.read(timeout)
        self.passed += len(data)
        return data

    async def write(self, data: bytes) -> None:
        self.notes.append(bytes(byte & 0x7F for byte in data))
        self.passed += len(data)
        await self.link.write(data)

    async def set_rate(self, baud: int) -> None:
        await self.link.set_rate(baud)

    async def renew(self) -> None:
        await self.link.renew()

    async def aclose(self) -> None:
        await self.link.aclose()


class Site(Results):
    """A line of its own with a meter, and its worker; ``notes`` has what was said and what ended, in order."""

    def __init__(self, endpoint: str, turns: Turns, notes: list[bytes | str] | None = None) -> None:
        self.notes: list[bytes | str] = [] if notes is None else notes
        super().__init__()
        self.memory = DictMemory()
        self.passed: list[int] = []
        self.link: Noting | None = None
        line = line_at(endpoint, rate=300)
        self.device: Device = device_on(line, serial="4711")
        self.worker = LineWorker(
            line,
            memory=self.memory,
            clock=Clock(),
            passwords={},
            times=QUICK,
            on_started=lambda _: None,
            on_result=self._ended,
            connect=self._connect,
            turns=turns,
        )

    async def _connect(self, endpoint: str, rate: int) -> Link:
        self.link = Noting(await open_link(endpoint, rate), self.notes)
        return self.link

    def _ended(self, result: RunResult) -> None:
        self.notes.append(ENDED)
        super()._ended(result)

    def submit(self, call: str, **kwargs: object) -> Run:
        run = Run(uuid.uuid4(), self.device, "generic_lis200", call, kwargs, tick=NOW, task=uuid.uuid4())
        self.worker.submit(run)
        return run

    async def ended(self, count: int = 1) -> list[RunResult]:
        async with asyncio.timeout(20):
            while len(self.results) < count:
                self._news.clear()
                await self._news.wait()
        return self.results

    def calls(self) -> int:
        return sum(note == b"/?1!\r\n" for note in self.notes)

    async def parted(self) -> None:
        """Wait until the meter is left, and the line remembers no rate."""
        async with asyncio.timeout(20):
            while BREAK not in self.notes or self.memory.rate is not None:  # noqa: ASYNC110 - lists of a test
                await asyncio.sleep(0.005)


@asynccontextmanager
async def working(turns: Turns, notes: list[bytes | str] | None = None) -> AsyncIterator[Site]:
    bus = virtual_bus("1:4711:EK280", seed=7, now=lambda: NOW, history_days=1, opening_rate=300)
    async with serve_pty(bus) as endpoint:
        site = Site(endpoint, turns, notes)
        async with at_work(site.worker):
            yield site
        assert site.memory.rate is None
        async with asyncio.timeout(20):
            while bus.rate != 300:  # noqa: ASYNC110 - the break is heard when it has passed the line
                await asyncio.sleep(0.01)


async def test_the_goodbye_is_said_before_an_answer_is_made_and_belongs_to_no_run() -> None:
    turns = NoTurn()
    async with working(turns) as site:
        site.submit("read_archive_by_date", **ARCHIVE)
        await site.parted()
        assert not site.results
        assert site.memory.rates[-2:] == [19200, None]
        turns.comes.set()
        (result,) = await site.ended()
        assert result.outcome == reports.DONE
        assert result.answer is not None
        assert len(result.answer.values) > 20
        assert site.link is not None
        assert result.line_bytes == site.link.passed - len(BREAK)
    assert site.notes[-2:] == [BREAK, ENDED]
    assert site.calls() == 1


async def test_a_meter_on_which_more_is_due_is_not_left() -> None:
    async with working(Turns()) as site:
        site.submit("read_archive_by_date", **ARCHIVE)
        site.submit("read_single_value", address="2:300")
        assert [result.outcome for result in await site.ended(2)] == [reports.DONE] * 2
    assert site.calls() == 1
    assert site.notes.count(BREAK) == 1


async def test_what_comes_while_the_answer_is_made_has_a_session_of_its_own() -> None:
    turns = NoTurn()
    async with working(turns) as site:
        site.submit("read_archive_by_date", **ARCHIVE)
        await site.parted()
        site.submit("read_single_value", address="2:300")
        turns.comes.set()
        assert [result.outcome for result in await site.ended(2)] == [reports.DONE] * 2
    assert site.calls() == 2
    assert site.notes.count(BREAK) == 2


async def test_a_meter_that_is_asked_after_all_is_opened_anew() -> None:
    """What is held has a row's number, and a time that it does not have any more: all is read by time."""
    async with working(Turns()) as site:
        site.submit("read_archive_since_last", **NEW)
        (first,) = await site.ended()
        assert first.answer is not None
        assert first.answer.held is not None
        held = first.answer.held
        wrong = Held(held.start, held.through - dt.timedelta(hours=1, seconds=1), held.through_number - 4)
        site.memory.marks[site.device.id, 3] = wrong
        before = site.calls()
        site.submit("read_archive_since_last", **NEW)
        _, second = await site.ended(2)
        assert second.outcome == reports.DONE
        assert second.answer is not None
        assert second.answer.held is not None
        assert second.answer.held.through_number == held.through_number
        assert second.answer.values
    assert site.calls() == before + 2
    assert site.notes.count(BREAK) == site.calls()


async def test_new_rows_behind_the_last_that_is_held_need_one_session() -> None:
    async with working(Turns()) as site:
        site.submit("read_archive_since_last", **NEW)
        (first,) = await site.ended()
        assert first.answer is not None
        assert first.answer.held is not None
        site.memory.marks[site.device.id, 3] = first.answer.held
        site.submit("read_archive_since_last", **NEW)
        _, second = await site.ended(2)
        assert second.outcome == reports.DONE
    # Nothing new by number is asked for by time as well: it was not left for that.
    assert site.calls() == 2


async def test_a_run_that_is_cancelled_before_its_answer_is_made_leaves_the_line_as_it_was() -> None:
    turns = NoTurn()
    async with working(turns) as site:
        run = site.submit("read_archive_by_date", **ARCHIVE)
        async with asyncio.timeout(20):
            await turns.waited_for.wait()
        assert site.worker.cancel(run.id)
        (result,) = await site.ended()
        assert (result.outcome, result.answer) == (reports.CANCELLED, None)
        await site.parted()
        site.submit("read_single_value", address="2:300")
        assert (await site.ended(2))[1].outcome == reports.DONE
    assert site.notes.count(BREAK) == site.calls() == 2


async def test_a_meter_is_left_once_and_an_archive_behind_that_is_whole() -> None:
    """A slice that was cut brings its rows again without the meter, and its call says twice that it has enough."""
    bus = virtual_bus("1:4711:EK280", seed=7, now=lambda: NOW, history_days=1, opening_rate=300)
    async with serve_pty(bus) as endpoint:
        line = line_at(endpoint, rate=300)
        link = Noting(await open_link(endpoint, 300), [])
        memory = DictMemory()
        device = device_on(line)
        async with open_session(link, line, device, memory=memory, now=lambda: NOW, times=QUICK) as session:
            await session.layout(3)
            before = session.line_bytes
            session.leave()
            session.leave()
            assert session.line_bytes == before
            rows = [row async for rows in session.rows(3, 3, "", "") for row in rows]
            assert not session.left
            assert len(rows) > 10
            session.leave()
        await link.aclose()
    assert link.notes.count(BREAK) == link.notes.count(b"/?1!\r\n") == 2
    assert memory.rate is None


async def test_an_agent_that_ends_then_says_goodbye_to_the_end_and_the_run_is_done_again() -> None:
    turns = NoTurn()
    async with working(turns) as site:
        site.submit("read_archive_by_date", **ARCHIVE)
        async with asyncio.timeout(20):
            await turns.waited_for.wait()
    assert [result.outcome for result in site.results] == [reports.INTERRUPTED]
    assert site.notes.count(BREAK) == 1
    assert site.memory.rates[-1] is None


async def test_lines_that_end_together_answer_one_after_the_other_and_speak_between() -> None:
    turns = Turns()
    order: list[str] = []

    async def answer(name: str) -> None:
        await turns.mine()
        order.append(name)

    async def speak() -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        order.append("said")

    async with asyncio.TaskGroup() as lines:
        first = lines.create_task(answer("first"))
        lines.create_task(answer("second"))
        await first
        lines.create_task(speak())
    assert order == ["first", "said", "second"]
