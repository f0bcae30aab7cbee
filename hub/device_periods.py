"""Device periods (additive): which physical meter stood at a metering point when, with its first and last indexes.

A period begins when somebody gives the meter device another serial number: until then runs on the new meter end as
``wrong_meter``, so nothing of it is stored under the old number. The edit comes after the replacement; ``since`` may
be put right afterwards, which moves the end of the period before it and has the readings judged again.

Consumption over a time is the sum over its periods of last minus first index: it never mixes two meters' indexes.
Where a period's last index is below its first, there is no consumption to be told; so it is never negative.
"""

import dataclasses
import datetime as dt
import decimal
import uuid
from collections.abc import Iterable, Sequence

import msgspec
import sqlalchemy as sa
from litestar import get
from sqlalchemy.ext.asyncio import AsyncSession

from hub.access import access_of
from hub.among import among
from hub.bodies import Body
from hub.database import reading
from hub.many import batched
from hub.models import DevicePeriod as Row
from hub.models import MeterDevice, MeterDeviceType, Reading, ReadingSeries, config_series
from hub.paging import is_uuid, parse_instant, parse_uuid, query_of
from hub.problems import NotFound, Wrong, WrongField, wrong
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Values
from hub.state import HubRequest, hub_of
from hub.unjudged import note_devices
from hub.validation import names_of
from protocol.wire import Instant

_EXACT = decimal.Context(prec=120)
_AT_ONCE = 1000
"""Devices whose periods begin together: SQLite takes so many ids in a statement, with room."""


class DevicePeriodBody(Body, kw_only=True):
    """What may be changed of a period: when it began."""

    read_only = READ_ONLY | {"meter_device", "serial", "until", "indexes"}
    since: Instant | None = None


class Index(msgspec.Struct, kw_only=True):
    """The first and last reading of a series in a period."""

    series: uuid.UUID
    first: str
    first_timestamp: dt.datetime
    last: str
    last_timestamp: dt.datetime


class DevicePeriod(DevicePeriodBody, kw_only=True):
    """A period. ``since`` is null for a device's first one, ``until`` for the one that lasts."""

    id: uuid.UUID
    meter_device: uuid.UUID
    serial: str
    until: dt.datetime | None
    indexes: list[Index]
    created_at: dt.datetime
    updated_at: dt.datetime


class ConsumptionPart(msgspec.Struct, kw_only=True):
    """What one physical meter counted. ``flags`` are those of its two readings."""

    serial: str | None
    first: str
    first_timestamp: dt.datetime
    last: str
    last_timestamp: dt.datetime
    consumption: str | None
    flags: list[str]


class Consumption(msgspec.Struct, kw_only=True):
    """What a series counted in a time; null, with the ``reason``, where that cannot be told."""

    consumption: str | None
    reason: str
    unit: str
    parts: list[ConsumptionPart]


@dataclasses.dataclass(frozen=True, slots=True)
class Renumbered:
    """A meter device that is about to be given another serial number than it is ``known`` by."""

    device: uuid.UUID
    known: str | None
    serial: str | None

    @property
    def replaced(self) -> bool:
        """Whether that is another physical meter: a device's first number makes no period."""
        return bool(self.known and self.serial and self.known != self.serial)


async def note_serials(session: AsyncSession, edits: Iterable[Renumbered], now: dt.datetime) -> None:
    """Begin the periods of all these devices at once, each of which stands among them once."""
    replaced = {edit.device: edit for edit in edits if edit.replaced}
    for some in batched(list(replaced.values()), _AT_ONCE):
        lasting = sa.and_(among(session, Row.meter_device, [edit.device for edit in some]), Row.until.is_(None))
        begun = set((await session.scalars(sa.select(Row.meter_device).where(lasting))).all())
        if begun:
            ended = sa.update(Row).where(lasting).values(until=now, updated_at=now)
            await session.execute(ended.execution_options(synchronize_session=False))
        firsts = [(edit.device, edit.known, None, now) for edit in some if edit.device not in begun]
        lasts = [(edit.device, edit.serial, now, None) for edit in some]
        rows = [
            {
                "meter_device": device,
                "serial": serial,
                "since": since,
                "until": until,
                "created_at": now,
                "updated_at": now,
            }
            for device, serial, since, until in (*firsts, *lasts)
        ]
        await session.execute(sa.insert(Row), rows)
    await note_devices(session, replaced)


async def _check(session: AsyncSession, row: Row | None, values: Values, now: dt.datetime) -> None:
    """Move the boundary between a period and the one before it."""
    since = values["since"]
    if row is None or since == row.since:
        return
    if row.since is None:
        raise wrong("since", "a device's first period has no begin: there is no meter before it")
    before = await session.scalar(sa.select(Row).where(Row.meter_device == row.meter_device, Row.until == row.since))
    if since is None or before is None:
        raise wrong("since", "a period after another one needs its begin")
    if before.since is not None and since <= before.since:
        raise wrong("since", f"the period before it began at {before.since.isoformat()}")
    if row.until is not None and since >= row.until:
        raise wrong("since", f"the period ends at {row.until.isoformat()}")
    before.until, before.updated_at = since, now
    await note_devices(session, [row.meter_device])


async def _indexes(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    """Find the first and last reading of each series in each period, in two queries."""
    within = sa.and_(
        Reading.meter_device == Row.meter_device,
        Reading.series == config_series.c.series,
        sa.or_(Row.since.is_(None), Reading.timestamp >= Row.since),
        sa.or_(Row.until.is_(None), Reading.timestamp < Row.until),
    )
    first = sa.select(sa.func.min(Reading.timestamp)).where(within).correlate(Row, config_series).scalar_subquery()
    last = sa.select(sa.func.max(Reading.timestamp)).where(within).correlate(Row, config_series).scalar_subquery()
    found = await session.execute(
        sa.select(Row.id, Row.meter_device, config_series.c.series, first.label("first"), last.label("last"))
        .join(MeterDevice, MeterDevice.id == Row.meter_device)
        .join(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
        .join(config_series, config_series.c.config == MeterDeviceType.config)
        .where(Row.id.in_([row.id for row in rows]))
        .order_by(config_series.c.series)
    )
    ends = [end for end in found if end.first is not None]
    keys = {(end.meter_device, end.series, at) for end in ends for at in (end.first, end.last)}
    values = await _values(session, keys)
    indexes: dict[uuid.UUID, list[Index]] = {}
    for end in ends:
        indexes.setdefault(end.id, []).append(
            Index(
                series=end.series,
                first=values[end.meter_device, end.series, end.first],
                first_timestamp=end.first,
                last=values[end.meter_device, end.series, end.last],
                last_timestamp=end.last,
            )
        )
    return [{"indexes": indexes.get(row.id, [])} for row in rows]


_Key = tuple[uuid.UUID, uuid.UUID, dt.datetime]


async def _values(session: AsyncSession, keys: set[_Key]) -> dict[_Key, str]:
    key = sa.tuple_(Reading.meter_device, Reading.series, Reading.timestamp)
    ordered = sorted(keys)
    values: dict[_Key, str] = {}
    for start in range(0, len(ordered), 300):
        found = await session.execute(
            sa.select(Reading.meter_device, Reading.series, Reading.timestamp, Reading.value).where(
                key.in_(ordered[start : start + 300])
            )
        )
        values |= {(device, series, timestamp): format(value, "f") for device, series, timestamp, value in found}
    return values


@dataclasses.dataclass(frozen=True, slots=True)
class _Stretch:
    """A part of the time that is asked for, in which one meter stood there."""

    serial: str | None
    since: dt.datetime | None
    until: dt.datetime | None


async def consumption_of(
    session: AsyncSession, device: uuid.UUID, series: ReadingSeries, start: dt.datetime, end: dt.datetime
) -> Consumption:
    """Return what a series of a device counted from ``start`` to ``end``, meter by meter.

    An index counts from its reading's timestamp on: the index at ``start`` is the last one that is not after it, or
    else the first one after it.
    """
    rows = (
        await session.scalars(
            sa.select(Row).where(Row.meter_device == device).order_by(Row.since.is_not(None), Row.since)
        )
    ).all()
    stretches = [_Stretch(row.serial, row.since, row.until) for row in rows] or [_Stretch(None, None, None)]
    parts = []
    for stretch in stretches:
        of_meter = sa.select(Reading).where(Reading.meter_device == device, Reading.series == series.id)
        if stretch.since is not None:
            of_meter = of_meter.where(Reading.timestamp >= stretch.since)
        if stretch.until is not None:
            of_meter = of_meter.where(Reading.timestamp < stretch.until)
        newest, oldest = Reading.timestamp.desc(), Reading.timestamp
        last = await session.scalar(of_meter.where(Reading.timestamp <= end).order_by(newest).limit(1))
        if last is None or last.timestamp < start:
            continue
        first = await session.scalar(of_meter.where(Reading.timestamp <= start).order_by(newest).limit(1))
        if first is None:
            first = await session.scalar(of_meter.order_by(oldest).limit(1))
        parts.append(_part(stretch.serial, first or last, last))
    known = [decimal.Decimal(part.consumption) for part in parts if part.consumption is not None]
    reason = "" if parts else "there are no readings in this time"
    if len(known) < len(parts):
        reason = "an index is below an earlier one of the same meter"
    total = None if reason else format(sum(known, start=decimal.Decimal(0)), "f")
    return Consumption(consumption=total, reason=reason, unit=series.unit, parts=parts)


def _part(serial: str | None, first: Reading, last: Reading) -> ConsumptionPart:
    counted = _EXACT.subtract(last.value, first.value)
    return ConsumptionPart(
        serial=serial,
        first=format(first.value, "f"),
        first_timestamp=first.timestamp,
        last=format(last.value, "f"),
        last_timestamp=last.timestamp,
        consumption=format(counted, "f") if counted >= 0 else None,
        flags=names_of(first.flags | last.flags),
    )


_ASKED = ("meter_device", "series", "start_time", "end_time")


@get("/consumption", summary="Consumption of a series of a meter device in a time")
async def read_consumption(request: HubRequest) -> Consumption:
    """Answer what was counted, meter by meter; never a negative number."""
    query = query_of(request, _ASKED)
    missing = [WrongField(name, "this field is required") for name in _ASKED if name not in query]
    if missing:
        raise Wrong(*missing)
    device, wanted = (parse_uuid(name, query[name]) for name in _ASKED[:2])
    start, end = (parse_instant(name, query[name]) for name in _ASKED[2:])
    async with reading(hub_of(request).engine) as session:
        series, meter = await session.get(ReadingSeries, wanted), await session.get(MeterDevice, device)
        seen = access_of(request).covers
        if series is None or meter is None or not seen(series.organization) or not seen(meter.organization):
            raise NotFound("there is no such meter device, or no such series")
        return await consumption_of(session, device, series, start, end)


async def _owner(session: AsyncSession, row: Row) -> uuid.UUID | None:
    return await session.scalar(sa.select(MeterDevice.organization).where(MeterDevice.id == row.meter_device))


RESOURCE = Resource(
    noun="device period",
    path="/v1/metering/device-periods",
    model=Row,
    body=DevicePeriodBody,
    out=DevicePeriod,
    operations=frozenset({"list", "read", "edit"}),
    filters={"meter_device": is_uuid(Row.meter_device)},
    check=_check,
    more=_indexes,
    owned=lambda organization: Row.meter_device.in_(
        sa.select(MeterDevice.id).where(MeterDevice.organization == organization)
    ),
    owner=_owner,
    order=(Row.meter_device, Row.since.is_not(None), Row.since),
)

router = router_of(RESOURCE, read_consumption)
