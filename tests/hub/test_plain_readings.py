"""The quick way for ordinary batches: it takes nothing that is not ordinary, and judges by what is so now."""

import asyncio
import datetime as dt
import decimal
import itertools
import uuid
from collections import Counter
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.columns import from_microseconds, to_microseconds
from hub.database import reading as looking
from hub.database import writing
from hub.ingest import READY_ROWS, STAGED, Delivery, store_again, store_deliveries
from hub.judging import NOT_THIS_GATEWAY, SERIES_NOT_ALLOWED
from hub.plain_readings import meters_of, read_plain
from hub.versions import STORED
from protocol.readings import NewMeterReading, batch_of
from protocol.wire import ContractError, decode, encode
from tests.parts.databases import ONLY_POSTGRESQL, ONLY_SQLITE, database_url, engine
from tests.parts.estates import NOW, GatewayVoice, make_estate, reading

__all__ = ["database_url", "engine"]

PATIENCE = 60.0
DEVICE = uuid.UUID(int=7)

VALUES = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9).map(str),
    st.sampled_from(["0", "-0", "007", "1E3", "1.50", ".5", "5.", "+1", " 1", "NaN", "9" * 21, "9" * 39, "٣"]),
    st.just("0." + "1" * 19),
)
TEXTS = st.sampled_from(["m3", "", "a\0b", "x" * 101])
# What has no UTC cannot be encoded at all (protocol/wire).
FIRST, LAST = dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30)  # noqa: DTZ001 - the strategy adds the zones
INSTANTS = st.one_of(
    st.datetimes(FIRST, LAST, timezones=st.just(dt.UTC)),
    st.datetimes(FIRST, LAST, timezones=st.just(dt.timezone(dt.timedelta(hours=2)))),
    st.sampled_from([None, "2026-11-22T12:00:00", dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)]),
)
ROW = st.tuples(
    st.sampled_from(["M1", "", "M\0"]),
    st.sampled_from(["2:300", "x" * 51]),
    INSTANTS,
    VALUES,
    TEXTS,
    st.sampled_from([DEVICE.bytes, None, b"short"]),
    INSTANTS,
    TEXTS,
    st.sampled_from([None, 0.5, float("nan")]),
    st.sampled_from([None, DEVICE.bytes, b"no run"]),
)


def said(row: bytes | msgspec.Raw) -> tuple[object, ...] | None:
    """Return what a row says where it is read by itself; None where it cannot be."""
    try:
        one = decode(row, NewMeterReading)
    except ContractError:
        return None
    device = one.device.bytes if one.device is not None else None
    return (device, one.series, one.timestamp, one.value, one.unit, one.provenance, one.collected, one.clock_offset)


@given(st.lists(ROW, min_size=1, max_size=4))
def test_what_is_plain_says_the_same_as_row_by_row(rows: list[tuple[object, ...]]) -> None:
    encoded = [msgspec.msgpack.encode(row) for row in rows]
    plain = read_plain(encode(batch_of(bytes(16), 1, encoded)))
    if plain is None:
        return
    columns = zip(
        plain.devices,
        plain.series,
        map(from_microseconds, plain.timestamps),
        map(decimal.Decimal, plain.values),
        plain.units,
        plain.provenances,
        map(from_microseconds, plain.collected),
        plain.clock_offsets,
        strict=True,
    )
    assert list(columns) == [said(row) for row in encoded]
    # SQLite keeps the text as it is: it must be the one that everything else would write.
    assert plain.values == [format(decimal.Decimal(value), "f") for value in plain.values]


def test_what_agents_send_is_plain_and_what_is_special_is_not() -> None:
    usual = reading(DEVICE, "1234.5600", at=3, collected=4)
    odd = [
        msgspec.structs.replace(usual, device=None),
        msgspec.structs.replace(usual, collected=None),
        msgspec.structs.replace(usual, value=decimal.Decimal("1E+3")),
        msgspec.structs.replace(usual, collected=dt.datetime(2300, 1, 1, tzinfo=dt.UTC)),
    ]
    plain = read_plain(encode(batch_of(bytes(16), 1, [encode(usual)] * 3)))
    assert plain is not None
    assert plain.values == ["1234.5600"] * 3
    assert plain.timestamps == [to_microseconds(usual.timestamp)] * 3
    assert meters_of([plain]) == {DEVICE.bytes}
    for one in odd:
        assert read_plain(encode(batch_of(bytes(16), 1, [encode(usual), encode(one)]))) is None
    assert read_plain(b"\xff") is None


async def test_a_group_with_old_and_new_and_double_rows_is_told_apart(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice, meter = GatewayVoice(), estate.meters["M1"]
    old = voice.readings(*(reading(meter, str(n), at=n, collected=5) for n in range(10)))
    assert (await store_deliveries(engine, [old], NOW, 100)).counts[STORED] == 10
    mixed = voice.readings(
        *(reading(meter, str(n), at=n, collected=5) for n in range(5, 15)),
        # The same key twice more: once the same value, and once another one that was collected later.
        reading(meter, "12", at=12, collected=5),
        reading(meter, "99", at=12, collected=6),
        reading(meter, "77", at=3, collected=6),
    )
    outcome = await store_deliveries(engine, [mixed, old], NOW, 100)
    assert outcome.counts[STORED] == 5
    assert outcome.counts["duplicate"] == 5 + 1 + 10
    assert outcome.counts["revision"] == 2
    async with looking(engine) as session:
        stored = (await session.scalars(sa.select(models.Reading).order_by(models.Reading.timestamp))).all()
        batches = (await session.scalars(sa.select(models.Batch).order_by(models.Batch.id))).all()
    assert [str(row.value) for row in stored] == ["0", "1", "2", "77", *map(str, range(4, 12)), "99", "13", "14"]
    assert [(row.rows, row.duplicates, row.revisions) for row in batches] == [(10, 0, 0), (13, 6, 2)]


@ONLY_POSTGRESQL
async def test_of_a_young_hub_not_all_batches_are_read_for_each_reading(engine: AsyncEngine) -> None:
    """A few batches are read quickest from end to end, which a connection would keep doing while they become many."""
    estate = await make_estate(engine)
    gateway = GatewayVoice()
    numbers = itertools.count()

    def deliveries(count: int) -> list[Delivery]:
        return [gateway.readings(reading(estate.meters["M1"], "1", at=next(numbers))) for _ in range(count)]

    await store_deliveries(engine, deliveries(10), NOW, 100)
    async with writing(engine) as session:
        await session.execute(sa.text("ANALYZE batches"))
    for _ in range(10):
        await store_deliveries(engine, deliveries(1), NOW, 100)
    await store_deliveries(engine, deliveries(500), NOW, 100)
    async with writing(engine) as session:
        for delivery in deliveries(3):
            assert await store_again(session, delivery, NOW, 100)
        read = "SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'batches'"
        assert await session.scalar(sa.text(read)) < 500


async def test_units_are_stored_as_they_came(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice, meter = GatewayVoice(), estate.meters["M1"]
    units = ["m3", "", "NULL", "°C", 'a "b"', "\\", "{k,V}", " kW ", "m3"]
    rows = [
        msgspec.structs.replace(reading(meter, f"-{n}.50", at=n, collected=5), unit=unit)
        for n, unit in enumerate(units)
    ]
    assert (await store_deliveries(engine, [voice.readings(*rows)], NOW, 100)).counts[STORED] == len(units)
    async with looking(engine) as session:
        stored = (await session.scalars(sa.select(models.Reading).order_by(models.Reading.timestamp))).all()
    assert [(row.unit, str(row.value)) for row in stored] == [(unit, f"-{n}.50") for n, unit in enumerate(units)]


@pytest.mark.parametrize("state", ["elsewhere", "no series"])
async def test_what_changes_under_load_is_judged_as_it_is_then(
    engine: AsyncEngine, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small groups too are made ready before their transaction.
    monkeypatch.setattr("hub.ingest.READY_ROWS", 1)
    estate = await make_estate(engine)
    other = await make_estate(engine, gateway_id="gw-2")
    voice, meter = GatewayVoice(), estate.meters["M1"]
    now: dict[str, Any] = {"state": "here", "edits": 0}
    link = sa.and_(
        models.config_series.c.config == estate.config, models.config_series.c.series == estate.series["2:300"]
    )
    found: Counter[str] = Counter()
    judged, done = asyncio.Event(), asyncio.Event()

    async def edit() -> None:
        for number in range(6):
            there = number % 2 == 0
            now["edits"] += 1
            async with writing(engine) as session:
                await session.execute(
                    sa.update(models.MeterDevice).where(models.MeterDevice.id == meter).values(name=f"renamed {number}")
                )
                if state == "elsewhere":
                    line = other.line if there else estate.line
                    await session.execute(
                        sa.update(models.MeterDevice)
                        .where(models.MeterDevice.id == meter)
                        .values(network_interface=line)
                    )
                elif there:
                    await session.execute(sa.delete(models.config_series).where(link))
                else:
                    series = {"config": estate.config, "series": estate.series["2:300"]}
                    await session.execute(models.config_series.insert().values(series))
            now.update(state=state if there else "here", edits=int(now["edits"]) + 1)
            judged.clear()
            await asyncio.wait_for(judged.wait(), PATIENCE)
        done.set()

    async def load() -> None:
        at = 0
        while not done.is_set():
            at += 3
            before = dict(now)
            delivery = voice.readings(*(reading(meter, "1", at=at + n, collected=at) for n in range(3)))
            counts = (await store_deliveries(engine, [delivery], NOW, 100)).counts
            assert counts[STORED] + counts[STAGED] == 3
            assert counts[STORED] in {0, 3}
            if before == now and int(now["edits"]) % 2 == 0:
                # Nobody edited meanwhile: so it must have been judged by just this state.
                assert counts[STORED] == (3 if now["state"] == "here" else 0)
                found[str(now["state"])] += 1
                judged.set()
            await asyncio.sleep(0)

    await asyncio.gather(load(), edit())
    assert set(found) == {"here", state}
    async with looking(engine) as session:
        reasons = set((await session.scalars(sa.select(models.StagedReading.reason))).all())
    assert reasons == {NOT_THIS_GATEWAY if state == "elsewhere" else SERIES_NOT_ALLOWED}


@ONLY_SQLITE
async def test_what_was_made_ready_before_an_edit_is_judged_after_it(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice, meter = GatewayVoice(), estate.meters["M1"]
    first, second, third = (
        voice.readings(*(reading(meter, "1", at=n + begin, collected=1000) for n in range(READY_ROWS)))
        for begin in (0, READY_ROWS, 2 * READY_ROWS)
    )
    assert (await store_deliveries(engine, [first], NOW, 100)).counts[STORED] == READY_ROWS
    async with writing(engine) as session:
        # It is ready, and waits for the one writer's turn.
        storing = asyncio.create_task(store_deliveries(engine, [second, first], NOW, 100))
        await asyncio.sleep(0.3)
        await session.execute(sa.delete(models.config_series).where(models.config_series.c.config == estate.config))
    counts = (await storing).counts
    assert counts[STAGED] == 2 * READY_ROWS
    assert counts[STORED] == 0
    async with writing(engine) as session:
        storing = asyncio.create_task(store_deliveries(engine, [third], NOW, 100))
        await asyncio.sleep(0.3)
        series = {"config": estate.config, "series": estate.series["2:300"]}
        await session.execute(models.config_series.insert().values(series))
    assert (await storing).counts[STORED] == READY_ROWS
