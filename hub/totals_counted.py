"""Counting what is expected and stored: one door (``count``), and the chunks of a gateway's, a group's or one's meters.

PostgreSQL counts the bits of these meters' chunks by itself, and names who lacks some. SQLite has no bit counts: there
the chunks are counted here. Organizations are counted by the sums of chunks (``hub.totals_kept``).
"""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from hub.expectations import expectations_by_id
from hub.ledger import bits_of
from hub.models import Expectation
from hub.totals import Scope, Totals, Window, bits_within, parts_of, windows_of
from hub.totals_kept import NAMED, count_kept

_RASTERS = 50
"""Rasters counted in one statement: an organization has a handful, all together may have many."""


async def count(
    session: AsyncSession,
    scope: Scope,
    start: dt.datetime,
    end: dt.datetime,
    now: dt.datetime,
    *,
    named: int = NAMED,
) -> Totals:
    """Count the slots within [start, end) and until now. Call ``hub.ledger.catch_up`` before.

    Of an organization, or of all, at least ``named`` of those who lack some are named, if so many do.
    """
    windows = await windows_of(session, scope, start, end, now)
    if not windows:
        return Totals()
    if scope.devices() is None:
        totals = await count_kept(session, windows, named)
    elif session.get_bind().dialect.name == "postgresql":
        totals = await _count_postgresql(session, scope, windows)
    else:
        totals = await _count_here(session, scope, windows, start, end, now)
    totals.rasters = {window.raster_id for window in windows}
    return totals


_PG_EXPECTED = """
    SELECT count(*), coalesce(sum(least(coalesce(e.until_slot, w.last), w.last) - greatest(e.since_slot, w.first) + 1),
                              0)::bigint
    FROM unnest(CAST(:rasters AS integer[]), CAST(:firsts AS bigint[]), CAST(:lasts AS bigint[])) AS w(raster, first, last)
    JOIN expectations e ON e.raster = w.raster AND e.since_slot <= w.last
        AND (e.until_slot IS NULL OR e.until_slot >= w.first)
    WHERE {devices}
"""  # noqa: E501 - one line of SQL
_PG_STORED = """
    SELECT count(*), coalesce(sum(n.bits), 0)::bigint, array_agg(n.expectation) FILTER (WHERE n.bits < n.slots)
    FROM ({parts}) n
"""
# One for each chunk of each raster, with its numbers in it, so that the index over both is asked for each.
_PG_PART = """
    SELECT c.expectation, {slots} AS slots, {bits} AS bits FROM ledger_chunks c
    WHERE c.raster = {raster} AND c.chunk = {chunk} AND {devices}
"""
# Those that have no chunk at all in a part of the window.
_PG_WITHOUT = """
    SELECT DISTINCT e.id
    FROM unnest(CAST(:rasters AS integer[]), CAST(:chunks AS integer[]), CAST(:firsts AS bigint[]),
                CAST(:lasts AS bigint[])) AS w(raster, chunk, first, last)
    JOIN expectations e ON e.raster = w.raster AND e.since_slot <= w.last
        AND (e.until_slot IS NULL OR e.until_slot >= w.first)
    WHERE {devices} AND NOT EXISTS (SELECT 1 FROM ledger_chunks c WHERE c.expectation = e.id AND c.chunk = w.chunk)
"""
_PG_DEVICES = {
    "device": "= :scope",
    "gateway": "IN (SELECT d.id FROM meter_devices d JOIN network_interfaces i ON i.id = d.network_interface "
    "WHERE i.gateway = :scope)",
    "group": 'IN (SELECT g.device FROM device_groups g WHERE g."group" = :scope)',
}


def _scoped(scope: Scope, *, by_chunk: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the condition for this scope, and the parameter that it needs."""
    given = {"device": scope.device, "gateway": scope.gateway, "group": scope.group}
    word = next(name for name, value in given.items() if value is not None)
    condition = f"e.device {_PG_DEVICES[word]}"
    if by_chunk:
        condition = f"c.expectation IN (SELECT e.id FROM expectations e WHERE {condition})"  # noqa: S608 - our own text
    return condition, {"scope": given[word]}


def _statement_of_expected(scope: Scope, windows: Sequence[Window]) -> tuple[str, dict[str, Any]]:
    """Return PostgreSQL's statement that counts expectations and expected slots, and its parameters."""
    condition, scoped = _scoped(scope)
    spans = {
        "rasters": [window.raster_id for window in windows],
        "firsts": [window.first for window in windows],
        "lasts": [window.last for window in windows],
    }
    return _PG_EXPECTED.format(devices=condition), spans | scoped


def _statement_of_stored(scope: Scope, windows: Sequence[Window]) -> tuple[str, dict[str, Any]]:
    """Return PostgreSQL's statement that counts stored slots and names who lacks some, and its parameters."""
    condition, scoped = _scoped(scope, by_chunk=True)
    counted = [
        _PG_PART.format(
            slots=part.last - part.first + 1,
            bits=bits_within(part),
            raster=part.raster_id,
            chunk=part.chunk,
            devices=condition,
        )
        for part in parts_of(windows)
    ]
    return _PG_STORED.format(parts=" UNION ALL ".join(counted)), scoped


async def _count_postgresql(session: AsyncSession, scope: Scope, windows: Sequence[Window]) -> Totals:
    statement, values = _statement_of_expected(scope, windows)
    found, expected = (await session.execute(text(statement), values)).one()
    totals = Totals(expected)
    chunks = 0
    lacking: set[int] = set()
    for start in range(0, len(windows), _RASTERS):
        statement, values = _statement_of_stored(scope, windows[start : start + _RASTERS])
        some, stored, short = (await session.execute(text(statement), values)).one()
        chunks += some
        totals.stored += stored
        lacking.update(short or ())
    # Who has no chunk for a part of the window is found by that alone, if anybody may be so.
    counted = parts_of(windows)
    if totals.stored < expected and (chunks < found or len(counted) > len(windows)):
        condition, scoped = _scoped(scope)
        asked = {
            "rasters": [part.raster_id for part in counted],
            "chunks": [part.chunk for part in counted],
            "firsts": [part.first for part in counted],
            "lasts": [part.last for part in counted],
        }
        without = await session.execute(text(_PG_WITHOUT.format(devices=condition)), asked | scoped)
        lacking.update(without.scalars())
    totals.lacking = sorted(lacking) if totals.stored < expected else []
    totals.rebuilding = await _rebuilding(session, scope, [window.raster_id for window in windows])
    return totals


async def _rebuilding(session: AsyncSession, scope: Scope, rasters: Collection[int]) -> int:
    statement = select(sa.func.count()).where(Expectation.rebuilding, Expectation.raster.in_(rasters))
    devices = scope.devices()
    if devices is not None:
        statement = statement.where(Expectation.device.in_(devices))
    return (await session.execute(statement)).scalar_one()


async def _count_here(
    session: AsyncSession,
    scope: Scope,
    windows: Sequence[Window],
    start: dt.datetime,
    end: dt.datetime,
    now: dt.datetime,
) -> Totals:
    statement = select(Expectation.id).where(Expectation.raster.in_([window.raster_id for window in windows]))
    devices = scope.devices()
    if devices is not None:
        statement = statement.where(Expectation.device.in_(devices))
    totals = Totals()
    expecting = await expectations_by_id(session, list((await session.execute(statement)).scalars()))
    spans = {one.id: one.window(start, end, now) for one in expecting}
    bits = await bits_of(session, expecting, spans)
    for one in expecting:
        first, last = spans[one.id]
        wanted = max(0, last - first + 1)
        stored = bits[one.id].count(first, last)
        totals.expected += wanted
        totals.stored += stored
        totals.rebuilding += one.rebuilding
        if stored < wanted:
            totals.lacking.append(one.id)
    return totals
