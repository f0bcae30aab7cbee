"""Background runs over restarts: what a slice brought is stored with where it goes on, and the command goes on."""

import dataclasses
import datetime as dt
import decimal
import pathlib
import uuid

from agent.background import rest_of
from agent.clocks import Clock
from agent.commands import CommandDesk
from agent.duties import EMPTY
from agent.recorder import Recorder
from agent.runs import Earlier, Run, RunResult
from agent.store import Store
from agent.trust import ClockTrust
from contexts.meters import Answer, Value
from protocol import commands as states
from protocol import reports
from protocol.commands import Command, CommandUpdate
from protocol.readings import NewMeterReading
from protocol.reports import RunReport, decode_report
from protocol.wire import decode, encode
from tests.parts.relay import a_device, a_line

LINE = a_line("socket://127.0.0.1:1")
METER = a_device(LINE)
ARCHIVE = {"start_date": "2026-03-01T00:00:00Z", "end_date": "2026-03-01T05:00:00Z", "archive_number": 3}


class Process:
    """The store, desk and recorder of one process; its line only notes what it gets."""

    def __init__(self, folder: pathlib.Path) -> None:
        clock = Clock()
        self.store = Store(folder / "agent.db", "gw-1", clock)
        self.queued: list[Run] = []
        self.desk = CommandDesk(
            "gw-1",
            self.store,
            clock,
            ClockTrust(clock, self.store, lambda: True),
            submit=self.queued.append,
            cancel=lambda _: True,
            withdraw=lambda _: True,
            reply=lambda *_: None,
        )
        self.desk.roster = dataclasses.replace(EMPTY, lines={LINE.id: LINE}, devices={METER.id: METER})
        self.recorder = Recorder(self.store, self.desk)
        self.desk.recover()

    def steps(self) -> list[CommandUpdate]:
        return [report for report in self.reports() if isinstance(report, CommandUpdate)]

    def reports(self) -> list[object]:
        rows = self.store.reports.next_rows(0, 1_000_000)
        return [decode_report(body) for body in rows.bodies] if rows else []

    def readings(self) -> list[dt.datetime]:
        rows = self.store.readings.next_rows(0, 1_000_000)
        return [decode(body, NewMeterReading).timestamp for body in rows.bodies] if rows else []


def hour(number: int) -> dt.datetime:
    return dt.datetime(2026, 3, 1, number, tzinfo=dt.UTC)


def brought(run: Run, *hours: int) -> RunResult:
    """The result of a slice, or of the last one."""
    values = [Value("2:300", decimal.Decimal(number), "m3", hour(number)) for number in hours]
    now = dt.datetime.now(dt.UTC)
    return RunResult(run, reports.DONE, "", now, now, Answer(values=values, result={"rows": len(values)}), 500)


def take(process: Process) -> Command:
    command = Command(
        uuid.uuid4(),
        "gw-1",
        "generic_lis200",
        "read_archive_by_date",
        {**ARCHIVE, "control_position": 3},
        dt.datetime.now(dt.UTC),
        600,
        device=METER.id,
        background=True,
    )
    process.desk.from_hub(encode(command))
    return command


def test_a_slice_is_stored_with_where_it_goes_on_and_a_restart_goes_on_there(tmp_path: pathlib.Path) -> None:
    process = Process(tmp_path)
    command = take(process)
    [run] = process.queued
    assert run.background
    assert not run.urgent
    assert process.recorder.started(run)
    result = brought(run, 0, 1, 2)
    assert process.recorder.part(result, rest_of(result))
    process.store.close()

    process = Process(tmp_path)
    [run] = process.queued
    assert (run.command, run.background) == (command.id, True)
    assert run.kwargs["start_date"] == "2026-03-01T02:00:00+00:00"
    assert run.earlier == Earlier(3, 500, "")
    assert process.recorder.started(run)
    # The process is killed in the middle of a slice: a read may be repeated.
    process.store.close()

    process = Process(tmp_path)
    [run] = process.queued
    assert process.recorder.started(run)
    process.recorder.ended(brought(run, 2, 3, 4, 5))
    assert process.readings() == [hour(number) for number in (0, 1, 2, 2, 3, 4, 5)]
    updates = process.steps()
    assert [update.state for update in updates] == [states.ACCEPTED, states.RUNNING, states.DONE]
    assert [update.readings for update in updates] == [[], [], []], "they went the way of all readings"
    [report] = [report for report in process.reports() if isinstance(report, RunReport)]
    assert (report.readings, report.line_bytes) == (7, 1000)
    process.store.close()


def test_an_agent_that_is_stopped_in_a_slice_leaves_the_command_open(tmp_path: pathlib.Path) -> None:
    process = Process(tmp_path)
    take(process)
    [run] = process.queued
    assert process.recorder.started(run)
    now = dt.datetime.now(dt.UTC)
    process.recorder.ended(RunResult(run, reports.INTERRUPTED, "the agent was stopped", now, now))
    process.store.close()
    process = Process(tmp_path)
    assert [one.id for one in process.queued] == [run.id]
    assert [update.state for update in process.steps()] == [states.ACCEPTED, states.RUNNING]
    process.store.close()


def test_a_problem_of_an_earlier_slice_is_told_at_the_end(tmp_path: pathlib.Path) -> None:
    process = Process(tmp_path)
    take(process)
    [run] = process.queued
    result = brought(run, 0, 1)
    damaged = dataclasses.replace(result, answer=dataclasses.replace(result.answer or Answer(), problems=["row 7"]))
    rest = rest_of(damaged)
    assert rest.earlier.problem == "row 7"
    assert process.recorder.part(damaged, rest)
    assert [one.earlier for one, _ in process.store.runs.open()] == [rest.earlier]
    process.store.close()
