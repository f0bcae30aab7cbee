"""Memory that is free goes back to the system."""

import subprocess
import sys

FREED = """
import pathlib
from agent import footprint

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

footprint.use_one_arena()
kept = []
# Blocks below the size that is mapped by itself, and a small one between each two that stays.
for _ in range(400):
    kept.append(bytes(bytearray(100_000)))
    kept.append(bytes(bytearray(2_000)))
full = resident()
kept = kept[1::2]
footprint.give_back()
print(full - resident())
"""


def test_what_a_readout_needed_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 30_000_000, "of 40 MB"
