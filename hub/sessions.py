"""Sessions of users: JSON web tokens (RFC 7519) that say who, in which organization, until when; none is stored.

Rules. A token is signed with HS256 by one of ``hub.session_keys`` and nothing else is believed: no other algorithm, no
``none``. It lives for ``LIFE`` and can be renewed until ``LONGEST`` after the password was given. What it says is held
against the database at each request: a user who is inactive or was given another password, a membership that was
removed and an inactive organization end it at once.
"""

import datetime as dt
import json
import secrets
import uuid

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.columns import to_microseconds
from hub.models import Membership, Organization, User
from hub.problems import NotAuthenticated
from hub.scopes import READ, Access
from hub.session_keys import SessionKeys

LIFE = dt.timedelta(hours=1)
LONGEST = dt.timedelta(days=7)
LONGEST_TEXT = 2048
"""Characters of a token; ours have some 400."""

_ALGORITHMS = ["HS256"]
_ISSUER = "metergate"
_LEEWAY = 10
"""Seconds by which the clocks of two hosts may differ."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says. ``signed_in`` is when the password was given, ``generation`` which sessions of the user's."""

    user: uuid.UUID
    organization: uuid.UUID
    signed_in: dt.datetime
    generation: int


class _Claims(msgspec.Struct, kw_only=True):
    sub: uuid.UUID
    org: uuid.UUID
    auth_time: int
    gen: int


def begin(user: User, organization: uuid.UUID, now: dt.datetime) -> Session:
    """Return the session of a user who has just given the password."""
    return Session(user=user.id, organization=organization, signed_in=now, generation=generation_of(user))


def generation_of(user: User) -> int:
    """Return what ends all sessions of a user when it changes."""
    return to_microseconds(user.sessions_since)


def write_session(keys: SessionKeys, session: Session, now: dt.datetime) -> tuple[str, dt.datetime]:
    """Return a token that says the session, and when it ends.

    Raises:
        NotAuthenticated: when the password was given too long ago.
    """
    end = min(now + LIFE, session.signed_in + LONGEST).replace(microsecond=0)
    if end <= now:
        raise _refusal(f"the password was given more than {LONGEST.days} days ago; sign in again")
    key = keys.signing
    claims = {
        "iss": _ISSUER,
        "sub": str(session.user),
        "org": str(session.organization),
        "auth_time": int(session.signed_in.timestamp()),
        "gen": session.generation,
        "iat": int(now.timestamp()),
        "exp": int(end.timestamp()),
        "jti": secrets.token_hex(8),
    }
    return jwt.encode({"alg": "HS256", "kid": key.kid}, claims, key, algorithms=_ALGORITHMS), end


def read_session(keys: SessionKeys, text: str, now: dt.datetime) -> Session:
    """Return what a token says.

    Raises:
        NotAuthenticated: when it is not one of ours, or its time is over or has not come.
    """
    try:
        token = jwt.decode(text, keys.believed(), algorithms=_ALGORITHMS)
        jwt.JWTClaimsRegistry(
            now=int(now.timestamp()),
            leeway=_LEEWAY,
            iss={"essential": True, "value": _ISSUER},
            exp={"essential": True},
            iat={"essential": True},
        ).validate(token.claims)
        # Through JSON: claims of another type than ours are refused like anything else.
        claims = msgspec.json.decode(json.dumps(token.claims), type=_Claims)
        signed_in = dt.datetime.fromtimestamp(claims.auth_time, dt.UTC)
    except (JoseError, ValueError, OverflowError, OSError, msgspec.ValidationError):
        # One answer for all: what exactly is wrong is no business of who made it up.
        raise _refusal("the session is not valid, or is over; sign in at /v1/auth/jwt/token/") from None
    return Session(user=claims.sub, organization=claims.org, signed_in=signed_in, generation=claims.gen)


async def access_in(database: AsyncSession, session: Session) -> Access:
    """Return what a session opens now.

    Raises:
        NotAuthenticated: when the user, the membership or the organization is no more what it was.
    """
    found = (
        await database.execute(
            select(User)
            .join(Membership, Membership.user == User.id)
            .join(Organization, Organization.id == Membership.organization)
            .where(
                User.id == session.user,
                User.is_active.is_(True),
                Organization.id == session.organization,
                Organization.is_active.is_(True),
            )
        )
    ).scalar_one_or_none()
    if found is None or generation_of(found) != session.generation:
        raise _refusal("the session has ended; sign in again at /v1/auth/jwt/token/")
    return Access(found.username, frozenset({READ}), session.organization, user=found.id, signed_in=session.signed_in)


def _refusal(detail: str) -> NotAuthenticated:
    return NotAuthenticated(detail, "JWT")
