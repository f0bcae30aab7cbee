"""Power cuts, proved: whatever a power cut leaves of the agent's store, nothing that was promised is gone.

A child process works with the real store (readings of runs, commands with all their steps, receipts, pruning,
checkpoints, a second start) under ``strace``, which notes every write and every sync in its order, and between them
what the store had promised by then. From that, disks are rebuilt as a power cut may have left them at any moment: every
prefix of the writes since the last sync, and by a seed any subset of them, whole or torn at 512-byte sectors
(``benchmarks._powercut_disk``). Each is opened with the store, and must hold: every row that was stored and not yet
receipted, under its sequence; every command at least as far as it was told; no ended run open again; no sequence used
twice; integrity. A store that was set aside is counted, and must hold the same in the new one.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import structlog

from agent.clocks import Clock
from agent.journal import ENDED
from agent.seal import SealError
from agent.storage_faults import StoreFullError
from agent.store import BROKEN, KEPT, NEW, Store, StoreError
from benchmarks._powercut_disk import CALLS, Disk, events
from benchmarks._powercut_workload import GATEWAY, digest
from protocol.commands import FINAL_STATES

_RANK = {"accepted": 0, "running": 1}
_MOST_BYTES = 1 << 20


class NoStrace(RuntimeError):  # noqa: N818 - what is missing, not an error of ours
    """There is no strace, or it may not trace."""


@dataclasses.dataclass
class Figures:
    """What was tried and what was found; ``faults`` holds sentences, at best none."""

    calls: int = 0
    moments: int = 0
    images: int = 0
    kept: int = 0
    set_aside: int = 0
    other: int = 0
    torn: int = 0
    promised_rows: int = 0
    promised_commands: int = 0
    checked_rows: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Promises:
    """What had been promised at one moment. Rows by table and sequence; ``owed`` are those without a receipt."""

    store: str = ""
    session: int = 0
    rows: dict[str, dict[int, str]] = dataclasses.field(default_factory=lambda: {"readings": {}, "report": {}})
    owed: dict[str, set[int]] = dataclasses.field(default_factory=lambda: {"readings": set(), "report": set()})
    commands: dict[str, str] = dataclasses.field(default_factory=dict)
    runs: set[str] = dataclasses.field(default_factory=set)

    def hear(self, line: bytes) -> None:
        """Add one line of the child's promises."""
        said = json.loads(line)
        match said["kind"]:
            case "store":
                self.store, self.session = said["id"], said["session"]
            case "rows":
                rows = {int(sequence): text for sequence, text in said["rows"].items()}
                self.rows[said["table"]] |= rows
                self.owed[said["table"]] |= rows.keys()
            case "receipted":
                self.owed[said["table"]] -= set(range(said["first"], said["last"] + 1))
            case "command":
                self.commands[said["id"]] = said["state"]
            case "run":
                self.runs.add(said["id"])


def trace(folder: pathlib.Path, seed: int, steps: int, *, careless: bool = False) -> pathlib.Path:
    """Let the child work in a folder and return the trace of its calls.

    Raises:
        NoStrace: when strace is missing or not allowed to trace.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise NoStrace("strace is missing: sh .ci/strace installs it")
    path = folder.with_name("trace")
    command = [strace, "-f", "-o", str(path), "-xx", "-s", str(_MOST_BYTES), "-e", f"trace={CALLS}", sys.executable]
    command += ["-m", "benchmarks._powercut_workload", str(folder), str(seed), str(steps)]
    command += ["careless"] * careless
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "."})
    if done.returncode:
        raise NoStrace(f"the traced workload ended with {done.returncode}: {done.stderr[-1500:]}")
    return path


def measure(
    folder: pathlib.Path, seed: int, steps: int, images: int, *, prefixes: bool, careless: bool = False
) -> Figures:
    """Trace once, then rebuild and judge disks: about ``images`` by the seed, and with ``prefixes`` every prefix."""
    work = folder / "work"
    work.mkdir()
    calls = list(events(trace(work, seed, steps, careless=careless)))
    chance = random.Random(seed)  # noqa: S311 - a seed
    figures = Figures(calls=len(calls))
    disk, promises, heard = Disk(work), Promises(), 0
    moments = [at for at, changed in enumerate(map(Disk(work).feed, calls)) if changed]
    changing = set(moments)
    figures.moments = len(moments)
    chosen = set(moments if len(moments) <= images else chance.sample(moments, images))
    rounds = max(1, images // max(1, len(chosen)))
    for at, event in enumerate(calls):
        disk.feed(event)
        *lines, _ = disk.promises[heard:].split(b"\n")
        for line in lines:
            promises.hear(line)
            heard += len(line) + 1
        kinds = ["all"] * prefixes
        if at in chosen:
            kinds += chance.choices(["none", "prefix", "some", "torn"], [1, 2, 2, 3], k=rounds)
        # What a call left alone, a power cut leaves as it was.
        for kind in kinds if at in changing else []:
            figures.torn += kind == "torn"
            files = disk.image(chance, kind)
            for fault in judge(folder / "image", files, promises, figures):
                figures.faults.append(f"after call {at} ({event.name}), {kind}: {fault}")
    figures.promised_rows = sum(len(rows) for rows in promises.rows.values())
    figures.promised_commands = len(promises.commands)
    return figures


def judge(folder: pathlib.Path, files: dict[str, bytes], promises: Promises, figures: Figures) -> list[str]:
    """Open one image and compare it with what was promised."""
    figures.images += 1
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    _same_inode(folder)
    try:
        store = Store(folder / "agent.db", GATEWAY, Clock())
    except (StoreError, StoreFullError, SealError, sqlite3.Error, ValueError, OSError) as error:
        return [f"the store cannot be opened: {type(error).__name__}: {error}"]
    with contextlib.closing(store):
        figures.kept += store.origin == KEPT
        figures.set_aside += store.origin == BROKEN
        figures.other += store.origin not in {KEPT, BROKEN, NEW}
        try:
            return [*_faults(store, promises, figures)]
        except sqlite3.DatabaseError as error:
            return [f"a row of it is gone or unreadable: {error}"]


def _same_inode(folder: pathlib.Path) -> None:
    """Have the seal name the rebuilt file: in a power cut it would be the same one."""
    seal, store = folder / "agent.db.seal", folder / "agent.db"
    if not seal.exists() or not store.exists():
        return
    words = seal.read_bytes().split(b" ")
    if len(words) == 6:  # noqa: PLR2004 - agent.seal
        words[4] = f"{store.stat().st_ino:020d}".encode()
        seal.write_bytes(b" ".join(words))


def _faults(store: Store, promises: Promises, figures: Figures) -> Iterator[str]:
    db = store._db  # noqa: SLF001 - a proof looks behind the door
    (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        yield f"integrity: {verdict}"
    same = store.id.hex() == promises.store
    if promises.store and store.session <= promises.session:
        yield f"session {store.session} is not above {promises.session}"
    yield from _row_faults(store, promises, figures, same=same)
    yield from _work_faults(store, promises)


def _row_faults(store: Store, promises: Promises, figures: Figures, *, same: bool) -> Iterator[str]:
    db = store._db  # noqa: SLF001 - as above
    for box, table in ((store.readings, "readings"), (store.reports, "reports")):
        rows = {sequence: digest(body or b"") for sequence, body in db.execute(f"SELECT seq, body FROM {table}")}  # noqa: S608 - two known tables
        known, promised = set(rows.values()), promises.rows[str(box.channel)]
        for sequence in promises.owed[str(box.channel)]:
            figures.checked_rows += 1
            if promised[sequence] not in known:
                yield f"row {sequence} of {table} is gone (origin {store.origin})"
        if not same:
            continue
        for sequence, text in rows.items():
            if promised.get(sequence, text) != text:
                yield f"row {sequence} of {table} is another one than was promised"
        if promised and box.last() < max(promised):
            yield f"sequences of {table} begin again at {box.last()}, {max(promised)} was used"


def _work_faults(store: Store, promises: Promises) -> Iterator[str]:
    for command, state in promises.commands.items():
        order = store.commands.find(uuid.UUID(command))
        if order is None:
            yield f"command {command} is not known, it was told {state}"
        elif order.state not in FINAL_STATES and _RANK[order.state] < _RANK.get(state, 2):
            yield f"command {command} is {order.state}, it was told {state}"
    open_runs = {str(run.id) for run, state in store.runs.open() if state != ENDED}
    for run in promises.runs & open_runs:
        yield f"run {run} has ended and is open again"


def as_json(figures: Figures) -> dict[str, Any]:
    """Return the figures with the verdict."""
    return {**dataclasses.asdict(figures), "ok": not figures.faults}


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit status: 0 nothing was lost, 1 something was, 2 no strace."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks powercut", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the work, and of what each power cut leaves (1)")
    parser.add_argument("--steps", type=int, default=60, help="what the store is made to do, in steps (60)")
    parser.add_argument("--images", type=int, default=1500, help="disks by the seed, about (1500)")
    parser.add_argument("--sample", action="store_true", help="only those, without every prefix of the writes")
    parser.add_argument("--careless", action="store_true", help="switch the syncs off, to see that it is found")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = measure(
                pathlib.Path(folder),
                options.seed,
                options.steps,
                options.images,
                prefixes=not options.sample,
                careless=options.careless,
            )
    except NoStrace as error:
        print(f"powercut: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(as_json(figures)))
    else:
        print(
            f"{figures.images} power cuts at {figures.moments} moments of {figures.calls} calls "
            f"({figures.torn} with torn writes): {figures.kept} stores went on, {figures.set_aside} were set aside,\n"
            f"{figures.other} were taken for put back; {figures.checked_rows} promised rows looked up, of "
            f"{figures.promised_rows} rows and {figures.promised_commands} commands: {len(figures.faults)} faults"
        )
        for fault in figures.faults[:20]:
            print(f"  {fault}")
    return 1 if figures.faults else 0
