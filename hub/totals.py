"""How much of what is expected is stored: counted over all meters of an organization, a gateway, a group, or one meter.

Theory of operation. A window of time is, on each raster, slots from a first to a last one, and these are, in all chunks
of that raster, the same bits: so PostgreSQL counts them by the index over (raster, chunk), without asking which meter's
they are, and names those expectations that lack some. Only these are looked at one by one. SQLite has no bit counts:
there, on small sites, the chunks are counted here.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from hub.expectations import expectations_by_id, slots_within
from hub.ledger import bits_of
from hub.ledger_chunks import parts, size_of
from hub.models import Expectation, LedgerRaster, MeterDevice, NetworkInterface, device_groups
from protocol.rasters import Raster

_RASTERS = 50
"""Rasters counted in one statement: an organization has a handful, all together may have many."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """Whose slots are counted; at most one is given, none for all."""

    organization: uuid.UUID | None = None
    gateway: uuid.UUID | None = None
    group: uuid.UUID | None = None
    device: uuid.UUID | None = None

    def devices(self) -> sa.Select[Any] | None:
        """Return the statement of the meters; None where rasters alone tell (an organization, or all)."""
        if self.device is not None:
            return select(MeterDevice.id).where(MeterDevice.id == self.device)
        if self.gateway is not None:
            return (
                select(MeterDevice.id)
                .join(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
                .where(NetworkInterface.gateway == self.gateway)
            )
        if self.group is not None:
            return select(device_groups.c.device).where(device_groups.c.group == self.group)
        return None


@dataclasses.dataclass(slots=True)
class Totals:
    """Slots that were expected, and that are stored; which expectations lack some; how many are being rebuilt.

    ``rasters`` are those that were counted.
    """

    expected: int = 0
    stored: int = 0
    lacking: list[int] = dataclasses.field(default_factory=list)
    rebuilding: int = 0
    rasters: set[int] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """The slots of one raster that are counted."""

    raster_id: int
    size: int
    first: int
    last: int


async def count(session: AsyncSession, scope: Scope, start: dt.datetime, end: dt.datetime, now: dt.datetime) -> Totals:
    """Count the slots within [start, end) and until now. Call ``hub.ledger.catch_up`` before."""
    windows = await windows_of(session, scope, start, end, now)
    if not windows:
        return Totals()
    if session.get_bind().dialect.name == "postgresql":
        totals = await _count_postgresql(session, scope, windows)
    else:
        totals = await _count_here(session, scope, windows, start, end, now)
    totals.rasters = {window.raster_id for window in windows}
    return totals


async def windows_of(
    session: AsyncSession, scope: Scope, start: dt.datetime, end: dt.datetime, now: dt.datetime
) -> list[Window]:
    """Return the slots of each raster of the scope's organization that lie within [start, end) and until now."""
    statement = select(LedgerRaster)
    if scope.organization is not None:
        statement = statement.where(LedgerRaster.organization == scope.organization)
    found = []
    for row in (await session.execute(statement)).scalars():
        first, last = slots_within(Raster(row.interval, row.anchor_seconds, row.zone), start, end, now)
        if first <= last:
            found.append(Window(row.id, size_of(row.interval), first, last))
    return found


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
    "all": "true",
    "device": "= :scope",
    "gateway": "IN (SELECT d.id FROM meter_devices d JOIN network_interfaces i ON i.id = d.network_interface "
    "WHERE i.gateway = :scope)",
    "group": 'IN (SELECT g.device FROM device_groups g WHERE g."group" = :scope)',
}


def _scoped(scope: Scope, *, by_chunk: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the condition for this scope, and the parameter that it needs."""
    given = {"device": scope.device, "gateway": scope.gateway, "group": scope.group}
    word = next((name for name, value in given.items() if value is not None), "all")
    if word == "all":
        return "true", {}
    condition = f"e.device {_PG_DEVICES[word]}"
    if by_chunk:
        condition = f"c.expectation IN (SELECT e.id FROM expectations e WHERE {condition})"  # noqa: S608 - our own text
    return condition, {"scope": given[word]}


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Which bits of a chunk a window counts: ``bytes`` whole ones from ``byte`` on, and ``masks`` of others."""

    raster_id: int
    chunk: int
    first: int
    last: int
    byte: int
    bytes: int
    masks: tuple[tuple[int, int], ...]
    """Bytes at the ends, each with the bits that count."""


def parts_of(windows: Sequence[Window]) -> list[Part]:
    """Return the parts of chunks that the windows are."""
    found = []
    for window in windows:
        for part in parts(window.size, window.first, window.last):
            first, end = part.chunk * window.size + part.low, part.low + part.slots
            byte, beyond = -(-part.low // 8), end // 8
            if byte > beyond:
                # All within one byte.
                masks = [(part.low // 8, (1 << part.slots) - 1 << part.low % 8)]
                byte = beyond
            else:
                masks = [(part.low // 8, 0xFF << part.low % 8 & 0xFF)] if part.low % 8 else []
                masks += [(end // 8, (1 << end % 8) - 1)] if end % 8 else []
            found.append(
                Part(window.raster_id, part.chunk, first, first + part.slots - 1, byte, beyond - byte, tuple(masks))
            )
    return found


def _bits(part: Part) -> str:
    """The SQL that counts a part's bits."""
    counted = [f"bit_count(substring(c.bits FROM {part.byte + 1} FOR {part.bytes}))"] if part.bytes else []
    counted += [
        f"bit_count(set_byte('\\x00'::bytea, 0, get_byte(c.bits, {byte}) & {mask}))" for byte, mask in part.masks
    ]
    return " + ".join(counted)


def statement_of_expected(scope: Scope, windows: Sequence[Window]) -> tuple[str, dict[str, Any]]:
    """Return PostgreSQL's statement that counts expectations and expected slots, and its parameters."""
    condition, scoped = _scoped(scope)
    spans = {
        "rasters": [window.raster_id for window in windows],
        "firsts": [window.first for window in windows],
        "lasts": [window.last for window in windows],
    }
    return _PG_EXPECTED.format(devices=condition), spans | scoped


def statement_of_stored(scope: Scope, windows: Sequence[Window]) -> tuple[str, dict[str, Any]]:
    """Return PostgreSQL's statement that counts stored slots and names who lacks some, and its parameters."""
    condition, scoped = _scoped(scope, by_chunk=True)
    counted = [
        _PG_PART.format(
            slots=part.last - part.first + 1,
            bits=_bits(part),
            raster=part.raster_id,
            chunk=part.chunk,
            devices=condition,
        )
        for part in parts_of(windows)
    ]
    return _PG_STORED.format(parts=" UNION ALL ".join(counted)), scoped


async def _count_postgresql(session: AsyncSession, scope: Scope, windows: Sequence[Window]) -> Totals:
    statement, values = statement_of_expected(scope, windows)
    found, expected = (await session.execute(text(statement), values)).one()
    totals = Totals(expected)
    chunks = 0
    lacking: set[int] = set()
    for start in range(0, len(windows), _RASTERS):
        statement, values = statement_of_stored(scope, windows[start : start + _RASTERS])
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
