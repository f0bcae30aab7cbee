"""Many rows in one statement of SQLite, and many rows from one.

The driver gives up the interpreter's lock while SQLite takes a step, and a step is a row: of rows that are written or
read one by one each has to get the lock back, for which it waits up to 5 ms while the event loop works. Beside a busy
thread, on a busy machine, 10,000 rows of readings took 1.5 to 3.9 s one by one, and 1.2 to 2.4 s a thousand at a time
(medians of seven and of six: 2.7 and 1.6).
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

AT_ONCE = (1000, 50, 1)
"""Rows of a statement: each length is a statement of its own, which its connection keeps prepared."""


async def insert(connection: AsyncConnection, statement: str, rows: Sequence[Sequence[Any]]) -> int:
    """Carry out an INSERT for all rows, in the forms of their column types; return how many were written.

    ``statement`` ends its VALUES with those of one row, in parentheses, where ``{}`` may stand for more of the same.
    """
    begin, end = statement.index("(", statement.index("VALUES")), statement.index("{}")
    one = statement[begin:end]
    written = position = 0
    for size in AT_ONCE:
        parts = []
        while len(rows) - position >= size:
            parts.append(tuple(chain.from_iterable(rows[position : position + size])))
            position += size
        if parts:
            result = await connection.exec_driver_sql(statement.format(f", {one}" * (size - 1)), parts)
            written += result.rowcount
    return written
