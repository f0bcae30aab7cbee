"""Pages of rows whose JSON the database makes: as ``hub.paging``, but nothing is made of a row here.

For lists that are asked all the time and have many rows. What comes of it is the same page, byte by byte.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Executable, Select, literal_column, select
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.cursors import CURSOR, next_link, write_cursor
from hub.direct_reads import Ask, asking, literal_number
from hub.paging import Page, Window, asked, counted, ends, frame, walked
from hub.resources import Resource
from hub.state import HubRequest
from hub.told import Told, listed


async def told_page(
    engine: AsyncEngine, request: HubRequest, resource: Resource, told: Told, order: Sequence[Any], only: Sequence[Any]
) -> Page[Any]:
    """Return one page of a resource that is told so."""
    extra = ("ordering",) if resource.orderings else ()
    query, window, conditions = asked(request, resource.filters, extra, only)
    # Whoever goes far into a list by an offset has it planned for that.
    async with asking(engine, planned_once=not window.offset) as ask:
        question = _Question(ask, request, resource, told, query, conditions, len(only))
        return await (question.walk(order, window) if CURSOR in query else question.page(order, window))


@dataclasses.dataclass(frozen=True, slots=True)
class _Question:
    """What a list is asked for; ``only`` is how many of the conditions say whose rows there are."""

    ask: Ask
    request: HubRequest
    resource: Resource
    told: Told
    query: Mapping[str, str]
    conditions: list[ColumnElement[bool]]
    only: int

    async def page(self, order: Sequence[Any], window: Window) -> Page[Any]:
        """Return a page by limit and offset, with its count."""
        rows = await self._texts("page", self._enough_of(order), window.limit, window.offset)
        if ends(window, len(rows)):
            page = frame(self.request, window, window.offset + len(rows))
        else:
            model: Any = self.resource.model
            found: Select[Any] = select(literal_column("1")).select_from(model).where(*self.conditions)
            page = await counted(self._scalar, self.request, found, window, len(rows), estimates=True)
        return msgspec.structs.replace(page, results=listed(rows))

    async def walk(self, order: Sequence[Any], window: Window) -> Page[Any]:
        """Return a page by a cursor."""
        walk = None if self.query.get("ordering") else self.resource.walk
        keyset, place = walked(self.request, walk(self.query) if walk else order)
        if place is not None:
            self.conditions.append(keyset.after(place))
        # One row more than is answered tells whether there is more.
        rows = await self._texts("begin" if place is None else "walk", keyset.order, window.limit + 1, 0)
        shown, after = rows[: window.limit], None
        if len(rows) > window.limit:
            cursor = write_cursor(self.request, keyset, self.told.place_of(shown[-1]))
            after = next_link(self.request, window.limit, cursor)
        return Page(next=after, previous=None, results=listed(shown))

    def _enough_of(self, order: Sequence[Any]) -> Sequence[Any]:
        """Leave out what an order has beyond what is unique: else all is sorted where an index has it in order."""
        if self.resource.walk is None or self.query.get("ordering"):
            return order
        unique = self.resource.walk(self.query)
        begins = len(unique) <= len(order) and all(one is other for one, other in zip(unique, order, strict=False))
        return unique if begins else order

    async def _texts(self, name: str, order: Sequence[Any], limit: int, offset: int) -> list[str]:
        def make() -> Select[Any]:
            columns = (getattr(self.resource.model, name) for name in self.told.names)
            chosen: Select[Any] = select(*columns).where(*self.conditions).limit(literal_number(limit))
            return self.told.chosen(chosen.offset(literal_number(offset)) if offset else chosen, order)

        return [row[0] for row in await self.ask(self._form(name, limit, offset), self.conditions, make)]

    async def _scalar(self, name: str, make: Callable[[], Executable]) -> Any:  # noqa: ANN401 - any column's value
        return (await self.ask(self._form(name), self.conditions, make))[0][0]

    def _form(self, *parts: Any) -> tuple[Any, ...]:  # noqa: ANN401 - whatever tells statements apart
        """Return what of the question makes the statement another one; the values of filters do not."""
        names = (name for name in self.query if name in self.resource.filters)
        return self.resource.path, *parts, self.only, self.query.get("ordering", ""), *names
