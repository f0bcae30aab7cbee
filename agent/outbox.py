"""The outbox: rows that must reach the hub, kept until the hub's receipt has come, and for a while after it.

There are two, with a sequence each: ``readings`` and ``report``. A row's body is an encoded contract struct and never
changes. Sequences are AUTOINCREMENT: they are never used twice in a store, also after everything was delivered.

Only ``accept`` may mark rows as delivered, and only if the receipt's digest is the digest of exactly these rows here.
Receipted rows stay as a tail, for a hub that was restored from a backup and asks again (``send_again``).
"""

import bisect
import datetime as dt
import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from protocol.readings import MAX_SEQUENCE, BatchName, rows_digest
from protocol.topics import Channel

TAIL = dt.timedelta(days=7)
"""How long receipted rows are kept for a restored hub."""

READINGS_TABLE, REPORTS_TABLE = "readings", "reports"
_TABLES = {Channel.READINGS: READINGS_TABLE, Channel.REPORT: REPORTS_TABLE}
_SMALLEST_ROW = 16

SCHEMA = "".join(
    f"""
    CREATE TABLE IF NOT EXISTS {table} (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        body BLOB NOT NULL,
        stored_at REAL NOT NULL,
        receipted_at REAL,
        aside INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX IF NOT EXISTS {table}_waiting ON {table} (seq) WHERE receipted_at IS NULL;
    CREATE INDEX IF NOT EXISTS {table}_tail ON {table} (receipted_at) WHERE receipted_at IS NOT NULL;
    """
    for table in _TABLES.values()
)


class Sent:
    """Which sequences this process has sent: the hub may have those rows, though their receipt has not come yet."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int]] = []

    def __contains__(self, sequence: int) -> bool:
        at = bisect.bisect_right(self._spans, (sequence, MAX_SEQUENCE)) - 1
        return at >= 0 and sequence <= self._spans[at][1]

    def add(self, first: int, last: int, through: int) -> None:
        """Note a batch; what lies up to ``through`` has its receipts and is forgotten."""
        merged: list[tuple[int, int]] = []
        for start, end in sorted([*self._spans, (first, last)]):
            if merged and start <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            elif end > through:
                merged.append((start, end))
        self._spans = merged

    def clear(self) -> None:
        """Forget them all: the sequences are others' now."""
        self._spans.clear()


class Rows(NamedTuple):
    """Rows with sequences from ``first`` on, without a gap."""

    first: int
    bodies: list[bytes]


class Outbox:
    """One channel's rows. Everything is written inside the store's transactions."""

    def __init__(self, db: sqlite3.Connection, channel: Channel, now: Callable[[], dt.datetime]) -> None:
        self.channel = channel
        self.grown = False
        """Whether rows were added since somebody last looked; the store tells the uplink after the commit."""
        self.awaited = False
        """Whether somebody waits for a row that the last transaction added."""
        self.sent = Sent()
        self._db = db
        self._now = now
        self._table = _TABLES[channel]

    def append(self, bodies: Sequence[bytes], *, awaited: bool = False) -> None:
        """Add rows in this order, ``awaited`` by somebody or not; call it inside a transaction."""
        self.grown |= bool(bodies)
        self.awaited |= awaited
        stored_at = self._now().timestamp()
        self._db.executemany(
            f"INSERT INTO {self._table} (body, stored_at) VALUES (?, ?)",  # noqa: S608 - our own table names
            [(body, stored_at) for body in bodies],
        )

    def next_rows(self, after: int, limit: int, before: int = MAX_SEQUENCE) -> Rows | None:
        """Return the next contiguous rows behind ``after`` that wait for a receipt, at most ``limit`` bytes of bodies.

        The first row is returned whatever its size, so that the caller can set aside what fits nowhere. Rows from
        ``before`` on are left to others.
        """
        cursor = self._db.execute(
            f"SELECT seq, body FROM {self._table} "  # noqa: S608 - our own table names
            "WHERE receipted_at IS NULL AND aside = 0 AND seq > ? AND seq < ? ORDER BY seq LIMIT ?",
            (after, before, max(1, limit // _SMALLEST_ROW)),
        )
        first, size, bodies = 0, 0, list[bytes]()
        for seq, body in cursor:
            if not bodies:
                first = seq
            elif seq != first + len(bodies) or size + len(body) > limit:
                break
            bodies.append(body)
            size += len(body)
        cursor.close()
        return Rows(first, bodies) if bodies else None

    def newest_rows(self, after: int, limit: int) -> Rows | None:
        """Return the newest contiguous rows behind ``after`` that wait, at most ``limit`` bytes of bodies.

        A newest row that is larger by itself is left to ``next_rows``.
        """
        cursor = self._db.execute(
            f"SELECT seq, body FROM {self._table} "  # noqa: S608 - our own table names
            "WHERE receipted_at IS NULL AND aside = 0 AND seq > ? ORDER BY seq DESC LIMIT ?",
            (after, max(1, limit // _SMALLEST_ROW)),
        )
        first, size, bodies = 0, 0, list[bytes]()
        for seq, body in cursor:
            size += len(body)
            if (bodies and seq != first - 1) or size > limit:
                break
            first = seq
            bodies.append(body)
        cursor.close()
        return Rows(first, bodies[::-1]) if bodies else None

    def accept(self, name: BatchName) -> int:
        """Mark the rows of a receipted batch; return how many were still waiting.

        A receipt for anything but exactly these rows (another store's content, other rows under the same sequences)
        changes nothing.
        """
        between = (name.first, name.last)
        (count,) = self._db.execute(
            f"SELECT count(*) FROM {self._table} WHERE seq BETWEEN ? AND ?",  # noqa: S608 - our own table names
            between,
        ).fetchone()
        if count == 0 or count != name.last - name.first + 1:
            return 0
        rows = self._db.execute(
            f"SELECT body FROM {self._table} WHERE seq BETWEEN ? AND ? ORDER BY seq",  # noqa: S608 - our own names
            between,
        )
        if rows_digest(body for (body,) in rows) != name.digest:
            return 0
        return self._db.execute(
            f"UPDATE {self._table} SET receipted_at = ? "  # noqa: S608 - our own table names
            "WHERE seq BETWEEN ? AND ? AND receipted_at IS NULL",
            (self._now().timestamp(), *between),
        ).rowcount

    def send_again(self, first: int = 0) -> int:
        """Take the receipts back from this sequence on; return how many rows wait again."""
        return self._db.execute(
            f"UPDATE {self._table} SET receipted_at = NULL "  # noqa: S608 - our own table names
            "WHERE seq >= ? AND receipted_at IS NOT NULL",
            (first,),
        ).rowcount

    def renumber(self, first: int) -> int:
        """Give the rows from this sequence on new ones, behind all that were ever used; return the last old one.

        For a hub that was restored: a receipt from before it names rows that are no longer there, so that it delivers
        nothing when it is played again.
        """
        self.sent.clear()
        last = self.last()
        step = max(0, last - first + 1)
        self._db.execute(f"UPDATE {self._table} SET seq = seq + ? WHERE seq >= ?", (step, first))  # noqa: S608 - ours
        self._db.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = ?", (step, self._table))
        return last

    def set_aside(self, seq: int) -> None:
        """Leave a row out of batches because it fits into no message that this broker takes."""
        self._db.execute(f"UPDATE {self._table} SET aside = 1 WHERE seq = ?", (seq,))  # noqa: S608 - our own names

    def take_back(self, limit: int) -> int:
        """Let rows of at most ``limit`` bytes that were set aside travel again (another broker takes more)."""
        return self._db.execute(
            f"UPDATE {self._table} SET aside = 0 WHERE aside = 1 AND length(body) <= ?",  # noqa: S608 - our own names
            (limit,),
        ).rowcount

    def through(self) -> int:
        """Return the highest sequence up to which every row has its receipt."""
        (lowest,) = self._db.execute(
            f"SELECT min(seq) FROM {self._table} WHERE receipted_at IS NULL"  # noqa: S608 - our own table names
        ).fetchone()
        if lowest is not None:
            return int(lowest) - 1
        return self.last()

    def gone(self) -> int:
        """Return the highest sequence up to which no row is kept any more."""
        (lowest,) = self._db.execute(f"SELECT min(seq) FROM {self._table}").fetchone()  # noqa: S608 - our own names
        return self.last() if lowest is None else int(lowest) - 1

    def last(self) -> int:
        """Return the highest sequence that was ever used."""
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (self._table,)).fetchone()
        return int(row[0]) if row else 0

    def depth(self) -> int:
        """Return how many rows wait for a receipt."""
        (count,) = self._db.execute(
            f"SELECT count(*) FROM {self._table} WHERE receipted_at IS NULL"  # noqa: S608 - our own table names
        ).fetchone()
        return int(count)

    def aside(self) -> int:
        """Return how many rows are set aside."""
        (count,) = self._db.execute(
            f"SELECT count(*) FROM {self._table} WHERE receipted_at IS NULL AND aside = 1"  # noqa: S608 - our own names
        ).fetchone()
        return int(count)

    def oldest(self) -> dt.datetime | None:
        """Return when the oldest waiting row was stored."""
        row = self._db.execute(
            f"SELECT stored_at FROM {self._table} WHERE receipted_at IS NULL ORDER BY seq LIMIT 1"  # noqa: S608 - ours
        ).fetchone()
        return dt.datetime.fromtimestamp(row[0], dt.UTC) if row else None

    def prune(self) -> int:
        """Delete the receipted rows that are older than the tail."""
        return self._db.execute(
            f"DELETE FROM {self._table} WHERE receipted_at < ?",  # noqa: S608 - our own table names
            ((self._now() - TAIL).timestamp(),),
        ).rowcount
