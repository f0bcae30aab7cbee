"""The chaos bench in its two-minute form: something breaks every two seconds, and every reading is accounted for."""

import json

import pytest

from benchmarks import chaos

JUDGED = ("missing", "duplicates", "wrong", "commands_run_twice", "commands_without_end", "unexplained")


def test_nothing_lost_nothing_doubled(capsys: pytest.CaptureFixture[str]) -> None:
    status = chaos.main(["--minutes", "2", "--pause", "2", "--seed", "3", "--json"])
    result = json.loads(capsys.readouterr().out)
    assert {name: result[name] for name in JUDGED} == dict.fromkeys(JUDGED, 0), result["examples"]
    assert status == 0, result
    assert result["faults_total"] >= 25
    assert result["expected"] > 1000
    assert result["seconds_to_heal"] is not None
