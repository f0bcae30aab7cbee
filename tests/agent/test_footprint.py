"""Memory that is free goes back to the system."""

import subprocess
import sys

FREED = """
import pathlib
from agent import footprint

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

footprint.keep_small()
footprint.settle()
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


GARBAGE = """
import collections
import gc
from agent import footprint

class Cycle:
    def __init__(self):
        self.me = self

program = [[] for _ in range(400_000)]
footprint.settle()
# Each lives so long that it counts as old when it is garbage.
alive = collections.deque((Cycle() for _ in range(100_000)), maxlen=10_000)
print(sum(isinstance(one, Cycle) for one in gc.get_objects()))
"""


def test_garbage_is_looked_for_early_however_large_the_program_is() -> None:
    done = subprocess.run([sys.executable, "-c", GARBAGE], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 40_000, "of 100,000"
