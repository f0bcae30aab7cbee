"""The newest reading of each series of many meters (additive, ``/v1/metering/readings/latest``).

Newest is what has the latest timestamp of its own. Of a meter these are asked: the series that its type is configured
with, or those that the question names. Rules.
- The last hours are asked first, because nearly every series has its newest reading there; then the months around now,
  and all months only for the series that has none in them, one look into the index of each month.
- A meter, or a series, of which nothing is stored has nothing in the answer; so has one that is not there for who asks.
"""

import asyncio
import dataclasses
import datetime as dt
import functools
import json
import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from litestar import Router, get, post
from litestar.params import JSONBody
from litestar.status_codes import HTTP_200_OK
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import array_texts
from hub.access import access_of
from hub.bodies import Body
from hub.database import reading
from hub.direct_reads import Fetch, fetching, has_connections, reads_directly
from hub.judging import FUTURE
from hub.models import Reading
from hub.paging import parse_uuid, query_of
from hub.problems import wrong
from hub.readings_shown import COLUMNS, NAMES, MeterReadings, shown_by
from hub.readings_told import told_of
from hub.state import HubRequest, hub_of
from hub.told import raw_list

METERS: Final = 1000
"""Meters of one question in a body."""

METERS_IN_ADDRESS: Final = 100
"""Meters of one question in the address, which must not become too long on its way."""

SERIES: Final = 100
PARAMETERS: Final = ("meter_device", "series")
RECENT, BEFORE, AFTER = dt.timedelta(hours=30), dt.timedelta(days=40), FUTURE + dt.timedelta(days=2)
"""What is asked first, from now on, and then: what is read daily is in the one, what was read a gas month ago in the
other, and what a meter may have ahead in both. A look reads all of its range that lies on one page of the index."""

APART = 200
"""So many meters are looked up by two connections at once, each a half of them, if there are connections."""


class LatestBody(Body, kw_only=True):
    """Of which meters, and, unless of all that their types have, of which series."""

    sender_owns = False
    meter_devices: list[uuid.UUID]
    series: list[uuid.UUID] = msgspec.field(default_factory=list)


class LatestReadings(msgspec.Struct, kw_only=True):
    """The newest readings, in the order of the meters in the question, each meter's by series."""

    results: list[MeterReadings]


_ORGANIZATION, _METER, _SERIES = (NAMES.index(name) for name in ("organization", "meter_device", "series"))
_CONFIGURED = """
    meter_devices d JOIN meter_device_types t ON t.id = d.type JOIN config_series s ON s.config = t.config
"""
_NAMED = "meter_devices d JOIN meter_reading_series s ON s.organization = d.organization"
_ASKED = "unnest($1::text::uuid[]) WITH ORDINALITY AS a(device, place)"
_PG_PAIRS = {
    False: f"(SELECT a.place, d.id AS device, s.series FROM {_CONFIGURED} JOIN {_ASKED} ON a.device = d.id) AS p",  # noqa: S608 - our own names
    True: f"(SELECT a.place, d.id AS device, s.id AS series FROM {_NAMED} JOIN {_ASKED} ON a.device = d.id "  # noqa: S608 - our own names
    "WHERE s.id = ANY($3::text::uuid[])) AS p",
}
"""The pairs of meter and series, by whether series are named."""

_PG_EVERY_PAIR = """
    unnest($1::text::uuid[], $3::text::uuid[]) WITH ORDINALITY AS p(device, series, place)
"""
_SQLITE_PAIRS = {
    False: f"(SELECT d.id AS device, s.series FROM {_CONFIGURED} "  # noqa: S608 - our own names
    "WHERE d.id IN (SELECT value FROM json_each(:devices)))",
    True: f"(SELECT d.id AS device, s.id AS series FROM {_NAMED} "  # noqa: S608 - our own names
    "WHERE d.id IN (SELECT value FROM json_each(:devices)) AND s.id IN (SELECT value FROM json_each(:series)))",
}
_SQLITE_LATEST = {
    named: sa.select(*COLUMNS).where(
        Reading.id.in_(
            sa.text(
                "SELECT (SELECT id FROM readings WHERE meter_device = p.device AND series = p.series "  # noqa: S608 - our own names
                f"ORDER BY timestamp DESC LIMIT 1) FROM {pairs} AS p"
            ).columns(sa.column("id", sa.BigInteger()))
        )
    )
    for named, pairs in _SQLITE_PAIRS.items()
}


def _newest(pairs: str, months: str) -> str:
    """Return the statement of pairs' newest readings: a line of JSON of each, empty where none may be seen; and these.

    It is one row, and bytes: a thousand rows, each with a text that is decoded to be encoded again, were a tenth of all
    that an answer took. Pairs come as the arrays' texts that the next statement is given.
    """
    # What is seen is said three times: a subquery that says it once would make each reading's JSON three times.
    seen = "(r.organization = $2::uuid OR ($2 IS NULL AND r.id IS NOT NULL))"
    order = "ORDER BY p.place, p.series"
    return f"""
        SELECT convert_to(string_agg(CASE WHEN {seen} THEN {told_of("r")} ELSE '' END, E'\\n' {order}), 'UTF8'),
            CAST(array_agg(p.device {order}) FILTER (WHERE {seen} IS NOT TRUE) AS text),
            CAST(array_agg(p.series {order}) FILTER (WHERE {seen} IS NOT TRUE) AS text)
        FROM {pairs} LEFT JOIN LATERAL (
            SELECT {", ".join(NAMES)} FROM readings
            WHERE meter_device = p.device AND series = p.series {months} ORDER BY timestamp DESC LIMIT 1
        ) AS r ON true
    """  # noqa: S608 - our own names


@functools.lru_cache(maxsize=8)
def _statements(hour: dt.datetime, *, named: bool) -> tuple[str, ...]:
    """Return the statements of an hour: of pairs in the last days, then of those that have nothing there.

    Bounds are written out: as parameters they are not known when the statement is planned once for all, and each look
    would begin in two months, in no order, rather than in the newest only (32 ms for a thousand looks, not 11).
    """

    def within(before: dt.timedelta) -> str:
        since, until = hour - before, hour + AFTER
        return f"AND timestamp >= timestamptz '{since.isoformat()}' AND timestamp < timestamptz '{until.isoformat()}'"

    return (
        _newest(_PG_PAIRS[named], within(RECENT)),
        _newest(_PG_EVERY_PAIR, within(BEFORE)),
        _newest(_PG_EVERY_PAIR, ""),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """Of which series, unless of all; when; and by whom, if not by one who sees all organizations."""

    series: Sequence[uuid.UUID]
    now: dt.datetime
    own: uuid.UUID | None


async def _told_together(engine: AsyncEngine, meters: Sequence[uuid.UUID], asked: _Asked) -> list[bytes]:
    async with fetching(engine) as fetch:
        return [await _latest_told(fetch, meters, asked)]


async def _told_apart(engine: AsyncEngine, meters: Sequence[uuid.UUID], asked: _Asked) -> list[bytes]:
    """Look up each half by a connection of its own, if there are some.

    The first is given back last, so it is the one that is used next: its process has the database's pages at hand,
    which takes it hundreds of answers.
    """
    if not has_connections(engine):
        return await _told_together(engine, meters, asked)
    half = (len(meters) + 1) // 2
    try:
        async with fetching(engine) as first, fetching(engine) as second, asyncio.TaskGroup() as group:
            told = [
                group.create_task(_latest_told(fetch, part, asked))
                for fetch, part in ((first, meters[:half]), (second, meters[half:]))
            ]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [one.result() for one in told]


async def _latest_told(fetch: Fetch, meters: Sequence[uuid.UUID], asked: _Asked) -> bytes:
    """Return the JSON of the newest readings, with commas between, in the order of the meters, each meter's by series.

    Readings of others are asked for again like those that are not there: who asks cannot tell them apart by the time.
    """
    hour = asked.now.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
    series, own = asked.series, asked.own
    recent, *further = _statements(hour, named=bool(series))
    ((told, *untold),) = await fetch(
        recent, array_texts.of_ids(meters), own, *([array_texts.of_ids(series)] if series else [])
    )
    if untold[0] is None:
        # JSON has no line ends of its own. No pairs at all are no lines.
        return bytes((told or b"").replace(b"\n", b","))
    lines = told.split(b"\n")
    for statement in further:
        devices, their_series = untold
        ((told, *untold),) = await fetch(statement, devices, own, their_series)
        older = iter(told.split(b"\n"))
        lines = [line or next(older) for line in lines]
        if untold[0] is None:
            break
    return b",".join(filter(None, lines))


async def _latest_in_sqlite(
    engine: AsyncEngine, meters: Sequence[uuid.UUID], series: Sequence[uuid.UUID]
) -> Sequence[Any]:
    values = {"devices": json.dumps([one.hex for one in meters])}
    values |= {"series": json.dumps([one.hex for one in series])} if series else {}
    async with reading(engine) as session:
        return (await session.execute(_SQLITE_LATEST[bool(series)], values)).all()


def _in_order(meters: Sequence[uuid.UUID], rows: Sequence[Any]) -> list[Any]:
    places = {str(meter): place for place, meter in enumerate(meters)}
    return sorted(rows, key=lambda row: (places[row[_METER]], row[_SERIES]))


async def _answer(request: HubRequest, meters: Sequence[uuid.UUID], series: Sequence[uuid.UUID]) -> LatestReadings:
    hub, own = hub_of(request), access_of(request).organization
    # By their numbers: an id takes as long to be hashed as to be read.
    meters, series = ([*{one.int: one for one in some}.values()] for some in (meters, series))
    if reads_directly(hub.engine):
        asked = _Asked(series, hub.clock.now(), own)
        told = await (_told_apart if len(meters) >= APART else _told_together)(hub.engine, meters, asked)
        return LatestReadings(results=raw_list(told))
    rows = _in_order(meters, await _latest_in_sqlite(hub.engine, meters, series))
    if own is not None:
        rows = [row for row in rows if row[_ORGANIZATION] == str(own)]
    return LatestReadings(results=await shown_by(hub.engine, rows))


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
