"""Why an expected slot is not stored: found out when it is asked, from what the hub knows; never kept per slot.

Rules, the first that holds:
- A span that is settled is ``unrecoverable``, with the meter's own words; one that an open command reads, or a backfill
  that has begun, is ``being_fetched``.
- What arrived but does not count says why: rejected by validation (where the config rejects), staged, or given up by
  its gateway (a loss record).
- A run that could have brought it tells: it is done and its gateway still has rows to send (``on_gateway``), it is done
  and the meter did not have it, or it did not come about, with its cause. Of an archive the last such run counts, of a
  momentary value the run of its tick: where that failed, or was so late that its value is the next slot's, the value
  is ``unrecoverable``, because it has passed.
- Without a run: the gateway is away, or doubts its clock; or a run is still ``due``; else nobody brought it.
- What is missing by all that, a backfill may wait for: ``being_fetched`` until its first try has failed, then missing
  with the cause of that. What an earlier meter had that was replaced since is ``unrecoverable``.
"""

import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from hub import models
from hub.backfill_plans import MOST_TRIES
from hub.backfill_rows import GAVE_UP, WAITING
from hub.expectations import polled_of
from hub.expected_series import ticks_of
from hub.ledger_chunks import cut
from hub.paging import parse_instant
from hub.problems import Wrong
from hub.reasons_known import Known, Lack, look_up
from hub.validation import names_of
from protocol import commands, reports
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

_SILENT = re.compile(r"no answer|not answer|nobody answers|silent", re.IGNORECASE)
_EMPTY = re.compile(r"#010[345]")
_REFUSAL = re.compile(r"#\d{4}|refused")


@dataclasses.dataclass(frozen=True, slots=True)
class Explained:
    """Slots from first to last with one state; ``since`` when it is known from when on that is so."""

    first: int
    last: int
    state: str
    reason: str
    since: dt.datetime | None
    evidence: str


async def explain(session: AsyncSession, lacks: Sequence[Lack], now: dt.datetime) -> dict[int, list[Explained]]:
    """Return for each expectation why its spans are lacking, cut where the answer changes."""
    lacks = [lack for lack in lacks if lack.spans]
    if not lacks:
        return {}
    known = await look_up(session, lacks)
    return {lack.one.id: _Explainer(lack, known, now).explain() for lack in lacks}


class _Explainer:
    """Explains the lacks of one expectation."""

    def __init__(self, lack: Lack, known: Known, now: dt.datetime) -> None:
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
        self._lost = [(row, *self._within(row.start, row.end)) for row in known.lost.get((device, name), ())]
        self._backfills = [(row, *self._within(row.start, row.end)) for row in self._caring(known)]
        since = None if lack.one.archive is None else known.replaced.get(device)
        self._replaced = None if since is None else self._one.raster.first_slot_at_or_after(since)
        self._since = since
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
        for _, first, last in (*self._settled, *self._commands, *self._lost, *self._backfills, *self._failed):
            cuts |= {first, last + 1}
        if self._replaced is not None:
            cuts.add(self._replaced)
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

    def _within(self, start: dt.datetime, end: dt.datetime) -> tuple[int, int]:
        """The slots from an instant to another, both included."""
        return self._one.raster.first_slot_at_or_after(start), self._one.raster.slot_at_or_before(end)

    def _caring(self, known: Known) -> list[models.Backfill]:
        """The backfills of the archive that brings this series."""
        if self._one.archive is None:
            return []
        return [row for row in known.backfills.get(self._one.device, ()) if row.archive == self._one.archive]

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
        return self._within(first, last)

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
        care = next((row for row, first, last in self._backfills if first <= slot <= last), None)
        found = self._settled_or_fetched(slot) or self._come(slot)
        if found is None and care is not None and care.ended_at is None and care.state != WAITING:
            evidence = f"backfill {care.id} has read the archive; what it brought is on its way"
            found = Explained(slot, slot, BEING_FETCHED, "", care.noticed_at, evidence)
        if found is not None:
            return found
        found = self._missed(slot) or self._by_run(slot) or self._without_run(slot)
        if found.state != MISSING:
            return found
        if self._replaced is not None and slot < self._replaced and found.reason != GATEWAY_OFFLINE:
            evidence = f"the meter that had it was replaced at {_shown(self._since)}; {found.evidence}"
            return dataclasses.replace(found, state=UNRECOVERABLE, since=self._since, evidence=evidence)
        return found if care is None else _cared_for(found, care, self._place.gateway)

    def _settled_or_fetched(self, slot: int) -> Explained | None:
        for settled, first, last in self._settled:
            if first <= slot <= last:
                return Explained(slot, slot, UNRECOVERABLE, "", settled.since, settled.evidence)
        for command, first, last in self._commands:
            if first <= slot <= last:
                evidence = f"command {command.id} is {command.state}"
                return Explained(slot, slot, BEING_FETCHED, "", command.created_at, evidence)
        return None

    def _come(self, slot: int) -> Explained | None:
        """What arrived, but does not count."""
        if slot in self._lack.rejected:
            return self._missing(slot, REJECTED, ", ".join(names_of(self._lack.rejected[slot])))
        if slot in self._staged:
            staged = self._staged[slot]
            return self._missing(slot, STAGED, staged.reason, staged.created_at)
        for lost, first, last in self._lost:
            if first <= slot <= last:
                return self._missing(slot, LOST_ON_GATEWAY, lost.reason, lost.received_at)
        return None

    def _missing(self, slot: int, reason: str, evidence: str, since: dt.datetime | None = None) -> Explained:
        return Explained(slot, slot, MISSING, reason, since, evidence)

    def _missed(self, slot: int) -> Explained | None:
        """Why a momentary value was not read in its time, if its own run says so: what was shown then is gone."""
        for run, first, last in self._failed:
            if not first <= slot <= last:
                continue
            if run.outcome != reports.DONE:
                why = self._missing(slot, reason_of(run.outcome, run.cause), run.cause, run.ended)
                return dataclasses.replace(why, state=UNRECOVERABLE)
            if run.ended >= self._one.raster.instant_of(slot + 1):
                evidence = f"its run ended at {_shown(run.ended)}, when the next one was due"
                return Explained(slot, slot, UNRECOVERABLE, LINE, run.ended, evidence)
        return None

    def _by_run(self, slot: int) -> Explained | None:
        """What the last run says that could have brought it, if there was one."""
        run: Any = self._run
        if run is None or run.ended < self._one.raster.instant_of(slot):
            return None
        if run.outcome != reports.DONE:
            # Of a momentary value it says nothing of the slots before its own, but what still waits behind it.
            if self._one.momentary:
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


def _cared_for(found: Explained, row: models.Backfill, gateway: models.Gateway | None) -> Explained:
    """Say of what is missing what a backfill that waits, or was given up or cancelled, does about it."""
    if row.ended_at is not None:
        care = f"backfill {row.id} {'gave up' if row.state == GAVE_UP else 'was cancelled'}: {row.evidence}"
    elif row.paused:
        care = f"backfill {row.id} is paused"
    elif gateway is not None and gateway.backfill_paused:
        care = f"backfill {row.id} is paused with all of {gateway.gateway_id}"
    elif found.reason == GATEWAY_OFFLINE:
        care = f"backfill {row.id} waits for it"
    elif not row.tries:
        return dataclasses.replace(
            found,
            state=BEING_FETCHED,
            reason="",
            since=row.created_at,
            evidence=f"backfill {row.id} waits for its turn since {_shown(row.noticed_at)}",
        )
    else:
        state, _, cause = row.evidence.partition(": ")
        reason = LINE if state == commands.EXPIRED else reason_of(state, cause)
        again = f"{row.evidence}; backfill {row.id} is tried again at {_shown(row.next_at)}"
        evidence = f"{again} (try {row.tries + 1} of {MOST_TRIES})"
        return dataclasses.replace(found, reason=reason, since=row.updated_at, evidence=evidence)
    return dataclasses.replace(found, evidence=f"{found.evidence}; {care}")


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


def _shown(instant: dt.datetime | None) -> str:
    return "" if instant is None else f"{instant:%Y-%m-%dT%H:%M:%SZ}"
