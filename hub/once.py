"""Insert what is not there yet: the constraint is the lock, and a repeated delivery changes nothing."""

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Base


def upsert(session: AsyncSession, model: type[Base]) -> Any:  # noqa: ANN401 - either dialect's Insert; they share no base
    """Return the INSERT of the session's database that knows ON CONFLICT."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    return insert(cast("Table", model.__table__))


async def insert_once(session: AsyncSession, model: type[Base], rows: Sequence[dict[str, Any]], *keys: str) -> None:
    """Insert the rows whose unique key is not there yet, in the caller's transaction.

    They go in the order of their keys, so that two relays that insert the same rows wait for each other and never
    form a ring.
    """
    unique = {tuple(row[key] for key in keys): row for row in rows}
    if unique:
        # Through the connection: plain statements, no objects.
        connection = await session.connection()
        statement = upsert(session, model).on_conflict_do_nothing(index_elements=list(keys))
        await connection.execute(statement, [unique[key] for key in sorted(unique)])
