"""Receivers (additive, ``/v1/receivers``): where gateways take in what meters push, and for which meters.

``receiver``, ``endpoint`` and ``receiver_kwargs`` are judged here by what gateways would say of them. A payload names
its meter by ``identity_field`` of the meter device, so each meter of a receiver needs that field.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.bodies import Body
from hub.identities import identity_field
from hub.models import Gateway, MeterDevice, receiver_meters
from hub.models import Receiver as Row
from hub.paging import equals, is_uuid
from hub.problems import Wrong, WrongField
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Link, Resource, Values


class ReceiverBody(Body, kw_only=True):
    """A receiver as clients send it; ``meter_devices`` are those whose values come through it."""

    read_only = READ_ONLY | {"identity_field"}
    organization: uuid.UUID
    gateway: uuid.UUID
    name: Annotated[str, Meta(min_length=1, max_length=100)]
    receiver: Annotated[str, Meta(max_length=100)]
    endpoint: Annotated[str, Meta(max_length=255)]
    receiver_kwargs: dict[str, Any] = msgspec.field(default_factory=dict)
    meter_devices: list[uuid.UUID] = msgspec.field(default_factory=list)
    is_active: bool = True


class Receiver(ReceiverBody, kw_only=True):
    """A receiver. ``identity_field`` is the field of a meter device by which its payloads name a meter."""

    id: uuid.UUID
    identity_field: str
    created_at: dt.datetime
    updated_at: dt.datetime


async def _check(session: AsyncSession, row: Row | None, values: Values, _now: dt.datetime) -> None:
    from receivers.catalogue import ReceiverError, check_receiver  # noqa: PLC0415 - as in hub.identities

    if row is not None and values["gateway"] != row.gateway:
        raise Wrong(WrongField("gateway", "a receiver stays with its gateway"))
    try:
        check_receiver(values["receiver"], values["endpoint"], values["receiver_kwargs"])
    except ReceiverError as error:
        raise Wrong(WrongField(error.field, error.text)) from error
    field = identity_field(values["receiver"])
    meters = (
        await session.execute(
            select(MeterDevice.id, MeterDevice.name, getattr(MeterDevice, field).label("identity")).where(
                MeterDevice.id.in_(values["meter_devices"])
            )
        )
    ).all()
    # A payload that names no meter is the only meter's.
    nameless = [meter for meter in meters if not meter.identity and len(meters) > 1]
    if nameless:
        raise Wrong(
            *(
                WrongField("meter_devices", f"{meter.name} has no {field}, by which payloads would name it")
                for meter in nameless
            )
        )
    seen: dict[str, str] = {}
    for meter in meters:
        other = seen.setdefault(meter.identity or "", meter.name)
        if other != meter.name:
            raise Wrong(WrongField("meter_devices", f"{other} and {meter.name} have the same {field}"))


async def _identities(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [{"identity_field": identity_field(row.receiver)} for row in rows]


async def _gateway(session: AsyncSession, row_id: uuid.UUID) -> set[uuid.UUID]:
    return set((await session.execute(select(Row.gateway).where(Row.id == row_id))).scalars())


RESOURCE = Resource(
    noun="receiver",
    path="/v1/receivers",
    model=Row,
    body=ReceiverBody,
    out=Receiver,
    references={"gateway": Gateway},
    links=(Link("meter_devices", receiver_meters, "receiver", "device", MeterDevice),),
    unique=("gateway", "name"),
    filters={"gateway": is_uuid(Row.gateway), "name": equals(Row.name), "receiver": equals(Row.receiver)},
    check=_check,
    more=_identities,
    gateways=_gateway,
    adopts=True,
)

router = router_of(RESOURCE)
