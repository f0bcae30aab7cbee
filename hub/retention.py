"""Retention: after how many days readings, events, staged readings, audit entries go (``/v1/retention-policies``).

A policy is an organization's, or without ``organization`` the installation's, which holds for all organizations that
have none of their own, and for staged readings and audit entries of nobody. Null keeps for ever; so does no policy.
``/preview`` says what would go. What goes, goes by ``hub.retention_sweep``.
"""

import datetime as dt
import uuid
from typing import Annotated, Any

from litestar import get
from msgspec import Meta
from sqlalchemy.ext.asyncio import AsyncSession

from hub.bodies import Body
from hub.database import reading
from hub.models import RetentionPolicy as Row
from hub.paging import is_uuid, parse_number, parse_uuid, query_of
from hub.problems import wrong
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Values
from hub.retention_sweep import KINDS, Days, Going, preview
from hub.state import HubRequest, hub_of

MOST_DAYS = 36_500
INSTALLATION = uuid.UUID(int=1)
"""The id of the policy of the installation, of which there is one."""

_Days = Annotated[int, Meta(ge=1, le=MOST_DAYS)]


class RetentionPolicyBody(Body, kw_only=True):
    """A policy as clients send it."""

    read_only = READ_ONLY
    organization: uuid.UUID | None = None
    readings_days: _Days | None = None
    events_days: _Days | None = None
    staged_days: _Days | None = None
    audit_days: _Days | None = None
    readings_whole_months: bool = False


class RetentionPolicy(RetentionPolicyBody, kw_only=True):
    """A policy."""

    id: uuid.UUID
    created_at: dt.datetime
    updated_at: dt.datetime


async def _check(_session: AsyncSession, row: Row | None, values: Values, _now: dt.datetime) -> None:
    if row is None and values["organization"] is None:
        # SQL holds two NULLs for different: of two who make it at once, one is told that it is there.
        values["id"] = INSTALLATION
    if row is not None and values["organization"] != row.organization:
        raise wrong("organization", "a policy stays with its organization, or the installation")


RESOURCE = Resource(
    noun="retention policy",
    path="/v1/retention-policies",
    model=Row,
    body=RetentionPolicyBody,
    out=RetentionPolicy,
    unique=("organization",),
    filters={"organization": is_uuid(Row.organization)},
    check=_check,
)


@get(
    "/preview",
    summary="Preview: what retention would delete",
    description="organization, and readings_days, events_days, staged_days, audit_days in place of its policy's.",
)
async def preview_retention(request: HubRequest) -> list[Going]:
    """Say what goes now, or would go by other days; nothing is deleted.

    Raises:
        Wrong: when an organization or number of days is none.
    """
    hub = hub_of(request)
    names = [f"{kind}_days" for kind in KINDS]
    query = query_of(request, ["organization", *names])
    told: dict[str, Any] = {name: parse_number(name, query[name], 1, MOST_DAYS) for name in names if name in query}
    organization = parse_uuid("organization", query["organization"]) if "organization" in query else None
    async with reading(hub.engine) as session:
        found = await preview(session, hub.clock.now(), organization, Days(**told) if told else None)
    if organization is not None and not found:
        raise wrong("organization", f"there is no organization {organization}")
    return found


router = router_of(RESOURCE, preview_retention)
