"""Sums: of all chunks of one raster with one number, how many have each slot. So a fleet is counted without its chunks.

Theory of operation. The counts of a chunk's slots are kept as *planes*: plane i has, of each slot, the bit with the
value 2**i of its count. To add a chunk is an addition with carry of all its slots at once, of whole numbers some
thousand bits long: a few operations for a chunk, however many slots it brings. The slots of any window are counted by
the bits of each plane within it.

Rules:
- Whoever writes a chunk, in the ledger's turn, joins the change to the sum in the same transaction (``Sums.change``).
- A chunk that is deleted (with its meter, say, by whoever has no turn) is noted by a trigger; clerks take it out of the
  sum when they fold the note (``Sums.drop``).
- Of the chunk in which a raster's present lies each expectation has a row (``fill``), if only one without bits: then
  the rows tell how many expectations there are, and nobody need look for those that have none.
"""

import dataclasses
import datetime as dt
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from hub.ledger_chunks import Filling, size_of
from hub.models import LedgerChunk, LedgerPending, LedgerRaster, LedgerSum
from hub.once import upsert
from protocol.rasters import Raster

Place = tuple[int, int]
"""A raster's id and a chunk's number."""

_log = structlog.get_logger(__name__)


class Planes:
    """How many chunks have each slot."""

    __slots__ = ("planes",)

    def __init__(self, planes: Iterable[int] = ()) -> None:
        self.planes = list(planes)

    def add(self, bits: int, lowest: int = 0) -> None:
        """Count each of these slots once more, or 2**lowest times more."""
        while len(self.planes) < lowest:
            self.planes.append(0)
        for position in range(lowest, len(self.planes)):
            if not bits:
                return
            plane = self.planes[position]
            self.planes[position], bits = plane ^ bits, plane & bits
        if bits:
            self.planes.append(bits)

    def join(self, other: "Planes") -> None:
        """Count each slot as often more as the other has it."""
        for position, plane in enumerate(other.planes):
            if plane:
                self.add(plane, position)

    def drop(self, bits: int) -> bool:
        """Count each of these slots once less; return whether all were counted: one that was not stays at none."""
        for position, plane in enumerate(self.planes):
            if not bits:
                break
            self.planes[position], bits = plane ^ bits, ~plane & bits
        if bits:
            self.planes = [plane & ~bits for plane in self.planes]
        while self.planes and not self.planes[-1]:
            self.planes.pop()
        return not bits

    def count(self, low: int, slots: int) -> int:
        """Return the counts of ``slots`` slots from bit ``low`` on, all together."""
        mask = (1 << slots) - 1
        return sum((plane >> low & mask).bit_count() << position for position, plane in enumerate(self.planes))

    def dump(self, size: int) -> bytes:
        """Return them as they are stored, the lowest plane first, each as long as a chunk."""
        return b"".join(plane.to_bytes(size // 8, "little") for plane in self.planes)

    @classmethod
    def load(cls, packed: bytes, size: int) -> "Planes":
        """Return what ``dump`` made."""
        width = size // 8
        return cls(int.from_bytes(packed[at : at + width], "little") for at in range(0, len(packed), width))


@dataclasses.dataclass(slots=True)
class Sum:
    """A sum as it is worked with; ``chunks`` and ``everyone`` as in ``hub.models.LedgerSum``."""

    size: int
    planes: Planes = dataclasses.field(default_factory=Planes)
    chunks: int = 0
    everyone: bool = False


@dataclasses.dataclass(slots=True)
class Change:
    """What chunks with other bits make of their sum: reckoned without it."""

    size: int
    chunks: int = 0
    """How many have a row now that had none."""
    added: Planes = dataclasses.field(default_factory=Planes)
    dropped: list[int] = dataclasses.field(default_factory=list)
    """The slots that went out, chunk by chunk."""

    def note(self, old: int | None, new: int) -> None:
        """Note that a chunk has other bits; ``old`` is None when there was no such row."""
        before = old or 0
        self.chunks += old is None
        self.added.add(new & ~before)
        if before & ~new:
            self.dropped.append(before & ~new)


class Sums:
    """The sums that a transaction changes: read before, saved at its end."""

    def __init__(self) -> None:
        self.found: dict[Place, Sum] = {}
        self._changed: set[Place] = set()

    async def read(self, session: AsyncSession, places: Collection[Place], sizes: dict[int, int]) -> None:
        """Read the sums of these places, of rasters whose chunks have these sizes; others begin at nothing."""
        lacking = sorted(place for place in set(places) if place not in self.found)
        for raster, chunk, *rest in await load_sums(session, lacking):
            self._found(raster, chunk, sizes[raster], *rest)
        for place in lacking:
            self.found.setdefault(place, Sum(sizes[place[0]]))

    async def read_rasters(self, session: AsyncSession, sizes: dict[int, int]) -> None:
        """Read all sums of these rasters."""
        rows = await session.execute(select(*_COLUMNS).where(LedgerSum.raster.in_(sorted(sizes))))
        for raster, chunk, chunks, everyone, planes in rows:
            self._found(raster, chunk, sizes[raster], chunks, everyone, planes)

    def _found(self, raster: int, chunk: int, size: int, chunks: int, everyone: bool, planes: bytes) -> None:  # noqa: FBT001 - a row
        self.found[raster, chunk] = Sum(size, Planes.load(planes, size), chunks, everyone)

    def change(self, place: Place, size: int, old: int | None, new: int) -> None:
        """Note that a chunk has other bits; ``old`` is None when there was no such row."""
        change = Change(size)
        change.note(old, new)
        self.join(place, change)

    def join(self, place: Place, change: Change) -> None:
        """Note what many chunks of this place have changed."""
        one = self.found.get(place)
        if one is None:
            one = self.found[place] = Sum(change.size)
        one.chunks += change.chunks
        one.planes.join(change.added)
        for bits in change.dropped:
            self._drop(place, one, bits)
        self._changed.add(place)

    def drop(self, place: Place, bits: int) -> None:
        """Note that the row of a chunk with these bits is gone."""
        one = self.found[place]
        one.chunks -= 1
        self._drop(place, one, bits)
        self._changed.add(place)

    def _drop(self, place: Place, one: Sum, bits: int) -> None:
        if not one.planes.drop(bits):
            _log.error("ledger_sums_wrong", raster=place[0], chunk=place[1], advice="run metergate-hub ledger rebuild")

    def filled(self, place: Place, rows: int) -> None:
        """Note that everyone has a row, so many of them new ones without bits."""
        one = self.found[place]
        one.chunks += rows
        one.everyone = True
        self._changed.add(place)

    def clear(self, place: Place, low: int) -> None:
        """Note that the first ``low`` slots went out of every chunk."""
        one = self.found[place]
        one.planes = Planes(plane >> low << low for plane in one.planes.planes)
        self._changed.add(place)

    async def save(self, session: AsyncSession) -> None:
        """Write what has changed."""
        rows = []
        for place in sorted(self._changed):
            one = self.found[place]
            if one.chunks > 0:
                rows.append((*place, one.chunks, one.everyone, one.planes.dump(one.size)))
            else:
                await session.execute(_DELETE, {"raster": place[0], "chunk": place[1]})
        if rows:
            statement = upsert(session, LedgerSum)
            names = [column.key for column in _COLUMNS]
            statement = statement.on_conflict_do_update(
                index_elements=["raster", "chunk"], set_={name: statement.excluded[name] for name in names[2:]}
            )
            connection = await session.connection()
            await connection.execute(statement, [dict(zip(names, row, strict=True)) for row in rows])
        self._changed.clear()


_COLUMNS = (LedgerSum.raster, LedgerSum.chunk, LedgerSum.chunks, LedgerSum.everyone, LedgerSum.planes)
_DELETE = text("DELETE FROM ledger_sums WHERE raster = :raster AND chunk = :chunk")

_PG_LOAD = text("""
    SELECT s.raster, s.chunk, s.chunks, s.everyone, s.planes
    FROM unnest(CAST(:rasters AS integer[]), CAST(:chunks AS integer[])) AS k(raster, chunk)
    JOIN ledger_sums s ON s.raster = k.raster AND s.chunk = k.chunk
""")
_SQLITE_LOAD = """
    SELECT s.raster, s.chunk, s.chunks, s.everyone, s.planes FROM json_each(?) k CROSS JOIN ledger_sums s
    ON s.raster = json_extract(k.value, '$[0]') AND s.chunk = json_extract(k.value, '$[1]')
"""


async def load_sums(session: AsyncSession, places: Sequence[Place]) -> Sequence[Any]:
    """Return the rows of these places: raster, chunk, chunks, everyone, planes."""
    if not places:
        return []
    if session.get_bind().dialect.name == "postgresql":
        values = {"rasters": [raster for raster, _ in places], "chunks": [chunk for _, chunk in places]}
        return (await session.execute(_PG_LOAD, values)).all()
    connection = await session.connection()
    rows: Sequence[Any] = (await connection.exec_driver_sql(_SQLITE_LOAD, (json.dumps(places),))).all()
    return rows


# PostgreSQL keeps the meters from being deleted meanwhile.
_FILL = """
    INSERT INTO ledger_chunks (expectation, chunk, raster, state, bits)
    SELECT e.id, :chunk, e.raster, {state}, :bits FROM (
        SELECT id, raster FROM expectations WHERE raster = :raster AND since_slot <= :last
            AND (until_slot IS NULL OR until_slot >= :first) {lock}
    ) e WHERE true
    ON CONFLICT (expectation, chunk) DO NOTHING
"""


async def fill(session: AsyncSession, place: Place, size: int) -> int:
    """Give each expectation that has a slot in this chunk a row, without bits; return how many had none."""
    raster, chunk = place
    lock = "FOR KEY SHARE" if session.get_bind().dialect.name == "postgresql" else ""
    values = {
        "raster": raster,
        "chunk": chunk,
        "first": chunk * size,
        "last": (chunk + 1) * size - 1,
        "bits": bytes(size // 8),
    }
    result: Any = await session.execute(text(_FILL.format(state=int(Filling.BEGUN), lock=lock)), values)
    return int(result.rowcount)


async def clear(session: AsyncSession, place: Place, size: int, low: int) -> None:
    """Take the first ``low`` slots out of a sum, as the caller, who has the ledger's turn, does with all its chunks.

    How these are filled need not be looked at again, when nothing is expected in the slots any more.
    """
    sums = Sums()
    await sums.read(session, [place], {place[0]: size})
    sums.clear(place, low)
    await sums.save(session)


LATE = dt.timedelta(days=1)
"""What is behind for longer is looked at one by one."""

_SWEEP = """
    UPDATE ledger_chunks SET state = {holed}
    WHERE raster = :raster AND chunk = :chunk AND state = {begun} AND {unset}
"""


async def sweep(session: AsyncSession, now: dt.datetime) -> None:
    """Have those looked at one by one who have been behind for a day; the caller has the ledger's turn.

    So who asks what is missing finds them by their index, and need not look at everybody for their sake.
    """
    for row in (await session.execute(select(LedgerRaster))).scalars():
        size = size_of(row.interval)
        chunk, bit = divmod(Raster(row.interval, row.anchor_seconds, row.zone).slot_at_or_before(now - LATE), size)
        unset = without_bit("bits", bit, postgresql=session.get_bind().dialect.name == "postgresql")
        statement = _SWEEP.format(holed=int(Filling.HOLED), begun=int(Filling.BEGUN), unset=unset)
        await session.execute(text(statement), {"raster": row.id, "chunk": chunk})


def without_bit(column: str, bit: int, *, postgresql: bool) -> str:
    """Return the SQL that a chunk's bit is not set."""
    if postgresql:
        return f"get_bit({column}, {bit}) = 0"
    # SQLite has no operator for a blob's bits: whether this byte is one of those without that bit.
    without = bytes(value for value in range(256) if not value >> bit % 8 & 1)
    return f"instr(x'{without.hex()}', substr({column}, {bit // 8 + 1}, 1)) > 0"


# Counting again


async def counted_anew(session: AsyncSession, raster: int, size: int) -> dict[int, Sum]:
    """Return the sums of a raster as its chunks are, by chunk; whether everyone has a row is not looked at."""
    found: dict[int, Sum] = {}
    connection = await session.connection()
    rows = await connection.stream(select(LedgerChunk.chunk, LedgerChunk.bits).where(LedgerChunk.raster == raster))
    async for some in rows.partitions(5000):
        for chunk, bits in some:
            one = found.setdefault(chunk, Sum(size))
            one.chunks += 1
            one.planes.add(int.from_bytes(bits, "little"))
    return found


async def wrong_sums(session: AsyncSession, raster: int, size: int) -> list[int]:
    """Return the chunks whose sums are not those of the rows; the caller has the turn, and has folded."""
    kept = Sums()
    await kept.read_rasters(session, {raster: size})
    real = await counted_anew(session, raster, size)
    there = {chunk: one for (_, chunk), one in kept.found.items()}
    nothing = Sum(size)

    def shown(one: Sum) -> tuple[int, list[int]]:
        return one.chunks, one.planes.planes

    return [
        chunk
        for chunk in sorted(there.keys() | real.keys())
        if shown(there.get(chunk, nothing)) != shown(real.get(chunk, nothing))
    ]


async def sum_anew(session: AsyncSession, raster: int, size: int) -> None:
    """Make a raster's sums anew from its chunks, whatever they were; the caller has the turn."""
    if session.get_bind().dialect.name == "postgresql":
        # A chunk that is deleted meanwhile would be neither counted nor taken out.
        await session.execute(text("LOCK TABLE ledger_chunks IN SHARE MODE"))
    await session.execute(
        sa.delete(LedgerPending).where(LedgerPending.raster == raster).execution_options(synchronize_session=False)
    )
    await session.execute(
        sa.delete(LedgerSum).where(LedgerSum.raster == raster).execution_options(synchronize_session=False)
    )
    for chunk, one in (await counted_anew(session, raster, size)).items():
        session.add(
            LedgerSum(raster=raster, chunk=chunk, chunks=one.chunks, everyone=False, planes=one.planes.dump(size))
        )
    await session.flush()
