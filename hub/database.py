"""Engines, sessions and the schema: everything about the database that is not a query.

SQLite: WAL, ``synchronous=FULL`` (a receipt after a commit that a power cut undoes is a lie), foreign keys on, and
every transaction begins IMMEDIATE, so that a writer waits at its first statement and never fails in its middle.
SQLite itself lets writers wait by trying again at intervals, and the one that has just written is the first to try: a
request would starve beside a relay that stores group after group. So within a process writers queue (``writing``).
"""

import asyncio
import dataclasses
import socket
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import asyncpg
import prometheus_client
from sqlalchemy import Connection, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from hub import sqlite_trips
from hub.commits import Commits, commits_of

MIGRATIONS = Path(__file__).parent / "migrations"
UNREACHABLE = (
    OperationalError,
    InterfaceError,
    NoConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.InterfaceError,
    # Of a connection that is ended between the preparing of a statement and its values.
    asyncpg.InternalClientError,
    OSError,
)
"""What is raised while the database cannot be reached, or has no time; the next attempt may do."""

_OUT_OF_STRENGTH = ("08", "53", "57P", "58")
"""Classes of SQLSTATE: a connection that is lost, also while it is made, insufficient resources (a full disk), ended by
its administrator, errors of its system."""

CONNECTIONS, LEAST_CONNECTIONS = 20, 4
"""The most connections of one process to PostgreSQL, unless it is told otherwise, and the fewest that it can do with:
the keeper of deadlines holds one while it asks for others."""

_KEPT_CONNECTIONS = 10
_BUSY_SECONDS = 30
_READING = ("SELECT", "BEGIN", "PRAGMA", "SHOW")
"""How statements begin that write nothing."""

statements = prometheus_client.Counter("metergate_database_statements", "Statements that were sent to the database")
"""Counted also by who asks the driver itself (``hub.direct_reads``)."""

STANDING_SECONDS = 60
"""A transaction on PostgreSQL in which nothing is asked for so long is ended by the server: its process is frozen or
out of reach, and what it has locked (batches, gateways, the turns of those who work alone) all others wait for."""

_NOTICING = tuple(
    (level, getattr(socket, name), value)
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 15),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 30_000),
    )
    # Not every system has all of them.
    if hasattr(socket, name)
)
"""A database whose machine is gone without a word is noticed within 30 s: the system alone would wait a quarter of an
hour for it to take a statement, and for an answer for ever."""

_IDLE_SECONDS = 5.0
"""A connection that nobody used for so long is asked whether it still lives before it is used."""

CHECKPOINT_PAGES = 16_000
"""Pages of SQLite's log (64 MB) after which whoever commits brings it into the database, and waits for the disk twice.

A group of readings changes a page of the largest index for nearly each of them: by SQLite's own 1,000 every commit did
that, and wrote again what the one before had written.
"""

WRITERS_CACHE_KIB = 8_000
"""What a connection that writes keeps of SQLite's pages: with SQLite's own 2,000 a group of readings does not fit, and
is read and written again in its transaction."""

_STATEMENTS = 500
"""Statements that each connection to PostgreSQL keeps prepared; lists of ids of each length are one of their own."""

SERVES = "schema_serves"
"""Under this key ``hub_state`` has the oldest schema whose processes the database serves (``hub.migrating``)."""


def is_out_of_strength(error: DBAPIError) -> bool:
    """Whether the database cannot do its work now (its disk is full, it is gone): no fault of what was asked.

    The driver tells these apart by their code alone; a connection that is lost in the middle of a statement has none.
    """
    # One that is ended between the preparing of a statement and its values is not known to be lost yet.
    if error.connection_invalidated or isinstance(getattr(error.orig, "__cause__", None), asyncpg.InternalClientError):
        return True
    return str(getattr(error.orig, "sqlstate", None) or "").startswith(_OUT_OF_STRENGTH)


class DatabaseError(RuntimeError):
    """The database cannot be used; the text names it, without a password, and says why."""

    @property
    def passes(self) -> bool:
        """Whether it is only away: the next attempt may do. A wrong name, login or certificate stays wrong."""
        cause = self.__cause__
        if isinstance(cause, socket.gaierror):
            return cause.errno == socket.EAI_AGAIN
        if isinstance(cause, ssl.SSLError | asyncpg.exceptions.ClientConfigurationError):
            return False
        return isinstance(cause, UNREACHABLE)


def async_url(url: str) -> URL:
    """Return the URL with the async driver that this project uses.

    Raises:
        ValueError: when the database is neither PostgreSQL nor SQLite.
    """
    parsed = make_url(url)
    drivers = {"postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg", "sqlite": "sqlite+aiosqlite"}
    backend = parsed.drivername.partition("+")[0]
    if backend not in drivers:
        raise ValueError(f"the database {backend!r} is not supported: use postgresql:// or sqlite://")
    return parsed.set(drivername=drivers[backend])


def create_engine(url: str, connections: int = CONNECTIONS) -> AsyncEngine:
    """Make the engine for a PostgreSQL or SQLite URL; nothing is connected yet.

    ``connections`` bounds how many it has to PostgreSQL at once; half of them, and ten at most, are kept while nobody
    uses them. Who finds none free waits for one.
    """
    target = async_url(url)
    if target.get_backend_name() != "sqlite":
        arguments = {"prepared_statement_cache_size": _STATEMENTS}
        # The one that was used last first: what it has prepared serves again, and the others may grow old.
        kept = min(_KEPT_CONNECTIONS, connections // 2)
        engine = create_async_engine(
            target,
            connect_args=arguments,
            # Whatever the server or the database has as its default: who waited for another, or asked for a lock,
            # goes on with what is committed by then (``hub.known_estate``).
            isolation_level="READ COMMITTED",
            pool_size=kept,
            max_overflow=connections - kept,
            pool_use_lifo=True,
        )
        event.listen(engine.sync_engine, "connect", _prepare_postgresql)
        event.listen(engine.sync_engine, "checkin", _note_use)
        event.listen(engine.sync_engine, "checkout", _refuse_dead)
        _tell_of_commits(engine)
        return engine
    # The one that was used last first: what a connection has of the file's pages is worth nothing once another has
    # written, so it is best when the same one writes again and again.
    engine = create_async_engine(
        target, connect_args={"timeout": _BUSY_SECONDS}, pool_size=5, max_overflow=15, pool_use_lifo=True
    )
    event.listen(engine.sync_engine, "do_connect", sqlite_trips.connect)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_immediate)
    _tell_of_commits(engine)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's adapted connection
    # The driver must not begin transactions by itself: it would begin them deferred.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={_BUSY_SECONDS * 1000}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: Any, _record: object) -> None:  # noqa: ANN401 - as above
    opened = connection.driver_connection._transport.get_extra_info("socket")  # noqa: SLF001 - asyncpg has no door to it
    if opened is not None and opened.family != socket.AF_UNIX:
        for level, option, value in _NOTICING:
            opened.setsockopt(level, option, value)
    # Not among the options of connecting, which poolers refuse.
    setting = f"SET idle_in_transaction_session_timeout = {1000 * STANDING_SECONDS}"
    connection.run_async(lambda driver: driver.execute(setting))


def _note_use(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _refuse_dead(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:  # noqa: ANN401 - as above
    """Have the pool make another connection where this one is known to be closed, or was idle and does not answer.

    Asking each time, as the pool can do itself, costs three round trips for every request.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError("the connection is closed")
    if time.monotonic() - record.info.get("used", time.monotonic()) < _IDLE_SECONDS:
        return
    try:
        connection.ping()
    except (*UNREACHABLE, asyncpg.PostgresError, connection.dbapi.Error) as error:
        raise DisconnectionError("the connection does not answer") from error


def _begin_immediate(connection: Connection) -> None:
    if connection.get_execution_options().get("read_only", False):
        connection.exec_driver_sql("BEGIN")
        return
    if "writes" not in connection.info:
        connection.exec_driver_sql(f"PRAGMA cache_size=-{WRITERS_CACHE_KIB}")
        connection.info["writes"] = True
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _tell_of_commits(engine: AsyncEngine) -> None:
    """Have each connection ring (``hub.commits``) when it comes back from a transaction that wrote a row."""
    commits: Commits = commits_of(engine)

    def note(connection: Connection, cursor: Any, statement: str, *_others: object) -> None:  # noqa: ANN401 - the driver's
        statements.inc()
        if cursor.rowcount != 0 and not statement.startswith(_READING):
            connection.info["wrote"] = True

    def forget(connection: Connection) -> None:
        # One that was cut in the middle of a statement has none left, and to ask it would hide why it was cut.
        if not connection.invalidated:
            connection.info.pop("wrote", None)

    def ring(_connection: object, record: ConnectionPoolEntry) -> None:
        if record.info.pop("wrote", False):
            commits.ring()

    event.listen(engine.sync_engine, "after_cursor_execute", note)
    event.listen(engine.sync_engine, "rollback", forget)
    event.listen(engine.sync_engine, "checkin", ring)


def session_maker(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Make sessions whose objects stay readable after the commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """Open a session that only reads: on SQLite it takes no write lock, so readers never wait for ingestion.

    On PostgreSQL each statement stands for itself: as READ COMMITTED, but without the round trips of a transaction.
    """
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            await connection.execution_options(read_only=True)
        else:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
        async with AsyncSession(connection, expire_on_commit=False) as session:
            yield session


_turns: weakref.WeakKeyDictionary[AsyncEngine, asyncio.Lock] = weakref.WeakKeyDictionary()
"""Who may write now, by engine, where a database has one writer."""


@asynccontextmanager
async def writing(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """Open a session and one transaction around the block: committed at its end, rolled back when it raises.

    On SQLite the blocks of one engine go in the order in which they were asked for; never open one inside another.
    """
    async with _turn(engine), session_maker(engine)() as session, session.begin():
        yield session


def _turn(engine: AsyncEngine) -> AbstractAsyncContextManager[None]:
    """What a writer waits for; on PostgreSQL nothing, rows have locks of their own there."""
    if engine.dialect.name != "sqlite":
        return nullcontext()
    return _turns.setdefault(engine, asyncio.Lock())


@dataclasses.dataclass(frozen=True, slots=True)
class Schema:
    """What a database has.

    Attributes:
        name: Its schema; empty when it has none.
        serves: The oldest schema whose processes it serves as they are; empty when it does not say.
        head: The schema of this version.
    """

    name: str
    serves: str
    head: str

    @property
    def is_ahead(self) -> bool:
        """Whether a newer version has migrated it."""
        return self.name > self.head

    @property
    def problem(self) -> str:
        """What to do before this version can run on it; empty when it can."""
        if self.name == self.head or (self.is_ahead and self.serves and self.serves <= self.head):
            return ""
        if self.is_ahead:
            return (
                f"the database has schema {self.name}, which is newer than this version's {self.head} and does not "
                "serve it: update metergate, or go back with the newer version's "
                f"metergate-hub migrate --to {self.head} --downgrade"
            )
        there = self.name or "none"
        return f"the database has schema {there}, this version needs {self.head}: run metergate-hub migrate"


async def migrate(url: str) -> None:
    """Bring the schema to this version, or leave it where a newer one has brought it; several processes may at once.

    Raises:
        DatabaseError: when the database does not let us, with its place and what it said, or is too new.
    """
    target = async_url(url)
    with named(target):
        await asyncio.to_thread(make_place, target)
        engine = create_engine(url)
        try:
            schema = await schema_of(engine)
            if not schema.problem:
                return
            if schema.is_ahead:
                raise DatabaseError(schema.problem)
            # Where nothing is to be migrated, at nearly every start, Alembic is half a second for nothing.
            from hub.migrating import move  # noqa: PLC0415 - see above

            await move(engine)
        finally:
            await engine.dispose()


def make_place(target: URL) -> None:
    """Make the directory that a SQLite file lies in."""
    if target.get_backend_name() == "sqlite" and target.database:
        Path(target.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def named(target: URL) -> Iterator[None]:
    """Say which database it was, without its password and without what only a developer reads."""
    try:
        yield
    except (SQLAlchemyError, asyncpg.PostgresError, *UNREACHABLE) as error:
        said = error.orig if isinstance(error, DBAPIError) else error
        place = target.database if target.get_backend_name() == "sqlite" else target.render_as_string()
        raise DatabaseError(f"the database {place} cannot be used: {said}") from error


def schemas() -> list[str]:
    """Return the schemas that this version knows, its own last: a migration's file name begins with what it makes."""
    return sorted(path.stem.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def read_schema(connection: Connection) -> Schema:
    """Return what a database has."""
    inspected, head = inspect(connection), schemas()[-1]
    if not inspected.has_table("alembic_version"):
        return Schema("", "", head)
    name = str(connection.scalar(text("SELECT version_num FROM alembic_version")) or "")
    serves = connection.scalar(text("SELECT value FROM hub_state WHERE key = :key"), {"key": SERVES})
    return Schema(name, str(serves or ""), head)


def note_served(connection: Connection, oldest: str) -> None:
    """Note, with what a migration does, the oldest schema whose processes the database serves from now on."""
    connection.execute(text("DELETE FROM hub_state WHERE key = :key"), {"key": SERVES})
    values = {"key": SERVES, "oldest": oldest}
    connection.execute(text("INSERT INTO hub_state (key, value) VALUES (:key, :oldest)"), values)


async def schema_of(engine: AsyncEngine) -> Schema:
    """Return what a database has.

    Raises:
        DatabaseError: when the database does not let us look.
    """
    with named(engine.url):
        async with engine.connect() as connection:
            return await connection.run_sync(read_schema)


async def schema_problem(engine: AsyncEngine) -> str:
    """Say what to do before this version can run on the database; empty when it can.

    Raises:
        DatabaseError: when the database does not let us look.
    """
    return (await schema_of(engine)).problem
