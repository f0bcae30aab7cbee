"""The ledger's bench in its shortest form: what it counts is what was filled in, whatever the machine is busy with."""

import json

import pytest

from benchmarks.ledger import main


def test_the_shortest_form_counts_right(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", "--meters", "2", "--rounds", "1", "--devices", "2000"])
    found = json.loads(capsys.readouterr().out)
    for asked in found["completeness"]:
        assert asked["right"]
        # Five hours, ten days of hours and days, three hours.
        assert asked["expected"] - asked["stored"] == (5 + 240 + 10 + 3) * (2000 // 1000)
    assert {(one["database"], one["load"]) for one in found["ingestion"]} == {
        (database, load) for database in ("sqlite", "postgresql") for load in ("backlog", "fresh")
    }
    assert [one["database"] for one in found["completeness"]] == ["sqlite", "postgresql"]
    assert all(one["readings"] == 2 * 72 * 8 for one in found["ingestion"])
