"""What the wire logs of the bench ``lines`` say: who was read in which round, and how far the meters fell behind.

Rules: no process, no clock; only what stands in the logs. A round begins with a tick of the agent's clock and lasts
until the next one. It is *whole* if every line had exactly one session in it that has ended; of any other round no time
is taken, and why is said.
"""

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

REQUEST = b"/?1!\r\n"
BREAK = b"\x01B0\x03q"
EARLY = 0.5
"""Seconds before a tick from which a session counts to its round: two processes have looked at the clock."""


@dataclasses.dataclass(frozen=True)
class Session:
    """One session of a line: monotonic seconds of its first and its last bit; ``end`` None while it goes on.

    ``late`` is by how many seconds in all the simulator said its telegrams later than its line could have carried them.
    """

    start: float
    end: float | None
    late: float


@dataclasses.dataclass(frozen=True)
class Round:
    """A whole round of all lines."""

    start: float
    end: float
    late: float
    """Median of the lines' seconds by which the simulator was late."""

    @property
    def seconds(self) -> float:
        """From the first bit of the first request to the last bit of the last break on any line."""
        return self.end - self.start


def sessions(log: pathlib.Path) -> list[Session]:
    """Return the sessions of a line, in their order."""
    found: list[Session] = []
    begun: float | None = None
    late = 0.0
    heard = b""
    for text in log.read_text(encoding="ascii").splitlines() if log.exists() else ():
        if not text.endswith("}"):
            break  # is being written
        chunk: Mapping[str, Any] = json.loads(text)
        if chunk["dir"] == "tx":
            heard = b""
            late += max(0.0, chunk["t"] - chunk["end"])
            continue
        heard += bytes(byte & 0x7F for byte in bytes.fromhex(chunk["hex"]))
        if heard.endswith(REQUEST) and begun is None:
            begun, late = chunk["start"], 0.0
        if heard.endswith(BREAK) and begun is not None:
            found.append(Session(begun, chunk["end"], late))
            begun = None
    if begun is not None:
        found.append(Session(begun, None, late))
    return found


def judge(lines: Sequence[Sequence[Session]], tick: float, length: float) -> Round | str:
    """Return the round that begins at ``tick`` and is ``length`` seconds long, or why it is not whole."""
    found: list[tuple[float, float, float]] = []
    for number, line in enumerate(lines):
        inside = [one for one in line if tick - EARLY <= one.start < tick + length - EARLY]
        if len(inside) != 1:
            return f"line {number} had {len(inside)} sessions instead of one"
        (one,) = inside
        if one.end is None or one.end >= tick + length:
            return f"line {number} was still busy when the next round began"
        found.append((one.start, one.end, one.late))
    starts, ends, lates = zip(*found, strict=True)
    return Round(min(starts), max(ends), statistics.median(lates))
