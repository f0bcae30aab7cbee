"""Why an expected slot is not stored: found out when it is asked, from what the hub knows; never kept per slot.

Rules, the first that holds:
- A span that is settled is ``unrecoverable``, with the meter's own words; one that an open command reads is
  ``being_fetched``.
- What arrived but does not count says why: rejected by validation (where the config rejects), staged, or given up by
  its gateway (a loss record).
- A run that could have brought it tells: it is done and its gateway still has rows to send (``on_gateway``), it is done
  and the meter did not have it, or it did not come about, with its cause. Of an archive the last such run counts, of a
  momentary value the run of its tick.
- Without a run: the gateway is away, or doubts its clock; or a run is still ``due``; else nobody brought it.
"""

import dataclasses
import datetime as dt
import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import models
from hub.dispatch import OPEN_STATES
from hub.expectations import Expecting, polled_of, tasks_of
from hub.expected_series import ticks_of
from hub.ledger import Settled, settled_of
from hub.ledger_chunks import Spans, cut
from hub.paging import parse_instant
from hub.problems import Wrong
from hub.validation import names_of
from protocol import reports
from protocol.schedules import tick_at_or_before

ON_GATEWAY, DUE, MISSING, BEING_FETCHED, UNRECOVERABLE = (
    "on_gateway",
    "due",
    "missing",
    "being_fetched",
    "unrecoverable",
)
STATES = (ON_GATEWAY, DUE, MISSING, BEING_FETCHED, UNRECOVERABLE)
"""What a slot can be that is not stored."""

GATEWAY_OFFLINE = "gateway_offline"
LINE = "line"
METER_SILENT = "meter_silent"
REFUSED = "refused"
WRONG_METER = "wrong_meter"
CLOCK_NOT_BELIEVED = "clock_not_believed"
NOT_IN_ARCHIVE = "not_in_archive"
REJECTED = "rejected"
STAGED = "staged"
LOST_ON_GATEWAY = "lost_on_gateway"
INTERRUPTED = "interrupted"
CANCELLED = "cancelled"
SKIPPED = "skipped"
NO_GATEWAY = "no_gateway"
NOT_BROUGHT = "not_brought"
REASONS = (
    GATEWAY_OFFLINE,
    LINE,
    METER_SILENT,
    REFUSED,
    WRONG_METER,
    CLOCK_NOT_BELIEVED,
    NOT_IN_ARCHIVE,
    REJECTED,
    STAGED,
    LOST_ON_GATEWAY,
    INTERRUPTED,
    CANCELLED,
    SKIPPED,
    NO_GATEWAY,
    NOT_BROUGHT,
)
"""Why a slot is missing."""

GRACE = dt.timedelta(minutes=15)
"""So long after its time a run may still begin, wait for its line and have its readings on the way."""

_RUNS = 20_000
"""Runs looked at for the momentary values of one question, the newest first."""

_SILENT = re.compile(r"no answer|not answer|nobody answers|silent", re.IGNORECASE)
_EMPTY = re.compile(r"#010[345]")
_REFUSAL = re.compile(r"#\d{4}|refused")


@dataclasses.dataclass(frozen=True, slots=True)
class Lack:
    """What one expectation lacks: spans of slots. ``rejected``: those that are there but do not count, with flags."""

    one: Expecting
    spans: Spans
    rejected: Mapping[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Explained:
    """Slots from first to last with one state; ``since`` when it is known from when on that is so."""

    first: int
    last: int
    state: str
    reason: str
    since: dt.datetime | None
    evidence: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """A device as far as reasons need it."""

    name: str
    gateway: models.Gateway | None


@dataclasses.dataclass(slots=True)
class _Known:
    """What the database says about the devices of some lacks."""

    places: dict[uuid.UUID, _Place]
    tasks: dict[uuid.UUID, list[models.AmrTask]]
    latest: dict[tuple[uuid.UUID, uuid.UUID | None], Any]
    failed: dict[tuple[uuid.UUID, uuid.UUID | None], list[Any]]
    settled: dict[int, list[Settled]]
    commands: dict[uuid.UUID, list[models.Command]]
    staged: dict[tuple[uuid.UUID, str], list[Any]]
    lost: dict[tuple[uuid.UUID, str], list[models.LossRecord]]
    series: dict[uuid.UUID, str]


async def explain(session: AsyncSession, lacks: Sequence[Lack], now: dt.datetime) -> dict[int, list[Explained]]:
    """Return for each expectation why its spans are lacking, cut where the answer changes."""
    lacks = [lack for lack in lacks if lack.spans]
    if not lacks:
        return {}
    known = await _look_up(session, lacks)
    return {lack.one.id: _Explainer(lack, known, now).explain() for lack in lacks}


async def _look_up(session: AsyncSession, lacks: Sequence[Lack]) -> _Known:
    devices = sorted({lack.one.device for lack in lacks})
    start = min(lack.one.raster.instant_of(lack.spans[0][0]) for lack in lacks)
    end = max(lack.one.raster.instant_of(lack.spans[-1][1] + 1) for lack in lacks)
    places = {
        row[0]: _Place(row[1], row[2])
        for row in await session.execute(
            select(models.MeterDevice.id, models.MeterDevice.name, models.Gateway)
            .outerjoin(models.NetworkInterface, models.NetworkInterface.id == models.MeterDevice.network_interface)
            .outerjoin(models.Gateway, models.Gateway.id == models.NetworkInterface.gateway)
            .where(models.MeterDevice.id.in_(devices))
        )
    }
    names = await session.execute(
        select(models.ReadingSeries.id, models.ReadingSeries.name).where(
            models.ReadingSeries.id.in_({lack.one.series for lack in lacks})
        )
    )
    commands = await session.scalars(
        select(models.Command).where(models.Command.meter_device.in_(devices), models.Command.state.in_(OPEN_STATES))
    )
    momentary = sorted({lack.one.device for lack in lacks if lack.one.momentary})
    return _Known(
        places,
        await tasks_of(session, devices),
        await _latest_runs(session, devices, start),
        await _failed_runs(session, momentary, start),
        await settled_of(session, [lack.one for lack in lacks]),
        _grouped((row.meter_device, row) for row in commands),
        await _staged(session, places, start, end),
        await _lost(session, devices, start, end),
        {row.id: row.name for row in names},
    )


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


_RUN = (
    models.RunReport.device,
    models.RunReport.task,
    models.RunReport.tick,
    models.RunReport.since,
    models.RunReport.outcome,
    models.RunReport.cause,
    models.RunReport.started,
    models.RunReport.ended,
    models.RunReport.readings,
)


async def _latest_runs(
    session: AsyncSession, devices: Collection[uuid.UUID], start: dt.datetime
) -> dict[tuple[uuid.UUID, uuid.UUID | None], Any]:
    """The last run of each task on each device, of those that ended since ``start``; missed ticks are no run."""
    table = models.RunReport
    ran = (table.device.in_(devices), table.ended >= start, table.task.is_not(None))
    last = (
        select(table.device, table.task, sa.func.max(table.ended).label("ended"))
        .where(*ran)
        .group_by(table.device, table.task)
        .subquery()
    )
    same = sa.and_(table.device == last.c.device, table.task == last.c.task, table.ended == last.c.ended)
    return {(row.device, row.task): row for row in await session.execute(select(*_RUN).join(last, same))}


async def _failed_runs(
    session: AsyncSession, devices: Collection[uuid.UUID], start: dt.datetime
) -> dict[tuple[uuid.UUID, uuid.UUID | None], list[Any]]:
    table = models.RunReport
    if not devices:
        return {}
    rows = await session.execute(
        select(*_RUN)
        .where(table.device.in_(devices), table.ended >= start, table.outcome != reports.DONE, table.tick.is_not(None))
        .order_by(table.ended.desc())
        .limit(_RUNS)
    )
    return _grouped(((row.device, row.task), row) for row in rows)


async def _staged(
    session: AsyncSession, places: Mapping[uuid.UUID, _Place], start: dt.datetime, end: dt.datetime
) -> dict[tuple[uuid.UUID, str], list[Any]]:
    table = models.StagedReading
    named = {place.name: device for device, place in places.items()}
    rows = await session.execute(
        select(
            table.device, table.meter_device_name, table.series_name, table.timestamp, table.reason, table.created_at
        ).where(
            table.timestamp >= start,
            table.timestamp < end,
            sa.or_(table.device.in_(list(places)), table.meter_device_name.in_(list(named))),
        )
    )
    found: list[tuple[Any, Any]] = []
    for row in rows:
        device = row.device if row.device is not None else named[row.meter_device_name]
        found.append(((device, row.series_name), row))
    return _grouped(found)


async def _lost(
    session: AsyncSession, devices: Collection[uuid.UUID], start: dt.datetime, end: dt.datetime
) -> dict[tuple[uuid.UUID, str], list[models.LossRecord]]:
    table = models.LossRecord
    rows = await session.scalars(select(table).where(table.device.in_(devices), table.start < end, table.end >= start))
    return _grouped(((row.device, row.series), row) for row in rows)


class _Explainer:
    """Explains the lacks of one expectation."""

    def __init__(self, lack: Lack, known: _Known, now: dt.datetime) -> None:
        self._lack = lack
        self._one = lack.one
        self._now = now
        device, name = lack.one.device, known.series.get(lack.one.series, "")
        self._place = known.places[device]
        self._settled = [(settled, *settled.slots(lack.one)) for settled in known.settled.get(lack.one.id, ())]
        self._commands = [
            (command, *window) for command in known.commands.get(device, ()) if (window := self._asked(command))
        ]
        self._staged = {
            slot: row for row in known.staged.get((device, name), ()) if (slot := self._slot(row.timestamp)) is not None
        }
        self._lost = [
            (row, self._one.raster.first_slot_at_or_after(row.start), self._one.raster.slot_at_or_before(row.end))
            for row in known.lost.get((device, name), ())
        ]
        self._tasks = self._bringing(known.tasks.get(device, ()))
        runs = [run for task in self._tasks if (run := known.latest.get((device, task.id))) is not None]
        self._run = max(runs, key=lambda run: run.ended, default=None)
        self._failed = [
            (run, self._tick(run.since or run.tick, task), self._tick(run.tick, task))
            for task in self._tasks
            for run in known.failed.get((device, task.id), ())
            if lack.one.momentary
        ]
        self._due = self._first_due()

    def explain(self) -> list[Explained]:
        """Return the spans with their answers, neighbours with the same answer as one."""
        cuts = {self._due, *self._points(self._lack.rejected), *self._points(self._staged)}
        for _, first, last in (*self._settled, *self._commands, *self._lost, *self._failed):
            cuts |= {first, last + 1}
        if self._run is not None:
            cuts.add(self._one.raster.slot_at_or_before(self._run.ended) + 1)
        found: list[Explained] = []
        for first, last in cut(self._lack.spans, cuts):
            answer = self._answer(first)
            before = found[-1] if found else None
            if before is not None and before.last == first - 1 and _same(before, answer):
                found[-1] = dataclasses.replace(before, last=last)
            else:
                found.append(dataclasses.replace(answer, first=first, last=last))
        return found

    @staticmethod
    def _points(slots: Iterable[int]) -> set[int]:
        return {cut_at for slot in slots for cut_at in (slot, slot + 1)}

    def _slot(self, at: dt.datetime) -> int | None:
        return self._one.raster.slot_at_or_before(at) if self._one.momentary else self._one.raster.slot_of(at)

    def _tick(self, tick: dt.datetime, task: models.AmrTask) -> int:
        return self._one.raster.slot_at_or_before(tick + dt.timedelta(seconds=task.run_offset_seconds))

    def _bringing(self, tasks: Sequence[models.AmrTask]) -> list[models.AmrTask]:
        """The tasks whose runs can bring this series."""
        if self._one.momentary:
            return [task for task in tasks if ticks_of(polled_of(task)) == self._one.raster]
        archives = [(task, polled_of(task).archive) for task in tasks]
        return [task for task, archive in archives if archive is not None and self._one.archive in {None, archive}]

    def _asked(self, command: models.Command) -> tuple[int, int] | None:
        """The slots that an open command reads; None when it reads no archive of this series."""
        number, start = command.kwargs.get("archive_number"), command.kwargs.get("start_date")
        if not isinstance(start, str) or (self._one.archive is not None and number != self._one.archive):
            return None
        try:
            first = parse_instant("start_date", start)
            last = parse_instant("end_date", str(command.kwargs.get("end_date") or self._now.isoformat()))
        except Wrong:
            # A date in the meter's own zone: who reads by hand does not fetch for the ledger.
            return None
        return self._one.raster.first_slot_at_or_after(first), self._one.raster.slot_at_or_before(last)

    def _first_due(self) -> int:
        """The first slot whose run may still come."""
        raster = self._one.raster
        if self._one.momentary:
            return raster.first_slot_at_or_after(self._now - GRACE)
        if not self._tasks:
            # Nobody polls it, so it is pushed: by the next one at the latest.
            return raster.first_slot_at_or_after(self._now - dt.timedelta(seconds=raster.seconds))
        begun = [
            tick_at_or_before(task.schedule, self._now - GRACE - dt.timedelta(seconds=task.run_offset_seconds))
            for task in self._tasks
        ]
        return raster.slot_at_or_before(max(begun)) + 1

    def _answer(self, slot: int) -> Explained:
        """What holds for a slot, and for all up to the next cut."""
        for settled, first, last in self._settled:
            if first <= slot <= last:
                return Explained(slot, slot, UNRECOVERABLE, "", settled.since, settled.evidence)
        for command, first, last in self._commands:
            if first <= slot <= last:
                evidence = f"command {command.id} is {command.state}"
                return Explained(slot, slot, BEING_FETCHED, "", command.created_at, evidence)
        if slot in self._lack.rejected:
            return self._missing(slot, REJECTED, ", ".join(names_of(self._lack.rejected[slot])))
        if slot in self._staged:
            staged = self._staged[slot]
            return self._missing(slot, STAGED, staged.reason, staged.created_at)
        for lost, first, last in self._lost:
            if first <= slot <= last:
                return self._missing(slot, LOST_ON_GATEWAY, lost.reason, lost.received_at)
        return self._by_run(slot) or self._without_run(slot)

    def _missing(self, slot: int, reason: str, evidence: str, since: dt.datetime | None = None) -> Explained:
        return Explained(slot, slot, MISSING, reason, since, evidence)

    def _by_run(self, slot: int) -> Explained | None:
        """What the run says that could have brought it, if there was one."""
        run: Any = next((run for run, first, last in self._failed if first <= slot <= last), None)
        last_run = self._run
        if run is None and last_run is not None and last_run.ended >= self._one.raster.instant_of(slot):
            run = last_run
        # The last run of a momentary value says nothing of the slots before its own, but what still waits behind it.
        if run is None:
            return None
        if run.outcome != reports.DONE:
            if self._one.momentary and run is last_run:
                return None
            return self._missing(slot, reason_of(run.outcome, run.cause), run.cause, run.ended)
        gateway = self._place.gateway
        if gateway is not None and gateway.depth > 0 and gateway.oldest is not None and gateway.oldest <= run.ended:
            evidence = f"{gateway.depth} rows wait on {gateway.gateway_id}, the oldest since {_shown(gateway.oldest)}"
            return Explained(slot, slot, ON_GATEWAY, "", run.ended, evidence)
        if self._one.momentary:
            return None
        return self._missing(slot, NOT_IN_ARCHIVE, f"the run that ended at {_shown(run.ended)} is done", run.ended)

    def _without_run(self, slot: int) -> Explained:
        gateway = self._place.gateway
        if gateway is not None and not gateway.online:
            seen = _shown(gateway.last_seen) if gateway.last_seen else "never"
            evidence = f"{gateway.gateway_id} was last seen {seen}"
            return self._missing(slot, GATEWAY_OFFLINE, evidence, gateway.last_seen)
        if gateway is not None and not gateway.clock_believed:
            return self._missing(slot, CLOCK_NOT_BELIEVED, gateway.status or f"{gateway.gateway_id} doubts its clock")
        if slot >= self._due:
            return Explained(slot, slot, DUE, "", None, "")
        if gateway is None and self._tasks:
            return self._missing(slot, NO_GATEWAY, "the meter is on no line of a gateway")
        evidence = "no run is known that could have" if self._tasks else "no task reads it, and it was not pushed"
        return self._missing(slot, NOT_BROUGHT, evidence)


def _same(one: Explained, other: Explained) -> bool:
    return (one.state, one.reason, one.since, one.evidence) == (other.state, other.reason, other.since, other.evidence)


def reason_of(outcome: str, cause: str) -> str:
    """Return the reason that an outcome and the first cause in words come to."""
    if outcome == reports.FAILED:
        if _EMPTY.search(cause):
            return NOT_IN_ARCHIVE
        if _REFUSAL.search(cause):
            return REFUSED
        return METER_SILENT if _SILENT.search(cause) else LINE
    if outcome == reports.MISSED:
        if "clock" in cause:
            return CLOCK_NOT_BELIEVED
        return LINE if "line" in cause else SKIPPED
    return {
        reports.WRONG_METER: WRONG_METER,
        reports.REFUSED: REFUSED,
        reports.CANCELLED: CANCELLED,
        reports.INTERRUPTED: INTERRUPTED,
    }.get(outcome, NOT_BROUGHT)


def _shown(instant: dt.datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
