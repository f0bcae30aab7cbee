"""Deadlines (additive, ``/v1/deadlines``): by when what is expected has to be stored, and how that goes and went.

``GET /v1/deadlines/{id}/results`` shows period by period what was expected, stored in time, late and missing, and while
a period's values still have time, what will probably be there. A webhook is told when that falls below the target;
``GET /v1/deadlines/{id}/notifications`` shows what became of these events.
"""

import datetime as dt
import decimal
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit
from hub.access import access_of
from hub.bodies import Body
from hub.database import reading
from hub.deadlines_counted import EXPLAINED, count, selection_of, zones_of
from hub.deadlines_periods import MOST_OPEN, PERIODS, open_slots, period_of, raster_of
from hub.deadlines_seen import (
    GATEWAY,
    GROUP,
    KINDS,
    ORGANIZATION,
    names_of,
    note,
    outlook_of,
    parts_of,
    period_now,
    row_of,
)
from hub.deadlines_tallies import Counted
from hub.deadlines_told import CLOSING, OVER, RUNNING, TEST, Part, Result, part_of, result_of, tell
from hub.ledger import catch_up
from hub.models import AmrTaskGroup, DeadlinePart, DeadlinePeriod, Organization, ReadingSeries
from hub.models import Deadline as Row
from hub.models import Notification as NotificationRow
from hub.models import deadline_series as series_table
from hub.paging import (
    Condition,
    Page,
    equals,
    frame,
    is_true,
    is_uuid,
    parse_instant,
    query_of,
    since,
    until,
    window_of,
)
from hub.problems import Conflict, NotFound, Wrong, WrongField, wrong
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Link, Resource, Values, find, in_transaction
from hub.secrets_box import SealError, read_public_half, seal
from hub.state import Hub, HubRequest, hub_of
from hub.webhooks import WAITING, secret_purpose
from hub.webhooks_http import MOST_URL, read_target
from hub.webhooks_signed import key_of
from protocol.rasters import Raster
from protocol.wire import ContractError, checked_decimal

MOST_RESULTS, MOST_PARTS = 1000, 20_000
"""Of one answer."""

MOST_LIVE = 2 * MOST_OPEN
"""Periods that one answer counts at this moment: those of two zones."""

LONGEST_PATIENCE = 86_400
LEAST_PERCENT, MOST_PERCENT = decimal.Decimal("0.0001"), decimal.Decimal(100)
_USUAL = dt.timedelta(days=30)
_SECRET = 200


class DeadlineBody(Body, kw_only=True):
    """A deadline as clients send it.

    ``webhook_secret`` is never shown; left out, or null, it stays what it was. It goes with the ``webhook_url``.
    """

    read_only = READ_ONLY | {"has_webhook_secret"}
    organization: uuid.UUID
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    description: Annotated[str, Meta(max_length=500)] = ""
    task_group: uuid.UUID | None = None
    series: list[uuid.UUID] = msgspec.field(default_factory=list)
    interval: Annotated[str, Meta(max_length=20)]
    anchor_seconds: int = 0
    within_seconds: int
    target_percent: decimal.Decimal
    patience_seconds: int = 300
    is_active: bool = True
    webhook_url: Annotated[str, Meta(min_length=1, max_length=MOST_URL)] | None = None
    webhook_secret: Annotated[str, Meta(max_length=_SECRET)] | None = None


class Deadline(msgspec.Struct, kw_only=True):
    """A deadline. Of all series and all meters of the organization, unless it names some."""

    id: uuid.UUID
    organization: uuid.UUID
    name: str
    description: str
    task_group: uuid.UUID | None
    series: list[uuid.UUID]
    interval: str
    anchor_seconds: int
    within_seconds: int
    target_percent: decimal.Decimal
    patience_seconds: int
    is_active: bool
    webhook_url: str | None
    has_webhook_secret: bool
    created_at: dt.datetime
    updated_at: dt.datetime


class Results(msgspec.Struct, kw_only=True):
    """Periods of a deadline, the oldest first."""

    as_of: dt.datetime
    results: list[Result]


class Notification(msgspec.Struct, kw_only=True):
    """An event for the webhook: what it says, and what became of it. ``next_at`` is null when it has ended."""

    id: uuid.UUID
    type: str
    state: str
    tries: int
    next_at: dt.datetime | None
    last_status: int | None
    last_error: str
    created_at: dt.datetime
    ended_at: dt.datetime | None
    event: dict[str, Any]


async def _check(session: AsyncSession, row: Row | None, values: Values, _now: dt.datetime) -> None:
    _judge_periods(row, values)
    errors = [*_bounds(values), *_target(values["target_percent"])]
    secret = values["webhook_secret"]
    if isinstance(secret, str):
        try:
            key_of(secret)
        except ValueError as error:
            errors.append(WrongField("webhook_secret", str(error)))
    if errors:
        raise Wrong(*errors)
    if row is None:
        values["id"] = uuid.uuid4()
    values["webhook_secret"] = await _sealed(session, row, values)
    if values["webhook_url"] is not None and values["webhook_secret"] is None:
        raise wrong("webhook_secret", "is required with a webhook_url: receivers check the signature")


def _judge_periods(row: Row | None, values: Values) -> None:
    interval, anchor = values["interval"], values["anchor_seconds"]
    if row is not None and (interval, anchor) != (row.interval, row.anchor_seconds):
        raise wrong("interval", "a deadline stays with its periods, because its results are of these: make another one")
    if interval not in PERIODS:
        raise wrong("interval", f"{interval!r} is none of {', '.join(PERIODS)}")
    try:
        raster_of(interval, anchor, "UTC")
    except ContractError as error:
        raise wrong("anchor_seconds", str(error)) from error


def _bounds(values: Values) -> Iterator[WrongField]:
    longest = MOST_OPEN * Raster(values["interval"]).seconds
    for name, most in (("within_seconds", longest), ("patience_seconds", LONGEST_PATIENCE)):
        if not 0 <= values[name] <= most:
            yield WrongField(name, f"for {values['interval']} it must lie within 0..{most}")


def _target(value: decimal.Decimal) -> Iterator[WrongField]:
    try:
        good = LEAST_PERCENT <= checked_decimal(value) <= MOST_PERCENT and not value % LEAST_PERCENT
    except ContractError as error:
        yield WrongField("target_percent", str(error))
    else:
        if not good:
            text = f"must lie within {LEAST_PERCENT}..{MOST_PERCENT}, with at most four digits after the point"
            yield WrongField("target_percent", text)


async def _sealed(session: AsyncSession, row: Row | None, values: Values) -> bytes | None:
    """Return what is stored of the secret: the sealed new one, or the one that there is."""
    secret = values["webhook_secret"]
    if values["webhook_url"] is None:
        return None
    if not isinstance(secret, str):
        return row.webhook_secret if row is not None else None
    key = values["id"] if row is None else row.id
    try:
        return seal(await read_public_half(session), secret.encode(), secret_purpose(key))
    except SealError as error:
        raise Conflict(str(error)) from error


async def _more(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [{"has_webhook_secret": row.webhook_secret is not None} for row in rows]


async def _changed(_session: AsyncSession, row: Row, hub: Hub) -> None:
    """Judge the URL by this hub's settings."""
    if row.webhook_url is not None:
        try:
            read_target(row.webhook_url, hub.settings.webhook_hosts)
        except ValueError as error:
            raise wrong("webhook_url", str(error)) from error


RESOURCE = Resource(
    noun="deadline",
    path="/v1/deadlines",
    model=Row,
    body=DeadlineBody,
    out=Deadline,
    references={"task_group": AmrTaskGroup},
    links=(Link("series", series_table, "deadline", "series", ReadingSeries),),
    unique=("organization", "name"),
    filters={
        "organization": is_uuid(Row.organization),
        "name": equals(Row.name),
        "task_group": is_uuid(Row.task_group),
        "is_active": is_true(Row.is_active),
    },
    check=_check,
    more=_more,
    changed=_changed,
)


@get("/{row_id:uuid}/results", summary="Show how a deadline's periods stand, and stood")
async def show_results(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Results:
    """The last 30 days, or from ``start`` to ``end``; ``by`` gateway, group or organization adds parts."""
    hub = hub_of(request)
    query = query_of(request, ["start", "end", "by"])
    now = hub.clock.now()
    end = parse_instant("end", query["end"]) if "end" in query else now
    start = parse_instant("start", query["start"]) if "start" in query else end - _USUAL
    if not start < end:
        raise wrong("end", "it must lie after start")
    by = query.get("by", "")
    if by and by not in KINDS:
        raise wrong("by", f"{by!r} is none of {', '.join(KINDS)}")
    await catch_up(hub.engine, now)
    async with reading(hub.engine) as session:
        deadline: Row = await find(session, RESOURCE, row_id, access_of(request))
        results = await _over(session, deadline, start, end, by)
        if deadline.is_active:
            results += await _open(session, deadline, start, end, by, now)
        return Results(as_of=now, results=sorted(results, key=lambda one: (one.start, one.zone)))


async def _over(session: AsyncSession, deadline: Row, start: dt.datetime, end: dt.datetime, by: str) -> list[Result]:
    """Return the periods whose results stand."""
    found = await session.scalars(
        select(DeadlinePeriod)
        .where(
            DeadlinePeriod.deadline == deadline.id,
            DeadlinePeriod.closed_at.is_not(None),
            DeadlinePeriod.start < end,
            DeadlinePeriod.end > start,
        )
        .order_by(DeadlinePeriod.start)
        .limit(MOST_RESULTS + 1)
    )
    rows = found.all()
    if len(rows) > MOST_RESULTS:
        raise wrong("start", f"these are more than {MOST_RESULTS} periods: ask for less")
    parts: dict[uuid.UUID, list[Part]] = {}
    if by == ORGANIZATION:
        name = (await session.get_one(Organization, deadline.organization)).name
        for row in rows:
            parts[row.id] = [_share(deadline.organization, name, row)]
    elif by:
        kept = await session.scalars(
            select(DeadlinePart)
            .where(DeadlinePart.period.in_([row.id for row in rows]), DeadlinePart.kind == by)
            .order_by(DeadlinePart.name, DeadlinePart.id)
            .limit(MOST_PARTS + 1)
        )
        for number, one in enumerate(kept):
            if number == MOST_PARTS:
                raise wrong("start", f"these are more than {MOST_PARTS} parts: ask for less")
            parts.setdefault(one.period, []).append(_share(one.key, one.name, one))
    return [result_of(row, OVER, parts.get(row.id, ())) for row in rows]


def _share(key: uuid.UUID | None, name: str, row: DeadlinePart | DeadlinePeriod) -> Part:
    return part_of(
        key,
        name,
        expected=row.expected,
        stored=row.stored,
        late=row.late,
        projected=row.stored,
        reasons=row.reasons,
    )


async def _open(
    session: AsyncSession, deadline: Row, start: dt.datetime, end: dt.datetime, by: str, now: dt.datetime
) -> list[Result]:
    """Return the periods whose values still have time, and those that are to be closed, as they are now."""
    of = await selection_of(session, deadline)
    found = await session.scalars(
        select(DeadlinePeriod).where(
            DeadlinePeriod.deadline == deadline.id,
            or_(DeadlinePeriod.closed_at.is_(None), DeadlinePeriod.due_at >= now),
        )
    )
    rows = {(row.zone, row.slot): row for row in found}
    # They are given the figures of this moment, which are not to be written.
    session.expunge_all()
    for zone in await zones_of(session, of):
        raster = raster_of(deadline.interval, deadline.anchor_seconds, zone)
        for slot in open_slots(raster, deadline.within_seconds, now):
            rows.setdefault((zone, slot), row_of(deadline, period_of(raster, slot, deadline.within_seconds)))
    asked = [row for row in rows.values() if row.closed_at is None and row.start < end and row.end > start]
    results = []
    for row in sorted(asked, key=lambda row: row.start, reverse=True)[:MOST_LIVE]:
        period = period_now(deadline, row)
        running = period.due_at > now
        counted = await count(session, of, period, now, groups=by == GROUP, reasons=EXPLAINED, late=not running)
        outlook = await outlook_of(session, row, counted) if running else None
        note(row, deadline, counted, outlook, now)
        parts = parts_of(by, deadline, counted, outlook, await _names(session, deadline, counted, by)) if by else ()
        results.append(result_of(row, RUNNING if running else CLOSING, parts))
    return results


async def _names(session: AsyncSession, deadline: Row, counted: Counted, by: str) -> dict[uuid.UUID, str]:
    if by == ORGANIZATION:
        return {deadline.organization: (await session.get_one(Organization, deadline.organization)).name}
    return await names_of(session, by, counted.gateways if by == GATEWAY else counted.by_group())


# Events


def _shown(row: NotificationRow) -> Notification:
    return Notification(
        id=row.id,
        type=row.type,
        state=row.state,
        tries=row.tries,
        next_at=row.next_at if row.ended_at is None else None,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        ended_at=row.ended_at,
        event=msgspec.json.decode(row.body),
    )


_FILTERS: dict[str, Condition] = {
    "state": equals(NotificationRow.state),
    "type": equals(NotificationRow.type),
    "start_time": since(NotificationRow.created_at),
    "end_time": until(NotificationRow.created_at),
}


@get("/{row_id:uuid}/notifications", summary="Show the events for a deadline's webhook, the newest first")
async def list_notifications(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Page[Notification]:
    """Paged by limit and offset. Filters: state, type, start_time, end_time."""
    query = query_of(request, [*_FILTERS, "limit", "offset"])
    window = window_of(query)
    async with reading(hub_of(request).engine) as session:
        await find(session, RESOURCE, row_id, access_of(request))
        wanted = [NotificationRow.deadline == row_id]
        wanted += [_FILTERS[name](name, text) for name, text in query.items() if name in _FILTERS]
        number = await session.scalar(select(func.count()).select_from(NotificationRow).where(*wanted))
        rows = await session.scalars(
            select(NotificationRow)
            .where(*wanted)
            .order_by(NotificationRow.created_at.desc(), NotificationRow.id)
            .limit(window.limit)
            .offset(window.offset)
        )
        page: Page[Notification] = frame(request, window, number or 0)
        page.results.extend(_shown(row) for row in rows)
        return page


@post("/{row_id:uuid}/notifications", summary="Send an event that only tries whether a deadline's webhook works")
async def try_webhook(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Notification:
    """Make an event of the type ``deadline.test``."""
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Notification:
        deadline: Row = await find(session, RESOURCE, row_id, access_of(request), lock=True)
        made = tell(session, deadline, None, TEST, None, hub.clock.now())
        if made is None:
            raise Conflict("the deadline has no webhook_url")
        await session.flush()
        told = {"notification": made.id}
        audit.note(session, "try webhook", RESOURCE.noun, deadline.id, deadline.organization, after=told)
        return _shown(made)

    return await in_transaction(request, work)


@post(
    "/{row_id:uuid}/notifications/{notification:uuid}/retry",
    status_code=HTTP_200_OK,
    summary="Send an event again that has ended",
)
async def retry(request: HubRequest, row_id: FromPath[uuid.UUID], notification: FromPath[uuid.UUID]) -> Notification:
    """Begin its tries anew: what its receiver lost, or could not take then. The event keeps its id."""
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Notification:
        deadline: Row = await find(session, RESOURCE, row_id, access_of(request), lock=True)
        row = await session.get(NotificationRow, notification, with_for_update=True)
        if row is None or row.deadline != deadline.id:
            raise NotFound(f"this deadline has no notification {notification}")
        if row.ended_at is None:
            raise Conflict(f"its state is {row.state}: it is still tried")
        now = hub.clock.now()
        row.state, row.tries, row.ended_at, row.next_at, row.updated_at = WAITING, 0, None, now, now
        await session.flush()
        told = {"notification": row.id}
        audit.note(session, "retry notification", RESOURCE.noun, deadline.id, deadline.organization, after=told)
        return _shown(row)

    return await in_transaction(request, work)


router = router_of(RESOURCE, show_results, list_notifications, try_webhook, retry)
