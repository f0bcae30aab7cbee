"""Folding: what was noted of readings that came and went becomes bits of chunks, and counts of sums.

Notes are folded in their order, many together, so that a chunk is written once for all that they say; a chunk whose
bits do not change is not written. To fold is to reckon (``reckon``), which only reads, and to write what came of it
(``write``), for which the caller has the ledger's turn (``hub.ledger``). Either both are done in one turn (``fold``),
or somebody reckons before the turn, and finds in it that nobody else had it meanwhile: then nothing but this can have
happened to what it was reckoned from, and ``write`` looks for it:

- A meter was deleted, and with it expectations and chunks. A chunk that goes is noted by a trigger; of chunks that are
  new it is asked whether their expectations are still there.
- Readings came or went: these are noted as well, and folded after what was reckoned.
"""

import asyncio
import dataclasses
import datetime as dt
import itertools
import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import ledger_pending
from hub.among import among
from hub.expectations import Expecting
from hub.ledger_chunks import Bits, chunks_of, filling, size_of
from hub.ledger_rows import Row, load_chunks, load_expecting, save_chunks
from hub.ledger_sums import Change, Place, Sums, fill
from hub.many import batched
from hub.models import LedgerPending, Reading
from protocol.rasters import Raster

NOTES = 400
NOTE_BYTES = 400_000
"""Notes folded per turn, each of what one transaction brought, and after how many bytes (9 to 47 a reading) no further:
so what is written in a turn takes some 0.1 s."""

_IDS = 5000
_CHUNKS = 500
_UNPAUSED = 100
"""Series that are reckoned, or chunks, until whoever else waits for this process has a turn: half a millisecond."""

_Steps = dict[int, list[tuple[bool, Sequence[int]]]]
"""By expectation, in order, which slots became empty, or were filled."""

_Gone = tuple[int, Place, bytes]
"""Of a chunk that is gone: its note, where it was, its bits."""


class OvertakenError(RuntimeError):
    """What was reckoned is not to be written: what it was reckoned from is not so any more."""


@dataclasses.dataclass(slots=True)
class Folded:
    """What notes make of the ledger."""

    newest: int
    """The newest note that there was, folded or not."""
    more: bool
    """Whether there were more notes than these."""
    notes: list[int]
    gone: list[_Gone]
    rows: list[Row] = dataclasses.field(default_factory=list)
    """Chunks to write."""
    new: list[int] = dataclasses.field(default_factory=list)
    """The expectations of chunks that were not there."""
    changes: dict[Place, Change] = dataclasses.field(default_factory=dict)
    touched: dict[Place, Raster] = dataclasses.field(default_factory=dict)
    """Where readings came or went, whether that changed anything or not."""


async def fold(session: AsyncSession, now: dt.datetime) -> bool:
    """Fold the oldest notes, as the caller has the ledger's turn; return whether there are more."""
    folded = await reckon(session)
    if folded is None:
        return False
    await write(session, folded, now)
    return folded.more


async def reckon(session: AsyncSession) -> Folded | None:
    """Reckon what the oldest notes make of the ledger, a bounded number of them; None when there is none.

    All is read in one snapshot, or by whoever has the ledger's turn.
    """
    sizes = await session.execute(
        select(LedgerPending.id, sa.func.length(LedgerPending.keys)).order_by(LedgerPending.id).limit(NOTES)
    )
    waiting = [(key, size) for key, size in sizes]
    sums = itertools.accumulate(size for _, size in waiting)
    taken = [key for (key, size), total in zip(waiting, sums, strict=True) if total - size < NOTE_BYTES]
    if not taken:
        return None
    newest = await session.scalar(select(sa.func.max(LedgerPending.id)))
    found = await session.execute(
        select(LedgerPending.id, LedgerPending.keys, LedgerPending.removed, LedgerPending.raster, LedgerPending.chunk)
        .where(among(session, LedgerPending.id, taken))
        .order_by(LedgerPending.id)
    )
    told: list[tuple[bytes, bool]] = []
    gone: list[_Gone] = []
    for key, packed, removed, raster, chunk in found:
        if raster is None:
            told.append((packed, removed))
        else:
            gone.append((key, (raster, chunk or 0), packed))
    folded = Folded(newest or taken[-1], len(taken) < len(waiting) or len(waiting) == NOTES, taken, gone)
    await _reckon_keys(session, folded, told)
    return folded


async def write(session: AsyncSession, folded: Folded, now: dt.datetime) -> None:
    """Write what was reckoned, and remove the notes; the caller has the ledger's turn.

    Raises:
        OvertakenError: a meter was deleted meanwhile: nothing of the transaction may be committed.
    """
    await _check(session, folded)
    await save_chunks(session, folded.rows)
    sums = Sums()
    sizes = {place: size_of(raster.interval) for place, raster in folded.touched.items()}
    await sums.read(session, sizes, {raster: size for (raster, _), size in sizes.items()})
    for place, change in folded.changes.items():
        sums.join(place, change)
    for place, raster in folded.touched.items():
        one = sums.found[place]
        if one.chunks and not one.everyone and raster.slot_at_or_before(now) // sizes[place] == place[1]:
            sums.filled(place, await fill(session, place, sizes[place]))
    await sums.save(session)
    await _take_out(session, folded.gone)
    await _remove(session, folded.notes)


async def _check(session: AsyncSession, folded: Folded) -> None:
    if session.get_bind().dialect.name == "postgresql":
        # Reckoned in this transaction, and kept from being deleted meanwhile.
        return
    went = select(LedgerPending.id).where(LedgerPending.id > folded.newest, LedgerPending.raster.is_not(None)).limit(1)
    if (await session.execute(went)).first() is not None:
        raise OvertakenError("chunks were deleted meanwhile")
    new = sorted(set(folded.new))
    connection = await session.connection()
    if new and (await connection.exec_driver_sql(_SQLITE_THERE, (json.dumps(new),))).scalar() != len(new):
        raise OvertakenError("expectations were deleted meanwhile")


_SQLITE_THERE = "SELECT count(*) FROM json_each(?) k CROSS JOIN expectations e ON e.id = k.value"


async def fold_gone(session: AsyncSession) -> None:
    """Fold at once what is noted of chunks that are gone: an edit's own turn takes them out of the sums.

    It need not wait for the notes before: what a chunk had was in the sums before it went.
    """
    rows = await session.execute(select(LedgerPending).where(LedgerPending.raster.is_not(None)))
    gone = [(note.id, (note.raster or 0, note.chunk or 0), note.keys) for note in rows.scalars()]
    await _take_out(session, gone)
    await _remove(session, [key for key, _, _ in gone])


async def _take_out(session: AsyncSession, gone: Sequence[_Gone]) -> None:
    """Take chunks that are gone out of the sums."""
    if not gone:
        return
    sums = Sums()
    sizes = {raster: 8 * len(bits) for _, (raster, _), bits in gone}
    await sums.read(session, [place for _, place, _ in gone], sizes)
    for _, place, bits in gone:
        sums.drop(place, int.from_bytes(bits, "little"))
    await sums.save(session)


async def _remove(session: AsyncSession, notes: Sequence[int]) -> None:
    for some in batched(notes, _IDS):
        await session.execute(
            sa.delete(LedgerPending)
            .where(among(session, LedgerPending.id, some))
            .execution_options(synchronize_session=False)
        )


async def _reckon_keys(session: AsyncSession, folded: Folded, notes: Sequence[tuple[bytes, bool]]) -> None:
    told = [(ledger_pending.unpack(packed), removed) for packed, removed in notes]
    expecting = await load_expecting(session, {device for series_of, _ in told for device, _, _ in series_of})
    steps: _Steps = {}
    by_id: dict[int, Expecting] = {}
    for series_of, removed in told:
        for number, (device, series, timestamps) in enumerate(series_of):
            if not number % _UNPAUSED:
                await asyncio.sleep(0)
            for one in expecting.get((device, series), ()):
                slots = one.slots(timestamps)
                if removed and one.momentary:
                    slots = await _empty(session, one, slots)
                if slots:
                    by_id[one.id] = one
                    steps.setdefault(one.id, []).append((removed, slots))
    await _reckon_chunks(session, folded, by_id, steps)


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


async def _reckon_chunks(session: AsyncSession, folded: Folded, by_id: dict[int, Expecting], steps: _Steps) -> None:
    # In the order of their keys, as they are written.
    for some in batched(sorted(steps), _CHUNKS):
        bits: dict[int, Bits] = {}
        touched: list[tuple[int, int]] = []
        for key in some:
            size = size_of(by_id[key].raster.interval)
            bits[key] = Bits(size)
            chunks = {chunk for _, slots in steps[key] for chunk in chunks_of(size, slots)}
            touched += [(key, chunk) for chunk in sorted(chunks)]
        before: dict[tuple[int, int], int] = {}
        for key, chunk, stored in await load_chunks(session, touched):
            bits[key].load(chunk, stored)
            before[key, chunk] = bits[key].chunks[chunk]
        for key in some:
            for removed, slots in steps[key]:
                (bits[key].drop if removed else bits[key].add)(slots)
        for number, (key, chunk) in enumerate(touched):
            if not number % _UNPAUSED:
                await asyncio.sleep(0)
            _change(folded, by_id[key], chunk, before.get((key, chunk)), bits[key])


def _change(folded: Folded, one: Expecting, chunk: int, old: int | None, bits: Bits) -> None:
    place = (one.raster_id, chunk)
    folded.touched[place] = one.raster
    new = bits.chunks.get(chunk, 0)
    if new == (old or 0):
        return
    state = filling(new, bits.size, chunk, one.since, one.until)
    folded.rows.append((one.id, chunk, one.raster_id, state, bits.dump(chunk)))
    folded.changes.setdefault(place, Change(bits.size)).note(old, new)
    if old is None:
        folded.new.append(one.id)
