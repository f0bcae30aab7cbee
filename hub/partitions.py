"""Partitions ahead of need, and months for what came late: a task of every relay, never part of ingestion.

Whoever has the turn does one step, in one transaction; steps are short, and there is a pause after each that is as long
as it took, so that ingestion has at least half of the database to itself.
"""

import asyncio
import datetime as dt
import secrets
import time

import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.clocks import Clock
from hub.database import is_out_of_strength, writing
from hub.late_readings import abandoning, begin, go_on, late_months, under_way
from hub.months import Month, is_refused, is_table, lock, partitions, run, take_turn

MONTHS_AHEAD = 3
LOOK_SECONDS = 600.0
"""Real seconds between two looks at what is missing."""

AGAIN_SECONDS = 1.0
"""Real seconds, on average, until a lock that was refused is asked for again."""

TRIES = 20
"""How often in a row; then it is for the next look."""

_log = structlog.get_logger(__name__)


async def keep_partitions(engine: AsyncEngine, clock: Clock) -> None:
    """Keep months ahead, and move what came late, for ever."""
    while True:
        await make_partitions(engine, clock.now())
        await asyncio.sleep(LOOK_SECONDS)


async def make_partitions(engine: AsyncEngine, now: dt.datetime) -> list[str]:
    """Make the months ahead on PostgreSQL, and those that the default partition has rows of; return the new ones.

    It may end anywhere, and is gone on with by the next call.
    """
    if engine.dialect.name != "postgresql":
        return []
    made: list[str] = []
    refused = 0
    while True:
        begun = time.monotonic()
        try:
            async with writing(engine) as session:
                new = await take_step(session, now, refused)
        except DBAPIError as error:
            if not is_refused(error):
                await _give_up(engine, error)
                raise
            refused += 1
            if refused == TRIES:
                _log.warning("partitions_in_use", tried=TRIES)
                return made
            await asyncio.sleep(AGAIN_SECONDS * secrets.randbelow(2000) / 1000)
            continue
        refused = 0
        if new is None:
            return made
        for name in new:
            _log.info("partition_made", partition=name)
        made += new
        await asyncio.sleep(time.monotonic() - begun)


async def _give_up(engine: AsyncEngine, error: DBAPIError) -> None:
    """Take back a move that cannot end, because readings or the copy are not what they were; it is begun anew."""
    if is_out_of_strength(error):
        return
    async with writing(engine) as session:
        await take_turn(session)
        if await under_way(session) is not None:
            await run(session, *abandoning())


async def take_step(session: AsyncSession, now: dt.datetime, refused: int = 0) -> list[str] | None:
    """Do one step; return the new partitions, None when nothing is to be done, or another is at it."""
    if not await take_turn(session, refused):
        return None
    if (move := await under_way(session)) is not None:
        return await go_on(session, move)
    present = {one.month for one in await partitions(session)}
    ahead = {Month.of(now).later(step) for step in range(MONTHS_AHEAD + 1)}
    late = await late_months(session)
    # A table that somebody has detached, or put there: the month's rows stay in the default partition.
    wanted = [one for one in sorted({*ahead, *late} - present) if not await is_table(session, one.table)]
    if set(wanted) & set(late):
        await begin(session, wanted)
        return []
    if not wanted:
        return None
    await lock(session)
    if wanted[0] in await late_months(session):
        # Its first readings came between the look and the lock: the next step moves them.
        return []
    await run(session, f"CREATE TABLE {wanted[0].table} PARTITION OF readings {wanted[0].bounds}")
    return [wanted[0].table]
