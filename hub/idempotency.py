"""Requests that may come twice: the header ``Idempotency-Key`` makes of them one.

Rules.
- A key belongs to its sender and counts for a day. The same key with the same body gives what it gave before; with
  another body it is refused. A request that failed has left no key.
- The constraint is the lock: of two that come at once one is written, and the other finds what that made.
- Of a body only a digest is kept, of its fields, however it was written.
"""

import dataclasses
import datetime as dt
import hashlib
import uuid

import msgspec
import sqlalchemy as sa
from litestar.openapi.spec import Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType
from sqlalchemy.ext.asyncio import AsyncSession

from hub.access import access_of
from hub.models import IdempotencyKey as Row
from hub.problems import wrong
from hub.state import HubRequest

KEPT = dt.timedelta(hours=24)
HEADER = "Idempotency-Key"
LONGEST = 255


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """Who may have asked for this before: the sender, the sender's key, and a digest of what was asked."""

    caller: str
    text: str
    digest: bytes


def key_of(request: HubRequest, operation: str, body: msgspec.Struct) -> Key | None:
    """Return the key of a request, None where it has none; ``operation`` tells requests apart that have one body.

    Raises:
        Wrong: when the key is no printable ASCII text of at most 255 characters.
    """
    text = request.headers.get(HEADER)
    if text is None:
        return None
    if not 0 < len(text) <= LONGEST or not text.isascii() or not text.isprintable():
        raise wrong(HEADER, f"must have 1 to {LONGEST} printable ASCII characters, such as a UUID")
    access = access_of(request)
    caller = f"token {access.token}" if access.token is not None else f"user {access.user}"
    content = operation.encode() + b"\0" + msgspec.json.encode(body, order="deterministic")
    return Key(caller, text, hashlib.sha256(content).digest())


async def claim(session: AsyncSession, key: Key | None, now: dt.datetime) -> uuid.UUID | None:
    """Return what the request made when it came before; else take the key, for ``settle`` to say what it makes.

    Raises:
        Wrong: when it was another request that came with this key.
        IntegrityError: when another one takes it at this moment; the next attempt finds what that made.
    """
    if key is None:
        return None
    row = await session.scalar(sa.select(Row).where(Row.caller == key.caller, Row.key == key.text))
    if row is not None and row.created_at > now - KEPT:
        if row.digest != key.digest:
            raise wrong(
                HEADER, "another request came with this key within 24 hours; give each request a key of its own"
            )
        return row.target
    if row is None:
        row = Row(caller=key.caller, key=key.text)
        session.add(row)
    row.digest, row.target, row.created_at = key.digest, None, now
    await session.flush()
    return None


async def settle(session: AsyncSession, key: Key | None, target: uuid.UUID) -> None:
    """Say what a claimed key has made."""
    if key is not None:
        await session.execute(
            sa.update(Row)
            .where(Row.caller == key.caller, Row.key == key.text)
            .values(target=target)
            .execution_options(synchronize_session=False)
        )


async def forget(session: AsyncSession, now: dt.datetime) -> None:
    """Delete the keys that count no more."""
    await session.execute(
        sa.delete(Row).where(Row.created_at <= now - KEPT).execution_options(synchronize_session=False)
    )


@dataclasses.dataclass
class Repeatable(Operation):
    """What the OpenAPI document says of an operation that takes the header."""

    def __post_init__(self) -> None:
        """Add the request header."""
        header = Parameter(
            HEADER,
            "header",
            Schema(type=OpenAPIType.STRING, min_length=1, max_length=LONGEST),
            description="The same key with the same body within 24 hours makes one, however often it is sent.",
            required=False,
        )
        self.parameters = [*(self.parameters or []), header]
