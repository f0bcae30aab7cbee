"""The demo's judge: it sees what is missing, double or wrong, and nothing else."""

import copy
import datetime as dt
import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from deploy.demo.expected import ArchiveTask, Comparison, SingleTask, Truth, compare, read_truth, series_of

DAY = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
TASKS: list[ArchiveTask | SingleTask] = [
    ArchiveTask("Plant", 3, DAY + dt.timedelta(hours=1), DAY + dt.timedelta(hours=3)),
    SingleTask("Plant", "2:300"),
]
TRUTH: list[dict[str, Any]] = [
    *(
        {
            "serial": "77",
            "archive": 3,
            "timestamp": f"2026-03-01T0{hour}:00:00Z",
            "values": {"2:300": f"{hour}.50", "7:310": "1.01"},
        }
        for hour in range(6)
    ),
    {"serial": "77", "single": "2:300", "value": "9.25", "at": "2026-03-01T03:10:00Z"},
    {"serial": "77", "single": "1:400", "value": "2026-03-01,04:10:00", "at": "2026-03-01T03:10:00Z"},
]
READINGS = [
    *(
        {"meter": "Plant", "series": series, "timestamp": f"2026-03-01T0{hour}:00:00+00:00", "value": value}
        for hour in (1, 2, 3)
        for series, value in (("2:300", f"{hour}.5"), ("7:310/3", "1.01"))
    ),
    {"meter": "Plant", "series": "2:300", "timestamp": "2026-03-01T03:10:00.123Z", "value": "9.25"},
]


def judged(readings: list[dict[str, str]], truth: list[dict[str, Any]] = TRUTH) -> Comparison:
    return compare(TASKS, Truth(truth, {"77": "Plant"}), readings)


def test_everything_there_once() -> None:
    figures = judged(READINGS)
    assert (figures.expected, figures.stored, figures.missing, figures.duplicates, figures.wrong) == (7, 7, 0, 0, 0)


def test_rows_outside_the_range_may_be_there_too() -> None:
    extra = {"meter": "Plant", "series": "2:300", "timestamp": "2026-03-01T05:00:00Z", "value": "5.50"}
    figures = judged([*READINGS, extra])
    assert (figures.stored, figures.missing, figures.wrong) == (8, 0, 0)


@pytest.mark.parametrize("position", range(len(READINGS)))
def test_each_missing_reading_is_seen(position: int) -> None:
    figures = judged(READINGS[:position] + READINGS[position + 1 :])
    assert (figures.missing, figures.duplicates, figures.wrong) == (1, 0, 0)


@pytest.mark.parametrize("position", range(len(READINGS)))
def test_each_double_reading_is_seen(position: int) -> None:
    assert judged([*READINGS, READINGS[position]]).duplicates == 1


@pytest.mark.parametrize("position", range(len(READINGS)))
def test_each_wrong_value_is_seen(position: int) -> None:
    readings = copy.deepcopy(READINGS)
    readings[position]["value"] = "123.4"
    assert judged(readings).wrong == 1


def test_a_reading_that_no_meter_gave_is_wrong() -> None:
    invented = {"meter": "Plant", "series": "2:300", "timestamp": "2026-03-01T02:30:00Z", "value": "2.75"}
    assert judged([*READINGS, invented]).wrong == 1


def test_totals_share_a_series_and_means_do_not() -> None:
    assert series_of("2:300", 3) == series_of("2:0300.0", 7).replace("2:0300", "2:300") == "2:300"
    assert series_of("7:310", 3) == "7:310/3"
    assert series_of("6:310_1", 7) == "6:310_1/7"


def test_the_program_says_by_its_status_whether_the_promise_holds(tmp_path: pathlib.Path) -> None:
    plan = {
        "meters": {"77": "Plant"},
        "archives": [{"meter": "Plant", "archive": 3, "start": "2026-03-01T01:00:00Z", "end": "2026-03-01T03:00:00Z"}],
        "singles": [{"meter": "Plant", "address": "2:300"}],
        "gone": [{"meter": "Plant", "archive": 3, "start": "2026-03-01T03:00:00Z", "end": "2026-03-01T05:00:00Z"}],
    }
    truth = "".join(json.dumps(line) + "\n" for line in TRUTH) + '{"half a li'
    (tmp_path / "truth.jsonl").write_text(truth, encoding="utf-8")
    (tmp_path / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert len(read_truth([tmp_path / "truth.jsonl"])) == len(TRUTH)
    for readings, status in ((READINGS, 0), (READINGS[1:], 1)):
        (tmp_path / "readings.json").write_text(json.dumps(readings), encoding="utf-8")
        files = [str(tmp_path / name) for name in ("plan.json", "readings.json", "truth.jsonl")]
        done = subprocess.run(
            [sys.executable, "-m", "deploy.demo.expected", *files], capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr
        assert json.loads(done.stdout)["missing"] == status
        assert json.loads(done.stdout)["gone"] == 2


def test_the_judge_imports_neither_agent_nor_hub() -> None:
    code = "import sys, deploy.demo.expected; print({'agent', 'hub', 'protocol', 'contexts'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
