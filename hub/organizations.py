"""Organizations: who owns everything else."""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta
from sqlalchemy.ext.asyncio import AsyncSession

from hub.bodies import Body
from hub.memberships import members_of
from hub.models import (
    AmrTask,
    AmrTaskGroup,
    Gateway,
    MeterDevice,
    MeterDeviceConfig,
    MeterDeviceType,
    NetworkInterface,
    ReadingSeries,
    SimCard,
)
from hub.models import Organization as Row
from hub.paging import equals
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Use, Values


class OrganizationBody(Body, kw_only=True):
    """An organization as clients send it."""

    read_only = READ_ONLY | {"members"}
    name: Annotated[str, Meta(min_length=1, max_length=64)]
    is_active: bool = True


class Organization(OrganizationBody, kw_only=True):
    """An organization. ``members`` are its users' ids."""

    id: uuid.UUID
    members: list[uuid.UUID]
    created_at: dt.datetime
    updated_at: dt.datetime


async def _members(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    members = await members_of(session, [row.id for row in rows])
    return [{"members": members.get(row.id, [])} for row in rows]


async def _itself(_session: AsyncSession, row: Row) -> uuid.UUID:
    return row.id


RESOURCE = Resource(
    noun="organization",
    path="/v1/organizations",
    model=Row,
    body=OrganizationBody,
    out=Organization,
    unique=("name",),
    filters={"name": equals(Row.name)},
    used_by=(
        Use("gateways", Gateway, "organization"),
        Use("network interfaces", NetworkInterface, "organization"),
        Use("SIM cards", SimCard, "organization"),
        Use("meter devices", MeterDevice, "organization"),
        Use("meter device types", MeterDeviceType, "organization"),
        Use("meter device configs", MeterDeviceConfig, "organization"),
        Use("reading series", ReadingSeries, "organization"),
        Use("AMR tasks", AmrTask, "organization"),
        Use("AMR task groups", AmrTaskGroup, "organization"),
    ),
    more=_members,
    owned=lambda organization: Row.id == organization,
    owner=_itself,
)

router = router_of(RESOURCE)
