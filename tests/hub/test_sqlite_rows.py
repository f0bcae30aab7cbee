"""Many rows in one statement of SQLite: whatever their number, each is written once, and those written are counted."""

import pathlib

import pytest

from hub import sqlite_rows
from hub.database import create_engine

INSERT = "INSERT INTO things (id, name, half) VALUES (?, ?, ?){} ON CONFLICT DO NOTHING"


@pytest.mark.parametrize("count", [0, 1, 49, 50, 1000, 2103])
async def test_all_rows_are_written_once(count: int, tmp_path: pathlib.Path) -> None:
    rows = [(number, f"thing {number}", number / 2) for number in range(count)]
    engine = create_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, half REAL)")
        assert await sqlite_rows.insert(connection, INSERT, rows) == count
        assert list(await connection.exec_driver_sql("SELECT * FROM things ORDER BY id")) == rows
    await engine.dispose()


async def test_what_was_there_is_not_counted(tmp_path: pathlib.Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'hub.db'}")
    async with engine.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, half REAL)")
        assert await sqlite_rows.insert(connection, INSERT, [(7, "first", 0.5), (1040, "first", None)]) == 2
        assert await sqlite_rows.insert(connection, INSERT, [(number, "later", 0.25) for number in range(1060)]) == 1058
        found = await connection.exec_driver_sql("SELECT id, half FROM things WHERE name = 'first' ORDER BY id")
        assert list(found) == [(7, 0.5), (1040, None)]
    await engine.dispose()
