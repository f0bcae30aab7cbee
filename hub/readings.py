"""Readings: what is stored of meters, each reading once, with every version that ever arrived of it."""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any

from litestar import Response, post
from litestar.params import JSONBody
from sqlalchemy import ColumnElement, and_, delete, select
from sqlalchemy import text as text_of
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit, ledger_pending, versions
from hub.etags import Tagged
from hub.judging import FUTURE, OLDEST
from hub.models import MeterDevice, MeterDeviceType, Organization, ReadingSeries, ReadingVersion, config_series
from hub.models import Reading as Row
from hub.paging import is_uuid, since, until
from hub.problems import Wrong, WrongField, wrong
from hub.readings_shown import COLUMNS, MeterReadings, MeterReadingsBody, same_key, shown
from hub.readings_told import TOLD
from hub.resource_routes import router_of
from hub.resources import EVERYTHING, Resource, answer, in_transaction, show
from hub.state import HubRequest, hub_of
from hub.unjudged import Span, note
from hub.validation import FLAGS
from protocol.wire import ContractError, checked_decimal

FROM_STAFF = "staff"
"""Provenance: somebody, or another system, gave the reading through REST."""


async def _forget(session: AsyncSession, row: Row, _request: HubRequest) -> None:
    await session.execute(delete(ReadingVersion).where(same_key([(row.meter_device, row.series, row.timestamp)])))
    key = (row.meter_device.int, row.series.int, row.timestamp)
    await ledger_pending.note(session, [key], removed=True)
    # The readings after it are judged by the one that is now before them.
    await note(session, [Span(row.meter_device, row.series, row.timestamp, row.timestamp)])


def _has_flag(name: str, text: str) -> ColumnElement[bool]:
    """Filter by a flag, or ``any``."""
    bits = sum(FLAGS.values()) if text == "any" else FLAGS.get(text)
    if bits is None:
        raise wrong(name, f"{text!r} is none of any, {', '.join(FLAGS)}")
    # In the words of the index that has flagged readings only.
    return and_(text_of("readings.flags <> 0"), Row.flags.bitwise_and(bits) != 0)


async def store_one(session: AsyncSession, body: MeterReadingsBody, now: dt.datetime) -> Row:
    """Store a reading that staff sent; a repeated one is the same reading, another value a new version.

    Raises:
        Wrong: naming the field; a meter takes readings of its configured series only.
    """
    errors = []
    try:
        checked_decimal(body.value)
    except ContractError as error:
        errors.append(WrongField("value", str(error)))
    if not OLDEST <= body.timestamp <= now + FUTURE:
        errors.append(
            WrongField("timestamp", f"{body.timestamp.isoformat()} lies before 2000 or too far in the future")
        )
    if await session.get(Organization, body.organization) is None:
        errors.append(WrongField("organization", f"there is no organization {body.organization}"))
    device = await session.get(MeterDevice, body.meter_device)
    series = await session.get(ReadingSeries, body.series)
    if device is None or device.organization != body.organization:
        errors.append(WrongField("meter_device", f"there is no meter {body.meter_device} in this organization"))
    if series is None or series.organization != body.organization:
        errors.append(WrongField("series", f"there is no series {body.series} in this organization"))
    elif device is not None and device.organization == body.organization:
        allowed = await session.execute(
            select(config_series.c.series)
            .join(MeterDeviceType, MeterDeviceType.config == config_series.c.config)
            .where(MeterDeviceType.id == device.type, config_series.c.series == series.id)
        )
        if allowed.first() is None:
            errors.append(
                WrongField("series", f"{series.name} is not among the configured series of the meter {device.name}")
            )
    if errors or series is None:
        raise Wrong(*errors)
    arrival = versions.Arrival(
        organization=body.organization,
        device=body.meter_device,
        series=body.series,
        timestamp=body.timestamp,
        value=body.value,
        collected=now,
        unit=series.unit,
        provenance=FROM_STAFF,
    )
    await versions.store(session, [arrival], now)
    statement = select(Row).where(
        Row.meter_device == body.meter_device, Row.series == body.series, Row.timestamp == body.timestamp
    )
    return (await session.execute(statement)).scalar_one()


def walk(filters: Collection[str]) -> Sequence[Any]:
    """Return what a walk over readings goes along: of one meter its series in turn, else time."""
    if "meter_device" not in filters:
        return Row.timestamp, Row.id
    return (Row.timestamp,) if "series" in filters else (Row.series, Row.timestamp)


RESOURCE = Resource(
    noun="reading",
    path="/v1/metering/meter-readings",
    model=Row,
    body=MeterReadingsBody,
    out=MeterReadings,
    operations=EVERYTHING - {"create", "edit"},
    integer_ids=True,
    filters={
        "meter_device": is_uuid(Row.meter_device),
        "series": is_uuid(Row.series),
        "start_time": since(Row.timestamp),
        "end_time": until(Row.timestamp),
        "flag": _has_flag,
    },
    columns=COLUMNS,
    shown=shown,
    forget=_forget,
    order=(Row.timestamp,),
    orderings={"timestamp": Row.timestamp, "created_at": Row.created_at},
    walk=walk,
    told=TOLD,
)


@post("/", summary="Create: reading", operation_class=Tagged)
async def create_reading(request: HubRequest, data: JSONBody[MeterReadingsBody]) -> Response[MeterReadings]:
    """Store a reading of a meter."""
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Response[MeterReadings]:
        row = await store_one(session, data, hub.clock.now())
        told = (await show(session, RESOURCE, [row]))[0]
        audit.note(session, audit.CREATE, RESOURCE.noun, row.id, row.organization, after=told)
        return await answer(session, RESOURCE, row, told)

    return await in_transaction(request, work)


router = router_of(RESOURCE, create_reading)
