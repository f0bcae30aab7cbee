"""The ledger: which of the expected slots are stored. Kept by clerks, asked by completeness and backfill.

Rules:
- Ingestion notes the keys of new readings in its own transaction (``hub.ledger_pending``); a clerk folds the notes into
  chunks (``hub.ledger_chunks``) and removes them, both in one transaction (``hub.ledger_folding``), and in the same the
  sums of chunks (``hub.ledger_sums``). To set a bit twice changes nothing.
- Whoever writes the ledger has its turn (``ledger_turn``): one clerk at a time, of however many relays. So notes are
  folded in their order, and no chunk is written by two. Only who deletes a meter takes its chunks without a turn.
- On SQLite whoever has the turn keeps ingestion from writing. So there a clerk reckons before its turn, and in it only
  writes; turns are counted (``_TURNS``), and when another had one meanwhile what was reckoned is reckoned again.
- What is asked is folded first (``catch_up``): an answer knows every reading that was committed before the question.
- A chunk never has a bit for a slot that is not expected, so counts need not look at where expectations begin and end.
- Chunks made anew from the readings (``hub.ledger_rebuilding``) are the same chunks; ``differences`` compares them.
"""

import contextlib
import dataclasses
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.among import among
from hub.database import reading, writing
from hub.expectations import Expecting, expectations_of, recompute
from hub.ledger_chunks import Bits, parts, size_of
from hub.ledger_folding import OvertakenError, fold, fold_gone, reckon, write
from hub.ledger_rebuilding import bits_from_readings, rebuild_some
from hub.ledger_rows import load_chunks
from hub.models import Expectation, ExpectationMark, HubState, LedgerChunk, LedgerPending, LedgerSettled

_LOCK = 0x6D6C6467
"""PostgreSQL advisory lock: one process writes the ledger at a time."""

_TURNS = "ledger_turns"
"""Under this key ``hub_state`` has, on SQLite, how many turns there were."""

_IDS = 5000


@contextlib.asynccontextmanager
async def ledger_turn(engine: AsyncEngine, *, wait: bool) -> AsyncIterator[AsyncSession | None]:
    """Open a transaction that may write the ledger; None, without ``wait``, while another one has the turn.

    On SQLite each writing transaction is the only one.
    """
    async with writing(engine) as session:
        if engine.dialect.name != "postgresql":
            await session.execute(_COUNT_TURN, {"key": _TURNS})
            yield session
        elif wait:
            await session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            yield session
        else:
            mine = await session.scalar(text(f"SELECT pg_try_advisory_xact_lock({_LOCK})"))
            yield session if mine else None


_COUNT_TURN = text("""
    INSERT INTO hub_state (key, value) VALUES (:key, '1')
    ON CONFLICT (key) DO UPDATE SET value = CAST(hub_state.value AS INTEGER) + 1
""")


async def _turns(session: AsyncSession) -> int:
    """Return how many turns there were, this one included if it is one."""
    return int(await session.scalar(select(HubState.value).where(HubState.key == _TURNS)) or 0)


async def _fold_some(engine: AsyncEngine, now: dt.datetime) -> bool | None:
    """Fold the oldest notes; return whether there are more, or None while another one has the turn."""
    if engine.dialect.name == "postgresql":
        async with ledger_turn(engine, wait=False) as writer:
            return None if writer is None else await fold(writer, now)
    async with reading(engine) as session:
        turns = await _turns(session)
        folded = await reckon(session)
    if folded is None:
        return False
    with contextlib.suppress(OvertakenError):
        async with ledger_turn(engine, wait=True) as writer:
            if writer is None or await _turns(writer) != turns + 1:
                raise OvertakenError("another one had the turn meanwhile")
            await write(writer, folded, now)
        return folded.more
    # Within the turn nobody overtakes it.
    async with ledger_turn(engine, wait=True) as writer:
        return None if writer is None else await fold(writer, now)


async def keep_some(engine: AsyncEngine, now: dt.datetime) -> bool:
    """Do a clerk's turn: fold, make expectations again, rebuild, a bounded part of each.

    Returns:
        Whether there is more to do at once: not while another clerk is at it, nor when the notes that were there are
        folded. Those that come until the next turn are folded together, and each chunk written once.
    """
    async with reading(engine) as session:
        noted, marked, stale = [
            (await session.execute(statement.limit(1))).first() is not None
            for statement in (
                select(LedgerPending.id),
                select(ExpectationMark.id),
                select(Expectation.id).where(Expectation.rebuilding),
            )
        ]
    more = False
    if noted:
        folded = await _fold_some(engine, now)
        if folded is None:
            return False
        more = folded
    if marked or stale:
        async with ledger_turn(engine, wait=False) as writer:
            if writer is None:
                return False
            more = bool((marked and await recompute(writer, now)) or await rebuild_some(writer)) or more
            await fold_gone(writer)
    return more


async def catch_up(engine: AsyncEngine, now: dt.datetime) -> None:
    """Fold every reading that was committed before the call; of edits and rebuilds do one turn.

    What is still to be rebuilt afterwards says so (``Expecting.rebuilding``).
    """
    async with reading(engine) as session:
        newest = await session.scalar(select(sa.func.max(LedgerPending.id)))
        marked = (await session.execute(select(ExpectationMark.id).limit(1))).first() is not None
    while newest is not None:
        async with ledger_turn(engine, wait=True) as session:
            if session is None:
                return
            await fold(session, now)
            oldest = await session.scalar(select(sa.func.min(LedgerPending.id)))
        if oldest is None or oldest > newest:
            break
    if marked:
        async with ledger_turn(engine, wait=True) as session:
            if session is not None:
                await recompute(session, now)
                await fold_gone(session)
    async with reading(engine) as session:
        stale = (await session.execute(select(Expectation.id).where(Expectation.rebuilding).limit(1))).first()
    if stale is not None:
        async with ledger_turn(engine, wait=True) as session:
            if session is not None:
                await rebuild_some(session)
                await fold_gone(session)


async def rebuild_all(engine: AsyncEngine) -> None:
    """Make all chunks anew that are not to be believed, in turns of bounded size."""
    while True:
        async with reading(engine) as session:
            waiting = select(Expectation.id).where(Expectation.rebuilding).limit(1)
            if (await session.execute(waiting)).first() is None:
                return
        async with ledger_turn(engine, wait=True) as session:
            if session is None or not await rebuild_some(session):
                return
            await fold_gone(session)


# What is in it


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """Where chunks and readings do not agree: slots of readings that are not in, and slots in without a reading."""

    device: uuid.UUID
    series: uuid.UUID
    lacking: int
    too_many: int
    first: dt.datetime
    """The instant of the first slot that differs."""


async def differences(session: AsyncSession, one: Expecting) -> Difference | None:
    """Compare an expectation's chunks with its readings; the caller has the turn, and has folded."""
    there, _ = await bits_from_readings(session, one)
    kept = (await bits_of(session, [one])).get(one.id, Bits(there.size))
    lacking = too_many = 0
    firsts = []
    for chunk in sorted(there.chunks.keys() | kept.chunks.keys()):
        real, stored = there.chunks.get(chunk, 0), kept.chunks.get(chunk, 0)
        lacking += (real & ~stored).bit_count()
        too_many += (stored & ~real).bit_count()
        if wrong := real ^ stored:
            firsts.append(chunk * there.size + (wrong & -wrong).bit_length() - 1)
    if not firsts:
        return None
    return Difference(one.device, one.series, lacking, too_many, one.raster.instant_of(firsts[0]))


async def bits_of(
    session: AsyncSession,
    expectations: Sequence[Expecting],
    windows: dict[int, tuple[int, int]] | None = None,
) -> dict[int, Bits]:
    """Return the stored bits by expectation; of those in ``windows`` only what lies from a first to a last slot."""
    found = {one.id: Bits(size_of(one.raster.interval)) for one in expectations}
    wanted = list(expectations)
    for start in range(0, len(wanted), _IDS):
        some = wanted[start : start + _IDS]
        if windows is None:
            condition = LedgerChunk.expectation.in_([one.id for one in some])
            rows: Iterable[Any] = await session.execute(
                select(LedgerChunk.expectation, LedgerChunk.chunk, LedgerChunk.bits).where(condition)
            )
        else:
            keys = [(one.id, part.chunk) for one in some for part in parts(found[one.id].size, *windows[one.id])]
            rows = await load_chunks(session, keys)
        for key, chunk, bits in rows:
            found[key].load(chunk, bits)
    return found


# What backfill works with


@dataclasses.dataclass(frozen=True, slots=True)
class MissingSpan:
    """Expected slots in a row that are neither stored nor lost for good; both instants are those of slots."""

    expectation: int
    device: uuid.UUID
    series: uuid.UUID
    archive: int | None
    start: dt.datetime
    end: dt.datetime
    count: int


async def missing_spans(
    session: AsyncSession, devices: Collection[uuid.UUID], start: dt.datetime, end: dt.datetime, now: dt.datetime
) -> list[MissingSpan]:
    """Return what these meters lack of [start, end) until now, in order of meter, series and time.

    Call ``catch_up`` before: what was stored just now is else still missing. Series that are being rebuilt are left
    out: what they lack is not known.
    """
    expecting = [one for one in await expectations_of(session, devices) if not one.rebuilding]
    windows = {one.id: one.window(start, end, now) for one in expecting}
    bits = await bits_of(session, expecting, windows)
    lost = await settled_of(session, expecting)
    found = []
    for one in sorted(expecting, key=lambda one: (one.device, one.series, one.since)):
        first, last = windows[one.id]
        known = bits[one.id]
        for settled in lost.get(one.id, ()):
            begin, finish = settled.slots(one)
            known.add(range(max(first, begin), min(last, finish) + 1))
        for begin, finish in known.missing(first, last):
            instants = one.raster.instant_of(begin), one.raster.instant_of(finish)
            found.append(MissingSpan(one.id, one.device, one.series, one.archive, *instants, finish - begin + 1))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """A span that is lost for good, with the meter's own words; both instants are in it."""

    start: dt.datetime
    end: dt.datetime
    evidence: str
    command: uuid.UUID | None
    since: dt.datetime

    def slots(self, one: Expecting) -> tuple[int, int]:
        """Return the first and last slot of it; none if first > last."""
        return one.raster.first_slot_at_or_after(self.start), one.raster.slot_at_or_before(self.end)


async def settled_of(session: AsyncSession, expectations: Sequence[Expecting]) -> dict[int, list[Settled]]:
    """Return what is settled as lost, by expectation, in order of time."""
    found: dict[int, list[Settled]] = {}
    ids = sorted(one.id for one in expectations)
    for begin in range(0, len(ids), _IDS):
        rows = await session.execute(
            select(LedgerSettled)
            .where(among(session, LedgerSettled.expectation, ids[begin : begin + _IDS]))
            .order_by(LedgerSettled.start, LedgerSettled.id)
        )
        for row in rows.scalars():
            found.setdefault(row.expectation, []).append(
                Settled(row.start, row.end, row.evidence, row.command, row.created_at)
            )
    return found


async def settle(
    session: AsyncSession,
    device: uuid.UUID,
    series: uuid.UUID,
    start: dt.datetime,
    end: dt.datetime,
    *,
    evidence: str,
    now: dt.datetime,
    command: uuid.UUID | None = None,
) -> int:
    """Settle, in the caller's transaction, that what is missing from ``start`` to ``end`` is lost for good.

    Both instants are in it. ``evidence`` is what the meter said (``#0103``). Late data counts all the same: what is
    stored is stored. Settling the same span again adds nothing. Returns of how many expectations it is.
    """
    settled = 0
    for one in await expectations_of(session, [device], lock=True):
        if one.series != series:
            continue
        same = (
            LedgerSettled.expectation == one.id,
            LedgerSettled.start == start,
            LedgerSettled.end == end,
        )
        if (await session.execute(select(LedgerSettled.id).where(*same))).first() is None:
            session.add(
                LedgerSettled(
                    expectation=one.id, start=start, end=end, evidence=evidence, command=command, created_at=now
                )
            )
        settled += 1
    await session.flush()
    return settled
