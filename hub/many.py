"""What is done to many rows: in parts of one length, and named by one parameter however many they are.

A list of ids as SQLAlchemy writes it is a parameter each: another statement for each length, kept prepared, and refused
beyond 32,767.
"""

import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

_T = TypeVar("_T")


def batched(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Yield the items in parts of so many, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def among(
    session: AsyncSession, column: InstrumentedAttribute[uuid.UUID], ids: Collection[uuid.UUID]
) -> sa.ColumnElement[bool]:
    """Return the condition that the column has one of these ids."""
    if session.get_bind().dialect.name == "postgresql":
        return column == sa.any_(sa.literal(list(ids), ARRAY(sa.Uuid)))
    return column.in_(ids)
