"""The relay with a real broker and both databases: receipts after commits, plans, commands, restores, lost brokers."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Self

import aiomqtt
import pytest
import sqlalchemy as sa
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models, plans
from hub.broker import embedded_broker
from hub.clocks import Clock
from hub.database import create_engine, writing
from hub.database import reading as looking
from hub.failures import all_or_each
from hub.ingest import Delivery
from hub.notices import Listener, Notice, notices_of, tell
from hub.relay import run_relay
from hub.settings import Settings
from protocol.commands import Command, CommandUpdate
from protocol.envelopes import SigningKey, open_envelope
from protocol.plans import Plan, plan_digest, read_plan
from protocol.readings import name_from_properties
from protocol.reports import Online, Receipt, Resend, decode_receipt
from protocol.topics import HELLO, QOS, Channel, agent_filters, parse_topic, topic_for
from protocol.wire import decode, encode
from tests.parts.databases import database_url, engine
from tests.parts.estates import GatewayVoice, make_estate, reading
from tests.parts.gates import gate
from tests.parts.mosquitto import Mosquitto, mosquitto

__all__ = ["database_url", "engine"]

HUB_KEY = SigningKey.generate()
PATIENCE = 60.0


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with mosquitto() as running:
        yield running


class Relays:
    """Relays of one database that a test starts and ends."""

    def __init__(self, engine: AsyncEngine, url: str, queue_bytes: int = 1 << 20) -> None:
        self._engine = engine
        self._settings = Settings(database="", broker=url, queue_bytes=queue_bytes)
        self._running: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(run_relay(self._settings, self._engine, Clock(), HUB_KEY, ready=ready))
        self._running.append(task)
        await asyncio.wait_for(ready.wait(), PATIENCE)

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()


@pytest.fixture
async def relays(engine: AsyncEngine, broker: Mosquitto) -> AsyncIterator[Relays]:
    made = Relays(engine, broker.url)
    yield made
    await made.stop()


class Agent(GatewayVoice):
    """The other end: says what an agent says, and keeps what it hears, by channel."""

    def __init__(self, port: int, gateway_id: str) -> None:
        super().__init__(gateway_id)
        self._port = port
        self._client: aiomqtt.Client | None = None
        self._listening: asyncio.Task[None] | None = None
        self.session = 0
        self.plans: list[tuple[Plan, bytes]] = []
        self.receipts: list[Receipt] = []
        self.resends: list[Resend] = []
        self.commands: list[Command] = []
        self.hellos = 0

    async def __aenter__(self) -> Self:
        self._client = aiomqtt.Client("127.0.0.1", self._port, protocol=aiomqtt.ProtocolVersion.V5)
        await self._client.__aenter__()
        for topic in agent_filters(self.gateway_id):
            await self._client.subscribe(topic, qos=QOS)
        self._listening = asyncio.create_task(self._listen(self._client))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._client is not None
        assert self._listening is not None
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        await self._client.__aexit__(None, None, None)

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            topic = str(message.topic)
            assert isinstance(message.payload, bytes)
            envelope = open_envelope(topic, message.payload)
            assert envelope.key == HUB_KEY.public
            if topic == HELLO:
                self.hellos += 1
                continue
            match parse_topic(topic).channel:
                case Channel.PLAN:
                    self.plans.append((read_plan(envelope.body), envelope.body))
                case Channel.COMMAND:
                    self.commands.append(decode(envelope.body, Command))
                case Channel.RECEIPT:
                    said = decode_receipt(envelope.body)
                    self.receipts.append(said) if isinstance(said, Receipt) else self.resends.append(said)

    async def send(self, delivery: Delivery) -> None:
        assert self._client is not None
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = list(delivery.properties)
        await self._client.publish(delivery.topic, delivery.payload, qos=QOS, properties=properties)

    async def say_online(self, **more: Any) -> None:  # noqa: ANN401 - any field of Online
        assert self._client is not None
        self.session += 1
        sign = Online(
            self.gateway_id, online=True, session=self.session, store=self.store, software="test", at=now(), **more
        )
        topic = topic_for(self.gateway_id, Channel.ONLINE)
        await self._client.publish(topic, self.key.seal(topic, encode(sign)), qos=QOS, retain=True)

    async def say_will(self, session: int) -> None:
        assert self._client is not None
        will = Online(self.gateway_id, online=False, session=session, store=self.store, software="test", at=now())
        topic = topic_for(self.gateway_id, Channel.ONLINE)
        await self._client.publish(topic, self.key.seal(topic, encode(will)), qos=QOS)

    def received(self, delivery: Delivery) -> bool:
        name = name_from_properties(delivery.properties)
        return any(name in receipt.names for receipt in self.receipts)


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


async def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def one(engine: AsyncEngine, model: type[models.Base], **where: Any) -> Any:  # noqa: ANN401 - a row
    async with looking(engine) as session:
        return (await session.scalars(sa.select(model).filter_by(**where))).one()


def fresh_id() -> str:
    # The broker outlives a test and keeps retained messages; ids do not come twice.
    return f"gw-{uuid.uuid4().hex[:12]}"


async def raised(engine: AsyncEngine, gateway: uuid.UUID) -> list[str]:
    async with writing(engine) as session:
        return await plans.raise_changed(session, [gateway], now())


def command(estate: Any, **more: Any) -> models.Command:  # noqa: ANN401 - fields of the row
    values = {"state": "pending", "ttl_seconds": 60, "expires_at": now() + dt.timedelta(seconds=60)} | more
    return models.Command(
        organization=estate.organization,
        gateway=estate.gateway,
        meter_device=estate.meters["M1"],
        meter="M1",
        context="generic_lis200",
        call="read_single_value",
        kwargs={"address": "2:300"},
        created_at=now(),
        updated_at=now(),
        **values,
    )


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


async def until_row(engine: AsyncEngine, gateway: uuid.UUID, condition: Callable[[Any], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition(await one(engine, models.Gateway, id=gateway)):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


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


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
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


async def hearing(engine: AsyncEngine) -> None:
    """Wait until a process hears what others tell."""
    await until(lambda: notices_of(engine).live)


async def had(agent: Agent, key: uuid.UUID) -> None:
    """Wait until an agent has been given a command."""
    await until(lambda: any(one.id == key for one in agent.commands))


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


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
