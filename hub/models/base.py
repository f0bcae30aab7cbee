"""What all tables share: column types, constraint names, ids and dates."""

import datetime as dt
import decimal
import uuid
from typing import Any

from sqlalchemy import ForeignKey, LargeBinary, MetaData, Uuid
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from hub.columns import Document, ExactDecimal, UtcDateTime

COUNTED = {"sqlite_autoincrement": True}
"""Ids that clients have seen are never given again, not even after the newest row was deleted."""


class Base(DeclarativeBase):
    """What all tables share: constraint names that migrations can rely on, and a column type for each Python type."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own interface
        decimal.Decimal: ExactDecimal,
        dt.datetime: UtcDateTime,
        uuid.UUID: Uuid,
        bytes: LargeBinary,
        dict[str, Any]: Document,
        list[Any]: Document,
    }


class Dated:
    """Columns of every row that people edit."""

    created_at: Mapped[dt.datetime]
    updated_at: Mapped[dt.datetime]


class Identified(Dated):
    """A row that people edit and programs name by a UUID."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


def owner() -> Mapped[uuid.UUID]:
    """The column of the organization that a row belongs to."""
    return mapped_column(ForeignKey("organizations.id"), index=True)
