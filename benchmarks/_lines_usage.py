"""What processes and the machine use while the bench ``lines`` runs, between any two instants, from /proc."""

import itertools
import os
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

from deploy.demo.processes import Process

TICKS = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """Seconds of processor time that were used up to an instant."""

    at: float
    agent: float
    simulator: float
    machine: float


def look(agent: Process, simulator: Process) -> Sample:
    """Look at both now, and at the machine."""
    return Sample(time.monotonic(), _processor(agent), _processor(simulator), _machine())


def _processor(process: Process) -> float:
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{process.popen.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _machine() -> float:
    """Seconds for which the machine's cores have been busy so far, all of them together."""
    line = pathlib.Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    user, nice, system, _, _, interrupts, soft, stolen, *_ = map(int, line.split()[1:])
    return (user + nice + system + interrupts + soft + stolen) / TICKS


def spent(samples: Sequence[Sample], start: float, end: float) -> tuple[float, float, float]:
    """What agent, simulator and machine used between two instants."""
    before, after = _at(samples, start), _at(samples, end)
    return after.agent - before.agent, after.simulator - before.simulator, after.machine - before.machine


def _at(samples: Sequence[Sample], instant: float) -> Sample:
    """The processor times at an instant, on the straight line between the two samples around it."""
    for before, after in itertools.pairwise(samples):
        if instant <= after.at:
            share = max(0.0, instant - before.at) / (after.at - before.at)
            return Sample(*(was + share * (now - was) for was, now in zip(before, after, strict=True)))
    return samples[-1]
