"""The peer of the bench ``ingest``: a bare loop that writes the same rows into the same table, and nothing else.

No message, no signature, no judgement, no notes: arrays that were made before, one statement and one commit for each
batch. What the table's own indexes and foreign keys cost is the same for it.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import asyncpg

from benchmarks._ingest_estate import UNIT, Row
from hub.columns import to_microseconds

SIZES = (1000, 2000, 5000, 10_000)
"""Rows of a batch that are tried; the quickest is the peer."""

_PG = """
    INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected,
                          clock_offset, batch, version_count, created_at)
    SELECT n.*, 1, now() FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::numeric[], $6::text[],
        $7::text[], $8::timestamptz[], $9::float8[], $10::bigint[]) AS n
    ON CONFLICT DO NOTHING
"""
_SQLITE = """
    INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected,
                          clock_offset, batch, version_count, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT DO NOTHING
"""


async def write_postgresql(
    url: str,
    owner: Any,  # noqa: ANN401 - a UUID
    rows: Sequence[Row],
    batch: int,
    size: int,
    connections: int = 1,
) -> float:
    """Write the rows in batches of ``size``; return how many seconds that took, from the first to the last commit."""
    parts = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        device, series, timestamp, value, collected = map(list, zip(*some, strict=True))
        count = len(some)
        parts.append(
            (
                [owner] * count, device, series, timestamp, value, [UNIT] * count, ["meter"] * count, collected,
                [0.5] * count, [batch] * count,
            )
        )  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        statements = []
        for _ in range(connections):
            connection = await asyncpg.connect(url)
            stack.push_async_callback(connection.close)
            statements.append(await connection.prepare(_PG))
        begun = time.perf_counter()
        await asyncio.gather(
            *(_write_each(statement, parts[number::connections]) for number, statement in enumerate(statements))
        )
        return time.perf_counter() - begun


async def _write_each(statement: Any, parts: Sequence[tuple[Any, ...]]) -> None:  # noqa: ANN401 - asyncpg's
    for part in parts:
        await statement.fetch(*part)


async def write_sqlite(
    file: str,
    owner: Any,  # noqa: ANN401 - a UUID
    rows: Sequence[Row],
    batch: int,
    size: int,
    pragmas: Sequence[str] = (),
) -> float:
    """Do the same on SQLite, with its durability and foreign keys as the hub has them; everything else as it comes.

    Other settings are told by ``pragmas``.
    """
    created = to_microseconds(rows[0].collected)
    ready = [
        (
            owner.hex, row.device.hex, row.series.hex, to_microseconds(row.timestamp), format(row.value, "f"), UNIT,
            "meter", to_microseconds(row.collected), 0.5, batch, created,
        )
        for row in rows
    ]  # fmt: skip
    return await asyncio.to_thread(_write, file, ready, size, pragmas)


def _write(file: str, ready: Sequence[tuple[Any, ...]], size: int, pragmas: Sequence[str]) -> float:
    connection = sqlite3.connect(file, isolation_level=None, timeout=30)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", *pragmas):
            connection.execute(f"PRAGMA {pragma}")
        begun = time.perf_counter()
        for start in range(0, len(ready), size):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_SQLITE, ready[start : start + size])
            connection.execute("COMMIT")
        return time.perf_counter() - begun
    finally:
        connection.close()
