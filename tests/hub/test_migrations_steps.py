"""Each migration goes up, down and up again with rows in every table, on both databases, and holds nobody up.

One walk serves all tests here: from nothing to the newest schema, with rows made at each schema in what is new there;
then down step by step to the first, and up again as operators do. What both schemas of a step can hold must be as it
was, but for what the way back is known to lose. What was done to PostgreSQL on the way up is kept, and judged.
"""

import ast
import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from hub import models
from hub.backup import BackupError, backup
from hub.database import MIGRATIONS, Schema, create_engine, migrate, schema_of, schemas
from hub.migrating import look, move
from tests.parts.databases import BOTH, drop_postgresql, new_postgresql
from tests.parts.schema_rows import NOT_OURS, WHEN, Columns, Rows, columns_of, fill, rows_of

FIRST = "0001"

LOST = {
    # Versions before know only tokens that open everything.
    "0009": {("tokens", "*")},
    # Interfaces lead nowhere by a card that is gone.
    "0011": {("network_interfaces", "sim")},
    # Of chunks that are gone: of no use without sums.
    "0014": {("ledger_pending", "*")},
}
"""What the way back changes in columns that both schemas have; the rest of what it loses goes with its column."""

HOLD_UP = {
    "0002": "made when no installation had many run reports",
    "0005": "made when no installation had many readings; most of its time is one look at each reading",
    "0006": "processes before it note nothing for the ledger; its tables are new",
    "0013": "made when readings had few versions; in slices it would have to say which are done",
    "0014": "what is gone of chunks has to be noted from the moment on at which they are summed up",
}
"""Old migrations before which processes have to be ended, and why they are left as they are. No new one should be."""

FORGIVEN = {
    # Tokens refer to an organization by a column that is null for all that an older process makes.
    "0009": {"demands what older processes do not keep"},
    # Names became unique in an organization: an older process that gives one twice answers 500 instead of 409.
    "0011": {"demands what older processes do not keep"},
}
"""What an old migration did that no new one may."""

BUSY = {
    "batches",
    "command_updates",
    "commands",
    "ledger_chunks",
    "ledger_pending",
    "loss_records",
    "meter_system_events",
    "outbox_progress",
    "quarantine",
    "reading_versions",
    "readings",
    "run_reports",
    "staged_meter_readings",
    "unjudged_readings",
}
"""What a relay writes when something arrives."""

RULES = {
    "builds an index under a lock": r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)(IF NOT EXISTS )?\S+ ON (?!ONLY )"
    r"(?P<busy>\w+)",
    "writes the table again": r"ALTER TABLE (?P<busy>\w+) ALTER COLUMN \S+ (SET DATA )?TYPE",
    "reads the table under a lock": r"ALTER TABLE (?P<busy>\w+) (ALTER COLUMN \S+ SET NOT NULL|ADD (CONSTRAINT|FOREIGN"
    r"|CHECK|UNIQUE|PRIMARY)(?!.*(NOT VALID|USING INDEX)))",
    "adds a column that older processes cannot leave out": r"ALTER TABLE (?P<any>\w+) ADD COLUMN (?!.*DEFAULT)"
    r".*NOT NULL",
    "computes a default for each row": r"ALTER TABLE (?P<busy>\w+) ADD COLUMN .*DEFAULT [^']*\(",
    "changes many rows at once": r"(UPDATE|DELETE FROM) (ONLY )?(?P<busy>\w+)",
    "takes away what older processes use": r"ALTER TABLE (?P<any>\w+) (DROP COLUMN|RENAME|DROP CONSTRAINT (uq|pk)_)"
    r"|DROP TABLE (?P<any2>\w+)|ALTER TABLE (?P<any3>\w+) ALTER COLUMN \S+ DROP DEFAULT",
    "takes away what ON CONFLICT of older processes names": r"DROP INDEX (CONCURRENTLY )?(IF EXISTS )?"
    r"(uq|pk)_(?P<any>\w+)",
    "demands what older processes do not keep": r"CREATE UNIQUE INDEX (CONCURRENTLY )?(IF NOT EXISTS )?\S+ ON (ONLY )?"
    r"(?P<any>\w+)|ALTER TABLE (?P<any2>\w+) (ALTER COLUMN \S+ SET NOT NULL|ADD (CONSTRAINT \S+ )?(CHECK|UNIQUE"
    r"|PRIMARY|FOREIGN|EXCLUDE))",
    # But for the one that only counts what is written: it refuses nothing, and nobody waits for what it has locked.
    "has what older processes write go through a trigger": r"CREATE (OR REPLACE )?(CONSTRAINT )?TRIGGER "
    r"(?!.*EXECUTE FUNCTION count_estate_change\(\)).*"
    r" ON (?P<any>\w+)",
    "locks the table itself, or empties it": r"(LOCK|TRUNCATE)( TABLE)?( ONLY)? (?P<any>\w+)",
}


def faults(statement: str, made: set[str]) -> list[str]:
    """Return which rules a statement breaks, on tables that were there before."""
    said = " ".join(statement.split())
    found = []
    for fault, pattern in RULES.items():
        if (match := re.match(pattern, said, re.IGNORECASE)) is None:
            continue
        tables = {kind.rstrip("23"): table for kind, table in match.groupdict().items() if table}
        if tables.get("any", tables.get("busy", "")) not in made and ("any" in tables or tables["busy"] in BUSY):
            found.append(fault)
    return found


@dataclasses.dataclass
class Walk:
    """What was found on the walk over one database."""

    changed: dict[tuple[str, str], set[tuple[str, str]]] = dataclasses.field(default_factory=dict)
    faults: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    differences: list[object] = dataclasses.field(default_factory=list)
    serves: dict[str, str] = dataclasses.field(default_factory=dict)
    rows: dict[str, int] = dataclasses.field(default_factory=dict)


_walks: dict[str, Walk] = {}


@pytest.fixture(params=BOTH)
async def walk(request: pytest.FixtureRequest, tmp_path: Path) -> Walk:
    """Return what was found on the walk over a SQLite file, then over a PostgreSQL; each is walked once."""
    kind = str(request.param)
    if kind not in _walks:
        _walks[kind] = await _walked(kind, tmp_path)
    return _walks[kind]


async def _walked(kind: str, folder: Path) -> Walk:
    if kind == "sqlite":
        return await _over(f"sqlite:///{folder}/walk.db")
    name, url = await new_postgresql()
    engine = create_engine(url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        await connection.execute(sa.text("CREATE SCHEMA public"))
    await engine.dispose()
    try:
        return await _over(url)
    finally:
        await drop_postgresql(name)


async def _over(url: str) -> Walk:
    engine = create_engine(url)
    found = Walk()
    try:
        columns: Columns = {}
        for revision in schemas():
            columns = await _up_and_fill(engine, revision, columns, found)
        async with engine.connect() as connection:
            before = await connection.run_sync(rows_of, columns)
            found.rows = {table: len(rows) for table, rows in before.items()}
        down = [*reversed(schemas())]
        for revision, below in itertools.pairwise(down):
            await move(engine, below)
            columns, before = await _compare(engine, (revision, "down"), columns, before, found)
        await move(engine)
        await _compare(engine, (schemas()[-1], "up"), columns, before, found)
        async with engine.connect() as connection:
            found.differences = await connection.run_sync(_differences)
    finally:
        await engine.dispose()
    return found


async def _up_and_fill(engine: AsyncEngine, revision: str, before: Columns, found: Walk) -> Columns:
    said: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_others: object) -> None:
        said.append(statement)

    async with engine.connect() as connection:
        files = await _files(connection)
    event.listen(engine.sync_engine, "before_cursor_execute", note)
    await move(engine, revision)
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    async with engine.begin() as connection:
        after = await connection.run_sync(fill, before)
        made = set(after) - set(before)
        if connection.dialect.name != "postgresql":
            # One writer at a time: what it does holds up all others, whatever it is.
            said.clear()
        found.faults[revision] = {fault for statement in said for fault in faults(statement, made)}
        again = await _files(connection)
        if any(again.get(table) != file for table, file in files.items() if table in BUSY):
            found.faults[revision].add("writes the table again")
    found.serves[revision] = (await schema_of(engine)).serves
    return after


async def _files(connection: AsyncConnection) -> dict[str, int]:
    """Return the file that each table's rows lie in: another one says that all were written again."""
    if connection.dialect.name != "postgresql":
        return {}
    rows = await connection.execute(sa.text("SELECT relname, relfilenode FROM pg_class WHERE relkind IN ('r', 'p')"))
    return {name: file for name, file in rows if file}


async def _compare(
    engine: AsyncEngine, step: tuple[str, str], columns: Columns, before: Rows, found: Walk
) -> tuple[Columns, Rows]:
    """Note the columns, of those that both schemas have, in which rows are not what they were."""
    async with engine.connect() as connection:
        now = await connection.run_sync(columns_of)
        rows = await connection.run_sync(rows_of, now)
    found.changed[step] = set()
    for table in set(columns) & set(now):
        if len(rows[table]) != len(before[table]):
            found.changed[step].add((table, "*"))
            continue
        for column in {one["name"] for one in columns[table]} & {one["name"] for one in now[table]}:
            # Rows are few, and in an order by all of their columns, which are not the same: compared as a bag.
            if sorted(str(row[column]) for row in rows[table]) != sorted(str(row[column]) for row in before[table]):
                found.changed[step].add((table, column))
    return now, rows


def _differences(connection: Connection) -> list[object]:
    found = compare_metadata(MigrationContext.configure(connection), models.Base.metadata)
    # Partitions are tables of PostgreSQL alone.
    return [one for one in found if not (one[0] in {"remove_table", "remove_index"} and "readings_" in str(one[1]))]


def _scripts() -> dict[str, Any]:
    return {one.revision: one for one in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}


def test_every_table_of_every_schema_had_rows(walk: Walk) -> None:
    # Rows of a table are made with the schema that it comes with, and never deleted on the way up.
    assert set(walk.rows) == {*models.Base.metadata.tables} - NOT_OURS
    assert all(walk.rows.values())


def test_what_both_schemas_can_hold_survives_each_step_down_and_the_way_up(walk: Walk) -> None:
    lost = {step: changed for step, changed in walk.changed.items() if changed}
    assert lost == {(revision, "down"): columns for revision, columns in LOST.items()}
    assert len(walk.changed) == len(schemas())
    assert walk.differences == []


def test_no_migration_holds_readings_up_or_breaks_older_processes_unless_it_says_so(walk: Walk) -> None:
    unsaid = {
        revision: found
        for revision, faulty in walk.faults.items()
        if (found := faulty - FORGIVEN.get(revision, set())) and not _scripts()[revision].module.stop
    }
    assert unsaid == {}
    assert {revision for revision, script in _scripts().items() if script.module.stop} == set(HOLD_UP)


def test_the_database_says_whose_processes_it_serves(walk: Walk) -> None:
    stops = [FIRST, *HOLD_UP]
    assert walk.serves == {revision: max(stop for stop in stops if stop <= revision) for revision in schemas()}


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("CREATE INDEX ix_readings_x ON readings (x)", "builds an index under a lock"),
        (
            "CREATE UNIQUE INDEX IF NOT EXISTS ix ON batches (x)",
            "builds an index under a lock, demands what older processes do not keep",
        ),
        ("CREATE INDEX CONCURRENTLY ix ON reading_versions (x)", ""),
        ("CREATE INDEX IF NOT EXISTS ix ON ONLY readings (x)", ""),
        ("CREATE INDEX ix_new ON new (x)", ""),
        ("CREATE INDEX ix_users ON users (x)", ""),
        ("ALTER TABLE readings ALTER COLUMN value TYPE text", "writes the table again"),
        (
            "ALTER TABLE readings ALTER COLUMN unit SET NOT NULL",
            "reads the table under a lock, demands what older processes do not keep",
        ),
        (
            "ALTER TABLE readings ADD CONSTRAINT c CHECK (flags >= 0)",
            "reads the table under a lock, demands what older processes do not keep",
        ),
        (
            "ALTER TABLE readings ADD CONSTRAINT c CHECK (flags >= 0) NOT VALID",
            "demands what older processes do not keep",
        ),
        ("ALTER TABLE readings ADD COLUMN note TEXT", ""),
        ("ALTER TABLE readings ADD COLUMN note TEXT DEFAULT '' NOT NULL", ""),
        ("ALTER TABLE users ADD COLUMN note TEXT NOT NULL", "adds a column that older processes cannot leave out"),
        ("ALTER TABLE readings ADD COLUMN made TIMESTAMP DEFAULT now()", "computes a default for each row"),
        ("UPDATE readings\n SET flags = 0", "changes many rows at once"),
        ("UPDATE tokens SET scopes = '[]'", ""),
        ("ALTER TABLE users DROP COLUMN password", "takes away what older processes use"),
        ("DROP TABLE sim_cards", "takes away what older processes use"),
        ("ALTER TABLE tokens ALTER COLUMN scopes DROP DEFAULT", "takes away what older processes use"),
        ("ALTER TABLE new ALTER COLUMN scopes DROP DEFAULT", ""),
        ("CREATE UNIQUE INDEX CONCURRENTLY uq_runs ON run_reports (x)", "demands what older processes do not keep"),
        ("ALTER TABLE gateways ADD CONSTRAINT c CHECK (x > 0) NOT VALID", "demands what older processes do not keep"),
        ("DROP INDEX CONCURRENTLY uq_batches", "takes away what ON CONFLICT of older processes names"),
        ("DROP INDEX ix_batches_id", ""),
        ("CREATE TRIGGER t BEFORE INSERT ON readings EXECUTE FUNCTION count_estate_change()", ""),
        ("CREATE TRIGGER t AFTER INSERT ON readings", "has what older processes write go through a trigger"),
        ("LOCK TABLE readings IN SHARE MODE", "locks the table itself, or empties it"),
    ],
)
def test_statements_that_hold_readings_up_are_found(statement: str, fault: str) -> None:
    assert ", ".join(faults(statement, {"new"})) == fault


def test_a_migration_that_commits_in_its_middle_can_be_run_again() -> None:
    """Whatever it does besides changes that look first whether they are done must do nothing the second time."""
    for revision, script in _scripts().items():
        tree = ast.parse(Path(script.path).read_text("utf-8"))
        upgrade = next(one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "upgrade")
        calls = [one for one in ast.walk(upgrade) if isinstance(one, ast.Call) and isinstance(one.func, ast.Attribute)]
        names = {ast.unparse(call.func) for call in calls}
        if not names & {"online_changes.add_index", "online_changes.drop_index"}:
            continue
        for call in calls:
            if ast.unparse(call.func).startswith("op."):
                assert "if_not_exists" in {word.arg for word in call.keywords}, f"{revision}: {ast.unparse(call)}"


def test_the_page_of_schemas_says_what_the_migrations_say() -> None:
    page = (MIGRATIONS.parent.parent / "docs" / "upgrading.md").read_text("utf-8")
    for revision, script in sorted(_scripts().items()):
        stop = script.module.stop
        back = script.module.downgrade.__doc__ if hasattr(script.module, "downgrade") else "none: it is the first"
        title = script.doc.partition("\n")[0]
        row = f"| {revision} | {title} | {f'no: {stop}' if stop else 'yes'} | {back} |"
        assert row in page, f"expected in docs/upgrading.md:\n{row}"


async def test_a_schema_that_is_ahead_is_used_if_it_serves_us_and_never_migrated(tmp_path: Path) -> None:
    head = schemas()[-1]
    url = f"sqlite:///{tmp_path}/ahead.db"
    await migrate(url)
    engine = create_engine(url)
    for serves, problem in ((head, ""), ("", "newer"), ("9998", "newer")):
        async with engine.begin() as connection:
            await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
            await connection.execute(sa.text("UPDATE hub_state SET value = :it"), {"it": serves})
        found = await schema_of(engine)
        assert found == Schema("9999", serves, head)
        assert found.is_ahead
        if not problem:
            assert found.problem == ""
            await migrate(url)
            assert backup(tmp_path / "ahead.db", tmp_path / "kept.db", WHEN).schema == "9999"
        else:
            assert problem in found.problem
            with pytest.raises(BackupError, match="update metergate"):
                backup(tmp_path / "ahead.db", tmp_path / "refused.db", WHEN)
            with pytest.raises(Exception, match="does not serve it: update metergate"):
                await migrate(url)
    with pytest.raises(Exception, match="use the version that made it"):
        await look(url)
    await engine.dispose()
