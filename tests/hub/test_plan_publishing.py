"""Publishing plans, with a real broker: what overtakes a publish in flight, and what does not wait for a note."""

import asyncio

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.database import writing
from tests.parts.databases import ONLY_POSTGRESQL, database_url, engine
from tests.parts.estates import make_estate
from tests.parts.gates import gate
from tests.parts.mosquitto import Mosquitto
from tests.parts.relays import Agent, Relays, broker, fresh_id, one, raised, relays, until, until_row

__all__ = ["broker", "database_url", "engine", "relays"]


async def rename(engine: AsyncEngine, name: str) -> None:
    """Have meters be called otherwise, which their gateways' plans say."""
    async with writing(engine) as session:
        await session.execute(sa.update(models.MeterDevice).where(models.MeterDevice.name == "M1").values(name=name))


async def test_an_edit_that_overtakes_a_publish_in_flight_is_published_after_it(
    engine: AsyncEngine, broker: Mosquitto
) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    with gate(broker.port) as between:
        relays = Relays(engine, between.url)
        await relays.start()
        try:
            async with Agent(broker.port, estate.gateway_id) as agent:
                # The broker's word that it has the plan does not come.
                between.shut(downstream=True)
                await raised(engine, estate.gateway)
                await until(lambda: len(agent.plans) == 1)
                await rename(engine, "renamed")
                await raised(engine, estate.gateway)
                await asyncio.sleep(0.5)
                assert (await one(engine, models.Gateway, id=estate.gateway)).published_revision == 0
                between.open()
                await until_row(engine, estate.gateway, lambda row: row.published_revision == 2)
                assert [plan.revision for plan, _ in agent.plans] == [1, 2]
        finally:
            await relays.stop()


@ONLY_POSTGRESQL
async def test_a_plan_waits_for_nobody_elses_note(engine: AsyncEngine, broker: Mosquitto, relays: Relays) -> None:
    """Notes take turns with reports and life signs, which may take long: plans go out all the same."""
    first, second = [await make_estate(engine, gateway_id=fresh_id()) for _ in range(2)]
    await raised(engine, first.gateway)
    async with (
        Agent(broker.port, first.gateway_id) as noted_late,
        Agent(broker.port, second.gateway_id) as other,
        writing(engine) as session,
    ):
        kept = sa.select(models.GatewayPlan.revision).where(models.GatewayPlan.gateway == first.gateway)
        await session.execute(kept.with_for_update())
        await relays.start()
        await until(lambda: bool(noted_late.plans))
        await raised(engine, second.gateway)
        await until(lambda: bool(other.plans))
        await session.rollback()
    for estate in (first, second):
        await until_row(engine, estate.gateway, lambda row: row.published_revision == row.desired_revision == 1)
    assert len(noted_late.plans) == len(other.plans) == 1
