"""What the hub's processes tell each other: a command may be to be sent, a plan, a command has come into a state.

Rules.
- A notice is a hint and carries nothing: who hears it looks at the database, which alone knows. Lost, doubled and late
  ones do no harm. Who waits for one also looks at intervals: long ones while notices are known to arrive (``live``).
- It is told in the transaction that writes what there is to see, and heard after its commit, never when it was undone.
- On PostgreSQL that is NOTIFY, heard by all processes. Commits with a NOTIFY go one after the other in the whole
  server, so only what people wait for is told: never that readings were stored. On SQLite, where one process does
  everything, it is heard in that process. Who tells and who hears does not notice the difference.
- A process that listens does so on a connection of its own (``Listener``). It is believed only while what it tells
  itself comes back: a pooler between it and the database may let LISTEN pass and deliver nothing. After each new
  connection everybody looks at everything once.
"""

import asyncio
import contextlib
import enum
import random
import time
import uuid
import weakref
from collections.abc import Iterator
from typing import Any

import asyncpg
import prometheus_client
import sqlalchemy as sa
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from hub.clocks import Clock
from hub.commits import commits_of
from hub.database import UNREACHABLE, create_engine

PROOF_SECONDS = 30.0
"""Real seconds between two proofs that notices arrive: a lost listener is known soon after."""

ANSWER_SECONDS = 5.0
"""Real seconds in which a connection must be made, and a notice must arrive."""

LOOK_SECONDS = {"sqlite": (1.0, 5.0), "postgresql": (0.25, 5.0)}
"""Real seconds between two looks of who waits for commands and plans: while notices are not live, and while they are.

On SQLite only this process writes, but for what an operator does by hand.
"""

RETRY_SECONDS = (0.2, 30.0)
"""Shortest and longest pause (s) before a process tries to listen again."""


class Notice(enum.StrEnum):
    """What may be told; the value is PostgreSQL's channel."""

    COMMANDS = "metergate_commands"
    """A command, or a cancellation, may be to be sent."""
    PLANS = "metergate_plans"
    """A gateway's desired revision was raised."""
    STATES = "metergate_states"
    """A command has come into a state."""


_TOLD = "notices"
_PASSING = (SQLAlchemyError, asyncpg.PostgresError, *UNREACHABLE, TimeoutError)

_log = structlog.get_logger(__name__)
_live = prometheus_client.Gauge("metergate_notices_live", "Whether what other processes tell arrives at this one")
_lost = prometheus_client.Counter("metergate_notices_lost", "How often this process stopped hearing other processes")
_heard = prometheus_client.Counter("metergate_notices_heard", "Notices that this process has heard", ["notice"])


class UndeliveredError(RuntimeError):
    """What a process told itself did not arrive."""


class Notices:
    """Who waits for what in one process, by its engine."""

    def __init__(self, *, live: bool) -> None:
        self.live = live
        """Whether notices are known to arrive; without that who waits looks for itself, often."""
        self.lost_at: float | None = None
        """Since when (``time.monotonic``) a process that listens hears nothing; None while it hears, or is not to."""
        self._waiting: dict[Notice, weakref.WeakSet[asyncio.Event]] = {one: weakref.WeakSet() for one in Notice}

    def heard(self, *notices: Notice) -> asyncio.Event:
        """Return an event that is set whenever one of these is heard, for as long as somebody holds it."""
        event = asyncio.Event()
        for notice in notices:
            self._waiting[notice].add(event)
        return event

    def hear(self, *notices: Notice) -> None:
        """Wake those who wait for these."""
        for notice in notices:
            _heard.labels(notice.name.lower()).inc()
            for event in [*self._waiting[notice]]:
                event.set()


_notices: weakref.WeakKeyDictionary[Engine, Notices] = weakref.WeakKeyDictionary()


def notices_of(engine: AsyncEngine) -> Notices:
    """Return the notices of the process, or of the one part of it that uses this engine."""
    return _of(engine.sync_engine)


def _of(engine: Engine) -> Notices:
    # Where one process does everything, what it tells itself arrives.
    return _notices.setdefault(engine, Notices(live=engine.dialect.name == "sqlite"))


async def tell(session: AsyncSession, *notices: Notice, asking: str = "") -> None:
    """Tell this to all processes when the session's transaction is committed.

    ``asking`` is an expression that PostgreSQL is asked for in the same statement: each one costs a round trip that
    somebody waits for.
    """
    if session.get_bind().dialect.name == "postgresql":
        # Some sessions are of a connection: through it, so that nothing is flushed.
        connection = await session.connection()
        told = [f"pg_notify('{notice.value}', '')" for notice in notices]
        await connection.execute(sa.text("SELECT " + ", ".join([asking, *told] if asking else told)))
        return
    inner = session.sync_session
    if _TOLD not in inner.info:
        inner.info[_TOLD] = set[Notice]()
        sa.event.listen(inner, "after_commit", _pass_on)
    inner.info[_TOLD].update(notices)


def _pass_on(session: Session) -> None:
    # After a savepoint too: then somebody looks once in vain.
    _of(session.get_bind().engine).hear(*session.info[_TOLD])


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait so many real seconds at most for an event of ``heard``, and take it; return whether it was set."""
    # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with what it waits for.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    was_set = event.is_set()
    event.clear()
    return was_set


def look_seconds(engine: AsyncEngine, clock: Clock, *, soon: bool = False) -> float:
    """Return how many real seconds may pass without a notice until the database is looked at all the same.

    ``soon``: something is known to be due that no notice will tell.
    """
    often, seldom = LOOK_SECONDS[engine.dialect.name]
    if soon or not notices_of(engine).live:
        return often
    # What becomes due by the clock's time becomes so sooner where that runs faster.
    return max(often, seldom / clock.rate)


class Listener:
    """Hears what other processes tell, and passes it on in this one.

    Args:
        engine: What this process works with; whoever uses it is told.
        url: The database as LISTEN reaches it: that of the engine, or one past a pooler.
        proof_seconds: Real seconds between two proofs.
    """

    def __init__(self, engine: AsyncEngine, url: str, *, proof_seconds: float = PROOF_SECONDS) -> None:
        self._engine = engine
        self._url = url
        self._proof_seconds = proof_seconds
        self._notices = notices_of(engine)
        self._proof = f"metergate_proof_{uuid.uuid4().hex}"
        self._proven = asyncio.Event()

    async def keep_on(self) -> None:
        """Listen for ever; on SQLite there is nobody to listen to."""
        if self._engine.dialect.name == "sqlite":
            _live.set(1)
            return
        self._set_live(live=False)
        for pause in self._pauses():
            try:
                await self._listen()
            except (UndeliveredError, *_PASSING) as error:
                cause = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
                advice = "commands and plans are looked for four times a second meanwhile"
                _log.warning("notices_lost", cause=cause, pause_seconds=round(pause, 1), advice=advice)
            finally:
                if self._notices.live:
                    _lost.inc()
                self._set_live(live=False)
            await asyncio.sleep(pause)

    def _pauses(self) -> Iterator[float]:
        """Yield pauses with back-off and jitter; after a connection that was good they begin anew."""
        pause = RETRY_SECONDS[0]
        while True:
            was_good = self._proven.is_set()
            self._proven.clear()
            pause = RETRY_SECONDS[0] if was_good else min(2 * pause, RETRY_SECONDS[1])
            # Jitter, so that processes which lost one database together do not come back together.
            yield pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def _set_live(self, *, live: bool) -> None:
        self._notices.live = live
        if live:
            self._notices.lost_at = None
        elif self._notices.lost_at is None:
            self._notices.lost_at = time.monotonic()
        _live.set(live)

    async def _listen(self) -> None:
        """Listen on one connection until it is lost.

        Raises:
            UndeliveredError: when notices do not arrive through it.
        """
        # An engine of its own, for one connection: it makes of a URL what all other connections are made of.
        listening = create_engine(self._url)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                held = await listening.connect()
            try:
                await self._follow(listening, (await held.get_raw_connection()).driver_connection)
            finally:
                # Not back to the pool: it listens.
                await held.invalidate()
                await held.close()
        finally:
            await listening.dispose()

    async def _follow(self, listening: AsyncEngine, connection: Any) -> None:  # noqa: ANN401 - asyncpg's connection
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        async with asyncio.timeout(ANSWER_SECONDS):
            for channel in (self._proof, *Notice):
                await connection.add_listener(channel, self._take)
        while True:
            await self._prove(listening)
            if not self._notices.live:
                self._set_live(live=True)
                _log.info("notices_live")
                # Whatever was told before the first word could be heard.
                self._notices.hear(*Notice)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._proof_seconds):
                    await gone.wait()
            if gone.is_set():
                raise ConnectionError("the database has closed the connection that listens")

    async def _prove(self, listening: AsyncEngine) -> None:
        """Tell ourselves something by another connection, and wait until it has come.

        Not one of those that this process works with: while all of them are taken, it may be heard all the same.

        Raises:
            UndeliveredError: when it does not.
        """
        self._proven.clear()
        async with asyncio.timeout(ANSWER_SECONDS), listening.connect() as telling:
            await telling.execute(sa.text("SELECT pg_notify(:channel, '')"), {"channel": self._proof})
            await telling.commit()
            await telling.invalidate()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._proven.wait()
        except TimeoutError:
            raise UndeliveredError(
                "what this process told itself did not arrive: a pooler before the database does not deliver "
                "notifications; give the database's own URL with METERGATE_LISTEN_DATABASE"
            ) from None

    def _take(self, _connection: object, _process: int, channel: str, _payload: object) -> None:
        if channel == self._proof:
            self._proven.set()
            return
        notice = Notice(channel)
        if notice is Notice.PLANS:
            # An edit of another process: keys to be sealed, readings to be judged again.
            commits_of(self._engine).ring()
        self._notices.hear(notice)
