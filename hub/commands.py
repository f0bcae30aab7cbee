"""Commands: a call made now, without an AMR task.

``POST /v1/metering/amr-tasks/invoke`` writes one, and that is all that REST does: a relay sends it, and gateways say
what becomes of it. ``GET /v1/commands/{id}?wait=SECONDS`` waits for its end; ``hub.command_streams`` tells each state.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import calling, idempotency
from hub.access import Access, access_of
from hub.command_watch import watch_of
from hub.database import reading
from hub.dispatch import OWN, PENDING
from hub.etags import Edited, Looked
from hub.models import Command as Row
from hub.models import CommandUpdate, MeterDevice
from hub.notices import Notice, tell
from hub.paging import equals, is_uuid, parse_number, query_of, since, until
from hub.problems import Conflict, NotFound
from hub.resource_routes import router_of
from hub.resources import Resource, Values, answer, find, hold, in_transaction, look, note
from hub.state import Hub, HubRequest, hub_of
from protocol.commands import FINAL_STATES

_MARGIN = 0.05
"""Seconds that a look takes: who waits is answered in time, with the state of the end."""


class InvokeBody(calling.CallBody, kw_only=True):
    """A direct invocation."""

    meter_device: uuid.UUID


class Invocation(msgspec.Struct, kw_only=True):
    """What was asked, and where to follow it: ``command`` is its id."""

    meter_device: uuid.UUID
    meter_execution_type: str
    task_call: str
    task_kwargs: dict[str, Any]
    run_offset_seconds: int
    ttl_seconds: int
    command: uuid.UUID
    command_url: str
    state: str
    created_at: dt.datetime
    expires_at: dt.datetime
    priority: int


class Step(msgspec.Struct, kw_only=True):
    """One state that the gateway reported."""

    state: str
    at: dt.datetime
    cause: str


class Command(msgspec.Struct, kw_only=True):
    """A command and where it stands.

    ``state`` is ``pending``, ``sent``, ``accepted`` or ``running``, or one of the ends ``done``, ``failed``,
    ``refused``, ``expired``, ``cancelled`` and ``interrupted``, of which ``cause`` is the first cause. One
    of a batch is not sent before ``send_after``.
    """

    id: uuid.UUID
    organization: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID | None
    meter: str
    meter_execution_type: str
    task_call: str
    task_kwargs: dict[str, Any]
    run_offset_seconds: int
    ttl_seconds: int
    state: str
    final: bool
    cause: str
    origin: str
    cancel_requested: bool
    readings: list[Any]
    result: dict[str, Any]
    updates: list[Step]
    created_at: dt.datetime
    updated_at: dt.datetime
    published_at: dt.datetime | None
    expires_at: dt.datetime
    ended_at: dt.datetime | None
    priority: int
    batch: uuid.UUID | None
    send_after: dt.datetime | None


async def _more(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    statement = (
        select(CommandUpdate)
        .where(CommandUpdate.command.in_([row.id for row in rows]))
        .order_by(CommandUpdate.session, CommandUpdate.sequence)
    )
    steps: dict[uuid.UUID, list[Step]] = {}
    for update in (await session.execute(statement)).scalars():
        steps.setdefault(update.command, []).append(Step(state=update.state, at=update.at, cause=update.cause))
    return [
        {
            "meter_execution_type": row.context,
            "task_call": row.call,
            "task_kwargs": row.kwargs,
            "run_offset_seconds": row.delay_seconds,
            "final": row.state in FINAL_STATES,
            "updates": steps.get(row.id, []),
        }
        for row in rows
    ]


RESOURCE = Resource(
    noun="command",
    path="/v1/commands",
    model=Row,
    out=Command,
    operations=frozenset({"list"}),
    # Gateways write the rest.
    edited=frozenset({"cancel_requested"}),
    filters={
        "gateway": is_uuid(Row.gateway),
        "meter_device": is_uuid(Row.meter_device),
        "state": equals(Row.state),
        "origin": equals(Row.origin),
        "batch": is_uuid(Row.batch),
        "task_call": equals(Row.call),
        "start_time": since(Row.created_at),
        "end_time": until(Row.created_at),
    },
    more=_more,
    orderings={"created_at": Row.created_at, "ended_at": Row.ended_at},
)


async def order(session: AsyncSession, body: InvokeBody, access: Access, now: dt.datetime) -> Row:
    """Write the command.

    Raises:
        Wrong: when the call cannot be made as asked.
        NotFound: when there is no such meter for who asks.
        Conflict: when no gateway polls the meter.
    """
    ttl = calling.judge(body)
    found = await calling.called(session, MeterDevice.id == body.meter_device)
    if not found or not access.covers(found[0].owner):
        raise NotFound(f"there is no meter device {body.meter_device}")
    if found[0].gateway is None:
        raise Conflict(found[0].cause)
    values = calling.command(body, found[0], ttl, now)
    await calling.write(session, [values], now)
    # Not read again: somebody waits for it.
    return Row(**values)


async def standing(hub: Hub, command: uuid.UUID, access: Access) -> str:
    """Return the state of a command.

    Raises:
        NotFound: when there is none for who asks.
    """
    async with reading(hub.engine) as session:
        row: Row = await find(session, RESOURCE, command, access)
        return row.state


async def wait_for_end(hub: Hub, command: uuid.UUID, access: Access, seconds: float) -> None:
    """Wait until the command has ended, so many real seconds at most."""
    until_then = hub.clock.monotonic() + seconds - _MARGIN
    if (await standing(hub, command, access)) in FINAL_STATES or hub.stopping.is_set():
        return
    async with watch_of(hub).follow(hub, lambda event: event.command == command and event.final) as feed:
        # It may have ended before the watch began.
        ended = (await standing(hub, command, access)) in FINAL_STATES
        while not ended and not feed.over and (left := until_then - hub.clock.monotonic()) > 0:
            ended = bool(await feed.next(left)) or feed.lost


@post("/invoke", summary="Invoke a call now, without an AMR task", operation_class=idempotency.Repeatable)
async def invoke(request: HubRequest, data: JSONBody[InvokeBody]) -> Invocation:
    """Write a command for the gateway that polls the meter; once, however often it is asked for with one key."""
    hub, access = hub_of(request), access_of(request)
    key = idempotency.key_of(request, "invoke", data)

    async def work(session: AsyncSession) -> Row:
        now = hub.clock.now()
        before = await idempotency.claim(session, key, now)
        if before is not None and (made := await session.get(Row, before)) is not None:
            return made
        row = await order(session, data, access, now)
        await idempotency.settle(session, key, row.id)
        await note(session, RESOURCE, "invoke", row, after=data)
        return row

    row = await in_transaction(request, work)
    return Invocation(
        meter_device=data.meter_device,
        meter_execution_type=row.context,
        task_call=row.call,
        task_kwargs=row.kwargs,
        run_offset_seconds=row.delay_seconds,
        ttl_seconds=row.ttl_seconds,
        command=row.id,
        command_url=f"{RESOURCE.path}/{row.id}",
        # As it was written: the same request has the same answer, whatever has become of the command.
        state=PENDING,
        created_at=row.created_at,
        expires_at=row.expires_at,
        priority=row.priority,
    )


@get(
    "/{row_id:uuid}",
    operation_class=Looked,
    summary="Read: command",
    description="wait=SECONDS waits until the command has ended.",
)
async def read_command(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Response[Command]:
    """Return a command, at once or when it has ended."""
    hub, access = hub_of(request), access_of(request)
    longest = hub.settings.command_wait_seconds
    query = query_of(request, ["wait"])
    seconds = parse_number("wait", query.get("wait", "0"), 0, longest)
    if seconds:
        await wait_for_end(hub, row_id, access, seconds)
    async with reading(hub.engine) as session:
        return await look(session, RESOURCE, await find(session, RESOURCE, row_id, access), request)


@post("/{row_id:uuid}/cancel", status_code=HTTP_200_OK, summary="Cancel a command", operation_class=Edited)
async def cancel(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Response[Command]:
    """Ask for a command's end; it has ended when its state says so.

    Raises:
        Conflict: when it has ended already, or was invoked over MQTT by somebody else.
    """
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Response[Command]:
        row = await hold(session, RESOURCE, row_id, request)
        if row.state in FINAL_STATES:
            raise Conflict(f"the command has ended already: {row.state}")
        if row.origin not in OWN:
            raise Conflict(f"the command was invoked over MQTT by {row.origin}, who alone can cancel it")
        row.cancel_requested, row.updated_at = True, hub.clock.now()
        await session.flush()
        await note(session, RESOURCE, "cancel", row, after={"cancel_requested": True})
        await tell(session, Notice.COMMANDS)
        return await answer(session, RESOURCE, row)

    return await in_transaction(request, work)


router = router_of(RESOURCE, read_command, cancel)
