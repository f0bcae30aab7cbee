"""What a deadline's period has: expected, stored, and why the rest is not there; by gateway and by task group.

Call ``hub.ledger.catch_up`` before. Theory of operation: PostgreSQL counts the bits of each expectation's chunks and
adds them up by gateway and group in one statement, however many meters there are; SQLite has no bit counts, and there,
on small sites, chunks are counted here. Both name the expectations that lack most, and only of these (2,000 at most) it
is found out why; the slots of others are ``unexplained``.
"""

import dataclasses
import datetime as dt
import functools
import operator
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from hub.deadlines_periods import Period, has_zones
from hub.deadlines_tallies import Counted, Place, Tally
from hub.expectations import Expecting, expectations_by_id, expectations_of
from hub.flagging import rejected_slots
from hub.ledger import bits_of
from hub.models import (
    Deadline,
    Expectation,
    LedgerChunk,
    LedgerRaster,
    MeterDevice,
    MeterDeviceConfig,
    MeterDeviceType,
    NetworkInterface,
    Reading,
    deadline_series,
    device_groups,
)
from hub.reasons import MISSING, explain
from hub.reasons_known import Lack
from hub.totals import Part, Scope, Window, parts_of, windows_of
from protocol.rasters import Raster

EXPLAINED = 2000
"""Expectations that one count looks into at most, those first that lack most."""

_IDS = 5000
_SLICE = dt.timedelta(hours=6)


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Of which meters and series a deadline is: the organization's, those of a group, those of some series."""

    organization: uuid.UUID
    group: uuid.UUID | None
    series: frozenset[uuid.UUID]
    interval: str


async def selection_of(session: AsyncSession, deadline: Deadline) -> Selection:
    """Return what a deadline is of."""
    series = await session.scalars(select(deadline_series.c.series).where(deadline_series.c.deadline == deadline.id))
    return Selection(deadline.organization, deadline.task_group, frozenset(series), deadline.interval)


_zone = sa.func.coalesce(MeterDevice.timezone, MeterDeviceConfig.timezone, "UTC")


def _meters(of: Selection, *columns: Any) -> sa.Select[Any]:  # noqa: ANN401 - mapped columns
    """Select the meters that may be meant, with their configs."""
    statement = (
        select(*columns)
        .select_from(MeterDevice)
        .outerjoin(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
        .outerjoin(MeterDeviceConfig, MeterDeviceConfig.id == MeterDeviceType.config)
        .where(sa.func.coalesce(MeterDevice.organization, MeterDeviceConfig.organization) == of.organization)
    )
    if of.group is not None:
        statement = statement.where(_in_group(of.group))
    return statement


def _in_group(group: uuid.UUID) -> sa.ColumnElement[bool]:
    return MeterDevice.id.in_(select(device_groups.c.device).where(device_groups.c.group == group))


async def zones_of(session: AsyncSession, of: Selection) -> list[str]:
    """Return the zones whose calendars a deadline's periods are counted on, in order."""
    if not has_zones(of.interval):
        return ["UTC"]
    return sorted(await session.scalars(_meters(of, _zone.label("zone")).distinct()))


async def count(
    session: AsyncSession,
    of: Selection,
    period: Period,
    now: dt.datetime,
    *,
    groups: bool = False,
    reasons: int = 0,
    late: bool = False,
) -> Counted:
    """Count a period's slots as they are now.

    With ``groups`` also by group; ``reasons`` is of how many expectations that lack some it is found out why; with
    ``late``, what was stored too late is apart.
    """
    windows = await _windows(session, of, period, now)
    if not windows:
        return Counted()
    if session.get_bind().dialect.name == "postgresql":
        counted, lacking = await _count_postgresql(session, of, windows, groups=groups)
    else:
        counted, lacking = await _count_here(session, of, period.zone, windows, groups=groups)
    rasters = [window.raster_id for window in windows]
    rebuilding = (Expectation.rebuilding, Expectation.raster.in_(rasters))
    stale = await session.scalars(select(Expectation.id).where(*rebuilding).limit(1))
    counted.rebuilding = stale.first() is not None
    rejected = await _rejected(session, of, period, rasters)
    if rejected:
        places = await _places(session, of, period.zone, {one.device for one, _ in rejected.values()}, groups=groups)
        for one, slots in rejected.values():
            for tally in counted.tallies(places[one.device]) if one.device in places else ():
                tally.stored -= len(slots)
        lacking = [
            *(key for key, (one, _) in rejected.items() if one.device in places),
            *(key for key in lacking if key not in rejected),
        ]
    if reasons and lacking:
        await _explain(session, of, period, now, counted, lacking[:reasons], rejected, groups=groups)
    if late:
        await _take_out_late(session, of, period, windows, counted, rejected, groups=groups)
    return counted


# Counting


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """A window of a raster's slots: all of the period's, and those until ``now``, the last whose time has come.

    ``zone`` is that of the meters, where the raster does not say it: momentary values are expected in UTC.
    """

    window: Window
    now: int
    zone: str | None
    end: dt.datetime
    """Until when readings may fill these slots: a momentary value fills the latest one before it."""

    @property
    def raster_id(self) -> int:
        return self.window.raster_id


async def _windows(session: AsyncSession, of: Selection, period: Period, now: dt.datetime) -> list[_Asked]:
    start, end = period.window
    scope = Scope(organization=of.organization)
    until_now = {one.raster_id: one.last for one in await windows_of(session, scope, start, end, now)}
    rows = await session.scalars(select(LedgerRaster).where(LedgerRaster.organization == of.organization))
    rasters = {row.id: row for row in rows}
    found = []
    for window in await windows_of(session, scope, start, end, max(now, end)):
        row = rasters.get(window.raster_id)
        if row is None or (has_zones(of.interval) and not row.momentary and row.zone != period.zone):
            # Of other meters; or it was made between the two questions.
            continue
        zone = period.zone if has_zones(of.interval) and row.momentary else None
        last = window.last + 1 if row.momentary else window.last
        fills = Raster(row.interval, row.anchor_seconds, row.zone).instant_of(last)
        found.append(_Asked(window, until_now.get(row.id, window.first - 1), zone, max(end, fills)))
    return found


def _expecting(of: Selection, one: _Asked, *columns: Any) -> sa.Select[Any]:  # noqa: ANN401 - as above
    """Select from the expectations of one raster that are meant, with their meters and lines."""
    window = one.window
    statement = (
        select(*columns)
        .select_from(Expectation)
        .join(MeterDevice, MeterDevice.id == Expectation.device)
        .outerjoin(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
        .where(
            Expectation.raster == window.raster_id,
            Expectation.since_slot <= window.last,
            sa.or_(Expectation.until_slot.is_(None), Expectation.until_slot >= window.first),
        )
    )
    if of.series:
        statement = statement.where(Expectation.series.in_(of.series))
    if of.group is not None:
        statement = statement.where(_in_group(of.group))
    if one.zone is not None:
        statement = (
            statement.outerjoin(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
            .outerjoin(MeterDeviceConfig, MeterDeviceConfig.id == MeterDeviceType.config)
            .where(_zone == one.zone)
        )
    return statement


def _bits(part: Part, column: str) -> str:
    """The SQL that counts a part's bits in a chunk."""
    counted = [f"bit_count(substring({column} FROM {part.byte + 1} FOR {part.bytes}))"] if part.bytes else []
    counted += [
        f"bit_count(set_byte('\\x00'::bytea, 0, get_byte({column}, {byte}) & {mask}))" for byte, mask in part.masks
    ]
    return " + ".join(counted)


async def _count_postgresql(
    session: AsyncSession, of: Selection, windows: Sequence[_Asked], *, groups: bool
) -> tuple[Counted, list[int]]:
    rows = sa.union_all(*(_counted_bits(of, one) for one in windows))
    each = rows.cte("counted")
    nobody = sa.cast(sa.null(), sa.Uuid)
    sums = [sa.func.sum(each.c[name]).cast(sa.BigInteger) for name in ("expected", "asked", "stored")]
    wanted = [select(sa.literal("gateway"), nobody, each.c.gateway, *sums)]
    wanted[0] = wanted[0].group_by(each.c.gateway)
    if groups:
        by_group = select(sa.literal("group"), device_groups.c.group, each.c.gateway, *sums)
        by_group = by_group.select_from(each.outerjoin(device_groups, device_groups.c.device == each.c.device))
        wanted.append(by_group.group_by(device_groups.c.group, each.c.gateway))
    lacks = each.c.asked - each.c.stored
    worst = (
        select(
            sa.literal("lacking").label("kind"),
            nobody.label("group"),
            nobody.label("gateway"),
            each.c.id,
            each.c.asked,
            each.c.stored,
        )
        .where(lacks > 0)
        .order_by(lacks.desc(), each.c.id)
        .limit(EXPLAINED)
    )
    wanted.append(select(worst.subquery()))
    counted, lacking = Counted(), []
    for kind, group, gateway, expected, until_now, stored in await session.execute(sa.union_all(*wanted)):
        if kind == "lacking":
            lacking.append(expected)
        elif kind == "gateway":
            counted.gateways[gateway] = Tally(expected, until_now, stored)
        else:
            counted.groups[group, gateway] = Tally(expected, until_now, stored)
    return counted, lacking


def _counted_bits(of: Selection, one: _Asked) -> sa.Select[Any]:
    """Select each expectation with its expected slots, those until now, and the bits that are set."""
    window, last = one.window, one.now
    until = sa.func.coalesce(Expectation.until_slot, window.last)
    first = sa.func.greatest(Expectation.since_slot, window.first)
    found: list[sa.ColumnElement[int]] = []
    statement = _expecting(of, one)
    for number, part in enumerate(parts_of([window])):
        chunk = aliased(LedgerChunk, name=f"chunk_{number}")
        # By the index over raster and chunk, as totals are counted.
        place = sa.and_(chunk.raster == window.raster_id, chunk.chunk == part.chunk)
        same = sa.and_(chunk.expectation == Expectation.id, place)
        statement = statement.outerjoin(chunk, same)
        found.append(sa.func.coalesce(sa.literal_column(_bits(part, f"chunk_{number}.bits"), sa.BigInteger), 0))
    stored = functools.reduce(operator.add, found)
    return statement.add_columns(
        Expectation.id.label("id"),
        Expectation.device.label("device"),
        NetworkInterface.gateway.label("gateway"),
        (sa.func.least(until, window.last) - first + 1).label("expected"),
        sa.func.greatest(0, sa.func.least(until, last) - first + 1).label("asked"),
        stored.label("stored"),
    )


async def _count_here(
    session: AsyncSession, of: Selection, zone: str, windows: Sequence[_Asked], *, groups: bool
) -> tuple[Counted, list[int]]:
    ids: list[int] = []
    for asked in windows:
        ids += await session.scalars(_expecting(of, asked, Expectation.id))
    expecting = await expectations_by_id(session, ids)
    by_raster = {one.raster_id: one for one in windows}
    spans = {}
    for one in expecting:
        window = by_raster[one.raster_id].window
        first = max(window.first, one.since)
        spans[one.id] = first, window.last if one.until is None else min(window.last, one.until)
    bits = await bits_of(session, expecting, spans)
    places = await _places(session, of, zone, {one.device for one in expecting}, groups=groups)
    counted = Counted()
    lacking: list[tuple[int, int]] = []
    for one in expecting:
        first, last = spans[one.id]
        until_now = max(0, min(last, by_raster[one.raster_id].now) - first + 1)
        found = Tally(last - first + 1, until_now, bits[one.id].count(first, last))
        for tally in counted.tallies(places[one.device]) if one.device in places else ():
            tally.add(found)
        if found.stored < until_now:
            lacking.append((found.stored - until_now, one.id))
    return counted, [key for _, key in sorted(lacking)[:EXPLAINED]]


async def _places(
    session: AsyncSession, of: Selection, zone: str, devices: Collection[uuid.UUID], *, groups: bool
) -> dict[uuid.UUID, Place]:
    """Return where the meters are of those that are meant."""
    ordered = sorted(devices)
    gateways: dict[uuid.UUID, uuid.UUID | None] = {}
    member: dict[uuid.UUID, list[uuid.UUID | None]] = {}
    for begin in range(0, len(ordered), _IDS):
        some = ordered[begin : begin + _IDS]
        statement = (
            _meters(of, MeterDevice.id, NetworkInterface.gateway, _zone.label("zone"))
            .outerjoin(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
            .where(MeterDevice.id.in_(some))
        )
        for row in await session.execute(statement):
            if row.zone == zone or not has_zones(of.interval):
                gateways[row.id] = row.gateway
        if groups:
            pairs = await session.execute(
                select(device_groups.c.device, device_groups.c.group).where(device_groups.c.device.in_(some))
            )
            for device, group in pairs:
                member.setdefault(device, []).append(group)
    return {
        device: Place(gateway, tuple(member.get(device, [None])) if groups else ())
        for device, gateway in gateways.items()
    }


# Why some lack


_Rejected = dict[int, tuple[Expecting, dict[int, int]]]


async def _rejected(session: AsyncSession, of: Selection, period: Period, rasters: Collection[int]) -> _Rejected:
    """Return by expectation the slots, with their flags, whose reading is there but does not count."""
    found = await rejected_slots(session, *period.window)
    slots: _Rejected = {}
    for one in await expectations_of(session, {device for device, _ in found}) if found else ():
        if one.raster_id not in rasters or (of.series and one.series not in of.series):
            continue
        for timestamp, flags in found.get((one.device, one.series), ()):
            slot = one.slot_at(timestamp)
            if slot is not None:
                slots.setdefault(one.id, (one, {}))[1][slot] = flags
    return slots


async def _explain(
    session: AsyncSession,
    of: Selection,
    period: Period,
    now: dt.datetime,
    counted: Counted,
    lacking: Sequence[int],
    rejected: _Rejected,
    *,
    groups: bool,
) -> None:
    """Add to the tallies which states and reasons the slots have that these expectations lack."""
    expecting = await expectations_by_id(session, lacking)
    windows = {one.id: one.window(*period.window, now) for one in expecting}
    bits = await bits_of(session, expecting, windows)
    lacks = []
    for one in expecting:
        flagged = rejected[one.id][1] if one.id in rejected else {}
        bits[one.id].drop(flagged)
        lacks.append(Lack(one, bits[one.id].missing(*windows[one.id]), flagged))
    found = await explain(session, lacks, now)
    places = await _places(session, of, period.zone, {one.device for one in expecting}, groups=groups)
    for one in expecting:
        states: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for span in found.get(one.id, ()):
            states[span.state] += span.last - span.first + 1
            if span.state == MISSING:
                reasons[span.reason] += span.last - span.first + 1
        for tally in counted.tallies(places[one.device]) if one.device in places else ():
            tally.states += states
            tally.reasons += reasons


# What came too late


async def _take_out_late(
    session: AsyncSession,
    of: Selection,
    period: Period,
    windows: Sequence[_Asked],
    counted: Counted,
    rejected: _Rejected,
    *,
    groups: bool,
) -> None:
    """Move what was first stored after ``due_at`` from ``stored`` to ``late``: what came since, little as a rule.

    The first version of a reading says when that was (``created_at``); later ones do not change it. A slot of momentary
    values is in time when any of them was.
    """
    late: dict[tuple[uuid.UUID, uuid.UUID], set[dt.datetime]] = {}
    start, end = period.window
    statement = select(Reading.meter_device, Reading.series, Reading.timestamp).where(
        Reading.organization == of.organization, Reading.created_at > period.due_at
    )
    if of.series:
        statement = statement.where(Reading.series.in_(of.series))
    at, until = start, max(one.end for one in windows)
    while at < until:
        # In slices, so that what came too late altogether, after an outage of relays, does not fill the memory.
        to = min(at + _SLICE, until)
        for row in await session.execute(statement.where(Reading.timestamp >= at, Reading.timestamp < to)):
            late.setdefault((row.meter_device, row.series), set()).add(row.timestamp)
        at = to
    if not late:
        return
    places = await _places(session, of, period.zone, {device for device, _ in late}, groups=groups)
    for one in await expectations_of(session, places):
        first, last = one.window(start, end, end)
        slots = {slot for at in late.get((one.device, one.series), ()) if (slot := one.slot_at(at)) is not None}
        slots = {slot for slot in slots if first <= slot <= last}
        if one.id in rejected:
            slots -= rejected[one.id][1].keys()
        if one.momentary and slots:
            slots -= await _in_time(session, one, slots, period.due_at)
        for tally in counted.tallies(places[one.device]) if slots else ():
            tally.stored -= len(slots)
            tally.late += len(slots)


async def _in_time(session: AsyncSession, one: Expecting, slots: Collection[int], due_at: dt.datetime) -> set[int]:
    """Return the slots of momentary values that one of them filled in time."""
    timestamps = await session.scalars(
        select(Reading.timestamp).where(
            Reading.meter_device == one.device,
            Reading.series == one.series,
            Reading.timestamp >= one.raster.instant_of(min(slots)),
            Reading.timestamp < one.raster.instant_of(max(slots) + 1),
            Reading.created_at <= due_at,
        )
    )
    return {slot for at in timestamps if (slot := one.slot_at(at)) is not None}
