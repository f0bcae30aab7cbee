"""Closing gaps: finds what is missing, has it fetched when that makes sense, and settles what the meter has answered.

Every relay runs it; one plans at a time (``_turn``), each turn is bounded, and all that it knows stands in the table
``backfills``, so that a restart goes on where the last one ended. What is decided is in ``hub.backfill_plans``.

Theory of operation. A gap that no task will fill any more becomes a window in state ``waiting``
(``hub.backfill_noticing``). It is fetched only if it is still there when the gateway has delivered everything that it
had when the gap was noticed: so rows that wait in an outbox are not read again. The window then becomes a command for
the background, with the origin ``backfill`` (``hub.backfill_sending``); when that has ended, and the gateway has
delivered what it had by then, the window is *settled* (``hub.backfill_settling``): what is stored is stored, what the
meter was asked for and did not have is lost for good, with its words. What failed is tried again, less and less often.
"""

import datetime as dt
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import ledger
from hub.backfill_noticing import HORIZON, notice
from hub.backfill_rows import CANCELLED, DONE, GAVE_UP, WAITING
from hub.backfill_sending import call_back, send
from hub.backfill_settling import conclude, follow
from hub.clocks import Clock
from hub.commits import commits_of, look_seconds
from hub.database import reading, writing
from hub.models import Backfill, Expectation, Gateway, MeterDevice, NetworkInterface

METERS_PER_TURN = 50
PASS_SECONDS = 30.0
"""Real seconds between two looks at all meters, at least; so much less as the clock is faster."""
TURN_SECONDS = 1.0
SENDING_SHARE = 0.2
"""Of the time, what choosing and sending windows may take: each line has a second command in hand meanwhile."""

KEPT_FOR = dt.timedelta(days=90)
"""How long backfills are remembered that have ended. What was given up is then a gap again, to be tried anew."""

_LOCK = 0x6D626663
"""PostgreSQL advisory lock: one process plans at a time."""


@asynccontextmanager
async def _turn(engine: AsyncEngine) -> AsyncIterator[AsyncSession | None]:
    """Open the transaction of who plans now; None while another one does. On SQLite a writer is the only one."""
    async with writing(engine) as session:
        if engine.dialect.name != "postgresql":
            yield session
            return
        mine = await session.scalar(sa.text(f"SELECT pg_try_advisory_xact_lock({_LOCK})"))
        yield session if mine else None


class Filler:
    """Closes gaps, turn by turn; remembers only how far its look at all meters has come."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock
        self._after: uuid.UUID | None = None
        self._next_pass = self._next_sending = clock.monotonic()

    async def keep_on(self) -> None:
        """Close gaps for ever."""
        commits = commits_of(self._engine)
        while True:
            seen = commits.count
            await self.turn()
            at_most = look_seconds(self._engine, self._clock) if self._after is None else 0
            await commits.after(seen, at_most=at_most, pause=TURN_SECONDS)

    async def turn(self) -> None:
        """Follow what is under way, and look at some meters more."""
        now = self._clock.now()
        due, meters = await self._due(now), await self._next_meters()
        if not due and not meters:
            return
        await ledger.catch_up(self._engine, now)
        async with _turn(self._engine) as session:
            if session is not None:
                await call_back(session, now)
                await follow(session, now)
                await conclude(session, now)
                await self._send(session, now)
        if meters:
            async with _turn(self._engine) as session:
                if session is not None:
                    await notice(session, meters, now)
                    await _forget(session, now)

    async def _send(self, session: AsyncSession, now: dt.datetime) -> None:
        """Send what is ready, in a part of the time: after an outage of everything there is much to choose from."""
        begun = self._clock.monotonic()
        if begun < self._next_sending:
            return
        await send(session, now)
        ended = self._clock.monotonic()
        self._next_sending = ended + (ended - begun) * (1 / SENDING_SHARE - 1)

    async def _due(self, now: dt.datetime) -> bool:
        """Whether there is anything under way, or to be sent."""
        async with reading(self._engine) as session:
            found = await session.execute(
                sa.select(Backfill.id)
                .where(
                    Backfill.ended_at.is_(None),
                    sa.or_(Backfill.state != WAITING, sa.and_(Backfill.paused.is_(False), Backfill.next_at <= now)),
                )
                .limit(1)
            )
            return found.first() is not None

    async def _next_meters(self) -> list[uuid.UUID]:
        """Return the next meters to look at: of gateways that are online, with an archive that can be asked."""
        if self._after is None and self._clock.monotonic() < self._next_pass:
            return []
        async with reading(self._engine) as session:
            statement = (
                sa.select(MeterDevice.id)
                .join(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
                .join(Gateway, Gateway.id == NetworkInterface.gateway)
                .where(
                    Gateway.online,
                    sa.exists().where(Expectation.device == MeterDevice.id, Expectation.archive.is_not(None)),
                )
                .order_by(MeterDevice.id)
                .limit(METERS_PER_TURN)
            )
            if self._after is not None:
                statement = statement.where(MeterDevice.id > self._after)
            found = list((await session.execute(statement)).scalars())
        self._after = found[-1] if len(found) == METERS_PER_TURN else None
        if self._after is None:
            self._next_pass = self._clock.monotonic() + max(TURN_SECONDS, PASS_SECONDS / self._clock.rate)
        return found


async def _forget(session: AsyncSession, now: dt.datetime) -> None:
    """Delete what has ended long ago; a person's word that a gap is to stay only where nobody looks any more."""
    unseen = sa.and_(Backfill.state == CANCELLED, Backfill.end < now - HORIZON)
    await session.execute(
        sa.delete(Backfill)
        .where(Backfill.ended_at < now - KEPT_FOR, sa.or_(Backfill.state.in_((DONE, GAVE_UP)), unseen))
        .execution_options(synchronize_session=False)
    )
