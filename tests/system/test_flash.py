"""What a stored reading costs the flash stays within what is wanted."""

import json
import tempfile

import pytest

from benchmarks import flash


def test_a_reading_costs_the_flash_no_more_than_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    # The folder of temporary files that outlive a start of the machine: on a disk, while tests' own lie in memory.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        status = flash.main(["--runs", "60", "--folder", folder, "--json"])
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
