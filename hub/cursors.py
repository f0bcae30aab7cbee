"""Cursors: lists that are walked from row to row instead of by offset, however long they are.

``cursor=`` (empty) begins, ``next`` of each answer goes on, until it is null. A cursor says after which row the next
page begins, by the columns that the list is ordered by. So a page costs the same wherever it is, and rows that come or
go meanwhile make no other row appear twice or not at all. Nothing is counted.

A cursor is good for the list, the filters and the order that it was made with, and gives access to nothing: whose rows
there are is decided anew with each page. So it is not signed; what does not fit is refused.
"""

import base64
import binascii
import dataclasses
import datetime as dt
import hashlib
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
from sqlalchemy import ColumnElement, Integer, Uuid, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from hub.columns import UtcDateTime
from hub.problems import wrong
from hub.state import HubRequest

CURSOR = "cursor"
Walk = Callable[[Collection[str]], Sequence[Any]]
"""What a cursor goes along, by the names of the filters."""

_LONGEST = 500
_FREE = frozenset({CURSOR, "limit", "received_since"})
"""Parameters that may change from page to page, or only begin a walk."""


@dataclasses.dataclass(frozen=True, slots=True)
class Keyset:
    """The columns that a walk goes along: together unique, none of them null, all up or all down."""

    columns: tuple[ColumnElement[Any], ...]
    descending: bool = False

    @property
    def order(self) -> list[ColumnElement[Any]]:
        """What to order by."""
        return [column.desc() for column in self.columns] if self.descending else list(self.columns)

    def after(self, place: Sequence[Any]) -> ColumnElement[bool]:
        """Return the condition of the rows that come after the one with these values."""
        values = [literal(value, column.type) for value, column in zip(place, self.columns, strict=True)]
        several = len(values) > 1
        here, there = (tuple_(*self.columns), tuple_(*values)) if several else (self.columns[0], values[0])
        return here < there if self.descending else here > there

    def place(self, row: Any) -> list[Any]:  # noqa: ANN401 - any row with these columns
        """Return where a row stands."""
        return [getattr(row, str(column.key)) for column in self.columns]


def keyset_of(order: Sequence[Any]) -> Keyset | None:
    """Return the walk along an order, all in the direction of its first column; None where one may be null."""
    columns: list[ColumnElement[Any]] = []
    descending = False
    for position, one in enumerate(order):
        down = isinstance(one, UnaryExpression) and one.modifier is operators.desc_op
        column = one.element if down else one
        column = column.expression if isinstance(column, InstrumentedAttribute) else column
        if getattr(column, "nullable", True):
            return None
        columns.append(column)
        descending = down if position == 0 else descending
    return Keyset(tuple(columns), descending)


def write_cursor(request: HubRequest, keyset: Keyset, row: Any) -> str:  # noqa: ANN401 - any row with its columns
    """Return the cursor of what comes after a row."""
    told = msgspec.json.encode([_list_of(request, keyset), *keyset.place(row)])
    return base64.urlsafe_b64encode(told).decode().rstrip("=")


def read_cursor(request: HubRequest, keyset: Keyset) -> Sequence[Any] | None:
    """Return after which place the page begins; None at the beginning.

    Raises:
        Wrong: when this is no cursor, or that of another list, filter or order.
    """
    text = request.query_params[CURSOR]
    if not text:
        return None
    try:
        return _place_in(text, _list_of(request, keyset), keyset)
    except (ValueError, binascii.Error, msgspec.MsgspecError, UnicodeError, OverflowError):
        raise wrong(
            CURSOR, "this is no cursor of this list with these filters in this order; begin with an empty one"
        ) from None


def _place_in(text: str, name: str, keyset: Keyset) -> list[Any]:
    if len(text) > _LONGEST:
        raise ValueError("too long")
    told = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    if not isinstance(told, list) or told[:1] != [name]:
        raise ValueError("of another list")
    return [_read(value, column) for value, column in zip(told[1:], keyset.columns, strict=True)]


def next_link(request: HubRequest, limit: int, cursor: str) -> str:
    """Return the address of the page that begins there."""
    query = {**dict(request.query_params.items()), "limit": str(limit), CURSOR: cursor}
    return str(request.url.with_replacements(query=urlencode(query)))


def _list_of(request: HubRequest, keyset: Keyset) -> str:
    """Return a short name of the list: what a cursor of it may not be used beyond."""
    filters = sorted((name, text) for name, text in request.query_params.items() if name not in _FREE)
    order = [str(column.key) for column in keyset.columns]
    told = msgspec.json.encode([request.url.path.rstrip("/"), filters, order, keyset.descending])
    return hashlib.sha256(told).hexdigest()[:12]


_BEYOND = 2**63


def _read(value: Any, column: ColumnElement[Any]) -> Any:  # noqa: ANN401 - any value that a column may have
    if isinstance(column.type, UtcDateTime):
        instant = msgspec.convert(value, dt.datetime)
        if instant.tzinfo is None:
            raise ValueError("no offset")
        return instant.astimezone(dt.UTC)
    if isinstance(column.type, Uuid):
        return msgspec.convert(value, uuid.UUID)
    if isinstance(column.type, Integer):
        number = msgspec.convert(value, int)
        if not -_BEYOND <= number < _BEYOND:
            raise ValueError("too large")
        return number
    text = msgspec.convert(value, str)
    if "\0" in text:
        raise ValueError("NUL")
    return text
