"""What this process commits: tasks that work off what is in the database wait for it, instead of looking all the time.

Rules:
- Whatever wrote a row rings, once it is committed, and wakes everybody who waits: a look that finds nothing costs less
  than it would to say in each place that writes who is to be woken. What only read, or changed no row, rings nobody;
  so a look that finds nothing wakes no one, and a hub where nothing happens rests.
- Other processes' commits are not heard here. Whoever hears of them otherwise rings; for what nobody hears of there is
  a slow look (``look_seconds``), and for what becomes due by time alone.
"""

import asyncio
import contextlib
import weakref

from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock

ALONE_SECONDS = 30.0
"""Real seconds between two looks where only this process writes, at what becomes due by writing only."""

BESIDE_SECONDS = 5.0
"""Real seconds between two looks at what other processes may have written, and at what becomes due by time."""


class Commits:
    """The commits of this process on one engine."""

    def __init__(self) -> None:
        self.count = 0
        """How many there were that wrote something."""
        self._waiting: set[asyncio.Event] = set()

    def ring(self) -> None:
        """Say that something was committed."""
        self.count += 1
        for event in self._waiting:
            event.set()

    async def after(self, seen: int, *, at_most: float, pause: float) -> None:
        """Wait until there were more commits than ``seen``, but not longer than ``at_most``; then pause.

        Args:
            seen: ``count`` as it was before the last look, so that nothing is missed that was committed during it.
            at_most: Real seconds to wait for a commit.
            pause: Real seconds to wait in any case: what is committed in quick succession is looked at together, and
                who has committed goes on first.
        """
        if self.count == seen:
            event = asyncio.Event()
            self._waiting.add(event)
            try:
                with contextlib.suppress(TimeoutError):
                    # Not wait_for: in Python 3.11 it swallows a cancellation that comes with what it waits for.
                    async with asyncio.timeout(at_most):
                        await event.wait()
            finally:
                self._waiting.discard(event)
        await asyncio.sleep(pause)


_commits: weakref.WeakKeyDictionary[object, Commits] = weakref.WeakKeyDictionary()


def commits_of(engine: AsyncEngine) -> Commits:
    """Return what tells of this process's commits on an engine."""
    # By the engine beneath: its events ring, and know only that.
    return _commits.setdefault(engine.sync_engine, Commits())


def look_seconds(engine: AsyncEngine, clock: Clock | None = None) -> float:
    """Return after how many real seconds to look even though nothing was heard.

    Args:
        engine: On SQLite only this process writes, but for commands of an operator, who can wait a little.
        clock: Given for what becomes due by time: the faster it is, the sooner.
    """
    if clock is not None:
        return BESIDE_SECONDS / max(1.0, clock.rate)
    return ALONE_SECONDS if engine.dialect.name == "sqlite" else BESIDE_SECONDS
