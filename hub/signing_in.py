"""Signing in (``/v1/auth/jwt/``): a password for a session, a session renewed, the same in another organization.

Who is told no learns nothing: no such user, a wrong password and a user who is not active have the same answer after
the same work, and an organization that is not the user's is none. How often it may be tried is in ``hub.rate_limits``.
"""

import asyncio
import datetime as dt
import uuid
from typing import Annotated

import msgspec
import structlog
from litestar import Router, get, post
from litestar.params import JSONBody
from msgspec import Meta
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit
from hub.access import access_of
from hub.bodies import Body
from hub.database import reading
from hub.memberships import organizations_of
from hub.models import User
from hub.passwords import DECOY, LONGEST, hash_password, is_outdated
from hub.problems import Forbidden, NotAuthenticated, TooOften, Unavailable, wrong
from hub.resources import in_transaction
from hub.session_keys import SessionKeys
from hub.sessions import Session, begin, write_session
from hub.state import Hub, HubRequest, hub_of
from hub.users import find_user

BODY_BYTES = 16 * 1024
"""The largest body here; nobody who sends one is known yet."""

_log = structlog.get_logger(__name__)


class GetTokenAuth(Body, kw_only=True):
    """Who signs in. Without ``organization`` it is the one that the user joined first."""

    sender_owns = False
    username: Annotated[str, Meta(min_length=1, max_length=150)]
    password: Annotated[str, Meta(min_length=1, max_length=LONGEST)]
    organization: uuid.UUID | None = None


class TokenChangeOrg(Body, kw_only=True):
    """Which organization the user wants to look at."""

    sender_owns = False
    organization: uuid.UUID


class UsersOrganization(msgspec.Struct, kw_only=True):
    """An organization that the user belongs to."""

    id: uuid.UUID
    name: str


class SignedIn(msgspec.Struct, kw_only=True):
    """A session: send ``Authorization: JWT <token>``. All beside ``token`` is additive."""

    token: str
    username: str
    user: uuid.UUID
    organization: uuid.UUID
    organizations: list[UsersOrganization]
    expires_at: dt.datetime


def keys_of(hub: Hub) -> SessionKeys:
    """Return what sessions are signed with.

    Raises:
        Unavailable: when this process was given no key.
    """
    if hub.session_keys is None:
        raise Unavailable(
            "users cannot sign in here: this process has no key; give it one with --data or METERGATE_HUB_KEY_FILE"
        )
    return hub.session_keys


@post("/token", summary="Sign in", request_max_body_size=BODY_BYTES)
async def sign_in(request: HubRequest, data: JSONBody[GetTokenAuth]) -> SignedIn:
    """Give a session for a password."""
    hub = hub_of(request)
    keys_of(hub)
    username = data.username.strip().lower()
    address = request.client.host if request.client is not None else ""
    wait = hub.attempts.take(username, address, hub.clock.monotonic())
    if wait > 0:
        _log.warning("sign_in_too_often", address=address)
        raise TooOften("this was tried too often; wait, then try again", wait)
    async with reading(hub.engine) as session:
        user = await find_user(session, username)
    right = await hub.passwords.matches(data.password, user.password if user is not None else DECOY)
    if user is None or not right or not user.is_active:
        _log.warning("sign_in_refused", address=address)
        raise NotAuthenticated("the username or the password is wrong", "JWT")
    hub.attempts.give_back(username, address, hub.clock.monotonic())
    if is_outdated(user.password):
        await _hash_again(request, user, data.password)
    async with reading(hub.engine) as session:
        return await _answer(session, hub, user, begin(user, uuid.UUID(int=0), hub.clock.now()), data.organization)


@get("/renew", summary="Renew a session")
async def renew(request: HubRequest) -> SignedIn:
    """Give another session of full length, until the password was given a week ago."""
    return await _again(request, access_of(request).organization)


@post("/change-organization", summary="Change to another organization", request_max_body_size=BODY_BYTES)
async def change_organization(request: HubRequest, data: JSONBody[TokenChangeOrg]) -> SignedIn:
    """Give a session in another organization of the user's; the present one goes on."""
    return await _again(request, data.organization)


async def _again(request: HubRequest, organization: uuid.UUID | None) -> SignedIn:
    hub, access = hub_of(request), access_of(request)
    async with reading(hub.engine) as session:
        user = await session.get(User, access.user)
        if user is None or access.signed_in is None:
            raise NotAuthenticated("the session has ended; sign in again at /v1/auth/jwt/token/", "JWT")
        return await _answer(session, hub, user, begin(user, uuid.UUID(int=0), access.signed_in), organization)


async def _answer(session: AsyncSession, hub: Hub, user: User, begun: Session, wanted: uuid.UUID | None) -> SignedIn:
    organizations = await organizations_of(session, user.id)
    if not organizations:
        raise Forbidden("this user belongs to no active organization; ask whoever runs the hub for a membership")
    chosen = wanted or organizations[0].id
    if chosen not in {organization.id for organization in organizations}:
        raise wrong("organization", f"this user belongs to no organization {chosen}")
    token, end = write_session(keys_of(hub), msgspec.structs.replace(begun, organization=chosen), hub.clock.now())
    return SignedIn(
        token=token,
        username=user.username,
        user=user.id,
        organization=chosen,
        organizations=[UsersOrganization(id=one.id, name=one.name) for one in organizations],
        expires_at=end,
    )


async def _hash_again(request: HubRequest, user: User, password: str) -> None:
    """Keep the password at the cost of today."""
    made = await asyncio.to_thread(hash_password, password)

    async def work(session: AsyncSession) -> None:
        row = await session.get(User, user.id)
        if row is not None and row.password == user.password:
            row.password = made
            audit.note_nothing(session)

    await in_transaction(request, work, author=audit.the_hub("a password's hash made anew"))


router = Router("/v1/auth/jwt", route_handlers=[sign_in, renew, change_organization], tags=["signing in"])
