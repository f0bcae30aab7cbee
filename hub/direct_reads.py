"""Reads that are asked all the time, below SQLAlchemy: by PostgreSQL's own driver, on connections of the engine's pool.

A statement of one row costs 0.7 ms of processor through a session and 0.25 here; building it of its parts, and looking
up what was compiled of such parts before, is as much again. So a statement is compiled once for each form that it can
have, and after that only its values are put together.

Rules.
- Only what reads, as one statement that stands for itself. The driver's errors become those that SQLAlchemy raises.
- Values go to the driver as they are: ids, whole numbers, text, instants and bytes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BindParameter, ClauseElement
from sqlalchemy.util.concurrency import greenlet_spawn

from hub.database import UNREACHABLE, reading

_MOST_FORMS = 500

_forms: dict[Hashable, tuple[str, tuple[int, ...]]] = {}
"""Statements' texts, and which of the values that are given is each of their parameters."""


def reads_directly(engine: AsyncEngine) -> bool:
    """Whether there is a driver to ask: SQLite's has nothing to gain."""
    return engine.dialect.name == "postgresql"


@asynccontextmanager
async def _driver(engine: AsyncEngine) -> AsyncIterator[Any]:
    pooled = await greenlet_spawn(engine.sync_engine.raw_connection)
    try:
        yield pooled.driver_connection
    finally:
        await greenlet_spawn(pooled.close)


Ask = Callable[[Hashable, Sequence[ClauseElement], Callable[[], sa.Executable]], Awaitable[Sequence[Any]]]
"""Returns the rows of a statement of SQLAlchemy: its form, which is what tells it from others beside its values; the
parts of it that have values, as many for each of that form; and what puts it together of these parts."""


async def fetch(engine: AsyncEngine, statement: str, *values: Any) -> Sequence[Any]:  # noqa: ANN401 - what the driver takes
    """Return the rows of a statement, whose parameters are ``$1``, ``$2`` and so on.

    Raises:
        DBAPIError: as SQLAlchemy does; and those of ``UNREACHABLE`` as they are.
    """
    async with _driver(engine) as driver:
        return await _fetch(driver, statement, *values)


@asynccontextmanager
async def asking(engine: AsyncEngine) -> AsyncIterator[Ask]:
    """Open what asks statements, each of which stands for itself: a session where there is no driver to ask."""
    if not reads_directly(engine):
        async with reading(engine) as session:
            connection = await session.connection()

            async def ask(_form: Hashable, _parts: Sequence[ClauseElement], make: Callable[[], sa.Executable]) -> Any:  # noqa: ANN401 - rows
                return (await connection.execute(make())).all()

            yield ask
        return
    async with _driver(engine) as driver:

        async def ask_driver(form: Hashable, parts: Sequence[ClauseElement], make: Callable[[], sa.Executable]) -> Any:  # noqa: ANN401 - rows
            given = [one for part in parts for one in visitors.iterate(part) if isinstance(one, BindParameter)]
            if form not in _forms:
                if len(_forms) >= _MOST_FORMS:
                    _forms.clear()
                _forms[form] = _compiled(engine, make(), given)
            text, places = _forms[form]
            return await _fetch(driver, text, *(given[place].effective_value for place in places))

        yield ask_driver


async def _fetch(driver: Any, statement: str, *values: Any) -> Sequence[Any]:  # noqa: ANN401 - the driver's own
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
