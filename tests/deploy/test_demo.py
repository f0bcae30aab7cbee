"""The demo as a process: whoever stops it is left with no processes, no files, and no traceback."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest


def family(folder: pathlib.Path) -> list[str]:
    """Return the command lines of all processes that work in the folder."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue  # it has ended meanwhile
        if str(folder) in words and "deploy.demo" not in words:
            found.append(words)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_stops_it_is_left_with_nothing(tmp_path: pathlib.Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    with subprocess.Popen(
        # Whoever runs the tests in the background ignores SIGINT, and with it whatever is started here.
        ["env", "--default-signal=INT", sys.executable, "-m", "deploy.demo", "--keep", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "poll on their own" in line:
                break
        assert len(family(folder)) >= 5
        # As Ctrl-C in a terminal does: everybody in the foreground hears it.
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == "the demo was stopped; nothing was judged\n"
    assert family(folder) == []


def test_a_folder_in_use_is_wrong_usage(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo", "--keep", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "not empty" in done.stderr
