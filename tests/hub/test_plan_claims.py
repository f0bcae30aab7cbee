"""Which of several relays publishes a plan: one of them, and another one when that one has died."""

import asyncio
import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.database import create_engine, writing
from hub.models import Gateway
from hub.plan_claims import ALWAYS, HEARD_SECONDS, LEASE_SECONDS, claim
from tests.parts.databases import ONLY_POSTGRESQL, ONLY_SQLITE, database_url, engine
from tests.parts.estates import make_estate

__all__ = ["database_url", "engine"]

GATEWAYS = 20


async def raise_revisions(engine: AsyncEngine) -> None:
    """Have every gateway want another plan."""
    async with writing(engine) as session:
        await session.execute(sa.update(Gateway).values(desired_revision=Gateway.desired_revision + 1))


@pytest.fixture
async def gateways(engine: AsyncEngine) -> list[uuid.UUID]:
    """Return gateways that have never had a plan, and want one."""
    made = [(await make_estate(engine, gateway_id=f"gw-{number}")).gateway for number in range(GATEWAYS)]
    await raise_revisions(engine)
    return made


@ONLY_POSTGRESQL
async def test_of_relays_that_hear_of_an_edit_at_once_one_publishes_each_plan(
    database_url: str, engine: AsyncEngine, gateways: list[uuid.UUID]
) -> None:
    relays = [create_engine(database_url) for _ in range(3)]
    behind = dict.fromkeys(gateways, LEASE_SECONDS)
    try:
        for _ in range(3):
            taken = await asyncio.gather(*(claim(relay, behind) for relay in relays))
            assert sorted(one for some in taken for one in some) == sorted(gateways)
            # While one of them is at it, nobody else is, not even for a life sign that wants the plan.
            assert not await claim(relays[0], dict.fromkeys(gateways, HEARD_SECONDS))
            # The next revision is anybody's at once.
            await raise_revisions(engine)
    finally:
        for relay in relays:
            await relay.dispose()


@ONLY_POSTGRESQL
async def test_a_plan_whose_relay_died_is_another_ones_after_a_while(
    engine: AsyncEngine, gateways: list[uuid.UUID]
) -> None:
    one, *_ = gateways
    assert set(await claim(engine, {one: LEASE_SECONDS})) == {one}
    assert not await claim(engine, {one: 0.5})
    await asyncio.sleep(0.6)
    assert set(await claim(engine, {one: 0.5})) == {one}
    # What was overwritten at the broker is brought there again, whoever was at it.
    assert set(await claim(engine, {one: ALWAYS})) == {one}


@ONLY_SQLITE
async def test_where_there_is_one_relay_all_plans_are_its(engine: AsyncEngine, gateways: list[uuid.UUID]) -> None:
    for _ in range(2):
        assert set(await claim(engine, dict.fromkeys(gateways, LEASE_SECONDS))) == set(gateways)
