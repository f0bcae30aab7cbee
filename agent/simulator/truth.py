"""The truth file: what the virtual meters held and said, one JSON object a line, for programs that know nothing of us.

Rules: appended with one system call a line block, so that several simulators may write the same file and a reader never
sees half a line of ours; a single value is written before its answer leaves. The format is documented in
``docs/simulator.md``. Values are the meter's own texts; units are in plain words (``°C``, ``m3/h``).
"""

import datetime as dt
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from agent.simulator.archives import Row
from agent.simulator.schedules import local_time
from protocol.iec62056.lock_codes import hidden_in_row


class Truth:
    """One truth file; ``close`` it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def rows(self, serial: str, address: str, zone: ZoneInfo, rows: Iterable[Row]) -> None:
        """Write archive rows."""
        self._append({"serial": serial, "address": address, **_row(row, zone)} for row in rows)

    def single(self, serial: str, address: str, asked: str, value: str, unit: str, at: dt.datetime) -> None:
        """Write that a single value is about to be answered."""
        line = {"serial": serial, "address": address, "single": asked, "value": value, "unit": unit}
        self._append([{**line, "at": _utc(at, "milliseconds")}])

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        if text:
            os.write(self._file, text.encode())


def _row(row: Row, zone: ZoneInfo) -> dict[str, Any]:
    local = local_time(row.clock, zone)
    return {
        "archive": row.archive,
        "aono": row.aono,
        "gono": row.gono,
        "timestamp": _utc(local, "seconds"),
        "local": local.strftime("%Y-%m-%d,%H:%M:%S"),
        "values": row.values,
        "units": row.units,
        "times": row.times,
        "changed": None if row.changed is None else hidden_in_row(list(row.changed)),
        "event": None if row.event is None else f"0x{row.event:04X}",
        "row": hidden_in_row(list(row.groups)),
    }


def _utc(moment: dt.datetime, precision: str) -> str:
    return moment.astimezone(dt.UTC).isoformat(timespec=precision).replace("+00:00", "Z")
