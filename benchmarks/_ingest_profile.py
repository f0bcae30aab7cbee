"""Where a relay's processor time goes: every two milliseconds of it, which step of a batch's path is looked at.

A profiler that counts calls makes what calls most look worst, and its clock counts what other processes take as well.
So this process is interrupted by a timer that runs only while it has the processor. What each thread has used since the
look before is counted as what it does now: in the event loop's thread the innermost function that a step is known by,
in those of SQLite's connections the statement. What was before the event loop began (imports) is not counted.

    python -m benchmarks._ingest_profile FILE PROGRAM ARGUMENTS...
"""

import asyncio
import atexit
import collections
import importlib
import json
import pathlib
import runpy
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from hub import sqlite_trips

SECONDS = 0.002
"""Of processor, between two looks; the kernel may make it longer, so only shares mean something."""

STEPS = {
    "Columns.insert": "the INSERT: parameters, waiting for its turn in the loop, result",
    "Columns._note": "notes for the clerks",
    "Columns.add": "columns of the INSERT",
    "KnownEstate.now": "has the estate changed?",
    "look_up": "which meter and series: three queries, of those not known",
    "note_batches": "rows in batches",
    "_admit": "gateways and their keys",
    "open_envelope": "envelope: signature",
    "checked_batch": "digest of the batch",
    "read_plain": "bytes to rows",
    "Storing._open": "opening, the rest",
    "Storing._store": "transaction, the rest",
    "Sending.receipt": "receipts",
    "keep_ledger": "the ledger's clerk",
    "keep_judging": "the judge",
    "_sort": "messages: into lanes",
    "_stay_connected": "messages: from the socket",
}
"""By the function that a step is known by, the innermost first."""

OTHER = "everything else in the loop"
WAITING = "other threads"

# It comes with SQLAlchemy, and without types.
_current_stack: Any = importlib.import_module("greenlet").getcurrent


def step_of(frame: FrameType | None) -> str:
    """Return what is being done; empty before the event loop runs."""
    found = ""
    inside = _current_stack()
    while frame is not None:
        code = frame.f_code
        if not found:
            found = STEPS.get(code.co_qualname, STEPS.get(code.co_name, ""))
        if code is asyncio.Runner.run.__code__:
            return found or OTHER
        frame = frame.f_back
        if frame is None and inside.parent is not None:
            # SQLAlchemy works on a stack of its own; this is the one of whoever asked it.
            inside = inside.parent
            frame = inside.gr_frame
    return ""


def statement_of(frame: FrameType | None) -> str:
    """Return what a thread that is not the event loop's does: which statement, if it is one of SQLite's."""
    while frame is not None:
        if frame.f_code is sqlite_trips.carry_out.__code__:
            work: Any = frame.f_locals["work"]
            found = dict(zip(work.__code__.co_freevars, work.__closure__, strict=True))["operation"].cell_contents
            return f"SQLite: {' '.join(found.split()[:4])}"
        frame = frame.f_back
    return WAITING


class Looking:
    """Counts seconds of processor by step; a look is a signal's, so in the event loop's thread."""

    def __init__(self) -> None:
        self.counted: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._used: dict[int, float] = {}

    def look(self, _number: int, frame: FrameType | None) -> None:
        """Add what each thread has used since the look before."""
        here = threading.get_ident()
        step = step_of(frame)
        if not step:
            return
        frames = sys._current_frames()  # noqa: SLF001 - documented for just this
        for thread in threading.enumerate():
            key = thread.ident
            if key is None or key not in frames:
                continue
            used = time.clock_gettime(time.pthread_getcpuclockid(key))
            doing = step if key == here else statement_of(frames[key])
            self.counted[doing] += max(0.0, used - self._used.get(key, used))
            self._used[key] = used


def shares(file: pathlib.Path) -> dict[str, float]:
    """Return what a profile says: of the processor's time in the loop the part of each step, in percent."""
    counted: Mapping[str, float] = json.loads(file.read_text(encoding="utf-8"))
    everything = sum(counted.values()) or 1.0
    ordered = sorted(counted.items(), key=lambda item: -item[1])
    return {step: round(100 * count / everything, 1) for step, count in ordered}


def main(arguments: Sequence[str]) -> None:
    """Run a program of this interpreter, and write what was seen when it ends."""
    file, *command = arguments
    looking = Looking()

    def save() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        pathlib.Path(file).write_text(json.dumps(looking.counted), encoding="utf-8")

    atexit.register(save)
    signal.signal(signal.SIGPROF, looking.look)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
