"""The newest reading of each series of many meters (additive, ``/v1/metering/readings/latest``).

Newest is what has the latest timestamp of its own. Of a meter these are asked: the series that its type is configured
with, or those that the question names. Rules.
- The months around now are asked first, because nearly every series has its newest reading there; all months only for
  the series that has none in them, one look into the index of each month.
- A meter, or a series, of which nothing is stored has nothing in the answer; so has one that is not there for who asks.
"""

import datetime as dt
import json
import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from litestar import Router, get, post
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK
from sqlalchemy.ext.asyncio import AsyncSession

from hub.access import access_of
from hub.bodies import Body
from hub.database import reading
from hub.judging import FUTURE
from hub.paging import parse_uuid, query_of
from hub.problems import wrong
from hub.readings_shown import COLUMNS, NAMES, MeterReadings, shown
from hub.state import HubRequest, hub_of

METERS: Final = 1000
"""Meters of one question in a body."""

METERS_IN_ADDRESS: Final = 100
"""Meters of one question in the address, which must not become too long on its way."""

SERIES: Final = 100
PARAMETERS: Final = ("meter_device", "series")
BEFORE, AFTER = dt.timedelta(days=40), FUTURE + dt.timedelta(days=1)
"""What is asked first: what was read a gas month ago is in it, and what a meter may have in the future."""


class LatestBody(Body, kw_only=True):
    """Of which meters, and, unless of all that their types have, of which series."""

    sender_owns = False
    meter_devices: list[uuid.UUID]
    series: list[uuid.UUID] = msgspec.field(default_factory=list)


class LatestReadings(msgspec.Struct, kw_only=True):
    """The newest readings, in the order of the meters in the question, each meter's by series."""

    results: list[MeterReadings]


_SHOWN = ", ".join(f"r.{name}" for name in NAMES)
_FOUND = f"""
    LEFT JOIN LATERAL (
        SELECT {", ".join(NAMES)} FROM readings
        WHERE meter_device = p.device AND series = p.series {{months}} ORDER BY timestamp DESC LIMIT 1
    ) AS r ON true
"""  # noqa: S608 - our own names
_MONTHS = "AND timestamp >= CAST(:since AS timestamptz) AND timestamp < CAST(:until AS timestamptz)"
_PAIRS = "unnest(CAST(:devices AS uuid[]), CAST(:series AS uuid[])) AS p(device, series)"
_CONFIGURED = """
    meter_devices d JOIN meter_device_types t ON t.id = d.type JOIN config_series s ON s.config = t.config
"""
_NAMED = "meter_devices d JOIN meter_reading_series s ON s.organization = d.organization"
_PG_PAIRS = {
    False: f"(SELECT d.id AS device, s.series FROM {_CONFIGURED} WHERE d.id = ANY(CAST(:devices AS uuid[]))) AS p",  # noqa: S608 - our own names
    True: f"(SELECT d.id AS device, s.id AS series FROM {_NAMED} "  # noqa: S608 - our own names
    "WHERE d.id = ANY(CAST(:devices AS uuid[])) AND s.id = ANY(CAST(:series AS uuid[]))) AS p",
}
"""The pairs of meter and series, by whether series are named."""

_PG_LATEST = {
    named: sa.text(f"SELECT p.device, p.series, {_SHOWN} FROM {pairs} {_FOUND.format(months=_MONTHS)}")  # noqa: S608 - our own names
    for named, pairs in _PG_PAIRS.items()
}
_PG_LATEST_EVER = sa.text(f"SELECT p.device, p.series, {_SHOWN} FROM {_PAIRS} {_FOUND.format(months='')}")  # noqa: S608 - our own names
_SQLITE_PAIRS = {
    False: f"(SELECT d.id AS device, s.series FROM {_CONFIGURED} "  # noqa: S608 - our own names
    "WHERE d.id IN (SELECT value FROM json_each(:devices)))",
    True: f"(SELECT d.id AS device, s.id AS series FROM {_NAMED} "  # noqa: S608 - our own names
    "WHERE d.id IN (SELECT value FROM json_each(:devices)) AND s.id IN (SELECT value FROM json_each(:series)))",
}
_SQLITE_LATEST = {
    named: sa.text(
        f"SELECT {_SHOWN} FROM {pairs} AS p CROSS JOIN readings r ON r.id = (SELECT id FROM readings "  # noqa: S608 - our own names
        "WHERE meter_device = p.device AND series = p.series ORDER BY timestamp DESC LIMIT 1)"
    ).columns(*COLUMNS)
    for named, pairs in _SQLITE_PAIRS.items()
}


async def latest(
    session: AsyncSession, meters: Sequence[uuid.UUID], series: Sequence[uuid.UUID], now: dt.datetime
) -> list[Any]:
    """Return the newest readings as tuples of ``COLUMNS``, in no order."""
    if session.get_bind().dialect.name == "sqlite":
        values = {"devices": json.dumps([one.hex for one in meters])}
        values |= {"series": json.dumps([one.hex for one in series])} if series else {}
        return [*(await session.execute(_SQLITE_LATEST[bool(series)], values)).all()]
    asked: dict[str, Any] = {"devices": [*meters], "since": now - BEFORE, "until": now + AFTER}
    asked |= {"series": [*series]} if series else {}
    found: list[Any] = []
    silent: list[Any] = []
    for row in await session.execute(_PG_LATEST[bool(series)], asked):
        (silent if row[2] is None else found).append(row)
    if silent:
        asked = {"devices": [row[0] for row in silent], "series": [row[1] for row in silent]}
        found += [row for row in await session.execute(_PG_LATEST_EVER, asked) if row[2] is not None]
    return [row[2:] for row in found]


async def _answer(request: HubRequest, meters: Sequence[uuid.UUID], series: Sequence[uuid.UUID]) -> LatestReadings:
    hub = hub_of(request)
    order = {meter: number for number, meter in reversed([*enumerate(meters)])}
    async with reading(hub.engine) as session:
        rows = await latest(session, [*order], [*dict.fromkeys(series)], hub.clock.now())
        own = access_of(request).organization
        if own is not None:
            rows = [row for row in rows if row[1] == own]
        results = await shown(session, rows)
    results.sort(key=lambda one: (order[one.meter_device], one.series))
    return LatestReadings(results=results)


def _check_length(name: str, count: int, most: int) -> None:
    if count > most:
        raise wrong(name, f"there are {count}, and {most} is the most of one question")


def _ids(name: str, text: str) -> list[uuid.UUID]:
    return [parse_uuid(name, one.strip()) for one in text.split(",")]


@get(
    "/latest",
    summary="Latest: readings of some meters",
    description="The newest reading of each series of a meter. meter_device takes several ids with commas between "
    f"them, at most {METERS_IN_ADDRESS}; series too.",
)
async def read_latest(request: HubRequest) -> LatestReadings:
    """Answer the newest readings of the meters in the address."""
    query = query_of(request, PARAMETERS)
    if "meter_device" not in query:
        raise wrong("meter_device", "name one or more meters by their ids")
    meters = _ids("meter_device", query["meter_device"])
    series = _ids("series", query["series"]) if "series" in query else []
    _check_length("meter_device", len(meters), METERS_IN_ADDRESS)
    _check_length("series", len(series), SERIES)
    return await _answer(request, meters, series)


@post(
    "/latest",
    status_code=HTTP_200_OK,
    summary="Latest: readings of many meters",
    description=f"As GET, with the ids in the body: at most {METERS} meters. Nothing is stored.",
)
async def ask_latest(request: HubRequest, data: JSONBody[LatestBody]) -> LatestReadings:
    """Answer the newest readings of the meters in the body."""
    query_of(request, [])
    _check_length("meter_devices", len(data.meter_devices), METERS)
    _check_length("series", len(data.series), SERIES)
    return await _answer(request, data.meter_devices, data.series)


router = Router("/v1/metering/readings", route_handlers=[read_latest, ask_latest], tags=["reading"])
