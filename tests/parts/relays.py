"""Relays that a test starts and ends, on a real broker, and the agents at its other end."""

import asyncio
import datetime as dt
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

import aiomqtt
import pytest
import sqlalchemy as sa
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models, plans
from hub.clocks import Clock
from hub.database import reading as looking
from hub.database import writing
from hub.ingest import Delivery
from hub.notices import notices_of
from hub.relay import run_relay
from hub.settings import Settings
from protocol.commands import Command
from protocol.envelopes import SigningKey, open_envelope
from protocol.plans import Plan, read_plan
from protocol.readings import name_from_properties
from protocol.reports import Online, Receipt, Resend, decode_receipt
from protocol.topics import HELLO, QOS, Channel, agent_filters, parse_topic, topic_for
from protocol.wire import decode, encode
from tests.parts.estates import GatewayVoice
from tests.parts.mosquitto import Mosquitto, mosquitto

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

    def __init__(self, port: int, gateway_id: str, hub_key: SigningKey = HUB_KEY) -> None:
        super().__init__(gateway_id)
        self._hub_key = hub_key
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
            assert envelope.key == self._hub_key.public
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


def command(estate: Any, at: dt.datetime | None = None, **more: Any) -> models.Command:  # noqa: ANN401 - fields of the row
    at = at or now()
    values = {"state": "pending", "ttl_seconds": 60, "expires_at": at + dt.timedelta(seconds=60)}
    values |= {"kwargs": {"address": "2:300"}} | more
    return models.Command(
        organization=estate.organization,
        gateway=estate.gateway,
        meter_device=estate.meters["M1"],
        meter="M1",
        context="generic_lis200",
        call="read_single_value",
        created_at=at,
        updated_at=at,
        **values,
    )


async def until_row(engine: AsyncEngine, gateway: uuid.UUID, condition: Callable[[Any], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition(await one(engine, models.Gateway, id=gateway)):
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def hearing(engine: AsyncEngine) -> None:
    """Wait until a process hears what others tell."""
    await until(lambda: notices_of(engine).live)


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait for its end."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
