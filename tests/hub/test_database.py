"""The schema made by migrations is the schema of the models, on both databases; values survive them exactly."""

import asyncio
import datetime as dt
import decimal
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import database
from hub.database import LEAST_CONNECTIONS, MIGRATIONS, async_url, create_engine, migrate, reading, schemas, writing
from hub.failures import DATABASE_ERRORS, all_or_each
from hub.models import Base, Organization, ReadingSeries
from tests.parts.databases import ONLY_POSTGRESQL, ONLY_SQLITE, database_url, engine
from tests.parts.poolers import deaf_pooler

__all__ = ["database_url", "engine"]

NOW = dt.datetime(2026, 11, 22, 17, 0, 0, 123456, tzinfo=dt.UTC)


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection)
    return [
        found
        for found in compare_metadata(context, Base.metadata)
        # The default and monthly partitions are tables of PostgreSQL alone.
        if not (found[0] in {"remove_table", "remove_index"} and "readings_" in str(found[1]))
    ]


async def test_migrations_make_the_tables_of_the_models(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


def test_the_schemas_that_are_known_are_those_of_the_migrations() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert schemas() == [script.revision for script in reversed(list(scripts.walk_revisions()))]
    assert schemas()[-1] == scripts.get_current_head()


async def test_migrating_again_changes_nothing(database_url: str, engine: AsyncEngine) -> None:
    await migrate(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


@pytest.mark.parametrize(
    "value", ["9.50", "0.000000000000000001", "1E+5", "-0", "12345678901234567890123456789012345678"]
)
async def test_decimals_come_back_exactly(engine: AsyncEngine, value: str) -> None:
    organization = Organization(name="Stadtwerke", created_at=NOW, updated_at=NOW)
    async with writing(engine) as session:
        session.add(organization)
        await session.flush()
        session.add(
            ReadingSeries(
                organization=organization.id,
                name="2:300",
                unit="m3",
                si_multiplier=decimal.Decimal(value),
                created_at=NOW,
                updated_at=NOW,
            )
        )
    async with reading(engine) as session:
        row = (await session.execute(select(ReadingSeries))).scalar_one()
    assert row.si_multiplier == decimal.Decimal(value)
    if "." in value:
        assert str(row.si_multiplier) == value or format(row.si_multiplier, "f") == value
    assert row.created_at == NOW
    assert row.created_at.tzinfo is dt.UTC
    assert isinstance(row.id, uuid.UUID)


async def test_a_naive_datetime_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(Exception, match="no offset from UTC"):
        async with writing(engine) as session:
            session.add(Organization(name="x", created_at=NOW.replace(tzinfo=None), updated_at=NOW))


async def test_sqlite_keeps_what_it_commits(engine: AsyncEngine) -> None:
    if engine.dialect.name == "sqlite":
        async with reading(engine) as session:
            assert (await session.execute(text("PRAGMA synchronous"))).scalar_one() == 2
            assert (await session.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
            assert (await session.execute(text("PRAGMA foreign_keys"))).scalar_one() == 1


async def test_sqlites_log_is_brought_in_now_and_then_and_does_not_grow(tmp_path: Path) -> None:
    file = tmp_path / "hub.db"
    log = tmp_path / "hub.db-wal"
    engine = create_engine(f"sqlite:///{file}")
    try:
        async with writing(engine) as session:
            await session.execute(text("CREATE TABLE written (bytes BLOB)"))
        sizes = []
        for _ in range(30):
            async with writing(engine) as session:
                await session.execute(text("INSERT INTO written VALUES (randomblob(8000000))"))
            sizes.append(file.stat().st_size)
    finally:
        # The last one that closes it brings in all.
        longest = log.stat().st_size
        await engine.dispose()
    assert len(set(sizes)) < 6, "every commit has brought the log in"
    assert sizes[-1] > 100_000_000, "nobody brings the log in"
    assert longest < 100_000_000
    assert file.stat().st_size > 240_000_000


def test_only_two_databases_are_supported() -> None:
    with pytest.raises(ValueError, match="mysql"):
        async_url("mysql://localhost/x")


@ONLY_SQLITE
async def test_writers_have_their_turn_in_the_order_in_which_they_asked(engine: AsyncEngine) -> None:
    done: list[str] = []
    asked = asyncio.Event()

    async def store_groups() -> None:
        for number in range(6):
            async with writing(engine) as session:
                session.add(Organization(name=f"group {number}", created_at=NOW, updated_at=NOW))
                await session.flush()
                if number == 0:
                    asked.set()
                await asyncio.sleep(0.02)
            done.append("group")

    async def answer_a_request(name: str) -> None:
        await asked.wait()
        async with writing(engine) as session:
            session.add(Organization(name=name, created_at=NOW, updated_at=NOW))
        done.append("request")

    await asyncio.gather(store_groups(), answer_a_request("one"), answer_a_request("two"))
    # Behind the group that was under way, not behind all of them.
    assert done[:3] == ["group", "request", "request"]


async def test_a_writer_that_is_cancelled_while_it_waits_keeps_nobody_from_writing(engine: AsyncEngine) -> None:
    async def write(name: str) -> None:
        async with writing(engine) as session:
            session.add(Organization(name=name, created_at=NOW, updated_at=NOW))

    async with writing(engine) as session:
        session.add(Organization(name="first", created_at=NOW, updated_at=NOW))
        await session.flush()
        given_up, kept = asyncio.ensure_future(write("given up")), asyncio.ensure_future(write("kept"))
        await asyncio.sleep(0.05)
        given_up.cancel()
    await asyncio.gather(given_up, kept, return_exceptions=True)
    async with reading(engine) as session:
        names = set((await session.scalars(select(Organization.name))).all())
    assert {"first", "kept"} <= names


async def test_who_is_cancelled_in_the_middle_of_a_statement_ends(engine: AsyncEngine) -> None:
    async def write() -> None:
        async with writing(engine) as session:
            session.add(Organization(name="first", created_at=NOW, updated_at=NOW))
            await session.flush()
            if engine.dialect.name == "postgresql":
                await session.execute(text("SELECT pg_sleep(60)"))
            await asyncio.sleep(60)

    writer = asyncio.ensure_future(write())
    await asyncio.sleep(0.2)
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer


@ONLY_POSTGRESQL
async def test_a_process_has_no_more_connections_than_it_may(database_url: str) -> None:
    bounded = create_engine(database_url, LEAST_CONNECTIONS)
    count = text("SELECT count(*), pg_sleep(0.1) FROM pg_stat_activity WHERE datname = current_database()")

    async def look() -> int:
        async with reading(bounded) as session:
            return int((await session.execute(count)).one()[0])

    try:
        # Who finds none free waits for one.
        seen = await asyncio.gather(*(look() for _ in range(3 * LEAST_CONNECTIONS)))
    finally:
        await bounded.dispose()
    assert 2 <= max(seen) <= LEAST_CONNECTIONS


@ONLY_POSTGRESQL
async def test_a_process_that_stands_still_in_a_transaction_holds_up_nobody_for_long(
    database_url: str, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay was stopped: what it had locked the other one waited for, with all that gateways sent, without an end."""
    monkeypatch.setattr(database, "STANDING_SECONDS", 1)
    frozen = create_engine(database_url)
    name, tried = uuid.uuid4(), list[str]()

    def row() -> Organization:
        return Organization(id=name, name="one", created_at=NOW, updated_at=NOW)

    async def store(group: Sequence[str]) -> None:
        tried.extend(group)
        async with writing(frozen) as session:
            session.add(row())
            await session.flush()
            async with asyncio.timeout(30), writing(engine) as other:
                # Waits for what becomes of the first.
                other.add(row())

    try:
        # What it comes back to is nobody's fault: its deliveries are stored later, none is given up.
        with pytest.raises(DATABASE_ERRORS):
            await all_or_each(["a", "b"], store, lambda one, _: tried.append(f"{one} given up"))
    finally:
        await frozen.dispose()
    assert tried == ["a", "b"]
    async with reading(engine) as session:
        assert (await session.scalars(select(Organization.name))).all() == ["one"]


@ONLY_POSTGRESQL
async def test_a_connection_that_is_lost_in_the_middle_of_a_statement_is_nobodys_fault(
    engine: AsyncEngine,
) -> None:
    """The driver's error for it is of no class: deliveries were tried one by one, and given up when that went on."""
    tried: list[str] = []

    async def store(group: Sequence[str]) -> None:
        tried.extend(group)
        async with writing(engine) as session:
            driver = (await (await session.connection()).get_raw_connection()).driver_connection
            assert driver is not None
            asyncio.get_running_loop().call_later(0.2, driver.terminate)
            await session.execute(text("SELECT pg_sleep(30)"))

    with pytest.raises(DBAPIError):
        await all_or_each(["a", "b"], store, lambda one, _: tried.append(f"{one} given up"))
    assert tried == ["a", "b"]


@ONLY_POSTGRESQL
async def test_a_database_whose_machine_is_gone_without_a_word_is_noticed(database_url: str) -> None:
    """Who waits for an answer sends nothing, and would wait for ever: two such transactions are all that a relay has.

    A network that loses everything takes an administrator; that the system is asked to look is seen without one.
    """
    async with deaf_pooler(database_url) as over_tcp:
        far = create_engine(over_tcp)
        async with far.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            opened = driver._transport.get_extra_info("socket")
            assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            seconds = [
                opened.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ]
            assert seconds[0] + seconds[1] * seconds[2] <= 30
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000
        await far.dispose()


@ONLY_POSTGRESQL
async def test_a_connection_that_is_ended_between_two_messages_is_nobodys_fault(database_url: str) -> None:
    """The driver's error is its own then, and the connection not known to be lost."""
    failed = 0

    async def store(_group: Sequence[str]) -> None:
        async with writing(far) as session:
            await session.execute(text("SELECT 1"))
            await session.execute(text("SELECT 2"))

    async with deaf_pooler(database_url, ending=range(1, 20)) as pooled:
        far = create_engine(pooled)
        for _ in range(20):
            try:
                await all_or_each(["a"], store, lambda one, cause: pytest.fail(f"{one} was given up for {cause}"))
            except DATABASE_ERRORS:
                failed += 1
            # Else what is left of it would live on for the next.
            await far.dispose()
    assert 5 <= failed < 20
