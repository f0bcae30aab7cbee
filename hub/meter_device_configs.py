"""Meter device configs: which series the meters of a type may have, in which time zone they live."""

import datetime as dt
import functools
import uuid
import zoneinfo
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import plans
from hub.bodies import Body
from hub.expected_series import ExpectedSeries, raster_of
from hub.models import MeterDevice, MeterDeviceType, ReadingSeries, config_series
from hub.models import MeterDeviceConfig as Row
from hub.problems import Wrong, WrongField, wrong
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Link, Resource, Use, Values
from hub.unjudged import note_devices
from hub.validation import Limit
from protocol.wire import ContractError, checked_decimal

_LARGEST_ARCHIVE = 99


class Mapping(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Another series name for one quantity. ``archive`` 0 stands for single reads and totals."""

    archive: Annotated[int, Meta(ge=0, le=_LARGEST_ARCHIVE)]
    source: Annotated[str, Meta(min_length=1, max_length=20)]
    series: Annotated[str, Meta(min_length=1, max_length=50)]


class MeterDeviceConfigBody(Body, kw_only=True):
    """A config as clients send it. ``mappings``, ``expectations`` and ``limits`` are additive."""

    read_only = READ_ONLY | {"series_info"}
    organization: uuid.UUID
    name: Annotated[str, Meta(min_length=1, max_length=50)]
    series: list[uuid.UUID]
    timezone: str = "UTC"
    mappings: list[Mapping] = msgspec.field(default_factory=list)
    expectations: list[ExpectedSeries] = msgspec.field(default_factory=list)
    limits: list[Limit] = msgspec.field(default_factory=list)


class MeterDeviceConfig(MeterDeviceConfigBody, kw_only=True):
    """A config. ``series_info`` names its series, for people."""

    id: uuid.UUID
    series_info: str
    created_at: dt.datetime
    updated_at: dt.datetime


@functools.cache
def _zones() -> frozenset[str]:
    """The names of all time zones: looking them up walks through hundreds of files."""
    return frozenset(zoneinfo.available_timezones())


def check_timezone(field: str, name: str) -> None:
    """Accept the names of the IANA time zone database only.

    Raises:
        Wrong: naming the field.
    """
    if name not in _zones():
        raise wrong(field, f"{name!r} is not an IANA time zone name, such as Europe/Berlin")


async def _check(session: AsyncSession, row: Row | None, values: Values, _now: dt.datetime) -> None:
    check_timezone("timezone", values["timezone"])
    mappings = values["mappings"] = msgspec.to_builtins(values["mappings"])
    statement = select(ReadingSeries.name).where(ReadingSeries.id.in_(values["series"]))
    names = set((await session.execute(statement)).scalars())
    errors = []
    seen = set()
    for position, mapping in enumerate(mappings):
        source = (mapping["archive"], mapping["source"])
        if source in seen:
            errors.append(WrongField(f"mappings.{position}", "this archive and source stand in it before"))
        seen.add(source)
        if mapping["series"] not in names:
            errors.append(WrongField(f"mappings.{position}.series", f"{mapping['series']!r} is none of the series"))
    expected = values["expectations"] = msgspec.to_builtins(values["expectations"])
    errors += _wrong_expectations(expected, names, values["timezone"])
    limits = msgspec.convert(msgspec.to_builtins(values["limits"]), list[Limit])
    values["limits"] = msgspec.to_builtins(limits)
    errors += _wrong_limits(limits, names)
    if errors:
        raise Wrong(*errors)
    if row is not None and values["limits"] != row.limits:
        devices = await session.scalars(
            select(MeterDevice.id)
            .join(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
            .where(MeterDeviceType.config == row.id)
        )
        await note_devices(session, devices.all())


def _wrong_limits(limits: Sequence[Limit], names: set[str]) -> list[WrongField]:
    errors = []
    seen = set()
    for position, limit in enumerate(limits):
        field = f"limits.{position}"
        if limit.series in seen:
            errors.append(WrongField(f"{field}.series", "this series stands in it before"))
        seen.add(limit.series)
        if limit.series not in names:
            errors.append(WrongField(f"{field}.series", f"{limit.series!r} is none of the series"))
        for name, value in (("min", limit.min), ("max", limit.max), ("max_per_hour", limit.max_per_hour)):
            try:
                if value is not None:
                    checked_decimal(value)
            except ContractError as error:
                errors.append(WrongField(f"{field}.{name}", str(error)))
        if limit.min is not None and limit.max is not None and limit.min > limit.max:
            errors.append(WrongField(f"{field}.max", "it is less than min"))
        if limit.max_per_hour is not None and limit.max_per_hour < 0:
            errors.append(WrongField(f"{field}.max_per_hour", "it is the size of a change, so not negative"))
    return errors


def _wrong_expectations(expected: Sequence[Values], names: set[str], zone: str) -> list[WrongField]:
    errors = []
    seen = set()
    for position, one in enumerate(expected):
        field = f"expectations.{position}"
        if one["series"] in seen:
            errors.append(WrongField(f"{field}.series", "this series stands in it before"))
        seen.add(one["series"])
        if one["series"] not in names:
            errors.append(WrongField(f"{field}.series", f"{one['series']!r} is none of the series"))
        try:
            raster_of(one["interval"], one["anchor_seconds"], zone)
        except ContractError as error:
            errors.append(WrongField(f"{field}.interval", str(error)))
    return errors


async def _series_info(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    statement = (
        select(config_series.c.config, ReadingSeries.name, ReadingSeries.unit)
        .join(ReadingSeries, ReadingSeries.id == config_series.c.series)
        .where(config_series.c.config.in_([row.id for row in rows]))
        .order_by(ReadingSeries.created_at, ReadingSeries.id)
    )
    texts: dict[uuid.UUID, list[str]] = {}
    for config, name, unit in await session.execute(statement):
        texts.setdefault(config, []).append(f"{name} ({unit})")
    return [{"series_info": ", ".join(texts.get(row.id, []))} for row in rows]


RESOURCE = Resource(
    noun="meter device config",
    path="/v1/metering/meter-device-configs",
    model=Row,
    body=MeterDeviceConfigBody,
    out=MeterDeviceConfig,
    unique=("organization", "name"),
    links=(Link("series", config_series, "config", "series", ReadingSeries),),
    used_by=(Use("meter device types", MeterDeviceType, "config"),),
    check=_check,
    more=_series_info,
    gateways=plans.gateways_of_config,
    adopts=True,
)

router = router_of(RESOURCE)
