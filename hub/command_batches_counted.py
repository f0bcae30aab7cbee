"""Where command batches stand: how many of their commands are in which state, and why those ended that are not done.

Nothing of it is stored: it is counted when asked for, for all batches of a page at once. What kind of failure it was is
what the gateway's report of the run says.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.dispatch import OPEN_STATES
from hub.models import Command, CommandRefusal, RunReport
from hub.models import CommandBatch as Row
from hub.paging import equals, is_uuid, since, until
from hub.resources import LOOK, Resource, Values
from protocol.commands import DONE, FAILED, REFUSED


class Cause(msgspec.Struct, kw_only=True):
    """Why so many did not end as ``done``: ``kind`` is a failed run's, a refusal's reason, else the state again.

    ``cause`` is that of one of them.
    """

    state: str
    kind: str
    count: int
    cause: str


class CommandBatch(msgspec.Struct, kw_only=True):
    """A batch and where it stands. ``meters`` are ``commands`` and ``refused``; ``states`` count the commands."""

    id: uuid.UUID
    organization: uuid.UUID
    task_group: uuid.UUID | None
    gateway: uuid.UUID | None
    meter_execution_type: str
    task_call: str
    task_kwargs: dict[str, Any]
    run_offset_seconds: int
    ttl_seconds: int
    priority: int
    per_second: int
    meters: int
    commands: int
    refused: int
    states: dict[str, int]
    ended: int
    final: bool
    causes: list[Cause]
    cancel_requested: bool
    sent_until: dt.datetime
    commands_url: str
    refusals_url: str
    created_at: dt.datetime
    updated_at: dt.datetime


async def _standing(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    keys = [row.id for row in rows]
    states: dict[uuid.UUID | None, dict[str, int]] = {}
    counted = await session.execute(
        sa.select(Command.batch, Command.state, sa.func.count())
        .where(Command.batch.in_(keys))
        .group_by(Command.batch, Command.state)
        .order_by(Command.state)
    )
    for batch, state, count in counted:
        states.setdefault(batch, {})[state] = count
    causes = await _causes(session, keys)
    standing = []
    for row in rows:
        found = states.get(row.id, {})
        still_open = sum(found.get(state, 0) for state in OPEN_STATES)
        standing.append(
            {
                "meter_execution_type": row.context,
                "task_call": row.call,
                "task_kwargs": row.kwargs,
                "run_offset_seconds": row.delay_seconds,
                "states": found,
                "ended": sum(found.values()) - still_open,
                "final": still_open == 0,
                "causes": sorted(causes.get(row.id, []), key=lambda cause: (-cause.count, cause.state, cause.kind)),
                "commands_url": f"/v1/commands?batch={row.id}",
                "refusals_url": f"{RESOURCE.path}/{row.id}/refusals",
            }
        )
    return standing


async def _causes(session: AsyncSession, keys: Sequence[uuid.UUID]) -> dict[uuid.UUID | None, list[Cause]]:
    """Return why commands of batches ended other than done, by state and kind."""
    told = sa.select(sa.func.max(RunReport.kind)).where(RunReport.command == Command.id).scalar_subquery()
    kind = sa.case((Command.state == FAILED, sa.func.coalesce(sa.func.nullif(told, ""), FAILED)), else_=Command.state)
    ended = (
        sa.select(Command.batch, Command.state, kind.label("kind"), Command.cause)
        .where(Command.batch.in_(keys), Command.state.not_in((*OPEN_STATES, DONE)))
        .subquery()
    )
    by = (ended.c.batch, ended.c.state, ended.c.kind)
    rows = [*await session.execute(sa.select(*by, sa.func.count(), sa.func.min(ended.c.cause)).group_by(*by))]
    refused = (CommandRefusal.batch, CommandRefusal.reason)
    counted = await session.execute(
        sa.select(*refused, sa.func.count(), sa.func.min(CommandRefusal.cause))
        .where(CommandRefusal.batch.in_(keys))
        .group_by(*refused)
    )
    causes: dict[uuid.UUID | None, list[Cause]] = {}
    for batch, state, kind_of, count, cause in [
        *rows,
        *((batch, REFUSED, reason, count, cause) for batch, reason, count, cause in counted),
    ]:
        causes.setdefault(batch, []).append(Cause(state=state, kind=kind_of, count=count, cause=cause))
    return causes


RESOURCE = Resource(
    noun="command batch",
    path="/v1/command-batches",
    model=Row,
    out=CommandBatch,
    operations=LOOK,
    filters={
        "organization": is_uuid(Row.organization),
        "task_group": is_uuid(Row.task_group),
        "gateway": is_uuid(Row.gateway),
        "task_call": equals(Row.call),
        "start_time": since(Row.created_at),
        "end_time": until(Row.created_at),
    },
    edited=frozenset({"cancel_requested"}),
    more=_standing,
    order=(Row.created_at.desc(),),
    orderings={"created_at": Row.created_at},
)
