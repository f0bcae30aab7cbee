"""Who asks the driver itself gets rows and errors as others do, and leaves nothing behind on its connection."""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.database import UNREACHABLE, create_engine, is_out_of_strength
from hub.direct_reads import asking, fetch
from tests.parts.databases import BOTH, ONLY_POSTGRESQL, engine, url_of_walks

__all__ = ["engine", "url_of_walks"]


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
async def test_a_statement_of_one_form_gets_its_own_values_each_time(engine: AsyncEngine) -> None:
    for value in (3, 4):
        bound = sa.bindparam("value", value, type_=sa.Integer())
        for again in (1, 2):
            async with asking(engine) as ask:
                rows = await ask("form", [bound], lambda: sa.select(bound + sa.literal_column("1"), bound))  # noqa: B023 - asked at once
            assert [tuple(row) for row in rows] == [(value + 1, value)], again


@ONLY_POSTGRESQL
async def test_errors_are_those_of_others_and_the_connection_is_as_it_was(database_url: str) -> None:
    engine = create_engine(database_url, 4)
    wrong, slow = (sa.text(text) for text in ("SELECT 1 / 0", "SELECT pg_sleep(30)"))
    try:
        with pytest.raises(DBAPIError, match="division"):
            await fetch(engine, "SELECT 1 / 0")
        with pytest.raises(DBAPIError, match="division"):
            async with asking(engine) as ask:
                await ask("wrong", [], lambda: wrong)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), asking(engine) as ask:
                await ask("slow", [], lambda: slow)
        [(own, mode)] = await fetch(engine, "SELECT pg_backend_pid(), current_setting('plan_cache_mode')")
        assert mode == "auto"
        # One backend that is ended while it is asked is away, and is another one when it is asked again.
        asked = asyncio.create_task(fetch(engine, "SELECT pg_sleep(30)"))
        other = create_engine(database_url, 4)
        await asyncio.sleep(0.3)
        await fetch(other, "SELECT pg_terminate_backend($1)", own)
        await other.dispose()
        with pytest.raises(UNREACHABLE):
            await asked
        async with asking(engine) as ask:
            assert [row[0] for row in await ask("right", [], lambda: sa.text("SELECT 7"))] == [7]
        [(now,)] = await fetch(engine, "SELECT pg_backend_pid()")
        assert now != own
    finally:
        await engine.dispose()


@ONLY_POSTGRESQL
async def test_a_database_that_begins_is_away_and_no_bug_of_ours(database_url: str, engine: AsyncEngine) -> None:
    """It refuses to be connected to while it recovers; each request looks up its token by this way."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        name = sa.make_url(database_url).database
        await connection.execute(sa.text(f"ALTER DATABASE {name} CONNECTION LIMIT 0"))
        await connection.execute(sa.text("CREATE ROLE visitor LOGIN"))
        refused = create_engine(database_url.replace("postgres@", "visitor@"))
        try:
            with pytest.raises(DBAPIError, match="too many connections") as told:
                await fetch(refused, "SELECT 1")
            assert is_out_of_strength(told.value)
        finally:
            await refused.dispose()
            await connection.execute(sa.text("DROP ROLE visitor"))
