"""Column types that mean the same on PostgreSQL and SQLite: exact decimals, UTC instants, growing ids, documents.

A value that one database would store and the other refuse or change never leaves this module: decimals keep their
digits, instants are aware, both ways.
"""

import datetime as dt
import decimal
from collections.abc import Callable
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import JSON, TypeDecorator, TypeEngine

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class ExactDecimal(TypeDecorator[decimal.Decimal]):
    """A decimal that comes back as it went in, trailing zeros included: ``numeric``, on SQLite plain decimal text.

    Compare and order it in SQL on PostgreSQL only: on SQLite it is text (``9.5`` and ``9.50`` differ there).
    """

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose ``numeric`` without bounds, or text where numbers would be floats."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Text())
        return dialect.type_descriptor(Numeric(asdecimal=True))

    def process_bind_param(self, value: decimal.Decimal | None, dialect: Dialect) -> Any:  # noqa: ANN401 - text or Decimal
        """Refuse what is not a finite Decimal; write text without an exponent on SQLite."""
        if value is None:
            return None
        if not isinstance(value, decimal.Decimal) or not value.is_finite():
            raise ValueError(f"{value!r} is not a finite Decimal")
        return format(value, "f") if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> decimal.Decimal | None:  # noqa: ANN401, ARG002 - text or Decimal
        """Give back the Decimal."""
        return None if value is None else decimal.Decimal(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], decimal.Decimal | None] | None:
        """Leave what PostgreSQL's driver gives: it is a Decimal. In a list there are thousands of them."""
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)


class UtcDateTime(TypeDecorator[dt.datetime]):
    """An instant: ``timestamptz``, on SQLite microseconds since 1970. Naive datetimes are refused, UTC comes back."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose ``timestamptz``, or an integer that orders and compares like the instant."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:  # noqa: ANN401 - int or datetime
        """Refuse a naive datetime; count microseconds on SQLite."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value.isoformat()} has no offset from UTC")
        return to_microseconds(value) if dialect.name == "sqlite" else value.astimezone(dt.UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:  # noqa: ANN401, ARG002 - int or datetime
        """Give back the instant in UTC."""
        if value is None:
            return None
        return from_microseconds(value) if isinstance(value, int) else value.astimezone(dt.UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], dt.datetime | None] | None:
        """Leave what PostgreSQL's driver gives: it is in UTC. In a list there are thousands of them."""
        return None if dialect.name == "postgresql" else super().result_processor(dialect, coltype)


def to_microseconds(instant: dt.datetime) -> int:
    """Return the microseconds from 1970 to the aware instant: how SQLite stores it."""
    return (instant - _EPOCH) // _MICROSECOND


def from_microseconds(count: int) -> dt.datetime:
    """Return the instant this many microseconds after 1970, in UTC."""
    return _EPOCH + count * _MICROSECOND


BigId = BigInteger().with_variant(Integer(), "sqlite")
"""Ids that the database counts up: SQLite does that for ``INTEGER`` only, which has 64 bits there."""

Document = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
"""A JSON document."""
