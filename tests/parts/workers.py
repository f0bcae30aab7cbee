"""A line's worker at work in a test, and the results that it has told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.lines import LineWorker
from agent.runs import Run, RunResult


class Results:
    """What a worker has told of its runs, in the order in which they ended."""

    def __init__(self) -> None:
        self.results: list[RunResult] = []
        self._news = asyncio.Event()

    def _ended(self, result: RunResult) -> None:
        self.results.append(result)
        self._news.set()

    async def result_of(self, run: Run, seconds: float = 60) -> RunResult:
        """Wait for the result of a run."""
        async with asyncio.timeout(seconds):
            while True:
                for result in self.results:
                    if result.run.id == run.id:
                        return result
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def at_work(worker: LineWorker) -> AsyncIterator[None]:
    """Have a worker run for the length of the block; what ended it otherwise is raised."""
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
