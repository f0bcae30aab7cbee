"""Callers (additive, ``/v1/callers``): who may invoke calls on a gateway over MQTT, and which."""

import datetime as dt
import re
import uuid
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from contexts.catalogue import CONTEXTS
from hub.bodies import Body
from hub.dispatch import OWN
from hub.models import Caller as Row
from hub.models import Gateway
from hub.paging import equals, is_uuid
from hub.problems import Wrong, WrongField
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Values
from protocol.envelopes import fingerprint
from protocol.wire import Instant

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_KEY = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


class CallerBody(Body, kw_only=True):
    """A caller as clients send it. ``public_key`` is an Ed25519 key as 64 hex digits.

    ``allowed`` lists ``context.call``, or ``context.*`` for all calls of a context.
    """

    read_only = READ_ONLY | {"key_fingerprint"}
    organization: uuid.UUID
    gateway: uuid.UUID
    name: str
    public_key: str
    allowed: list[Annotated[str, Meta(min_length=1, max_length=101)]] = msgspec.field(default_factory=list)
    expires: Instant | None = None


class Caller(CallerBody, kw_only=True):
    """A caller."""

    id: uuid.UUID
    key_fingerprint: str
    created_at: dt.datetime
    updated_at: dt.datetime


async def _check(_session: AsyncSession, row: Row | None, values: Values, _now: dt.datetime) -> None:
    errors = []
    if not _NAME.fullmatch(values["name"]):
        errors.append(WrongField("name", "must be of the form [a-z0-9][a-z0-9-]{0,62}: it stands in topics"))
    if values["name"] in OWN:
        errors.append(WrongField("name", f"{values['name']!r} is what the hub's own commands bear; choose another"))
    if row is not None and values["gateway"] != row.gateway:
        errors.append(WrongField("gateway", "a caller stays with its gateway"))
    key = values["public_key"]
    if isinstance(key, str):
        if _KEY.fullmatch(key):
            values["public_key"] = bytes.fromhex(key)
        else:
            errors.append(WrongField("public_key", "an Ed25519 public key as 64 hex digits is expected"))
    granted = {f"{context.name}.{call}" for context in CONTEXTS.values() for call in ("*", *context.calls)}
    errors += [
        WrongField(f"allowed.{position}", f"{grant!r} is none of {', '.join(sorted(granted))}")
        for position, grant in enumerate(values["allowed"])
        if grant not in granted
    ]
    if errors:
        raise Wrong(*errors)


async def _keys(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [{"public_key": row.public_key.hex(), "key_fingerprint": fingerprint(row.public_key)} for row in rows]


async def _gateway(session: AsyncSession, row_id: uuid.UUID) -> set[uuid.UUID]:
    return set((await session.execute(select(Row.gateway).where(Row.id == row_id))).scalars())


RESOURCE = Resource(
    noun="caller",
    path="/v1/callers",
    model=Row,
    body=CallerBody,
    out=Caller,
    references={"gateway": Gateway},
    unique=("gateway", "name"),
    filters={"gateway": is_uuid(Row.gateway), "name": equals(Row.name)},
    check=_check,
    more=_keys,
    gateways=_gateway,
)

router = router_of(RESOURCE)
