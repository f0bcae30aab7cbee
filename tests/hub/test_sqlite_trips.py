"""Statements on SQLite: one trip to the thread each, the rows and errors of before, and no transaction left open."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import sqlite_trips
from hub.database import create_engine, reading, writing


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = create_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    async with writing(made) as session:
        await session.execute(text("CREATE TABLE thing (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"))
    yield made
    await made.dispose()


async def names(engine: AsyncEngine) -> list[str]:
    async with reading(engine) as session:
        return list((await session.scalars(text("SELECT name FROM thing ORDER BY id"))).all())


def counted_trips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that each trip from now on is added to."""
    trips: list[str] = []
    execute: Callable[..., Awaitable[Any]] = aiosqlite.Connection._execute

    async def counted(self: aiosqlite.Connection, work: Callable[..., object], *args: object) -> object:
        trips.append(getattr(work, "__name__", ""))
        return await execute(self, work, *args)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
    return trips


async def test_a_reader_makes_three_trips_and_a_writer_as_many(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = counted_trips(monkeypatch)
    assert await names(engine) == []
    assert len(trips) == 3, trips
    trips.clear()
    async with writing(engine) as session:
        await session.execute(text("INSERT INTO thing (name) VALUES ('one')"))
    assert len(trips) == 3, trips


async def test_rows_counts_and_ids_are_there_when_the_cursor_is_gone(engine: AsyncEngine) -> None:
    async with writing(engine) as session:
        made = await session.execute(
            text("INSERT INTO thing (name) VALUES ('one'), ('two') RETURNING id, name"),
        )
        assert [tuple(row) for row in made] == [(1, "one"), (2, "two")]
        many: Any = await session.execute(
            text("INSERT INTO thing (name) VALUES (:name)"), [{"name": "three"}, {"name": "four"}]
        )
        assert many.rowcount == 2
        changed: Any = await session.execute(text("UPDATE thing SET name = name || '!' WHERE id > 1"))
        assert changed.rowcount == 3
    async with reading(engine) as session:
        rows = await session.stream(text("SELECT name FROM thing ORDER BY id"))
        assert [name async for (name,) in rows] == ["one", "two!", "three!", "four!"]


async def test_what_failed_is_rolled_back_and_the_connection_serves_on(engine: AsyncEngine) -> None:
    async def write_twice() -> None:
        async with writing(engine) as session:
            await session.execute(text("INSERT INTO thing (name) VALUES ('one')"))
            await session.execute(text("INSERT INTO thing (name) VALUES ('one')"))

    with pytest.raises(IntegrityError):
        await write_twice()
    assert await names(engine) == []
    async with writing(engine) as session:
        await session.execute(text("INSERT INTO thing (name) VALUES ('one')"))
    assert await names(engine) == ["one"]


async def test_several_statements_make_one_trip_and_fail_as_one(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = counted_trips(monkeypatch)

    def note(cursor: sqlite3.Cursor) -> int:
        cursor.execute("INSERT INTO thing (name) VALUES (?)", ("one",))
        cursor.execute("INSERT INTO thing (name) VALUES (?), (?)", ("two", "three"))
        cursor.execute("SELECT id, name FROM thing ORDER BY id")
        return 3

    async with writing(engine) as session:
        connection = await session.connection()
        trips.clear()
        result = await sqlite_trips.together(connection, "INSERT INTO thing", note)
        assert len(trips) == 1, trips
        assert list(result) == [(1, "one"), (2, "two"), (3, "three")]

    async def again() -> None:
        async with writing(engine) as session:
            await session.execute(text("INSERT INTO thing (name) VALUES ('four')"))
            await sqlite_trips.together(await session.connection(), "INSERT INTO thing", note)

    with pytest.raises(IntegrityError, match="UNIQUE"):
        await again()
    assert await names(engine) == ["one", "two", "three"]


async def test_who_is_cancelled_while_waiting_for_the_lock_leaves_no_transaction_behind(
    engine: AsyncEngine, tmp_path: Path
) -> None:
    other = create_engine(f"sqlite:///{tmp_path / 'hub.db'}")

    async def write(name: str) -> None:
        async with writing(engine) as session:
            await session.execute(text("INSERT INTO thing (name) VALUES (:name)"), {"name": name})

    for turn in range(5):
        async with writing(other) as session:
            await session.execute(text("INSERT INTO thing (name) VALUES (:name)"), {"name": f"other {turn}"})
            waiting = asyncio.create_task(write(f"never {turn}"))
            await asyncio.sleep(0.05)
            waiting.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # At once: a transaction that was left open would keep the lock.
        async with asyncio.timeout(20):
            await write(f"mine {turn}")
    assert await names(other) == [f"{whose} {turn}" for turn in range(5) for whose in ("other", "mine")]
    await other.dispose()
