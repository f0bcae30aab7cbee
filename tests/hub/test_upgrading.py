"""A relay goes on while the next version's migration is applied, and starts on the schema that is ahead of it."""

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiomqtt
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.cli import commands
from hub.clocks import Clock
from hub.database import MIGRATIONS, DatabaseError, create_engine, schema_of, schemas, writing
from hub.database import reading as looking
from hub.ingest import store_deliveries
from hub.migrating import move
from hub.relay import run_relay
from hub.settings import Settings
from protocol.envelopes import SigningKey, open_envelope
from protocol.reports import Receipt, decode_receipt
from protocol.topics import QOS, Channel, topic_for
from tests.parts.databases import drop_postgresql, new_postgresql, new_sqlite
from tests.parts.estates import NOW, Estate, GatewayVoice, make_estate, reading
from tests.parts.mosquitto import mosquitto

SECONDS = 20.0
"""The longest pause without a receipt that is let pass: much more than it should be, and is on a quiet machine."""

HOLD = 1.5
"""Seconds that a query holds readings, longer than a lock is waited for."""

NEXT = '''
"""What a next version might bring: a table, a column of readings, and an index of them."""

import sqlalchemy as sa
from alembic import op

from hub import online_changes

revision = "9001"
down_revision = "{head}"
branch_labels = None
depends_on = None
stop = ""


def upgrade() -> None:
    op.create_table("remarks", sa.Column("id", sa.Integer(), primary_key=True), if_not_exists=True)
    online_changes.add_column("readings", sa.Column("remark", sa.Text(), nullable=True))
    online_changes.add_index("ix_readings_remarked", "readings", ["meter_device", "remark"], where="remark IS NOT NULL")


def downgrade() -> None:
    """Take it away again."""
    online_changes.drop_index("ix_readings_remarked", "readings")
    op.drop_column("readings", "remark")
    op.drop_table("remarks")
'''


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """Return the migrations of a version after this one."""
    scripts = tmp_path / "next"
    shutil.copytree(MIGRATIONS, scripts)
    (scripts / "versions" / "9001_next.py").write_text(NEXT.format(head=schemas()[-1]).lstrip(), "utf-8")
    return scripts


@pytest.fixture
async def engine() -> AsyncIterator[AsyncEngine]:
    """Return an engine on an empty PostgreSQL."""
    name, url = await new_postgresql()
    made = create_engine(url)
    yield made
    await made.dispose()
    await drop_postgresql(name)


class Sender:
    """A gateway that sends a batch of one reading again and again, and hears its receipts."""

    def __init__(self, client: aiomqtt.Client, estate: Estate, voice: GatewayVoice) -> None:
        self._client = client
        self._estate = estate
        self._voice = voice
        self.sent = 0
        self.receipted = 0
        self.longest = 0.0
        self.going = True
        self._heard = asyncio.Event()

    async def send(self) -> None:
        """Send until told to end: a cancellation the client may swallow, in Python 3.11."""
        self.going = True
        while self.going:
            said = reading(self._estate.meters["M1"], str(self.sent), at=self.sent)
            delivery = self._voice.readings(said)
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty = list(delivery.properties)
            await self._client.publish(delivery.topic, delivery.payload, qos=QOS, properties=properties)
            self.sent += 1
            await asyncio.sleep(0.02)

    async def hear(self) -> None:
        """Hear receipts for ever, and note the longest time without one."""
        last = time.monotonic()
        async for message in self._client.messages:
            assert isinstance(message.payload, bytes)
            said = decode_receipt(open_envelope(str(message.topic), message.payload).body)
            if isinstance(said, Receipt):
                self.receipted += len(said.names)
                self._heard.set()
                self.longest, last = max(self.longest, time.monotonic() - last), time.monotonic()

    async def until(self, count: int) -> None:
        """Wait for so many receipts."""
        async with asyncio.timeout(60):
            while self.receipted < count:
                self._heard.clear()
                await self._heard.wait()


@contextlib.asynccontextmanager
async def relaying(engine: AsyncEngine, url: str) -> AsyncIterator[None]:
    """Run a relay of this version for the length of the block, as its process would: if the schema serves it."""
    assert (await schema_of(engine)).problem == ""
    ready = asyncio.Event()
    task = asyncio.create_task(
        run_relay(Settings(database="", broker=url), engine, Clock(), SigningKey.generate(), ready=ready)
    )
    await asyncio.wait_for(ready.wait(), 60)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def hold(engine: AsyncEngine) -> None:
    """Hold readings as a long query does."""
    async with engine.connect() as connection:
        await connection.execute(sa.text("LOCK TABLE readings IN ACCESS SHARE MODE"))
        await asyncio.sleep(HOLD)
        await connection.rollback()


async def test_a_relay_goes_on_while_the_next_version_migrates_and_starts_on_its_schema(
    engine: AsyncEngine, next_version: Path
) -> None:
    estate, voice = await make_estate(engine), GatewayVoice()
    with mosquitto() as broker:
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe(topic_for(voice.gateway_id, Channel.RECEIPT), qos=QOS)
            sender = Sender(client, estate, voice)
            hearing = asyncio.create_task(sender.hear())
            async with relaying(engine, broker.url):
                sending = asyncio.create_task(sender.send())
                await sender.until(5)
                holding = asyncio.create_task(hold(engine))
                await asyncio.sleep(0.1)
                before, begun = sender.receipted, time.monotonic()
                outlook = await move(engine, scripts=next_version)
                took = time.monotonic() - begun
                await holding
                during = sender.receipted - before
                await sender.until(sender.receipted + 5)
                sender.going = False
                await sending
                await sender.until(sender.sent)
            assert outlook.online
            # The step was refused the lock while the query held it, and what came meanwhile was stored.
            assert took > HOLD - 0.5
            assert during > 5
            assert sender.longest < SECONDS
            found = await schema_of(engine)
            assert (found.name, found.is_ahead, found.problem) == ("9001", True, "")
            async with relaying(engine, broker.url):
                sending = asyncio.create_task(sender.send())
                await sender.until(sender.receipted + 5)
                sender.going = False
                await sending
                await sender.until(sender.sent)
            hearing.cancel()
            await asyncio.wait([hearing])
    async with looking(engine) as session:
        rows = (await session.execute(sa.select(models.Reading.timestamp, models.Reading.version_count))).all()
        valid = await session.scalars(
            sa.text("SELECT indisvalid FROM pg_index WHERE indrelid::regclass::text ~ 'readings'")
        )
        assert all(valid.all())
    assert len(rows) == len({timestamp for timestamp, _ in rows}) == sender.sent
    assert {count for _, count in rows} == {1}
    back = await move(engine, schemas()[-1], scripts=next_version)
    assert not back.online
    async with looking(engine) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(models.Reading)) == sender.sent


async def test_an_index_that_was_left_unfinished_is_built_again(engine: AsyncEngine, next_version: Path) -> None:
    estate, voice = await make_estate(engine), GatewayVoice()
    said = [reading(estate.meters["M1"], str(number), at=number) for number in range(3)]
    await store_deliveries(engine, [voice.readings(*said)], NOW, quarantine_rows=10)
    name = "readings_default_meter_device_remark_idx"
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        # As an attempt that was killed leaves it: there, and not valid.
        with pytest.raises(sa.exc.IntegrityError):
            await connection.execute(sa.text(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON readings_default (unit)"))
    await move(engine, scripts=next_version)
    async with engine.connect() as connection:
        found = await connection.execute(
            sa.text("SELECT indisvalid, indisunique FROM pg_index WHERE indexrelid = to_regclass(:name)"),
            {"name": name},
        )
        assert tuple(found.one()) == (True, False)


async def test_a_lock_that_is_never_to_be_had_ends_the_step_and_names_who_holds_it(
    engine: AsyncEngine, next_version: Path
) -> None:
    async with engine.connect() as holder:
        await holder.execute(sa.text("SELECT count(*) AS long_query FROM readings"))
        with pytest.raises(DatabaseError, match=r"migration 9001 was refused a lock .* long_query"):
            await move(engine, scripts=next_version, try_seconds=0.0)
    assert (await schema_of(engine)).name == schemas()[-1]
    async with writing(engine) as session:
        await session.execute(sa.text("SELECT 1 FROM readings"))


async def test_operators_see_what_is_pending_before_and_say_that_they_go_back(tmp_path: Path) -> None:
    await new_sqlite(tmp_path / "hub.db")
    head, below = schemas()[-1], schemas()[-2]

    def migrate(*options: str) -> tuple[int, str]:
        done = CliRunner().invoke(commands, ["migrate", "--data", str(tmp_path), *options])
        return done.exit_code, done.output

    shown = await asyncio.to_thread(migrate, "--dry-run", "--json")
    told = json.loads(shown[1])
    assert (told["schema"], told["head"], told["steps"], told["online"]) == (head, head, [], True)
    status, said = await asyncio.to_thread(migrate, "--to", below)
    assert (status, "--downgrade" in said) == (2, True)
    status, said = await asyncio.to_thread(migrate, "--to", below, "--dry-run")
    assert (status, f"{head} " in said, "the way back" in said) == (0, True, True)
    assert (await asyncio.to_thread(migrate, "--to", below, "--downgrade"))[0] == 0
    status, said = await asyncio.to_thread(migrate, "--dry-run")
    assert (status, f"has schema {below}" in said, "online" in said) == (0, True, True)
    lost = await asyncio.to_thread(CliRunner().invoke, commands, ["token", "list", "--data", str(tmp_path)])
    assert "run metergate-hub migrate" in str(lost.exception)
    status, said = await asyncio.to_thread(migrate)
    assert (status, said.splitlines()[-1]) == (0, "the database is up to date")
