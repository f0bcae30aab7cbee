"""Rebuilding: chunks made anew from the readings, when what is expected has changed or somebody asks for it.

The caller has the ledger's turn (``hub.ledger``).
"""

import uuid
from collections.abc import Collection
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.columns import to_microseconds
from hub.expectations import Expecting, expectations_by_id
from hub.ledger_chunks import Bits, filling, size_of
from hub.ledger_rows import save_chunks
from hub.ledger_sums import Sums
from hub.models import Expectation, LedgerChunk, Reading

REBUILT = 200
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
    sums = Sums()
    if expecting:
        await sums.read_rasters(session, {one.raster_id: size_of(one.raster.interval) for one in expecting})
    done, seen = 0, 0
    for one in expecting:
        seen += await _rebuild(session, one, sums)
        await session.execute(
            sa.update(Expectation)
            .where(Expectation.id == one.id)
            .values(rebuilding=False)
            .execution_options(synchronize_session=False)
        )
        done += 1
        if seen > REBUILT_READINGS:
            break
    await sums.save(session)
    return done


async def _rebuild(session: AsyncSession, one: Expecting, sums: Sums) -> int:
    """Make an expectation's chunks anew; return how many readings it has."""
    bits, count = await bits_from_readings(session, one)
    # Where everyone has a row, so has this one.
    for raster, chunk in [place for place, found in sums.found.items() if found.everyone]:
        until = one.until if one.until is not None else (chunk + 1) * bits.size
        if raster == one.raster_id and one.since // bits.size <= chunk <= until // bits.size:
            bits.chunks.setdefault(chunk, 0)
    rows = await session.execute(select(LedgerChunk.chunk, LedgerChunk.bits).where(LedgerChunk.expectation == one.id))
    before = {chunk: int.from_bytes(stored, "little") for chunk, stored in rows}
    # The trigger notes those that go.
    gone = before.keys() - bits.chunks.keys()
    if gone:
        await session.execute(
            sa.delete(LedgerChunk)
            .where(LedgerChunk.expectation == one.id, LedgerChunk.chunk.in_(gone))
            .execution_options(synchronize_session=False)
        )
    made = []
    for chunk in sorted(bits.chunks):
        state = filling(bits.chunks[chunk], bits.size, chunk, one.since, one.until)
        made.append((one.id, chunk, one.raster_id, state, bits.dump(chunk)))
        sums.change((one.raster_id, chunk), bits.size, before.get(chunk), bits.chunks[chunk])
    await save_chunks(session, made)
    return count


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
