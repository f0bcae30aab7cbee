"""What is committed wakes who waits for it, and nothing else does."""

import asyncio
import time

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.commits import ALONE_SECONDS, BESIDE_SECONDS, commits_of, look_seconds
from hub.database import reading, writing
from hub.models import HubState
from protocol.clock_settings import read_clock_setting
from tests.parts.databases import database_url, engine

__all__ = ["database_url", "engine"]


async def test_only_what_wrote_a_row_and_was_committed_rings(engine: AsyncEngine) -> None:
    commits = commits_of(engine)
    before = commits.count
    async with reading(engine) as session:
        await session.scalars(sa.select(HubState.key))
    async with writing(engine) as session:
        await session.execute(sa.select(HubState.key))
    async with writing(engine) as session:
        await session.execute(sa.delete(HubState).where(HubState.key == "nobody"))
    try:
        async with writing(engine) as session:
            session.add(HubState(key="undone", value=""))
            await session.flush()
            raise ArithmeticError  # noqa: TRY301 - it is what the block is undone by
    except ArithmeticError:
        assert commits.count == before
    async with writing(engine) as session:
        session.add(HubState(key="done", value=""))
        await session.flush()
        assert commits.count == before
    assert commits.count == before + 1


async def test_who_waits_is_woken_by_a_commit_even_one_from_before(engine: AsyncEngine) -> None:
    commits = commits_of(engine)
    begun = time.monotonic()
    waiting = asyncio.create_task(commits.after(commits.count, at_most=60, pause=0))
    await asyncio.sleep(0)
    async with writing(engine) as session:
        session.add(HubState(key="one", value=""))
    await waiting
    await commits.after(commits.count - 1, at_most=60, pause=0)
    assert time.monotonic() - begun < 30
    await commits.after(commits.count, at_most=0.05, pause=0)


async def test_what_is_due_by_time_is_looked_at_in_the_clocks_time(engine: AsyncEngine) -> None:
    fast = Clock(read_clock_setting("2026-11-05T00:00:00Z,100", "test", time.time()))
    assert look_seconds(engine, fast) == BESIDE_SECONDS / 100
    alone = engine.dialect.name == "sqlite"
    assert look_seconds(engine) == (ALONE_SECONDS if alone else BESIDE_SECONDS)
