"""Which readings came or went and are not in the ledger yet: noted where that happens, in the same transaction.

A note is one row, whatever the transaction brought: per meter and series the timestamps, in microseconds. Clerks fold
notes in their order (``hub.ledger``). A removal can only follow on what it removes, and a new reading with the same key
only on its removal, so that the order of notes is the order of what happened to a key.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import cast

import msgspec
from sqlalchemy import Table, insert
from sqlalchemy.ext.asyncio import AsyncSession

from hub.columns import to_microseconds
from hub.models import LedgerPending

Key = tuple[int, int, dt.datetime]
"""Meter and series (the numbers of their UUIDs) and timestamp, as in ``hub.versions``."""

Series = tuple[bytes, bytes, list[int]]
"""The bytes of meter and series, timestamps in microseconds since 1970."""

SQLITE_NOTE = "INSERT INTO ledger_pending (keys, removed) VALUES (?, 0)"
"""Notes, on SQLite, what was packed of new readings."""

_notes = cast("Table", LedgerPending.__table__)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Series])


async def note(session: AsyncSession, keys: Sequence[Key], *, removed: bool = False) -> None:
    """Note, in the caller's transaction, that readings with these keys are new, or gone; the keys are in order."""
    if keys:
        await _note(session, pack(keys), removed=removed)


def pack_series(told: Sequence[Series]) -> bytes:
    """Return, as a note has it, the bytes of meter and series, in order, with their timestamps, in order."""
    return _encoder.encode(told) if told else b""


async def note_packed(session: AsyncSession, packed: bytes) -> None:
    """Note that these readings are new."""
    if packed:
        await _note(session, packed, removed=False)


async def _note(session: AsyncSession, packed: bytes, *, removed: bool) -> None:
    # Through the connection: a plain statement, no object.
    connection = await session.connection()
    await connection.execute(insert(_notes), {"keys": packed, "removed": removed})


def pack(keys: Iterable[Key]) -> bytes:
    """Return the keys, which are in order, as a note has them."""
    told: list[Series] = []
    device = series = None
    timestamps: list[int] = []
    # This is done for every reading that comes: no tuple, and no object, for each.
    for of_device, of_series, timestamp in keys:
        if of_series != series or of_device != device:
            device, series, timestamps = of_device, of_series, []
            told.append((device.to_bytes(16), series.to_bytes(16), timestamps))
        timestamps.append(to_microseconds(timestamp))
    return _encoder.encode(told)


def unpack(packed: bytes) -> list[Series]:
    """Return what a note says."""
    return _decoder.decode(packed)
