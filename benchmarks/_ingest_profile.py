"""Where a relay's processor time goes: every two milliseconds of it, which step of a batch's path is looked at.

A profiler that counts calls makes what calls most look worst, and its clock counts what other processes take as well.
So this process is interrupted by a timer that runs only while it has the processor, and the innermost function that a
step is known by is counted. What was before the event loop began (imports) is not.

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
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

SECONDS = 0.002
"""Of processor, between two looks; the kernel may make it longer, so only shares mean something."""

STEPS = {
    "Columns.insert": "the INSERT: parameters, waiting for its turn in the loop, result",
    "Columns._note": "notes for the clerks",
    "Columns.add": "columns of the INSERT",
    "look_up": "which meter and series: three queries",
    "note_batches": "rows in batches",
    "_admit": "gateways and their keys",
    "open_envelope": "envelope: signature",
    "checked_batch": "digest of the batch",
    "read_plain": "bytes to rows",
    "open_some": "opening, the rest",
    "store_some": "transaction, the rest",
    "receipt_some": "receipts",
    "keep_ledger": "the ledger's clerk",
    "keep_judging": "the judge",
    "_sort": "messages: into lanes",
    "_stay_connected": "messages: from the socket",
}
"""By the function that a step is known by, the innermost first."""

OTHER = "everything else in the loop"

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
        if code is asyncio.BaseEventLoop.run_forever.__code__:
            return found or OTHER
        frame = frame.f_back
        if frame is None and inside.parent is not None:
            # SQLAlchemy works on a stack of its own; this is the one of whoever asked it.
            inside = inside.parent
            frame = inside.gr_frame
    return ""


def shares(file: pathlib.Path) -> dict[str, float]:
    """Return what a profile says: of the processor's time in the loop the part of each step, in percent."""
    counted: Mapping[str, int] = json.loads(file.read_text(encoding="utf-8"))
    everything = max(1, sum(counted.values()))
    ordered = sorted(counted.items(), key=lambda item: -item[1])
    return {step: round(100 * count / everything, 1) for step, count in ordered}


def main(arguments: Sequence[str]) -> None:
    """Run a program of this interpreter, and write what was seen when it ends."""
    file, *command = arguments
    counted: collections.Counter[str] = collections.Counter()

    def look(_number: int, frame: FrameType | None) -> None:
        step = step_of(frame)
        if step:
            counted[step] += 1

    def save() -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        pathlib.Path(file).write_text(json.dumps(counted), encoding="utf-8")

    atexit.register(save)
    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
