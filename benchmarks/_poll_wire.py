"""What the bench ``poll`` has in common: the simulator as a process, its wire log as telegrams, a gateway's memory."""

import contextlib
import dataclasses
import datetime as dt
import json
import pathlib
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

from contexts.meters import Held, Layout

BITS = 10
QUARTER = dt.timedelta(minutes=15)
FIRST_SERIAL = 11_000_001
REQUEST, ACK, BREAK = "/?", "\x06", "\x01B0\x03q"


@dataclasses.dataclass(frozen=True)
class Telegram:
    """What one side said without a break: direction as the meter sees it, characters, first and last bit in seconds.

    ``passed`` is when the last bit had really passed: the simulator's process wakes a little after ``end``.
    """

    direction: str
    text: str
    start: float
    end: float
    passed: float

    @property
    def characters(self) -> int:
        """How many characters it has."""
        return len(self.text)


class Memory:
    """What a gateway remembers of one meter from the poll before: columns, and which rows it holds."""

    def __init__(self) -> None:
        self._layouts: dict[int, Layout] = {}
        self._held: dict[int, Held] = {}

    def layout(self, device: uuid.UUID, archive: int) -> Layout | None:
        """Return what was kept."""
        del device
        return self._layouts.get(archive)

    def keep_layout(self, device: uuid.UUID, archive: int, layout: Layout) -> None:
        """Keep it."""
        del device
        self._layouts[archive] = layout

    def hold(self, archive: int, held: Held) -> None:
        """Let these rows be held."""
        self._held[archive] = held

    def held(self, device: uuid.UUID, archive: int) -> Held | None:
        """Return what is held."""
        del device
        return self._held.get(archive)

    def line_rate(self, line: uuid.UUID) -> int | None:
        """No session was left open."""
        del line
        return None

    def keep_line_rate(self, line: uuid.UUID, rate: int | None) -> None:
        """No crash is part of this benchmark."""
        del line, rate


@contextlib.contextmanager
def simulated(log: pathlib.Path, listen: str, rate: int, meters: int = 1) -> Iterator[str]:
    """Run the simulator as a process, with meters 1, 2, ... on a throttled line; yields its endpoint."""
    specs = [part for n in range(meters) for part in ("--meter", f"{n + 1}:{FIRST_SERIAL + n}:EK280")]
    command = [sys.executable, "-m", "agent.simulator", "--listen", listen, *specs]
    command += ["--throttle", "--fixed-rate", "--rate", str(rate), "--offer", str(rate)]
    command += ["--interval", "15", "--history", "2", "--timezone", "UTC", "--seed", "7", "--log", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        announced = process.stdout.readline() if process.stdout else ""
        yield json.loads(announced)["endpoint"]
    finally:
        process.terminate()
        process.communicate()


def archive_range(now: dt.datetime, rows: int) -> tuple[dt.datetime, dt.datetime]:
    """Return the limits, both included, of the newest quarter-hour rows that are there for certain."""
    end = now.replace(minute=now.minute // 15 * 15, second=0, microsecond=0) - QUARTER
    return end - (rows - 1) * QUARTER, end


def chunks(log: pathlib.Path, offset: int) -> list[Telegram]:
    """What the simulator has logged since ``offset``, piece by piece."""
    pieces = []
    for line in log.read_bytes()[offset:].splitlines():
        chunk: dict[str, Any] = json.loads(line)
        text = bytes(byte & 0x7F for byte in bytes.fromhex(chunk["hex"])).decode("ascii")
        passed = max(chunk["t"], chunk["end"]) if chunk["dir"] == "tx" else chunk["end"]
        pieces.append(Telegram(chunk["dir"], text, chunk["start"], chunk["end"], passed))
    return pieces


def telegrams(log: pathlib.Path, offset: int) -> list[Telegram]:
    """Join pieces of one direction that follow each other."""
    joined: list[Telegram] = []
    for piece in chunks(log, offset):
        this = piece
        if joined and joined[-1].direction == this.direction:
            before = joined.pop()
            this = dataclasses.replace(this, text=before.text + this.text, start=before.start)
        joined.append(this)
    return joined


def size_of(log: pathlib.Path) -> int:
    """Bytes of the log so far."""
    return log.stat().st_size if log.exists() else 0
