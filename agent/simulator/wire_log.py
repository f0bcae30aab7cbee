"""The wire log: when which bytes passed, for benchmarks that measure from the meter's side.

Rules: one JSON object a line, monotonic seconds. ``start`` and ``end`` are the first and the last bit of the chunk, as
the line's rate has it with ``--throttle``, else both are when it passed. The format is part of ``docs/simulator.md``.
"""

import json
from pathlib import Path
from typing import Literal

Direction = Literal["rx", "tx"]


class WireLog:
    """One log file; ``close`` it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def passed(
        self, direction: Direction, data: bytes, serial: str | None, at: float, start: float, end: float
    ) -> None:
        """Write one chunk; ``serial`` is the meter that is spoken to, if any."""
        line = {"t": at, "dir": direction, "hex": data.hex(), "serial": serial, "start": start, "end": end}
        self._file.write(json.dumps(line) + "\n")
