"""The bench of months in its shortest form: all late readings are moved, and all parts measured."""

import json

import pytest

from benchmarks.months import main


def test_the_shortest_form_moves_all(capsys: pytest.CaptureFixture[str]) -> None:
    few = {"meters": 1, "months": 2, "rounds": 1, "late": 300, "late-months": 2, "month": 500}
    main(["--json", *(text for name, number in few.items() for text in (f"--{name}", str(number)))])
    found = json.loads(capsys.readouterr().out)
    assert (found["move"]["rows"], found["move"]["months"]) == (300, 2)
    assert abs(found["drop"]["rows"] - 500) < 30
    assert set(found["ingestion"]) == {"recent", "scattered"}
    assert len(found["questions"]) == 5
