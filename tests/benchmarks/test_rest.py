"""The run of schemathesis in its short form: a few operations, as staff."""

import json

import pytest

from benchmarks.rest import main


def test_the_short_form_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--as", "staff", "--only", "^/v1/metering/(meter-devices|meter-readings)", "--phases", "fuzzing"]
    status = main(["--json", "--seconds", "0", "--cases", "4", *only])
    found = json.loads(capsys.readouterr().out)
    assert [(run["who"], run["failures"], run["foreign"], run["server_errors"]) for run in found["runs"]] == [
        ("staff", [], [], 0)
    ]
    assert status == 0
