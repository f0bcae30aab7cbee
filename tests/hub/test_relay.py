"""The relay with a real broker and both databases: receipts after commits, plans, restores, lost brokers."""

import asyncio
import contextlib
import dataclasses
import time
import uuid
from collections.abc import Sequence

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models, plans
from hub.broker import embedded_broker
from hub.database import reading as looking
from hub.database import writing
from hub.failures import all_or_each
from protocol.commands import CommandUpdate
from protocol.plans import plan_digest
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import ON_POSTGRESQL, database_url, engine
from tests.parts.estates import make_estate, reading
from tests.parts.gates import gate
from tests.parts.mosquitto import Mosquitto, mosquitto
from tests.parts.relays import (
    PATIENCE,
    Agent,
    Relays,
    broker,
    command,
    fresh_id,
    now,
    one,
    raised,
    relays,
    until,
    until_row,
)

__all__ = ["broker", "database_url", "engine", "relays"]


async def test_a_batch_is_receipted_when_it_is_committed(
    engine: AsyncEngine, broker: Mosquitto, relays: Relays
) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    async with Agent(broker.port, estate.gateway_id) as agent:
        await relays.start()
        good = agent.readings(*(reading(estate.meters["M1"], "1", at=n) for n in range(50)))
        odd = agent.readings(reading(None, "1"))
        odd = dataclasses.replace(odd, payload=agent.key.seal(odd.topic, b"not a batch"))
        await agent.send(odd)
        await agent.send(good)
        await until(lambda: agent.received(good) and agent.received(odd))
        assert agent.hellos == 1
        assert {receipt.outcome for receipt in agent.receipts} == {"stored", "quarantined"}
        async with looking(engine) as session:
            assert await session.scalar(sa.select(sa.func.count()).select_from(models.Reading)) == 50


async def test_gateways_hear_it_when_a_relay_is_gone_in_whatever_way(engine: AsyncEngine, broker: Mosquitto) -> None:
    """What the broker had given to it is lost, also to the relays beside it: nobody waits a minute to notice that."""
    async with Agent(broker.port, fresh_id()) as agent:
        with gate(broker.port) as between:
            lost = Relays(engine, between.url)
            await lost.start()
            await until(lambda: agent.hellos == 1)
            # Its machine is gone: it does not come back, and nobody says so but the broker.
            between.cut(refuse=True)
            await until(lambda: agent.hellos == 2)
            await lost.stop()
        assert agent.hellos == 2
        ended = Relays(engine, broker.url)
        await ended.start()
        await until(lambda: agent.hellos == 3)
        await ended.stop()
        await until(lambda: agent.hellos == 4)


async def test_nothing_is_receipted_before_its_commit(engine: AsyncEngine, broker: Mosquitto, relays: Relays) -> None:
    """A transaction of somebody else's holds up the commit: meanwhile the batch is here, and has no receipt."""
    estate = await make_estate(engine, gateway_id=fresh_id())
    async with Agent(broker.port, estate.gateway_id) as agent:
        await relays.start()
        delivery = agent.readings(reading(estate.meters["M1"], "1"))
        async with writing(engine) as session:
            if engine.dialect.name == "postgresql":
                await session.execute(sa.text("LOCK TABLE batches IN SHARE MODE"))
            await agent.send(delivery)
            await asyncio.sleep(1.0)
            assert not agent.receipts
        await until(lambda: agent.received(delivery))


async def test_an_edit_reaches_the_gateway_as_one_retained_document(
    engine: AsyncEngine, broker: Mosquitto, relays: Relays
) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    await relays.start()
    assert await raised(engine, estate.gateway) == [estate.gateway_id]
    async with Agent(broker.port, estate.gateway_id) as agent:
        await until(lambda: bool(agent.plans))
        plan, body = agent.plans[-1]
        assert {device.name for device in plan.devices.values()} == {"M1", "M2"}
        async with writing(engine) as session:
            await session.execute(
                sa.update(models.MeterDevice).where(models.MeterDevice.name == "M1").values(name="renamed")
            )
        await raised(engine, estate.gateway)
        assert await raised(engine, estate.gateway) == []
        await until(lambda: agent.plans[-1][0].revision == plan.revision + 1)
        assert "renamed" in {device.name for device in agent.plans[-1][0].devices.values()}
        await until_row(
            engine, estate.gateway, lambda row: row.desired_revision == row.published_revision == plan.revision + 1
        )
        row = await one(engine, models.Gateway, id=estate.gateway)
        assert plan_digest(body) != row.published_digest == plan_digest(agent.plans[-1][1])
    # Whoever comes later finds it at the broker.
    async with Agent(broker.port, estate.gateway_id) as late:
        await until(lambda: bool(late.plans))
        assert late.plans[0][0].revision == plan.revision + 1


async def test_a_broker_that_comes_back_with_nothing_gets_the_plans_again(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    await raised(engine, estate.gateway)
    with mosquitto() as broker:
        relays = Relays(engine, broker.url)
        try:
            await relays.start()
            broker.kill()
            await asyncio.sleep(0.2)
            broker.start()
            async with Agent(broker.port, estate.gateway_id) as agent:
                await until(lambda: bool(agent.plans))
                delivery = agent.readings(reading(estate.meters["M1"], "1"))
                # The agent sends again until it has a receipt: the relay may be a moment later than the agent.
                deadline = time.monotonic() + PATIENCE
                while not agent.received(delivery):
                    assert time.monotonic() < deadline
                    await agent.send(delivery)
                    await asyncio.sleep(0.2)
        finally:
            await relays.stop()


async def test_a_hub_that_was_put_back_lifts_its_revision_and_asks_for_the_tail(
    engine: AsyncEngine, broker: Mosquitto, relays: Relays
) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    await raised(engine, estate.gateway)
    await relays.start()
    async with Agent(broker.port, estate.gateway_id) as agent:
        first = agent.readings(*(reading(estate.meters["M1"], "1", at=n) for n in range(10)))
        await agent.send(first)
        await until(lambda: agent.received(first))
        # What the hub receipted after its backup was made, and does not know any more.
        lost = [agent.readings(*(reading(estate.meters["M1"], "2", at=10 * k + n) for n in range(10))) for k in (1, 2)]
        await agent.say_online(plan_revision=40, plan_digest=b"x" * 16, readings_through=30)
        await until(lambda: bool(agent.resends) and agent.plans[-1][0].revision == 41)
        assert [(ask.channel, ask.first, ask.store) for ask in agent.resends] == [("readings", 11, agent.store)]
        # Half of it is gone from the tail: what the gateway no longer has is not asked for again and again.
        await agent.send(lost[1])
        await until(lambda: agent.received(lost[1]))
        await agent.say_online(plan_revision=41, readings_through=30)
        await agent.say_online(plan_revision=41, readings_through=30)
        await until_row(engine, estate.gateway, lambda row: row.session == 3)
        assert len(agent.resends) == 1
        progress = await one(engine, models.OutboxProgress, gateway=estate.gateway, channel="readings")
        assert progress.through == 30


async def test_a_plan_that_arrived_and_could_not_be_noted_is_no_restored_database(
    engine: AsyncEngine, broker: Mosquitto, relays: Relays
) -> None:
    """The database was away between the plan's way out and the note of it; the agent came back meanwhile."""
    estate = await make_estate(engine, gateway_id=fresh_id())
    await raised(engine, estate.gateway)
    async with looking(engine) as session:
        rendered = await plans.render(session, estate.gateway)
    assert rendered is not None
    await relays.start()
    async with Agent(broker.port, estate.gateway_id) as agent:
        await until_row(engine, estate.gateway, lambda row: row.published_revision == rendered.revision)
        async with writing(engine) as session:
            unnoted = sa.update(models.Gateway).where(models.Gateway.id == estate.gateway)
            await session.execute(unnoted.values(published_revision=0, published_digest=None))
        await agent.say_online(plan_revision=rendered.revision, plan_digest=rendered.digest)
        await until_row(engine, estate.gateway, lambda row: row.published_revision >= rendered.revision)
        row = await one(engine, models.Gateway, id=estate.gateway)
        assert row.desired_revision == row.published_revision == rendered.revision


async def test_an_old_will_does_not_put_a_gateway_offline(
    engine: AsyncEngine, broker: Mosquitto, relays: Relays
) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    await relays.start()
    async with Agent(broker.port, estate.gateway_id) as agent:
        agent.session = 8
        await agent.say_online()
        await until_row(engine, estate.gateway, lambda row: row.session == 9 and row.online)
        await agent.say_will(session=8)
        await agent.say_online()
        await until_row(engine, estate.gateway, lambda row: row.session == 10)
        assert (await one(engine, models.Gateway, id=estate.gateway)).online
        await agent.say_will(session=10)
        await until_row(engine, estate.gateway, lambda row: not row.online)


async def test_several_relays_share_the_work_and_store_everything_once(
    engine: AsyncEngine, broker: Mosquitto, relays: Relays
) -> None:
    estates = [await make_estate(engine, gateway_id=fresh_id()) for _ in range(3)]
    for _ in range(2):
        await relays.start()
    async with contextlib.AsyncExitStack() as stack:
        agents = [await stack.enter_async_context(Agent(broker.port, estate.gateway_id)) for estate in estates]
        batches = []
        for agent, estate in zip(agents, estates, strict=True):
            await agent.say_online()
            batches += [
                (agent, agent.readings(*(reading(estate.meters["M1"], str(n), at=m) for m in range(5))))
                for n in range(10)
            ]
        await asyncio.gather(*(agent.send(batch) for agent, batch in batches for _ in range(2)))
        await until(lambda: all(agent.received(batch) for agent, batch in batches))
        await until(lambda: all(agent.plans for agent in agents))
    async with looking(engine) as session:
        found = (await session.scalars(sa.select(models.Reading))).all()
    assert len(found) == 15
    # All were collected at the same instant, so the greatest of the ten values is current everywhere.
    assert {(str(row.value), row.version_count) for row in found} == {("9", 10)}


async def test_what_does_not_fit_into_the_queue_is_dropped_without_a_receipt(
    engine: AsyncEngine, broker: Mosquitto
) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    relays = Relays(engine, broker.url, queue_bytes=1500)
    await relays.start()
    try:
        async with Agent(broker.port, estate.gateway_id) as agent:
            large = agent.readings(*(reading(estate.meters["M1"], "1", at=n) for n in range(60)))
            small = agent.readings(reading(estate.meters["M1"], "1"))
            assert len(large.payload) > 1500 > len(small.payload)
            await agent.send(large)
            await agent.send(small)
            await until(lambda: agent.received(small))
            assert not agent.received(large)
    finally:
        await relays.stop()


async def test_what_came_while_the_database_was_away_need_not_be_sent_again(
    engine: AsyncEngine, broker: Mosquitto, relays: Relays
) -> None:
    """A gateway waits a minute before it asks again; the relay has the batch, and stores it when it can."""
    estate = await make_estate(engine, gateway_id=fresh_id())
    failed: list[str] = []

    def fail(*arguments: object) -> None:
        if "INSERT INTO batches" in str(arguments[2]) and len(failed) < 2:
            failed.append(str(arguments[2]))
            raise OperationalError("insert", {}, OSError("the database is gone"))

    async with Agent(broker.port, estate.gateway_id) as agent:
        await relays.start()
        sa.event.listen(engine.sync_engine, "before_cursor_execute", fail)
        try:
            batch = agent.readings(*(reading(estate.meters["M1"], "1", at=n) for n in range(50)))
            await agent.send(batch)
            await until(lambda: agent.received(batch))
        finally:
            sa.event.remove(engine.sync_engine, "before_cursor_execute", fail)
        assert len(failed) == 2
        async with looking(engine) as session:
            assert await session.scalar(sa.select(sa.func.count()).select_from(models.Reading)) == 50


async def test_what_the_driver_cannot_send_keeps_nobody_waiting(engine: AsyncEngine) -> None:
    """PostgreSQL's calls it an error of its interface, like a closed connection: the group would come back for ever."""
    stored, left = list[object](), list[object]()
    odd = object()

    async def store(group: Sequence[object]) -> None:
        async with looking(engine) as session:
            for one in group:
                await session.execute(sa.text("SELECT CAST(:one AS TEXT)"), {"one": one})
        stored.extend(group)

    await all_or_each(["a", odd, "b"], store, lambda one, _: left.append(one))
    assert (stored, left) == (["a", "b"], [odd])


@ON_POSTGRESQL
async def test_who_crossed_another_transaction_is_stored_later(engine: AsyncEngine) -> None:
    """It is nothing that the database cannot take: a batch that was dropped for it came a minute later."""
    left: list[str] = []

    async def store(_group: Sequence[str]) -> None:
        async with looking(engine) as session:
            await session.execute(sa.text("DO $$ BEGIN RAISE EXCEPTION 'crossed' USING ERRCODE = '40P01'; END $$"))

    with pytest.raises(DBAPIError, match="crossed"):
        await all_or_each(["a"], store, lambda one, _: left.append(one))
    assert left == []


async def test_the_embedded_broker_carries_all_of_it(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    waiting = command(estate)
    async with writing(engine) as session:
        session.add(waiting)
    async with embedded_broker() as broker:
        relays = Relays(engine, broker.url)
        try:
            await relays.start()
            async with Agent(broker.port, estate.gateway_id) as agent:
                await agent.say_online()
                batch = agent.readings(*(reading(estate.meters["M1"], "1", at=n) for n in range(500)))
                report = agent.rows(
                    Channel.REPORT,
                    [encode(CommandUpdate(uuid.uuid4(), waiting.id, "done", now(), session=2, sequence=1))],
                )
                await until(lambda: bool(agent.plans) and bool(agent.commands))
                await agent.send(batch)
                await agent.send(report)
                await until(lambda: agent.received(batch) and agent.received(report))
            assert (await one(engine, models.Command, id=waiting.id)).state == "done"
        finally:
            await relays.stop()
