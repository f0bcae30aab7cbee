"""Backfills (additive, ``/v1/backfills``): gaps that are being closed, and those that an operator wants closed.

The hub finds gaps by itself (origin ``auto``). ``POST`` asks for a range of a meter, a task group or a gateway; with
``dry_run`` it says what that would cost, in minutes of each line, and changes nothing. A backfill may be paused,
resumed and cancelled, one by its id or all of a request by the request's; all of a gateway by ``backfill_paused`` of
the gateway. ``state`` is ``waiting``, ``fetching``,
``settling``, ``paused``, or one of the ends ``done``, ``gave_up`` and ``cancelled``, of which ``evidence`` says why.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from litestar import post
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit, ledger
from hub.access import Access, access_of
from hub.backfill_archives import Meter, archives_of, meters_of
from hub.backfill_plans import GatewayState, Kept, Window, by_line, total_seconds, windows
from hub.backfill_rows import CANCELLED, FETCHING, GAVE_UP, OPEN_STATES, OPERATOR, WAITING, add, wait_again
from hub.bodies import Body
from hub.models import AmrTaskGroup, Command, Gateway, MeterDevice, NetworkInterface, device_groups
from hub.models import Backfill as Row
from hub.notices import Notice, tell
from hub.paging import Condition, equals, is_uuid, since, until
from hub.problems import Conflict, NotFound, Wrong, WrongField
from hub.resource_routes import router_of
from hub.resources import LOOK, Resource, Values, in_transaction, show
from hub.state import HubRequest, hub_of
from protocol.commands import FINAL_STATES
from protocol.wire import Instant

PAUSED = "paused"
MOST_METERS, MOST_WINDOWS = 5_000, 5_000
"""Of one request."""

LONGEST = dt.timedelta(days=3660)
_TARGETS = ("meter_device", "task_group", "gateway")


class BackfillBody(Body, kw_only=True):
    """What an operator asks for: one of ``meter_device``, ``task_group`` and ``gateway``, and a range."""

    start: Instant
    end: Instant
    meter_device: uuid.UUID | None = None
    task_group: uuid.UUID | None = None
    gateway: uuid.UUID | None = None
    dry_run: bool = False

    def target(self) -> tuple[str, uuid.UUID]:
        """Return what is asked for.

        Raises:
            Wrong: when that is not one thing, or no range.
        """
        named = [(name, value) for name in _TARGETS if (value := getattr(self, name)) is not None]
        if len(named) != 1:
            raise Wrong(WrongField("meter_device", f"give exactly one of {', '.join(_TARGETS)}"))
        if not self.start < self.end:
            raise Wrong(WrongField("end", "must be after start"))
        if self.end - self.start > LONGEST:
            raise Wrong(WrongField("start", f"at most {LONGEST.days} days can be asked for at once"))
        return named[0]


class Backfill(msgspec.Struct, kw_only=True):
    """One window of an archive of a meter, ``start`` and ``end`` included."""

    id: uuid.UUID
    organization: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID
    archive: int
    start: dt.datetime
    end: dt.datetime
    state: str
    priority: int
    origin: str
    request: uuid.UUID | None
    tries: int
    next_at: dt.datetime
    cost_seconds: float
    evidence: str
    command: uuid.UUID | None
    created_at: dt.datetime
    updated_at: dt.datetime
    ended_at: dt.datetime | None


class LineCost(msgspec.Struct, kw_only=True):
    """What a request costs one line."""

    network_interface: uuid.UUID
    minutes: float


class Request(msgspec.Struct, kw_only=True):
    """What a request comes to.

    ``missing`` counts slots without a value, ``without_archive`` those of them that no archive can bring again;
    ``in_hand`` are windows that are cared for already; ``gateways_away`` are waited for.
    """

    request: uuid.UUID | None
    dry_run: bool
    meters: int
    missing: int
    without_archive: int
    windows: int
    in_hand: int
    line_minutes: float
    lines: list[LineCost]
    gateways_away: list[uuid.UUID]
    backfills: list[Backfill]


async def _state(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    held = await session.scalars(
        sa.select(Gateway.id).where(Gateway.id.in_({row.gateway for row in rows}), Gateway.backfill_paused)
    )
    paused = set(held)
    return [{"state": PAUSED if row.state == WAITING and row.gateway in paused else _shown(row)} for row in rows]


def _shown(row: Row) -> str:
    return PAUSED if row.paused and row.state == WAITING else row.state


def _in_state(_name: str, text: str) -> sa.ColumnElement[bool]:
    gateways = sa.select(Gateway.id).where(Gateway.backfill_paused)
    held = sa.and_(sa.or_(Row.paused, Row.gateway.in_(gateways)), Row.state == WAITING)
    return held if text == PAUSED else sa.and_(Row.state == text, sa.not_(held))


_of_state: Condition = _in_state

RESOURCE = Resource(
    noun="backfill",
    path="/v1/backfills",
    model=Row,
    out=Backfill,
    operations=LOOK,
    filters={
        "organization": is_uuid(Row.organization),
        "gateway": is_uuid(Row.gateway),
        "meter_device": is_uuid(Row.meter_device),
        "state": _of_state,
        "origin": equals(Row.origin),
        "request": is_uuid(Row.request),
        "start_time": since(Row.created_at),
        "end_time": until(Row.created_at),
    },
    more=_state,
    order=(Row.created_at.desc(),),
    orderings={"created_at": Row.created_at, "next_at": Row.next_at, "start": Row.start},
)


@post("/", summary="Create: backfill", description="dry_run says what it would cost, and changes nothing.")
async def ask(request: HubRequest, data: JSONBody[BackfillBody]) -> Request:
    """Have what is missing of a range fetched."""
    hub, access = hub_of(request), access_of(request)
    target = data.target()
    now = hub.clock.now()
    await ledger.catch_up(hub.engine, now)

    async def work(session: AsyncSession) -> Request:
        return await _ask(session, data, target, access, now)

    return await in_transaction(request, work)


async def _ask(
    session: AsyncSession, body: BackfillBody, target: tuple[str, uuid.UUID], access: Access, now: dt.datetime
) -> Request:
    owner, devices = await _devices(session, *target, access)
    meters = await meters_of(session, devices, now)
    spans = await ledger.missing_spans(session, devices, body.start, body.end, now)
    archives = archives_of(meters, spans, auto=False)
    asked = {meter.gateway for meter in meters.values()}
    rows = await session.execute(sa.select(Gateway.id).where(Gateway.id.in_(asked), Gateway.online.is_(False)))
    # Those that are away are waited for: nothing is sent to them before they have delivered what they have.
    there = dict.fromkeys(asked, GatewayState(online=True, delivered=now))
    kept, in_hand = await _in_hand(session, devices)
    found = windows(archives, there, kept)
    if len(found) > MOST_WINDOWS:
        raise Conflict(
            f"that would be {len(found)} windows; at most {MOST_WINDOWS} are asked for at once: ask for less"
        )
    made: list[Row] = []
    key = None if body.dry_run else uuid.uuid4()
    if key is not None:
        made = add(session, found, meters, now, origin=OPERATOR, request=key)
        await session.flush()
        told = {**msgspec.structs.asdict(body), "windows": len(made)}
        audit.note(session, audit.CREATE, RESOURCE.noun, key, owner, after=told)
    return Request(
        request=key,
        dry_run=body.dry_run,
        meters=len(devices),
        missing=sum(span.count for span in spans),
        without_archive=sum(span.count for span in spans if span.archive is None or span.device not in meters),
        windows=len(found),
        in_hand=in_hand,
        line_minutes=_minutes(total_seconds(found)),
        lines=_lines(found, meters),
        gateways_away=sorted(rows.scalars()),
        backfills=await show(session, RESOURCE, made),
    )


def _minutes(seconds: float) -> float:
    return round(seconds / 60, 2)


def _lines(found: Sequence[Window], meters: dict[uuid.UUID, Meter]) -> list[LineCost]:
    costs = by_line(found, {key: meter.line for key, meter in meters.items()})
    return [LineCost(network_interface=line, minutes=_minutes(seconds)) for line, seconds in costs.items()]


async def _devices(
    session: AsyncSession, name: str, key: uuid.UUID, access: Access
) -> tuple[uuid.UUID | None, list[uuid.UUID]]:
    """Return the meters that are meant, and whose they are.

    Raises:
        NotFound: when there is nothing of that name for who asks.
        Conflict: when they are too many.
    """
    model: Any = {"meter_device": MeterDevice, "task_group": AmrTaskGroup, "gateway": Gateway}[name]
    row = await session.get(model, key)
    if row is None or not access.covers(row.organization):
        raise NotFound(f"there is no {name.replace('_', ' ')} {key}")
    statement = sa.select(MeterDevice.id)
    if name == "meter_device":
        statement = statement.where(MeterDevice.id == key)
    elif name == "task_group":
        statement = statement.join(device_groups, device_groups.c.device == MeterDevice.id).where(
            device_groups.c.group == key
        )
    else:
        statement = statement.join(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface).where(
            NetworkInterface.gateway == key
        )
    found = list((await session.execute(statement.order_by(MeterDevice.id).limit(MOST_METERS + 1))).scalars())
    if len(found) > MOST_METERS:
        raise Conflict(f"these are more than {MOST_METERS} meters: ask for fewer at once")
    return row.organization, found


async def _in_hand(
    session: AsyncSession, devices: Sequence[uuid.UUID]
) -> tuple[dict[tuple[uuid.UUID, int], list[Kept]], int]:
    """Return what is cared for already; what was given up or cancelled an operator may ask for again."""
    rows = await session.execute(sa.select(Row).where(Row.meter_device.in_(devices), Row.ended_at.is_(None)))
    kept: dict[tuple[uuid.UUID, int], list[Kept]] = {}
    count = 0
    for row in rows.scalars():
        kept.setdefault((row.meter_device, row.archive), []).append(Kept(row.start, row.end))
        count += 1
    return kept, count


async def _change(request: HubRequest, key: uuid.UUID, verb: str) -> list[Backfill]:
    """Pause, resume or cancel a backfill, or all of a request.

    Raises:
        NotFound: when there is none.
        Conflict: when none of them is in a state for it.
    """
    hub = hub_of(request)
    now = hub.clock.now()
    only = RESOURCE.only(access_of(request))

    async def work(session: AsyncSession) -> list[Backfill]:
        found = await session.execute(
            sa.select(Row).where(sa.or_(Row.id == key, Row.request == key), *only).order_by(Row.id).with_for_update()
        )
        rows = list(found.scalars())
        if not rows:
            raise NotFound(f"there is no backfill, and no request, {key}")
        change = {"pause": _pause, "resume": _resume, "cancel": _cancel}[verb]
        changed = [row for row in rows if await change(session, row, now)]
        if not changed:
            raise Conflict(f"nothing to {verb}: the state is {', '.join(sorted({_shown(row) for row in rows}))}")
        await session.flush()
        told = {"backfills": len(changed), "state": sorted({_shown(row) for row in changed})}
        audit.note(session, verb, RESOURCE.noun, key, rows[0].organization, after=told)
        answer: list[Backfill] = await show(session, RESOURCE, rows)
        return answer

    return await in_transaction(request, work)


async def _pause(session: AsyncSession, row: Row, now: dt.datetime) -> bool:
    if row.ended_at is not None or row.paused:
        return False
    row.paused, row.updated_at = True, now
    await _call_back(session, row, now)
    return True


async def _resume(_session: AsyncSession, row: Row, now: dt.datetime) -> bool:
    if row.state in {GAVE_UP, CANCELLED}:
        row.state, row.tries, row.ended_at, row.command, row.evidence = WAITING, 0, None, None, ""
    elif not row.paused:
        return False
    row.paused = False
    if row.state == FETCHING:
        # Its command was called back with the pause: it may end as cancelled, and another one fetches the rest.
        wait_again(row, now)
    row.next_at = row.noticed_at = row.updated_at = now
    return True


async def _cancel(session: AsyncSession, row: Row, now: dt.datetime) -> bool:
    if row.state not in OPEN_STATES:
        return False
    await _call_back(session, row, now)
    row.state, row.paused, row.evidence = CANCELLED, False, "cancelled by an operator"
    row.ended_at = row.updated_at = now
    return True


async def _call_back(session: AsyncSession, row: Row, now: dt.datetime) -> None:
    """Ask for the end of the command that is under way."""
    if row.state == FETCHING and row.command is not None:
        await session.execute(
            sa.update(Command)
            .where(Command.id == row.command, Command.state.not_in(FINAL_STATES))
            .values(cancel_requested=True, updated_at=now)
            .execution_options(synchronize_session=False)
        )
        await tell(session, Notice.COMMANDS)


@post("/{row_id:uuid}/pause", status_code=HTTP_200_OK, summary="Pause a backfill, or all of a request")
async def pause(request: HubRequest, row_id: FromPath[uuid.UUID]) -> list[Backfill]:
    """Fetch nothing of it until it is resumed; a command that is under way is called back."""
    return await _change(request, row_id, "pause")


@post("/{row_id:uuid}/resume", status_code=HTTP_200_OK, summary="Resume a backfill, or all of a request")
async def resume(request: HubRequest, row_id: FromPath[uuid.UUID]) -> list[Backfill]:
    """Go on with what was paused, and try anew what was given up or cancelled."""
    return await _change(request, row_id, "resume")


@post("/{row_id:uuid}/cancel", status_code=HTTP_200_OK, summary="Cancel a backfill, or all of a request")
async def cancel(request: HubRequest, row_id: FromPath[uuid.UUID]) -> list[Backfill]:
    """Leave the gap as it is; the hub does not ask for it again by itself."""
    return await _change(request, row_id, "cancel")


router = router_of(RESOURCE, ask, pause, resume, cancel)
