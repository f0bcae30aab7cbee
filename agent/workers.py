"""The workers of this gateway's lines, by the plan: begun, told of changes, and let go when their line has gone.

Rules: one worker for each line of the plan, its port as this gateway's settings have it. A line that left the plan
finishes what it is doing; the same line, if it comes back meanwhile, begins after that. A run that is *withdrawn* was
never there: nobody hears how it ended.
"""

import asyncio
import collections
import dataclasses
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from agent.lines import LineWorker
from agent.runs import Run, RunResult
from protocol.plans import Line
from protocol.reports import LineFigures

_RETIRE_LOOK = 0.1


class Hire(Protocol):
    """Makes the worker of a line."""

    def __call__(
        self, line: Line, *, on_started: Callable[[Run], None], on_result: Callable[[RunResult], None]
    ) -> LineWorker:
        """Make it."""


@dataclasses.dataclass(slots=True)
class _LineTask:
    worker: LineWorker
    task: asyncio.Task[None]


class Workers:
    """One worker a line.

    Args:
        hire: Makes a worker.
        endpoints: Of this gateway's own settings, by the line's name; they count before the plan's.
        on_started: Called when a line begins to work on a run.
        on_result: Called once for each run that has ended, unless it was withdrawn.
    """

    def __init__(
        self,
        hire: Hire,
        endpoints: Mapping[str, str],
        *,
        on_started: Callable[[Run], None],
        on_result: Callable[[RunResult], None],
    ) -> None:
        self._hire, self._endpoints = hire, endpoints
        self._on_started, self._on_result = on_started, on_result
        self._group: asyncio.TaskGroup | None = None
        self._lines: dict[uuid.UUID, _LineTask] = {}
        self._retiring: dict[uuid.UUID, asyncio.Task[None]] = {}
        # Runs that a line has begun, by line; and runs that were taken back from theirs.
        self._busy: collections.defaultdict[uuid.UUID, set[uuid.UUID]] = collections.defaultdict(set)
        self._withdrawn: set[uuid.UUID] = set()

    def __len__(self) -> int:
        return len(self._lines)

    def begin_in(self, group: asyncio.TaskGroup) -> None:
        """Say where the workers' tasks belong; before the first line is kept."""
        self._group = group

    def keep(self, line: Line) -> None:
        """Have this line worked as the plan has it."""
        endpoint = self._endpoints.get(line.name, line.endpoint)
        line = Line(line.id, line.name, endpoint, line.rate, line.fixed_rate, line.parity, line.wake_up, line.echo)
        known = self._lines.get(line.id)
        if known is not None:
            known.worker.replace(line)
            return
        worker = self._hire(line, on_started=self._started, on_result=self._ended)
        task = self._tasks.create_task(_work(worker, self._retiring.get(line.id)), name=f"line-{line.name}")
        self._lines[line.id] = _LineTask(worker, task)

    def keep_only(self, lines: Iterable[uuid.UUID]) -> None:
        """Let all other lines finish what they are doing, then end them."""
        for line_id in self._lines.keys() - set(lines):
            self._retire(line_id, self._lines.pop(line_id).task)

    def _retire(self, line_id: uuid.UUID, work: asyncio.Task[None]) -> None:
        async def finish() -> None:
            try:
                while self._busy[line_id]:  # noqa: ASYNC110 - a set that lines empty, seldom
                    await asyncio.sleep(_RETIRE_LOOK)
            finally:
                work.cancel()
                await asyncio.wait([work])
                self._retiring.pop(line_id, None)

        self._retiring[line_id] = self._tasks.create_task(finish(), name="retiring-line")

    async def end(self) -> None:
        """End every line after what it is saying."""
        tasks = [line.task for line in self._lines.values()] + list(self._retiring.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @property
    def _tasks(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("lines are begun and ended inside Agent.run")
        return self._group

    # --- runs

    def submit(self, run: Run) -> bool:
        """Give a run to its line; False when that is not in the plan."""
        line = self._lines.get(run.device.line)
        if line is None:
            return False
        line.worker.submit(run)
        return True

    def cancel(self, run_id: uuid.UUID) -> bool:
        """Ask for the end of a run; its line says when. False when no line has it."""
        return any(line.worker.cancel(run_id) for line in self._lines.values())

    def withdraw(self, run_id: uuid.UUID) -> bool:
        """Take a run that has not begun back from its line; nobody hears of it."""
        self._withdrawn.add(run_id)
        found = self.cancel(run_id)
        self._withdrawn.discard(run_id)
        return found

    def paused(self, run: Run) -> None:
        """Hear that a run waits for its next slice: its line may end without it."""
        self._busy[run.device.line].discard(run.id)

    def figures(self) -> list[LineFigures]:
        """Return what each line did; also from another thread."""
        return [line.worker.figures() for line in list(self._lines.values())]

    def _started(self, run: Run) -> None:
        self._busy[run.device.line].add(run.id)
        self._on_started(run)

    def _ended(self, result: RunResult) -> None:
        run = result.run
        if run.id not in self._withdrawn:
            self._busy[run.device.line].discard(run.id)
            self._on_result(result)


async def _work(worker: LineWorker, before: asyncio.Task[None] | None) -> None:
    """Work a line, after whoever had it before is done."""
    if before is not None:
        await asyncio.wait([before])
    await worker.run()
