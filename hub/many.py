"""What is done to many rows, in parts of one length: a statement takes only so many parameters, and so much time.

Or each row gets its own values by one statement for all, where the database has arrays.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Base

_T = TypeVar("_T")


def batched(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Yield the items in parts of so many, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


async def update_many(
    session: AsyncSession, model: type[Base], keys: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Give each of these rows its own values; whoever calls has locked them, for here they have no order.

    Through the connection, beside the session's objects.

    Args:
        session: In whose transaction.
        model: The rows' table.
        keys: Columns that name one row.
        rows: Keys and values by column, the same columns in each.
    """
    if not rows:
        return
    connection = await session.connection()
    columns = tuple(rows[0])
    if session.get_bind().dialect.name == "postgresql":
        values = {f"new_{column}": [row[column] for row in rows] for column in columns}
        await connection.execute(_all_at_once(model, tuple(keys), columns), values)
    else:
        named = [{f"new_{column}": row[column] for column in columns} for row in rows]
        await connection.execute(_one_by_one(model, tuple(keys), columns), named)


@functools.cache
def _all_at_once(model: type[Base], keys: tuple[str, ...], columns: tuple[str, ...]) -> sa.Update:
    table = cast("sa.Table", model.__table__)
    arrays = (sa.bindparam(f"new_{column}", type_=ARRAY(table.c[column].type, dimensions=1)) for column in columns)
    news = (
        sa.func.unnest(*arrays)
        .table_valued(*(sa.column(column, table.c[column].type) for column in columns), name="news")
        .render_derived()
    )
    same = (table.c[key] == news.c[key] for key in keys)
    return sa.update(table).where(*same).values({column: news.c[column] for column in columns if column not in keys})


@functools.cache
def _one_by_one(model: type[Base], keys: tuple[str, ...], columns: tuple[str, ...]) -> sa.Update:
    table = cast("sa.Table", model.__table__)
    same = (table.c[key] == sa.bindparam(f"new_{key}") for key in keys)
    values: dict[str, Any] = {column: sa.bindparam(f"new_{column}") for column in columns if column not in keys}
    return sa.update(table).where(*same).values(values)
