"""What lines remember across restarts: archive layouts, what is held of each archive, and the rate of an open session.

Implements ``agent.runs.LineMemory`` on the store's file.
"""

import contextlib
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import msgspec

from agent.storage_faults import StoreFullError
from contexts.meters import Held, Layout

SCHEMA = """
    CREATE TABLE IF NOT EXISTS memory (
        kind TEXT NOT NULL, owner BLOB NOT NULL, archive INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (kind, owner, archive)
    ) WITHOUT ROWID;
"""

_LAYOUT = "layout"
_HELD = "held"
_RATE = "rate"

T = TypeVar("T")


class Memory:
    """Small things by (kind, device or line, archive)."""

    def __init__(self, db: sqlite3.Connection, transaction: Callable[[], AbstractContextManager[None]]) -> None:
        self._db = db
        self._transaction = transaction

    def layout(self, device: uuid.UUID, archive: int) -> Layout | None:
        """Return the columns of a meter's archive if they were read before."""
        return self._recall(_LAYOUT, device, archive, Layout)

    def keep_layout(self, device: uuid.UUID, archive: int, layout: Layout) -> None:
        """Remember the columns of a meter's archive."""
        # On a full disk they are read again next time.
        with contextlib.suppress(StoreFullError):
            self._keep(_LAYOUT, device, archive, layout)

    def held(self, device: uuid.UUID, archive: int) -> Held | None:
        """Return which rows of a meter's archive are stored without a gap."""
        return self._recall(_HELD, device, archive, Held)

    def keep_held(self, device: uuid.UUID, archive: int, held: Held) -> None:
        """Remember it; only ever in the transaction that stores those rows."""
        self._keep(_HELD, device, archive, held)

    def line_rate(self, line: uuid.UUID) -> int | None:
        """Return the rate in baud at which a session was open when the process died; None if none was."""
        return self._recall(_RATE, line, 0, int)

    def keep_line_rate(self, line: uuid.UUID, rate: int | None) -> None:
        """Remember the rate in baud of the open session, or None once it has ended."""
        # On a full disk a crash costs the next session the time in which a meter ends one by itself.
        with contextlib.suppress(StoreFullError), self._transaction():
            if rate is not None:
                self._keep(_RATE, line, 0, rate)
                return
            self._db.execute("DELETE FROM memory WHERE kind = ? AND owner = ?", (_RATE, line.bytes))

    def _recall(self, kind: str, owner: uuid.UUID, archive: int, what: type[T]) -> T | None:
        row = self._db.execute(
            "SELECT body FROM memory WHERE kind = ? AND owner = ? AND archive = ?", (kind, owner.bytes, archive)
        ).fetchone()
        return msgspec.msgpack.decode(row[0], type=what) if row else None

    def _keep(self, kind: str, owner: uuid.UUID, archive: int, body: object) -> None:
        """Remember it.

        Raises:
            StoreFullError: when nothing can be written now.
        """
        with self._transaction():
            self._db.execute(
                "INSERT INTO memory (kind, owner, archive, body) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (kind, owner, archive) DO UPDATE SET body = excluded.body",
                (kind, owner.bytes, archive, msgspec.msgpack.encode(body)),
            )
