"""Lists: ``limit`` and ``offset`` in, ``{"count", "next", "previous", "results"}`` out; filters by name.

With ``cursor`` (``hub.cursors``) in place of ``offset`` a list is walked, and ``count`` is left out. What is counted is
counted to its end only where that is quick (``_count``).

A query parameter that the list does not have is refused by name, because a misspelt filter would answer everything.
"""

import datetime as dt
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

import msgspec
from sqlalchemy import ClauseElement, ColumnElement, Executable, Integer, Select, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from hub.cursors import CURSOR, Keyset, Walk, keyset_of, next_link, read_cursor, write_cursor
from hub.problems import Wrong, WrongField, wrong
from hub.state import HubRequest

T = TypeVar("T")
DEFAULT_LIMIT = 100
LARGEST_LIMIT = 1000
_LARGEST_OFFSET = 2**31 - 1
_COUNTED = 10_000
"""Rows that are counted one by one without further thought."""

_COUNTED_STILL = 1_000_000
"""Rows that are counted one by one if the database thinks that there are no more."""


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list; ``next`` and ``previous`` are URLs. Who asks by a cursor gets no ``count``.

    ``count_estimated`` is there, and true, where so many rows were found that the database's estimate is told.
    """

    count: int | msgspec.UnsetType = msgspec.UNSET
    count_estimated: bool | msgspec.UnsetType = msgspec.UNSET
    next: str | None
    previous: str | None
    results: list[T]


class Window(msgspec.Struct, frozen=True):
    """Which part of a list is asked for."""

    limit: int
    offset: int


Scalar = Callable[[str, Callable[[], Executable]], Awaitable[Any]]
"""Asks the statement of that name, which is put together if need be, for its one value."""

_ONE: Any = literal_column("1")

Condition = Callable[[str, str], ColumnElement[bool]]
"""Turns a filter's name and text into a condition; raises Wrong when the text is unreadable."""


def equals(column: Any) -> Condition:  # noqa: ANN401 - any mapped column
    """Filter by equal text."""
    return lambda _name, text: column == text


def is_uuid(column: Any) -> Condition:  # noqa: ANN401 - any mapped column
    """Filter by id."""
    return lambda name, text: column == parse_uuid(name, text)


def since(column: Any) -> Condition:  # noqa: ANN401 - any mapped column
    """Filter by instant, from this one on, itself included."""
    return lambda name, text: column >= parse_instant(name, text)


def until(column: Any) -> Condition:  # noqa: ANN401 - any mapped column
    """Filter by instant, up to this one, itself included."""
    return lambda name, text: column <= parse_instant(name, text)


def is_true(column: Any) -> Condition:  # noqa: ANN401 - any mapped column
    """Filter by ``true`` or ``false``."""

    def condition(name: str, text: str) -> ColumnElement[bool]:
        if text not in {"true", "false"}:
            raise wrong(name, f"{text!r} is neither true nor false")
        found: ColumnElement[bool] = column.is_(text == "true")
        return found

    return condition


def parse_uuid(name: str, text: str) -> uuid.UUID:
    """Read an id from a query.

    Raises:
        Wrong: when it is no UUID.
    """
    try:
        return uuid.UUID(text)
    except ValueError:
        raise wrong(name, f"{text!r} is not a UUID") from None


def parse_instant(name: str, text: str) -> dt.datetime:
    """Read an RFC 3339 instant from a query, where an unescaped ``+`` has become a space.

    Raises:
        Wrong: when it is unreadable or has no offset.
    """
    try:
        instant = dt.datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text.upper() else text)
        if instant.tzinfo is None:
            raise wrong(name, f"{text!r} has no offset from UTC, such as Z or +01:00")
        return instant.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise wrong(name, f"{text!r} is not an RFC 3339 date-time with an offset") from None


def parse_number(name: str, text: str, least: int, largest: int) -> int:
    """Read a whole number from a query.

    Raises:
        Wrong: when it is none, or out of bounds.
    """
    if not text.isascii() or not text.isdigit() or len(text) > len(str(largest)) or not least <= int(text) <= largest:
        raise wrong(name, f"{text!r} is not a whole number within {least}..{largest}")
    return int(text)


def query_of(request: HubRequest, known: Sequence[str]) -> dict[str, str]:
    """Return the query's parameters.

    Raises:
        Wrong: naming those that the list does not have.
    """
    query = dict(request.query_params.items())
    if any("\0" in text for text in query.values()):
        raise wrong("query", "the character NUL cannot be searched for")
    unknown = [WrongField(name, f"no such filter; there are {', '.join(known)}") for name in query if name not in known]
    if unknown:
        raise Wrong(*unknown)
    return query


def window_of(query: Mapping[str, str]) -> Window:
    """Read ``limit`` (at most 1000 are answered) and ``offset``."""
    limit = parse_number("limit", query.get("limit", str(DEFAULT_LIMIT)), 1, _LARGEST_OFFSET)
    offset = parse_number("offset", query.get("offset", "0"), 0, _LARGEST_OFFSET)
    return Window(min(limit, LARGEST_LIMIT), offset)


async def select_page(
    session: AsyncSession,
    request: HubRequest,
    model: type[T],
    filters: Mapping[str, Condition],
    order: Sequence[Any],
    extra: Sequence[str] = (),
    only: Sequence[ColumnElement[bool]] = (),
    walk: Walk | None = None,
    columns: Sequence[Any] = (),
) -> tuple[Page[Any], Sequence[Any]]:
    """Select one page of a table; return the page without results, and the rows to make them from.

    ``only`` are conditions beside the filters: whose rows there are for who asks. A cursor goes along ``walk`` rather
    than ``order``, if that is given. With ``columns`` rows are tuples of these, without they are the table's objects.
    """
    query, window, conditions = asked(request, filters, extra, only)
    selected: Select[Any] = select(*columns) if columns else select(model)
    if CURSOR in query:
        way = walk(query) if walk else order
        return await _walk(session, request, selected.where(*conditions), way, window)
    statement = selected.where(*conditions).order_by(*order).limit(window.limit).offset(window.offset)
    rows = await _rows(session, statement)
    if ends(window, len(rows)):
        return frame(request, window, window.offset + len(rows)), rows

    async def scalar(_name: str, make: Callable[[], Executable]) -> Any:  # noqa: ANN401 - any column's value
        return (await session.execute(make())).scalar_one()

    is_postgresql = session.get_bind().dialect.name == "postgresql"
    found = select(_ONE).select_from(model).where(*conditions)
    return await counted(scalar, request, found, window, len(rows), estimates=is_postgresql), rows


def asked(
    request: HubRequest, filters: Mapping[str, Condition], extra: Sequence[str], only: Sequence[ColumnElement[bool]]
) -> tuple[Mapping[str, str], Window, list[ColumnElement[bool]]]:
    """Read what a list is asked for: its parameters, which part, and the conditions of its rows, ``only`` first."""
    query = query_of(request, [*filters, *extra, "limit", "offset", CURSOR])
    window = window_of(query)
    conditions = [*only, *(filters[name](name, text) for name, text in query.items() if name in filters)]
    if CURSOR in query and "offset" in query:
        raise wrong("offset", "a cursor says itself where the page begins")
    return query, window, conditions


def ends(window: Window, found: int) -> bool:
    """Whether a page with so many rows is the last: then there is nothing to count."""
    return 0 < found < window.limit or not (found or window.offset)


async def counted(
    ask: Scalar, request: HubRequest, found: Select[Any], window: Window, rows: int, *, estimates: bool
) -> Page[Any]:
    """Count what a list has, all that ``found`` selects; return the page around so many rows.

    ``estimates`` says whether the database can tell how many it thinks that there are.
    """
    count, estimated = await _count(ask, found, estimates=estimates)
    if not estimated:
        return frame(request, window, count)
    # Without rows this is behind the end.
    through = window.offset + rows
    page = frame(request, window, max(count, through + 1) if rows else min(count, window.offset))
    return msgspec.structs.replace(page, count_estimated=True)


async def _rows(session: AsyncSession, statement: Select[Any]) -> Sequence[Any]:
    """Return tuples, or objects where the table's were selected."""
    if len(statement.column_descriptions) == 1:
        objects: Sequence[Any] = (await session.execute(statement)).scalars().all()
        return objects
    # Through the connection: the session would make tuples as if they had objects in them.
    tuples: Sequence[Any] = (await (await session.connection()).execute(statement)).all()
    return tuples


async def _count(ask: Scalar, found: Select[Any], *, estimates: bool) -> tuple[int, bool]:
    """Count what is found, and say whether that is only an estimate: of so many rows that counting them takes long.

    The estimate is the one that PostgreSQL plans with, from the statistics of the table.
    """
    some = found.limit(literal_column(str(_COUNTED + 1), Integer()))
    count = int(await ask("some", lambda: select(func.count()).select_from(some.subquery())))
    if count <= _COUNTED:
        return count, False
    if estimates:
        told = await ask("explained", lambda: _Explained(found))
        estimate = int((json.loads(told) if isinstance(told, str) else told)[0]["Plan"]["Plan Rows"])
        if estimate > _COUNTED_STILL:
            return max(estimate, count), True
    return int(await ask("all", lambda: select(func.count()).select_from(found.subquery()))), False


class _Explained(Executable, ClauseElement):
    """What PostgreSQL plans for a statement, as JSON."""

    inherit_cache = False

    def __init__(self, statement: Select[Any]) -> None:
        self.statement = statement


@compiles(_Explained)
def _explain(element: _Explained, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own interface
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.statement, **options)}"


async def _walk(
    session: AsyncSession, request: HubRequest, statement: Select[Any], order: Sequence[Any], window: Window
) -> tuple[Page[Any], Sequence[T]]:
    keyset, place = walked(request, order)
    if place is not None:
        statement = statement.where(keyset.after(place))
    # One row more than is answered tells whether there is more.
    limit = window.limit
    rows = await _rows(session, statement.order_by(*keyset.order).limit(limit + 1))
    after = next_link(request, limit, write_cursor(request, keyset, rows[limit - 1])) if len(rows) > limit else None
    return Page(next=after, previous=None, results=[]), rows[:limit]


def walked(request: HubRequest, order: Sequence[Any]) -> tuple[Keyset, Sequence[Any] | None]:
    """Return what a cursor goes along, and after which place the page begins."""
    keyset = keyset_of(order)
    if keyset is None:
        raise wrong(CURSOR, "in this order the list is paged by offset only")
    return keyset, read_cursor(request, keyset)


def frame(request: HubRequest, window: Window, count: int) -> Page[Any]:
    """Return the page around results that are still to come."""

    def link(offset: int) -> str:
        query = {**dict(request.query_params.items()), "limit": str(window.limit), "offset": str(offset)}
        if offset == 0:
            del query["offset"]
        return str(request.url.with_replacements(query=urlencode(query)))

    after = window.offset + window.limit
    return Page(
        count=count,
        next=link(after) if after < count else None,
        previous=link(max(0, window.offset - window.limit)) if window.offset > 0 else None,
        results=[],
    )
