"""The quarantine (additive, ``/v1/quarantine``): payloads that could not be read, as they came; look, replay, delete.

A replay takes the payload through ingestion once more, after a fix: it is stored like any delivery, or it stays with
the reason why it still cannot be read.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK
from sqlalchemy.ext.asyncio import AsyncSession

from hub.database import reading
from hub.ingest import Delivery, replay_row, store_deliveries
from hub.models import Quarantined as Row
from hub.paging import equals, since, until
from hub.problems import Conflict
from hub.quarantine import ROW, name_of
from hub.resources import LOOK, Resource, Values, changing, find, router_of, show
from hub.state import Hub, HubRequest, hub_of
from protocol.readings import name_properties
from protocol.reports import STORED
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
    order=(Row.received_at,),
)


@post("/{row_id:int}/replay", status_code=HTTP_200_OK, summary="Take a quarantined payload through ingestion again")
async def replay(request: HubRequest, row_id: FromPath[int]) -> QuarantinedPayload:
    """Store what can be read by now.

    Raises:
        Conflict: when it still cannot be stored, with the reason.
    """
    hub = hub_of(request)
    async with reading(hub.engine) as session:
        row = await find(session, RESOURCE, row_id)
    if row.replayed_at is not None:
        raise Conflict("this was replayed already")
    reason = await _store(hub, row)
    if reason:
        raise Conflict(f"this still cannot be stored: {reason}")
    async with changing(hub) as session:
        row = await find(session, RESOURCE, row_id, lock=True)
        row.replayed_at = hub.clock.now()
        await session.flush()
        answer: Any = (await show(session, RESOURCE, [row]))[0]
    replayed: QuarantinedPayload = answer
    return replayed


async def _store(hub: Hub, row: Row) -> str:
    now = hub.clock.now()
    if row.channel.endswith(ROW):
        return await replay_row(hub.engine, row.topic, row.payload, now)
    name = name_of(row)
    delivery = Delivery(row.topic, row.payload, tuple(name_properties(name) if name else ()), now)
    outcome = await store_deliveries(hub.engine, [delivery], now, hub.settings.quarantine_rows)
    return "" if any(word == STORED for _, _, word in outcome.receipts) else row.reason


router = router_of(RESOURCE, replay)
