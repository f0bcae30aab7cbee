"""Reads that are asked all the time, below SQLAlchemy: by PostgreSQL's own driver, on connections of the engine's pool.

A statement of one row costs 0.7 ms of processor through a session and 0.25 here; building it of its parts, and looking
up what was compiled of such parts before, is as much again. So a statement is compiled once for each form that it can
have, and after that only its values are put together.

Rules.
- Only what reads, as one statement that stands for itself. The driver's errors become those that SQLAlchemy raises.
- Values go to the driver as they are: ids, whole numbers, text, instants and bytes.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, cast

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BindParameter, ClauseElement
from sqlalchemy.util.concurrency import greenlet_spawn

from hub.database import UNREACHABLE, reading, statements

_MOST_FORMS = 500

_ONCE = "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL max_parallel_workers_per_gather = 0"
"""Planned for all values much seems to be read: processes that are started to help take longer than what they do."""

_forms: dict[Hashable, tuple[str, tuple[int, ...]]] = {}
"""Statements' texts, and which of the values that are given is each of their parameters."""


def literal_number(value: int) -> sa.ColumnElement[int]:
    """Return a whole number that stands in a statement's text: in another form each."""
    return sa.literal_column(str(int(value)), sa.Integer())


def reads_directly(engine: AsyncEngine) -> bool:
    """Whether there is a driver to ask: SQLite's has nothing to gain."""
    return engine.dialect.name == "postgresql"


@asynccontextmanager
async def _driver(engine: AsyncEngine) -> AsyncIterator[Any]:
    loaded: Any = engine.dialect.loaded_dbapi
    try:
        pooled = await greenlet_spawn(engine.sync_engine.raw_connection)
    except loaded.Error as error:
        # Of connecting: those of a statement are raised by the driver itself here.
        raise DBAPIError.instance(None, None, error, loaded.Error) from error
    driver: Any = pooled.driver_connection
    try:
        yield driver
    finally:
        if not driver.is_closed() and driver.is_in_transaction():
            # One that was cut before its end: nobody else is to go on in it.
            await greenlet_spawn(pooled.invalidate)
        await greenlet_spawn(pooled.close)


@asynccontextmanager
async def _planning_once(driver: Any) -> AsyncIterator[None]:  # noqa: ANN401 - the driver's own
    # In a transaction, which sees what others commit meanwhile: a setting of the connection would, through a pooler, be
    # one of whoever gets it next.
    await _execute(driver, _ONCE)
    try:
        yield
    finally:
        if not driver.is_closed():
            await _execute(driver, "COMMIT")


Ask = Callable[[Hashable, Sequence[ClauseElement], Callable[[], sa.Executable]], Awaitable[Sequence[Any]]]
"""Returns the rows of a statement of SQLAlchemy: its form, which is what tells it from others beside its values; the
parts of it that have values, as many for each of that form; and what puts it together of these parts."""


Fetch = Callable[..., Awaitable[Sequence[Any]]]
"""Returns the rows of a statement and its values."""


async def fetch(engine: AsyncEngine, statement: str, *values: Any) -> Sequence[Any]:  # noqa: ANN401 - what the driver takes
    """Return the rows of a statement, whose parameters are ``$1``, ``$2`` and so on.

    Raises:
        DBAPIError: as SQLAlchemy does; and those of ``UNREACHABLE`` as they are.
    """
    async with _driver(engine) as driver:
        return await _fetch(driver, statement, *values)


def has_connections(engine: AsyncEngine) -> bool:
    """Whether fewer than half of the connections are in use: only then may somebody hold one and ask for another."""
    pool: Any = engine.sync_engine.pool
    return bool(pool.checkedout() < (pool.size() + pool._max_overflow) // 2)  # noqa: SLF001 - it does not tell


@asynccontextmanager
async def fetching(engine: AsyncEngine) -> AsyncIterator[Fetch]:
    """Open what fetches as ``fetch`` does, on one connection."""
    async with _driver(engine) as driver:
        yield functools.partial(_fetch, driver)


@asynccontextmanager
async def asking(engine: AsyncEngine, *, planned_once: bool = True) -> AsyncIterator[Ask]:
    """Open what asks statements, each of which stands for itself: a session where there is no driver to ask.

    Where statements are ``planned_once``, the database plans each for all values that it may have. By itself it would
    plan a question of readings each time, for 16 months 1 to 2.5 ms, because it does not see that it will ask one of
    them. Limits are no values then but stand in the text: else a tenth of all rows would be planned for.
    """
    if not reads_directly(engine):
        async with reading(engine) as session:
            connection = await session.connection()

            async def ask(_form: Hashable, _parts: Sequence[ClauseElement], make: Callable[[], sa.Executable]) -> Any:  # noqa: ANN401 - rows
                return (await connection.execute(make())).all()

            yield ask
        return
    async with _driver(engine) as driver, _planning_once(driver) if planned_once else nullcontext():

        async def ask_driver(form: Hashable, parts: Sequence[ClauseElement], make: Callable[[], sa.Executable]) -> Any:  # noqa: ANN401 - rows
            given = [one for part in parts for one in visitors.iterate(part) if isinstance(one, BindParameter)]
            if form not in _forms:
                if len(_forms) >= _MOST_FORMS:
                    _forms.clear()
                _forms[form] = _compiled(engine, make(), given)
            text, places = _forms[form]
            return await _fetch(driver, text, *(given[place].effective_value for place in places))

        yield ask_driver


async def _execute(driver: Any, text: str) -> None:  # noqa: ANN401 - the driver's own
    statements.inc(text.count(";") + 1)
    try:
        await driver.execute(text)
    except UNREACHABLE:
        raise
    except asyncpg.PostgresError as error:
        raise DBAPIError(text, None, error) from error


async def _fetch(driver: Any, statement: str, *values: Any) -> Sequence[Any]:  # noqa: ANN401 - the driver's own
    statements.inc()
    try:
        rows: Sequence[Any] = await driver.fetch(statement, *values)
    except UNREACHABLE:
        raise
    except asyncpg.PostgresError as error:
        raise DBAPIError(statement, None, error) from error
    return rows


def _compiled(
    engine: AsyncEngine, statement: sa.Executable, given: Sequence[BindParameter[Any]]
) -> tuple[str, tuple[int, ...]]:
    compiled: Any = cast("ClauseElement", statement).compile(dialect=engine.dialect)
    if compiled.post_compile_params:
        raise TypeError("a statement whose text depends on its values has no form")
    numbers = {id(one): number for number, one in enumerate(given)}
    return str(compiled), tuple(numbers[id(compiled.binds[name])] for name in compiled.positiontup or ())
