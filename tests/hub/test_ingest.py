"""Ingestion on both databases: everything once, in any order, whatever is strange about a row, a batch or a key."""

import asyncio
import dataclasses
import datetime as dt
import decimal
import itertools
import random
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import adoption, models
from hub.database import create_engine, writing
from hub.database import reading as looking
from hub.ingest import Delivery, Outcome, store_deliveries
from protocol.envelopes import SigningKey
from protocol.readings import FROM_METER, FROM_PUSH, BatchName, NewMeterReading, name_from_properties, name_properties
from protocol.reports import QUARANTINED, STORED
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, Estate, GatewayVoice, make_estate, new_meter, reading

__all__ = ["database_url", "engine"]


async def ingest(engine: AsyncEngine, *deliveries: Delivery, quarantine_rows: int = 100) -> Outcome:
    return await store_deliveries(engine, deliveries, NOW, quarantine_rows)


async def rows(engine: AsyncEngine, model: type[models.Base]) -> list[Any]:
    async with looking(engine) as session:
        return list((await session.scalars(sa.select(model))).all())


def receipted(outcome: Outcome, word: str = STORED) -> int:
    return sum(len(names) for (_, _, kind), names in outcome.receipts.items() if kind == word)


async def test_a_batch_is_stored_once_however_often_it_comes(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    delivery = voice.readings(*(reading(estate.meters["M1"], f"{n}.50", at=n, collected=n) for n in range(100)))
    first = await ingest(engine, delivery)
    again = await ingest(engine, delivery, delivery)
    assert (receipted(first), receipted(again)) == (1, 2)
    assert again.counts["duplicate"] == 200
    stored = await rows(engine, models.Reading)
    assert len(stored) == 100
    assert {str(row.value) for row in stored} == {f"{n}.50" for n in range(100)}
    (batch,) = await rows(engine, models.Batch)
    assert (batch.rows, batch.duplicates, batch.revisions, batch.staged) == (100, 0, 0, 0)
    assert {row.batch for row in stored} == {batch.id}
    assert not await rows(engine, models.ReadingVersion)


async def test_many_gateways_and_batches_share_one_transaction(engine: AsyncEngine) -> None:
    voices, deliveries = [], []
    for number in range(4):
        estate = await make_estate(engine, gateway_id=f"gw-{number}")
        voices.append(GatewayVoice(estate.gateway_id))
        deliveries += [
            voices[-1].readings(*(reading(estate.meters["M1"], "1", at=10 * batch + n) for n in range(10)))
            for batch in range(5)
        ]
    outcome = await ingest(engine, *deliveries)
    assert receipted(outcome) == 20
    assert len(outcome.receipts) == 4
    assert len(await rows(engine, models.Reading)) == 200
    assert {row.public_key for row in await rows(engine, models.Gateway)} == {voice.key.public for voice in voices}


async def state_of(engine: AsyncEngine) -> set[tuple[Any, ...]]:
    readings = {
        (
            row.meter_device,
            row.timestamp,
            row.value,
            row.provenance,
            row.collected,
            row.first_collected,
            row.version_count,
        )
        for row in await rows(engine, models.Reading)
    }
    versions = {
        (row.meter_device, row.timestamp, row.value, row.provenance, row.first_collected, row.collected)
        for row in await rows(engine, models.ReadingVersion)
    }
    return readings | versions


@pytest.mark.parametrize(
    ("versions", "current"),
    [
        ((("1", 0), ("2", 1), ("3", 2)), "3"),
        # Of two values that were collected at one instant the larger one, whichever comes first.
        ((("1", 1), ("9", 0), ("5", 1)), "5"),
    ],
)
async def test_the_current_value_is_the_one_collected_last(
    engine: AsyncEngine, versions: Sequence[tuple[str, int]], current: str
) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    for at, order in enumerate(itertools.permutations(versions)):
        for value, collected in order:
            await ingest(engine, voice.readings(reading(estate.meters["M1"], value, at=at, collected=collected)))
    stored = await rows(engine, models.Reading)
    assert len(stored) == 6
    assert {(row.value, row.version_count) for row in stored} == {(decimal.Decimal(current), 3)}


def one_way(row: NewMeterReading, collected: int) -> NewMeterReading:
    """Polled or pushed, by turns."""
    return msgspec.structs.replace(row, provenance=FROM_PUSH if collected % 2 else FROM_METER)


VERSION = st.tuples(st.sampled_from(["1", "1.0", "2", "3.5"]), st.integers(0, 3), st.integers(0, 1))


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(versions=st.lists(VERSION, min_size=1, max_size=8), data=st.data())
async def test_any_order_and_repetition_ends_in_the_same_state(
    database_url: str, versions: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    states = []
    orders = [data.draw(st.permutations(versions + data.draw(st.lists(st.sampled_from(versions))))) for _ in range(3)]
    engine = create_engine(database_url)
    try:
        for order in orders:
            # Every order has a meter of its own, so that one database serves all examples.
            name = f"gw-{uuid.uuid4().hex[:12]}"
            estate = await make_estate(engine, gateway_id=name, meters=(name,), series=("2:300",))
            voice = GatewayVoice(name)
            deliveries = [
                voice.readings(one_way(reading(estate.meters[name], value, at=at, collected=collected), collected))
                for value, collected, at in order
            ]
            groups = data.draw(st.integers(1, len(deliveries)))
            for start in range(0, len(deliveries), groups):
                await ingest(engine, *deliveries[start : start + groups])
            own = {row for row in await state_of(engine) if row[0] == estate.meters[name]}
            states.append({row[1:] for row in own})
    finally:
        await engine.dispose()
    assert all(state == states[0] for state in states)
    best: dict[int, tuple[int, decimal.Decimal]] = {}
    for value, collected, at in versions:
        best[at] = max(best.get(at, (-1, decimal.Decimal(0))), (collected, decimal.Decimal(value)))
    stamps = {at: reading(None, "0", at=at).timestamp for at in best}
    current = {row[0]: row[1] for row in states[0] if len(row) == 6}
    assert current == {stamps[at]: value for at, (_, value) in best.items()}


async def test_relays_that_store_the_same_at_once_agree(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    chance = random.Random(7)  # noqa: S311 - a repeatable shuffle
    deliveries = [
        voice.readings(
            *(
                reading(estate.meters[chance.choice(["M1", "M2"])], str(chance.randint(1, 3)), at=n, collected=batch)
                for n in chance.sample(range(40), 30)
            )
        )
        for batch in range(8)
    ]
    orders = [chance.sample(deliveries, len(deliveries)) for _ in range(4)]
    await asyncio.gather(*(ingest(engine, *order[i : i + 2]) for order in orders for i in range(0, 8, 2)))
    once = await state_of(engine)
    await ingest(engine, *deliveries)
    assert await state_of(engine) == once


async def test_two_meters_swap_names_while_a_backlog_waits(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    backlog = voice.readings(
        reading(estate.meters["M1"], "11", meter="M1"), reading(estate.meters["M2"], "22", meter="M2")
    )
    async with writing(engine) as session:
        for name, new in (("M1", "between"), ("M2", "M1"), ("between", "M2")):
            await session.execute(sa.update(models.MeterDevice).where(models.MeterDevice.name == name).values(name=new))
    await ingest(engine, backlog)
    found = {row.meter_device: str(row.value) for row in await rows(engine, models.Reading)}
    assert found == {estate.meters["M1"]: "11", estate.meters["M2"]: "22"}


async def test_what_cannot_be_a_reading_yet_is_staged_with_its_reason_once(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    other = await make_estate(engine, gateway_id="gw-2", meters=("M3",))
    voice = GatewayVoice()
    m1 = estate.meters["M1"]
    strange = [
        reading(None, "1", meter="nobody"),
        reading(uuid.uuid4(), "2"),
        reading(other.meters["M3"], "3", meter="M3"),
        reading(None, "4", meter="M3"),
        reading(m1, "5", series="9:999"),
        NewMeterReading("M1", "2:300", dt.datetime(1999, 12, 31, tzinfo=dt.UTC), decimal.Decimal(6), device=m1),
        NewMeterReading("M1", "2:300", NOW + dt.timedelta(days=3), decimal.Decimal(7), device=m1),
    ]
    delivery = voice.readings(reading(m1, "0"), *strange)
    outcome = await ingest(engine, delivery, delivery)
    assert receipted(outcome) == 2
    staged = {int(row.value): row.reason for row in await rows(engine, models.StagedReading)}
    assert staged == {
        1: "unknown_meter",
        2: "unknown_meter",
        3: "not_this_gateway",
        4: "unknown_meter",
        5: "series_not_allowed",
        6: "timestamp_out_of_bounds",
        7: "timestamp_out_of_bounds",
    }
    assert [str(row.value) for row in await rows(engine, models.Reading)] == ["0"]
    assert (await rows(engine, models.Batch))[0].staged == 7


async def test_a_row_that_cannot_be_read_costs_that_row(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    good = encode(reading(estate.meters["M1"], "1"))
    nan = encode(reading(None, "123456")).replace(b"\xa6123456", b"\xa3NaN")
    huge = encode(reading(None, "12345678")).replace(b"\xa812345678", b"\xa81E+40000")
    delivery = voice.rows(Channel.READINGS, [good, b"\x07", nan, huge])
    outcome = await ingest(engine, delivery)
    await ingest(engine, delivery)
    assert receipted(outcome) == 1
    assert len(await rows(engine, models.Reading)) == 1
    aside = await rows(engine, models.Quarantined)
    assert {row.payload for row in aside} == {b"\x07", nan, huge}
    assert {row.channel for row in aside} == {"readings-row"}
    assert any("NaN" in row.reason for row in aside)


async def test_a_batch_that_cannot_be_read_is_quarantined_and_receipted_by_its_name(engine: AsyncEngine) -> None:
    await make_estate(engine)
    voice = GatewayVoice()
    delivery = voice.readings(reading(None, "1"))
    unreadable = dataclasses.replace(delivery, payload=voice.key.seal(delivery.topic, b"\xc1 not a batch"))
    nameless = dataclasses.replace(delivery, payload=b"nobody knows", properties=())
    outcome = await ingest(engine, unreadable, nameless)
    ((key, names),) = outcome.receipts.items()
    assert key == ("gw-1", "readings", QUARANTINED)
    assert name_properties(names[0]) == list(delivery.properties)
    assert {row.payload for row in await rows(engine, models.Quarantined)} == {unreadable.payload, b"nobody knows"}


async def test_the_hubs_word_is_only_for_what_the_gateway_has_signed(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    await ingest(engine, voice.readings(reading(estate.meters["M1"], "1")))
    # A stranger on the broker knows the name of a batch that waits, and would have the gateway forget it.
    waiting = voice.readings(reading(estate.meters["M1"], "2", at=5))
    stranger = dataclasses.replace(waiting, payload=b"not an envelope at all")
    outcome = await ingest(engine, stranger)
    assert not outcome.receipts
    (aside,) = await rows(engine, models.Quarantined)
    assert (aside.payload, aside.store) == (stranger.payload, None)
    # The same with what the gateway did sign, long ago: its payload stands for one name only.
    unreadable = dataclasses.replace(waiting, payload=voice.key.seal(waiting.topic, b"\xc1 not a batch"))
    assert receipted(await ingest(engine, unreadable), QUARANTINED) == 1
    other = voice.readings(reading(estate.meters["M1"], "3", at=6))
    renamed = dataclasses.replace(unreadable, properties=other.properties)
    assert not (await ingest(engine, renamed)).receipts
    assert receipted(await ingest(engine, renamed, unreadable), QUARANTINED) == 1


async def test_strangers_leave_room_in_the_quarantine_for_what_is_signed(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    true = voice.readings(reading(estate.meters["M1"], "1"))
    flood = [dataclasses.replace(true, payload=b"noise %d" % n) for n in range(9)]
    outcome = await ingest(engine, *flood, quarantine_rows=4)
    assert outcome.counts["quarantine_full"] == 7
    strange = [voice.rows(Channel.READINGS, [bytes([n])]) for n in range(2)]
    assert receipted(await ingest(engine, *flood, *strange, quarantine_rows=4)) == 2
    assert len(await rows(engine, models.Quarantined)) == 4


def named(delivery: Delivery) -> BatchName:
    return name_from_properties(delivery.properties)


async def test_when_the_quarantine_is_full_nothing_unreadable_is_receipted(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    strange = [voice.rows(Channel.READINGS, [bytes([n])]) for n in range(3)]
    good = voice.readings(reading(estate.meters["M1"], "1"))
    outcome = await ingest(engine, *strange, good, quarantine_rows=2)
    assert receipted(outcome) == 3
    assert outcome.counts["quarantine_full"] == 1
    assert {name for names in outcome.receipts.values() for name in names} == {
        named(one) for one in (*strange[:2], good)
    }
    assert len(await rows(engine, models.Quarantined)) == 2
    # What is kept already may come again; what was refused still is, also where nothing of it can be read.
    garbled = dataclasses.replace(strange[2], payload=voice.key.seal(strange[2].topic, b"\xc1 not a batch"))
    again = await ingest(engine, *strange, garbled, quarantine_rows=2)
    assert receipted(again) == 2
    assert {name for names in again.receipts.values() for name in names} == {named(one) for one in strange[:2]}
    assert len(await rows(engine, models.Quarantined)) == 2


async def test_a_forged_or_foreign_envelope_gets_no_receipt_and_leaves_no_trace(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    await ingest(engine, voice.readings(reading(estate.meters["M1"], "1")))
    true = voice.readings(reading(estate.meters["M1"], "2", at=5))
    forged = dataclasses.replace(true, payload=true.payload[:-1] + bytes([true.payload[-1] ^ 1]))
    voice.key = SigningKey.generate()
    foreign = voice.readings(reading(estate.meters["M1"], "3", at=6))
    outcome = await ingest(engine, forged, foreign)
    assert not outcome.receipts
    assert (outcome.counts["forged"], outcome.counts["wrong_key"]) == (1, 1)
    assert len(await rows(engine, models.Reading)) == 1
    assert not await rows(engine, models.Quarantined)


async def test_an_unknown_gateway_is_not_receipted_until_it_is_created(engine: AsyncEngine) -> None:
    voice = GatewayVoice()
    first = voice.readings(reading(None, "1"))
    outcome = await ingest(engine, first)
    assert not outcome.receipts
    assert outcome.counts["unknown_gateway"] == 1
    await make_estate(engine)
    assert receipted(await ingest(engine, first)) == 1


async def test_meters_created_while_their_readings_arrive_end_with_nothing_staged(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, meters=())
    voice = GatewayVoice()

    async def deliver() -> None:
        for n in range(20):
            await ingest(engine, voice.readings(*(reading(None, "1", meter=f"N{m}", at=n) for m in range(5))))

    async def create() -> None:
        for m in range(5):
            async with writing(engine) as session:
                session.add(new_meter(f"N{m}", estate.organization, estate.type, estate.line))
            await adoption.sweep(engine, NOW)

    await asyncio.gather(deliver(), create())
    await adoption.sweep(engine, NOW)
    assert not await rows(engine, models.StagedReading)
    assert len(await rows(engine, models.Reading)) == 100


@pytest.mark.parametrize("reverse", [False, True])
async def test_staged_versions_merge_like_direct_ones(engine: AsyncEngine, *, reverse: bool) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    versions = [reading(estate.meters["M1"], value, collected=n) for n, value in enumerate(["5", "7", "7", "5", "6"])]
    if reverse:
        versions.reverse()
    await _allow(engine, estate, allowed=False)
    for one in versions[:3]:
        await ingest(engine, voice.readings(one))
    await _allow(engine, estate, allowed=True)
    for one in versions[3:]:
        await ingest(engine, voice.readings(one))
    assert await adoption.sweep(engine, NOW) == 3
    (row,) = await rows(engine, models.Reading)
    assert (str(row.value), row.version_count) == ("6", 3)
    start = NOW - dt.timedelta(days=1)
    minutes = {
        str(one.value): ((one.first_collected - start).seconds // 60, (one.collected - start).seconds // 60)
        for one in await rows(engine, models.ReadingVersion)
    }
    assert minutes == {"5": (0, 3), "7": (1, 2), "6": (4, 4)}


async def _allow(engine: AsyncEngine, estate: Estate, *, allowed: bool) -> None:
    table = models.config_series
    async with writing(engine) as session:
        await session.execute(sa.delete(table))
        for series in estate.series.values() if allowed else ():
            await session.execute(table.insert().values(config=estate.config, series=series))
