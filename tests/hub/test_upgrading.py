"""The next version's migration: an index is built again, a lock is not waited for, operators see what is pending."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.cli import commands
from hub.database import MIGRATIONS, DatabaseError, create_engine, schema_of, schemas, writing
from hub.ingest import store_deliveries
from hub.migrating import move
from tests.parts.databases import drop_postgresql, new_postgresql, new_sqlite
from tests.parts.estates import NOW, GatewayVoice, make_estate, reading

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
