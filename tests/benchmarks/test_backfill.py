"""The bench of looking for gaps in its shortest form: every gap that was filled in is found, and all windows wait."""

import json

import pytest

from benchmarks.backfill import main


def test_the_shortest_form_finds_every_gap(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--json", "--gateways", "4", "--meters", "25", "--turns", "2"])
    found = json.loads(capsys.readouterr().out)
    assert (found["meters"], found["turns_of_a_look"]) == (100, 2)
    # Every tenth meter lacks five hours in a row; each line takes two at a time, and none while a slow machine rests
    # from its last sending.
    assert found["windows"] == 10
    assert found["commands"] <= 4 * 2
    assert found["waiting"] == 100
