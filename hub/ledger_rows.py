"""The rows of chunks: how those of many expectations are read and written in one statement, on either database."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from hub import sqlite_rows
from hub.ledger_chunks import Filling

Row = tuple[int, int, int, Filling, bytes]
"""Expectation, chunk, raster, how it is filled, bits."""

_PG_LOAD = text("""
    SELECT c.expectation, c.chunk, c.bits
    FROM unnest(CAST(:keys AS bigint[]), CAST(:chunks AS integer[])) AS k(id, chunk)
    JOIN ledger_chunks c ON c.expectation = k.id AND c.chunk = k.chunk
""")
_SQLITE_LOAD = """
    SELECT group_concat(c.expectation || ' ' || c.chunk || ' ' || hex(c.bits))
    FROM json_each(?) k CROSS JOIN ledger_chunks c
    ON c.expectation = json_extract(k.value, '$[0]') AND c.chunk = json_extract(k.value, '$[1]')
"""
_PG_SAVE = text("""
    INSERT INTO ledger_chunks (expectation, chunk, raster, state, bits)
    SELECT * FROM unnest(CAST(:expectation AS bigint[]), CAST(:chunk AS integer[]), CAST(:raster AS integer[]),
                         CAST(:state AS smallint[]), CAST(:bits AS bytea[]))
    ON CONFLICT (expectation, chunk) DO UPDATE SET state = excluded.state, bits = excluded.bits
""")
_SQLITE_SAVE = """
    INSERT INTO ledger_chunks (expectation, chunk, raster, state, bits) VALUES (?, ?, ?, ?, ?){}
    ON CONFLICT (expectation, chunk) DO UPDATE SET state = excluded.state, bits = excluded.bits
"""
_NAMES = ("expectation", "chunk", "raster", "state", "bits")


async def load_chunks(session: AsyncSession, keys: Sequence[tuple[int, int]]) -> Sequence[Any]:
    """Return expectation, chunk and bits of those of these expectations and chunks that there are."""
    if session.get_bind().dialect.name == "postgresql":
        values = {"keys": [key for key, _ in keys], "chunks": [chunk for _, chunk in keys]}
        return (await session.execute(_PG_LOAD, values)).all()
    connection = await session.connection()
    # As one row (``hub.sqlite_rows``).
    found = (await connection.exec_driver_sql(_SQLITE_LOAD, (json.dumps(keys),))).scalar() or ""
    rows = [one.split(" ") for one in found.split(",")] if found else []
    return [(int(key), int(chunk), bytes.fromhex(bits)) for key, chunk, bits in rows]


async def save_chunks(session: AsyncSession, rows: Sequence[Row]) -> None:
    """Write chunks, new ones and others; the sums are the caller's affair."""
    if not rows:
        return
    if session.get_bind().dialect.name == "postgresql":
        columns = {name: list(column) for name, column in zip(_NAMES, zip(*rows, strict=True), strict=True)}
        await session.execute(_PG_SAVE, columns)
        return
    await sqlite_rows.insert(
        await session.connection(), _SQLITE_SAVE, [(*row[:3], int(row[3]), row[4]) for row in rows]
    )
