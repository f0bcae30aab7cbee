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
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

TOTALS = {"200", "201", "202", "203", "300", "301", "302"}
"""Objects whose series is their address, whichever archive they come from."""

Key = tuple[str, str, dt.datetime]


@dataclasses.dataclass(frozen=True)
class ArchiveTask:
    """One archive read of one meter: rows from ``start`` to ``end`` (UTC, inclusive) must be in the hub."""

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
    """The figures of the comparison; the promise holds when missing, duplicates and wrong are 0."""

    expected: int = 0
    stored: int = 0
    missing: int = 0
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


def compare(
    tasks: Iterable[ArchiveTask | SingleTask],
    truth: Iterable[dict[str, Any]],
    readings: Iterable[dict[str, Any]],
    meters: dict[str, str],
) -> Comparison:
    """Compare the hub's readings (meter, series, timestamp, value) with the truth; ``meters`` maps serial to name."""
    rows: dict[Key, decimal.Decimal] = {}
    singles: dict[tuple[str, str], list[decimal.Decimal]] = defaultdict(list)
    archives: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in truth:
        name = meters[line["serial"]]
        if "single" in line:
            singles[name, line["single"]].append(decimal.Decimal(line["value"]))
            continue
        archives[name, line["archive"]].append(line)
        for source, value in line["values"].items():
            rows[name, series_of(source, line["archive"]), instant(line["timestamp"])] = decimal.Decimal(value)

    figures = Comparison()
    stored: dict[Key, decimal.Decimal] = {}
    by_series: dict[tuple[str, str], list[tuple[dt.datetime, decimal.Decimal]]] = defaultdict(list)
    for key, count in Counter((r["meter"], r["series"], instant(r["timestamp"])) for r in readings).items():
        if count > 1:
            figures.duplicates += count - 1
            figures.complain(f"{count} times in the hub: {key}")
    for reading in readings:
        when = instant(reading["timestamp"])
        value = decimal.Decimal(reading["value"])
        stored[reading["meter"], reading["series"], when] = value
        by_series[reading["meter"], reading["series"]].append((when, value))
    figures.stored = len(stored)

    wanted: set[Key] = set()
    single_tasks = set()
    for task in tasks:
        if isinstance(task, SingleTask):
            single_tasks.add((task.meter, task.address))
            continue
        for row in archives[task.meter, task.archive]:
            when = instant(row["timestamp"])
            if task.start <= when <= task.end:
                wanted |= {(task.meter, series_of(source, task.archive), when) for source in row["values"]}
    figures.expected = len(wanted)
    for key in sorted(wanted - stored.keys()):
        figures.missing += 1
        figures.complain(f"missing: {key} = {rows[key]}")

    # A single read of a total shares its series with archive rows; what no archive row explains is a single value.
    for task_key in single_tasks:
        served = singles[task_key]
        figures.expected += len(served)
    compare_values(figures, rows, singles, single_tasks, by_series)
    return figures


def compare_values(
    figures: Comparison,
    rows: dict[Key, decimal.Decimal],
    singles: dict[tuple[str, str], list[decimal.Decimal]],
    single_tasks: set[tuple[str, str]],
    by_series: dict[tuple[str, str], list[tuple[dt.datetime, decimal.Decimal]]],
) -> None:
    """Judge every stored value: equal to its archive row, or one of the single values that the meter served."""
    for (meter, series), values in by_series.items():
        left = Counter(singles[meter, series])
        for when, value in sorted(values):
            if (meter, series, when) in rows:
                if rows[meter, series, when] != value:
                    figures.wrong += 1
                    figures.complain(f"wrong: {meter} {series} {when}: {value}, not {rows[meter, series, when]}")
            elif left[value] > 0:
                left[value] -= 1
            else:
                figures.wrong += 1
                figures.complain(f"no meter ever said: {meter} {series} {when} = {value}")
        if (meter, series) in single_tasks:
            figures.missing += left.total()
            if left.total():
                figures.complain(f"missing single values of {meter} {series}: {left.total()}")
    for meter, series in single_tasks - by_series.keys():
        figures.missing += len(singles[meter, series])


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
    """Compare files and print the figures as one JSON object; exit status 0 when the promise holds."""
    plan_path, readings_path, *truth_paths = (pathlib.Path(argument) for argument in arguments)
    plan = json.loads(plan_path.read_text(encoding="utf-8"))
    readings = json.loads(readings_path.read_text(encoding="utf-8"))
    figures = compare(read_tasks(plan), read_truth(truth_paths), readings, plan["meters"])
    print(json.dumps(dataclasses.asdict(figures)))
    return 1 if figures.missing or figures.duplicates or figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
