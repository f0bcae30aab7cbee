"""From one schema to another, beside running processes: what is to be done, step by step, and the way back.

Rules:
- Each migration says in ``stop`` why the hub's processes have to be ended for it; empty, it only adds, so that
  processes of the schema before go on while it is applied and after. The database keeps in ``hub_state`` which schema
  is the oldest whose processes it serves: theirs starts on it too, and a way back is to start them again.
- PostgreSQL: each step is one transaction, and what was done stays done. No lock is waited for long, because whoever
  reads or writes the table queues up behind us: less than the second after which PostgreSQL looks for deadlocks, so
  that never ingestion is ended for our sake. A lock that is refused is asked for again, with longer and longer pauses.
- SQLite: all steps are one transaction, and the hub on it is stopped or is the one that migrates.
- One process at a time migrates, and none moves readings between partitions meanwhile: a copy that is under way would
  not have the new columns, so it is abandoned, and begun again afterwards.
"""

import asyncio
import functools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from hub.database import (
    MIGRATIONS,
    DatabaseError,
    Schema,
    async_url,
    create_engine,
    read_schema,
    schema_of,
    schemas,
)
from hub.late_readings import KEY, abandoning
from hub.months import LOCK_WAIT, LONGEST_WAIT, MOVING_LOCK, PATIENCE, is_refused

MIGRATION_LOCK = 0x6D657465
"""PostgreSQL advisory lock: of several processes that would migrate, one does."""

TRY_SECONDS = 1800.0
"""How long a step asks for its locks before it is given up; nothing of it was changed then."""

_PAUSES = (0.5, 15.0)
"""Shortest and longest pause (s) between two attempts: meanwhile everybody else has the tables."""

_FIRST = "0001"
_BACK = "processes of the schema above must not run on the one below"
_LOCK_LOOK = 0.2

_log = structlog.get_logger(__name__)

_LONGEST = text("""
    SELECT pid, application_name, now() - xact_start AS age, left(query, 80) AS query FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
    ORDER BY xact_start LIMIT 1
""")


class Step(msgspec.Struct):
    """One migration on the way.

    Attributes:
        revision: The migration; upwards it makes the schema of that name, downwards it is taken back.
        title: What it brought.
        stop: Why the hub's processes have to be ended before it; empty: they go on.
        back: What the way back does and loses, in the migration's own words; empty on the way up.
        seconds: How long it took; None before.
    """

    revision: str
    title: str
    stop: str = ""
    back: str = ""
    seconds: float | None = None


class Outlook(msgspec.Struct):
    """Where a database stands, and the steps from there to a target.

    Attributes:
        schema: What the database has; empty when it has none yet.
        head: The schema of this version.
        serves: The oldest schema whose processes the database serves; empty when it does not say.
        target: Where the steps lead.
        steps: In the order in which they are done.
        online: Whether all steps go beside running processes. Nobody runs on a database that has no schema yet.
        done: Whether the steps were done.
    """

    schema: str
    head: str
    serves: str
    target: str
    steps: list[Step]
    online: bool
    done: bool = False

    @property
    def is_back(self) -> bool:
        """Whether the way leads down, where something is lost."""
        return self.target < self.schema


async def look(url: str, to: str = "head", scripts: Path = MIGRATIONS) -> Outlook:
    """Say what a database has and what leads to the target; nothing is changed.

    Raises:
        DatabaseError: when the database does not let us look, or the target or its schema is not known.
    """
    target = async_url(url)
    file = target.database if target.get_backend_name() == "sqlite" else None
    if file and not await asyncio.to_thread(Path(file).exists):
        # Only to look would make it.
        return _outlook(Schema("", "", schemas()[-1]), to, scripts)
    engine = create_engine(url)
    try:
        return _outlook(await schema_of(engine), to, scripts)
    finally:
        await engine.dispose()


async def move(
    engine: AsyncEngine,
    to: str = "head",
    *,
    scripts: Path = MIGRATIONS,
    tell: Callable[[Step], None] | None = None,
    try_seconds: float = TRY_SECONDS,
) -> Outlook:
    """Bring the schema to the target, up or down; safe to call from several processes at once.

    ``tell`` is called after each step.

    Raises:
        DatabaseError: when the target or the schema is not known, or a lock was not to be had in ``try_seconds``.
    """
    if engine.dialect.name == "sqlite":
        async with engine.begin() as connection:
            outlook = _outlook(await connection.run_sync(read_schema), to, scripts)
            for step in outlook.steps:
                await _take(connection, scripts, step, outlook, tell)
    else:
        async with _alone(engine) as connection:
            outlook = _outlook(await connection.run_sync(read_schema), to, scripts)
            await connection.commit()
            if outlook.steps:
                await _patiently(connection, "the move of late readings", _abandon, try_seconds)
            for step in outlook.steps:

                async def take(connection: AsyncConnection, step: Step = step) -> None:
                    await _take(connection, scripts, step, outlook, tell)

                await _patiently(connection, f"migration {step.revision}", take, try_seconds)
    outlook.done = True
    return outlook


@functools.cache
def _directory(scripts: Path) -> ScriptDirectory:
    """Return the migrations of a directory: they are read once a process."""
    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return ScriptDirectory.from_config(config)


def _outlook(there: Schema, to: str, scripts: Path) -> Outlook:
    known = {script.revision: script for script in _directory(scripts).walk_revisions()}
    ordered = sorted(known)
    head = ordered[-1]
    target = head if to == "head" else to
    if target not in known:
        raise DatabaseError(f"there is no schema {target}: this version knows {_FIRST} to {head}")
    if there.name and there.name not in known:
        raise DatabaseError(
            f"the database has schema {there.name}, which this version (it knows up to {head}) cannot migrate: "
            "use the version that made it"
        )
    if target >= there.name:
        steps = [
            Step(name, _sentence(known[name].doc), stop_of(known[name]))
            for name in ordered
            if there.name < name <= target
        ]
    else:
        steps = [
            Step(
                name,
                _sentence(known[name].doc),
                _BACK,
                _sentence(known[name].module.downgrade.__doc__ or ""),
            )
            for name in reversed(ordered)
            if target < name <= there.name
        ]
    online = not there.name or not any(step.stop for step in steps)
    return Outlook(there.name, head, there.serves, target, steps, online)


def stop_of(script: Script) -> str:
    """Return why processes have to be ended for a migration; empty when they need not."""
    return str(script.module.stop)


def _sentence(doc: str) -> str:
    """Return the first line of a docstring."""
    return doc.strip().partition("\n")[0]


async def _take(
    connection: AsyncConnection, scripts: Path, step: Step, outlook: Outlook, tell: Callable[[Step], None] | None
) -> None:
    begun = time.monotonic()
    directory, config = _directory(scripts), Config()

    def way(there: Any, _context: MigrationContext) -> Sequence[MigrationStep]:  # noqa: ANN401 - a tuple, called otherwise
        # As Alembic's own commands do, which would read all migrations again for each step.
        if outlook.is_back:
            return directory._downgrade_revs("-1", there)  # noqa: SLF001 - see above
        return directory._upgrade_revs(step.revision, there)  # noqa: SLF001 - see above

    def apply(sync: Connection) -> None:
        config.attributes["connection"] = sync
        with EnvironmentContext(config, directory, fn=way):
            directory.run_env()

    await connection.run_sync(apply)
    step.seconds = time.monotonic() - begun
    if tell is not None:
        tell(step)


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a connection that alone migrates, and keeps partitions from being moved; for PostgreSQL.

    The locks are asked for again and again: who waits in a statement has a snapshot, which an index that is built
    beside it waits for.
    """
    async with engine.connect() as connection:
        held: list[int] = []
        try:
            for number in (MIGRATION_LOCK, MOVING_LOCK):
                while not await connection.scalar(text(f"SELECT pg_try_advisory_lock({number})")):
                    await connection.commit()
                    await asyncio.sleep(_LOCK_LOOK)
                held.append(number)
                await connection.commit()
            yield connection
        finally:
            # Locks of a session outlive the transaction, and the pool would keep the connection.
            await connection.invalidate()


async def _abandon(connection: AsyncConnection) -> None:
    """Take back a move of readings that is under way."""
    there = await connection.run_sync(lambda sync: inspect(sync).has_table("hub_state"))
    if there and await connection.scalar(text("SELECT 1 FROM hub_state WHERE key = :key"), {"key": KEY}):
        for statement in abandoning():
            await connection.execute(text(statement))
    await connection.commit()


async def _patiently(
    connection: AsyncConnection, what: str, work: Callable[[AsyncConnection], Awaitable[None]], try_seconds: float
) -> None:
    """Do it, again and again while a lock is refused.

    Raises:
        DatabaseError: when it was refused for so long.
    """
    begun, refused, pause = time.monotonic(), 0, _PAUSES[0]
    while True:
        wait = min(LOCK_WAIT * 2 ** (refused // PATIENCE), LONGEST_WAIT)
        await connection.execute(text(f"SET lock_timeout = {int(1000 * wait)}"))
        await connection.commit()
        try:
            await work(connection)
        except DBAPIError as error:
            await connection.rollback()
            if not is_refused(error):
                raise
        else:
            await connection.commit()
            return
        refused += 1
        holder = (await connection.execute(_LONGEST)).one_or_none()
        await connection.commit()
        since = (
            f"the oldest transaction is {holder.pid} since {holder.age}: {holder.query}"
            if holder
            else "no other is open"
        )
        if time.monotonic() - begun > try_seconds:
            raise DatabaseError(
                f"{what} was refused a lock {refused} times; {since}. What was done before it stays; end that "
                "transaction, or migrate again later"
            )
        _log.warning("migration_waits", what=what, refused=refused, holder=since, pause_seconds=pause)
        # Jitter, so that it does not meet a job that comes at regular times.
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
        pause = min(2 * pause, _PAUSES[1])
