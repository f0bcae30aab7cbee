"""Counting an organization's slots, or everybody's, by the sums of chunks: what it takes does not grow with the meters.

Theory of operation. Stored slots are counts of sums (``hub.ledger_sums``). Expected ones are the rows of a chunk times
the window's slots, because everyone has a row of the chunks in which the present lies or lay; meters that came or went
within the window are looked up by indexes and counted one by one. Where not everyone has a row (readings of long ago)
the expectations are counted.

Who lacks some is asked in three steps, the cheap ones first, until all that is missing has its expectation:
1. Chunks with holes, or long behind, by a partial index; on PostgreSQL these alone are counted bit by bit.
2. Chunks that are stored up to some slot, when that is before the window's last: one bit of each is looked at.
3. Expectations without a row, where not everyone has one.

All numbers within the statements are our own, and integers: so that each raster's part has its own plan.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from hub.ledger_chunks import Filling
from hub.ledger_sums import Planes, Sum, load_sums, without_bit
from hub.models import Expectation
from hub.totals import Part, Totals, Window, bits_within, parts_of

NAMED = 2000
"""Expectations that are named as lacking some, of very many that do."""

EVERYONE = 2**31
"""So many that nobody is left out."""

_TOGETHER = 50
"""Parts of chunks in one statement."""


@dataclasses.dataclass(slots=True)
class _Raster:
    """One raster's window: what was found of it."""

    window: Window
    parts: list[tuple[Part, Sum]]
    expected: int = 0
    stored: int = 0


async def count_kept(session: AsyncSession, windows: Sequence[Window], named: int) -> Totals:
    """Count the slots of these windows, whoever's they are; name up to so many who lack some."""
    asked = parts_of(windows)
    sizes = {window.raster_id: window.size for window in windows}
    sums = {
        (raster, chunk): Sum(sizes[raster], Planes.load(planes, sizes[raster]), chunks, everyone)
        for raster, chunk, chunks, everyone, planes in await load_sums(
            session, [(part.raster_id, part.chunk) for part in asked]
        )
    }
    rasters = {window.raster_id: _Raster(window, []) for window in windows}
    for part in asked:
        found = sums.get((part.raster_id, part.chunk)) or Sum(sizes[part.raster_id])
        raster = rasters[part.raster_id]
        raster.parts.append((part, found))
        raster.stored += found.planes.count(part.first - part.chunk * found.size, part.last - part.first + 1)
    await _expect(session, list(rasters.values()))
    totals = Totals(sum(one.expected for one in rasters.values()), sum(one.stored for one in rasters.values()))
    lacking: set[int] = set()
    for one in rasters.values():
        if one.stored < one.expected and len(lacking) < named:
            await _name(session, one, lacking, named)
    totals.lacking = sorted(lacking)
    rebuilding = select(sa.func.count()).where(Expectation.rebuilding, Expectation.raster.in_(rasters))
    totals.rebuilding = (await session.execute(rebuilding)).scalar_one()
    return totals


# What is expected

_SLOTS = "{least}(coalesce(e.until_slot, {last}), {last}) - {greatest}(e.since_slot, {first}) + 1"
# Those that have a row of the chunk, and come or go within the part; by how much they expect less than all of it.
_LESS = """
    SELECT {raster} AS raster, coalesce(sum({greatest}(0, {slots}) - {all}), 0) AS slots
    FROM expectations e WHERE e.raster = {raster} AND {when}
        AND EXISTS (SELECT 1 FROM ledger_chunks c WHERE c.expectation = e.id AND c.chunk = {chunk})
"""
_CAME = "e.since_slot > {first} AND e.since_slot < {end}"
_WENT = "e.until_slot IS NOT NULL AND e.until_slot >= {begin} AND e.until_slot < {last} AND e.since_slot <= {first}"
_ALL = """
    SELECT {raster} AS raster, coalesce(sum({slots}), 0) AS slots FROM expectations e
    WHERE e.raster = {raster} AND e.since_slot <= {last} AND (e.until_slot IS NULL OR e.until_slot >= {first})
"""


async def _expect(session: AsyncSession, rasters: Sequence[_Raster]) -> None:
    postgresql = session.get_bind().dialect.name == "postgresql"
    words = {"least": "least", "greatest": "greatest"} if postgresql else {"least": "min", "greatest": "max"}
    statements = []
    for one in rasters:
        if all(found.everyone for _, found in one.parts):
            for part, found in one.parts:
                one.expected += found.chunks * (part.last - part.first + 1)
                statements += [_less(when, part, found.size, words) for when in (_CAME, _WENT)]
        else:
            window = {"raster": one.window.raster_id, "first": one.window.first, "last": one.window.last}
            statements.append(_ALL.format(slots=_SLOTS.format(**window, **words), **window))
    by_id = {one.window.raster_id: one for one in rasters}
    for start in range(0, len(statements), _TOGETHER):
        for raster, slots in await session.execute(text(" UNION ALL ".join(statements[start : start + _TOGETHER]))):
            by_id[raster].expected += int(slots)


def _less(when: str, part: Part, size: int, words: dict[str, str]) -> str:
    numbers = {"first": part.first, "last": part.last}
    return _LESS.format(
        raster=part.raster_id,
        chunk=part.chunk,
        slots=_SLOTS.format(**numbers, **words),
        all=part.last - part.first + 1,
        when=when.format(**numbers, begin=part.chunk * size, end=(part.chunk + 1) * size),
        greatest=words["greatest"],
    )


# Who lacks some

# Chunks first, by their index, and their expectations one by one: PostgreSQL expects more of them than there are.
_PG_ROWS = """
    SELECT e.id, e.since_slot, e.until_slot, c.bits
    FROM ledger_chunks c CROSS JOIN LATERAL (SELECT * FROM expectations WHERE id = c.expectation OFFSET 0) e
"""
_SQLITE_ROWS = """
    SELECT e.id, e.since_slot, e.until_slot, c.bits
    FROM ledger_chunks c CROSS JOIN expectations e ON e.id = c.expectation
"""
_LACKING = """
    WHERE c.raster = {raster} AND c.chunk = {chunk} AND c.state = {state} AND {lacks}
        AND e.since_slot <= {last} AND (e.until_slot IS NULL OR e.until_slot >= {first})
"""
_WITHOUT = """
    SELECT e.id, e.since_slot, e.until_slot FROM expectations e
    WHERE e.raster = {raster} AND e.since_slot <= {last} AND (e.until_slot IS NULL OR e.until_slot >= {first})
        AND NOT EXISTS (SELECT 1 FROM ledger_chunks c WHERE c.expectation = e.id AND c.chunk = {chunk})
"""


async def _name(session: AsyncSession, one: _Raster, lacking: set[int], named: int) -> None:
    """Find who lacks this raster's slots, until it is known of each of them, or enough are named."""
    missing = one.expected - one.stored
    for step in (_holed, _behind, _without):
        for part, found in one.parts:
            if missing <= 0 or len(lacking) >= named:
                return
            missing -= await step(session, part, found, lacking, named)


async def _holed(session: AsyncSession, part: Part, found: Sum, lacking: set[int], named: int) -> int:
    if session.get_bind().dialect.name == "postgresql":
        window = {"first": part.first, "last": part.last, "least": "least", "greatest": "greatest"}
        lacks = f"{bits_within(part)} < {_SLOTS.format(**window)}"
        return _take(await _rows(session, part, Filling.HOLED, lacks, named), part, found, lacking, named)
    # Their holes may lie elsewhere in the chunk.
    return _take(await _rows(session, part, Filling.HOLED, "true", EVERYONE), part, found, lacking, named)


async def _behind(session: AsyncSession, part: Part, found: Sum, lacking: set[int], named: int) -> int:
    postgresql = session.get_bind().dialect.name == "postgresql"
    lacks = without_bit("c.bits", part.last - part.chunk * found.size, postgresql=postgresql)
    return _take(await _rows(session, part, Filling.BEGUN, lacks, named), part, found, lacking, named)


async def _rows(session: AsyncSession, part: Part, state: Filling, lacks: str, limit: int) -> Sequence[Any]:
    rows = _PG_ROWS if session.get_bind().dialect.name == "postgresql" else _SQLITE_ROWS
    statement = rows + _LACKING.format(
        raster=part.raster_id, chunk=part.chunk, state=int(state), lacks=lacks, first=part.first, last=part.last
    )
    return (await session.execute(text(f"{statement} LIMIT {limit}"))).all()


async def _without(session: AsyncSession, part: Part, found: Sum, lacking: set[int], named: int) -> int:
    if found.everyone:
        return 0
    statement = _WITHOUT.format(raster=part.raster_id, chunk=part.chunk, first=part.first, last=part.last)
    rows = await session.execute(text(f"{statement} LIMIT {named}"))
    return _take(((*row, b"") for row in rows), part, found, lacking, named)


def _take(rows: Iterable[Any], part: Part, found: Sum, lacking: set[int], named: int) -> int:
    """Put those that lack some to ``lacking``, while there is room; return how many slots they lack."""
    slots = 0
    for key, since, until, bits in rows:
        if len(lacking) >= named:
            break
        first, last = max(part.first, since), part.last if until is None else min(part.last, until)
        wanted = (1 << last - first + 1) - 1
        stored = int.from_bytes(bits, "little") >> first - part.chunk * found.size & wanted
        if stored != wanted:
            lacking.add(key)
            slots += last - first + 1 - stored.bit_count()
    return slots
