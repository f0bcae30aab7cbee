"""The judge of the chaos bench: it lets a whole course pass, and sees each single breach of the promise."""

import ast
import copy
import datetime as dt
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

import benchmarks
from benchmarks.chaos_judge import Course, Evidence, Figures, Span, judge, newest_tick, quarters

FIRST = dt.datetime(2026, 3, 2, 7, 0, tzinfo=dt.UTC)
LAST = FIRST + dt.timedelta(minutes=45)
QUARTER = dt.timedelta(minutes=15)
TASKS = {"archive": "t-archive", "momentary": "t-momentary", "extra": "t-extra"}
COURSE = Course(
    first=FIRST,
    last=LAST,
    archive_from=FIRST - QUARTER,
    devices={"77": "d-77"},
    tasks=TASKS,
    addresses={"momentary": "7:310", "extra": "6:310_1", "command": "4:302"},
    extra=[Span("77", FIRST + QUARTER / 2, LAST - QUARTER / 2)],
    commanded=[Span("77", FIRST, FIRST + QUARTER)],
    posted={"c-1"},
)


def run_of(task: str | None, tick: dt.datetime | None, ended: dt.datetime, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "meter_device": "d-77",
        "task": task and TASKS[task],
        "command": None,
        "tick": tick and tick.isoformat(),
        "outcome": "done",
        "cause": "",
        "ended": ended.isoformat(),
        **more,
    }


def reading_of(series: str, when: dt.datetime, value: str) -> dict[str, Any]:
    return {"meter": "77", "series": series, "timestamp": when.isoformat(), "value": value, "version_count": 1}


def whole() -> Evidence:
    """A course in which all went well: four ticks, two of them with the extra task, and one command."""
    evidence = Evidence(truth=[], readings=[], runs=[], commands=[], losses=[], staged=[])

    def single(task: str | None, tick: dt.datetime | None, at: dt.datetime, series: str, **more: Any) -> None:  # noqa: ANN401
        value = f"{len(evidence.truth)}.5"
        evidence.truth.append({"serial": "77", "single": series, "value": value, "at": at.isoformat()})
        evidence.readings.append(reading_of(series, at.replace(microsecond=123_000), value))
        evidence.runs.append(run_of(task, tick, at.replace(microsecond=123_456), **more))

    for i, tick in enumerate(quarters(FIRST - QUARTER, LAST)):
        row = {"serial": "77", "archive": 3, "timestamp": tick.isoformat(), "values": {"7:310": f"{i}.25"}}
        evidence.truth.append(row)
        evidence.readings.append(reading_of("7:310/3", tick, f"{i}.250"))
    for tick in quarters(FIRST, LAST):
        evidence.runs.append(run_of("archive", tick, tick + dt.timedelta(seconds=15)))
        single("momentary", tick, tick + dt.timedelta(seconds=20), "7:310")
        if FIRST < tick < LAST:
            single("extra", tick, tick + dt.timedelta(seconds=25), "6:310_1")
    single(None, None, FIRST + dt.timedelta(minutes=3), "4:302", command="c-1")
    evidence.commands.append({"id": "c-1", "meter_device": "d-77", "state": "done", "cause": ""})
    return evidence


def judged(break_it: Callable[[Evidence], object]) -> Figures:
    evidence = copy.deepcopy(whole())
    break_it(evidence)
    return judge(COURSE, evidence)


def reading(evidence: Evidence, series: str) -> dict[str, Any]:
    return next(row for row in evidence.readings if row["series"] == series)


def run(evidence: Evidence, task: str) -> dict[str, Any]:
    return next(row for row in evidence.runs if row["task"] == TASKS[task])


def loss(series: str, count: int = 1) -> dict[str, Any]:
    return {
        "meter_device": "d-77",
        "series": series,
        "start": (FIRST - QUARTER).isoformat(),
        "end": LAST.isoformat(),
        "count": count,
        "reason": "disk",
    }


def test_a_whole_course_passes() -> None:
    figures = judge(COURSE, whole())
    assert figures.kept, figures
    assert (figures.expected_archive, figures.expected_momentary, figures.expected_on_demand) == (5, 4 + 2, 1)
    assert figures.expected == 12


@pytest.mark.parametrize("series", ["7:310/3", "7:310", "6:310_1", "4:302"])
def test_a_reading_that_is_not_there_is_missing_unless_declared_lost(series: str) -> None:
    figures = judged(lambda evidence: evidence.readings.remove(reading(evidence, series)))
    assert (figures.missing, figures.kept) == (1, False)

    def lose_two(evidence: Evidence) -> None:
        evidence.readings.remove(reading(evidence, series))
        evidence.losses.append(loss(series))

    figures = judged(lose_two)
    assert (figures.missing, figures.lost, figures.kept) == (0, 1, True)


def test_a_loss_record_is_good_for_as_many_as_it_says() -> None:
    def lose_two(evidence: Evidence) -> None:
        evidence.readings.remove(reading(evidence, "7:310"))
        evidence.readings.remove(reading(evidence, "7:310"))
        evidence.losses.append(loss("7:310"))

    assert (judged(lose_two).missing, judged(lose_two).lost) == (1, 1)


@pytest.mark.parametrize("task", ["momentary", "extra"])
def test_a_due_run_that_nobody_knows_is_missing(task: str) -> None:
    def forget(evidence: Evidence) -> None:
        forgotten = run(evidence, task)
        evidence.runs.remove(forgotten)
        evidence.readings.remove(reading(evidence, COURSE.addresses[task]))

    assert judged(forget).missing == 1


def test_a_missed_run_is_no_missing_one_if_it_has_a_cause() -> None:
    def miss(evidence: Evidence, cause: str) -> None:
        run(evidence, "momentary").update(outcome="missed", cause=cause)
        evidence.readings.remove(reading(evidence, "7:310"))

    assert judged(lambda evidence: miss(evidence, "the line was busy")).kept
    assert judged(lambda evidence: miss(evidence, "")).unexplained == 1


def test_two_readings_and_two_runs_of_one_thing_are_duplicates() -> None:
    assert judged(lambda evidence: evidence.readings.append(reading(evidence, "7:310/3"))).duplicates == 1
    assert judged(lambda evidence: evidence.runs.append(run(evidence, "archive"))).duplicates == 1


@pytest.mark.parametrize("series", ["7:310/3", "7:310", "4:302"])
def test_another_value_is_wrong(series: str) -> None:
    assert judged(lambda evidence: reading(evidence, series).update(value="999")).wrong == 1


def test_a_second_version_is_wrong() -> None:
    assert judged(lambda evidence: reading(evidence, "7:310/3").update(version_count=2)).wrong == 1


def test_a_reading_of_no_run_is_unexplained() -> None:
    def add(evidence: Evidence) -> None:
        at = FIRST + dt.timedelta(minutes=7)
        evidence.truth.append({"serial": "77", "single": "7:310", "value": "5", "at": at.isoformat()})
        evidence.readings.append(reading_of("7:310", at, "5"))

    assert judged(add).unexplained == 1


def test_what_is_still_staged_or_reported_as_a_problem_is_unexplained() -> None:
    assert judged(lambda evidence: evidence.staged.append({"reason": "unknown_meter"})).unexplained == 1
    assert judged(lambda evidence: evidence.problems.append("gateway north: no such line")).unexplained == 1


def test_commands_that_run_twice_or_never_end_or_are_forgotten() -> None:
    def again(evidence: Evidence) -> None:
        once = next(row for row in evidence.runs if row["command"])
        evidence.runs.append({**once, "outcome": "failed", "cause": "no answer"})

    assert judged(again).commands_run_twice == 1

    def asked_later(evidence: Evidence) -> None:
        at = FIRST + 2 * QUARTER
        evidence.truth.append({"serial": "77", "single": "4:302", "value": "5", "at": at.isoformat()})

    assert judged(asked_later).commands_run_twice == 1
    assert judged(lambda evidence: evidence.commands[0].update(state="sent")).commands_without_end == 1
    waiting = {"state": "accepted", "origin": "backfill"}
    later, before = (f"{LAST + sign * QUARTER:%Y-%m-%dT%H:%M:%SZ}" for sign in (1, -1))
    assert judged(lambda evidence: evidence.commands[0].update(waiting, expires_at=later)).commands_without_end == 0
    assert judged(lambda evidence: evidence.commands[0].update(waiting, expires_at=before)).commands_without_end == 1
    assert judged(lambda evidence: evidence.commands[0].update(state="expired")).unexplained == 1
    assert judged(lambda evidence: evidence.commands.clear()).unexplained == 1


def test_the_bench_imports_neither_agent_nor_hub() -> None:
    folder = pathlib.Path(benchmarks.__file__ or "").parent
    for path in [
        *folder.glob("chaos*.py"),
        *(folder / f"{name}.py" for name in ("gates", "mosquitto", "postgres", "tape")),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"agent", "hub", "tests"} & {name.split(".")[0] for name in names}, path.name


def test_a_run_of_a_clock_that_was_ahead_is_not_the_newest_archive_read() -> None:
    still = FIRST
    ahead = {"meter_device": "d-77", "tick": LAST.isoformat(), "received_at": (still - QUARTER).isoformat()}
    right = {"meter_device": "d-77", "tick": FIRST.isoformat(), "received_at": (still + QUARTER).isoformat()}
    other = {**right, "meter_device": "d-78"}
    assert newest_tick([ahead, right], ["d-77"], still) == FIRST
    assert newest_tick([ahead], ["d-77"], still) is None
    assert newest_tick([right, other], ["d-77", "d-78"], still) == FIRST
    assert newest_tick([right], ["d-77", "d-78"], still) is None
