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
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from hub.deadlines_periods import Period, has_zones
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
"""Expectations that one count looks into, those first that lack most."""

_IDS = 5000
_SLICE = dt.timedelta(hours=6)


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Of which meters and series a deadline is: the organization's, those of a group, those of some series."""

    organization: uuid.UUID
    group: uuid.UUID | None
    series: frozenset[uuid.UUID]
    interval: str


@dataclasses.dataclass(slots=True)
class Tally:
    """Counted slots. ``asked`` are those whose time has come; ``states`` and ``reasons`` are of some that lack."""

    expected: int = 0
    asked: int = 0
    stored: int = 0
    late: int = 0
    states: Counter[str] = dataclasses.field(default_factory=Counter)
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Add another one's slots."""
        self.expected += other.expected
        self.asked += other.asked
        self.stored += other.stored
        self.late += other.late
        self.states += other.states
        self.reasons += other.reasons

    @property
    def unexplained(self) -> int:
        """Slots whose time has come that are not stored, and were not looked into."""
        return self.asked - self.stored - self.late - sum(self.states.values())

    @property
    def to_come(self) -> int:
        """Slots whose time is still to come within the period."""
        return self.expected - self.asked

    def lacking(self) -> dict[str, int]:
        """Return all slots that are not stored, by state, those that are ``missing`` by reason."""
        named = {state: count for state, count in self.states.items() if state != MISSING} | dict(self.reasons)
        named["unexplained"] = self.unexplained
        named["due"] = named.get("due", 0) + self.to_come
        return {name: count for name, count in sorted(named.items()) if count > 0}


Cell = tuple[uuid.UUID | None, uuid.UUID | None]
"""A task group (None for meters in none) and a gateway (None for meters on no line of one)."""


@dataclasses.dataclass(slots=True)
class Counted:
    """A period's slots by gateway, and by group and gateway: a meter in two groups counts in each of them."""

    gateways: dict[uuid.UUID | None, Tally] = dataclasses.field(default_factory=dict)
    groups: dict[Cell, Tally] = dataclasses.field(default_factory=dict)
    rebuilding: bool = False
    """Whether some of it is being made anew from the readings at this moment, and may show too little."""

    def tallies(self, place: "_Place") -> Iterable[Tally]:
        """Yield all that a meter counts in."""
        yield self.gateways.setdefault(place.gateway, Tally())
        for group in place.groups:
            yield self.groups.setdefault((group, place.gateway), Tally())

    @property
    def total(self) -> Tally:
        """All gateways' slots."""
        found = Tally()
        for tally in self.gateways.values():
            found.add(tally)
        return found

    def by_group(self) -> dict[uuid.UUID | None, Tally]:
        """Return the slots by group."""
        found: dict[uuid.UUID | None, Tally] = {}
        for (group, _), tally in self.groups.items():
            found.setdefault(group, Tally()).add(tally)
        return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    gateway: uuid.UUID | None
    groups: tuple[uuid.UUID | None, ...]


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
    reasons: bool = False,
    late: bool = False,
) -> Counted:
    """Count a period's slots as they are now.

    With ``groups`` also by group; with ``reasons`` why some lack; with ``late``, what was stored too late apart.
    """
    start, end = period.window
    scope = Scope(organization=of.organization)
    windows = await windows_of(session, scope, start, end, max(now, end))
    if not windows:
        return Counted()
    asked = {one.raster_id: one.last for one in await windows_of(session, scope, start, end, now)}
    if session.get_bind().dialect.name == "postgresql":
        counted, lacking = await _count_postgresql(session, of, period.zone, windows, asked, groups=groups)
    else:
        counted, lacking = await _count_here(session, of, period.zone, windows, asked, groups=groups)
    rasters = [window.raster_id for window in windows]
    stale = await session.scalars(select(Expectation.id).where(Expectation.rebuilding, Expectation.raster.in_(rasters)))
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
        ][:EXPLAINED]
    if reasons and lacking:
        await _explain(session, of, period, now, counted, lacking, rejected, groups=groups)
    if late:
        await _take_out_late(session, of, period, windows, counted, rejected, groups=groups)
    return counted


# Counting


def _expecting(of: Selection, zone: str, window: Window, *columns: Any) -> sa.Select[Any]:  # noqa: ANN401 - as above
    """Select from the expectations of one raster that are meant, with their meters and lines."""
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
    if has_zones(of.interval):
        statement = (
            statement.outerjoin(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
            .outerjoin(MeterDeviceConfig, MeterDeviceConfig.id == MeterDeviceType.config)
            .where(_zone == zone)
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
    session: AsyncSession,
    of: Selection,
    zone: str,
    windows: Sequence[Window],
    asked: Mapping[int, int],
    *,
    groups: bool,
) -> tuple[Counted, list[int]]:
    rows = sa.union_all(*(_counted_bits(of, zone, one, asked.get(one.raster_id, one.first - 1)) for one in windows))
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


def _counted_bits(of: Selection, zone: str, window: Window, last: int) -> sa.Select[Any]:
    """Select each expectation with its expected slots, those until ``last`` (now), and the bits that are set."""
    until = sa.func.coalesce(Expectation.until_slot, window.last)
    first = sa.func.greatest(Expectation.since_slot, window.first)
    found: list[sa.ColumnElement[int]] = []
    statement = _expecting(of, zone, window)
    for number, part in enumerate(parts_of([window])):
        chunk = aliased(LedgerChunk, name=f"chunk_{number}")
        same = sa.and_(chunk.expectation == Expectation.id, chunk.chunk == part.chunk)
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
    session: AsyncSession,
    of: Selection,
    zone: str,
    windows: Sequence[Window],
    asked: Mapping[int, int],
    *,
    groups: bool,
) -> tuple[Counted, list[int]]:
    ids: list[int] = []
    for window in windows:
        ids += await session.scalars(_expecting(of, zone, window, Expectation.id))
    expecting = await expectations_by_id(session, ids)
    by_raster = {window.raster_id: window for window in windows}
    spans = {}
    for one in expecting:
        window = by_raster[one.raster_id]
        first = max(window.first, one.since)
        spans[one.id] = first, window.last if one.until is None else min(window.last, one.until)
    bits = await bits_of(session, expecting, spans)
    places = await _places(session, of, zone, {one.device for one in expecting}, groups=groups)
    counted = Counted()
    lacking: list[tuple[int, int]] = []
    for one in expecting:
        first, last = spans[one.id]
        until_now = max(0, min(last, asked.get(one.raster_id, first - 1)) - first + 1)
        found = Tally(last - first + 1, until_now, bits[one.id].count(first, last))
        for tally in counted.tallies(places[one.device]):
            tally.add(found)
        if found.stored < until_now:
            lacking.append((found.stored - until_now, one.id))
    return counted, [key for _, key in sorted(lacking)[:EXPLAINED]]


async def _places(
    session: AsyncSession, of: Selection, zone: str, devices: Collection[uuid.UUID], *, groups: bool
) -> dict[uuid.UUID, _Place]:
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
        device: _Place(gateway, tuple(member.get(device, [None])) if groups else ())
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
    windows: Sequence[Window],
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
    at, until = start, max(end, *[await _end_of(session, window) for window in windows])
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


async def _end_of(session: AsyncSession, window: Window) -> dt.datetime:
    """Return until when readings may fill slots of a window: a momentary value fills the latest slot before it."""
    row = await session.get_one(LedgerRaster, window.raster_id)
    last = window.last + 1 if row.momentary else window.last
    return Raster(row.interval, row.anchor_seconds, row.zone).instant_of(last)


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
