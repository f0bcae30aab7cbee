"""Many rows in one statement of SQLite, and many rows from one.

The driver gives up the interpreter's lock while SQLite takes a step, and a step is a row: of rows that are written or
read one by one each has to get the lock back, for which it waits up to 5 ms while the event loop works. Beside a busy
thread, on a busy machine, 10,000 rows of readings took 1.5 to 3.9 s one by one, and 1.2 to 2.4 s a thousand at a time
(medians of seven and of six: 2.7 and 1.6).
"""

import functools
import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from hub import sqlite_trips

AT_ONCE = (1000, 100, 10, 1)
"""Rows of a statement: each length is a statement of its own, which its connection keeps prepared."""


async def insert(connection: AsyncConnection, statement: str, rows: Sequence[Sequence[Any]]) -> int:
    """Carry out an INSERT for all rows, in the forms of their column types; return how many were written.

    ``statement`` ends its VALUES with those of one row, in parentheses, where ``{}`` may stand for more of the same.
    """
    if not rows:
        return 0
    values = list(chain.from_iterable(rows))
    width = len(rows[0])
    result = await sqlite_trips.together(
        connection, texts_of(statement)[1], lambda cursor: write(cursor, statement, values, width)
    )
    return result.rowcount


def write(cursor: sqlite3.Cursor, statement: str, values: Sequence[Any], width: int) -> int:
    """Do the same in the connection's thread; ``values`` are those of all rows, each row's so many."""
    texts = texts_of(statement)
    written = position = 0
    for size in AT_ONCE:
        step = size * width
        while len(values) - position >= step:
            cursor.execute(texts[size], values[position : position + step])
            written += cursor.rowcount
            position += step
    return written


@functools.cache
def texts_of(statement: str) -> dict[int, str]:
    """Return the statement for each number of rows."""
    begin, end = statement.index("(", statement.index("VALUES")), statement.index("{}")
    one = statement[begin:end]
    return {size: statement.format(f", {one}" * (size - 1)) for size in AT_ONCE}
