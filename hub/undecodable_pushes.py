"""Undecodable pushes (additive, ``/v1/undecodable-pushes``): what came through receivers and is no reading.

A gateway reports some of them in an hour with their first bytes, and counts the rest; the hub keeps the newest of each
receiver. People look, mend the meter, the line or the receiver, and delete.
"""

import datetime as dt
import uuid
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Gateway
from hub.models import UndecodablePush as Row
from hub.paging import equals, is_uuid, since, until
from hub.resource_routes import router_of
from hub.resources import LOOK, Resource, Values

MOST_KEPT = 1000
"""Of one receiver; older ones are forgotten."""


class UndecodablePush(msgspec.Struct, kw_only=True):
    """A payload. ``payload`` is in hex, ``text`` the same for people; ``count`` are all since the report before."""

    id: uuid.UUID
    gateway: uuid.UUID
    receiver: uuid.UUID
    name: str
    came: dt.datetime
    cause: str
    payload: str
    text: str
    size: int
    source: str
    meter: str
    count: int
    received_at: dt.datetime


async def _payload(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [{"payload": row.payload.hex(), "text": row.payload.decode("ascii", "backslashreplace")} for row in rows]


async def _owner(session: AsyncSession, row: Row) -> uuid.UUID | None:
    return await session.scalar(sa.select(Gateway.organization).where(Gateway.id == row.gateway))


RESOURCE = Resource(
    noun="undecodable push",
    path="/v1/undecodable-pushes",
    model=Row,
    out=UndecodablePush,
    operations=LOOK | {"delete"},
    filters={
        "gateway": is_uuid(Row.gateway),
        "receiver": is_uuid(Row.receiver),
        "meter": equals(Row.meter),
        "start_time": since(Row.came),
        "end_time": until(Row.came),
    },
    more=_payload,
    owned=lambda organization: Row.gateway.in_(sa.select(Gateway.id).where(Gateway.organization == organization)),
    owner=_owner,
    order=(Row.came.desc(),),
)

router = router_of(RESOURCE)


async def forget_oldest(session: AsyncSession) -> int:
    """Delete what is beyond ``MOST_KEPT`` of each receiver; return how many."""
    place = sa.func.row_number().over(partition_by=(Row.gateway, Row.receiver), order_by=(Row.came.desc(), Row.id))
    ranked = sa.select(Row.id, place.label("place")).subquery()
    old = sa.select(ranked.c.id).where(ranked.c.place > MOST_KEPT)
    done = await session.execute(sa.delete(Row).where(Row.id.in_(old)).execution_options(synchronize_session=False))
    return int(getattr(done, "rowcount", 0))
