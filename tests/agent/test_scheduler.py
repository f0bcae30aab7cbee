"""The scheduler: every due tick ends exactly once, whatever the clock and the process do."""

import asyncio
import datetime as dt
import pathlib
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.clocks import Clock
from agent.duties import Duty
from agent.runs import Run
from agent.scheduler import Scheduler, judge_ticks
from agent.store import Store
from agent.trust import ClockTrust
from protocol.plans import Device, Task
from protocol.reports import RunReport, decode_report

T0 = dt.datetime(2026, 3, 2, 10, 0, tzinfo=dt.UTC)
QUARTER = dt.timedelta(minutes=15)


class SetClock(Clock):
    """A clock that shows what the test says."""

    def __init__(self, shown: dt.datetime = T0) -> None:
        super().__init__()
        self.shown = shown
        self.elapsed = 0.0

    def now(self) -> dt.datetime:
        return self.shown

    def monotonic(self) -> float:
        return self.elapsed


class Gateway:
    """A scheduler with its store, and the lines' end of it."""

    def __init__(self, folder: pathlib.Path, clock: SetClock, *, believed: bool = True) -> None:
        self.clock = clock
        self.synchronised = believed
        self.store = Store(folder / "agent.db", "gw-1", clock)
        self.trust = ClockTrust(clock, self.store, lambda: self.synchronised)
        self.queued: list[Run] = []
        self.scheduler = Scheduler(self.store, clock, self.trust, self.queued.append, self.withdraw)

    def withdraw(self, run_id: uuid.UUID) -> bool:
        known = [run for run in self.queued if run.id == run_id]
        for run in known:
            self.queued.remove(run)
        return bool(known)

    def do_all(self, outcome: str = "done") -> list[Run]:
        """Let the line do what is queued."""
        done, self.queued[:] = list(self.queued), []
        for run in done:
            self.scheduler.started(run)
            with self.store.transaction():
                self.store.runs.start(run.id)
                self.store.runs.end(run.id, outcome)
        return done

    def look(self, shown: dt.datetime, outcome: str = "done") -> list[Run]:
        self.clock.shown = shown
        self.scheduler.look()
        return self.do_all(outcome)

    def reports(self) -> list[RunReport]:
        rows = self.store.reports.next_rows(0, 10_000_000)
        found = [decode_report(body) for body in rows.bodies] if rows else []
        return [report for report in found if isinstance(report, RunReport)]

    def missed(self) -> dict[dt.datetime, str]:
        """Every tick of every report of missed ones, with the cause."""
        return {
            report.tick - number * QUARTER: report.cause
            for report in self.reports()
            if report.tick and report.outcome == "missed"
            for number in range(report.count)
        }

    def spans(self) -> list[tuple[dt.datetime | None, dt.datetime | None, int]]:
        """Return what each report of missed ticks stands for."""
        return [(report.since, report.tick, report.count) for report in self.reports() if report.outcome == "missed"]


def a_duty(schedule: str = "quarterly", *, missed: str = "default", archive: bool = False, writes: bool = False,
           offset: int = 0) -> Duty:  # fmt: skip
    task = Task(uuid.uuid4(), "task", schedule, offset, "generic_lis200", "read_single_value", {}, missed)
    return Duty(task, Device(uuid.uuid4(), "meter", uuid.uuid4(), "UTC", tasks=[task.id]), archive, writes)


@pytest.fixture
def gateway(tmp_path: pathlib.Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path, SetClock())
    yield made
    made.store.close()


def test_a_new_task_is_first_due_at_its_next_tick_and_not_before_its_offset(gateway: Gateway) -> None:
    gateway.scheduler.set_duties([a_duty(offset=120)])
    assert gateway.look(T0 + dt.timedelta(minutes=14)) == []
    assert gateway.look(T0 + dt.timedelta(minutes=16, seconds=59)) == []
    (run,) = gateway.look(T0 + dt.timedelta(minutes=17))
    assert run.tick == T0 + QUARTER
    assert gateway.look(T0 + dt.timedelta(minutes=18)) == []
    assert gateway.scheduler.next_due() == T0 + 2 * QUARTER + dt.timedelta(minutes=2)


def test_missed_archive_reads_become_one_read_of_what_is_not_held(gateway: Gateway) -> None:
    gateway.scheduler.set_duties([a_duty(archive=True)])
    (run,) = gateway.look(T0 + 4 * QUARTER)
    assert (run.tick, run.since) == (T0 + 4 * QUARTER, T0 + QUARTER)
    assert gateway.missed().keys() == {T0 + QUARTER, T0 + 2 * QUARTER, T0 + 3 * QUARTER}
    assert all("coalesced into" in cause for cause in gateway.missed().values())


@pytest.mark.parametrize(
    ("policy", "archive", "late", "runs", "missed"),
    [
        ("each", True, 0, 4, 0),
        ("latest", True, 5, 1, 3),
        ("default", False, 14, 1, 3),
        ("skip", True, 1, 1, 3),
        ("skip", True, 5, 0, 4),
    ],
)
def test_policies(gateway: Gateway, policy: str, archive: bool, late: int, runs: int, missed: int) -> None:  # noqa: FBT001 - parametrized
    gateway.scheduler.set_duties([a_duty(missed=policy, archive=archive)])
    found = gateway.look(T0 + 4 * QUARTER + dt.timedelta(minutes=late))
    assert (len(found), len(gateway.missed())) == (runs, missed)
    assert [run.tick for run in found] == [T0 + number * QUARTER for number in range(5 - runs, 5)][:runs]
    assert all(run.since is None for run in found)


def test_nothing_runs_while_the_clock_is_not_believed(tmp_path: pathlib.Path) -> None:
    gateway = Gateway(tmp_path, SetClock(), believed=False)
    gateway.scheduler.set_duties([a_duty()])
    assert gateway.look(T0 + 3 * QUARTER) == []
    assert "never confirmed" in gateway.scheduler.doubt
    # The hub's receipt agrees: what is due from now on runs, the past of a new gateway does not.
    gateway.trust.hear(T0 + 3 * QUARTER + dt.timedelta(minutes=4))
    gateway.clock.elapsed = 900
    assert gateway.look(T0 + 4 * QUARTER - dt.timedelta(seconds=1)) == []
    (run,) = gateway.look(T0 + 4 * QUARTER)
    assert run.tick == T0 + 4 * QUARTER
    gateway.store.close()


def test_a_clock_that_goes_back_repeats_nothing_and_goes_on(gateway: Gateway) -> None:
    gateway.scheduler.set_duties([a_duty()])
    assert len(gateway.look(T0 + QUARTER)) == 1
    assert len(gateway.look(T0 + 2 * QUARTER)) == 1
    assert gateway.look(T0 + QUARTER - dt.timedelta(minutes=1)) == []
    assert gateway.look(T0 + 2 * QUARTER) == []
    (run,) = gateway.look(T0 + 3 * QUARTER)
    assert run.tick == T0 + 3 * QUARTER
    # Far back: the ticks of that time run like any others.
    month = dt.timedelta(days=30)
    assert gateway.look(T0 - month) == []
    assert len(gateway.look(T0 - month + QUARTER)) == 1


def test_what_failed_reads_left_behind_is_read_by_the_next_one(tmp_path: pathlib.Path) -> None:
    clock = SetClock()
    gateway = Gateway(tmp_path, clock)
    duty, single, each = a_duty(archive=True), a_duty(), a_duty(archive=True, missed="each")
    gateway.scheduler.set_duties([duty, single, each])
    # A read that makes up for missed ticks meets a meter that is silent, and so do those after it.
    gateway.look(T0 + 2 * QUARTER, "failed")
    gateway.look(T0 + 3 * QUARTER, "wrong_meter")
    gateway.store.close()
    again = Gateway(tmp_path, clock)
    again.scheduler.set_duties([duty, single, each])
    again.scheduler.recover()
    since = {run.task: run.since for run in again.look(T0 + 4 * QUARTER)}
    assert since == {duty.task.id: T0 + QUARTER, single.task.id: None, each.task.id: None}
    # It was done, so nothing is left behind any more.
    assert all(run.since is None for run in again.look(T0 + 5 * QUARTER))
    # However long a meter is away, the read that makes up for it stays within a month.
    again.look(T0 + 6 * QUARTER, "failed")
    month = dt.timedelta(days=30)
    again.look(T0 + 2 * month, "failed")
    found = {run.task: run.since for run in again.look(T0 + 2 * month + QUARTER)}
    assert found[duty.task.id] == T0 + month + QUARTER
    again.store.close()


def test_a_line_that_stays_busy_collects_no_runs(gateway: Gateway) -> None:
    gateway.scheduler.set_duties([a_duty(archive=True)])
    for number in (1, 2, 3):
        gateway.clock.shown = T0 + number * QUARTER
        gateway.scheduler.look()
    (run,) = gateway.queued
    assert (run.tick, run.since) == (T0 + 3 * QUARTER, T0 + QUARTER)
    assert gateway.missed().keys() == {T0 + QUARTER, T0 + 2 * QUARTER}
    assert all("busy" in cause for cause in gateway.missed().values())


def test_a_restart_takes_up_what_waited_and_judges_what_was_interrupted(tmp_path: pathlib.Path) -> None:
    clock = SetClock()
    reading, archive, writing = a_duty(), a_duty(archive=True), a_duty("daily", writes=True)
    clock.shown = T0.replace(hour=23, minute=50)
    gateway = Gateway(tmp_path, clock)
    gateway.scheduler.set_duties([reading, archive, writing])
    clock.shown = T0 + dt.timedelta(hours=14)
    gateway.scheduler.look()
    assert len(gateway.queued) == 3
    with gateway.store.transaction():
        for run in gateway.queued:
            gateway.store.runs.start(run.id)
    gateway.store.close()
    clock.shown += dt.timedelta(minutes=31)
    again = Gateway(tmp_path, clock)
    again.scheduler.set_duties([reading, archive, writing])
    again.scheduler.recover()
    assert [run.task for run in again.queued] == [archive.task.id]
    ends = {report.task: report.outcome for report in again.reports()}
    assert ends == {reading.task.id: "interrupted", writing.task.id: "interrupted"}
    # And what came due meanwhile is found by the next look.
    again.scheduler.look()
    assert {run.task for run in again.queued} == {reading.task.id, archive.task.id}
    again.store.close()


def test_an_edited_schedule_is_due_from_now_on(gateway: Gateway) -> None:
    duty = a_duty("daily")
    gateway.scheduler.set_duties([duty])
    gateway.clock.shown = T0 + dt.timedelta(hours=5)
    task = Task(duty.task.id, "task", "quarterly", 0, "generic_lis200", "read_single_value", {})
    gateway.scheduler.set_duties([Duty(task, duty.device, archive=False, writes=False)])
    assert gateway.do_all() == []
    assert gateway.look(T0 + dt.timedelta(hours=5, minutes=14)) == []
    assert len(gateway.look(T0 + dt.timedelta(hours=5, minutes=15))) == 1
    assert not gateway.missed()


def test_a_year_away_is_two_reports_for_each_task(gateway: Gateway) -> None:
    gateway.scheduler.set_duties([a_duty()])
    assert len(gateway.look(T0 + dt.timedelta(days=365))) == 1
    month = T0 + dt.timedelta(days=365) - 3000 * QUARTER
    assert gateway.spans() == [
        (T0 + QUARTER, month, 32_040),
        (month + QUARTER, T0 + dt.timedelta(days=365) - QUARTER, 2999),
    ]
    assert "too long ago" in gateway.missed()[T0 + QUARTER]


def test_a_task_that_makes_up_for_each_tick_stays_within_a_week(gateway: Gateway) -> None:
    gateway.scheduler.set_duties([a_duty(missed="each")])
    runs = gateway.look(T0 + dt.timedelta(days=3653))
    assert len(runs) == 672
    assert sum(count for _, _, count in gateway.spans()) == 3653 * 96 - 672


def test_ten_years_ahead_and_back_the_schedule_goes_on(gateway: Gateway) -> None:
    gateway.scheduler.set_duties([a_duty(), a_duty(archive=True)])
    assert len(gateway.look(T0 + QUARTER)) == 2
    assert len(gateway.look(T0 + dt.timedelta(days=3653))) == 2
    told = len(gateway.spans())
    assert told == 4
    # Back again: what was missed only by the clock ahead is due in its own time, once.
    assert gateway.look(T0 + QUARTER + dt.timedelta(seconds=30)) == []
    for number in range(2, 8):
        assert {run.tick for run in gateway.look(T0 + number * QUARTER)} == {T0 + number * QUARTER}
    assert len(gateway.spans()) == told
    # A real outage in that time is told like any other.
    assert len(gateway.look(T0 + 12 * QUARTER)) == 2
    assert gateway.spans()[told:] == [(T0 + 8 * QUARTER, T0 + 11 * QUARTER, 4)] * 2


def test_an_archive_is_read_back_to_where_a_clock_that_was_ahead_has_left_it(gateway: Gateway) -> None:
    gateway.scheduler.set_duties([a_duty(archive=True)])
    gateway.look(T0 + QUARTER)
    gateway.look(T0 + dt.timedelta(days=3653))
    assert gateway.look(T0 + 5 * QUARTER + dt.timedelta(seconds=30)) == []
    assert [(run.tick, run.since) for run in gateway.look(T0 + 6 * QUARTER)] == [(T0 + 6 * QUARTER, T0 + 2 * QUARTER)]
    assert [(run.tick, run.since) for run in gateway.look(T0 + 7 * QUARTER)] == [(T0 + 7 * QUARTER, None)]


def test_a_week_back_and_there_again_repeats_nothing_and_tells_nothing(tmp_path: pathlib.Path) -> None:
    clock = SetClock()
    gateway = Gateway(tmp_path, clock)
    duties = [a_duty(), a_duty(archive=True)]
    gateway.scheduler.set_duties(duties)
    assert len(gateway.look(T0 + QUARTER)) == 2
    week = dt.timedelta(days=7)
    assert gateway.look(T0 + QUARTER - week) == []
    assert len(gateway.look(T0 + 2 * QUARTER - week)) == 2
    gateway.store.close()
    # The agent is started once more, and its clock is right again.
    again = Gateway(tmp_path, clock)
    again.scheduler.set_duties(duties)
    again.scheduler.recover()
    assert again.look(T0 + QUARTER + dt.timedelta(minutes=1)) == []
    assert not again.spans()
    assert len(again.look(T0 + 2 * QUARTER)) == 2
    again.store.close()


def test_what_the_last_process_left_waits_until_the_clock_is_believed(tmp_path: pathlib.Path) -> None:
    clock = SetClock()
    duty = a_duty(archive=True)
    gateway = Gateway(tmp_path, clock)
    gateway.scheduler.set_duties([duty])
    clock.shown = T0 + QUARTER
    gateway.scheduler.look()
    assert len(gateway.queued) == 1
    gateway.store.close()
    clock.shown = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    again = Gateway(tmp_path, clock, believed=False)
    again.scheduler.set_duties([duty])
    again.scheduler.recover()
    assert again.scheduler.look() == 0
    assert not again.queued
    clock.shown, again.synchronised = T0 + QUARTER + dt.timedelta(minutes=1), True
    again.scheduler.look()
    assert [run.tick for run in again.queued] == [T0 + QUARTER]
    again.store.close()


async def test_it_ends_when_it_is_told_to_while_something_has_just_changed(gateway: Gateway) -> None:
    gateway.scheduler.set_duties([a_duty()])
    running = asyncio.create_task(gateway.scheduler.run())
    await asyncio.sleep(0.01)
    gateway.scheduler.wake()
    # The wait is over and its task has not gone on yet.
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running], timeout=2)
    assert running.cancelled()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jumps=st.lists(st.integers(-4000, 9000), min_size=1, max_size=25),
    restarts=st.sets(st.integers(0, 25)),
    policy=st.sampled_from(["default", "skip", "latest", "each"]),
    archive=st.booleans(),
    offset=st.integers(0, 900),
)
def test_every_tick_that_passes_ends_once(
    tmp_path: pathlib.Path,
    jumps: list[int],
    restarts: set[int],
    policy: str,
    archive: bool,  # noqa: FBT001 - drawn
    offset: int,
) -> None:
    folder = tmp_path / uuid.uuid4().hex
    clock = SetClock()
    duty = a_duty(missed=policy, archive=archive, offset=offset)
    gateway = Gateway(folder, clock)
    gateway.scheduler.set_duties([duty])
    gateway.scheduler.look()
    ran: list[dt.datetime] = []
    furthest = T0
    for number, jump in enumerate(jumps):
        if number in restarts:
            gateway.store.close()
            gateway = Gateway(folder, clock)
            gateway.scheduler.set_duties([duty])
            gateway.scheduler.recover()
        found = gateway.look(clock.shown + dt.timedelta(seconds=jump))
        furthest = max(furthest, clock.shown)
        due = [run.tick + dt.timedelta(seconds=offset) for run in found if run.tick]
        assert all(instant <= clock.shown for instant in due)
        ran += [run.tick for run in found if run.tick]
    ended = ran + list(gateway.missed())
    assert len(ran) == len(set(ran))
    if all(jump >= 0 for jump in jumps):
        # Only a clock that was ahead makes a tick both: missed then, and run in its own time.
        assert len(ended) == len(set(ended))
        assert len(ended) == len(ran) + sum(count for _, _, count in gateway.spans())
    passed = {
        T0 + number * QUARTER
        for number in range(1000)
        if T0 < T0 + number * QUARTER <= furthest - dt.timedelta(seconds=offset)
    }
    assert passed <= set(ended)
    gateway.store.close()


def test_the_newest_of_the_ticks_always_ends(gateway: Gateway) -> None:
    ticks = [T0, T0 + QUARTER]
    for policy in ("default", "skip", "latest", "each"):
        for archive in (True, False):
            verdict = judge_ticks(a_duty(missed=policy, archive=archive), ticks, T0 + 2 * QUARTER)
            assert sorted([tick for tick, _ in verdict.run] + [tick for tick, _ in verdict.missed]) == ticks
    assert not gateway.queued
