"""Which meters have gaps (additive, ``/v1/completeness/gaps``): the meters that lack expected values, the worst first.

Theory of operation. Of every series of the scope it is counted how many expected slots are not stored; on PostgreSQL
the database does that, with a statement per raster, by the index over raster and chunk. Of those that lack most, 2,000
at most, it is found out why (``hub.reasons``), and only then it is known what is a gap: a slot that a run is still to
bring (``due``) is none. What was not looked into is said (``unexplained``), never left out in silence.
"""

import dataclasses
import datetime as dt
import heapq
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from litestar import Router, get
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from hub import models
from hub.access import access_of
from hub.completeness import EXPLAINED_SERIES, SCOPES, explained_of, names_of, rejected_of, scope_of, span_of
from hub.database import reading
from hub.expectations import Expecting, expectations_by_id
from hub.ledger import bits_of, catch_up
from hub.paging import frame, query_of, window_of
from hub.problems import wrong
from hub.reasons import BEING_FETCHED, DUE, MISSING, ON_GATEWAY, REASONS, UNRECOVERABLE, Explained
from hub.state import HubRequest, hub_of
from hub.totals import Scope, Totals, Window, bits_within, parts_of, windows_of
from hub.totals_counted import count
from hub.totals_kept import EVERYONE

GAP_STATES = (MISSING, BEING_FETCHED, ON_GATEWAY, UNRECOVERABLE)
"""What a slot of a gap can be, in the order of what is worst."""


class SeriesGap(msgspec.Struct, kw_only=True):
    """What one series of a meter lacks; ``start`` and ``end`` are the instants of the first and the last such slot."""

    series: uuid.UUID
    series_name: str
    slots: int
    start: dt.datetime
    end: dt.datetime


class MeterGaps(msgspec.Struct, kw_only=True):
    """What a meter lacks, as slots of all its series; each of them is in just one of the four states.

    ``missing_by_reason`` adds up to ``missing``. ``since`` is from when on the oldest of the reasons is known.
    """

    meter_device: uuid.UUID
    meter: str
    gateway: uuid.UUID | None
    missing: int
    being_fetched: int
    on_gateway: int
    unrecoverable: int
    missing_by_reason: dict[str, int]
    start: dt.datetime
    end: dt.datetime
    since: dt.datetime | None
    series: list[SeriesGap]


class GapPage(msgspec.Struct, kw_only=True):
    """One page of the meters with gaps within [start, end) and until ``as_of``.

    ``unexplained`` series lack something too, but less than those that were looked into; some of it may only be due.
    """

    count: int
    next: str | None
    previous: str | None
    start: dt.datetime
    end: dt.datetime
    as_of: dt.datetime
    unexplained: int
    results: list[MeterGaps]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What meters are asked for: those with such a gap; None: with any."""

    state: str | None = None
    reason: str | None = None

    def is_it(self, span: Explained) -> bool:
        """Whether a span is what is asked for."""
        if span.state == DUE or (self.state is not None and span.state != self.state):
            return False
        return self.reason is None or span.reason == self.reason


# How much each series lacks


async def most_lacking(
    session: AsyncSession, scope: Scope, start: dt.datetime, end: dt.datetime, now: dt.datetime, most: int
) -> tuple[list[int], int, set[int]]:
    """Return the expectations that lack most of [start, end) until now, how many lack anything, and the rasters."""
    if session.get_bind().dialect.name == "postgresql":
        windows = await windows_of(session, scope, start, end, now)
        lacking, total = await _lacking_postgresql(session, scope, windows, most)
        return lacking, total, {window.raster_id for window in windows}
    totals = await count(session, scope, start, end, now, named=EVERYONE)
    lacks = await _lacking_here(session, totals, start, end, now)
    return heapq.nlargest(most, lacks, key=lambda key: (lacks[key], -key)), len(lacks), totals.rasters


async def _lacking_here(
    session: AsyncSession, totals: Totals, start: dt.datetime, end: dt.datetime, now: dt.datetime
) -> dict[int, int]:
    expecting = await expectations_by_id(session, totals.lacking)
    windows = {one.id: one.window(start, end, now) for one in expecting}
    bits = await bits_of(session, expecting, windows)
    lacks = {}
    for one in expecting:
        first, last = windows[one.id]
        lacks[one.id] = last - first + 1 - bits[one.id].count(first, last)
    return lacks


async def _lacking_postgresql(
    session: AsyncSession, scope: Scope, windows: Sequence[Window], most: int
) -> tuple[list[int], int]:
    found: list[tuple[int, int]] = []
    total = 0
    for window in windows:
        rows = (await session.execute(_statement(scope, window, most))).all()
        total += rows[0].total if rows else 0
        found += [(row.lacking, -row.id) for row in rows]
    return [-key for _, key in heapq.nlargest(most, found)], total


def _statement(scope: Scope, window: Window, most: int) -> sa.Select[tuple[int, int, int]]:
    """Return the statement of those expectations of one raster that lack most, and how many lack anything."""
    chunks, expected = aliased(models.LedgerChunk, name="c"), models.Expectation
    stored = sa.union_all(
        *(
            sa.select(chunks.expectation, sa.literal_column(bits_within(part), sa.Integer).label("bits")).where(
                chunks.raster == part.raster_id, chunks.chunk == part.chunk
            )
            for part in parts_of([window])
        )
    ).subquery()
    by_series = (
        sa.select(stored.c.expectation, sa.func.sum(stored.c.bits).label("bits"))
        .group_by(stored.c.expectation)
        .subquery()
    )
    until = sa.func.least(sa.func.coalesce(expected.until_slot, window.last), window.last)
    slots = until - sa.func.greatest(expected.since_slot, window.first) + 1
    lacking = slots - sa.func.coalesce(by_series.c.bits, 0)
    statement = (
        sa.select(expected.id, lacking.label("lacking"), sa.func.count().over().label("total"))
        .outerjoin(by_series, by_series.c.expectation == expected.id)
        .where(expected.raster == window.raster_id, slots > 0, lacking > 0)
        .order_by(lacking.desc(), expected.id)
        .limit(most)
    )
    devices = scope.devices()
    return statement if devices is None else statement.where(expected.device.in_(devices))


# What meters lack


@get("/", summary="List the meters that lack values, the worst first")
async def list_gaps(request: HubRequest) -> GapPage:
    """Meters of an ``organization``, a ``gateway``, a ``group``, or all; ``state`` and ``reason`` ask for such gaps."""
    hub = hub_of(request)
    query = query_of(request, [*SCOPES, "start", "end", "state", "reason", "limit", "offset"])
    now = hub.clock.now()
    start, end = span_of(query, now)
    asked = Asked(_one_of("state", query, GAP_STATES), _one_of("reason", query, REASONS))
    await catch_up(hub.engine, now)
    async with reading(hub.engine) as session:
        scope = await scope_of(session, query, access_of(request), list(SCOPES))
        ids, total, rasters = await most_lacking(session, scope, start, end, now, EXPLAINED_SERIES)
        rejected = await rejected_of(session, scope, Totals(rasters=rasters), start, end)
        looked_into = [*ids, *sorted(rejected.keys() - set(ids))][:EXPLAINED_SERIES]
        expecting = await expectations_by_id(session, looked_into)
        explained = await explained_of(session, expecting, rejected, start, end, now)
        meters, series = await names_of(session, expecting)
        found = _by_meter(explained, asked, meters, series)
        page = frame(request, window := window_of(query), len(found))
        results = found[window.offset : window.offset + window.limit]
        await _place(session, results)
    return GapPage(
        count=len(found),
        next=page.next,
        previous=page.previous,
        start=start,
        end=end,
        as_of=now,
        unexplained=max(0, total - len(ids)),
        results=results,
    )


def _one_of(name: str, query: Mapping[str, str], known: Sequence[str]) -> str | None:
    given = query.get(name)
    if given is not None and given not in known:
        raise wrong(name, f"{given!r} is none of {', '.join(known)}")
    return given


def _by_meter(
    explained: Iterable[tuple[Expecting, Sequence[Explained]]],
    asked: Asked,
    meters: Mapping[uuid.UUID, str],
    series: Mapping[uuid.UUID, str],
) -> list[MeterGaps]:
    """Return the meters with such gaps, the worst first: those with most slots that could still be had, then others."""
    spans: dict[uuid.UUID, list[tuple[Expecting, Explained]]] = {}
    for one, found in explained:
        spans.setdefault(one.device, []).extend((one, span) for span in found if asked.is_it(span))
    gaps = [_gaps_of(device, meters[device], some, series) for device, some in spans.items() if some]
    return sorted(
        gaps, key=lambda gap: (-gap.missing, -gap.being_fetched - gap.on_gateway, -gap.unrecoverable, gap.meter)
    )


def _gaps_of(
    device: uuid.UUID,
    name: str,
    spans: Sequence[tuple[Expecting, Explained]],
    series: Mapping[uuid.UUID, str],
) -> MeterGaps:
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    by_series: dict[uuid.UUID, SeriesGap] = {}
    for one, span in spans:
        slots = span.last - span.first + 1
        states[span.state] += slots
        if span.state == MISSING:
            reasons[span.reason] += slots
        start, end = one.raster.instant_of(span.first), one.raster.instant_of(span.last)
        gap = by_series.setdefault(
            one.series,
            SeriesGap(series=one.series, series_name=series[one.series], slots=0, start=start, end=end),
        )
        gap.slots += slots
        gap.start, gap.end = min(gap.start, start), max(gap.end, end)
    return MeterGaps(
        meter_device=device,
        meter=name,
        gateway=None,
        **{state: states[state] for state in GAP_STATES},
        missing_by_reason=dict(sorted(reasons.items())),
        start=min(gap.start for gap in by_series.values()),
        end=max(gap.end for gap in by_series.values()),
        since=min((span.since for _, span in spans if span.since is not None), default=None),
        series=sorted(by_series.values(), key=lambda gap: (-gap.slots, gap.series_name)),
    )


async def _place(session: AsyncSession, results: Sequence[MeterGaps]) -> None:
    """Name the gateways that the meters are polled by."""
    rows = await session.execute(
        sa.select(models.MeterDevice.id, models.NetworkInterface.gateway)
        .join(models.NetworkInterface, models.NetworkInterface.id == models.MeterDevice.network_interface)
        .where(models.MeterDevice.id.in_([gap.meter_device for gap in results]))
    )
    gateways = {row.id: row.gateway for row in rows}
    for gap in results:
        gap.gateway = gateways.get(gap.meter_device)


router = Router("/v1/completeness/gaps", route_handlers=[list_gaps], tags=["completeness"])
