"""Sums of chunks count each slot, however it came about; the totals that they give are those of the chunks."""

import collections
import datetime as dt

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.database import reading, writing
from hub.expectations import expectations_of
from hub.ledger import catch_up, keep_some
from hub.ledger_chunks import Filling, filling, size_of
from hub.ledger_sums import Planes, clear, sum_anew, sweep, wrong_sums
from hub.totals import Scope
from hub.totals_counted import count
from tests.hub.test_ledger import BEGIN, HOUR, SERIES, agrees, arrival, expect, put, work_off
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, Estate, make_estate

__all__ = ["database_url", "engine"]

_SLOTS = st.integers(0, 63)


@given(st.lists(st.frozensets(_SLOTS), max_size=40), st.data())
def test_planes_count_each_slot(added: list[frozenset[int]], data: st.DataObject) -> None:
    planes = Planes()
    counts: collections.Counter[int] = collections.Counter()
    for slots in added:
        planes.add(sum(1 << slot for slot in slots))
        counts.update(slots)
    for slots in data.draw(st.lists(st.sampled_from(added), max_size=len(added), unique_by=id)) if added else []:
        assert planes.drop(sum(1 << slot for slot in slots))
        counts.subtract(slots)
    low = data.draw(_SLOTS)
    wide = data.draw(st.integers(0, 64 - low))
    packed = planes.dump(64)
    assert Planes.load(packed, 64).count(low, wide) == sum(counts[slot] for slot in range(low, low + wide))
    assert [planes.count(slot, 1) for slot in range(64)] == [counts[slot] for slot in range(64)]
    assert len(packed) == 8 * max(counts.values(), default=0).bit_length()


def test_a_slot_that_was_not_counted_stays_at_none() -> None:
    planes = Planes()
    planes.add(0b011)
    planes.add(0b001)
    assert not planes.drop(0b110)
    assert [planes.count(slot, 1) for slot in range(3)] == [2, 0, 0]


@given(st.integers(0, 90), st.none() | st.integers(0, 90), st.frozensets(st.integers(0, 31)))
def test_a_chunk_is_whole_begun_or_holed(since: int, until: int | None, stored: frozenset[int]) -> None:
    for chunk in range(3):
        last = 31 if until is None else until - 32 * chunk
        expected = [slot for slot in range(32) if since - 32 * chunk <= slot <= last]
        kept = [slot for slot in expected if slot in stored]
        found = filling(sum(1 << slot for slot in kept), 32, chunk, since, until)
        wanted = Filling.WHOLE if kept == expected else Filling.HOLED
        assert found == (Filling.BEGUN if kept == expected[: len(kept)] and kept != expected else wanted)


async def _totals(engine: AsyncEngine, estate: Estate, begin: dt.datetime, end: dt.datetime) -> tuple[int, int, int]:
    await catch_up(engine, NOW)
    async with reading(engine) as session:
        found = await count(session, Scope(organization=estate.organization), begin, end, NOW)
    return found.expected, found.stored, len(found.lacking)


async def test_everyone_has_a_row_once_the_present_has_a_reading(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, meters=("M1", "M2", "M3"))
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    assert await _totals(engine, estate, BEGIN, BEGIN + 24 * HOUR) == (72, 0, 3)
    await put(engine, *(arrival(estate, BEGIN + hour * HOUR) for hour in range(24)))
    assert await _totals(engine, estate, BEGIN, BEGIN + 24 * HOUR) == (72, 24, 2)
    async with reading(engine) as session:
        rows = (await session.execute(sa.select(models.LedgerSum.chunks, models.LedgerSum.everyone))).all()
        states = sorted((await session.execute(sa.select(models.LedgerChunk.state))).scalars())
    assert rows == [(3, True)]
    assert states == [Filling.BEGUN, Filling.BEGUN, Filling.HOLED]
    # A meter that comes later has its row, too; one that goes takes its own with it.
    async with writing(engine) as session:
        kept = sa.delete(models.Expectation).where(models.Expectation.device == estate.meters["M3"])
        await session.execute(kept)
    assert await _totals(engine, estate, BEGIN, BEGIN + 24 * HOUR) == (48, 24, 1)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    assert await _totals(engine, estate, BEGIN, BEGIN + 24 * HOUR) == (72, 24, 2)
    assert await agrees(engine, estate)


@pytest.mark.parametrize("behind", [1, 30, 3000])
async def test_who_is_behind_is_named_and_who_is_not_is_not(engine: AsyncEngine, behind: int) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"}, commissioned=NOW - 4000 * HOUR)
    hours = [NOW - hour * HOUR for hour in range(4001)]
    await put(engine, *(arrival(estate, at) for at in hours))
    await put(engine, *(arrival(estate, at, meter="M2") for at in hours[behind:]))
    await work_off(engine)
    assert await _totals(engine, estate, NOW - 720 * HOUR, NOW + HOUR) == (1442, 1442 - min(behind, 721), 1)
    assert await _totals(engine, estate, NOW - 3500 * HOUR, NOW - behind * HOUR) == (
        max(0, 2 * (3500 - behind)),
        max(0, 2 * (3500 - behind)),
        0,
    )
    assert await agrees(engine, estate)


async def test_who_is_long_behind_is_looked_at_one_by_one_until_something_comes(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, meters=("M1", "M2", "M3"))
    await expect(engine, estate, {"series": SERIES, "interval": "hour"}, commissioned=NOW - 200 * HOUR)
    hours = [NOW - hour * HOUR for hour in range(201)]
    await put(engine, *(arrival(estate, at) for at in hours))
    await put(engine, *(arrival(estate, at, meter="M2") for at in hours[25:]))
    await put(engine, *(arrival(estate, at, meter="M3") for at in hours[20:]))
    await work_off(engine)
    before = await _totals(engine, estate, NOW - 100 * HOUR, NOW + HOUR)
    assert before == (303, 303 - 45, 2)
    async with writing(engine) as session:
        await sweep(session, NOW)
    assert await _states(engine, estate) == {"M1": Filling.BEGUN, "M2": Filling.HOLED, "M3": Filling.BEGUN}
    assert await _totals(engine, estate, NOW - 100 * HOUR, NOW + HOUR) == before
    assert await _totals(engine, estate, NOW - 100 * HOUR, NOW - 25 * HOUR) == (225, 225, 0)
    await put(engine, arrival(estate, hours[24], meter="M2"))
    await work_off(engine)
    assert await _states(engine, estate) == dict.fromkeys(("M1", "M2", "M3"), Filling.BEGUN)
    assert await agrees(engine, estate)


async def _states(engine: AsyncEngine, estate: Estate) -> dict[str, int]:
    """Return how the chunk is filled in which the present lies, by meter."""
    names = {key: name for name, key in estate.meters.items()}
    async with reading(engine) as session:
        rows = await session.execute(
            sa.select(models.Expectation.device, models.LedgerChunk.state)
            .join(models.LedgerChunk, models.LedgerChunk.expectation == models.Expectation.id)
            .order_by(models.LedgerChunk.chunk)
        )
        return {names[device]: state for device, state in rows}


async def test_what_is_expected_no_longer_goes_out_of_the_sums(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    await put(engine, *(arrival(estate, BEGIN + hour * HOUR) for hour in range(24) if hour != 3))
    await work_off(engine)
    async with writing(engine) as session:
        # What retention does: nothing before is expected, and it goes out of all chunks of the raster.
        one, _ = await expectations_of(session, estate.meters.values())
        chunk, low = divmod(one.raster.first_slot_at_or_after(BEGIN + 12 * HOUR), size_of("hour"))
        for row in (await session.execute(sa.select(models.LedgerChunk))).scalars():
            row.bits = (int.from_bytes(row.bits, "little") >> low << low).to_bytes(256, "little")
        await clear(session, (one.raster_id, chunk), size_of("hour"), low)
        await session.execute(sa.update(models.Expectation).values(since_slot=chunk * size_of("hour") + low))
        assert await wrong_sums(session, one.raster_id, size_of("hour")) == []
    assert await _totals(engine, estate, BEGIN, BEGIN + 24 * HOUR) == (24, 12, 1)


async def test_sums_that_are_wrong_are_found_and_made_anew(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await expect(engine, estate, {"series": SERIES, "interval": "hour"})
    await put(engine, *(arrival(estate, BEGIN + hour * HOUR) for hour in range(24)))
    while await keep_some(engine, NOW):
        pass
    async with writing(engine) as session:
        await session.execute(sa.update(models.LedgerSum).values(planes=bytes([255] * 256)))
        raster, chunk = (await session.execute(sa.select(models.LedgerSum.raster, models.LedgerSum.chunk))).one()
        assert await wrong_sums(session, raster, size_of("hour")) == [chunk]
        await sum_anew(session, raster, size_of("hour"))
        assert await wrong_sums(session, raster, size_of("hour")) == []
    assert await _totals(engine, estate, BEGIN, BEGIN + 24 * HOUR) == (48, 24, 1)
