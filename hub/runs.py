"""Runs (additive, ``/v1/runs``): what the gateways executed, for which tick, and how it ended. Read only.

The newest come first. ``tick`` is the due time without the offset, null for a run on demand; ``cause`` says why an
outcome is not ``done``. Ticks that were missed one after the other are one row: ``count`` of them, from ``since`` to
``tick``.
"""

import datetime as dt
import uuid
from collections.abc import Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Gateway
from hub.models import RunReport as Row
from hub.paging import equals, is_uuid, since, until
from hub.resources import LOOK, Resource, Values, router_of


class Run(msgspec.Struct, kw_only=True):
    """One execution of one task or command on one meter."""

    id: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID
    task: uuid.UUID | None
    command: uuid.UUID | None
    tick: dt.datetime | None
    outcome: str
    cause: str
    started: dt.datetime | None
    ended: dt.datetime
    readings: int
    line_bytes: int
    since: dt.datetime | None
    count: int
    received_at: dt.datetime


async def _meter(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [{"meter_device": row.device} for row in rows]


RESOURCE = Resource(
    noun="run",
    path="/v1/runs",
    model=Row,
    out=Run,
    operations=LOOK,
    filters={
        "gateway": is_uuid(Row.gateway),
        "meter_device": is_uuid(Row.device),
        "task": is_uuid(Row.task),
        "command": is_uuid(Row.command),
        "outcome": equals(Row.outcome),
        "start_time": since(Row.ended),
        "end_time": until(Row.ended),
    },
    more=_meter,
    owned=lambda organization: Row.gateway.in_(select(Gateway.id).where(Gateway.organization == organization)),
    order=(Row.ended.desc(),),
    orderings={"ended": Row.ended, "started": Row.started, "tick": Row.tick},
)

router = router_of(RESOURCE)
