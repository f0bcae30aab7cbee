"""What all resources have in common, once: lists, creation, changes, deletion, and what each of these must keep true.

A resource describes itself in a ``Resource`` value; the operations below are plain functions over it and a session,
and ``router_of`` makes its routes, last. Every change runs in one transaction with the raised revisions of the plans
that it touches; an object refers to objects of its own organization only.
"""

import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from litestar import Router, delete, get, patch, post, put
from sqlalchemy import Table, func, select
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from hub import adoption, plans
from hub.bodies import Body, given, partial
from hub.database import reading, writing
from hub.models import Organization
from hub.paging import Condition, Page, select_page
from hub.problems import Conflict, NotFound, Wrong, WrongField, wrong
from hub.state import Hub, HubRequest, hub_of

Values = dict[str, Any]
Gateways = Callable[[AsyncSession, uuid.UUID], Awaitable[set[uuid.UUID]]]
READ_ONLY = frozenset({"id", "created_at", "updated_at"})


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """A many-to-many field: ``table`` ties this row's id (column ``near``) to rows of ``model`` (column ``far``)."""

    field: str
    table: Table
    near: str
    far: str
    model: type[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """What keeps a row from being deleted: rows of ``model`` whose ``column`` (a name) is its id, called ``noun``."""

    noun: str
    model: type[Any] | Table
    column: str


async def _accept(_session: AsyncSession, _row: Any, _values: Values) -> None:  # noqa: ANN401 - any row
    """Accept whatever the struct accepts."""


async def _nothing_more(_session: AsyncSession, rows: Sequence[Any]) -> list[Values]:
    return [{} for _ in rows]


async def _no_gateways(_session: AsyncSession, _row: uuid.UUID) -> set[uuid.UUID]:
    return set()


async def _forget(_session: AsyncSession, _row: Any, _request: HubRequest) -> None:  # noqa: ANN401 - any row
    """Leave nothing else to delete."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource of the API: its words, its structs, and what is particular about it.

    ``check(session, row, values)`` judges what the struct cannot, and may change values into what is stored; ``row``
    is None for a new one. ``more(session, rows)`` returns for each row the fields of the answer that are no columns.
    ``references`` are fields that name a row of another table; these and links must be of the same organization.
    ``unique`` are fields that no two rows share. ``adopts``: staged readings may have become readings by a change.
    ``changed(session, row, now)`` runs after each change in its transaction; ``forget`` before a deletion.
    """

    noun: str
    path: str
    model: type[Any]
    body: type[Body]
    out: type[msgspec.Struct]
    key: str = "uuid"
    references: Mapping[str, type[Any]] = dataclasses.field(default_factory=dict)
    links: tuple[Link, ...] = ()
    unique: tuple[str, ...] = ()
    filters: Mapping[str, Condition] = dataclasses.field(default_factory=dict)
    used_by: tuple[Use, ...] = ()
    check: Callable[[AsyncSession, Any, Values], Awaitable[None]] = _accept
    more: Callable[[AsyncSession, Sequence[Any]], Awaitable[list[Values]]] = _nothing_more
    changed: Callable[[AsyncSession, Any, Hub], Awaitable[None]] | None = None
    forget: Callable[[AsyncSession, Any, HubRequest], Awaitable[None]] = _forget
    gateways: Gateways = _no_gateways
    adopts: bool = False
    editable: bool = True


async def find(session: AsyncSession, resource: Resource, row_id: uuid.UUID | int, *, lock: bool = False) -> Any:  # noqa: ANN401 - a row of the resource's model
    """Return a row.

    Raises:
        NotFound: when there is none with this id.
    """
    row = await session.get(resource.model, row_id, with_for_update=lock or None)
    if row is None:
        raise NotFound(f"there is no {resource.noun} {row_id}")
    return row


async def show(session: AsyncSession, resource: Resource, rows: Sequence[Any]) -> list[Any]:
    """Make the answer's objects of rows, with a fixed number of queries however many there are."""
    linked = {link.field: await _linked(session, link, [row.id for row in rows]) for link in resource.links}
    more = await resource.more(session, rows)
    names = [name for name in resource.out.__struct_fields__ if hasattr(resource.model, name)]
    return [
        resource.out(
            **{
                **{name: getattr(row, name) for name in names},
                **{field: by_row.get(row.id, []) for field, by_row in linked.items()},
                **extra,
            }
        )
        for row, extra in zip(rows, more, strict=True)
    ]


async def _linked(session: AsyncSession, link: Link, rows: Collection[uuid.UUID]) -> dict[uuid.UUID, list[uuid.UUID]]:
    near, far = link.table.c[link.near], link.table.c[link.far]
    statement = (
        select(near, far)
        .join(link.model, link.model.id == far)
        .where(near.in_(rows))
        .order_by(link.model.created_at, far)
    )
    found: dict[uuid.UUID, list[uuid.UUID]] = {}
    for row, other in await session.execute(statement):
        found.setdefault(row, []).append(other)
    return found


async def create(session: AsyncSession, resource: Resource, body: Body, hub: Hub) -> Any:  # noqa: ANN401 - as find
    """Store a new row."""
    values = given(body)
    await _judge(session, resource, None, values)
    links = {link: values.pop(link.field) for link in resource.links}
    now = hub.clock.now()
    row = resource.model(**values, created_at=now, updated_at=now)
    session.add(row)
    await flush(session, resource)
    for link, others in links.items():
        await _tie(session, link, row.id, others)
    if resource.changed is not None:
        await resource.changed(session, row, hub)
    await plans.raise_changed(session, await resource.gateways(session, row.id), now)
    return row


async def change(session: AsyncSession, resource: Resource, row: Any, body: Body, hub: Hub) -> None:  # noqa: ANN401 - as find
    """Give a row what the body says; what a PATCH leaves out stays."""
    before = await resource.gateways(session, row.id)
    held = {link.field: (await _linked(session, link, [row.id])).get(row.id, []) for link in resource.links}
    columns = [name for name in resource.body.__struct_fields__ if name not in held]
    current = {name: getattr(row, name) for name in columns} | held
    values = current | given(body)
    await _judge(session, resource, row, values)
    now = hub.clock.now()
    changed = {name: value for name, value in values.items() if name not in held and value != getattr(row, name)}
    ties = {link: values[link.field] for link in resource.links if set(values[link.field]) != set(held[link.field])}
    if changed or ties:
        for name, value in changed.items():
            setattr(row, name, value)
        row.updated_at = now
        await flush(session, resource)
        for link, others in ties.items():
            await session.execute(delete_from(link.table).where(link.table.c[link.near] == row.id))
            await _tie(session, link, row.id, others)
        if resource.changed is not None:
            await resource.changed(session, row, hub)
        await plans.raise_changed(session, before | await resource.gateways(session, row.id), now)


async def remove(session: AsyncSession, resource: Resource, row: Any, hub: Hub) -> None:  # noqa: ANN401 - as find
    """Delete a row that nothing needs any more.

    Raises:
        Conflict: naming what still needs it.
    """
    uses = []
    for use in resource.used_by:
        table = use.model if isinstance(use.model, Table) else use.model.__table__
        count = await session.scalar(select(func.count()).select_from(table).where(table.c[use.column] == row.id))
        if count:
            uses.append(f"{count} {use.noun}")
    if uses:
        raise Conflict(f"this {resource.noun} cannot be deleted: it is used by {', '.join(uses)}")
    before = await resource.gateways(session, row.id)
    await session.delete(row)
    await flush(session, resource)
    await plans.raise_changed(session, before, hub.clock.now())


async def _judge(session: AsyncSession, resource: Resource, row: Any, values: Values) -> None:  # noqa: ANN401 - as find
    organization = values.get("organization")
    if row is not None and row.__dict__.get("organization") not in {None, organization}:
        raise wrong("organization", "an object stays with its organization")
    errors = []
    if organization is not None and await session.get(Organization, organization) is None:
        errors.append(WrongField("organization", f"there is no organization {organization}"))
    for field, model in resource.references.items():
        if values[field] is not None:
            errors += await _strangers(session, field, model, [values[field]], organization)
    for link in resource.links:
        if len(set(values[link.field])) != len(values[link.field]):
            errors.append(WrongField(link.field, "the same id stands in it more than once"))
        errors += await _strangers(session, link.field, link.model, values[link.field], organization)
    if errors:
        raise Wrong(*errors)
    await resource.check(session, row, values)
    if resource.unique:
        await _refuse_double(session, resource, row, values)


async def _strangers(
    session: AsyncSession, field: str, model: type[Any], ids: Sequence[uuid.UUID], organization: uuid.UUID | None
) -> list[WrongField]:
    rows = (await session.execute(select(model.id, model.organization).where(model.id.in_(ids)))).all()
    owners = dict(row._tuple() for row in rows)
    return [
        WrongField(
            field,
            f"there is nothing with the id {wanted}"
            if wanted not in owners
            else f"{wanted} belongs to another organization",
        )
        for wanted in ids
        if wanted not in owners or owners[wanted] != organization
    ]


async def _refuse_double(session: AsyncSession, resource: Resource, row: Any, values: Values) -> None:  # noqa: ANN401 - as find
    conditions = [getattr(resource.model, name).is_not_distinct_from(values[name]) for name in resource.unique]
    if row is not None:
        conditions.append(resource.model.id != row.id)
    if await session.scalar(select(func.count()).select_from(resource.model).where(*conditions)):
        raise Conflict(_double(resource))


def _double(resource: Resource) -> str:
    return f"there is already a {resource.noun} with the same {' and '.join(resource.unique) or 'identity'}"


async def flush(session: AsyncSession, resource: Resource) -> None:
    """Write what is pending.

    Raises:
        Conflict: when somebody else was faster: the object exists by now, or what it needs does not any more.
    """
    try:
        await session.flush()
    except IntegrityError as error:
        if "foreign key" in str(error.orig).lower():
            raise Conflict(f"this {resource.noun} is still used, or refers to what was just deleted") from error
        raise Conflict(_double(resource)) from error


async def _tie(session: AsyncSession, link: Link, row: uuid.UUID, others: Sequence[uuid.UUID]) -> None:
    if others:
        await session.execute(link.table.insert(), [{link.near: row, link.far: other} for other in others])


@asynccontextmanager
async def changing(hub: Hub) -> AsyncIterator[AsyncSession]:
    """Open a transaction; after its commit the relay looks at once whether there is something to send."""
    async with writing(hub.engine) as session:
        yield session
    hub.wake.set()


async def adopt(hub: Hub, devices: Collection[uuid.UUID] | None = None) -> None:
    """Turn staged readings whose reason is gone into readings: of these meters, or of all."""
    async with writing(hub.engine) as session:
        await adoption.adopt(session, hub.clock.now(), devices=devices)


def router_of(resource: Resource, *more: Any) -> Router:  # noqa: ANN401 - Litestar's handlers
    """Make the routes of a resource; ``more`` are routes of its own."""
    key = f"/{{row_id:{resource.key}}}"
    key_type = uuid.UUID if resource.key == "uuid" else int

    async def list_all(request: HubRequest) -> Any:  # noqa: ANN401 - annotated below
        async with reading(hub_of(request).engine) as session:
            order = (resource.model.created_at, resource.model.id)
            page, rows = await select_page(session, request, resource.model, resource.filters, order)
            page.results.extend(await show(session, resource, rows))
            return page

    async def add(request: HubRequest, data: Any) -> Any:  # noqa: ANN401 - as above
        hub = hub_of(request)
        async with changing(hub) as session:
            row = await create(session, resource, data, hub)
            answer = (await show(session, resource, [row]))[0]
        await _settle(hub, resource, row)
        return answer

    async def one(request: HubRequest, row_id: Any) -> Any:  # noqa: ANN401 - as above
        async with reading(hub_of(request).engine) as session:
            return (await show(session, resource, [await find(session, resource, row_id)]))[0]

    async def edit(request: HubRequest, row_id: Any, data: Any) -> Any:  # noqa: ANN401 - as above
        hub = hub_of(request)
        async with changing(hub) as session:
            row = await find(session, resource, row_id, lock=True)
            await change(session, resource, row, data, hub)
            answer = (await show(session, resource, [row]))[0]
        await _settle(hub, resource, row)
        return answer

    async def replace(request: HubRequest, row_id: Any, data: Any) -> Any:  # noqa: ANN401 - as above
        return await edit(request, row_id, data)

    async def drop(request: HubRequest, row_id: Any) -> None:  # noqa: ANN401 - as above
        hub = hub_of(request)
        async with changing(hub) as session:
            row = await find(session, resource, row_id, lock=True)
            await resource.forget(session, row, request)
            await remove(session, resource, row, hub)

    # Litestar reads the annotations when it registers a handler: here is where they become those of the resource.
    list_all.__annotations__["return"] = Page[resource.out]  # type: ignore[name-defined]
    add.__annotations__ |= {"data": resource.body, "return": resource.out}
    one.__annotations__ |= {"row_id": key_type, "return": resource.out}
    edit.__annotations__ |= {"row_id": key_type, "data": partial(resource.body), "return": resource.out}
    replace.__annotations__ |= {"row_id": key_type, "data": resource.body, "return": resource.out}
    drop.__annotations__["row_id"] = key_type
    filters = ", ".join(resource.filters) or "none"
    handlers: list[Any] = [
        get("/", description=f"Filters: {filters}. Paged by limit and offset.", summary=f"List: {resource.noun}")(list_all),
        post("/", summary=f"Create: {resource.noun}")(add),
        get(key, summary=f"Read: {resource.noun}")(one),
        delete(key, summary=f"Delete: {resource.noun}")(drop),
    ]
    if resource.editable:
        handlers += [
            put(key, summary=f"Replace: {resource.noun}")(replace),
            patch(key, summary=f"Change: {resource.noun}")(edit),
        ]
    return Router(resource.path, route_handlers=[*handlers, *more], tags=[resource.noun])


async def _settle(hub: Hub, resource: Resource, row: Any) -> None:  # noqa: ANN401 - as find
    if resource.adopts:
        await adopt(hub, [row.id] if resource.noun == "meter device" else None)


