"""Rebuilding: chunks made anew from the readings, when what is expected has changed or somebody asks for it.

The caller has the ledger's turn (``hub.ledger``).
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.among import among
from hub.columns import to_microseconds
from hub.expectations import Expecting, expectations_by_id
from hub.ledger_chunks import Bits, filling, size_of
from hub.ledger_rows import Row, save_chunks
from hub.ledger_sums import Sums
from hub.models import Expectation, LedgerChunk, Reading

REBUILT = 500
REBUILT_READINGS = 50_000
"""Expectations whose chunks are made anew per turn, and after how many readings no further one is begun."""


async def ask_for_rebuild(session: AsyncSession, devices: Collection[uuid.UUID] | None = None) -> int:
    """Have the chunks of these meters, or of all, made anew from their readings; return of how many series."""
    statement = sa.update(Expectation).values(rebuilding=True).execution_options(synchronize_session=False)
    if devices is not None:
        statement = statement.where(Expectation.device.in_(devices))
    result = cast("sa.CursorResult[Any]", await session.execute(statement))
    return result.rowcount


async def rebuild_some(session: AsyncSession) -> int:
    """Make chunks anew that are not to be believed; return of how many expectations."""
    found = await session.execute(
        select(Expectation.id)
        .where(Expectation.rebuilding)
        .order_by(Expectation.id)
        .limit(REBUILT)
        .with_for_update(key_share=True, skip_locked=True)
    )
    expecting = await expectations_by_id(session, list(found.scalars()))
    if not expecting:
        return 0
    sums = Sums()
    await sums.read_rasters(session, {one.raster_id: size_of(one.raster.interval) for one in expecting})
    # Meters that were just set up have neither; for each by itself these would be four questions.
    filled, before = await _with_readings(session, expecting), await _chunks_of(session, expecting)
    seen, done = 0, 0
    made: list[Row] = []
    gone: list[tuple[int, int]] = []
    for one in expecting:
        bits, count = Bits(size_of(one.raster.interval)), 0
        if one.id in filled:
            bits, count = await bits_from_readings(session, one)
        made += _rows(one, bits, before.get(one.id, {}), sums)
        gone += [(one.id, chunk) for chunk in before.get(one.id, {}).keys() - bits.chunks.keys()]
        seen += count
        done += 1
        if seen > REBUILT_READINGS:
            break
    await _forget(session, gone)
    await save_chunks(session, made)
    await session.execute(
        sa.update(Expectation)
        .where(among(session, Expectation.id, [one.id for one in expecting[:done]]))
        .values(rebuilding=False)
        .execution_options(synchronize_session=False)
    )
    await sums.save(session)
    return done


def _rows(one: Expecting, bits: Bits, before: Mapping[int, int], sums: Sums) -> list[Row]:
    """Return an expectation's chunks as they are saved, having joined the change to the sums."""
    # Where everyone has a row, so has this one.
    for raster, chunk in [place for place, found in sums.found.items() if found.everyone]:
        until = one.until if one.until is not None else (chunk + 1) * bits.size
        if raster == one.raster_id and one.since // bits.size <= chunk <= until // bits.size:
            bits.chunks.setdefault(chunk, 0)
    made = []
    for chunk in sorted(bits.chunks):
        state = filling(bits.chunks[chunk], bits.size, chunk, one.since, one.until)
        made.append((one.id, chunk, one.raster_id, state, bits.dump(chunk)))
        sums.change((one.raster_id, chunk), bits.size, before.get(chunk), bits.chunks[chunk])
    return made


async def _with_readings(session: AsyncSession, expecting: Sequence[Expecting]) -> set[int]:
    """Return those of the expectations of which there is a reading."""
    there = sa.exists().where(Reading.meter_device == Expectation.device, Reading.series == Expectation.series)
    wanted = among(session, Expectation.id, [one.id for one in expecting])
    return set(await session.scalars(select(Expectation.id).where(wanted, there)))


async def _chunks_of(session: AsyncSession, expecting: Sequence[Expecting]) -> dict[int, dict[int, int]]:
    """Return the stored bits by expectation and chunk."""
    rows = await session.execute(
        select(LedgerChunk.expectation, LedgerChunk.chunk, LedgerChunk.bits).where(
            among(session, LedgerChunk.expectation, [one.id for one in expecting])
        )
    )
    found: dict[int, dict[int, int]] = {}
    for key, chunk, stored in rows:
        found.setdefault(key, {})[chunk] = int.from_bytes(stored, "little")
    return found


async def _forget(session: AsyncSession, gone: Sequence[tuple[int, int]]) -> None:
    """Delete chunks that no reading fills any more; the trigger notes them."""
    by_expectation: dict[int, list[int]] = {}
    for key, chunk in gone:
        by_expectation.setdefault(key, []).append(chunk)
    for key, chunks in by_expectation.items():
        await session.execute(
            sa.delete(LedgerChunk)
            .where(LedgerChunk.expectation == key, LedgerChunk.chunk.in_(chunks))
            .execution_options(synchronize_session=False)
        )


async def bits_from_readings(session: AsyncSession, one: Expecting) -> tuple[Bits, int]:
    """Return which slots the readings fill, and how many readings there are."""
    connection = await session.connection()
    bits, count = Bits(size_of(one.raster.interval)), 0
    rows = await connection.stream(
        select(Reading.timestamp).where(Reading.meter_device == one.device, Reading.series == one.series)
    )
    async for some in rows.partitions(5000):
        bits.add(one.slots([to_microseconds(row.timestamp) for row in some]))
        count += len(some)
    return bits, count
