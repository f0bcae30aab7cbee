"""Who may use the REST API: staff tokens, from the first request on.

A key is 32 random bytes; the database has only its SHA-256, so a copy of the database opens nothing. A key is shown
once, when it is made.
"""

import datetime as dt
import hashlib
import hmac
import secrets
from typing import Any

from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.database import reading
from hub.models import Token
from hub.problems import NotAuthenticated
from hub.state import Hub

KEY_BYTES = 32
_LONGEST_KEY = 200


def digest_of(key: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


async def create_token(session: AsyncSession, name: str, now: dt.datetime) -> str:
    """Make a token and return its key, which cannot be found out again."""
    key = secrets.token_urlsafe(KEY_BYTES)
    session.add(Token(name=name, digest=digest_of(key), created=now))
    await session.flush()
    return key


async def find_token(session: AsyncSession, key: str) -> Token | None:
    """Return the token of a key if it is valid."""
    digest = digest_of(key)
    token = (await session.execute(select(Token).where(Token.digest == digest))).scalar_one_or_none()
    if token is None or token.revoked is not None or not hmac.compare_digest(token.digest, digest):
        return None
    return token


def key_from_header(header: str | None) -> str:
    """Take the key out of ``Authorization: Token <key>``.

    Raises:
        NotAuthenticated: saying what is missing.
    """
    if not header:
        raise NotAuthenticated("this needs a token: send the header 'Authorization: Token <key>'")
    scheme, _, key = header.strip().partition(" ")
    if scheme.lower() != "token" or not 0 < len(key.strip()) <= _LONGEST_KEY:
        raise NotAuthenticated("the header Authorization is not of the form 'Token <key>'")
    return key.strip()


class TokenAuthentication(AbstractAuthenticationMiddleware):
    """Lets requests with a valid token through and refuses all others with 401."""

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        """Find the token of the request."""
        hub: Hub = connection.app.state.hub
        key = key_from_header(connection.headers.get("authorization"))
        async with reading(hub.engine) as session:
            token = await find_token(session, key)
        if token is None:
            raise NotAuthenticated(
                "the token is not valid, or was revoked; make one with: metergate-hub token create NAME"
            )
        return AuthenticationResult(user=token.name, auth=token)
