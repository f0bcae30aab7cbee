"""What the commands ``metergate-hub user`` and ``membership`` do, and what they say when it is done."""

import datetime as dt
import uuid
from collections.abc import Sequence

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit
from hub.cli_tokens import do_in, organization_called, shown
from hub.clocks import Clock
from hub.memberships import join, leave, list_memberships
from hub.models import Organization, User
from hub.passwords import hash_password, password_problem
from hub.settings import StartError
from hub.users import create_user, find_user, list_users, username_problem


class UserLine(msgspec.Struct, kw_only=True):
    """A user as it is listed."""

    username: str
    id: uuid.UUID
    is_active: bool
    organizations: list[str]

    def text(self) -> str:
        """Say it in one line."""
        state = "active" if self.is_active else "disabled"
        return "\t".join((self.username, str(self.id), state, ", ".join(self.organizations) or "no organization"))


class MembershipLine(msgspec.Struct, kw_only=True):
    """A membership as it is listed."""

    username: str
    organization: uuid.UUID
    organization_name: str
    since: dt.datetime

    def text(self) -> str:
        """Say it in one line."""
        return "\t".join((self.username, self.organization_name, str(self.organization), shown(self.since)))


USER, MEMBERSHIP = "user", "membership"
"""What the audit log calls them, as their resources do."""


def _note_membership(session: AsyncSession, action: str, user: User, organization: Organization) -> None:
    told = {"user": user.id, "organization": organization.id}
    before, after = (None, told) if action == audit.CREATE else (told, None)
    audit.note(session, action, MEMBERSHIP, None, organization.id, before=before, after=after)


async def _user(session: AsyncSession, username: str) -> User:
    """Return the user of that name.

    Raises:
        StartError: when there is none.
    """
    found = await find_user(session, username)
    if found is None:
        raise StartError(f"there is no user {username!r}; see metergate-hub user list")
    return found


def add_user(
    database: str, username: str, password: str, clock: Clock, *, organizations: Sequence[str], founded: str | None
) -> UserLine:
    """Make a user, a member of these organizations; ``founded`` is one that is made first.

    Raises:
        StartError: when that cannot be.
    """
    for problem in (username_problem(username), password_problem(password)):
        if problem:
            raise StartError(problem)
    now = clock.now()

    async def work(session: AsyncSession) -> UserLine:
        owners = [await organization_called(session, said) for said in organizations]
        if founded is not None:
            if await session.scalar(select(Organization).where(Organization.name == founded)) is not None:
                raise StartError(f"there is an organization {founded!r} already: give it with --organization")
            made = Organization(name=founded, created_at=now, updated_at=now)
            session.add(made)
            await session.flush()
            told = {"name": made.name, "is_active": True}
            audit.note(session, audit.CREATE, "organization", made.id, made.id, after=told)
            owners.append(made)
        if await find_user(session, username) is not None:
            raise StartError(f"there is a user {username!r} already; a new password is metergate-hub user password")
        user = await create_user(session, username, password, now)
        told = {"username": user.username, "is_active": True}
        audit.note(session, audit.CREATE, USER, user.id, None, after=told, secrets=["password"])
        for owner in owners:
            await join(session, owner.id, user.id, now)
            _note_membership(session, audit.CREATE, user, owner)
        return UserLine(
            username=user.username, id=user.id, is_active=True, organizations=[owner.name for owner in owners]
        )

    return do_in(database, work, fresh=True)


def users(database: str) -> list[UserLine]:
    """Return all users by name."""

    async def work(session: AsyncSession) -> list[UserLine]:
        return [
            UserLine(username=user.username, id=user.id, is_active=user.is_active, organizations=names)
            for user, names in await list_users(session)
        ]

    return do_in(database, work)


def change_user(
    database: str, username: str, clock: Clock, *, password: str | None = None, is_active: bool | None = None
) -> None:
    """Give a user another password, or let it sign in or not; its sessions end.

    Raises:
        StartError: when there is no such user, or this cannot be a password.
    """
    if password is not None and (problem := password_problem(password)):
        raise StartError(problem)

    async def work(session: AsyncSession) -> None:
        user = await _user(session, username)
        before, secrets = {"is_active": user.is_active}, []
        if password is not None:
            user.password = hash_password(password)
            secrets = ["password"]
        if is_active is not None:
            user.is_active = is_active
        after = {"is_active": user.is_active}
        audit.note(session, audit.CHANGE, USER, user.id, None, before=before, after=after, secrets=secrets)
        user.sessions_since = user.updated_at = clock.now()

    do_in(database, work)


def remove_user(database: str, username: str) -> None:
    """Delete a user and its memberships.

    Raises:
        StartError: when there is none.
    """

    async def work(session: AsyncSession) -> None:
        user = await _user(session, username)
        audit.note(session, audit.DELETE, USER, user.id, None, before={"username": user.username})
        await session.delete(user)

    do_in(database, work)


def memberships(database: str) -> list[MembershipLine]:
    """Return all memberships, by user."""

    async def work(session: AsyncSession) -> list[MembershipLine]:
        return [
            MembershipLine(
                username=user.username,
                organization=organization.id,
                organization_name=organization.name,
                since=membership.created_at,
            )
            for membership, user, organization in await list_memberships(session)
        ]

    return do_in(database, work)


def change_membership(database: str, username: str, organization: str, clock: Clock, *, member: bool) -> None:
    """Make a user a member of an organization, or no longer.

    Raises:
        StartError: when there is no such user or organization, or nothing to change.
    """

    async def work(session: AsyncSession) -> None:
        user, owner = await _user(session, username), await organization_called(session, organization)
        if member and not await join(session, owner.id, user.id, clock.now()):
            raise StartError(f"{user.username} is a member of {owner.name} already")
        if not member and not await leave(session, owner.id, user.id):
            raise StartError(f"{user.username} is no member of {owner.name}")
        _note_membership(session, audit.CREATE if member else audit.DELETE, user, owner)

    do_in(database, work)
