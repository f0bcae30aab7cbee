"""SQLite's connections, on which a statement is one trip to the connection's thread.

The adapter as it comes makes four: a cursor, the statement, its rows, the cursor's end. Each trip wakes two threads,
which costs more than most of the hub's statements; so here the thread does all four at once. Rows that are streamed
come as before. A rollback or commit where no transaction is open is no trip at all. What takes several statements can
be one trip as well (``together``).
"""

import collections
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sqlalchemy.connectors.asyncio import AsyncAdapt_dbapi_connection
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection, AsyncAdapt_aiosqlite_cursor
from sqlalchemy.engine import CursorResult, Dialect
from sqlalchemy.ext.asyncio import AsyncConnection

Work = Callable[[sqlite3.Cursor], int | None]
"""What is done with a cursor in the connection's thread; it may return how many rows were written in all."""


async def together(connection: AsyncConnection, statement: str, work: Work) -> CursorResult[Any]:
    """Have ``work`` done in one trip, in the connection's transaction; return the rows of the last that it asked.

    For everybody who looks on it is ``statement``, and its errors are those of that.
    """
    return await connection.exec_driver_sql(statement, (work,))


class _Done(NamedTuple):
    """What is left of a cursor whose statement was carried out."""

    description: Any = None
    rowcount: int = -1
    lastrowid: int | None = None
    arraysize: int = 1

    def close(self) -> None:
        """Do nothing: the cursor itself was closed when its rows were there."""


def carry_out(connection: sqlite3.Connection, work: Callable[[sqlite3.Cursor], Any]) -> tuple[_Done, Sequence[Any]]:
    """Do what a statement's cursor is to do, all of it in the connection's thread; return what is left, and rows."""
    cursor = connection.cursor()
    try:
        written = work(cursor)
        rows = cursor.fetchall() if cursor.description else ()
        rowcount = written if isinstance(written, int) else cursor.rowcount
        return _Done(cursor.description, rowcount, cursor.lastrowid), rows
    finally:
        cursor.close()


class _Cursor(AsyncAdapt_aiosqlite_cursor):
    __slots__ = ()

    _awaitable_cursor_close = False

    def __init__(self, adapt_connection: AsyncAdapt_dbapi_connection) -> None:
        # Not the adapter's own: it would go for a cursor at once.
        self._adapt_connection = adapt_connection
        self._connection = adapt_connection._connection  # noqa: SLF001 - a subclass of the adapter's parts
        self._cursor: Any = _Done()
        self._soft_closed_memoized = {}  # type: ignore[assignment]
        self._rows = collections.deque()

    async def _execute_async(self, operation: Any, parameters: Any) -> None:  # noqa: ANN401 - the adapter's signature
        # No value that SQLite takes can be called.
        if parameters and callable(parameters[0]):
            await self._trip(lambda cursor: (operation, parameters[0](cursor))[1])
        else:
            await self._trip(lambda cursor: cursor.execute(operation, () if parameters is None else parameters))

    async def _executemany_async(self, operation: Any, seq_of_parameters: Any) -> None:  # noqa: ANN401 - as above
        await self._trip(lambda cursor: cursor.executemany(operation, seq_of_parameters))

    async def _trip(self, work: Callable[[sqlite3.Cursor], Any]) -> None:
        connection: Any = self._connection
        async with self._adapt_connection._execute_mutex:  # noqa: SLF001 - as above
            self._cursor, rows = await connection._execute(carry_out, connection._conn, work)  # noqa: SLF001 - aiosqlite has no public door to its thread
            self._rows = collections.deque(rows)


class _Connection(AsyncAdapt_aiosqlite_connection):
    __slots__ = ()

    _cursor_cls = _Cursor

    def rollback(self) -> None:
        """Roll back, if there is anything to."""
        if self._is_open():
            super().rollback()

    def commit(self) -> None:
        """Commit, if there is anything to."""
        if self._is_open():
            super().commit()

    def _is_open(self) -> bool:
        connection: Any = self._connection
        # Who asks has no statement under way: where one was cancelled, SQLAlchemy closes the connection.
        return connection._connection is not None and connection._conn.in_transaction  # noqa: SLF001 - as above


def connect(
    dialect: Dialect, _record: object, arguments: Sequence[Any], options: dict[str, Any]
) -> AsyncAdapt_aiosqlite_connection:
    """Connect as SQLAlchemy would, and make of it a connection of this module; for its event ``do_connect``."""
    made: Any = dialect.connect(*arguments, **options)
    return _Connection(made.dbapi, made._connection)  # noqa: SLF001 - as above
