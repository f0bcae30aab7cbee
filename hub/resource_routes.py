"""The routes of resources: what lists, reads, creates, edits and deletes over REST, made from a ``Resource``.

Each is a transaction of its own around the operations of ``hub.resources``.
"""

import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from litestar import Response, Router, delete, get, patch, post, put
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncSession

from hub import adoption
from hub.access import access_of
from hub.bodies import Body, given, partial
from hub.database import reading
from hub.direct_reads import reads_directly
from hub.etags import Edited, Looked, Tagged
from hub.paging import Page, select_page
from hub.problems import wrong
from hub.resources import Resource, answer, change, create, find, hold, in_transaction, look, remove, show
from hub.state import Hub, HubRequest, hub_of
from hub.told_lists import told_page

_Handler = TypeVar("_Handler", bound=Callable[..., Any])


async def list_page(request: HubRequest, resource: Resource) -> Response[Page[Any]]:
    """Answer one page of a resource's list."""
    engine = hub_of(request).engine
    order, only = ordering_of(request, resource), resource.only(access_of(request))
    if resource.told is not None and reads_directly(engine):
        page = await told_page(engine, request, resource, resource.told, order, only)
    else:
        async with reading(engine) as session:
            extra = ("ordering",) if resource.orderings else ()
            walk = None if request.query_params.get("ordering") else resource.walk
            page, rows = await select_page(
                session, request, resource.model, resource.filters, order, extra, only, walk, resource.columns
            )
            page.results.extend(await show(session, resource, rows))
    return Response(page, headers={"Link": f'<{page.next}>; rel="next"'} if page.next else None)


def ordering_of(request: HubRequest, resource: Resource) -> list[Any]:
    """Return what the list is ordered by: ``ordering=name``, or ``-name`` for the other way round.

    Raises:
        Wrong: when the list cannot be ordered by that.
    """
    wanted = request.query_params.get("ordering", "")
    if not wanted or not resource.orderings:
        return [*(resource.order or (resource.model.created_at,)), resource.model.id]
    column = resource.orderings.get(wanted.removeprefix("-"))
    if column is None:
        raise wrong("ordering", f"{wanted!r} is none of {', '.join(resource.orderings)}, with or without a minus")
    if wanted.startswith("-"):
        return [column.desc(), resource.model.id.desc()]
    return [column, resource.model.id]


async def add(request: HubRequest, resource: Resource, body: Body) -> Any:  # noqa: ANN401 - the resource's answer
    """Create a row in a transaction of its own; return the answer."""
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Any:  # noqa: ANN401 - as add
        row = await create(session, resource, body, hub)
        return await answer(session, resource, row)

    made = await in_transaction(request, work, resource)
    await _settle(hub, resource)
    return made


async def edit(request: HubRequest, resource: Resource, row_id: uuid.UUID | int, body: Body) -> Any:  # noqa: ANN401 - as add
    """Change a row in a transaction of its own; return the answer."""
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Any:  # noqa: ANN401 - as add
        row = await hold(session, resource, row_id, request)
        await change(session, resource, row, body, hub)
        return await answer(session, resource, row)

    planned = not given(body).keys() <= resource.plain
    changed = await in_transaction(request, work, resource if planned else None)
    await _settle(hub, resource)
    return changed


async def _settle(hub: Hub, resource: Resource) -> None:
    if resource.adopts:
        await adoption.sweep(hub.engine, hub.clock.now())


def router_of(resource: Resource, *more: Any) -> Router:  # noqa: ANN401 - Litestar's handlers
    """Make the routes of a resource; ``more`` are routes of its own."""
    key_type = int if resource.integer_ids else uuid.UUID
    key = f"/{{row_id:{key_type.__name__.lower()}}}"
    filters = ", ".join(resource.filters) or "none"
    page: Any = Page
    page = page[resource.out]

    @get(
        "/", summary=f"List: {resource.noun}", description=f"Paged by limit and offset, or cursor. Filters: {filters}."
    )
    @_annotated(page)
    async def list_all(request: HubRequest) -> Any:  # noqa: ANN401 - annotated above
        return await list_page(request, resource)

    @post("/", summary=f"Create: {resource.noun}", operation_class=Tagged)
    @_annotated(resource.out, data=resource.body)
    async def create_one(request: HubRequest, data: Any) -> Any:  # noqa: ANN401 - annotated above
        return await add(request, resource, data)

    @get(key, summary=f"Read: {resource.noun}", operation_class=Looked)
    @_annotated(resource.out, row_id=key_type)
    async def read_one(request: HubRequest, row_id: Any) -> Any:  # noqa: ANN401 - annotated above
        async with reading(hub_of(request).engine) as session:
            return await look(session, resource, await find(session, resource, row_id, access_of(request)), request)

    @put(key, summary=f"Replace: {resource.noun}", operation_class=Edited)
    @_annotated(resource.out, row_id=key_type, data=resource.body)
    async def replace_one(request: HubRequest, row_id: Any, data: Any) -> Any:  # noqa: ANN401 - annotated above
        return await edit(request, resource, row_id, data)

    @patch(key, summary=f"Change: {resource.noun}", operation_class=Edited)
    @_annotated(resource.out, row_id=key_type, data=partial(resource.body))
    async def change_one(request: HubRequest, row_id: Any, data: Any) -> Any:  # noqa: ANN401 - annotated above
        return await edit(request, resource, row_id, data)

    @delete(key, summary=f"Delete: {resource.noun}", operation_class=Edited)
    @_annotated(None, row_id=key_type)
    async def delete_one(request: HubRequest, row_id: Any) -> None:  # noqa: ANN401 - annotated above
        hub = hub_of(request)

        async def work(session: AsyncSession) -> None:
            row = await hold(session, resource, row_id, request)
            await resource.forget(session, row, request)
            await remove(session, resource, row, hub)

        await in_transaction(request, work, resource)

    handlers = {
        "list": [list_all],
        "create": [create_one],
        "read": [read_one],
        "edit": [replace_one, change_one],
        "delete": [delete_one],
    }
    wanted = [handler for name, some in handlers.items() if name in resource.operations for handler in some]
    return Router(resource.path, route_handlers=[*wanted, *more], tags=[resource.noun])


_MARKS: dict[str, Any] = {"data": JSONBody, "row_id": FromPath}
"""Where Litestar finds an argument."""


def _annotated(answer: Any, **arguments: Any) -> Callable[[_Handler], _Handler]:  # noqa: ANN401 - any type
    """Say the types of a handler that differ from resource to resource; Litestar reads them when it registers it."""

    def annotate(handler: _Handler) -> _Handler:
        marked = {name: _MARKS[name][kind] for name, kind in arguments.items()}
        handler.__annotations__ |= {**marked, "return": answer}
        return handler

    return annotate
