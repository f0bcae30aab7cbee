"""Gateways (additive, ``/v1/gateways``): where agents run; what each should run, was sent and says it runs.

The gateway's own id stands in topics and never changes. Its key is the first one seen; ``POST .../forget-key`` forgets
it, so that the key of a replaced machine is trusted anew.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Sequence
from typing import Annotated, Any

from litestar import Response, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.bodies import Body
from hub.etags import Edited
from hub.models import Batch, Caller, Command, LossRecord, NetworkInterface, Receiver, RunReport, StagedReading
from hub.models import Gateway as Row
from hub.outboxes import RunErrors, read_errors, read_rates
from hub.paging import equals, is_true, is_uuid
from hub.plans import raise_changed
from hub.problems import wrong
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Use, Values, answer, hold, in_transaction, note, show
from hub.rivals import conflict_of
from hub.sealed_keys import forget_sealed, read_missing
from hub.state import HubRequest, hub_of
from protocol.envelopes import fingerprint
from protocol.topics import check_gateway_id
from protocol.wire import ContractError


class GatewayBody(Body, kw_only=True):
    """A gateway as clients send it. While ``backfill_paused`` none of its meters is asked for what is missing."""

    read_only = READ_ONLY | {
        "key_fingerprint",
        "sealing_key_fingerprint",
        "desired_revision",
        "desired_at",
        "published_revision",
        "applied_revision",
        "problems",
        "in_step",
        "online",
        "last_seen",
        "store_id",
        "software",
        "depth",
        "oldest",
        "oldest_seconds",
        "clock_believed",
        "status",
        "rows_per_second",
        "drain_seconds",
        "errors",
        "conflict",
        "lines",
    }
    gateway_id: str
    organization: uuid.UUID
    name: Annotated[str, Meta(max_length=150)] = ""
    description: Annotated[str, Meta(max_length=500)] = ""
    backfill_paused: bool = False


class Gateway(GatewayBody, kw_only=True):
    """A gateway. ``depth`` rows without a receipt wait there, the oldest since ``oldest`` (``oldest_seconds``).

    ``desired_revision`` is the plan that it should run (since ``desired_at``), ``published_revision`` was last sent,
    ``applied_revision`` is the one that it runs, but for the items in ``problems``. ``drain_seconds`` is how long
    ``depth`` rows take at ``rows_per_second``; ``errors`` are the last of each kind; ``conflict`` tells of another
    agent under this id; ``lines`` are what each line did (``protocol.reports.LineFigures``).
    """

    id: uuid.UUID
    key_fingerprint: str | None
    sealing_key_fingerprint: str | None
    desired_revision: int
    desired_at: dt.datetime | None
    published_revision: int
    applied_revision: int
    problems: list[Any]
    in_step: bool
    online: bool
    last_seen: dt.datetime | None
    store_id: str | None
    software: str
    depth: int
    oldest: dt.datetime | None
    oldest_seconds: float | None
    clock_believed: bool
    status: str
    rows_per_second: float | None
    drain_seconds: float | None
    errors: list[RunErrors]
    conflict: str
    lines: list[Any]
    created_at: dt.datetime
    updated_at: dt.datetime


async def _check(_session: AsyncSession, row: Row | None, values: Values, _now: dt.datetime) -> None:
    try:
        check_gateway_id(values["gateway_id"])
    except ContractError as error:
        raise wrong("gateway_id", str(error)) from error
    if row is not None and row.gateway_id != values["gateway_id"]:
        raise wrong("gateway_id", "a gateway's id never changes: it stands in topics")


async def _state(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    rates = await read_rates(session, [row.id for row in rows if row.online and row.depth])
    errors = await read_errors(session, [row.id for row in rows])
    missing = await missing_keys(session, [row.id for row in rows])
    return [
        {
            "key_fingerprint": fingerprint(row.public_key) if row.public_key is not None else None,
            "sealing_key_fingerprint": fingerprint(row.sealing_key) if row.sealing_key is not None else None,
            "problems": [*row.applied_problems, *missing.get(row.id, [])],
            "in_step": row.desired_revision == row.applied_revision,
            "store_id": row.store_id.hex() if row.store_id is not None else None,
            "oldest_seconds": _age(row),
            "rows_per_second": round(rate, 1) if (rate := rates.get(row.id)) else None,
            "drain_seconds": round(row.depth / rate, 1) if rate else (None if row.depth else 0.0),
            "errors": errors.get(row.id, []),
            "conflict": (conflict := conflict_of(row)),
            "status": "; ".join(part for part in (row.status, conflict) if part),
        }
        for row in rows
    ]


async def missing_keys(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, list[Values]]:
    """Return which keys each gateway would need for what it should run, and has not, in the form of problems."""
    found: dict[uuid.UUID, list[Values]] = {}
    for gateway, missing in (await read_missing(session, gateways)).items():
        found[gateway] = [{"kind": "receiver", "item": str(one.receiver), "text": one.text} for one in missing]
    return found


def _age(row: Row) -> float | None:
    """Return how old the oldest waiting row was when the gateway was last heard, in seconds."""
    if row.oldest is None or row.last_seen is None:
        return None
    return round(max(0.0, (row.last_seen - row.oldest).total_seconds()), 1)


async def _itself(session: AsyncSession, row_id: FromPath[uuid.UUID]) -> set[uuid.UUID]:
    return set((await session.execute(select(Row.id).where(Row.id == row_id))).scalars())


RESOURCE = Resource(
    noun="gateway",
    path="/v1/gateways",
    model=Row,
    body=GatewayBody,
    out=Gateway,
    unique=("gateway_id",),
    plain=frozenset({"name", "description", "backfill_paused"}),
    # The other columns are written whenever the gateway is heard.
    edited=frozenset(GatewayBody.__struct_fields__),
    filters={
        "gateway_id": equals(Row.gateway_id),
        "organization": is_uuid(Row.organization),
        "online": is_true(Row.online),
    },
    used_by=(
        Use("network interfaces", NetworkInterface, "gateway"),
        Use("callers", Caller, "gateway"),
        Use("receivers", Receiver, "gateway"),
        Use("commands", Command, "gateway"),
        Use("batches", Batch, "gateway"),
        Use("staged readings", StagedReading, "gateway"),
        Use("run reports", RunReport, "gateway"),
        Use("loss records", LossRecord, "gateway"),
    ),
    check=_check,
    more=_state,
    gateways=_itself,
)


@post(
    "/{row_id:uuid}/forget-key",
    status_code=HTTP_200_OK,
    summary="Forget the key of a gateway",
    operation_class=Edited,
)
async def forget_key(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Response[Gateway]:
    """Trust the next key that the gateway shows."""
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Response[Gateway]:
        row = await hold(session, RESOURCE, row_id, request)
        told = (await show(session, RESOURCE, [row]))[0]
        row.public_key, row.updated_at = None, hub.clock.now()
        row.rival_key = None
        # What the old machine could open goes from its plan too.
        await forget_sealed(session, row)
        await session.flush()
        await raise_changed(session, [row.id], row.updated_at)
        await session.refresh(row)
        shown = (await show(session, RESOURCE, [row]))[0]
        await note(session, RESOURCE, "forget key", row, before=told, after=shown)
        return await answer(session, RESOURCE, row, shown)

    return await in_transaction(request, work, RESOURCE)


router = router_of(RESOURCE, forget_key)
