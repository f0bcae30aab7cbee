"""What a stored reading costs the flash stays within what is wanted."""

import json
import pathlib

import pytest

from benchmarks import flash


def test_a_reading_costs_the_flash_no_more_than_wanted(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = flash.main(["--runs", "60", "--folder", str(tmp_path), "--json"])
    out = capsys.readouterr()
    if status == 2:
        # In memory, or a kernel that does not count: it says so and claims nothing.
        assert "flash:" in out.err
        return
    figures = json.loads(out.out)
    assert (status, figures["ok"]) == (0, True)
    single, archive = figures["cases"]
    assert single["readings"] == 60
    assert archive["readings"] == 6 * 96 * 8
    assert 0 < archive["per_reading"] < single["per_reading"]
