"""Rows in ``batches``: one for each batch that came, and what became of its rows the first time.

A repeated batch keeps its row, but for the time of its last delivery. Nearly always everything in a batch is new: so
its row says that from the start, and only another outcome is written afterwards.
"""

import datetime as dt
import json
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from hub import sqlite_rows, sqlite_trips
from hub.columns import to_microseconds
from hub.models import Batch
from protocol.readings import BatchName

Key = tuple[uuid.UUID, bytes, str, int, int, bytes]


class Arrived(msgspec.Struct):
    """A batch that came. ``id`` is its row; ``new`` whether that was made for this delivery."""

    gateway: uuid.UUID
    channel: str
    name: BatchName
    received_at: dt.datetime
    id: int | None = None
    new: bool = False

    @property
    def key(self) -> Key:
        """What makes it the same batch as another."""
        return (self.gateway, self.name.store, self.channel, self.name.first, self.name.last, self.name.digest)

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.name.last - self.name.first + 1


_Same = Mapping[Key, Sequence[Arrived]]
"""Those that came, by what makes them the same batch."""

_KEY = ("gateway", "store", "channel", "first", "last", "digest")

# That a row was not updated but inserted shows in its xmax: nobody has ever locked or changed it.
_PG_NOTE = text("""
    INSERT INTO batches (gateway, store, channel, "first", "last", digest, received_at, stored_at, rows, duplicates,
                         revisions, staged)
    SELECT n.gateway, n.store, n.channel, n.first, n.last, n.digest, n.received_at, CAST(:now AS timestamptz),
        n.last - n.first + 1, 0, 0, 0
    FROM unnest(CAST(:gateway AS uuid[]), CAST(:store AS bytea[]), CAST(:channel AS text[]), CAST(:first AS bigint[]),
                CAST(:last AS bigint[]), CAST(:digest AS bytea[]), CAST(:received_at AS timestamptz[]))
        AS n(gateway, store, channel, first, last, digest, received_at)
    ORDER BY n.gateway, n.store, n.channel, n.first, n.last, n.digest
    ON CONFLICT (gateway, store, channel, "first", "last", digest) DO UPDATE SET received_at = excluded.received_at
    RETURNING id, xmax = 0, gateway, store, channel, "first", "last", digest
""")


async def note_batches(session: AsyncSession, arrived: Sequence[Arrived], now: dt.datetime) -> None:
    """Give each its row, in the caller's transaction; of a batch that comes twice here the first may be new."""
    same: dict[Key, list[Arrived]] = {}
    for one in arrived:
        same.setdefault(one.key, []).append(one)
    if not same:
        return
    postgresql = session.get_bind().dialect.name == "postgresql"
    for row_id, new, *key in await (_note_postgresql if postgresql else _note_sqlite)(session, same, now):
        ones = same[tuple(key)]
        ones[0].new = bool(new)
        for one in ones:
            one.id = row_id


async def _note_postgresql(session: AsyncSession, same: _Same, now: dt.datetime) -> Sequence[Any]:
    values: dict[str, Any] = {name: list(column) for name, column in zip(_KEY, zip(*same, strict=True), strict=True)}
    values |= {"received_at": [ones[0].received_at for ones in same.values()], "now": now}
    return (await session.execute(_PG_NOTE, values)).all()


_SQLITE_NOTE = """
    INSERT INTO batches (gateway, store, channel, "first", "last", digest, received_at, stored_at, rows, duplicates,
                         revisions, staged)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0){}
    ON CONFLICT (gateway, store, channel, "first", "last", digest) DO UPDATE SET received_at = excluded.received_at
"""
_SQLITE_NEWEST = "SELECT coalesce(max(id), 0) FROM batches"
_SQLITE_NEW = """
    SELECT json_group_array(json_array(id, gateway, hex(store), channel, "first", "last", hex(digest)))
    FROM batches WHERE id > ?
"""
_SQLITE_THERE = """
    SELECT id FROM batches WHERE gateway = ? AND store = ? AND channel = ? AND "first" = ? AND "last" = ? AND digest = ?
"""


async def _note_sqlite(session: AsyncSession, same: _Same, now: dt.datetime) -> Sequence[Any]:
    stored_at = to_microseconds(now)
    forms: list[tuple[Any, ...]] = [(gateway.hex, store, *rest) for gateway, store, *rest in same]
    arrived = [ones[0] for ones in same.values()]
    values = [
        value
        for form, one in zip(forms, arrived, strict=True)
        for value in (*form, to_microseconds(one.received_at), stored_at, one.rows)
    ]
    found: list[Any] = []

    def note(cursor: sqlite3.Cursor) -> int:
        # This transaction is the only one that writes, and no id is given twice: a higher one is new.
        (newest,) = cursor.execute(_SQLITE_NEWEST).fetchone()
        written = sqlite_rows.write(cursor, _SQLITE_NOTE, values, len(values) // len(forms))
        # As one row (``hub.sqlite_rows``).
        told = json.loads(cursor.execute(_SQLITE_NEW, (newest,)).fetchone()[0])
        ids: dict[tuple[Any, ...], int] = {
            (gateway, bytes.fromhex(store), channel, first, last, bytes.fromhex(digest)): row_id
            for row_id, gateway, store, channel, first, last, digest in told
        }
        for form, key in zip(forms, same, strict=True):
            new = form in ids
            row_id = ids[form] if new else cursor.execute(_SQLITE_THERE, form).fetchone()[0]
            found.append((row_id, new, *key))
        return written

    await sqlite_trips.together(await session.connection(), sqlite_rows.texts_of(_SQLITE_NOTE)[1], note)
    return found


_COUNT = (
    sa.update(Batch)
    .where(Batch.id == bindparam("of_id"))
    .values({name: bindparam(f"new_{name}") for name in ("duplicates", "revisions", "staged")})
)


async def count_batches(session: AsyncSession, counts: Sequence[tuple[int, int, int, int]]) -> None:
    """Write down, by id, how many rows of new batches were duplicates, revisions and staged."""
    if counts:
        connection = await session.connection()
        names = ("of_id", "new_duplicates", "new_revisions", "new_staged")
        await connection.execute(_COUNT, [dict(zip(names, one, strict=True)) for one in counts])
