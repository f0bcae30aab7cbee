"""What all resources have in common, once: lists, creation, changes, deletion, and what each of these must keep true.

A resource describes itself in a ``Resource`` value; the operations below are plain functions over it and a session,
and ``router_of`` makes its routes, last. Every change runs in one transaction with the raised revisions of the plans
that it touches; an object refers to objects of its own organization only.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import decimal
import random
import uuid
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from litestar import Response
from sqlalchemy import ColumnElement, Select, Table, func, inspect, select
from sqlalchemy import delete as delete_from
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import audit, expectations, plans
from hub.access import Access, access_of
from hub.bodies import Body, given
from hub.cursors import Walk
from hub.etags import Stored, check_seen, is_known, not_modified, tag_of, with_tag
from hub.models import Organization
from hub.paging import Condition
from hub.problems import Conflict, NotFound, Wrong, WrongField, wrong
from hub.state import Hub, HubRequest, hub_of
from hub.told import Told

_BEYOND_IDS = 2**63
_TRIES = 8
_MOST_NAMED = 5
_CROSSED = frozenset({"40P01", "40001"})
"""What PostgreSQL says when two transactions wait for each other, or cannot both be: one of them is to try again."""

_plan_edits: weakref.WeakKeyDictionary[AsyncEngine, asyncio.Lock] = weakref.WeakKeyDictionary()
"""Whose turn it is in this process to edit what plans are made of, by engine."""

_Result = TypeVar("_Result")
Values = dict[str, Any]
Owned = Callable[[uuid.UUID], ColumnElement[bool]]
Owner = Callable[[AsyncSession, Any], Awaitable[uuid.UUID | None]]
Gateways = Callable[[AsyncSession, uuid.UUID], Awaitable[set[uuid.UUID]]]
READ_ONLY = frozenset({"id", "created_at", "updated_at"})
EVERYTHING = frozenset({"list", "create", "read", "edit", "delete"})
LOOK = frozenset({"list", "read"})
"""Operations of a resource that only gateways write."""


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
    """What keeps a row from being deleted: rows of ``model`` whose ``column`` (a name) is its id, called ``noun``.

    ``names(row id)`` selects what people call them, where they are few.
    """

    noun: str
    model: type[Any] | Table
    column: str
    names: Callable[[uuid.UUID], Select[str]] | None = None


async def _accept(_session: AsyncSession, _row: Any, _values: Values, _now: dt.datetime) -> None:  # noqa: ANN401 - any row
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

    ``check(session, row, values, now)`` judges what the struct cannot, and may change values into what is stored;
    ``row`` is None for a new one. ``more(session, rows)`` returns for each row what the answer has beside columns.
    ``references`` are fields that name a row of another table; these and links must be of the same organization.
    ``unique`` are fields that no two rows share. ``plain`` are fields that no plan shows: who edits nothing else waits
    for no other edit. ``adopts``: staged readings may have become readings by a change.
    ``edited`` are the columns whose change makes another version for ``If-Match``; all, where the hub itself and
    gateways write to none of them.
    ``changed(session, row, hub)`` runs after each change in its transaction; ``forget`` before a deletion.
    ``owned(organization)`` is the condition of an organization's rows, where they have no column that says it, and
    ``owner(session, row)`` whose a row is then, for the audit log.
    ``order`` is how lists are ordered unless asked otherwise; ``orderings`` are columns that may be asked for.
    ``walk(filters)`` is what a cursor goes along instead, by the names of the filters: unique, and with an index.
    ``shown(session, rows)`` makes the answer's objects in place of ``more``, where there may be thousands of them: of
    whole rows, or of the ``columns`` that lists select then. ``told`` is how PostgreSQL makes them for lists that
    are asked for all the time; a filter's condition is then of one form, whatever its text.
    """

    noun: str
    path: str
    model: type[Any]
    out: type[msgspec.Struct]
    body: type[Body] = Body
    operations: frozenset[str] = EVERYTHING
    integer_ids: bool = False
    references: Mapping[str, type[Any]] = dataclasses.field(default_factory=dict)
    links: tuple[Link, ...] = ()
    unique: tuple[str, ...] = ()
    plain: frozenset[str] = frozenset()
    filters: Mapping[str, Condition] = dataclasses.field(default_factory=dict)
    used_by: tuple[Use, ...] = ()
    check: Callable[[AsyncSession, Any, Values, dt.datetime], Awaitable[None]] = _accept
    more: Callable[[AsyncSession, Sequence[Any]], Awaitable[list[Values]]] = _nothing_more
    changed: Callable[[AsyncSession, Any, Hub], Awaitable[None]] | None = None
    forget: Callable[[AsyncSession, Any, HubRequest], Awaitable[None]] = _forget
    gateways: Gateways = _no_gateways
    adopts: bool = False
    edited: frozenset[str] | None = None
    owned: Owned | None = None
    owner: Owner | None = None
    order: tuple[Any, ...] = ()
    orderings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    walk: Walk | None = None
    columns: tuple[Any, ...] = ()
    shown: Callable[[AsyncSession, Sequence[Any]], Awaitable[Sequence[Any]]] | None = None
    told: Told | None = None

    def __post_init__(self) -> None:
        if self.owned is None and not hasattr(self.model, "organization"):
            raise TypeError(f"say whose a {self.noun} is: it has no column organization, so it needs owned")
        if self.owned is not None and self.owner is None and self.operations - LOOK:
            raise TypeError(f"say whose a changed {self.noun} is, for the audit log: it needs owner")

    @property
    def hidden(self) -> frozenset[str]:
        """The fields that may be sent and are never shown."""
        return frozenset(self.body.__struct_fields__) - frozenset(self.out.__struct_fields__)

    def only(self, access: Access) -> list[ColumnElement[bool]]:
        """Return the condition of the rows that there are for who asks; none for those who see all."""
        if access.organization is None:
            return []
        if self.owned is not None:
            return [self.owned(access.organization)]
        return [self.model.organization == access.organization]


async def find(
    session: AsyncSession, resource: Resource, row_id: uuid.UUID | int, access: Access, *, lock: bool = False
) -> Any:  # noqa: ANN401 - a row of the resource's model
    """Return a row.

    Raises:
        NotFound: when there is none with this id, or it is another organization's.
    """
    possible = not isinstance(row_id, int) or abs(row_id) < _BEYOND_IDS
    # Not FOR UPDATE: ingestion holds key shares of what it refers to until its commit, and nobody should wait for it.
    locked = {"key_share": True} if lock else None
    own = resource.only(access)
    statement = select(resource.model.id).where(resource.model.id == row_id, *own)
    there = possible and (not own or await session.scalar(statement) is not None)
    row = await session.get(resource.model, row_id, with_for_update=locked) if there else None
    if row is None:
        raise NotFound(f"there is no {resource.noun} {row_id}")
    return row


async def hold(session: AsyncSession, resource: Resource, row_id: uuid.UUID | int, request: HubRequest) -> Any:  # noqa: ANN401 - as find
    """Return a row, locked until the transaction ends, that the request is to change or delete.

    Raises:
        NotFound: as ``find``.
        Outdated: when ``If-Match`` names other versions than what is stored.
    """
    row = await find(session, resource, row_id, access_of(request), lock=True)
    if "if-match" in request.headers:
        check_seen(request, await stored_of(session, resource, row), f"the {resource.noun}")
    return row


async def stored_of(session: AsyncSession, resource: Resource, row: Any, shown: Any = None) -> Stored:  # noqa: ANN401 - as find
    """Return what of a row people edit, as it is stored: columns, and the sorted ids that it is linked to."""
    columns = resource.edited or inspect(resource.model).column_attrs.keys()
    stored = {name: getattr(row, name) for name in columns}
    for link in resource.links:
        held = getattr(shown, link.field, None)
        stored[link.field] = sorted((await _linked(session, link, [row.id])).get(row.id, []) if held is None else held)
    return stored


async def answer(session: AsyncSession, resource: Resource, row: Any, shown: Any = None) -> Response[Any]:  # noqa: ANN401 - as find
    """Make the answer of one row, with the tag of its version; ``shown`` is what it shows, where that is known."""
    if shown is None:
        shown = (await show(session, resource, [row]))[0]
    return with_tag(shown, tag_of(await stored_of(session, resource, row, shown), shown))


async def look(session: AsyncSession, resource: Resource, row: Any, request: HubRequest) -> Response[Any]:  # noqa: ANN401 - as find
    """Make the answer of one row for who only reads it: that nothing is new, if the client says that it has it."""
    made = await answer(session, resource, row)
    tag = made.headers["ETag"]
    return not_modified(tag) if is_known(request, tag) else made


async def show(session: AsyncSession, resource: Resource, rows: Sequence[Any]) -> list[Any]:
    """Make the answer's objects of rows, with a fixed number of queries however many there are."""
    if resource.shown is not None:
        return [*await resource.shown(session, rows)]
    linked = {link.field: await _linked(session, link, [row.id for row in rows]) for link in resource.links}
    more = await resource.more(session, rows)
    names = [name for name in resource.out.__struct_fields__ if hasattr(resource.model, name)]
    return [
        resource.out(
            **{
                **{name: _plain(getattr(row, name)) for name in names},
                **{field: by_row.get(row.id, []) for field, by_row in linked.items()},
                **extra,
            }
        )
        for row, extra in zip(rows, more, strict=True)
    ]


def _plain(value: Any) -> Any:  # noqa: ANN401 - any column's value
    # In JSON a decimal is text anyway; its own text would be 1E-7, which not every client takes for a number.
    return format(value, "f") if isinstance(value, decimal.Decimal) else value


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


async def note(
    session: AsyncSession,
    resource: Resource,
    action: str,
    row: Any,  # noqa: ANN401 - as find
    *,
    before: audit.Shown = None,
    after: audit.Shown = None,
    secrets: Iterable[str] = (),
) -> None:
    """Note in the audit log what is done to a row, in the transaction that does it."""
    owner = await resource.owner(session, row) if resource.owner is not None else row.organization
    audit.note(session, action, resource.noun, row.id, owner, before=before, after=after, secrets=secrets)


def _told(values: Values) -> Values:
    return {name: value.hex() if isinstance(value, bytes) else _plain(value) for name, value in values.items()}


async def create(session: AsyncSession, resource: Resource, body: Body, hub: Hub) -> Any:  # noqa: ANN401 - as find
    """Store a new row, and note that."""
    values = given(body)
    secrets = [name for name in resource.hidden if values[name] is not None]
    now = hub.clock.now()
    await _judge(session, resource, None, values, now)
    links = {link: values.pop(link.field) for link in resource.links}
    row = resource.model(**values, created_at=now, updated_at=now)
    session.add(row)
    await flush(session, resource)
    for link, others in links.items():
        await _tie(session, link, row.id, others)
    if resource.changed is not None:
        await resource.changed(session, row, hub)
    await expectations.mark(session, resource.model, row.id)
    await plans.raise_changed(session, await resource.gateways(session, row.id), now)
    told = (await show(session, resource, [row]))[0]
    await note(session, resource, audit.CREATE, row, after=told, secrets=secrets)
    return row


async def change(session: AsyncSession, resource: Resource, row: Any, body: Body, hub: Hub) -> None:  # noqa: ANN401 - as find
    """Give a row what the body says, and note what that changes; what a PATCH leaves out stays."""
    held = {link.field: (await _linked(session, link, [row.id])).get(row.id, []) for link in resource.links}
    columns = [name for name in resource.body.__struct_fields__ if name not in held]
    current = {name: getattr(row, name) for name in columns} | held
    values = current | given(body)
    now = hub.clock.now()
    await _judge(session, resource, row, values, now)
    changed = {name: value for name, value in values.items() if name not in held and value != getattr(row, name)}
    ties = {link: values[link.field] for link in resource.links if set(values[link.field]) != set(held[link.field])}
    if not changed and not ties:
        return
    planned = bool(ties) or not changed.keys() <= resource.plain
    before = await resource.gateways(session, row.id) if planned else set()
    # What is told comes from what is known here: an answer would be several statements more.
    new = {name: value for name, value in changed.items() if name in resource.out.__struct_fields__}
    new |= {link.field: others for link, others in ties.items()}
    told = {name: held[name] if name in held else getattr(row, name) for name in new}
    for name, value in changed.items():
        setattr(row, name, value)
    row.updated_at = now
    await flush(session, resource)
    for link, others in ties.items():
        await session.execute(delete_from(link.table).where(link.table.c[link.near] == row.id))
        await _tie(session, link, row.id, others)
    if resource.changed is not None:
        await resource.changed(session, row, hub)
    await expectations.mark(session, resource.model, row.id)
    if planned:
        await plans.raise_changed(session, before | await resource.gateways(session, row.id), now)
    secrets = resource.hidden & changed.keys()
    await note(session, resource, audit.CHANGE, row, before=_told(told), after=_told(new), secrets=secrets)


async def remove(session: AsyncSession, resource: Resource, row: Any, hub: Hub) -> None:  # noqa: ANN401 - as find
    """Delete a row that nothing needs any more, and note what it was.

    Raises:
        Conflict: naming what still needs it.
    """
    uses = []
    for use in resource.used_by:
        table = use.model if isinstance(use.model, Table) else use.model.__table__
        count = await session.scalar(select(func.count()).select_from(table).where(table.c[use.column] == row.id))
        if count:
            names = () if use.names is None else (await session.scalars(use.names(row.id).limit(_MOST_NAMED))).all()
            more = ["..."] if names and count > len(names) else []
            uses.append(f"{count} {use.noun}" + (f" ({', '.join([*names, *more])})" if names else ""))
    if uses:
        raise Conflict(f"this {resource.noun} cannot be deleted: it is used by {', '.join(uses)}")
    before = await resource.gateways(session, row.id)
    await note(session, resource, audit.DELETE, row, before=(await show(session, resource, [row]))[0])
    await expectations.mark(session, resource.model, row.id)
    await session.delete(row)
    await flush(session, resource)
    await plans.raise_changed(session, before, hub.clock.now())


async def _judge(session: AsyncSession, resource: Resource, row: Any, values: Values, now: dt.datetime) -> None:  # noqa: ANN401 - as find
    organization = values.get("organization")
    known = row.__dict__.get("organization") if row is not None else None
    if known not in {None, organization}:
        raise wrong("organization", "an object stays with its organization")
    errors = []
    if organization not in {None, known} and await session.get(Organization, organization) is None:
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
    await resource.check(session, row, values, now)
    if row is None or any(values[name] != getattr(row, name) for name in resource.unique):
        await _refuse_double(session, resource, row, values)


async def _strangers(
    session: AsyncSession, field: str, model: type[Any], ids: Sequence[uuid.UUID], organization: uuid.UUID | None
) -> list[WrongField]:
    rows = await session.execute(select(model.id, model.organization).where(model.id.in_(ids)))
    owners: dict[uuid.UUID, uuid.UUID | None] = {row.id: row.organization for row in rows}
    return [
        # The same words for what belongs to others: who asks may not know of it.
        WrongField(field, f"there is nothing with the id {wanted} in the organization of this object")
        for wanted in ids
        if wanted not in owners or owners[wanted] != organization
    ]


async def _refuse_double(session: AsyncSession, resource: Resource, row: Any, values: Values) -> None:  # noqa: ANN401 - as find
    if not resource.unique:
        return
    conditions = [getattr(resource.model, name).is_not_distinct_from(values[name]) for name in resource.unique]
    if row is not None:
        conditions.append(resource.model.id != row.id)
    if await session.scalar(select(func.count()).select_from(resource.model).where(*conditions)):
        raise Conflict(_double(resource))


def _double(resource: Resource) -> str:
    return f"another {resource.noun} has the same {' and '.join(resource.unique) or 'identity'}"


async def flush(session: AsyncSession, resource: Resource) -> None:
    """Write what is pending.

    Raises:
        Conflict: as ``writing_rows``.
    """
    with writing_rows(resource):
        await session.flush()


@contextlib.contextmanager
def writing_rows(resource: Resource) -> Iterator[None]:
    """Write rows of a resource within.

    Raises:
        Conflict: when somebody else was faster: the object exists by now, or what it needs does not any more.
    """
    try:
        yield
    except IntegrityError as error:
        if "foreign key" in str(error.orig).lower():
            raise Conflict(f"this {resource.noun} is still used, or refers to what was just deleted") from error
        raise Conflict(_double(resource)) from error


async def _tie(session: AsyncSession, link: Link, row: uuid.UUID, others: Sequence[uuid.UUID]) -> None:
    if others:
        await session.execute(link.table.insert(), [{link.near: row, link.far: other} for other in others])


async def in_transaction(
    request: HubRequest,
    work: Callable[[AsyncSession], Awaitable[_Result]],
    resource: Resource | None = None,
    author: audit.Author | None = None,
) -> _Result:
    """Do the work in a transaction of its own; when another one crossed it, do all of it again.

    This is how REST writes, all of it. What the work changes is noted in the audit log as that of who asks, or of the
    ``author`` where nobody is known yet; work that changes something and notes nothing fails (``audit.note``).
    Two transactions may wait for each other, or somebody deletes what the other has just looked at: a second look says
    what is missing. Edits of a ``resource`` that plans are made of wait for each other from the beginning.

    Raises:
        Conflict: when others were in the way every time.
    """
    hub, author = hub_of(request), author or audit.author_of(request)
    for turn in range(_TRIES):
        try:
            if resource is not None and resource.gateways is not _no_gateways:
                done = await _edit_plans(hub, author, work)
            else:
                async with audit.changing(hub.engine, author, hub.clock.now()) as session:
                    done = await work(session)
        except DBAPIError as error:
            if not isinstance(error, IntegrityError) and getattr(error.orig, "sqlstate", None) not in _CROSSED:
                raise
        else:
            return done
        # Jitter, so that those who crossed do not meet again.
        await asyncio.sleep(random.uniform(0, 0.02 * 2**turn))  # noqa: S311 - no secret
    raise Conflict("others change the same things at this moment; nothing was changed: try again")


async def _edit_plans(hub: Hub, author: audit.Author, work: Callable[[AsyncSession], Awaitable[_Result]]) -> _Result:
    # Those of one process wait here first, so that many editors do not take all connections only to wait in them.
    turn = _plan_edits.setdefault(hub.engine, asyncio.Lock())
    async with turn, audit.changing(hub.engine, author, hub.clock.now()) as session:
        await plans.one_at_a_time(session)
        return await work(session)
