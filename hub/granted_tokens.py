"""Tokens over REST (additive, ``/v1/tokens``; staff only): listed without their keys, made, revoked.

A key is in the answer that makes its token, and in no other: the database has only its digest (``hub.tokens``). A token
is never deleted, so that it stays known who could do what until when; revoked is revoked at once and for ever.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Response, post
from litestar.params import FromPath, JSONBody
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit
from hub.bodies import Body
from hub.etags import Edited, Tagged
from hub.models import Organization
from hub.models import Token as Row
from hub.paging import equals, is_uuid
from hub.problems import Wrong, WrongField
from hub.resource_routes import router_of
from hub.resources import LOOK, Resource, Values, answer, hold, in_transaction, note, show
from hub.scopes import SCOPES, STAFF
from hub.state import HubRequest, hub_of
from hub.tokens import new_token
from protocol.wire import Instant


class TokenBody(Body, kw_only=True):
    """A token as staff asks for it. ``organization`` null opens all of them, and has to be said."""

    sender_owns = False
    name: Annotated[str, Meta(min_length=1, max_length=150)]
    organization: uuid.UUID | None
    scopes: Annotated[list[str], Meta(min_length=1)]
    expires: Instant | None = None


class Token(msgspec.Struct, kw_only=True):
    """A token as it is listed. ``last_used`` is right to the minute; ``revoked`` and ``expires`` say when it ends."""

    id: uuid.UUID
    name: str
    organization: uuid.UUID | None
    scopes: list[str]
    expires: dt.datetime | None
    revoked: dt.datetime | None
    last_used: dt.datetime | None
    created_at: dt.datetime


class NewToken(Token, kw_only=True):
    """A token that was made just now, with its ``key``: this once."""

    key: str


async def _created(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [{"created_at": row.created} for row in rows]


RESOURCE = Resource(
    noun="token",
    path="/v1/tokens",
    model=Row,
    body=TokenBody,
    out=Token,
    operations=LOOK,
    # Not when it was used last.
    edited=frozenset({"name", "organization", "scopes", "expires", "revoked"}),
    filters={"name": equals(Row.name), "organization": is_uuid(Row.organization)},
    more=_created,
    order=(Row.created,),
    orderings={"created_at": Row.created, "last_used": Row.last_used, "expires": Row.expires},
)


async def _judge(session: AsyncSession, body: TokenBody, now: dt.datetime) -> None:
    """Refuse what opens nothing, everything by mistake, or something that is not there.

    Raises:
        Wrong: naming the fields.
    """
    errors = [
        WrongField(f"scopes.{position}", f"{scope!r} is none of {', '.join(SCOPES)}")
        for position, scope in enumerate(body.scopes)
        if scope not in SCOPES
    ]
    if not body.name.strip():
        errors.append(WrongField("name", "nobody would know the token again by that"))
    if body.organization is not None and STAFF in body.scopes:
        errors.append(WrongField("organization", "staff opens all organizations: leave it null, or take other scopes"))
    elif body.organization is not None and await session.get(Organization, body.organization) is None:
        errors.append(WrongField("organization", f"there is no organization {body.organization}"))
    if body.expires is not None and body.expires <= now:
        errors.append(WrongField("expires", "that has passed already"))
    if errors:
        raise Wrong(*errors)


@post(
    "/",
    summary="Create: token",
    description="The answer has its key, which cannot be found out again.",
    operation_class=Tagged,
)
async def create_token(request: HubRequest, data: JSONBody[TokenBody]) -> Response[NewToken]:
    """Make a token, and say its key this once."""
    hub = hub_of(request)
    now = hub.clock.now()

    async def work(session: AsyncSession) -> Response[NewToken]:
        await _judge(session, data, now)
        row, key = await new_token(
            session, data.name, now, organization=data.organization, scopes=data.scopes, expires=data.expires
        )
        shown: list[Any] = await show(session, RESOURCE, [row])
        await note(session, RESOURCE, audit.CREATE, row, after=shown[0])
        made = await answer(session, RESOURCE, row, shown[0])
        # The tag is of what can be read again.
        made.content = NewToken(**msgspec.structs.asdict(shown[0]), key=key)
        return made

    return await in_transaction(request, work)


@post("/{row_id:uuid}/revoke", status_code=HTTP_200_OK, summary="Revoke a token", operation_class=Edited)
async def revoke(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Response[Token]:
    """Make a token invalid, at once and for ever; one that is revoked already stays so since when it was."""
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Response[Token]:
        row = await hold(session, RESOURCE, row_id, request)
        told = (await show(session, RESOURCE, [row]))[0]
        row.revoked = row.revoked or hub.clock.now()
        await session.flush()
        shown = (await show(session, RESOURCE, [row]))[0]
        await note(session, RESOURCE, "revoke", row, before=told, after=shown)
        return await answer(session, RESOURCE, row, shown)

    return await in_transaction(request, work)


router = router_of(RESOURCE, create_token, revoke)
