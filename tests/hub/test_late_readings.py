"""Late readings come to months of their own while readings arrive: each stays there once, and nobody waits long."""

import asyncio
import datetime as dt
import decimal
import itertools
import random
import signal
import sys
import time
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import late_readings, models, partitions
from hub.database import create_engine, writing
from hub.database import reading as looking
from hub.ingest import store_deliveries
from hub.late_readings import late_months, under_way
from hub.migrating import move
from hub.months import Month
from hub.partitions import make_partitions, take_step
from protocol.readings import NewMeterReading
from tests.parts.databases import drop_postgresql, new_postgresql
from tests.parts.estates import NOW, Estate, GatewayVoice, make_estate

DAY = dt.timedelta(days=1)


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    """Return an engine on an empty PostgreSQL; moves have many steps, and each goes at once."""
    monkeypatch.setattr(late_readings, "SLICE", 7)
    monkeypatch.setattr(late_readings, "MOST", 5)
    monkeypatch.setattr(partitions, "AGAIN_SECONDS", 0.02)
    name, url = await new_postgresql()
    made = create_engine(url)
    yield made
    await made.dispose()
    await drop_postgresql(name)


def late(estate: Estate, numbers: range, value: int = 0, meter: str = "M1") -> list[NewMeterReading]:
    """Return readings of an old archive, five days apart; their values are their numbers, unless it is said."""
    return [
        NewMeterReading(
            meter,
            "2:300",
            NOW - (number + 1) * 5 * DAY,
            decimal.Decimal(value or number),
            device=estate.meters[meter],
            collected=NOW + dt.timedelta(seconds=value),
        )
        for number in numbers
    ]


async def deliver(engine: AsyncEngine, voice: GatewayVoice, rows: list[NewMeterReading]) -> dict[str, int]:
    """Take them in as the relay does."""
    return dict((await store_deliveries(engine, [voice.readings(*rows)], NOW, 10)).counts)


async def table(engine: AsyncEngine, name: str = "readings") -> list[tuple[object, ...]]:
    """Return what is there of every reading that matters."""
    async with looking(engine) as session:
        rows = await session.execute(
            sa.text(f"SELECT id, meter_device, timestamp, value, version_count, flags FROM {name} ORDER BY id")  # noqa: S608 - our tables
        )
        return [tuple(row) for row in rows]


async def step_once(engine: AsyncEngine) -> list[str] | None:
    """Do one step."""
    async with writing(engine) as session:
        return await take_step(session, NOW)


async def test_every_reading_is_there_once_at_every_step(engine: AsyncEngine) -> None:
    estate, voice = await make_estate(engine), GatewayVoice()
    await deliver(engine, voice, late(estate, range(40)))
    turns = 0
    for number in itertools.count():
        before = await table(engine)
        found = await step_once(engine)
        assert await table(engine) == before
        if found is None:
            break
        turns += bool(found) and len(found) > 1
        # Between the steps: a new one, one again, another value of one, one that goes, one that is flagged.
        chosen = number % 30
        counts = await deliver(engine, voice, late(estate, range(chosen, chosen + 1), 1000 + number))
        assert counts["revision"] == 1
        assert (await deliver(engine, voice, late(estate, range(chosen + 1, chosen + 4), meter="M2")))["stored"] >= 1
        async with writing(engine) as session:
            await session.execute(sa.text("DELETE FROM readings WHERE value = :v"), {"v": 33 + number % 7})
            await session.execute(sa.text("UPDATE readings SET flags = 1 WHERE value = :v"), {"v": (chosen + 20) % 30})
    assert turns >= 2
    async with looking(engine) as session:
        assert await late_months(session) == []
        # The planner and the foreign keys know them as if they had always been there.
        wrong = "SELECT count(*) FROM pg_index x JOIN pg_inherits i ON i.inhrelid = x.indrelid "
        wrong += "LEFT JOIN pg_inherits p ON p.inhrelid = x.indexrelid "
        wrong += "WHERE i.inhparent = 'readings'::regclass AND p.inhrelid IS NULL"
        assert await session.scalar(sa.text(wrong)) == 0
        functions = "SELECT count(*) FROM pg_proc WHERE proname = 'readings_moving_mirror'"
        assert await session.scalar(sa.text(functions)) == 0


async def test_ingestion_goes_on_while_late_readings_are_moved(engine: AsyncEngine) -> None:
    estate, voice = await make_estate(engine), GatewayVoice()
    await deliver(engine, voice, late(estate, range(30)))
    ended = asyncio.Event()
    longest = 0.0

    async def ingest(meter: str, seed: int) -> None:
        nonlocal longest
        chance, number = random.Random(seed), 0  # noqa: S311 - a test's choice
        while not ended.is_set() or number < 26:
            # The same rows from several sides, ever again: in the default partition, in the copy, in their months.
            first = number if number < 26 else chance.randrange(26)
            begun = time.monotonic()
            await deliver(engine, voice, late(estate, range(first, first + 5), meter=meter))
            longest = max(longest, time.monotonic() - begun)
            number += 1

    async def move() -> list[str]:
        made = []
        while "readings_2026_06" not in made:
            made += await make_partitions(engine, NOW)
        ended.set()
        return made

    made, *_ = await asyncio.gather(move(), ingest("M1", 1), ingest("M2", 2), ingest("M2", 3))
    await make_partitions(engine, NOW)
    rows = await table(engine)
    assert len(rows) == 60
    assert {(row[1], row[3], row[4]) for row in rows} == {
        (meter, decimal.Decimal(number), 1) for meter in estate.meters.values() for number in range(30)
    }
    assert await table(engine, "readings_default") == []
    assert len(made) == len(set(made))
    assert longest < 3  # of a machine that does much else; hub/months.py bounds each wait


async def test_a_mover_that_is_killed_is_gone_on_for(engine: AsyncEngine) -> None:
    estate, voice = await make_estate(engine), GatewayVoice()
    await deliver(engine, voice, late(estate, range(50)))
    code = "import asyncio,sys; from hub import late_readings; from hub.database import create_engine; "
    code += "from hub.partitions import make_partitions; from tests.parts.estates import NOW; "
    code += "late_readings.SLICE = 1; asyncio.run(make_partitions(create_engine(sys.argv[1]), NOW))"
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    mover = await asyncio.create_subprocess_exec(sys.executable, "-c", code, url)
    try:
        while True:
            async with looking(engine) as session:
                found = await under_way(session)
            if found is not None and found.last > 10:
                break
            assert mover.returncode is None
            await asyncio.sleep(0.02)
    finally:
        mover.send_signal(signal.SIGKILL)
        await mover.wait()
    before = await table(engine)
    assert len(before) == 50
    # A relay that comes after it, and hears of one more in between.
    await deliver(engine, voice, late(estate, range(5), 7777))
    made: list[str] = []
    late_readings.SLICE = 500  # the fixture puts it back
    while not made or await table(engine, "readings_default"):
        made += await make_partitions(engine, NOW)
    after = await table(engine)
    assert [row[0] for row in after] == [row[0] for row in before]
    assert sum(row[4] == 2 for row in after) == 5
    assert Month.of(NOW - 5 * 50 * DAY).table in made


async def test_a_long_query_is_waited_for_and_nobody_waits_behind_it(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "TRIES", 7)
    estate, voice = await make_estate(engine), GatewayVoice()
    await deliver(engine, voice, late(estate, range(3)))
    async with engine.connect() as export:
        await export.execute(sa.text("SELECT count(*) FROM readings"))
        moving = asyncio.create_task(make_partitions(engine, NOW))
        for number in range(6):
            begun = time.monotonic()
            await deliver(engine, voice, late(estate, range(number, number + 4)))
            assert time.monotonic() - begun < 3  # months.LOCK_WAIT is 0.25 s; the machine does much else
            await asyncio.sleep(0.1)
        assert await moving == []
    assert len(await make_partitions(engine, NOW)) >= 5
    assert len(await table(engine)) == 9


async def test_a_meter_goes_while_its_readings_are_moved_and_a_migration_abandons_the_move(engine: AsyncEngine) -> None:
    estate, voice = await make_estate(engine), GatewayVoice()
    await deliver(engine, voice, late(estate, range(20)) + late(estate, range(20), meter="M2"))
    while True:
        await step_once(engine)
        async with looking(engine) as session:
            found = await under_way(session)
        if found is not None and found.last > 10:
            break
    async with writing(engine) as session:
        gone = estate.meters["M1"]
        await session.execute(sa.delete(models.Reading).where(models.Reading.meter_device == gone))
        await session.execute(sa.text("DELETE FROM ledger_pending"))
        await session.execute(sa.delete(models.MeterDevice).where(models.MeterDevice.id == gone))

    await move(engine, "0020")
    await move(engine)
    async with looking(engine) as session:
        assert await under_way(session) is None
    assert len(await table(engine)) == 20
    while await make_partitions(engine, NOW):
        pass
    assert len(await table(engine)) == 20
    assert await table(engine, "readings_default") == []


async def test_a_table_of_that_name_is_let_be(engine: AsyncEngine) -> None:
    estate, voice = await make_estate(engine), GatewayVoice()
    await deliver(engine, voice, late(estate, range(8)))
    async with writing(engine) as session:
        await session.execute(sa.text("CREATE TABLE readings_2026_10 (id int)"))
        await session.execute(sa.text("CREATE TABLE readings_2026_12 (id int)"))
    made = await make_partitions(engine, NOW)
    assert {"readings_2026_11", "readings_2027_01", "readings_2027_02"} <= set(made)
    assert not {"readings_2026_10", "readings_2026_12"} & set(made)
    assert len(await table(engine, "readings_default")) == 4
    assert len(await table(engine)) == 8


def test_months_follow_each_other() -> None:
    month = Month.of(dt.datetime(2026, 12, 31, 23, 30, tzinfo=dt.timezone(-dt.timedelta(hours=1))))
    assert (month.table, month.later(-1).table, month.later(11).end) == (
        "readings_2027_01",
        "readings_2026_12",
        dt.datetime(2028, 1, 1, tzinfo=dt.UTC),
    )
    assert Month.named(month.table) == month
    assert Month.named("readings_default") is None
