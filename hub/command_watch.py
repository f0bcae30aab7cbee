"""The watch over commands: all who wait for states in one process are served by one look at the database.

Rules.
- A *feed* gets every event above ``since`` that becomes visible, each once, in the order of numbers; with the rows up
  to ``since``, which are all there by then, that is everything, without loss or double.
- A number that is missing below one that is there is waited for as long as a transaction lives that may bring it, and
  no longer: then it was undone and never comes. Nobody is told of a larger number before.
- There is a look only while somebody waits: when a notice says that there is something, and at intervals.
- A feed that is not emptied in time says so (``lost``) and is begun anew by its reader from the database.

The database may be another process's to write: nothing here depends on who does.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import uuid
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.command_events import bounds, writers
from hub.database import UNREACHABLE, reading
from hub.models import CommandEvent
from hub.notices import Notice, notices_of, wait
from hub.state import Hub
from protocol.commands import FINAL_STATES

TICK_SECONDS = 0.1
"""Real seconds between two looks of a process, however many wait, while notices are not known to arrive."""

LIVE_TICK_SECONDS = 2.0
"""The same while they are (``hub.notices``), and bring the next look at once."""

REST_SECONDS = 0.01
"""Real seconds between a look and the next at least: what changes meanwhile is looked at together."""

PAUSE_SECONDS = 1.0
"""The same while the database does not answer."""

AT_ONCE = 1000
"""Rows of one look."""

LONGEST_FEED = 2000
"""Events that wait in one feed; with more it is lost."""

_log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """A command has come into a state."""

    number: int
    command: uuid.UUID
    organization: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID | None
    batch: uuid.UUID | None
    state: str
    cause: str
    at: dt.datetime

    @property
    def final(self) -> bool:
        """Whether it was the end."""
        return self.state in FINAL_STATES


_COLUMNS = [getattr(CommandEvent, field.name) for field in dataclasses.fields(Event)]


async def events_between(
    session: AsyncSession, after: int, through: int | None, *only: sa.ColumnElement[bool], limit: int = AT_ONCE
) -> list[Event]:
    """Return events with numbers above ``after``, up to ``through``, in order, at most so many."""
    statement = sa.select(*_COLUMNS).where(CommandEvent.number > after, *only)
    if through is not None:
        statement = statement.where(CommandEvent.number <= through)
    rows = await session.execute(statement.order_by(CommandEvent.number).limit(limit))
    return [Event(*row) for row in rows]


class Feed:
    """What one who waits is told. ``since``: events up to this number are to be read from the database."""

    def __init__(self, wants: Callable[[Event], bool], since: int) -> None:
        self.since = since
        self.through = since
        """All up to this number has been put here, where it was wanted."""
        self.lost = False
        """Whether events had to go, because too many waited."""
        self.over = False
        """Whether nothing more comes: the process ends."""
        self._wants = wants
        self._events: deque[Event] = deque()
        self._stir = asyncio.Event()

    def put(self, events: Sequence[Event]) -> None:
        """Take what is wanted of what has come."""
        wanted = [event for event in events if self._wants(event)]
        if events:
            self.through = events[-1].number
        if len(self._events) + len(wanted) > LONGEST_FEED:
            self.lost = True
            self._events.clear()
        elif not self.lost:
            self._events.extend(wanted)
        if wanted:
            self._stir.set()

    def close(self) -> None:
        """Say that nothing more comes."""
        self.over = True
        self._stir.set()

    def begin_anew(self) -> None:
        """Empty it; what was in it is to be read from the database, up to ``since``."""
        self._events.clear()
        self.lost, self.since = False, self.through

    async def next(self, seconds: float) -> list[Event]:
        """Return what has come, waiting for it so long; nothing when the time is over, it is lost, or all is over."""
        if not self._events and not self.lost and not self.over:
            self._stir.clear()
            with contextlib.suppress(TimeoutError):
                # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with what it waits for.
                async with asyncio.timeout(max(0.0, seconds)):
                    await self._stir.wait()
        found = [*self._events]
        self._events.clear()
        return found


class Gaps:
    """Which of the events that are visible may be told: all up to a missing number that may come still."""

    def __init__(self) -> None:
        self._awaited: frozenset[str] | None = None
        self._extent = 0

    @property
    def open(self) -> bool:
        """Whether a missing number is waited for."""
        return self._awaited is not None

    def told(self, high: int, found: Sequence[Event]) -> int:
        """Return how many of the events after ``high`` follow each other without a gap."""
        count = 0
        while count < len(found) and found[count].number == high + count + 1:
            count += 1
        if count == len(found):
            self._awaited = None
        return count

    def are_final(self, high: int, found: Sequence[Event], count: int, busy: frozenset[str]) -> bool:
        """Whether what was missing at first sight cannot come any more, unless it is there by now.

        ``busy`` are the transactions that live now and may bring numbers: one that was looked at after ``found``.
        """
        missing = high + count + 1
        if self._awaited is None or missing > self._extent:
            self._awaited, self._extent = busy, found[-1].number
        return not self._awaited & busy

    def closed(self, high: int, again: Sequence[Event]) -> int:
        """Return how many events may be told after a second look, when what is missing up to the extent is final."""
        count, last = 0, high
        while count < len(again) and (again[count].number == last + 1 or again[count].number <= self._extent):
            last = again[count].number
            count += 1
        self._awaited = None
        return count


class Watch:
    """The one who looks, for all of a process."""

    def __init__(self) -> None:
        self._feeds: set[Feed] = set()
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._high = 0
        self._gaps = Gaps()
        self.looks = 0
        """How often the database was asked."""

    @contextlib.asynccontextmanager
    async def follow(self, hub: Hub, wants: Callable[[Event], bool]) -> AsyncIterator[Feed]:
        """Be told, for the length of the block, of events that are wanted."""
        waiting = Feed(wants, 0)
        self._feeds.add(waiting)
        try:
            if self._task is None:
                self._ready = asyncio.Event()
                self._task = asyncio.create_task(self._look_on(hub), name="command-watch")
            await self._ready.wait()
            if self._task is None or self._task.done():
                waiting.close()
            waiting.through = self._high
            waiting.begin_anew()
            yield waiting
        finally:
            self._feeds.discard(waiting)
            if not self._feeds and self._task is not None:
                task, self._task = self._task, None
                task.cancel()
                await asyncio.wait({task})

    async def _look_on(self, hub: Hub) -> None:
        """Look for ever, or until the process ends."""
        begun = False
        notices = notices_of(hub.engine)
        stir = notices.heard(Notice.STATES)
        try:
            while not hub.stopping.is_set():
                pause = LIVE_TICK_SECONDS if notices.live and not self._gaps.open else TICK_SECONDS
                try:
                    if begun:
                        news = await self._news(hub.engine)
                        for feed in [*self._feeds]:
                            feed.put(news)
                        if self._gaps.open:
                            pause = TICK_SECONDS
                        elif len(news) >= AT_ONCE:
                            pause = 0.0
                    else:
                        self._high = await self._newest(hub.engine)
                        begun, pause = True, 0.0
                        self._ready.set()
                except (SQLAlchemyError, *UNREACHABLE) as error:
                    cause = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
                    _log.warning("database_failed", doing="watching commands", cause=cause)
                    await asyncio.sleep(PAUSE_SECONDS)
                await asyncio.sleep(REST_SECONDS)
                await wait(stir, pause)
        finally:
            for feed in self._feeds:
                feed.close()
            self._ready.set()

    async def _newest(self, engine: AsyncEngine) -> int:
        """Return a number up to which nothing comes any more."""
        async with reading(engine) as session:
            _, newest = await bounds(session)
            before = await writers(session)
            while before & await writers(session):  # noqa: ASYNC110 - other processes' transactions tell nobody
                await asyncio.sleep(TICK_SECONDS)
            return newest

    async def _news(self, engine: AsyncEngine) -> list[Event]:
        """Return the events that may be told now, and were not."""
        async with reading(engine) as session:
            self.looks += 1
            found = await events_between(session, self._high, None)
            if engine.dialect.name == "sqlite":
                # One writes after the other: what is not there never was.
                count = len(found)
            else:
                count = self._gaps.told(self._high, found)
                if count < len(found) and self._gaps.are_final(self._high, found, count, await writers(session)):
                    found = await events_between(session, self._high, None)
                    count = self._gaps.closed(self._high, found)
        news = found[:count]
        if news:
            self._high = news[-1].number
        return news


_watches: weakref.WeakKeyDictionary[AsyncEngine, Watch] = weakref.WeakKeyDictionary()


def watch_of(hub: Hub) -> Watch:
    """Return the watch of this process."""
    return _watches.setdefault(hub.engine, Watch())
