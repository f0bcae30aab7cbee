"""A process of a bench that obeys lines of JSON on its input and tells lines of JSON on its output: both ends."""

import asyncio
import contextlib
import json
import pathlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

from deploy.demo.processes import END_SECONDS

READY_SECONDS = 600.0


class Child:
    """One process, and what it told: lines, read and changed under ``news``, which tells of each."""

    def __init__(self, module: str, arguments: Sequence[str], log: pathlib.Path) -> None:
        self.told: list[dict[str, Any]] = []
        self.log = log
        with log.open("wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", f"benchmarks.{module}", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.news = threading.Condition()
        self.ended = False
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        for line in self._child.stdout or ():
            with self.news:
                self.told.append(json.loads(line))
                self.news.notify_all()
        with self.news:
            self.ended = True
            self.news.notify_all()

    def order(self, **order: object) -> None:
        """Give an order; what was told before is forgotten."""
        self.told.clear()
        self.say(**order)

    def say(self, **order: object) -> None:
        """Send a line."""
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.write(json.dumps(order) + "\n")
                self._child.stdin.flush()

    def wait(self, key: str, seconds: float) -> bool:
        """Wait until a line with this key was told; False if none came in time.

        Raises:
            RuntimeError: when the process has ended.
        """
        with self.news:
            found = self.news.wait_for(lambda: self.ended or any(key in line for line in self.told), seconds)
            if self.ended:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"a process of the bench ended; its log {self.log} ends:\n{tail}")
        return found

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    def wait_until_ready(self) -> None:
        """Wait until it obeys.

        Raises:
            RuntimeError: when that takes too long, or the process has ended.
        """
        if not self.wait("ready", READY_SECONDS):
            raise RuntimeError(f"a process of the bench was not ready in time; see {self.log}")

    def kill(self) -> None:
        """End the process at once."""
        self._child.kill()

    def end(self) -> None:
        """End the process, at once if it does not listen."""
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        try:
            self._child.wait(END_SECONDS * 4)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._thread.join(END_SECONDS)
        if self._child.stdout is not None:
            self._child.stdout.close()


def tell(**figures: object) -> None:
    """Tell a line; in the process itself."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


@contextlib.asynccontextmanager
async def listened() -> "AsyncIterator[asyncio.Queue[dict[str, Any]]]":
    """Hear orders for the length of the block, in the process itself; the last one, at the input's end, is ``end``."""
    orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    listening = asyncio.create_task(_listen(orders))
    try:
        yield orders
    finally:
        listening.cancel()
        await asyncio.wait({listening})


async def _listen(orders: "asyncio.Queue[dict[str, Any]]") -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        orders.put_nowait(json.loads(line))
    orders.put_nowait({"do": "end"})
