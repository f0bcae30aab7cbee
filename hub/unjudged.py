"""Which readings are still to be judged by validation: noted where they change, in the same transaction.

A note is one row, whatever the transaction brought: *spans*, each a device, a series and a first and last instant.
What lies between two changed readings of a span may be judged without need, which does no harm; so changes that are
more than a day apart are spans of their own.
"""

import dataclasses
import datetime as dt
import struct
import uuid
from collections.abc import Collection, Iterable, Iterator
from typing import cast

from sqlalchemy import Table, insert
from sqlalchemy.ext.asyncio import AsyncSession

from hub.columns import from_microseconds, to_microseconds
from hub.models import UnjudgedReadings

FIRST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LAST = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)
"""Before and after all readings."""

EVERY_SERIES = uuid.UUID(int=0)
"""Stands for all series of a device."""

SQLITE_NOTE = "INSERT INTO unjudged_readings (spans) VALUES (?)"
"""Notes, on SQLite, what was packed."""

DEVICES_PER_NOTE = 200
_GAP = dt.timedelta(days=1)
_MICROSECOND = dt.timedelta(microseconds=1)
_PACKED = struct.Struct(">16s16sqq")
_notes = cast("Table", UnjudgedReadings.__table__)


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Readings of one series of a device, or of all; ``first`` and ``last`` are in it."""

    device: uuid.UUID
    series: uuid.UUID
    first: dt.datetime
    last: dt.datetime


def spans_of(keys: Iterable[tuple[int, int, dt.datetime]]) -> Iterator[Span]:
    """Yield spans around the keys (the numbers of device and series, and a timestamp), which are in order."""
    begun: tuple[int, int, dt.datetime] | None = None
    last = FIRST
    for key in keys:
        device, series, timestamp = key
        if begun is None:
            begun = key
        elif series != begun[1] or device != begun[0] or timestamp - last > _GAP:
            yield Span(uuid.UUID(int=begun[0]), uuid.UUID(int=begun[1]), begun[2], last)
            begun = key
        last = timestamp
    if begun is not None:
        yield Span(uuid.UUID(int=begun[0]), uuid.UUID(int=begun[1]), begun[2], last)


async def note(session: AsyncSession, spans: Iterable[Span]) -> None:
    """Note, in the caller's transaction, that these readings are to be judged."""
    await note_packed(session, pack(spans))


async def _note(session: AsyncSession, packed: bytes) -> None:
    connection = await session.connection()
    await connection.execute(insert(_notes), {"spans": packed})


def pack_series(changed: Iterable[tuple[bytes, bytes, list[int]]]) -> bytes:
    """Return, as a note has them, changed readings: the bytes of device and series, and timestamps in order.

    Timestamps are in microseconds since 1970.
    """
    packed = bytearray()
    gap = _GAP // _MICROSECOND
    for device, series, instants in changed:
        first = last = instants[0]
        for instant in instants:
            if instant - last > gap:
                packed += _PACKED.pack(device, series, first, last)
                first = instant
            last = instant
        packed += _PACKED.pack(device, series, first, last)
    return bytes(packed)


async def note_packed(session: AsyncSession, packed: bytes) -> None:
    """Note, in the caller's transaction, that these readings are to be judged."""
    if packed:
        await _note(session, packed)


async def note_devices(session: AsyncSession, devices: Collection[uuid.UUID]) -> None:
    """Note that all readings of the devices are to be judged again: what they are judged by has changed."""
    ordered = sorted(devices)
    for start in range(0, len(ordered), DEVICES_PER_NOTE):
        some = ordered[start : start + DEVICES_PER_NOTE]
        await note(session, (Span(device, EVERY_SERIES, FIRST, LAST) for device in some))


def pack(spans: Iterable[Span]) -> bytes:
    """Return the spans as a note has them."""
    return b"".join(
        _PACKED.pack(span.device.bytes, span.series.bytes, to_microseconds(span.first), to_microseconds(span.last))
        for span in spans
    )


def count_spans(packed: bytes) -> int:
    """Return how many spans a note has."""
    return len(packed) // _PACKED.size


def devices_of(packed: bytes) -> set[uuid.UUID]:
    """Return the devices that a note speaks of."""
    found = {packed[start : start + 16] for start in range(0, len(packed), _PACKED.size)}
    return {uuid.UUID(bytes=device) for device in found}


def unpack(packed: bytes, devices: Collection[uuid.UUID] | None = None) -> list[Span]:
    """Return the spans of a note; given devices, only of these, and those of every series of a device."""
    wanted = None if devices is None else {device.bytes for device in devices}
    return [
        Span(uuid.UUID(bytes=device), uuid.UUID(bytes=series), from_microseconds(first), from_microseconds(last))
        for device, series, first, last in _PACKED.iter_unpack(packed)
        if wanted is None or device in wanted or series == EVERY_SERIES.bytes
    ]
