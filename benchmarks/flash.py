"""What a stored reading costs the gateway's flash: bytes that the agent makes the kernel write to the device.

The real store, recorder and scheduler's bookkeeping do what a run of a task does, from its beginning noted to the
receipt of its batch; the line is played. Two cases: a task that reads one momentary value, and one that brings a day of
quarter-hourly archive rows. Counted is what the kernel itself counts for this process (``write_bytes`` of
``/proc/self/io``: pages of 4 KiB made dirty, so the log, its checkpoints into the file and the seal are in it) and what
the file and its log have in them. The journal of the file system is not in it: add it for the file system at hand.
"""

import argparse
import dataclasses
import datetime as dt
import json
import pathlib
import sys
import tempfile
import uuid
from collections.abc import Sequence
from decimal import Decimal

import structlog

from agent.clocks import Clock
from agent.commands import CommandDesk
from agent.outbox import Outbox
from agent.recorder import Recorder
from agent.runs import Run, RunResult
from agent.store import Store
from agent.trust import ClockTrust
from contexts.meters import Answer, Held, Value
from protocol import reports
from protocol.plans import Device
from protocol.readings import batch_of

_T0 = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_SERIES = ("2:300", "2:302", "4:300", "4:302", "7:310/3", "6:310_1/3", "8:310/3", "5:310/3")
_BATCH = 60_000


@dataclasses.dataclass(frozen=True)
class Figure:
    """One case: what was stored, and what that made the device write."""

    case: str
    runs: int
    readings: int
    written: int
    per_reading: float
    per_run: float
    file_bytes: int
    wanted: float

    @property
    def good(self) -> bool:
        """Whether a reading costs at most what is wanted."""
        return self.per_reading <= self.wanted


def device_bytes() -> int:
    """Return how many bytes this process has made the kernel write to devices.

    Raises:
        OSError: when this is no Linux that counts it.
    """
    lines = pathlib.Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def measure(case: str, folder: pathlib.Path, runs: int, rows: int, wanted: float) -> Figure:
    """Do so many runs with so many archive rows each; 0 rows: one momentary value."""
    folder.mkdir()
    store = Store(folder / "agent.db", "gw-1", Clock())
    desk = CommandDesk(
        "gw-1",
        store,
        Clock(),
        ClockTrust(Clock(), store, lambda: True),
        submit=lambda _: None,
        cancel=lambda _: False,
        withdraw=lambda _: False,
        reply=lambda *_: None,
    )
    recorder = Recorder(store, desk)
    before, count = device_bytes(), 0
    for number in range(runs):
        count += _run(store, recorder, number, rows)
        for box in (store.readings, store.reports):
            _receipt(store, box)
    store.close()
    written = device_bytes() - before
    size = store.path.stat().st_size
    return Figure(case, runs, count, written, written / count, written / runs, size, wanted)


def _run(store: Store, recorder: Recorder, number: int, rows: int) -> int:
    device = Device(uuid.UUID(int=number % 50), f"meter-{number % 50}", uuid.UUID(int=9), "UTC")
    tick = _T0 + dt.timedelta(minutes=15 * number)
    run = Run(
        uuid.uuid4(), device, "generic_lis200", "read_single_value", {"address": "2:300"}, tick, task=uuid.UUID(int=7)
    )
    with store.transaction():
        store.runs.begin(run)
        store.put("last_look", tick.timestamp())
    store.memory.keep_line_rate(device.line, 300)
    recorder.started(run)
    values = [Value("2:300", Decimal("4711.123"), "m3")]
    if rows:
        stamps = [tick - dt.timedelta(minutes=15 * back) for back in reversed(range(rows))]
        values = [Value(series, Decimal("4711.123"), "m3", at) for at in stamps for series in _SERIES]
    answer = Answer(values, archive=3, held=Held(tick, tick, number)) if rows else Answer(values)
    recorder.ended(RunResult(run, reports.DONE, "", tick, tick, answer))
    store.memory.keep_line_rate(device.line, None)
    return len(values)


def _receipt(store: Store, box: Outbox) -> None:
    while (rows := box.next_rows(0, _BATCH)) is not None:
        with store.transaction(durable=False):
            box.accept(batch_of(store.id, rows.first, rows.bodies).name)


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit status: 0 within what is wanted, 1 beyond it, 2 it cannot be counted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks flash", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, help="where, on a real disk: not a tmpfs (the temporary folder)")
    parser.add_argument("--runs", type=int, default=600, help="runs of the case with one value; archives a tenth (600)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = pathlib.Path(name)
        try:
            figures = [
                measure("one value", folder / "single", options.runs, 0, _WANTED_SINGLE),
                measure("96 archive rows", folder / "archive", max(1, options.runs // 10), 96, _WANTED_ARCHIVE),
            ]
        except OSError as error:
            print(f"flash: the kernel does not say what was written: {error}", file=sys.stderr)
            return 2
    if not all(figure.written for figure in figures):
        print(f"flash: nothing was counted; is {folder.parent} in memory? name another --folder", file=sys.stderr)
        return 2
    good = all(figure.good for figure in figures)
    if options.json:
        print(
            json.dumps({"cases": [{**dataclasses.asdict(figure), "ok": figure.good} for figure in figures], "ok": good})
        )
    else:
        for figure in figures:
            print(
                f"{figure.case}: {figure.per_reading:,.0f} bytes a reading ({figure.per_run:,.0f} a run, at most "
                f"{figure.wanted:,.0f} a reading wanted); {figure.readings} readings in a file of {figure.file_bytes:,}"
            )
    return 0 if good else 1


_WANTED_SINGLE, _WANTED_ARCHIVE = 64 * 1024.0, 1024.0
