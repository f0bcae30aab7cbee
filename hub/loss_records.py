"""Loss records (additive, ``/v1/loss-records``): what gateways had to give up before it was delivered. Read only."""

import datetime as dt
import uuid
from collections.abc import Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Gateway
from hub.models import LossRecord as Row
from hub.paging import is_uuid, since, until
from hub.resource_routes import router_of
from hub.resources import LOOK, Resource, Values


class Loss(msgspec.Struct, kw_only=True):
    """``count`` readings of one series, from ``start`` to ``end``, that nobody has any more."""

    id: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID | None
    meter: str
    series: str
    start: dt.datetime
    end: dt.datetime
    count: int
    reason: str
    received_at: dt.datetime


async def _meter(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [{"meter_device": row.device} for row in rows]


RESOURCE = Resource(
    noun="loss record",
    path="/v1/loss-records",
    model=Row,
    out=Loss,
    operations=LOOK,
    filters={
        "gateway": is_uuid(Row.gateway),
        "meter_device": is_uuid(Row.device),
        "start_time": since(Row.end),
        "end_time": until(Row.start),
    },
    more=_meter,
    owned=lambda organization: Row.gateway.in_(select(Gateway.id).where(Gateway.organization == organization)),
    order=(Row.start.desc(),),
)

router = router_of(RESOURCE)
