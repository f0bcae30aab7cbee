"""Meter device types: models of meters, each with the config that its meters follow."""

import datetime as dt
import uuid
from typing import Annotated

from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import plans
from hub.bodies import Body
from hub.models import MeterDevice, MeterDeviceConfig
from hub.models import MeterDeviceType as Row
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Use, Values
from hub.unjudged import note_devices


class MeterDeviceTypeBody(Body, kw_only=True):
    """A type as clients send it."""

    read_only = READ_ONLY
    organization: uuid.UUID
    name: Annotated[str, Meta(min_length=1, max_length=50)]
    description: Annotated[str, Meta(max_length=500)] = ""
    manufacturer: Annotated[str, Meta(min_length=1, max_length=100)]
    manufacturer_model: Annotated[str, Meta(min_length=1, max_length=50)]
    config: uuid.UUID | None = None


class MeterDeviceType(MeterDeviceTypeBody, kw_only=True):
    """A type."""

    id: uuid.UUID
    created_at: dt.datetime
    updated_at: dt.datetime


async def _check(session: AsyncSession, row: Row | None, values: Values, _now: dt.datetime) -> None:
    if row is not None and values["config"] != row.config:
        # It says by what the readings of the type's meters are judged.
        devices = await session.scalars(select(MeterDevice.id).where(MeterDevice.type == row.id))
        await note_devices(session, devices.all())


RESOURCE = Resource(
    noun="meter device type",
    path="/v1/metering/meter-device-types",
    model=Row,
    body=MeterDeviceTypeBody,
    out=MeterDeviceType,
    unique=("organization", "name"),
    references={"config": MeterDeviceConfig},
    used_by=(Use("meter devices", MeterDevice, "type"),),
    check=_check,
    gateways=plans.gateways_of_type,
    adopts=True,
)

router = router_of(RESOURCE)
