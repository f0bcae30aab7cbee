"""The recorder: what a line did becomes rows. Readings, events, outcome, held mark and command in one transaction.

What is held of an archive is only ever remembered together with the readings of those rows, so that no crash can make
the agent believe that it has what it has not.
"""

import collections
import contextlib
import dataclasses
import uuid

import structlog

from agent import metrics
from agent.commands import CommandDesk
from agent.runs import Run, RunResult
from agent.storage_faults import StoreFullError
from agent.store import Store
from contexts.catalogue import find_call
from contexts.meters import Answer, Value
from protocol import commands as states
from protocol import reports
from protocol.readings import FROM_GATEWAY, FROM_METER, NewMeterReading, utc_milliseconds
from protocol.wire import ContractError, encode

log = structlog.get_logger(__name__)

_EVENTS = uuid.UUID("5b1ff0d5-6f6c-4f0e-9c9a-0d3f3d8f5d5e")
"""Name space of the ids of meters' events: the same event, read again, has the same id."""

_MOST_STEPS = 20
"""Steps towards the disk budget that one result may wait for."""

_MOST_TITLE, _MOST_CONTENT = 50, 500
_COMMAND_STATES = {
    reports.DONE: states.DONE,
    reports.REFUSED: states.REFUSED,
    reports.CANCELLED: states.CANCELLED,
    reports.INTERRUPTED: states.INTERRUPTED,
}
"""Outcome of a run to the state of its command; all others are ``failed``."""


class Recorder:
    """Writes what lines report."""

    def __init__(self, store: Store, desk: CommandDesk) -> None:
        self._store = store
        self._desk = desk
        self._unwritten: collections.deque[RunResult] = collections.deque()
        self._refused: dict[uuid.UUID, str] = {}

    def started(self, run: Run) -> bool:
        """Note that a line has begun to work on a run; False when it must not, because that cannot be noted.

        A read of a task may run unnoted: done twice, it brings the same again.
        """
        repeatable = run.command is None and not find_call(run.context, run.call).writes
        try:
            with self._store.transaction(durable=not repeatable):
                self._store.runs.start(run.id)
                self._desk.started(run)
        except StoreFullError as error:
            if repeatable:
                return True
            self._refused[run.id] = f"not begun, because its beginning could not be noted: {error}"
            return False
        return True

    def ended(self, result: RunResult) -> None:
        """Store everything that came of a run, once; what cannot be written now waits for ``catch_up``."""
        if self._unwritten or not self._written(result):
            self._unwritten.append(_without_archive(result, self._store.fault))
            log.warning("run_not_stored_yet", run=str(result.run.id), cause=self._store.fault)

    def part(self, result: RunResult, rest: Run) -> bool:
        """Store what a slice of a background run brought, and where it goes on; False if that cannot be written."""
        readings = _readings(result, [])
        try:
            with self._store.transaction():
                if not self._store.runs.go_on(rest):
                    return True
                self._store.readings.append([encode(reading) for reading in readings])
                self._store.reports.append([encode(event) for event in _events(result)])
        except StoreFullError:
            return False
        metrics.count("readings_total", len(readings))
        log.debug("slice_stored", run=str(rest.id), meter=rest.device.name, readings=len(readings))
        return True

    def catch_up(self) -> None:
        """Store what could not be written before."""
        while self._unwritten and self._written(self._unwritten[0]):
            self._unwritten.popleft()

    def _written(self, result: RunResult) -> bool:
        try:
            self._write(result)
        except StoreFullError:
            if not self._make_room():
                return False
        else:
            return True
        try:
            self._write(result)
        except StoreFullError:
            return False
        return True

    def _make_room(self) -> bool:
        """Relieve the disk budget, if it is that; whether anything could be written."""
        steps = 0
        with contextlib.suppress(StoreFullError):
            while self._store.relieve() and steps < _MOST_STEPS:
                steps += 1
        return not self._store.fault

    def _write(self, result: RunResult) -> None:
        run = result.run
        if (run.task is not None or run.background) and result.outcome == reports.INTERRUPTED:
            # The agent is being stopped: the next start finds the run open and takes it up again.
            return
        faults: list[str] = []
        readings = _readings(result, faults)
        answer = result.answer or Answer()
        outcome, cause, kind = result.outcome, result.cause, result.kind
        if run.id in self._refused:
            outcome, cause, kind = reports.FAILED, self._refused[run.id], reports.GATEWAY
        if faults and outcome == reports.DONE:
            outcome, cause, kind = reports.FAILED, faults[0], reports.PARTIAL
        if outcome == reports.FAILED and not kind:
            # No line has had it.
            kind = reports.GATEWAY
        report = reports.RunReport(
            id=run.id,
            device=run.device.id,
            outcome=outcome,
            started=result.started,
            ended=result.ended,
            task=run.task,
            command=run.command,
            tick=run.tick,
            cause=cause,
            readings=run.earlier.readings + len(readings),
            line_bytes=run.earlier.line_bytes + result.line_bytes,
            kind=kind,
        )
        with self._store.transaction():
            if not self._store.runs.end(run.id, outcome):
                return
            self._store.readings.append([encode(reading) for reading in readings])
            self._store.reports.append([encode(event) for event in _events(result)])
            self._store.reports.append([encode(report)])
            if answer.archive is not None and answer.held is not None:
                self._store.memory.keep_held(run.device.id, answer.archive, answer.held)
            state = _COMMAND_STATES.get(outcome, states.FAILED)
            self._desk.ended(run, state, cause, readings, answer.result)
        metrics.count("runs_total", outcome=outcome)
        metrics.count("readings_total", len(readings))
        self._refused.pop(run.id, None)
        log.info(
            "run_ended",
            run=str(run.id),
            meter=run.device.name,
            call=f"{run.context}.{run.call}",
            tick=run.tick.isoformat() if run.tick else None,
            outcome=outcome,
            cause=cause,
            readings=len(readings),
        )


def _without_archive(result: RunResult, fault: str) -> RunResult:
    """Leave the rows of a scheduled archive read to the meter, which has them still: they would fill the memory."""
    if result.answer is None or result.answer.archive is None or result.run.task is None:
        return result
    cause = f"its rows are left to the meter and read again later: {fault}"
    return dataclasses.replace(result, outcome=reports.FAILED, cause=cause, answer=None, kind=reports.GATEWAY)


def _readings(result: RunResult, faults: list[str]) -> list[NewMeterReading]:
    """Make the readings of an answer; a value that the contract cannot carry becomes a fault."""
    if result.answer is None:
        return []
    faults += result.answer.problems
    readings = []
    for value in result.answer.values:
        try:
            readings.append(_reading(result, value))
        except ContractError as error:
            faults.append(f"{result.run.device.name}, series {value.series}: {error}")
    return readings


def _reading(result: RunResult, value: Value) -> NewMeterReading:
    return NewMeterReading(
        meter=result.run.device.name,
        series=value.series,
        timestamp=utc_milliseconds(value.answered or result.ended) if value.timestamp is None else value.timestamp,
        value=value.value,
        unit=value.unit,
        device=result.run.device.id,
        collected=result.ended,
        provenance=FROM_GATEWAY if value.timestamp is None else FROM_METER,
        clock_offset=result.clock_offset,
        run=result.run.id,
    )


def _events(result: RunResult) -> list[reports.MeterSystemEvent]:
    """Make the events of an answer. Equal ones at one instant are told apart by their order."""
    device = result.run.device
    seen: collections.Counter[str] = collections.Counter()
    events = []
    for event in result.answer.events if result.answer else ():
        key = f"{device.id}/{event.timestamp.isoformat()}/{event.code}"
        seen[key] += 1
        events.append(
            reports.MeterSystemEvent(
                id=uuid.uuid5(_EVENTS, f"{key}/{seen[key]}"),
                device=device.id,
                meter=device.name,
                timestamp=event.timestamp,
                code=event.code,
                title=event.title[:_MOST_TITLE],
                content=event.content[:_MOST_CONTENT],
                collected=result.ended,
            )
        )
    return events
