"""Pages of rows whose JSON the database makes: as ``hub.paging``, but nothing is made of a row here.

For lists that are asked all the time and have many rows. What comes of it is the same page, byte by byte.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Executable, Integer, Select, bindparam, literal_column, select

from hub.cursors import CURSOR, next_link, write_cursor
from hub.direct_reads import Ask
from hub.paging import Page, asked, counted, ends, frame, walked
from hub.resources import Resource
from hub.state import HubRequest
from hub.told import Told, listed


async def told_page(
    ask: Ask, request: HubRequest, resource: Resource, told: Told, order: Sequence[Any], only: Sequence[Any]
) -> Page[Any]:
    """Return one page of a resource that is told so."""
    extra = ("ordering",) if resource.orderings else ()
    query, window, conditions = asked(request, resource.filters, extra, only)
    # What of the question makes the statement another one; the values of filters do not.
    names = (name for name in query if name in resource.filters)
    form = (resource.path, len(only), query.get("ordering", ""), *names)

    async def texts(name: str, way: Sequence[Any], limit: int, offset: int) -> list[str]:
        window = bindparam("most", limit, type_=Integer), bindparam("first", offset, type_=Integer)

        def make() -> Select[Any]:
            columns = (getattr(resource.model, name) for name in told.names)
            return told.chosen(select(*columns).where(*conditions).limit(window[0]).offset(window[1]), way)

        return [row[0] for row in await ask((name, *form), [*conditions, *window], make)]

    if CURSOR in query:
        way = resource.walk(query) if resource.walk is not None and not query.get("ordering") else order
        keyset, place = walked(request, way)
        if place is not None:
            conditions.append(keyset.after(place))
        rows = await texts("begin" if place is None else "walk", keyset.order, window.limit + 1, 0)
        after = None
        if len(rows) > window.limit:
            last = told.place_of(rows[window.limit - 1])
            after = next_link(request, window.limit, write_cursor(request, keyset, last))
        return Page(next=after, previous=None, results=listed(rows[: window.limit]))
    rows = await texts("page", order, window.limit, window.offset)
    if ends(window, len(rows)):
        return msgspec.structs.replace(frame(request, window, window.offset + len(rows)), results=listed(rows))

    async def scalar(name: str, make: Callable[[], Executable]) -> Any:  # noqa: ANN401 - any column's value
        return (await ask((name, *form), conditions, make))[0][0]

    found: Select[Any] = select(literal_column("1")).select_from(resource.model).where(*conditions)
    page = await counted(scalar, request, found, window, len(rows), estimates=True)
    return msgspec.structs.replace(page, results=listed(rows))
