"""Staff tokens: 32 random bytes each, of which the database has only the SHA-256, so a copy of it opens nothing.

A key is shown once, when it is made.
"""

import datetime as dt
import hashlib
import hmac
import secrets
from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Token

KEY_BYTES = 32


def digest_of(key: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


async def create_token(session: AsyncSession, name: str, now: dt.datetime) -> str:
    """Make a token and return its key, which cannot be found out again."""
    key = secrets.token_urlsafe(KEY_BYTES)
    session.add(Token(name=name, digest=digest_of(key), created=now))
    await session.flush()
    return key


async def revoke_tokens(session: AsyncSession, name: str, now: dt.datetime) -> int:
    """Make all tokens of that name invalid from now on; return how many were valid."""
    valid = update(Token).where(Token.name == name, Token.revoked.is_(None)).values(revoked=now)
    return len((await session.execute(valid.returning(Token.id))).all())


async def list_tokens(session: AsyncSession) -> Sequence[Token]:
    """Return all tokens, the oldest first."""
    return (await session.execute(select(Token).order_by(Token.created, Token.id))).scalars().all()


async def find_token(session: AsyncSession, key: str) -> Token | None:
    """Return the token of a key if it is valid."""
    digest = digest_of(key)
    token = (await session.execute(select(Token).where(Token.digest == digest))).scalar_one_or_none()
    if token is None or token.revoked is not None or not hmac.compare_digest(token.digest, digest):
        return None
    return token
