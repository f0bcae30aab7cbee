"""What may be called on which meter: what invoking one meter and many of them have in common.

A call is judged by the catalogue that gateways run by, and by its times. Whether somebody can make it is the meter's
matter: it needs a network interface that is not blocked and has a gateway.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import command_events
from hub.amr_tasks import judge_call
from hub.bodies import Body
from hub.dispatch import HUB, PENDING
from hub.models import Command, Gateway, MeterDevice, NetworkInterface
from hub.notices import Notice
from hub.problems import Wrong, WrongField
from protocol.commands import MAX_COMMAND_SECONDS, MOST_PRIORITY

DEFAULT_TTL_SECONDS = 300
LARGEST_DELAY_SECONDS = MAX_COMMAND_SECONDS - DEFAULT_TTL_SECONDS
"""The longest ``run_offset_seconds``: what is left of a command's longest life must suffice to begin."""

NO_INTERFACE, BLOCKED, NO_GATEWAY = "no_interface", "blocked", "no_gateway"
"""Why nobody can call a meter."""


class CallBody(Body, kw_only=True):
    """A call. Additive: ``ttl_seconds``, a command's whole life with the delay, and ``priority`` on its line."""

    meter_execution_type: str
    task_call: str
    task_kwargs: dict[str, Any] | None = None
    run_offset_seconds: int = 0
    ttl_seconds: int | None = None
    priority: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Called:
    """A meter that is to be called, and the ``owner`` of it.

    ``gateway`` polls it, for its ``organization``; None where nobody does, and then ``cause`` says why.
    """

    meter_device: uuid.UUID
    meter: str
    owner: uuid.UUID | None
    gateway: uuid.UUID | None
    organization: uuid.UUID | None
    reason: str = ""
    cause: str = ""


def judge(body: CallBody) -> int:
    """Accept a call that some gateway can make; return its life in seconds.

    Raises:
        Wrong: naming the field.
    """
    delay = body.run_offset_seconds
    if not 0 <= delay <= LARGEST_DELAY_SECONDS:
        raise Wrong(WrongField("run_offset_seconds", f"{delay} does not lie within 0..{LARGEST_DELAY_SECONDS}"))
    ttl = body.ttl_seconds if body.ttl_seconds is not None else delay + DEFAULT_TTL_SECONDS
    if not max(1, delay + 1) <= ttl <= MAX_COMMAND_SECONDS:
        text = f"{ttl} must be greater than run_offset_seconds and at most {MAX_COMMAND_SECONDS}"
        raise Wrong(WrongField("ttl_seconds", text))
    if not 0 <= body.priority <= MOST_PRIORITY:
        raise Wrong(WrongField("priority", f"{body.priority} does not lie within 0..{MOST_PRIORITY}"))
    judge_call(body.meter_execution_type, body.task_call, body.task_kwargs or {})
    return ttl


async def called(session: AsyncSession, *only: sa.ColumnElement[bool], limit: int | None = None) -> list[Called]:
    """Return the meters of a condition, in the order of their ids, and who can call them."""
    rows = await session.execute(
        sa.select(
            MeterDevice.id,
            MeterDevice.name,
            MeterDevice.organization,
            MeterDevice.network_interface,
            NetworkInterface.is_blocked,
            Gateway.id,
            Gateway.organization,
        )
        .outerjoin(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
        .outerjoin(Gateway, Gateway.id == NetworkInterface.gateway)
        .where(*only)
        .order_by(MeterDevice.id)
        .limit(limit)
    )
    return [_called(row) for row in rows]


def _called(row: Any) -> Called:  # noqa: ANN401 - a row of the query above, whose outer joins may have found nothing
    key, name, owner, line, blocked, gateway, organization = row
    if line is None:
        reason, lack = NO_INTERFACE, f"the meter {name} has no network interface"
    elif blocked:
        reason, lack = BLOCKED, f"the network interface of the meter {name} is blocked"
    elif gateway is None:
        reason, lack = NO_GATEWAY, f"the network interface of the meter {name} has no gateway"
    else:
        return Called(key, name, owner, gateway, organization)
    return Called(key, name, owner, None, None, reason, f"{lack}, so nobody can read it")


def command(body: CallBody, meter: Called, ttl: int, now: dt.datetime) -> dict[str, Any]:
    """Return the row of a command that is still to be written; the meter's gateway is known."""
    return {
        "id": uuid.uuid4(),
        "organization": meter.organization,
        "gateway": meter.gateway,
        "meter_device": meter.meter_device,
        "meter": meter.meter,
        "context": body.meter_execution_type,
        "call": body.task_call,
        "kwargs": body.task_kwargs or {},
        "delay_seconds": body.run_offset_seconds,
        "ttl_seconds": ttl,
        "state": PENDING,
        "origin": HUB,
        "priority": body.priority,
        "batch": None,
        "send_after": None,
        "expires_at": now + dt.timedelta(seconds=ttl),
        "created_at": now,
        "updated_at": now,
    }


async def write(session: AsyncSession, rows: Sequence[dict[str, Any]], now: dt.datetime) -> None:
    """Write commands, of which there may be thousands, and tell of them."""
    if not rows:
        return
    # Through the connection: plain statements, no objects.
    connection = await session.connection()
    await connection.execute(sa.insert(Command), rows)
    await command_events.record(session, [command_events.begun(row, PENDING, now) for row in rows], Notice.COMMANDS)
