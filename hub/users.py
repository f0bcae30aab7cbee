"""Users (additive, ``/v1/users``; staff only): who signs in with a password and looks at their organizations' data.

A password is given and never shown. A new one, or ``is_active`` false, ends all sessions of the user at once.
"""

import asyncio
import datetime as dt
import re
import uuid
from collections.abc import Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.bodies import Body
from hub.models import Membership, Organization
from hub.models import User as Row
from hub.paging import equals, is_true
from hub.passwords import hash_password, password_problem
from hub.problems import Wrong, WrongField
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Values

_USERNAME = re.compile(r"[a-z0-9@.+_-]{1,150}")


class UserBody(Body, kw_only=True):
    """A user as staff sends it. Without ``password`` a user that is there keeps the one it has."""

    read_only = READ_ONLY | {"organizations"}
    username: str
    password: str | None = None
    is_active: bool = True


class User(msgspec.Struct, kw_only=True):
    """A user. ``organizations`` are those that it is a member of."""

    id: uuid.UUID
    username: str
    is_active: bool
    organizations: list[uuid.UUID]
    created_at: dt.datetime
    updated_at: dt.datetime


def plain_username(username: str) -> str:
    """Return a name as it is kept: case makes no difference."""
    return username.strip().lower()


def username_problem(username: str) -> str:
    """Say why nobody can be called so; nothing when somebody can."""
    if _USERNAME.fullmatch(plain_username(username)):
        return ""
    return "a username has 1 to 150 of the characters a-z, 0-9, @ . + _ and -"


async def _check(_session: AsyncSession, row: Row | None, values: Values, now: dt.datetime) -> None:
    given = values["password"] if row is None or values["password"] != row.password else None
    errors = [WrongField("username", text)] if (text := username_problem(values["username"])) else []
    if given is not None and (text := password_problem(given)):
        errors.append(WrongField("password", text))
    if given is None and row is None:
        errors.append(WrongField("password", "this field is required"))
    if errors:
        raise Wrong(*errors)
    values["username"] = plain_username(values["username"])
    values["password"] = await asyncio.to_thread(hash_password, given) if given is not None else row and row.password
    if row is None or given is not None or values["is_active"] != row.is_active:
        values["sessions_since"] = now


async def _organizations(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    found = await session.execute(
        select(Membership.user, Membership.organization)
        .where(Membership.user.in_([row.id for row in rows]))
        .order_by(Membership.id)
    )
    by_user: dict[uuid.UUID, list[uuid.UUID]] = {}
    for user, organization in found:
        by_user.setdefault(user, []).append(organization)
    return [{"organizations": by_user.get(row.id, [])} for row in rows]


async def _nobody(_session: AsyncSession, _row: Row) -> None:
    """Say that users are staff's, whatever organizations they belong to."""


RESOURCE = Resource(
    noun="user",
    path="/v1/users",
    model=Row,
    body=UserBody,
    out=User,
    unique=("username",),
    filters={"username": equals(Row.username), "is_active": is_true(Row.is_active)},
    check=_check,
    more=_organizations,
    owned=lambda organization: Row.id.in_(select(Membership.user).where(Membership.organization == organization)),
    owner=_nobody,
)

router = router_of(RESOURCE)


async def find_user(session: AsyncSession, username: str) -> Row | None:
    """Return the user of that name, if there is one."""
    return (await session.execute(select(Row).where(Row.username == plain_username(username)))).scalar_one_or_none()


async def create_user(session: AsyncSession, username: str, password: str, now: dt.datetime) -> Row:
    """Make a user; both were judged before, and there is none of that name."""
    row = Row(
        username=plain_username(username),
        password=hash_password(password),
        sessions_since=now,
        created_at=now,
        updated_at=now,
    )
    session.add(row)
    await session.flush()
    return row


async def list_users(session: AsyncSession) -> list[tuple[Row, list[str]]]:
    """Return all users by name, with the names of their organizations."""
    users = (await session.execute(select(Row).order_by(Row.username))).scalars().all()
    found = await session.execute(
        select(Membership.user, Organization.name)
        .join(Organization, Organization.id == Membership.organization)
        .order_by(Membership.id)
    )
    names: dict[uuid.UUID, list[str]] = {}
    for user, organization in found:
        names.setdefault(user, []).append(organization)
    return [(user, names.get(user.id, [])) for user in users]
