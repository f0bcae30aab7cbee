"""The recorder: what a line did becomes rows. Readings, events, outcome, held mark and command in one transaction.

What is held of an archive is only ever remembered together with the readings of those rows, so that no crash can make
the agent believe that it has what it has not.
"""

import collections
import uuid

import structlog

from agent import metrics
from agent.commands import CommandDesk
from agent.runs import Run, RunResult
from agent.store import Store
from contexts.meters import Answer, Value
from protocol import commands as states
from protocol import reports
from protocol.readings import FROM_GATEWAY, FROM_METER, NewMeterReading, utc_milliseconds
from protocol.wire import ContractError, encode

log = structlog.get_logger(__name__)

_EVENTS = uuid.UUID("5b1ff0d5-6f6c-4f0e-9c9a-0d3f3d8f5d5e")
"""Name space of the ids of meters' events: the same event, read again, has the same id."""

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

    def started(self, run: Run) -> None:
        """Note that a line has begun to work on a run."""
        with self._store.transaction():
            self._store.runs.start(run.id)
            self._desk.started(run)

    def ended(self, result: RunResult) -> None:
        """Store everything that came of a run, once."""
        run = result.run
        if run.task is not None and result.outcome == reports.INTERRUPTED:
            # The agent is being stopped: the next start finds the run open and takes it up again.
            return
        faults: list[str] = []
        readings = _readings(result, faults)
        answer = result.answer or Answer()
        outcome, cause = result.outcome, result.cause
        if faults and outcome == reports.DONE:
            outcome, cause = reports.FAILED, faults[0]
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
            readings=len(readings),
            line_bytes=result.line_bytes,
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
        timestamp=utc_milliseconds(result.ended) if value.timestamp is None else value.timestamp,
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
