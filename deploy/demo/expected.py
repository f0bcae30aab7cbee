"""What must be in the hub, computed from what the simulated meters had and from the tasks that were set.

This program imports neither the agent nor the hub. It reads the simulators' truth files (one JSON object per archive
row, and one per single value that was served), knows which tasks were to run in which span of time, and compares with
the readings that the hub's REST interface returned.

    python -m deploy.demo.expected PLAN.json READINGS.json TRUTH.jsonl ...
"""

import dataclasses
import datetime as dt
import decimal
import json
import pathlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

TOTALS = {"200", "201", "202", "203", "300", "301", "302"}
"""Objects whose series is their address, whichever archive they come from."""

NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")

Key = tuple[str, str, dt.datetime]


@dataclasses.dataclass(frozen=True)
class ArchiveTask:
    """One archive read of one meter: rows from ``start`` to ``end`` (UTC, inclusive) must be in the hub."""

    meter: str
    archive: int
    start: dt.datetime
    end: dt.datetime


@dataclasses.dataclass(frozen=True)
class Gone:
    """Rows of an archive that nobody can read any more, after ``start`` and until ``end`` (UTC)."""

    meter: str
    archive: int
    start: dt.datetime
    end: dt.datetime


@dataclasses.dataclass(frozen=True)
class SingleTask:
    """Single reads of one address of one meter: each value that was served must be in the hub once."""

    meter: str
    address: str


@dataclasses.dataclass
class Comparison:
    """The figures of the comparison; the promise holds when missing, duplicates and wrong are 0.

    ``missing_singles`` is the part of ``missing`` that are single values.
    """

    expected: int = 0
    stored: int = 0
    missing: int = 0
    missing_singles: int = 0
    duplicates: int = 0
    wrong: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    def complain(self, text: str) -> None:
        """Keep the first few complaints for people."""
        if len(self.examples) < 20:  # noqa: PLR2004 - enough to see a pattern
            self.examples.append(text)


def series_of(source: str, archive: int) -> str:
    """Name the series of an archive column: its address for totals, else address and archive."""
    address = source.removesuffix(".0")
    obj = address.split(":")[1].split("_")[0].lstrip("0")
    return address if obj in TOTALS else f"{address}/{archive}"


def instant(text: str) -> dt.datetime:
    """Read an RFC 3339 time as UTC."""
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)


class Truth:
    """What the simulated meters had: archive values by key, and the single values that they served."""

    def __init__(self, lines: Iterable[dict[str, Any]], meters: dict[str, str]) -> None:
        """Take the lines of the truth files apart; ``meters`` maps serial numbers to the hub's names."""
        self.rows: dict[Key, decimal.Decimal] = {}
        self.archives: dict[tuple[str, int], list[Key]] = defaultdict(list)
        self.singles: dict[tuple[str, str], list[decimal.Decimal]] = defaultdict(list)
        for line in lines:
            name = meters[line["serial"]]
            if "single" in line:
                # Clocks and texts that were asked for are no readings.
                if NUMBER.fullmatch(line["value"]):
                    self.singles[name, line["single"]].append(decimal.Decimal(line["value"]))
                continue
            for source, value in line["values"].items():
                key = (name, series_of(source, line["archive"]), instant(line["timestamp"]))
                self.rows[key] = decimal.Decimal(value)
                self.archives[name, line["archive"]].append(key)

    def gone(self, lost: Gone) -> int:
        """Return how many rows there were of which nobody can have anything."""
        return len({when for _, _, when in self.archives[lost.meter, lost.archive] if lost.start < when <= lost.end})

    def wanted(self, task: ArchiveTask) -> set[Key]:
        """Return the keys of all values that the task had to bring."""
        return {key for key in self.archives[task.meter, task.archive] if task.start <= key[2] <= task.end}


def compare(tasks: Iterable[ArchiveTask | SingleTask], truth: Truth, readings: Iterable[dict[str, Any]]) -> Comparison:
    """Compare the hub's readings (meter, series, timestamp, value) with the truth."""
    figures = Comparison()
    stored: dict[Key, decimal.Decimal] = {}
    for reading in readings:
        key = (reading["meter"], reading["series"], instant(reading["timestamp"]))
        if key in stored:
            figures.duplicates += 1
            figures.complain(f"twice in the hub: {key}")
        stored[key] = decimal.Decimal(reading["value"])
    figures.stored = len(stored)

    wanted: set[Key] = set()
    served: set[tuple[str, str]] = set()
    for task in tasks:
        if isinstance(task, SingleTask):
            served.add((task.meter, task.address))
        else:
            wanted |= truth.wanted(task)
    figures.expected = len(wanted) + sum(len(truth.singles[meter_and_series]) for meter_and_series in served)
    for key in sorted(wanted - stored.keys()):
        figures.missing += 1
        figures.complain(f"missing: {key} = {truth.rows[key]}")
    left = judge_values(figures, truth, stored)
    for meter_and_series in sorted(served):
        figures.missing += left[meter_and_series].total()
        figures.missing_singles += left[meter_and_series].total()
        if left[meter_and_series].total():
            figures.complain(f"missing single values of {meter_and_series}: {left[meter_and_series]}")
    return figures


def judge_values(
    figures: Comparison, truth: Truth, stored: dict[Key, decimal.Decimal]
) -> dict[tuple[str, str], Counter[decimal.Decimal]]:
    """Judge every stored value: equal to its archive row, or one of the single values that the meter served.

    A single read of a total shares its series with archive rows; what no archive row explains is a single value.
    Returns the single values that were served and are not in the hub.
    """
    left = defaultdict(Counter, {key: Counter(values) for key, values in truth.singles.items()})
    for (meter, series, when), value in sorted(stored.items()):
        row = truth.rows.get((meter, series, when))
        if row is not None:
            if row != value:
                figures.wrong += 1
                figures.complain(f"wrong: {meter} {series} {when}: {value}, not {row}")
        elif left[meter, series][value] > 0:
            left[meter, series][value] -= 1
        else:
            figures.wrong += 1
            figures.complain(f"no meter ever said: {meter} {series} {when} = {value}")
    return left


def read_tasks(plan: dict[str, Any]) -> list[ArchiveTask | SingleTask]:
    """Read the task list: ``archives`` and ``singles`` as the demo wrote them down."""
    archives = [
        ArchiveTask(item["meter"], item["archive"], instant(item["start"]), instant(item["end"]))
        for item in plan["archives"]
    ]
    return [*archives, *(SingleTask(item["meter"], item["address"]) for item in plan["singles"])]


def read_truth(paths: Iterable[pathlib.Path]) -> list[dict[str, Any]]:
    """Read truth files; a last line that is still being written is left out."""
    lines = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        lines += [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return lines


def main(arguments: list[str]) -> int:
    """Compare files and print the figures as one JSON object; exit status 0 when the promise holds.

    ``gone`` in it is how many rows nobody can read any more, of those that the plan names so.
    """
    plan_path, readings_path, *truth_paths = (pathlib.Path(argument) for argument in arguments)
    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    readings = json.loads(readings_path.read_text(encoding="utf-8"))
    truth = Truth(read_truth(truth_paths), plan["meters"])
    figures = compare(read_tasks(plan), truth, readings)
    gone = sum(
        truth.gone(Gone(item["meter"], item["archive"], instant(item["start"]), instant(item["end"])))
        for item in plan.get("gone", ())
    )
    print(json.dumps({**dataclasses.asdict(figures), "gone": gone}))
    return 1 if figures.missing or figures.duplicates or figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
