"""Staged readings: those that cannot be readings yet, with the reason; they become readings when it is gone.

Staff may add, correct or purge them. What a correction makes acceptable is adopted by the next sweep.
"""

import datetime as dt
import decimal
import uuid
from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy.ext.asyncio import AsyncSession

from hub import judging, staging
from hub.bodies import Body
from hub.models import StagedReading as Row
from hub.paging import equals, is_uuid, since, until
from hub.problems import wrong
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Values
from hub.told import Parts, Told, instant, number, object_of, or_null, plain, quoted, text
from protocol.wire import ContractError, Instant, checked_decimal

BY_STAFF = "staff"

ACCEPTABLE = "acceptable"
"""The reason of a staged reading that nothing holds up: the next sweep adopts it."""


class StagedMeterReadingBody(Body, kw_only=True):
    """A staged reading as staff sends it; ``organization`` is additive."""

    read_only = READ_ONLY | {"reason", "device", "gateway", "unit", "collected", "provenance", "clock_offset"}
    meter_device_name: Annotated[str, Meta(min_length=1, max_length=50)]
    series_name: Annotated[str, Meta(min_length=1, max_length=50)]
    timestamp: Instant
    value: decimal.Decimal
    organization: uuid.UUID | None = None


class StagedMeterReading(StagedMeterReadingBody, kw_only=True):
    """A staged reading. All from ``reason`` on is additive; ``device`` is the meter that the gateway named."""

    id: int
    reason: str
    device: uuid.UUID | None
    gateway: uuid.UUID | None
    unit: str
    collected: dt.datetime
    provenance: str
    clock_offset: float | None
    created_at: dt.datetime
    updated_at: dt.datetime


async def _check(session: AsyncSession, row: Row | None, values: Values, now: dt.datetime) -> None:
    try:
        checked_decimal(values["value"])
    except ContractError as error:
        raise wrong("value", str(error)) from error
    claim = judging.Claim(
        meter=values["meter_device_name"],
        series=values["series_name"],
        timestamp=values["timestamp"],
        value=values["value"],
        collected=row.collected if row is not None else now,
        organization=values["organization"],
        provenance=row.provenance if row is not None else BY_STAFF,
        gateway=row.gateway if row is not None else None,
        # With another name the reading is claimed for another meter than the gateway said.
        device=row.device if row is not None and row.meter_device_name == values["meter_device_name"] else None,
    )
    judgement = (await judging.look_up(session, [claim])).judge(claim, now)
    values |= {
        "identity": staging.identity(claim),
        "reason": judgement if isinstance(judgement, str) else ACCEPTABLE,
        "collected": claim.collected,
        "provenance": claim.provenance,
        "device": claim.device,
    }


class _Place(msgspec.Struct):
    """What lists are walked along."""

    id: int
    timestamp: dt.datetime
    created_at: dt.datetime


def _told(table: str, name: str) -> Parts:
    column = f"{table}.{name}"
    match name:
        case "id":
            return plain(column)
        case "value":
            return quoted(column)
        case "organization" | "device" | "gateway":
            return or_null(column, quoted(column))
        case "timestamp" | "collected" | "created_at" | "updated_at":
            return instant(column)
        case "clock_offset":
            return number(column)
        case _:
            return text(column)


RESOURCE = Resource(
    noun="staged reading",
    path="/v1/metering/staged-meter-readings",
    model=Row,
    body=StagedMeterReadingBody,
    out=StagedMeterReading,
    integer_ids=True,
    filters={
        "meter_device_name": equals(Row.meter_device_name),
        "start_time": since(Row.timestamp),
        "end_time": until(Row.timestamp),
        "reason": equals(Row.reason),
        "gateway": is_uuid(Row.gateway),
    },
    check=_check,
    order=(Row.created_at,),
    orderings={"timestamp": Row.timestamp, "created_at": Row.created_at},
    walk=lambda _filters: (Row.id,),
    told=Told(
        StagedMeterReading.__struct_fields__,
        lambda table: object_of([(name, _told(table, name)) for name in StagedMeterReading.__struct_fields__]),
        _Place,
        key="id",
    ),
)

router = router_of(RESOURCE)
