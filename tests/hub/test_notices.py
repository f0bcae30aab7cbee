"""Notices: heard after the commit, by every process, after a lost connection too; and never relied upon."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import notices
from hub.clocks import Clock
from hub.database import create_engine, writing
from hub.notices import Listener, Notice, look_seconds, notices_of, tell
from tests.parts.databases import ONLY_POSTGRESQL, database_url, engine
from tests.parts.poolers import deaf_pooler

__all__ = ["database_url", "engine"]

PATIENCE = 30.0


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def heard(event: asyncio.Event) -> None:
    """Wait for a notice, and take it."""
    async with asyncio.timeout(PATIENCE):
        await event.wait()
    event.clear()


@contextlib.asynccontextmanager
async def process(url: str, listen_url: str | None = None) -> AsyncIterator[AsyncEngine]:
    """Return the engine of a process that listens."""
    made = create_engine(url)
    listening = asyncio.create_task(Listener(made, listen_url or url, proof_seconds=0.2).keep_on())
    try:
        yield made
        # What it ended with, if so: on SQLite nothing.
        assert not listening.done() or listening.exception() is None
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await made.dispose()


async def test_what_is_told_is_heard_after_the_commit_only(engine: AsyncEngine, database_url: str) -> None:
    async with process(database_url) as other:
        # On SQLite there is no other process.
        hearing = notices_of(engine if engine.dialect.name == "sqlite" else other)
        await until(lambda: hearing.live)
        commands, plans = hearing.heard(Notice.COMMANDS), hearing.heard(Notice.PLANS)
        async with writing(engine) as session:
            await tell(session, Notice.COMMANDS)
            await tell(session, Notice.COMMANDS)
            await asyncio.sleep(0.1)
            assert not commands.is_set()
        await heard(commands)
        with contextlib.suppress(ZeroDivisionError):
            async with writing(engine) as session:
                await tell(session, Notice.COMMANDS)
                raise ZeroDivisionError
        async with writing(engine) as session:
            await tell(session, Notice.PLANS)
        await heard(plans)
        assert not commands.is_set(), "what was undone was never told"


@ONLY_POSTGRESQL
async def test_who_lost_its_connection_listens_again_and_looks_at_everything_once(
    engine: AsyncEngine, database_url: str
) -> None:
    async with process(database_url) as other:
        hearing = notices_of(other)
        everything = [hearing.heard(one) for one in Notice]
        await until(lambda: hearing.live)
        for event in everything:
            await heard(event)
        assert look_seconds(other, Clock()) > 1
        async with engine.connect() as connection:
            await connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        await until(lambda: not hearing.live)
        assert look_seconds(other, Clock()) < 1, "without notices it looks often"
        for event in everything:
            await heard(event)
        assert hearing.live


@ONLY_POSTGRESQL
async def test_a_pooler_that_delivers_nothing_is_found_out_and_gone_past(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "ANSWER_SECONDS", 0.5)
    async with deaf_pooler(database_url) as pooled:
        async with process(pooled) as behind:
            await asyncio.sleep(1.5)
            assert not notices_of(behind).live
        async with process(pooled, database_url) as past:
            await until(lambda: notices_of(past).live)
            states = notices_of(past).heard(Notice.STATES)
            async with writing(engine) as session:
                await tell(session, Notice.STATES)
            await heard(states)


@ONLY_POSTGRESQL
async def test_a_connection_that_is_ended_at_any_moment_ends_no_process(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the preparing of a statement and its values the driver calls it an error of its own: a relay ended."""
    monkeypatch.setattr(notices, "RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(notices, "ANSWER_SECONDS", 1.0)
    async with deaf_pooler(database_url, ending=range(1, 25)) as pooled, process(database_url, pooled):
        await asyncio.sleep(2.0)
