"""A relay that is asked to end, with a real broker: what it has taken is receipted, or gateways hear that it is not."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.demo.processes import Stage
from hub.clocks import Clock
from hub.database import create_engine, writing
from hub.keys import open_key
from hub.relay import DRAIN_SECONDS, run_relay
from hub.settings import Settings
from tests.parts.databases import database_url, drop_postgresql, engine, new_postgresql
from tests.parts.estates import make_estate, reading
from tests.parts.mosquitto import Mosquitto
from tests.parts.relays import HUB_KEY, PATIENCE, Agent, broker, fresh_id, until

__all__ = ["broker", "database_url", "engine"]


@contextlib.asynccontextmanager
async def nothing_is_committed(engine: AsyncEngine) -> AsyncIterator[None]:
    """Hold up all commits of readings for the length of the block."""
    async with writing(engine) as session:
        if engine.dialect.name == "postgresql":
            await session.execute(sa.text("LOCK TABLE batches IN SHARE MODE"))
        yield


async def test_a_relay_that_is_asked_to_end_receipts_what_it_has_and_no_gateway_sends_again(
    engine: AsyncEngine, broker: Mosquitto
) -> None:
    estate = await make_estate(engine, gateway_id=fresh_id())
    async with Agent(broker.port, estate.gateway_id) as agent, asyncio.TaskGroup() as group:

        async def started() -> tuple[asyncio.Event, asyncio.Task[None]]:
            ready, stopping, settings = asyncio.Event(), asyncio.Event(), Settings(database="", broker=broker.url)
            relaying = run_relay(settings, engine, Clock(), HUB_KEY, ready=ready, stopping=stopping)
            task = group.create_task(relaying)
            await asyncio.wait_for(ready.wait(), PATIENCE)
            return stopping, task

        stopping, relay = await started()
        sent = [agent.readings(reading(estate.meters["M1"], "1", at=number)) for number in range(20)]
        async with nothing_is_committed(engine):
            for delivery in sent[:10]:
                await agent.send(delivery)
            await asyncio.sleep(0.3)
            stopping.set()
            await asyncio.sleep(0.5)
            assert not agent.receipts
            assert not relay.done()
        await asyncio.wait_for(relay, PATIENCE)
        await until(lambda: all(agent.received(delivery) for delivery in sent[:10]))
        assert agent.hellos == 1

        # What it cannot store in time stays without a receipt, and gateways hear that they are to send it again.
        stopping, relay = await started()
        assert agent.hellos == 2
        async with nothing_is_committed(engine):
            for delivery in sent[10:]:
                await agent.send(delivery)
            await asyncio.sleep(0.3)
            begun = time.monotonic()
            stopping.set()
            await asyncio.wait_for(relay, PATIENCE)
            assert time.monotonic() - begun >= DRAIN_SECONDS
            await until(lambda: agent.hellos == 3)
        assert not any(agent.received(delivery) for delivery in sent[10:])


async def test_a_process_that_is_told_twice_ends_at_once(broker: Mosquitto, tmp_path: Path) -> None:
    name, url = await new_postgresql()
    other = create_engine(url)
    try:
        estate = await make_estate(other, gateway_id=fresh_id())
        with Stage(tmp_path, {}) as stage:
            places = ["--database", url, "--broker", broker.url, "--data", str(tmp_path)]
            relay = await asyncio.to_thread(stage.start, "relay", ["metergate-hub", "relay", *places], hello=True)
            async with Agent(broker.port, estate.gateway_id, open_key(tmp_path / "hub.key")) as gateway:
                async with nothing_is_committed(other):
                    await gateway.send(gateway.readings(reading(estate.meters["M1"], "1")))
                    await asyncio.sleep(1.0)
                    relay.popen.send_signal(signal.SIGTERM)
                    await asyncio.sleep(1.0)
                    assert relay.popen.poll() is None, "it waits for what it has to be stored"
                    begun = time.monotonic()
                    relay.popen.send_signal(signal.SIGTERM)
                    assert await asyncio.to_thread(relay.popen.wait, PATIENCE) == 0
                    assert time.monotonic() - begun < DRAIN_SECONDS - 1.0
                await until(lambda: gateway.hellos == 1)
            assert not gateway.receipts
    finally:
        await other.dispose()
        await drop_postgresql(name)
