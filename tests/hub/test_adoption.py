"""Adoption on both databases: what waits becomes a reading when the reason is gone, once, and never otherwise."""

import asyncio
import datetime as dt
import decimal
import uuid
from collections import Counter

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import adoption, models
from hub.database import reading as looking
from hub.database import writing
from hub.ingest import store_deliveries
from protocol.readings import NewMeterReading
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, Estate, GatewayVoice, make_estate, new_meter, reading

__all__ = ["database_url", "engine"]


async def reasons(engine: AsyncEngine) -> Counter[str]:
    async with looking(engine) as session:
        return Counter((await session.scalars(sa.select(models.StagedReading.reason))).all())


async def stored(engine: AsyncEngine) -> int:
    async with looking(engine) as session:
        return (await session.execute(sa.select(sa.func.count()).select_from(models.Reading))).scalar_one()


async def test_a_series_taken_out_and_put_back_loses_nothing(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    async with writing(engine) as session:
        await session.execute(
            sa.delete(models.config_series).where(models.config_series.c.series == estate.series["2:300"])
        )
    await store_deliveries(
        engine, [voice.readings(*(reading(estate.meters["M1"], str(n), at=n) for n in range(30)))], NOW, 10
    )
    assert await adoption.sweep(engine, NOW) == 0
    assert await reasons(engine) == {"series_not_allowed": 30}
    async with writing(engine) as session:
        await session.execute(models.config_series.insert().values(config=estate.config, series=estate.series["2:300"]))
    # Two sweeps at once share or repeat the work; neither doubles a reading.
    await asyncio.gather(adoption.sweep(engine, NOW), adoption.sweep(engine, NOW))
    await adoption.sweep(engine, NOW)
    assert await reasons(engine) == {}
    assert await stored(engine) == 30


async def test_a_reading_by_uuid_never_goes_to_another_meter_of_its_name(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, meters=())
    voice = GatewayVoice()
    await store_deliveries(engine, [voice.readings(reading(uuid.uuid4(), "1", meter="N"))], NOW, 10)
    async with writing(engine) as session:
        session.add(new_meter("N", estate.organization, estate.type, estate.line))
    assert await adoption.sweep(engine, NOW) == 0
    assert await reasons(engine) == {"unknown_meter": 1}


async def test_what_still_waits_is_told_the_reason_that_holds_now(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, meters=())
    voice = GatewayVoice()
    await store_deliveries(engine, [voice.readings(reading(None, "1", meter="N", series="9:999"))], NOW, 10)
    assert await reasons(engine) == {"unknown_meter": 1}
    async with writing(engine) as session:
        session.add(new_meter("N", estate.organization, estate.type, None))
    await adoption.sweep(engine, NOW)
    assert await reasons(engine) == {"not_this_gateway": 1}
    async with writing(engine) as session:
        await session.execute(sa.update(models.MeterDevice).values(network_interface=estate.line))
    await adoption.sweep(engine, NOW)
    assert await reasons(engine) == {"series_not_allowed": 1}


async def test_a_timestamp_ahead_waits_until_its_time_comes_near(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    ahead = [
        NewMeterReading(
            "M1", "2:300", NOW + dt.timedelta(days=n), decimal.Decimal(n), device=estate.meters["M1"], collected=NOW
        )
        for n in range(5)
    ]
    await store_deliveries(engine, [voice.readings(*ahead)], NOW, 10)
    assert await reasons(engine) == {"timestamp_out_of_bounds": 2}
    assert await adoption.sweep(engine, NOW) == 0
    assert await adoption.sweep(engine, NOW + dt.timedelta(days=1)) == 1
    assert await adoption.sweep(engine, NOW + dt.timedelta(days=2)) == 1
    assert await stored(engine) == 5


async def test_a_sweep_goes_on_in_bounded_transactions(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, meters=())
    voice = GatewayVoice()
    await store_deliveries(
        engine, [voice.readings(*(reading(None, "1", meter=f"N{n % 3}", at=n) for n in range(60)))], NOW, 10
    )
    async with writing(engine) as session:
        for n in range(3):
            session.add(new_meter(f"N{n}", estate.organization, estate.type, estate.line))
    async with writing(engine) as session:
        assert await adoption.adopt(session, NOW, rows=25) == 25
    assert await adoption.sweep(engine, NOW) == 35


def _original(estate: Estate) -> list[NewMeterReading]:
    return [reading(estate.meters["M1"], f"{n}.50", at=n, collected=n) for n in range(20)]


async def test_a_copied_store_brings_nothing_that_the_meters_own_gateway_has_brought(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await make_estate(engine, gateway_id="gw-2")
    voice, copy = GatewayVoice(), GatewayVoice("gw-2")
    await store_deliveries(engine, [voice.readings(*_original(estate))], NOW, 10)
    # The values are equal numbers in other words; one has another value, one was collected at another time, one is new.
    strange = [
        reading(estate.meters["M1"], "7", at=0, collected=0),
        reading(estate.meters["M1"], "1.5", at=1, collected=9),
        reading(estate.meters["M1"], "1", at=70, collected=70),
    ]
    equal = [reading(estate.meters["M1"], f"{n}.500", at=n, collected=n) for n in range(20)]
    outcome = await store_deliveries(engine, [copy.readings(*equal, *strange)], NOW, 10)
    assert (outcome.counts["duplicate"], outcome.counts["staged"]) == (20, 3)
    assert await reasons(engine) == {"not_this_gateway": 3}
    assert await stored(engine) == 20


async def test_a_copy_that_came_in_one_group_with_its_original_is_a_duplicate(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await make_estate(engine, gateway_id="gw-2")
    deliveries = [voice.readings(*_original(estate)) for voice in (GatewayVoice("gw-2"), GatewayVoice())]
    outcome = await store_deliveries(engine, deliveries, NOW, 10)
    assert (outcome.counts["stored"], outcome.counts["duplicate"]) == (20, 20)
    assert await reasons(engine) == {}


async def test_a_copy_that_came_before_its_original_does_not_wait_for_ever(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await make_estate(engine, gateway_id="gw-2")
    found = _original(estate)
    other = reading(estate.meters["M1"], "99", at=3, collected=3)
    await store_deliveries(engine, [GatewayVoice("gw-2").readings(*found, other)], NOW, 10)
    assert await reasons(engine) == {"not_this_gateway": 21}
    assert await adoption.drop_repeated(engine) == 0
    voice = GatewayVoice()
    await store_deliveries(engine, [voice.readings(*found)], NOW, 10)
    # A revision moves the current value on; the version that was copied is still there.
    await store_deliveries(engine, [voice.readings(reading(estate.meters["M1"], "8", at=5, collected=30))], NOW, 10)
    assert await adoption.drop_repeated(engine) == 20
    assert await reasons(engine) == {"not_this_gateway": 1}
    assert await stored(engine) == 20
