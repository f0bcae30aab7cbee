"""Commands on their way to gateways: given, given again, called back, by one relay of several."""

import asyncio
import contextlib
import datetime as dt
import time
import uuid

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.database import create_engine, writing
from hub.notices import Listener, Notice, tell
from protocol.commands import CommandUpdate
from protocol.plans import plan_digest
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import ONLY_POSTGRESQL, database_url, engine
from tests.parts.estates import make_estate
from tests.parts.mosquitto import Mosquitto
from tests.parts.relays import (
    Agent,
    Relays,
    broker,
    command,
    ended,
    fresh_id,
    hearing,
    now,
    one,
    relays,
    until,
    until_row,
)

__all__ = ["broker", "database_url", "engine", "relays"]


async def test_a_gateway_that_comes_online_gets_plan_and_open_commands(
    engine: AsyncEngine, broker: Mosquitto, relays: Relays
) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    waiting = command(estate)
    async with writing(engine) as session:
        session.add(waiting)
    await relays.start()
    async with Agent(broker.port, estate.gateway_id) as agent:
        await agent.say_online()
        await until(lambda: bool(agent.plans) and bool(agent.commands))
        (sent,) = agent.commands
        assert (sent.id, sent.store, sent.device) == (waiting.id, agent.store, estate.meters["M1"])
        assert (await one(engine, models.Command, id=waiting.id)).state == "sent"
        # It was not answered, so the next life sign brings it again; once answered it does not come any more.
        await agent.say_online()
        await until(lambda: len(agent.commands) == 2)
        update = CommandUpdate(uuid.uuid4(), sent.id, "running", now(), session=2, sequence=1)
        await agent.send(agent.rows(Channel.REPORT, [encode(update)]))
        await until(lambda: bool(agent.receipts))
        assert (await one(engine, models.Command, id=waiting.id)).state == "running"
        before = len(agent.plans)
        await agent.say_online(plan_revision=agent.plans[-1][0].revision, plan_digest=plan_digest(agent.plans[-1][1]))
        last = command(estate)
        async with writing(engine) as session:
            session.add(last)
            await tell(session, Notice.COMMANDS)
        await until(lambda: agent.commands[-1].id == last.id)
        assert [one.id for one in agent.commands] == [sent.id, sent.id, last.id]
        assert len(agent.plans) == before
        row = await one(engine, models.Gateway, id=estate.gateway)
        assert (row.online, row.session, row.software) == (True, 3, "test")


async def test_a_command_of_a_lost_store_is_interrupted(engine: AsyncEngine, broker: Mosquitto, relays: Relays) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    sent = command(estate)
    async with writing(engine) as session:
        session.add(sent)
    await relays.start()
    async with Agent(broker.port, estate.gateway_id) as agent:
        await agent.say_online()
        await until(lambda: bool(agent.commands))
        agent.store, agent.session = uuid.uuid4().bytes, 0
        await agent.say_online()
        states = ["sent"]
        while states[-1] == "sent":
            states.append((await one(engine, models.Command, id=sent.id)).state)
            await asyncio.sleep(0.02)
        assert states[-1] == "interrupted"
        assert len(agent.commands) == 1


async def test_a_cancelled_command_is_called_back_and_an_unsent_one_ends_at_once(
    engine: AsyncEngine, broker: Mosquitto, relays: Relays
) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    away = command(estate, cancel_requested=True)
    overdue = command(estate, expires_at=now() - dt.timedelta(seconds=1))
    sent = command(estate)
    async with writing(engine) as session:
        session.add_all([away, overdue])
    await relays.start()
    states: dict[uuid.UUID, str] = {}
    while set(states.values()) != {"cancelled", "expired"}:
        states = {row.id: (await one(engine, models.Command, id=row.id)).state for row in (away, overdue)}
        await asyncio.sleep(0.02)
    async with Agent(broker.port, estate.gateway_id) as agent:
        await agent.say_online()
        async with writing(engine) as session:
            session.add(sent)
            await tell(session, Notice.COMMANDS)
        await until(lambda: bool(agent.commands))
        async with writing(engine) as session:
            await session.execute(
                sa.update(models.Command).where(models.Command.id == sent.id).values(cancel_requested=True)
            )
            await tell(session, Notice.COMMANDS)
        await until(lambda: len(agent.commands) == 2)
        assert agent.commands[1].cancels == sent.id


@ONLY_POSTGRESQL
async def test_relays_that_hear_of_the_same_command_publish_it_once_and_at_once(
    engine: AsyncEngine, database_url: str, broker: Mosquitto
) -> None:
    """Two relays are woken by each commit. Looking alone they would take up to five seconds for each command."""
    estate = await make_estate(engine, gateway_id=fresh_id())
    sent = [command(estate) for _ in range(10)]
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            other = create_engine(database_url)
            stack.push_async_callback(other.dispose)
            relay = Relays(other, broker.url)
            stack.push_async_callback(relay.stop)
            await relay.start()
            listening = asyncio.create_task(Listener(other, database_url).keep_on())
            stack.push_async_callback(ended, listening)
            await hearing(other)
        agent = await stack.enter_async_context(Agent(broker.port, estate.gateway_id))
        await agent.say_online()
        await until(lambda: bool(agent.plans))
        await until_row(engine, estate.gateway, lambda row: row.online)
        delays = []
        for one in sent:
            begun = time.monotonic()
            async with writing(engine) as session:
                session.add(one)
                await tell(session, Notice.COMMANDS)
            await had(agent, one.id)
            delays.append(time.monotonic() - begun)
        assert [one.id for one in agent.commands] == [one.id for one in sent], "each once"
        assert sorted(delays)[5] < 1, delays


async def had(agent: Agent, key: uuid.UUID) -> None:
    """Wait until an agent has been given a command."""
    await until(lambda: any(one.id == key for one in agent.commands))
