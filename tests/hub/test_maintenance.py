"""Partitions stand before they are needed and take over the default's rows; what is done is forgotten."""

import asyncio
import datetime as dt
import decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.clocks import Clock
from hub.database import reading as looking
from hub.database import writing
from hub.ingest import store_again, store_deliveries
from hub.maintenance import forget, maintain
from hub.partitions import make_partitions
from protocol.readings import NewMeterReading
from tests.parts.databases import ONLY_POSTGRESQL, database_url, engine
from tests.parts.estates import NOW, GatewayVoice, make_estate, new_meter, reading

__all__ = ["database_url", "engine"]


async def rows_of(engine: AsyncEngine, table: str) -> int:
    async with looking(engine) as session:
        count: int = (await session.execute(sa.text(f"SELECT count(*) FROM {table}"))).scalar_one()  # noqa: S608 - our tables
        return count


async def test_months_are_made_ahead_and_take_over_what_came_before_them(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    stamps = [NOW, NOW - dt.timedelta(days=40), NOW - dt.timedelta(days=400)]
    readings = [
        NewMeterReading("M1", "2:300", stamp, decimal.Decimal(1), device=estate.meters["M1"], collected=NOW)
        for stamp in stamps
    ]
    delivery = voice.readings(*readings)
    await store_deliveries(engine, [delivery], NOW, 10)
    made = await make_partitions(engine, NOW)
    if engine.dialect.name == "sqlite":
        assert made == []
        return
    months = ["2025_10", "2026_10", "2026_11", "2026_12", "2027_01", "2027_02"]
    assert made == [f"readings_{month}" for month in months]
    assert await make_partitions(engine, NOW) == []
    assert await rows_of(engine, "readings_default") == 0
    assert await rows_of(engine, "readings") == 3
    # The moved rows are the same readings: a repetition changes nothing, and new ones get ids of their own.
    again = await store_deliveries(engine, [delivery, voice.readings(reading(estate.meters["M2"], "1"))], NOW, 10)
    assert (again.counts["duplicate"], again.counts["stored"]) == (3, 1)
    assert await rows_of(engine, "readings_2026_11") == 2


async def test_partitions_are_made_while_readings_arrive(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()

    async def deliver() -> None:
        for n in range(20):
            await store_deliveries(engine, [voice.readings(reading(estate.meters["M1"], "1", at=n))], NOW, 10)

    await asyncio.gather(deliver(), make_partitions(engine, NOW), make_partitions(engine, NOW))
    assert await rows_of(engine, "readings") == 20


@ONLY_POSTGRESQL
async def test_a_month_takes_the_readings_that_come_while_its_table_is_made(engine: AsyncEngine) -> None:
    """Its first ones were not there when it was looked for what has to be moved, and are when everybody is kept out."""
    estate = await make_estate(engine)
    delivery = GatewayVoice().readings(reading(estate.meters["M1"], "1"))
    async with writing(engine) as session:
        assert await store_again(session, delivery, NOW, 10)
        making = asyncio.create_task(make_partitions(engine, NOW))
        while not await rows_of(engine, "pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - the database does not tell
            await asyncio.sleep(0.01)
    assert "readings_2026_11" in await making
    assert await rows_of(engine, "readings_default") == 0
    assert await rows_of(engine, "readings_2026_11") == 1


async def test_replayed_payloads_are_forgotten_after_a_while(engine: AsyncEngine) -> None:
    def payload(number: int, replayed: dt.datetime | None) -> models.Quarantined:
        values: dict[str, Any] = {"gateway": "gw-1", "channel": "readings", "topic": "t", "payload": b"", "reason": ""}
        return models.Quarantined(identity=bytes([number]), received_at=NOW, replayed_at=replayed, **values)

    async with writing(engine) as session:
        session.add_all([payload(1, None), payload(2, NOW - dt.timedelta(days=31)), payload(3, NOW)])
    await forget(engine, NOW)
    assert await rows_of(engine, "quarantine") == 2


async def test_the_regular_sweep_adopts_what_was_staged_in_a_race(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, meters=())
    keeping = asyncio.create_task(maintain(engine, Clock(), asyncio.Event()))
    voice = GatewayVoice()
    await store_deliveries(engine, [voice.readings(reading(None, "1", meter="N"))], NOW, 10)
    async with writing(engine) as session:
        session.add(new_meter("N", estate.organization, estate.type, estate.line))
    try:
        while await rows_of(engine, "staged_meter_readings"):
            assert not keeping.done()
            await asyncio.sleep(0.05)
        assert await rows_of(engine, "readings") == 1
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
