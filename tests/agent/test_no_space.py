"""A disk that is really full (a small tmpfs, or a file-size limit where none may be mounted) loses nothing stored."""

import pathlib
import subprocess
import sys

import pytest

FILL = """
import pathlib, sys
from agent.clocks import Clock
from agent.storage_faults import StoreFullError
from agent.store import Store

store = Store(pathlib.Path(sys.argv[1]) / "agent.db", "gw-1", Clock())
stored = 0
try:
    while stored < 100_000:
        with store.transaction():
            store.readings.append([bytes(1000)] * 10)
        stored += 10
except StoreFullError:
    pass
assert 0 < stored < 100_000, stored
assert "free some space" in store.fault, store.fault
assert store.readings.depth() == stored, (store.readings.depth(), stored)
store.close()
# A start on the full disk either waits with a clear word, or finds all that was stored.
try:
    store = Store(pathlib.Path(sys.argv[1]) / "agent.db", "gw-1", Clock())
except StoreFullError as error:
    print("waits:", error)
else:
    assert store.readings.depth() == stored
    store.close()
print("stored", stored)
"""
ON_TMPFS = 'mount -t tmpfs -o size=4m tmpfs "$1" && shift && exec "$@"'
LIMITED = 'trap "" XFSZ; ulimit -f 4096 && shift && exec "$@"'


def mounts(folder: pathlib.Path) -> bool:
    """Whether a file system may be mounted here, in a name space of its own."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["mounted", "limited"])
def test_a_full_disk_undoes_what_was_begun_and_keeps_what_was_stored(tmp_path: pathlib.Path, how: str) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    own = how == "mounted" and mounts(place)
    shell = ["unshare", "-rm", "sh", "-c", ON_TMPFS] if own else ["sh", "-c", LIMITED]
    done = subprocess.run(
        [*shell, "sh", str(place), sys.executable, "-c", FILL, str(place)],
        capture_output=True, text=True, check=False, timeout=60, cwd=pathlib.Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "stored" in done.stdout
