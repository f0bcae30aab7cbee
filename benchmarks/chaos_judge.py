"""The judgement of the chaos bench: what must be in the hub, from the simulators' truth and the task list alone.

*Expected* is every archive row that exists in the tasks' ranges at the end, read or not; for every due run of a
momentary task exactly one run that is reported, and for every such run that was done (on demand too) exactly one
reading. What is not there and not declared lost is *missing*. Nothing here imports ``agent`` or ``hub``.
"""

import dataclasses
import datetime as dt
import decimal
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any

from deploy.demo.expected import ArchiveTask, Comparison, Key, Truth, instant, judge_values

FINAL = {"done", "failed", "refused", "expired", "cancelled", "interrupted"}
ARCHIVE = 3
OUT_OF_BOUNDS = "timestamp_out_of_bounds"
MOST_EXAMPLES = 20


@dataclasses.dataclass(frozen=True)
class Span:
    """A span of the shown time that belongs to one meter; ``end`` is None while it lasts."""

    serial: str
    start: dt.datetime
    end: dt.datetime | None


@dataclasses.dataclass
class Course:
    """What the bench did: ticks from ``first`` to ``last`` were due; the spans in which other things were."""

    first: dt.datetime
    last: dt.datetime
    archive_from: dt.datetime
    devices: dict[str, str]
    """Serial number to the hub's id."""
    tasks: dict[str, str]
    """Task name to the hub's id: ``momentary`` was always due, ``extra`` in the spans ``extra``."""
    addresses: dict[str, str]
    """Task name (and ``command``) to the series that it reads."""
    extra: list[Span] = dataclasses.field(default_factory=list)
    commanded: list[Span] = dataclasses.field(default_factory=list)
    """When a command may have been open on a meter."""
    posted: set[str] = dataclasses.field(default_factory=set)
    """Commands that the hub has answered with their id."""
    archives: tuple[int, ...] = (ARCHIVE,)
    """The archives whose rows were to be read."""


@dataclasses.dataclass
class Evidence:
    """What the hub has at the end, list by list, and the lines of the truth files."""

    truth: list[dict[str, Any]]
    readings: list[dict[str, Any]]
    """With ``meter`` as serial number and ``series`` as name."""
    runs: list[dict[str, Any]]
    commands: list[dict[str, Any]]
    losses: list[dict[str, Any]]
    staged: list[dict[str, Any]]
    """With ``meter`` and ``series`` as those of readings."""
    problems: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Figures:
    """The figures; the promise holds when all from ``missing`` on are 0 (``lost`` is declared and no breach)."""

    expected: int = 0
    expected_archive: int = 0
    expected_momentary: int = 0
    expected_on_demand: int = 0
    stored: int = 0
    runs: dict[str, int] = dataclasses.field(default_factory=dict)
    """How many runs ended how."""
    commands: int = 0
    lost: int = 0
    missing: int = 0
    duplicates: int = 0
    wrong: int = 0
    commands_run_twice: int = 0
    commands_without_end: int = 0
    unexplained: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether the promise was kept."""
        bad = (self.missing, self.duplicates, self.wrong, self.unexplained)
        return not (any(bad) or self.commands_run_twice or self.commands_without_end)

    def complain(self, text: str) -> None:
        """Keep the first complaints for people."""
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(text)


class _Losses:
    """Declared losses, each good for as many values as it says."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = [{**row, "left": row["count"]} for row in rows]

    def covers(self, device: str, series: str, when: dt.datetime) -> bool:
        """Whether a record declares this value lost; it is used up by that."""
        for row in self._rows:
            same = row["meter_device"] == device and row["series"] == series and row["left"] > 0
            if same and instant(row["start"]) <= when <= instant(row["end"]):
                row["left"] -= 1
                return True
        return False


def quarters(first: dt.datetime, last: dt.datetime) -> list[dt.datetime]:
    """Return the quarter-hourly ticks from first to last, both included; ``first`` is one."""
    step = dt.timedelta(minutes=15)
    return [first + i * step for i in range((last - first) // step + 1)]


def newest_tick(
    runs: Iterable[dict[str, Any]], devices: Iterable[str], received_since: dt.datetime
) -> dt.datetime | None:
    """Return the newest tick at which every device's run was done, by the runs that the hub has received since.

    With ``received_since`` an instant at which all clocks were right and no gateway had anything left to send, this
    leaves out the runs of a clock that was ahead: what they read at a tick that had not come was not all of it.
    None when there is no such tick.
    """
    done: dict[str, set[dt.datetime]] = {device: set() for device in devices}
    for run in runs:
        if instant(run["received_at"]) >= received_since:
            done[run["meter_device"]].add(instant(run["tick"]))
    return max(set.intersection(*done.values()), default=None)


def judge(course: Course, evidence: Evidence) -> Figures:
    """Compare what should be with what is."""
    figures = Figures(commands=len(evidence.commands))
    figures.runs = dict(Counter(run["outcome"] for run in evidence.runs))
    truth = Truth(evidence.truth, {serial: serial for serial in course.devices})
    losses = _Losses(evidence.losses)
    stored = _stored(figures, evidence)
    _adopt_far(evidence, stored)
    _judge_archives(figures, course, truth, stored, losses)
    comparison = Comparison()
    judge_values(comparison, truth, stored)
    figures.wrong += comparison.wrong
    for example in comparison.examples:
        figures.complain(example)
    explained = _judge_runs(figures, course, evidence, stored, losses)
    for key in sorted(stored.keys() - truth.rows.keys() - explained):
        figures.unexplained += 1
        figures.complain(f"a reading of no run: {key} = {stored[key]}")
    _judge_commands(figures, course, evidence)
    for row in evidence.staged:
        figures.unexplained += 1
        figures.complain(f"still staged: {row['reason']}: {row}")
    for problem in evidence.problems:
        figures.unexplained += 1
        figures.complain(problem)
    figures.expected = figures.expected_archive + figures.expected_momentary + figures.expected_on_demand
    return figures


def _stored(figures: Figures, evidence: Evidence) -> dict[Key, decimal.Decimal]:
    stored: dict[Key, decimal.Decimal] = {}
    for reading in evidence.readings:
        key = (reading["meter"], reading["series"], instant(reading["timestamp"]))
        if key in stored:
            figures.duplicates += 1
            figures.complain(f"twice in the hub: {key}")
        if reading.get("version_count", 1) > 1:
            figures.wrong += 1
            figures.complain(f"several values for {key}: {reading.get('versions')}")
        stored[key] = decimal.Decimal(reading["value"])
    figures.stored = len(stored)
    return stored


def _adopt_far(evidence: Evidence, stored: dict[Key, decimal.Decimal]) -> None:
    """Take for stored what a clock far away has stamped: it is kept beside the readings, with its reason, to be seen.

    What such a reading is staged for passes with nothing but time, so it is there as it should be.
    """
    for row in [row for row in evidence.staged if row["reason"] == OUT_OF_BOUNDS]:
        evidence.staged.remove(row)
        stored[row["meter"], row["series"], instant(row["timestamp"])] = decimal.Decimal(row["value"])


def _judge_archives(
    figures: Figures, course: Course, truth: Truth, stored: dict[Key, decimal.Decimal], losses: _Losses
) -> None:
    for serial, device in course.devices.items():
        wanted = {
            key
            for archive in course.archives
            for key in truth.wanted(ArchiveTask(serial, archive, course.archive_from, course.last))
        }
        figures.expected_archive += len(wanted)
        for key in sorted(wanted - stored.keys()):
            if losses.covers(device, key[1], key[2]):
                figures.lost += 1
            else:
                figures.missing += 1
                figures.complain(f"missing: {key} = {truth.rows[key]}")


def _judge_runs(
    figures: Figures, course: Course, evidence: Evidence, stored: dict[Key, decimal.Decimal], losses: _Losses
) -> set[Key]:
    """Judge runs against the schedule and against their readings; return the keys that they explain."""
    names = {id_: name for name, id_ in course.tasks.items()}
    serials = {id_: serial for serial, id_ in course.devices.items()}
    by_tick: dict[tuple[str, str, dt.datetime], list[dict[str, Any]]] = defaultdict(list)
    explained: set[Key] = set()
    for run in evidence.runs:
        serial = serials[run["meter_device"]]
        name = "command" if run["task"] is None else names[run["task"]]
        for tick in _ticks(run, course):
            by_tick[name, serial, tick].append(run)
        if run["outcome"] == "done":
            if name in course.addresses:
                figures.expected_on_demand += name == "command"
                explained.add(_judge_reading(figures, (serial, course.addresses[name]), run, stored, losses))
        elif not run["cause"]:
            figures.unexplained += 1
            figures.complain(f"no cause: {run}")
    for due, runs in by_tick.items():
        # What a clock that was ahead has missed runs in its own time.
        begun = sum(run["outcome"] != "missed" for run in runs)
        figures.duplicates += max(0, begun - 1)
        if begun > 1:
            figures.complain(f"one tick, several runs: {due}: {runs}")
    _judge_ticks(figures, course, by_tick.keys(), losses)
    return explained


def _ticks(run: dict[str, Any], course: Course) -> list[dt.datetime]:
    """Return the ticks that a run's row stands for: quarters that were missed one after the other share one.

    Of ten years only what the course has had is of interest.
    """
    if run["tick"] is None:
        return []
    tick = instant(run["tick"])
    if run.get("since") is None:
        return [tick]
    return quarters(max(instant(run["since"]), course.first), min(tick, course.last))


def _judge_ticks(
    figures: Figures, course: Course, known: Collection[tuple[str, str, dt.datetime]], losses: _Losses
) -> None:
    """Judge whether every due run is known."""
    for name, serial, tick in _due(course):
        figures.expected_momentary += 1
        if (name, serial, tick) in known:
            continue
        if losses.covers(course.devices[serial], course.addresses[name], tick):
            figures.lost += 1
        else:
            figures.missing += 1
            figures.complain(f"due, but no run is known: {name} on {serial} at {tick:%Y-%m-%dT%H:%M:%SZ}")


def _judge_reading(
    figures: Figures,
    meter_and_series: tuple[str, str],
    run: dict[str, Any],
    stored: dict[Key, decimal.Decimal],
    losses: _Losses,
) -> Key:
    """Judge whether the one reading of a done run is there; return its key: the end of the answer, in milliseconds."""
    ended = instant(run["ended"])
    key = (*meter_and_series, ended.replace(microsecond=ended.microsecond // 1000 * 1000))
    if key not in stored:
        if losses.covers(run["meter_device"], key[1], key[2]):
            figures.lost += 1
        else:
            figures.missing += 1
            figures.complain(f"done, but its reading is missing: {run}")
    return key


def _due(course: Course) -> Iterable[tuple[str, str, dt.datetime]]:
    ticks = quarters(course.first, course.last)
    for serial in course.devices:
        for tick in ticks:
            yield "momentary", serial, tick
    offset = dt.timedelta(seconds=30)
    due = {
        (span.serial, tick)
        for span in course.extra
        for tick in ticks
        if span.start < tick and tick + offset < (span.end or course.last)
    }
    for serial, tick in sorted(due):
        yield "extra", serial, tick


def _judge_commands(figures: Figures, course: Course, evidence: Evidence) -> None:
    known = {command["id"] for command in evidence.commands}
    for lost in sorted(course.posted - known):
        figures.unexplained += 1
        figures.complain(f"the hub answered with command {lost} and does not know it")
    for command in evidence.commands:
        if command["state"] not in FINAL:
            # What is fetched in the background may wait for an idle line as long as it lives.
            if command.get("origin") == "backfill" and instant(command["expires_at"]) > course.last:
                continue
            figures.commands_without_end += 1
            figures.complain(f"a command without an end: {command}")
        elif command["state"] != "done" and not command["cause"]:
            figures.unexplained += 1
            figures.complain(f"a command ended without a cause: {command}")
    for id_, count in Counter(run["command"] for run in evidence.runs if run["command"] is not None).items():
        if count > 1:
            figures.commands_run_twice += 1
            figures.complain(f"command {id_} has {count} runs")
    # What a meter was asked while no command was open on it, an old delivery of one has made it say.
    covered = _covering(course.commanded)
    for line in evidence.truth:
        if line.get("single") == course.addresses["command"] and not covered(line["serial"], instant(line["at"])):
            figures.commands_run_twice += 1
            figures.complain(f"asked while no command was open: {line}")


def _covering(spans: Iterable[Span]) -> Callable[[str, dt.datetime], bool]:
    of_meter: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        of_meter[span.serial].append(span)

    def covered(serial: str, when: dt.datetime) -> bool:
        return any(span.start <= when and (span.end is None or when <= span.end) for span in of_meter[serial])

    return covered
