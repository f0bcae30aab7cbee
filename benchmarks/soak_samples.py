"""What a process holds and has used, sample by sample, from /proc; and whether that stays flat.

Flat is judged between the second quarter of a run (the first one warms up) and its last: by the median for what moves
to and fro (memory), by the lowest for what a leak keeps (file descriptors, threads).
"""

import dataclasses
import itertools
import os
import pathlib
import statistics
from collections.abc import Iterable, Sequence

PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Held:
    """What one process (or all of a server's) held and had used at one moment."""

    rss_mib: float
    descriptors: int
    threads: int
    cpu_seconds: float
    """User and system time since its start."""


@dataclasses.dataclass
class Sample:
    """One look at everything; ``at`` in seconds since the beginning of the run."""

    at: float
    processes: dict[str, Held]
    files: dict[str, int]
    """Name to bytes."""


def look(pids: Iterable[int]) -> Held | None:
    """Look at processes that belong together; None when none of them is there any more.

    Memory is the resident set of one process, and for several the sum of what each has for itself (shared pages of a
    database server would count many times).
    """
    found = [one for pid in pids if (one := _look(pathlib.Path(f"/proc/{pid}"))) is not None]
    if not found:
        return None
    several = len(found) > 1
    return Held(
        rss_mib=round(sum(own if several else resident for resident, own, _ in found) / MIB, 2),
        descriptors=sum(one.descriptors for _, _, one in found),
        threads=sum(one.threads for _, _, one in found),
        cpu_seconds=round(sum(one.cpu_seconds for _, _, one in found), 2),
    )


def _look(folder: pathlib.Path) -> tuple[int, int, Held] | None:
    try:
        _, resident, shared, *_ = map(int, (folder / "statm").read_text(encoding="ascii").split())
        # The name, in brackets, may hold blanks.
        fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
    except OSError:
        return None
    user, system, threads = int(fields[11]), int(fields[12]), int(fields[17])
    return resident * PAGE, (resident - shared) * PAGE, Held(0.0, descriptors, threads, (user + system) / TICKS)


@dataclasses.dataclass(frozen=True)
class Course:
    """How one process did over the whole run."""

    rss_mib: float
    """Median of the last quarter."""
    rss_highest_mib: float
    rss_growth_mib: float
    """From the median of the second quarter to that of the last."""
    rss_slope_mib_per_hour: float
    """Theil's slope (the median of the slopes between samples) over the second half."""
    descriptors: int
    """Lowest of the last quarter, as the growth is one of lowest values."""
    descriptors_highest: int
    descriptors_growth: int
    threads: int
    threads_growth: int
    cpu_share: float
    """Of one core, over the whole run."""


def course_of(name: str, samples: Sequence[Sample]) -> Course | None:
    """Judge one process; None when it was seen in too few samples."""
    seen = [(sample.at, sample.processes[name]) for sample in samples if name in sample.processes]
    if len(seen) < 4:  # noqa: PLR2004 - a sample for each quarter
        return None
    quarter = len(seen) // 4
    second, last = [held for _, held in seen[quarter : 2 * quarter]], [held for _, held in seen[-quarter:]]
    rss = statistics.median(held.rss_mib for held in last)
    return Course(
        rss_mib=round(rss, 2),
        rss_highest_mib=max(held.rss_mib for _, held in seen),
        rss_growth_mib=round(rss - statistics.median(held.rss_mib for held in second), 2),
        rss_slope_mib_per_hour=round(_slope([(at, held.rss_mib) for at, held in seen[len(seen) // 2 :]]) * 3600, 2),
        descriptors=min(held.descriptors for held in last),
        descriptors_highest=max(held.descriptors for _, held in seen),
        descriptors_growth=min(h.descriptors for h in last) - min(h.descriptors for h in second),
        threads=min(held.threads for held in last),
        threads_growth=min(h.threads for h in last) - min(h.threads for h in second),
        cpu_share=round(_used(seen) / max(0.001, seen[-1][0] - seen[0][0]), 4),
    )


def _used(seen: Sequence[tuple[float, Held]]) -> float:
    """Sum the processor time, over restarts of the process."""
    steps = itertools.pairwise(seen)
    return sum(max(0.0, after.cpu_seconds - before.cpu_seconds) for (_, before), (_, after) in steps)


def _slope(points: Sequence[tuple[float, float]]) -> float:
    slopes = [(y2 - y1) / (x2 - x1) for i, (x1, y1) in enumerate(points) for x2, y2 in points[i + 1 :] if x2 > x1]
    return statistics.median(slopes) if slopes else 0.0


def growth_of(name: str, samples: Sequence[Sample]) -> tuple[int, int, float]:
    """Return a file's size at half of the run and at its end, and how many bytes it grew in an hour between them."""
    half, last = samples[len(samples) // 2], samples[-1]
    before, after = half.files.get(name, 0), last.files.get(name, 0)
    return before, after, (after - before) / max(1.0, last.at - half.at) * 3600
