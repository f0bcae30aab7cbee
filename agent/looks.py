"""How far the scheduler has looked, and since when it knows each duty.

One instant for all (what was due up to it has been begun), and one per task and device: a task that is new on a
gateway, or has a new schedule or offset, is first due at its next tick.
"""

import datetime as dt
import sqlite3
import uuid
from collections.abc import Iterable
from typing import NamedTuple

SCHEMA = """
    CREATE TABLE IF NOT EXISTS looks (
        task BLOB NOT NULL, device BLOB NOT NULL, schedule TEXT NOT NULL, offset INTEGER NOT NULL, since REAL NOT NULL,
        PRIMARY KEY (task, device)
    ) WITHOUT ROWID;
"""


class Timetable(NamedTuple):
    """When one task is due on one device."""

    task: uuid.UUID
    device: uuid.UUID
    schedule: str
    offset: int


class Looks:
    """The scheduler's memory. Everything is written inside the store's transactions."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def reconcile(self, timetables: Iterable[Timetable], now: dt.datetime) -> dict[Timetable, dt.datetime]:
        """Make the remembered duties those given; return since when each is known (new ones: since now)."""
        known = {
            Timetable(uuid.UUID(bytes=task), uuid.UUID(bytes=device), schedule, offset): since
            for task, device, schedule, offset, since in self._db.execute(
                "SELECT task, device, schedule, offset, since FROM looks"
            )
        }
        wanted = set(timetables)
        self._db.executemany(
            "DELETE FROM looks WHERE task = ? AND device = ?",
            [(gone.task.bytes, gone.device.bytes) for gone in known.keys() - wanted],
        )
        fresh = wanted - known.keys()
        self._db.executemany(
            "INSERT INTO looks (task, device, schedule, offset, since) VALUES (?, ?, ?, ?, ?)",
            [(new.task.bytes, new.device.bytes, new.schedule, new.offset, now.timestamp()) for new in fresh],
        )
        return {
            timetable: now if timetable in fresh else dt.datetime.fromtimestamp(known[timetable], dt.UTC)
            for timetable in wanted
        }

    def not_after(self, now: dt.datetime) -> None:
        """Follow a clock that went back: nothing is known since later than now."""
        self._db.execute("UPDATE looks SET since = ? WHERE since > ?", (now.timestamp(), now.timestamp()))
