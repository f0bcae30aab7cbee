"""Folding: what was noted of readings that came and went becomes bits of chunks, and counts of sums.

The caller has the ledger's turn (``hub.ledger``). Notes are folded in their order, many together, so that a chunk is
written once for all that they say; a chunk whose bits do not change is not written.
"""

import datetime as dt
import itertools
import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import ledger_pending
from hub.among import among
from hub.expectations import Expecting, expectations_of
from hub.ledger_chunks import Bits, chunks_of, filling, size_of
from hub.ledger_rows import Row, load_chunks, save_chunks
from hub.ledger_sums import Sums, fill
from hub.models import LedgerPending, Reading

NOTES = 400
NOTE_BYTES = 200_000
"""Notes folded per turn, each of what one transaction brought, and after how many bytes (9 a reading) no further."""

_IDS = 5000

_Steps = dict[int, list[tuple[bool, Sequence[int]]]]
"""By expectation, in order, which slots became empty, or were filled."""


async def fold(session: AsyncSession, now: dt.datetime) -> bool:
    """Fold the oldest notes, in turns so short that nobody waits for this process; return whether there are more."""
    sizes = await session.execute(
        select(LedgerPending.id, sa.func.length(LedgerPending.keys)).order_by(LedgerPending.id).limit(NOTES)
    )
    waiting = [(key, size) for key, size in sizes]
    sums = itertools.accumulate(size for _, size in waiting)
    taken = [key for (key, size), total in zip(waiting, sums, strict=True) if total - size < NOTE_BYTES]
    if not taken:
        return False
    wanted = select(LedgerPending).where(among(session, LedgerPending.id, taken)).order_by(LedgerPending.id)
    rows = await session.execute(wanted)
    notes = rows.scalars().all()
    of_keys = [note for note in notes if note.raster is None]
    await _fold_keys(session, of_keys, now)
    await _remove(session, of_keys)
    await _take_out(session, [note for note in notes if note.raster is not None])
    return len(taken) < len(waiting) or len(waiting) == NOTES


async def fold_gone(session: AsyncSession) -> None:
    """Fold at once what is noted of chunks that are gone: an edit's own turn takes them out of the sums.

    It need not wait for the notes before: what a chunk had was in the sums before it went.
    """
    rows = await session.execute(select(LedgerPending).where(LedgerPending.raster.is_not(None)))
    await _take_out(session, rows.scalars().all())


async def _take_out(session: AsyncSession, notes: Sequence[LedgerPending]) -> None:
    """Take chunks that are gone out of the sums, and remove the notes."""
    gone = [((note.raster or 0, note.chunk or 0), note.keys) for note in notes]
    if not gone:
        return
    sums = Sums()
    await sums.read(session, [place for place, _ in gone], {raster: 8 * len(bits) for (raster, _), bits in gone})
    for place, bits in gone:
        sums.drop(place, int.from_bytes(bits, "little"))
    await sums.save(session)
    await _remove(session, notes)


async def _remove(session: AsyncSession, notes: Sequence[LedgerPending]) -> None:
    ids = [note.id for note in notes]
    for start in range(0, len(ids), _IDS):
        await session.execute(
            sa.delete(LedgerPending)
            .where(among(session, LedgerPending.id, ids[start : start + _IDS]))
            .execution_options(synchronize_session=False)
        )


async def _fold_keys(session: AsyncSession, notes: Sequence[LedgerPending], now: dt.datetime) -> None:
    told = [(ledger_pending.unpack(note.keys), note.removed) for note in notes]
    devices = {uuid.UUID(bytes=key) for key in {device for series_of, _ in told for device, _, _ in series_of}}
    # By bytes: of UUIDs thousands were made, hashed and compared for nothing.
    expecting: dict[tuple[bytes, bytes], list[Expecting]] = {}
    for one in await expectations_of(session, devices, lock=True):
        expecting.setdefault((one.device.bytes, one.series.bytes), []).append(one)
    steps: _Steps = {}
    by_id: dict[int, Expecting] = {}
    for series_of, removed in told:
        for device, series, timestamps in series_of:
            for one in expecting.get((device, series), ()):
                slots = one.slots(timestamps)
                if removed and one.momentary:
                    slots = await _empty(session, one, slots)
                if slots:
                    by_id[one.id] = one
                    steps.setdefault(one.id, []).append((removed, slots))
    await _apply(session, by_id, steps, now)


async def _empty(session: AsyncSession, one: Expecting, slots: Sequence[int]) -> list[int]:
    """Return the slots that no other momentary reading fills."""
    left = []
    for slot in slots:
        found = await session.execute(
            select(Reading.id)
            .where(
                Reading.meter_device == one.device,
                Reading.series == one.series,
                Reading.timestamp >= one.raster.instant_of(slot),
                Reading.timestamp < one.raster.instant_of(slot + 1),
            )
            .limit(1)
        )
        if found.first() is None:
            left.append(slot)
    return left


async def _apply(
    session: AsyncSession,
    by_id: dict[int, Expecting],
    steps: _Steps,
    now: dt.datetime,
) -> None:
    if not steps:
        return
    bits: dict[int, Bits] = {}
    touched: list[tuple[int, int]] = []
    for key, done in steps.items():
        size = size_of(by_id[key].raster.interval)
        bits[key] = Bits(size)
        touched += [(key, chunk) for chunk in {chunk for _, slots in done for chunk in chunks_of(size, slots)}]
    touched.sort()
    before: dict[tuple[int, int], int] = {}
    for key, chunk, stored in await load_chunks(session, touched):
        bits[key].load(chunk, stored)
        before[key, chunk] = bits[key].chunks[chunk]
    for key, done in steps.items():
        for removed, slots in done:
            (bits[key].drop if removed else bits[key].add)(slots)
    rasters = {one.raster_id: one.raster for one in by_id.values()}
    sizes = {key: size_of(raster.interval) for key, raster in rasters.items()}
    sums = Sums()
    await sums.read(session, {(by_id[key].raster_id, chunk) for key, chunk in touched}, sizes)
    rows: list[Row] = []
    for key, chunk in touched:
        one, old, new = by_id[key], before.get((key, chunk)), bits[key].chunks.get(chunk, 0)
        if new != (old or 0):
            state = filling(new, bits[key].size, chunk, one.since, one.until)
            rows.append((key, chunk, one.raster_id, state, bits[key].dump(chunk)))
            sums.change((one.raster_id, chunk), bits[key].size, old, new)
    await save_chunks(session, rows)
    for place, one_sum in list(sums.found.items()):
        raster, size = rasters[place[0]], sizes[place[0]]
        if one_sum.chunks and not one_sum.everyone and raster.slot_at_or_before(now) // size == place[1]:
            sums.filled(place, await fill(session, place, size))
    await sums.save(session)
