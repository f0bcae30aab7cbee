"""Completeness (additive, ``/v1/completeness``): what was expected, what of it is there, and why the rest is not.

An answer knows everything that was committed before the question. Reasons are found out when they are asked for
(``hub.reasons``); of very many series with gaps only some, and how many slots were not looked into is said.
"""

import datetime as dt
import uuid
import zoneinfo
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from litestar import Router, get
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import models
from hub.access import Access, access_of
from hub.database import reading
from hub.expectations import Expecting, expectations_by_id, expectations_of
from hub.flagging import rejected_slots
from hub.ledger import bits_of, catch_up
from hub.ledger_chunks import Bits, size_of
from hub.paging import parse_instant, parse_number, parse_uuid, query_of
from hub.problems import NotFound, Wrong, WrongField, wrong
from hub.reasons import MISSING, STATES, Explained, explain
from hub.reasons_known import Lack
from hub.state import HubRequest, hub_of
from hub.totals import Scope, Totals
from hub.totals_counted import count
from protocol.rasters import Raster

STORED = "stored"
EXPLAINED_SERIES = 2000
"""Series with gaps that one question looks into."""

STRIP_DAYS = 28
STRIP_SERIES = 500
"""Series of one strip at most: a gateway's meters, not a fleet's."""

LONGEST = dt.timedelta(days=3700)
_USUAL = dt.timedelta(days=30)
_DAY = dt.timedelta(days=1)


class Completeness(msgspec.Struct, kw_only=True):
    """Slots within [start, end) and until ``as_of``: each expected one is counted in just one of the states.

    ``missing_by_reason`` adds up to ``missing``. ``unexplained`` slots are not stored, and were not looked into.
    ``percent`` is of the expected, null when nothing was. Series that are ``rebuilding`` may show too little for some
    seconds.
    """

    start: dt.datetime
    end: dt.datetime
    as_of: dt.datetime
    expected: int
    stored: int
    on_gateway: int
    due: int
    being_fetched: int
    unrecoverable: int
    missing: int
    missing_by_reason: dict[str, int]
    unexplained: int
    rebuilding: int
    percent: float | None


class SlotSpan(msgspec.Struct, kw_only=True):
    """Slots in a row with one state; ``start`` and ``end`` are the instants of the first and the last."""

    start: dt.datetime
    end: dt.datetime
    count: int
    state: str
    reason: str
    since: dt.datetime | None
    evidence: str


class Slots(msgspec.Struct, kw_only=True):
    """All expected slots of one series of one meter, as spans in order of time."""

    meter_device: uuid.UUID
    series: uuid.UUID
    interval: str
    anchor_seconds: int
    zone: str
    rebuilding: bool
    as_of: dt.datetime
    spans: list[SlotSpan]


class StripDay(msgspec.Struct, kw_only=True):
    """One day of one series where the meter stands: how many slots of it have which state."""

    day: dt.date
    expected: int
    stored: int
    states: dict[str, int]


class Strip(msgspec.Struct, kw_only=True):
    """The last days of one series of one meter, the oldest first."""

    meter_device: uuid.UUID
    meter: str
    series: uuid.UUID
    series_name: str
    rebuilding: bool
    days: list[StripDay]


class Strips(msgspec.Struct, kw_only=True):
    """The strips of a gateway's, a group's or one meter's series."""

    as_of: dt.datetime
    results: list[Strip]


SCOPES = {
    "organization": models.Organization,
    "gateway": models.Gateway,
    "group": models.AmrTaskGroup,
    "meter_device": models.MeterDevice,
}


async def scope_of(session: AsyncSession, query: Mapping[str, str], access: Access, allowed: Sequence[str]) -> Scope:
    """Return whose slots are asked for.

    Raises:
        Wrong: when more than one thing is named.
        NotFound: when what is named is not there for who asks.
    """
    given = [name for name in allowed if name in query]
    if len(given) > 1:
        raise Wrong(*(WrongField(name, f"only one of {', '.join(allowed)} may be given") for name in given[1:]))
    if not given:
        return Scope(organization=access.organization)
    name = given[0]
    row = parse_uuid(name, query[name])
    found = await session.get(SCOPES[name], row)
    owner = getattr(found, "id" if name == "organization" else "organization", None)
    if found is None or not access.covers(owner):
        raise NotFound(f"there is no {name.replace('_', ' ')} {row}")
    return Scope(**{"device" if name == "meter_device" else name: row})


def span_of(query: Mapping[str, str], now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return ``start`` and ``end``: the last 30 days unless they are given.

    Raises:
        Wrong: when that is no time, or too long a one.
    """
    end = parse_instant("end", query["end"]) if "end" in query else now
    start = parse_instant("start", query["start"]) if "start" in query else end - _USUAL
    if not start < end <= start + LONGEST:
        raise wrong("end", f"it must lie after start, and at most {LONGEST.days} days")
    return start, end


async def total_of(
    session: AsyncSession, scope: Scope, start: dt.datetime, end: dt.datetime, now: dt.datetime, *, reasons: bool = True
) -> Completeness:
    """Count what was expected within [start, end) and until now, by state. Call ``hub.ledger.catch_up`` before."""
    totals = await count(session, scope, start, end, now)
    rejected = await rejected_of(session, scope, totals, start, end)
    totals.stored -= sum(len(slots) for slots in rejected.values())
    states: Counter[str] = Counter()
    by_reason: Counter[str] = Counter()
    if reasons and totals.stored < totals.expected:
        ids = sorted({*totals.lacking, *rejected})[:EXPLAINED_SERIES]
        for _, found in await explained_of(session, await expectations_by_id(session, ids), rejected, start, end, now):
            for span in found:
                states[span.state] += span.last - span.first + 1
                if span.state == MISSING:
                    by_reason[span.reason] += span.last - span.first + 1
    lacking = totals.expected - totals.stored
    return Completeness(
        start=start,
        end=end,
        as_of=now,
        expected=totals.expected,
        stored=totals.stored,
        **{state: states[state] for state in STATES},
        missing_by_reason=dict(sorted(by_reason.items())),
        unexplained=lacking - sum(states.values()),
        rebuilding=totals.rebuilding,
        percent=_percent(totals),
    )


def _percent(totals: Totals) -> float | None:
    """Round down: what is not whole is not 100."""
    return totals.stored * 1_000_000 // totals.expected / 10_000 if totals.expected else None


async def rejected_of(
    session: AsyncSession, scope: Scope, totals: Totals, start: dt.datetime, end: dt.datetime
) -> dict[int, dict[int, int]]:
    """Return by expectation the slots, with their flags, whose reading is there but does not count."""
    statement = scope.devices()
    devices = set((await session.execute(statement)).scalars()) if statement is not None else None
    found = await rejected_slots(session, start, end, devices)
    slots: dict[int, dict[int, int]] = {}
    for one in await expectations_of(session, {device for device, _ in found}):
        if one.raster_id not in totals.rasters:
            continue
        for timestamp, flags in found.get((one.device, one.series), ()):
            slot = one.slot_at(timestamp)
            if slot is not None:
                slots.setdefault(one.id, {})[slot] = flags
    return slots


async def explained_of(
    session: AsyncSession,
    expecting: Sequence[Expecting],
    rejected: Mapping[int, Mapping[int, int]],
    start: dt.datetime,
    end: dt.datetime,
    now: dt.datetime,
) -> list[tuple[Expecting, list[Explained]]]:
    """Return with each expectation the spans that it lacks within [start, end) and until now, and why."""
    windows = {one.id: one.window(start, end, now) for one in expecting}
    bits = await bits_of(session, expecting, windows)
    lacks = []
    for one in expecting:
        bits[one.id].drop(rejected.get(one.id, ()))
        lacks.append(Lack(one, bits[one.id].missing(*windows[one.id]), rejected.get(one.id, {})))
    found = await explain(session, lacks, now)
    return [(one, found.get(one.id, [])) for one in expecting]


@get("/", summary="Count what was expected and what is there")
async def show_totals(request: HubRequest) -> Completeness:
    """Totals of an ``organization``, a ``gateway``, a ``group`` or a ``meter_device``; without any, of all."""
    hub = hub_of(request)
    query = query_of(request, [*SCOPES, "start", "end", "reasons"])
    now = hub.clock.now()
    start, end = span_of(query, now)
    wanted = query.get("reasons", "true")
    if wanted not in {"true", "false"}:
        raise wrong("reasons", f"{wanted!r} is neither true nor false")
    await catch_up(hub.engine, now)
    async with reading(hub.engine) as session:
        scope = await scope_of(session, query, access_of(request), list(SCOPES))
        return await total_of(session, scope, start, end, now, reasons=wanted == "true")


@get("/slots", summary="Show every expected slot of one series of one meter")
async def show_slots(request: HubRequest) -> list[Slots]:
    """Spans of slots with one state, for a ``meter_device`` and a ``series``; one object per raster that it had."""
    hub = hub_of(request)
    query = query_of(request, ["meter_device", "series", "start", "end"])
    lacking = [WrongField(name, "this is required") for name in ("meter_device", "series") if name not in query]
    if lacking:
        raise Wrong(*lacking)
    now = hub.clock.now()
    start, end = span_of(query, now)
    series = parse_uuid("series", query["series"])
    await catch_up(hub.engine, now)
    async with reading(hub.engine) as session:
        scope = await scope_of(session, query, access_of(request), ["meter_device"])
        devices = {scope.device} if scope.device is not None else set()
        expecting = [one for one in await expectations_of(session, devices) if one.series == series]
        totals = Totals(rasters={one.raster_id for one in expecting})
        rejected = await rejected_of(session, scope, totals, start, end)
        explained = await explained_of(session, expecting, rejected, start, end, now)
        return [
            Slots(
                meter_device=one.device,
                series=series,
                interval=one.raster.interval,
                anchor_seconds=one.raster.anchor_seconds,
                zone=one.raster.zone,
                rebuilding=one.rebuilding,
                as_of=now,
                spans=list(_spans(one.raster, found, *one.window(start, end, now))),
            )
            for one, found in explained
        ]


def _spans(raster: Raster, explained: Sequence[Explained], first: int, last: int) -> Iterable[SlotSpan]:
    """Yield the spans that are not stored, and the stored ones between them."""
    at = first
    for one in (*explained, None):
        stored_to = last if one is None else one.first - 1
        if at <= stored_to:
            yield _span(raster, Explained(at, stored_to, STORED, "", None, ""))
        if one is not None:
            yield _span(raster, one)
            at = one.last + 1


def _span(raster: Raster, one: Explained) -> SlotSpan:
    return SlotSpan(
        start=raster.instant_of(one.first),
        end=raster.instant_of(one.last),
        count=one.last - one.first + 1,
        state=one.state,
        reason=one.reason,
        since=one.since,
        evidence=one.evidence,
    )


@get("/strip", summary="Show the last days of each series")
async def show_strips(request: HubRequest) -> Strips:
    """28 days (or ``days``) per meter and series of a ``gateway``, a ``group`` or a ``meter_device``."""
    hub = hub_of(request)
    query = query_of(request, ["gateway", "group", "meter_device", "days", "end"])
    now = hub.clock.now()
    end = parse_instant("end", query["end"]) if "end" in query else now
    days = parse_number("days", query.get("days", str(STRIP_DAYS)), 1, 366)
    await catch_up(hub.engine, now)
    async with reading(hub.engine) as session:
        scope = await scope_of(session, query, access_of(request), ["gateway", "group", "meter_device"])
        statement = scope.devices()
        if statement is None:
            raise wrong("meter_device", "one of gateway, group or meter_device is required")
        devices = set((await session.execute(statement)).scalars())
        expecting = await expectations_of(session, devices)
        if len(expecting) > STRIP_SERIES:
            raise wrong("meter_device", f"these are {len(expecting)} series; at most {STRIP_SERIES} are shown at once")
        return Strips(as_of=now, results=await _strips(session, scope, expecting, end, days, now))


async def _strips(
    session: AsyncSession, scope: Scope, expecting: Sequence[Expecting], end: dt.datetime, days: int, now: dt.datetime
) -> list[Strip]:
    meters, series = await names_of(session, expecting)
    start = end - (days + 1) * _DAY
    until = end + 2 * _DAY
    rejected = await rejected_of(session, scope, Totals(rasters={one.raster_id for one in expecting}), start, until)
    explained = await explained_of(session, expecting, rejected, start, until, now)
    return [
        Strip(
            meter_device=one.device,
            meter=meters[one.device],
            series=one.series,
            series_name=series[one.series],
            rebuilding=one.rebuilding,
            days=_days(one, found, end, days, now),
        )
        for one, found in sorted(explained, key=lambda pair: (meters[pair[0].device], series[pair[0].series]))
    ]


async def names_of(
    session: AsyncSession, expecting: Sequence[Expecting]
) -> tuple[dict[uuid.UUID, str], dict[uuid.UUID, str]]:
    """Return the names of the meters, and of the series."""
    found = []
    for model, ids in (
        (models.MeterDevice, {one.device for one in expecting}),
        (models.ReadingSeries, {one.series for one in expecting}),
    ):
        rows = await session.execute(select(model.id, model.name).where(model.id.in_(ids)))
        found.append({row.id: row.name for row in rows})
    return found[0], found[1]


def _days(
    one: Expecting, explained: Sequence[Explained], end: dt.datetime, days: int, now: dt.datetime
) -> list[StripDay]:
    """Count slots by the day where the meter stands; momentary ones, whose raster is in UTC, by days there."""
    zone = zoneinfo.ZoneInfo(one.raster.zone)
    last_day = (end.astimezone(zone) - dt.timedelta(microseconds=1)).date()
    by_state: dict[str, Bits] = {}
    for span in explained:
        bits = by_state.setdefault(span.state, Bits(size_of(one.raster.interval)))
        bits.add(range(span.first, span.last + 1))
    found = []
    for back in range(days - 1, -1, -1):
        day = last_day - back * _DAY
        begin, finish = (dt.datetime.combine(date, dt.time(), zone).astimezone(dt.UTC) for date in (day, day + _DAY))
        first, last = one.window(begin, min(finish, end), now)
        expected = max(0, last - first + 1)
        states = {state: number for state, bits in by_state.items() if (number := bits.count(first, last))}
        found.append(StripDay(day=day, expected=expected, stored=expected - sum(states.values()), states=states))
    return found


router = Router("/v1/completeness", route_handlers=[show_totals, show_slots, show_strips], tags=["completeness"])
