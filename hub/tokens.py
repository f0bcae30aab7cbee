"""Tokens of staff and of machines: 32 random bytes each, of which the database has only the SHA-256.

So a copy of the database opens nothing. A key is shown once, when it is made. A staff token opens everything; a
machine's has scopes (``hub.scopes``), usually one organization, and may expire. Revoked is revoked at once: each
request looks.
"""

import datetime as dt
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.database import reading
from hub.direct_reads import fetch, reads_directly
from hub.models import Organization, Token
from hub.scopes import STAFF, Access

KEY_BYTES = 32
USE_NOTED = dt.timedelta(minutes=1)
"""How exactly ``last_used`` is kept: a token that is used all the time costs one small write in that time."""


def digest_of(key: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


async def create_token(
    session: AsyncSession,
    name: str,
    now: dt.datetime,
    *,
    organization: uuid.UUID | None = None,
    scopes: Sequence[str] = (STAFF,),
    expires: dt.datetime | None = None,
) -> str:
    """Make a token and return its key, which cannot be found out again."""
    _, key = await new_token(session, name, now, organization=organization, scopes=scopes, expires=expires)
    return key


async def new_token(
    session: AsyncSession,
    name: str,
    now: dt.datetime,
    *,
    organization: uuid.UUID | None,
    scopes: Sequence[str],
    expires: dt.datetime | None,
) -> tuple[Token, str]:
    """Make a token; return its row and its key."""
    key = secrets.token_urlsafe(KEY_BYTES)
    token = Token(
        name=name,
        digest=digest_of(key),
        created=now,
        organization=organization,
        scopes=sorted(set(scopes)),
        expires=expires,
    )
    session.add(token)
    await session.flush()
    return token, key


async def revoke_tokens(session: AsyncSession, name: str, now: dt.datetime) -> Sequence[Token]:
    """Make all tokens of that name invalid from now on; return those that were valid."""
    valid = update(Token).where(Token.name == name, Token.revoked.is_(None)).values(revoked=now)
    return (await session.scalars(valid.returning(Token))).all()


async def list_tokens(session: AsyncSession) -> Sequence[Token]:
    """Return all tokens, the oldest first."""
    return (await session.execute(select(Token).order_by(Token.created, Token.id))).scalars().all()


_BY_DIGEST = (
    select(
        Token.id,
        Token.name,
        Token.digest,
        Token.scopes,
        Token.organization,
        Token.expires,
        Token.revoked,
        Token.last_used,
        Organization.is_active,
    )
    .outerjoin(Organization, Organization.id == Token.organization)
    .where(Token.digest == bindparam("digest"))
)
"""What each request asks: put together once, and without objects."""

_BY_DIGEST_DIRECTLY = """
    SELECT t.id, t.name, t.digest, CAST(t.scopes AS text), t.organization, t.expires, t.revoked, t.last_used,
        o.is_active
    FROM tokens t LEFT JOIN organizations o ON o.id = t.organization WHERE t.digest = $1
"""
"""The same where the driver is asked: 0.25 ms of processor, not 0.7."""


async def access_of_key(engine: AsyncEngine, key: str, now: dt.datetime) -> Access | None:
    """Return what a key opens if its token is valid: neither revoked nor expired, and its organization is active.

    It is ``unnoted`` when it is worth a write that the token was used now.
    """
    digest = digest_of(key)
    found = await _by_digest(engine, digest)
    if not found:
        return None
    token, name, stored, scopes, organization, expires, revoked, last_used, is_active = found[0]
    if not hmac.compare_digest(stored, digest):
        return None
    if revoked is not None or (expires is not None and expires <= now) or is_active is False:
        return None
    unnoted = last_used is None or not dt.timedelta(0) <= now - last_used < USE_NOTED
    return Access(name, frozenset(scopes), organization, token=token, unnoted=unnoted)


async def _by_digest(engine: AsyncEngine, digest: bytes) -> Sequence[Any]:
    if reads_directly(engine):
        rows = await fetch(engine, _BY_DIGEST_DIRECTLY, digest)
        return [(*row[:3], json.loads(row[3]), *row[4:]) for row in rows]
    async with reading(engine) as session:
        return (await (await session.connection()).execute(_BY_DIGEST, {"digest": digest})).all()


async def note_use(session: AsyncSession, token: uuid.UUID, now: dt.datetime) -> None:
    """Write that the token was used now."""
    await session.execute(update(Token).where(Token.id == token).values(last_used=now))
