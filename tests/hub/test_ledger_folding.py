"""A fold that is reckoned before it is written: whatever happens between the two, each reading counts once."""

import asyncio
import datetime as dt
import decimal
import signal
import sys

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.database import reading, writing
from hub.expectations import expectations_of, mark, recompute
from hub.ledger import bits_of, catch_up, differences, keep_some, ledger_turn
from hub.ledger_chunks import size_of
from hub.ledger_folding import OvertakenError, fold_gone, reckon, write
from hub.ledger_sums import wrong_sums
from hub.versions import Arrival, store
from tests.parts.databases import ON_SQLITE, database_url, engine
from tests.parts.estates import NOW, Estate, make_estate

__all__ = ["database_url", "engine"]

SERIES = "7:310/3"
HOUR = dt.timedelta(hours=1)
BEGIN = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)


async def expecting(engine: AsyncEngine) -> Estate:
    """Return an estate of which hourly values are expected, as the ledger knows."""
    estate = await make_estate(engine)
    async with writing(engine) as session:
        wanted = [{"series": SERIES, "interval": "hour", "anchor_seconds": None, "archive": 3}]
        await session.execute(sa.update(models.MeterDeviceConfig).values(expectations=wanted))
        await session.execute(sa.update(models.MeterDevice).values(commissioned=BEGIN))
        await mark(session, models.MeterDeviceConfig, estate.config)
    while await keep_some(engine, NOW):
        pass
    return estate


async def put(engine: AsyncEngine, estate: Estate, *hours: int) -> None:
    """Store M1's readings of these hours."""
    async with writing(engine) as session:
        key = (estate.organization, estate.meters["M1"], estate.series[SERIES])
        await store(session, [Arrival(*key, BEGIN + hour * HOUR, decimal.Decimal(1), NOW) for hour in hours], NOW)


async def counted(engine: AsyncEngine, estate: Estate) -> int:
    """Return how many slots are in, after everything was folded; and see that all of the ledger agrees."""
    await catch_up(engine, NOW)
    async with writing(engine) as session:
        found = await expectations_of(session, estate.meters.values())
        assert [await differences(session, one) for one in found] == [None] * len(found)
        for raster in (await session.execute(sa.select(models.LedgerRaster))).scalars():
            assert await wrong_sums(session, raster.id, size_of(raster.interval)) == []
        bits = await bits_of(session, found)
    return sum(chunk.bit_count() for one in bits.values() for chunk in one.chunks.values())


async def leave(engine: AsyncEngine, estate: Estate) -> None:
    """Do what deleting the meter does."""
    async with writing(engine) as session:
        await session.execute(sa.delete(models.Reading).where(models.Reading.meter_device == estate.meters["M1"]))
        await session.execute(sa.delete(models.Expectation).where(models.Expectation.device == estate.meters["M1"]))


@ON_SQLITE
@pytest.mark.parametrize("known", [True, False])
async def test_what_was_reckoned_of_a_meter_that_went_is_not_written(engine: AsyncEngine, known: bool) -> None:  # noqa: FBT001 - a parameter
    estate = await expecting(engine)
    if known:
        # Its chunk is there; else it is a new one.
        await put(engine, estate, 0)
        await catch_up(engine, NOW)
    else:
        async with writing(engine) as session:
            await session.execute(sa.delete(models.LedgerChunk))
            await fold_gone(session)
    await put(engine, estate, 1, 2)
    async with reading(engine) as session:
        folded = await reckon(session)
    assert folded is not None
    await leave(engine, estate)
    with pytest.raises(OvertakenError):
        async with writing(engine) as session:
            await write(session, folded, NOW)
    assert await counted(engine, estate) == 0


async def test_a_clerk_that_another_overtook_reckons_again(engine: AsyncEngine) -> None:
    estate = await expecting(engine)
    await put(engine, estate, *range(6))
    async with ledger_turn(engine, wait=True) as session:
        assert session is not None
        # It has reckoned with all six, and waits for its turn.
        clerk = asyncio.create_task(keep_some(engine, NOW))
        await asyncio.sleep(0.3)
        ended = sa.update(models.MeterDevice).where(models.MeterDevice.id == estate.meters["M1"])
        await session.execute(ended.values(decommissioned=BEGIN + 3 * HOUR))
        await mark(session, models.MeterDevice, estate.meters["M1"])
        await recompute(session, NOW)
    await clerk
    # What is expected no longer is not in.
    assert await counted(engine, estate) < 6


async def test_two_clerks_fold_each_note_once(engine: AsyncEngine) -> None:
    estate = await expecting(engine)
    for hour in range(8):
        await put(engine, estate, hour)
        await asyncio.gather(*(keep_some(engine, NOW) for _ in range(3)), catch_up(engine, NOW))
    assert await counted(engine, estate) == 8


_KILLED = """
import asyncio, datetime as dt, os, signal, sys
from hub.database import create_engine, reading
from hub.ledger import ledger_turn
from hub.ledger_folding import reckon, write

async def main(url):
    engine = create_engine(url)
    async with reading(engine) as session:
        folded = await reckon(session)
    async with ledger_turn(engine, wait=True) as session:
        await write(session, folded, dt.datetime(2026, 11, 21, tzinfo=dt.UTC))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1]))
"""


@ON_SQLITE
async def test_a_clerk_that_is_killed_between_leaves_the_notes(engine: AsyncEngine) -> None:
    estate = await expecting(engine)
    await put(engine, estate, 1, 2, 3)
    url = engine.url.render_as_string(hide_password=False)
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", _KILLED, url)
    assert await killed.wait() == -signal.SIGKILL
    async with reading(engine) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(models.LedgerPending)) == 1
    assert await counted(engine, estate) == 3
