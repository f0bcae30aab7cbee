"""The rows of expectations and chunks: how a fold reads and writes many in one statement, on either database."""

import json
import uuid
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from hub import sqlite_rows
from hub.expectations import Expecting, expectations_of
from hub.ledger_chunks import Filling
from hub.many import batched
from hub.models import LedgerRaster
from protocol.rasters import Raster

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
_SQLITE_EXPECTING = """
    SELECT group_concat(e.id || ' ' || e.device || ' ' || e.series || ' ' || e.raster || ' ' || e.origin || ' '
                        || coalesce(e.archive, '') || ' ' || e.since_slot || ' ' || coalesce(e.until_slot, '') || ' '
                        || e.rebuilding)
    FROM json_each(?) k CROSS JOIN expectations e ON e.device = k.value
"""
_RASTER = (
    LedgerRaster.id,
    LedgerRaster.interval,
    LedgerRaster.anchor_seconds,
    LedgerRaster.zone,
    LedgerRaster.momentary,
)
_DEVICES = 100
"""Meters asked for at once: what they bring back is taken apart without a pause."""
_NAMES = ("expectation", "chunk", "raster", "state", "bits")


async def load_expecting(
    session: AsyncSession, devices: Collection[bytes]
) -> dict[tuple[bytes, bytes], list[Expecting]]:
    """Return what is expected of these meters, by the bytes of meter and series.

    On PostgreSQL it is kept from being deleted meanwhile.
    """
    # By bytes: of UUIDs thousands were made, hashed and compared for nothing.
    found: dict[tuple[bytes, bytes], list[Expecting]] = {}
    if session.get_bind().dialect.name == "postgresql":
        for one in await expectations_of(session, {uuid.UUID(bytes=device) for device in devices}, lock=True):
            found.setdefault((one.device.bytes, one.series.bytes), []).append(one)
        return found
    rasters = {
        str(key): (Raster(interval, anchor_seconds, zone), momentary)
        for key, interval, anchor_seconds, zone, momentary in await session.execute(select(*_RASTER))
    }
    connection = await session.connection()
    ids: dict[str, uuid.UUID] = {}
    for some in batched(sorted(devices), _DEVICES):
        # As one row (``hub.sqlite_rows``).
        asked = json.dumps([device.hex() for device in some])
        told = (await connection.exec_driver_sql(_SQLITE_EXPECTING, (asked,))).scalar() or ""
        for row in told.split(",") if told else ():
            key, device_hex, series_hex, raster_id, origin, archive, since, until, rebuilding = row.split(" ")
            device, series = (ids.get(one) or ids.setdefault(one, uuid.UUID(one)) for one in (device_hex, series_hex))
            raster, momentary = rasters[raster_id]
            one = Expecting(
                int(key), device, series, int(raster_id), raster, momentary, origin,
                int(archive) if archive else None, int(since), int(until) if until else None, rebuilding == "1",
            )  # fmt: skip
            found.setdefault((device.bytes, series.bytes), []).append(one)
    return found


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
