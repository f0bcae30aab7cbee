"""What keeps the database in order beside ingestion: adoption, retention, what may be forgotten.

Every relay runs it; all of it is idempotent, and what must not be done twice at once is guarded by the database.
"""

import asyncio
import contextlib
import datetime as dt

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import adoption, command_events, idempotency, retention_sweep
from hub.clocks import Clock
from hub.commits import commits_of, look_seconds
from hub.database import reading, writing
from hub.models import Quarantined, StagedReading
from hub.undecodable_pushes import forget_oldest

SWEEP_SECONDS = 2.0
"""Real seconds between two sweeps over staged readings, while there are any and something is committed."""

ORDER_SECONDS = 600.0
"""Real seconds between two looks at what may be forgotten or deleted, and at staged rows that are there twice."""

REPLAYED_DAYS = 30
"""How long a quarantined payload is kept after it was replayed."""

_log = structlog.get_logger(__name__)


async def maintain(engine: AsyncEngine, clock: Clock, adopt: asyncio.Event) -> None:
    """Keep order for ever; ``adopt`` asks for a sweep at once."""
    next_order = clock.monotonic()
    commits = commits_of(engine)
    while True:
        seen = commits.count
        if clock.monotonic() >= next_order:
            await forget(engine, clock.now())
            await retention_sweep.sweep(engine, clock.now())
            if dropped := await adoption.drop_repeated(engine):
                _log.info("repeated_dropped", count=dropped)
            next_order = clock.monotonic() + ORDER_SECONDS
        async with reading(engine) as session:
            staged = (await session.execute(sa.select(StagedReading.id).limit(1))).first() is not None
        if staged:
            adopted = await adoption.sweep(engine, clock.now())
            if adopted:
                _log.info("readings_adopted", count=adopted)
        with contextlib.suppress(TimeoutError):
            # Not wait_for: in Python 3.11 it swallows a cancellation that comes together with what it waits for.
            async with asyncio.timeout(SWEEP_SECONDS):
                await adopt.wait()
        if not adopt.is_set():
            await commits.after(seen, at_most=look_seconds(engine), pause=0)
        # Sweeps that are asked for in quick succession become one.
        await asyncio.sleep(SWEEP_SECONDS / 10)
        adopt.clear()


async def forget(engine: AsyncEngine, now: dt.datetime) -> None:
    """Delete what has done its service: quarantined payloads replayed long ago, old ones of what was pushed in vain."""
    async with writing(engine) as session:
        await session.execute(
            sa.delete(Quarantined)
            .where(Quarantined.replayed_at < now - dt.timedelta(days=REPLAYED_DAYS))
            .execution_options(synchronize_session=False)
        )
        await forget_oldest(session)
        await idempotency.forget(session, now)
        await command_events.forget(session, now)
