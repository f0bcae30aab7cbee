"""Rows in ``batches``: one for each batch that came, and what became of its rows the first time.

A repeated batch keeps its row, but for the time of its last delivery. Nearly always everything in a batch is new: so
its row says that from the start, and only another outcome is written afterwards.
"""

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Batch
from hub.once import upsert
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


async def _note_sqlite(session: AsyncSession, same: _Same, now: dt.datetime) -> Sequence[Any]:
    connection = await session.connection()
    # This transaction is the only one that writes, and no id is given twice: a higher one is new.
    newest = (await connection.execute(sa.select(sa.func.max(Batch.id)))).scalar() or 0
    statement = upsert(session, Batch)
    statement = statement.on_conflict_do_update(
        index_elements=list(_KEY), set_={"received_at": statement.excluded.received_at}
    ).returning(Batch.id, Batch.id > newest, *(getattr(Batch, name) for name in _KEY))
    rows = [
        dict(zip(_KEY, key, strict=True))
        | {"received_at": ones[0].received_at, "stored_at": now, "rows": ones[0].rows}
        | {"duplicates": 0, "revisions": 0, "staged": 0}
        for key, ones in same.items()
    ]
    return (await connection.execute(statement, rows)).all()


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
