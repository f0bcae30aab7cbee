"""The quarantine (additive, ``/v1/quarantine``): payloads that could not be read, as they came; look, replay, delete.

A replay takes the payload through ingestion once more, after a fix: it is stored like any delivery, or it stays with
the reason why it still cannot be read.
"""

import datetime as dt
import uuid
from collections.abc import Sequence

import msgspec
from litestar import Response, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.etags import Edited
from hub.ingest import Delivery, store_again, store_row_again
from hub.models import Gateway
from hub.models import Quarantined as Row
from hub.paging import equals, since, until
from hub.problems import Conflict
from hub.quarantine import ROW, name_of
from hub.resource_routes import router_of
from hub.resources import LOOK, Resource, Values, answer, hold, in_transaction, note, show
from hub.state import Hub, HubRequest, hub_of
from protocol.readings import name_properties
from protocol.wire import ContractError, plain


class QuarantinedPayload(msgspec.Struct, kw_only=True):
    """A payload. ``payload`` is in hex; ``content`` is what can be made of it for people, if anything."""

    id: int
    gateway: str
    channel: str
    topic: str
    reason: str
    payload: str
    content: str
    store: str | None
    first: int | None
    last: int | None
    received_at: dt.datetime
    replayed_at: dt.datetime | None


def _content(payload: bytes) -> str:
    try:
        return repr(plain(payload))[:2000]
    except ContractError as error:
        return str(error)


async def _more(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [
        {
            "payload": row.payload.hex(),
            "content": _content(row.payload),
            "store": row.store.hex() if row.store is not None else None,
        }
        for row in rows
    ]


async def _owner(session: AsyncSession, row: Row) -> uuid.UUID | None:
    return await session.scalar(select(Gateway.organization).where(Gateway.gateway_id == row.gateway))


RESOURCE = Resource(
    noun="quarantined payload",
    path="/v1/quarantine",
    model=Row,
    out=QuarantinedPayload,
    operations=LOOK | {"delete"},
    integer_ids=True,
    filters={
        "gateway": equals(Row.gateway),
        "channel": equals(Row.channel),
        "start_time": since(Row.received_at),
        "end_time": until(Row.received_at),
    },
    more=_more,
    owned=lambda organization: Row.gateway.in_(select(Gateway.gateway_id).where(Gateway.organization == organization)),
    owner=_owner,
    order=(Row.received_at,),
)


@post(
    "/{row_id:int}/replay",
    status_code=HTTP_200_OK,
    summary="Take a quarantined payload through ingestion again",
    operation_class=Edited,
)
async def replay(request: HubRequest, row_id: FromPath[int]) -> Response[QuarantinedPayload]:
    """Store what can be read by now.

    Raises:
        Conflict: when it still cannot be stored, with the reason.
    """
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Response[QuarantinedPayload]:
        row = await hold(session, RESOURCE, row_id, request)
        if row.replayed_at is not None:
            raise Conflict("this was replayed already")
        reason = await _store(session, hub, row)
        if reason:
            raise Conflict(f"this still cannot be stored: {reason}")
        row.replayed_at = hub.clock.now()
        await session.flush()
        shown: QuarantinedPayload = (await show(session, RESOURCE, [row]))[0]
        await note(session, RESOURCE, "replay", row, after={"replayed_at": shown.replayed_at})
        return await answer(session, RESOURCE, row, shown)

    return await in_transaction(request, work)


async def _store(session: AsyncSession, hub: Hub, row: Row) -> str:
    now = hub.clock.now()
    if row.channel.endswith(ROW):
        return await store_row_again(session, row.topic, row.payload, now)
    name = name_of(row)
    delivery = Delivery(row.topic, row.payload, tuple(name_properties(name) if name else ()), now)
    return "" if await store_again(session, delivery, now, hub.settings.quarantine_rows) else row.reason


router = router_of(RESOURCE, replay)
