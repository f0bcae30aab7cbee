"""Readings: what is stored of meters, each reading once, with every version that ever arrived of it."""

import datetime as dt
import decimal
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from litestar import Response, post
from litestar.params import JSONBody
from sqlalchemy import ColumnElement, and_, delete, select, tuple_
from sqlalchemy import text as text_of
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit, ledger_pending, versions
from hub.bodies import Body
from hub.etags import Tagged
from hub.judging import FUTURE, OLDEST
from hub.models import Batch, MeterDevice, MeterDeviceType, Organization, ReadingSeries, ReadingVersion, config_series
from hub.models import Reading as Row
from hub.paging import is_uuid, since, until
from hub.problems import Wrong, WrongField, wrong
from hub.resource_routes import router_of
from hub.resources import EVERYTHING, Resource, Values, answer, in_transaction, show
from hub.state import HubRequest, hub_of
from hub.unjudged import Span, note
from hub.validation import FLAGS, names_of
from protocol.wire import ContractError, Instant, checked_decimal

FROM_STAFF = "staff"
"""Provenance: somebody, or another system, gave the reading through REST."""


class MeterReadingsBody(Body, kw_only=True):
    """A reading as staff sends it."""

    read_only = frozenset(
        {
            "id",
            "created_at",
            "unit",
            "collected",
            "provenance",
            "clock_offset",
            "version_count",
            "versions",
            "flags",
        }
    )
    organization: uuid.UUID
    meter_device: uuid.UUID
    series: uuid.UUID
    timestamp: Instant
    value: decimal.Decimal


class Version(msgspec.Struct, kw_only=True):
    """One of several values that arrived for the same reading; ``provenance`` and ``gateway`` say which way it came."""

    value: str
    first_collected: dt.datetime
    collected: dt.datetime
    provenance: str
    gateway: uuid.UUID | None


class MeterReadings(MeterReadingsBody, kw_only=True):
    """A reading; all from ``unit`` on is additive. ``versions`` is there when there is more than one."""

    id: int
    created_at: dt.datetime
    unit: str
    collected: dt.datetime
    provenance: str
    clock_offset: float | None
    version_count: int
    flags: list[str]
    versions: list[Version] | msgspec.UnsetType = msgspec.UNSET


async def _more(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    # A pushed reading has no unit of its own: it is in that of its series.
    silent = {row.series for row in rows if not row.unit}
    units: dict[uuid.UUID, str] = {}
    if silent:
        statement = select(ReadingSeries.id, ReadingSeries.unit).where(ReadingSeries.id.in_(silent))
        units = {row.id: row.unit for row in await session.execute(statement)}
    several = await _versions(session, rows)
    return [
        {"unit": row.unit or units.get(row.series, ""), "flags": names_of(row.flags), **values}
        for row, values in zip(rows, several, strict=True)
    ]


async def _versions(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    several = [row for row in rows if row.version_count > 1]
    found: dict[tuple[uuid.UUID, uuid.UUID, dt.datetime], list[Version]] = {}
    for some in (several[start : start + 300] for start in range(0, len(several), 300)):
        statement = (
            select(ReadingVersion, Batch.gateway)
            .join(Batch, Batch.id == ReadingVersion.batch, isouter=True)
            .where(_same_key(some))
            .order_by(ReadingVersion.collected, ReadingVersion.id)
        )
        for version, gateway in await session.execute(statement):
            found.setdefault((version.meter_device, version.series, version.timestamp), []).append(
                Version(
                    value=format(version.value, "f"),
                    first_collected=version.first_collected,
                    collected=version.collected,
                    provenance=version.provenance,
                    gateway=gateway,
                )
            )
    return [
        {"versions": found[key]} if (key := (row.meter_device, row.series, row.timestamp)) in found else {}
        for row in rows
    ]


def _same_key(rows: Sequence[Row]) -> ColumnElement[bool]:
    key = tuple_(ReadingVersion.meter_device, ReadingVersion.series, ReadingVersion.timestamp)
    return key.in_([(row.meter_device, row.series, row.timestamp) for row in rows])


async def _forget(session: AsyncSession, row: Row, _request: HubRequest) -> None:
    await session.execute(delete(ReadingVersion).where(_same_key([row])))
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
    more=_more,
    forget=_forget,
    order=(Row.timestamp,),
    orderings={"timestamp": Row.timestamp, "created_at": Row.created_at},
    walk=walk,
)


@post("/", summary="Create: reading", operation_class=Tagged)
async def create_reading(request: HubRequest, data: JSONBody[MeterReadingsBody]) -> Response[MeterReadings]:
    """Store a reading of a meter."""
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Response[MeterReadings]:
        row = await store_one(session, data, hub.clock.now())
        shown = (await show(session, RESOURCE, [row]))[0]
        audit.note(session, audit.CREATE, RESOURCE.noun, row.id, row.organization, after=shown)
        return await answer(session, RESOURCE, row, shown)

    return await in_transaction(request, work)


router = router_of(RESOURCE, create_reading)
