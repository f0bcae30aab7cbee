"""What is done to many rows, in parts of one length: a statement takes only so many parameters, and so much time.

Or all rows are inserted, or get their own values, by one statement, where the database has arrays.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Base
from hub.once import insert_once

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


async def insert_many(
    session: AsyncSession, model: type[Base], keys: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert as ``insert_once`` does, for hundreds of rows: a statement for each takes several times as long.

    Args:
        session: In whose transaction.
        model: The rows' table.
        keys: Columns that name one row.
        rows: Keys and values by column, the same columns in each, none of which holds arrays.
    """
    unique = {tuple(row[key] for key in keys): dict(row) for row in rows}
    if not unique:
        return
    if session.get_bind().dialect.name != "postgresql":
        await insert_once(session, model, list(unique.values()), *keys)
        return
    # In one order, as there.
    ordered = [unique[key] for key in sorted(unique)]
    columns = tuple(ordered[0])
    values = {f"new_{column}": [row[column] for row in ordered] for column in columns}
    await (await session.connection()).execute(_inserted_at_once(model, tuple(keys), columns), values)


def _news(table: sa.Table, columns: tuple[str, ...]) -> sa.TableValuedAlias:
    """Return the rows that come as arrays, one for each column."""
    arrays = (sa.bindparam(f"new_{column}", type_=ARRAY(table.c[column].type, dimensions=1)) for column in columns)
    return (
        sa.func.unnest(*arrays)
        .table_valued(*(sa.column(column, table.c[column].type) for column in columns), name="news")
        .render_derived()
    )


@functools.cache
def _inserted_at_once(model: type[Base], keys: tuple[str, ...], columns: tuple[str, ...]) -> sa.Insert:
    table = cast("sa.Table", model.__table__)
    news = _news(table, columns)
    rows = sa.select(*(news.c[column] for column in columns))
    return postgresql.insert(table).from_select(columns, rows).on_conflict_do_nothing(index_elements=list(keys))


@functools.cache
def _all_at_once(model: type[Base], keys: tuple[str, ...], columns: tuple[str, ...]) -> sa.Update:
    table = cast("sa.Table", model.__table__)
    news = _news(table, columns)
    same = (table.c[key] == news.c[key] for key in keys)
    return sa.update(table).where(*same).values({column: news.c[column] for column in columns if column not in keys})


@functools.cache
def _one_by_one(model: type[Base], keys: tuple[str, ...], columns: tuple[str, ...]) -> sa.Update:
    table = cast("sa.Table", model.__table__)
    same = (table.c[key] == sa.bindparam(f"new_{key}") for key in keys)
    values: dict[str, Any] = {column: sa.bindparam(f"new_{column}") for column in columns if column not in keys}
    return sa.update(table).where(*same).values(values)
