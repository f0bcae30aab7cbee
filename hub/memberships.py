"""Memberships (``/v1/organizations/memberships``): which users see which organizations' data.

Each request of a user looks: a membership that is deleted ends the access at once.
"""

import datetime as dt
import uuid
from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.bodies import Body
from hub.models import Membership as Row
from hub.models import Organization, User
from hub.problems import wrong
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Values


class OrganizationMemberBody(Body, kw_only=True):
    """A membership as staff sends it."""

    read_only = READ_ONLY
    organization: uuid.UUID
    user: uuid.UUID


class OrganizationMember(OrganizationMemberBody, kw_only=True):
    """A membership."""

    id: int
    created_at: dt.datetime
    updated_at: dt.datetime


async def _check(session: AsyncSession, _row: Row | None, values: Values, _now: dt.datetime) -> None:
    if await session.get(User, values["user"]) is None:
        raise wrong("user", f"there is no user {values['user']}")


RESOURCE = Resource(
    noun="membership",
    path="/v1/organizations/memberships",
    model=Row,
    body=OrganizationMemberBody,
    out=OrganizationMember,
    integer_ids=True,
    unique=("organization", "user"),
    check=_check,
    order=(Row.id,),
)

router = router_of(RESOURCE)


async def members_of(session: AsyncSession, organizations: Collection[uuid.UUID]) -> dict[uuid.UUID, list[uuid.UUID]]:
    """Return the users of each organization, in the order in which they joined."""
    found = await session.execute(
        select(Row.organization, Row.user).where(Row.organization.in_(organizations)).order_by(Row.id)
    )
    members: dict[uuid.UUID, list[uuid.UUID]] = {}
    for organization, user in found:
        members.setdefault(organization, []).append(user)
    return members


async def organizations_of(session: AsyncSession, user: uuid.UUID) -> list[Organization]:
    """Return the active organizations of a user, the one that it joined first at the beginning."""
    found = await session.execute(
        select(Organization)
        .join(Row, Row.organization == Organization.id)
        .where(Row.user == user, Organization.is_active.is_(True))
        .order_by(Row.id)
    )
    return list(found.scalars())


async def join(session: AsyncSession, organization: uuid.UUID, user: uuid.UUID, now: dt.datetime) -> bool:
    """Make a user a member; return whether it was none before."""
    if await _membership(session, organization, user) is not None:
        return False
    session.add(Row(organization=organization, user=user, created_at=now, updated_at=now))
    await session.flush()
    return True


async def leave(session: AsyncSession, organization: uuid.UUID, user: uuid.UUID) -> bool:
    """End a membership; return whether there was one."""
    found = await _membership(session, organization, user)
    if found is None:
        return False
    await session.delete(found)
    return True


async def _membership(session: AsyncSession, organization: uuid.UUID, user: uuid.UUID) -> Row | None:
    return await session.scalar(select(Row).where(Row.organization == organization, Row.user == user))


async def list_memberships(session: AsyncSession) -> list[tuple[Row, User, Organization]]:
    """Return all memberships with their users and organizations, by user."""
    found = await session.execute(
        select(Row, User, Organization)
        .join(User, User.id == Row.user)
        .join(Organization, Organization.id == Row.organization)
        .order_by(User.username, Row.id)
    )
    return [(one[0], one[1], one[2]) for one in found]
