"""Command batches (additive, ``/v1/command-batches``): one call for many meters, followed and cancelled as one.

A batch is asked for a task group, a gateway, or meters by their ids. In one transaction it makes a command for each
meter, and a refusal for each that nobody can call; the commands go out one after the other, ``per_second``, those of
one gateway as far apart as possible, and no gateway has more than ``hub.dispatch.UNDER_WAY_PER_GATEWAY`` at once. From
then on they are commands like all others; the batch shows how many are in which state, and why they ended so.
"""

import asyncio
import datetime as dt
import functools
import math
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from litestar import Response, get, post
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from sqlalchemy.ext.asyncio import AsyncSession

from hub import calling, idempotency
from hub.access import Access, access_of
from hub.command_batches_counted import RESOURCE, CommandBatch
from hub.command_streams import (
    EVENT_STREAM,
    HEARTBEAT_SECONDS,
    WAITING,
    Followed,
    check_known,
    frame,
    last_event_of,
    nothing_more,
    respond,
    stream,
    take_place,
    time_left,
)
from hub.command_watch import Feed, events_between
from hub.database import reading
from hub.dispatch import OPEN_STATES
from hub.etags import Edited
from hub.models import (
    AmrTaskGroup,
    Command,
    CommandEvent,
    CommandRefusal,
    Gateway,
    MeterDevice,
    NetworkInterface,
    device_groups,
)
from hub.models import CommandBatch as Row
from hub.notices import Notice, tell
from hub.paging import Page, equals, query_of, select_page
from hub.problems import Conflict, NotFound, Wrong, WrongField, wrong
from hub.resource_routes import router_of
from hub.resources import answer, find, hold, in_transaction, note, show
from hub.state import Hub, HubRequest, hub_of
from protocol.commands import MAX_COMMAND_SECONDS

MOST_METERS = 10_000
"""Of one batch."""

MOST_PER_SECOND = 1000
PROGRESS_SECONDS = 1.0
"""Real seconds between two events of a batch's progress, at least."""

_TARGETS = ("task_group", "gateway", "meter_devices")


class CommandBatchBody(calling.CallBody, kw_only=True):
    """A call, and whom it is for: one of ``task_group``, ``gateway`` and ``meter_devices``."""

    task_group: uuid.UUID | None = None
    gateway: uuid.UUID | None = None
    meter_devices: list[uuid.UUID] | None = None
    per_second: int = 50


class CommandRefused(msgspec.Struct, kw_only=True):
    """A meter of a batch that nobody can call: ``no_interface``, ``blocked`` or ``no_gateway``."""

    meter_device: uuid.UUID
    meter: str
    reason: str
    cause: str


@post("/", summary="Create: command batch", operation_class=idempotency.Repeatable)
async def ask(request: HubRequest, data: JSONBody[CommandBatchBody]) -> CommandBatch:
    """Write a command for each meter; once, however often it is asked for with one key."""
    hub, access = hub_of(request), access_of(request)
    key = idempotency.key_of(request, "command batch", data)

    async def work(session: AsyncSession) -> CommandBatch:
        now = hub.clock.now()
        before = await idempotency.claim(session, key, now)
        if before is None or (row := await session.get(Row, before)) is None:
            row = await _ask(session, data, access, now)
            await idempotency.settle(session, key, row.id)
            await note(session, RESOURCE, "create", row, after=data)
        shown: CommandBatch = (await show(session, RESOURCE, [row]))[0]
        return shown

    return await in_transaction(request, work)


async def _ask(session: AsyncSession, body: CommandBatchBody, access: Access, now: dt.datetime) -> Row:
    ttl = calling.judge(body)
    if not 1 <= body.per_second <= MOST_PER_SECOND:
        raise wrong("per_second", f"{body.per_second} does not lie within 1..{MOST_PER_SECOND}")
    organization, meters = await _meters(session, body, access)
    there = in_turn([meter for meter in meters if meter.gateway is not None])
    refused = [meter for meter in meters if meter.gateway is None]
    waits = [number / body.per_second for number in range(len(there))]
    row = Row(
        id=uuid.uuid4(),
        organization=organization,
        task_group=body.task_group,
        gateway=body.gateway,
        context=body.meter_execution_type,
        call=body.task_call,
        kwargs=body.task_kwargs or {},
        delay_seconds=body.run_offset_seconds,
        ttl_seconds=ttl,
        priority=body.priority,
        per_second=body.per_second,
        meters=len(meters),
        commands=len(there),
        refused=len(refused),
        sent_until=now + dt.timedelta(seconds=waits[-1] if waits else 0.0),
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    await session.flush()
    commands = []
    for meter, wait in zip(there, waits, strict=True):
        # Its life begins when it is its turn.
        command = calling.command(body, meter, min(ttl + math.ceil(wait), MAX_COMMAND_SECONDS), now)
        commands.append({**command, "batch": row.id, "send_after": now + dt.timedelta(seconds=wait)})
    await calling.write(session, commands, now)
    refusals_of = [
        {
            "batch": row.id,
            "meter_device": meter.meter_device,
            "meter": meter.meter,
            "reason": meter.reason,
            "cause": meter.cause,
        }
        for meter in refused
    ]
    if refusals_of:
        await session.execute(sa.insert(CommandRefusal), refusals_of)
    return row


def in_turn(meters: Sequence[calling.Called]) -> list[calling.Called]:
    """Return the meters so that those of one gateway are far apart: first one of each, then another one of each."""
    seen: Counter[uuid.UUID | None] = Counter()
    turns = []
    for meter in meters:
        turns.append((seen[meter.gateway], meter))
        seen[meter.gateway] += 1
    return [meter for _, meter in sorted(turns, key=lambda turn: turn[0])]


async def _meters(
    session: AsyncSession, body: CommandBatchBody, access: Access
) -> tuple[uuid.UUID, list[calling.Called]]:
    """Return whose batch it is, and the meters that are meant.

    Raises:
        Wrong: when it is not said whom it is for, or some of the meters are not there for who asks.
        NotFound: when there is no such task group or gateway for who asks.
        Conflict: when these are no meters, or too many.
    """
    named = [name for name in _TARGETS if getattr(body, name) is not None]
    if len(named) != 1:
        raise wrong(_TARGETS[0], f"give exactly one of {', '.join(_TARGETS)}")
    if body.meter_devices is not None:
        return await _listed(session, body.meter_devices, access)
    if body.task_group is not None:
        group = await session.get(AmrTaskGroup, body.task_group)
        if group is None or not access.covers(group.organization):
            raise NotFound(f"there is no task group {body.task_group}")
        organization = group.organization
        of_group = sa.select(device_groups.c.device).where(device_groups.c.group == group.id)
        only: sa.ColumnElement[bool] = MeterDevice.id.in_(of_group)
    else:
        gateway = await session.get(Gateway, body.gateway)
        if gateway is None or not access.covers(gateway.organization):
            raise NotFound(f"there is no gateway {body.gateway}")
        organization, only = gateway.organization, NetworkInterface.gateway == gateway.id
    meters = await calling.called(session, only, limit=MOST_METERS + 1)
    if not meters:
        raise Conflict(f"this {named[0].replace('_', ' ')} has no meters")
    if len(meters) > MOST_METERS:
        raise Conflict(f"these are more than {MOST_METERS} meters: ask for fewer at once")
    return organization, meters


async def _listed(
    session: AsyncSession, wanted: list[uuid.UUID], access: Access
) -> tuple[uuid.UUID, list[calling.Called]]:
    if not 1 <= len(wanted) <= MOST_METERS:
        raise wrong("meter_devices", f"has {len(wanted)} items; give 1 to {MOST_METERS}")
    if len(set(wanted)) != len(wanted):
        raise wrong("meter_devices", "the same id stands in it more than once")
    found = {meter.meter_device: meter for meter in await calling.called(session, MeterDevice.id.in_(wanted))}
    owners = {meter.owner for meter in found.values() if meter.owner is not None and access.covers(meter.owner)}
    if len(owners) > 1:
        raise wrong("meter_devices", "these are meters of several organizations; ask for each one by itself")
    strange = [
        WrongField(f"meter_devices.{number}", f"there is nothing with the id {key}")
        for number, key in enumerate(wanted)
        if key not in found or found[key].owner not in owners
    ]
    if strange:
        raise Wrong(*strange)
    return owners.pop(), [found[key] for key in wanted]


@post("/{row_id:uuid}/cancel", status_code=HTTP_200_OK, summary="Cancel a command batch", operation_class=Edited)
async def cancel(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Response[CommandBatch]:
    """Ask for the end of all commands of a batch that have not ended.

    Raises:
        Conflict: when all have ended already.
    """
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Response[CommandBatch]:
        row = await hold(session, RESOURCE, row_id, request)
        now = hub.clock.now()
        going = sa.and_(Command.batch == row.id, Command.state.in_(OPEN_STATES))
        # In one order, as all others take them, so that nobody waits in a ring.
        held = await session.scalars(sa.select(Command.id).where(going).order_by(Command.id).with_for_update())
        if not held.all():
            raise Conflict("all commands of the batch have ended already")
        await session.execute(
            sa.update(Command)
            .where(going, Command.cancel_requested.is_(False))
            .values(cancel_requested=True, updated_at=now)
            .execution_options(synchronize_session=False)
        )
        row.cancel_requested, row.updated_at = True, now
        await session.flush()
        await note(session, RESOURCE, "cancel", row, after={"cancel_requested": True})
        await tell(session, Notice.COMMANDS)
        return await answer(session, RESOURCE, row)

    return await in_transaction(request, work)


@get("/{row_id:uuid}/refusals", summary="List: refusals of a command batch", description="Filters: reason.")
async def refusals(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Page[CommandRefused]:
    """Answer the meters of a batch that nobody can call, by their names."""
    async with reading(hub_of(request).engine) as session:
        await find(session, RESOURCE, row_id, access_of(request))
        order = [CommandRefusal.meter, CommandRefusal.meter_device]
        filters = {"reason": equals(CommandRefusal.reason)}
        only = [CommandRefusal.batch == row_id]
        page, rows = await select_page(session, request, CommandRefusal, filters, order, only=only)
    page.results.extend(
        CommandRefused(meter_device=row.meter_device, meter=row.meter, reason=row.reason, cause=row.cause)
        for row in rows
    )
    return page


@get(
    "/{row_id:uuid}/events",
    media_type=EVENT_STREAM,
    operation_class=Followed,
    summary="Follow a command batch",
    description="Server-sent events: the batch as it stands, when that changes; ends with the last command.",
)
async def follow(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Response[Any]:
    """Tell how far a batch has come, at most once a second."""
    hub, access = hub_of(request), access_of(request)
    query_of(request, [])
    last = last_event_of(request)
    async with reading(hub.engine) as session:
        row = await find(session, RESOURCE, row_id, access)
        await check_known(session, last)
        shown = (await show(session, RESOURCE, [row]))[0]
        of_batch = CommandEvent.batch == row_id
        if last is not None and shown.final and not await events_between(session, last, None, of_batch, limit=1):
            return nothing_more()
    progress = functools.partial(_progress, hub, row_id)
    return respond(stream(hub, take_place(hub, access), lambda event: event.batch == row_id, progress))


async def _progress(hub: Hub, batch: uuid.UUID, feed: Feed, end: float) -> AsyncIterator[bytes]:
    while True:
        async with reading(hub.engine) as session:
            row = await session.get(Row, batch)
            shown = (await show(session, RESOURCE, [row]))[0]
        yield frame(feed.since, "progress", shown)
        if shown.final:
            return
        changed = False
        while not changed:
            if (left := time_left(hub, feed, end)) <= 0:
                return
            changed = bool(await feed.next(min(HEARTBEAT_SECONDS, left))) or feed.lost
            if not changed and not feed.over:
                yield WAITING
        # What comes in quick succession is one event.
        await asyncio.sleep(PROGRESS_SECONDS)
        feed.begin_anew()


router = router_of(RESOURCE, ask, cancel, refusals, follow)
