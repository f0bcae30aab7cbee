"""The run of schemathesis in its short form: a few seconds of everything, whatever operation comes first."""

import json

import pytest

from benchmarks.rest import main


def test_the_short_form_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["--json", "--seconds", "8", "--cases", "1", "--phases", "fuzzing"])
    found = json.loads(capsys.readouterr().out)
    assert [(run["who"], run["failures"], run["foreign"], run["server_errors"]) for run in found["runs"]] == [
        ("staff", [], [], 0),
        ("user", [], [], 0),
    ]
    assert status == 0
    assert all(run["operations"] > 20 for run in found["runs"])
