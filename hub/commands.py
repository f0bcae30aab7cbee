"""Commands: a call made now, without an AMR task.

``POST /v1/metering/amr-tasks/invoke`` writes one, and that is all that REST does: a relay sends it, and gateways say
what becomes of it. ``GET /v1/commands/{id}?wait=SECONDS`` waits for its end.
"""

import asyncio
import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.access import Access, access_of
from hub.amr_tasks import judge_call
from hub.bodies import Body
from hub.database import reading
from hub.dispatch import HUB, OWN, PENDING
from hub.models import Command as Row
from hub.models import CommandUpdate, Gateway, MeterDevice, NetworkInterface
from hub.paging import equals, is_uuid, parse_number, query_of, since, until
from hub.problems import Conflict, NotFound, Wrong, WrongField
from hub.resources import Resource, Values, find, in_transaction, note, router_of, show
from hub.state import Hub, HubRequest, hub_of
from protocol.commands import FINAL_STATES, MAX_COMMAND_SECONDS

DEFAULT_TTL_SECONDS = 300
LARGEST_DELAY_SECONDS = MAX_COMMAND_SECONDS - DEFAULT_TTL_SECONDS
"""The longest ``run_offset_seconds``: what is left of a command's longest life must suffice to begin."""

_POLL_SECONDS = 0.05


class InvokeBody(Body, kw_only=True):
    """A direct invocation. ``ttl_seconds`` (additive) is the command's whole life, the delay included."""

    meter_device: uuid.UUID
    meter_execution_type: str
    task_call: str
    task_kwargs: dict[str, Any] | None = None
    run_offset_seconds: int = 0
    ttl_seconds: int | None = None


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


class Step(msgspec.Struct, kw_only=True):
    """One state that the gateway reported."""

    state: str
    at: dt.datetime
    cause: str


class Command(msgspec.Struct, kw_only=True):
    """A command and where it stands.

    ``state`` is ``pending``, ``sent``, ``accepted`` or ``running``, or one of the ends ``done``, ``failed``,
    ``refused``, ``expired``, ``cancelled`` and ``interrupted``, of which ``cause`` is the first cause.
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
    filters={
        "gateway": is_uuid(Row.gateway),
        "meter_device": is_uuid(Row.meter_device),
        "state": equals(Row.state),
        "origin": equals(Row.origin),
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
    kwargs = body.task_kwargs or {}
    ttl = _judge_times(body)
    judge_call(body.meter_execution_type, body.task_call, kwargs)
    device = await session.get(MeterDevice, body.meter_device)
    if device is None or not access.covers(device.organization):
        raise NotFound(f"there is no meter device {body.meter_device}")
    if device.network_interface is None:
        raise Conflict(f"the meter {device.name} has no network interface, so nobody can read it")
    line = await session.get(NetworkInterface, device.network_interface)
    if line is not None and line.is_blocked:
        raise Conflict(f"the network interface of the meter {device.name} is blocked, so nobody can read it")
    statement = (select(Gateway).join(NetworkInterface, NetworkInterface.gateway == Gateway.id)).where(
        NetworkInterface.id == device.network_interface
    )
    gateway = (await session.execute(statement)).scalar_one_or_none()
    if gateway is None:
        raise Conflict(f"the network interface of the meter {device.name} has no gateway, so nobody can read it")
    row = Row(
        organization=gateway.organization,
        gateway=gateway.id,
        meter_device=device.id,
        meter=device.name,
        context=body.meter_execution_type,
        call=body.task_call,
        kwargs=kwargs,
        delay_seconds=body.run_offset_seconds,
        ttl_seconds=ttl,
        state=PENDING,
        origin=HUB,
        expires_at=now + dt.timedelta(seconds=ttl),
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    await session.flush()
    return row


def _judge_times(body: InvokeBody) -> int:
    delay = body.run_offset_seconds
    if not 0 <= delay <= LARGEST_DELAY_SECONDS:
        raise Wrong(WrongField("run_offset_seconds", f"{delay} does not lie within 0..{LARGEST_DELAY_SECONDS}"))
    ttl = body.ttl_seconds if body.ttl_seconds is not None else delay + DEFAULT_TTL_SECONDS
    if not max(1, delay + 1) <= ttl <= MAX_COMMAND_SECONDS:
        raise Wrong(
            WrongField(
                "ttl_seconds", f"{ttl} must be greater than run_offset_seconds and at most {MAX_COMMAND_SECONDS}"
            )
        )
    return ttl


async def look(hub: Hub, command: uuid.UUID, access: Access) -> Command:
    """Return a command as it stands."""
    async with reading(hub.engine) as session:
        found: Command = (await show(session, RESOURCE, [await find(session, RESOURCE, command, access)]))[0]
        return found


async def wait_for_end(hub: Hub, command: uuid.UUID, access: Access, seconds: float) -> Command:
    """Return the command when it has ended, or as it stands after so many real seconds."""
    until_then = hub.clock.monotonic() + seconds
    pause = _POLL_SECONDS
    while True:
        found = await look(hub, command, access)
        if found.final or hub.clock.monotonic() >= until_then or hub.stopping.is_set():
            return found
        await asyncio.sleep(min(pause, max(0.0, until_then - hub.clock.monotonic())))
        pause = min(0.5, pause * 1.1)


@post("/invoke", summary="Invoke a call now, without an AMR task")
async def invoke(request: HubRequest, data: JSONBody[InvokeBody]) -> Invocation:
    """Write a command for the gateway that polls the meter."""
    hub, access = hub_of(request), access_of(request)

    async def work(session: AsyncSession) -> Row:
        row = await order(session, data, access, hub.clock.now())
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
        state=row.state,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


@get("/{row_id:uuid}", summary="Read: command", description="wait=SECONDS waits until the command has ended.")
async def read_command(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Command:
    """Return a command, at once or when it has ended."""
    hub = hub_of(request)
    longest = hub.settings.command_wait_seconds
    query = query_of(request, ["wait"])
    seconds = parse_number("wait", query.get("wait", "0"), 0, longest)
    return await wait_for_end(hub, row_id, access_of(request), seconds)


@post("/{row_id:uuid}/cancel", status_code=HTTP_200_OK, summary="Cancel a command")
async def cancel(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Command:
    """Ask for a command's end; it has ended when its state says so.

    Raises:
        Conflict: when it has ended already, or was invoked over MQTT by somebody else.
    """
    hub, access = hub_of(request), access_of(request)

    async def work(session: AsyncSession) -> None:
        row = await find(session, RESOURCE, row_id, access, lock=True)
        if row.state in FINAL_STATES:
            raise Conflict(f"the command has ended already: {row.state}")
        if row.origin not in OWN:
            raise Conflict(f"the command was invoked over MQTT by {row.origin}, who alone can cancel it")
        row.cancel_requested, row.updated_at = True, hub.clock.now()
        await session.flush()
        await note(session, RESOURCE, "cancel", row, after={"cancel_requested": True})

    await in_transaction(request, work)
    return await look(hub, row_id, access)


router = router_of(RESOURCE, read_command, cancel)
