"""What waits in a store, read beside a running agent or while it is stopped: for people, and for Prometheus.

Rules: the file is opened read-only, in one short read transaction; its seal is not touched, so the agent that owns the
store neither waits nor notices. What cannot be known (a rate while nothing was sent) is None and never guessed.
"""

import contextlib
import datetime as dt
import itertools
import pathlib
import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from agent.seal import seal_is_held
from protocol.reports import DONE, RunReport, decode_report
from protocol.topics import Channel
from protocol.wire import ContractError

WINDOW = 60.0
"""Seconds (of the agent's clock) up to the last receipt in which the rate is measured."""

IDLE = 5.0
"""A longer pause between two receipts is not counted: nothing was sent in it."""

STATUS = "status"
"""Key under which a running agent keeps what its life sign says of it."""

REPORTS_LOOKED_AT = 5000
"""So many of the newest reports are searched for the causes of errors."""

_TABLES = {Channel.READINGS: "readings", Channel.REPORT: "reports"}
_BUSY_SECONDS = 5.0


class BacklogError(Exception):
    """The store cannot be read; the text names the file and says what to do."""


class ChannelBacklog(msgspec.Struct, frozen=True, kw_only=True):
    """One channel's rows. ``waiting`` rows have no receipt; ``aside`` of them fit into no message of this broker.

    ``rows_per_second`` were receipted while rows were sent, ``arriving_per_second`` are new; ``drain_seconds`` follows
    from both and is None where either no rate is known or more comes than goes. ``tail`` rows are receipted and kept
    for a hub that was restored.
    """

    waiting: int
    oldest: dt.datetime | None
    oldest_seconds: float | None
    aside: int
    through: int
    rows_per_second: float | None
    arriving_per_second: float
    drain_seconds: float | None
    tail: int
    tail_since: dt.datetime | None
    last_receipt: dt.datetime | None


class RunErrors(msgspec.Struct, frozen=True, kw_only=True):
    """Runs that ended in one way, as long as the store remembers them, and the last cause where it still has it."""

    kind: str
    count: int
    last: dt.datetime
    cause: str


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """A store at one instant. ``running`` says whether an agent has it open, None where the machine does not tell.

    ``status`` is what the agent last said of itself: whether its clock is believed, why archive reads have stopped.
    """

    gateway: str
    store: str
    path: str
    bytes: int
    at: dt.datetime
    running: bool | None
    session: int
    channels: dict[str, ChannelBacklog]
    errors: list[RunErrors]
    status: str

    @property
    def depth(self) -> int:
        """Rows of all channels without a receipt."""
        return sum(channel.waiting for channel in self.channels.values())


def read_kept(path: pathlib.Path, key: str) -> str:
    """Read one of the texts that the agent keeps in its store for who asks beside it; empty when there is none.

    Raises:
        BacklogError: when there is no store, or it cannot be read.
    """
    if not path.exists():
        raise BacklogError(f"there is no store at {path}: no agent has run with these settings yet")
    try:
        with _opened(path) as db:
            found = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return str(found[0]) if found else ""
    except sqlite3.Error as error:
        raise BacklogError(
            f"the store {path} cannot be read: {error}; look at its rights and at the agent's log"
        ) from error


def read_backlog(path: pathlib.Path, now: dt.datetime) -> Backlog:
    """Read a store file; ``now`` is what ages and rates count to.

    Raises:
        BacklogError: when there is none, or it cannot be read.
    """
    if not path.exists():
        raise BacklogError(f"there is no store at {path}: no agent has run with these settings yet")
    try:
        with _opened(path) as db:
            db.execute("BEGIN")
            meta = dict(
                db.execute("SELECT key, value FROM meta WHERE key IN ('store', 'gateway', 'session', 'status')")
            )
            return Backlog(
                gateway=str(meta.get("gateway") or ""),
                store=(meta.get("store") or b"").hex(),
                path=str(path),
                bytes=sum(part.stat().st_size for part in (path, path.with_name(path.name + "-wal")) if part.exists()),
                at=now,
                running=seal_is_held(path),
                session=int(meta.get("session") or 0),
                channels={str(channel): _channel(db, table, now.timestamp()) for channel, table in _TABLES.items()},
                errors=_errors(db),
                status=str(meta.get(STATUS) or ""),
            )
    except sqlite3.Error as error:
        raise BacklogError(
            f"the store {path} cannot be read: {error}; look at its rights and at the agent's log"
        ) from error


def _channel(db: sqlite3.Connection, table: str, now: float) -> ChannelBacklog:
    def one(what: str, where: str, *values: float) -> Sequence[float | None]:
        row: Sequence[float | None] = db.execute(
            f"SELECT {what} FROM {table} WHERE {where}",  # noqa: S608 - our own names
            values,
        ).fetchone()
        return row

    waiting, first = one("count(*), min(seq)", "receipted_at IS NULL")
    oldest = one("stored_at", "seq = ?", first)[0] if first is not None else None
    (aside,) = one("count(*)", "receipted_at IS NULL AND aside = 1")
    tail, tail_since, last_receipt = one("count(*), min(receipted_at), max(receipted_at)", "receipted_at IS NOT NULL")
    known = db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
    newest = known[0] if known else 0
    through = newest if first is None else first - 1
    rate = _rate(db, table, last_receipt, now)
    arriving = _arriving(db, table, newest, now)
    net = None if rate is None else rate - arriving
    return ChannelBacklog(
        waiting=int(waiting or 0),
        oldest=_instant(oldest),
        oldest_seconds=None if oldest is None else round(max(0.0, now - oldest), 1),
        aside=int(aside or 0),
        through=int(through),
        rows_per_second=None if rate is None else round(rate, 1),
        arriving_per_second=round(arriving, 1),
        drain_seconds=0.0 if not waiting else (round(waiting / net, 1) if net is not None and net > 0 else None),
        tail=int(tail or 0),
        tail_since=_instant(tail_since),
        last_receipt=_instant(last_receipt),
    )


def _rate(db: sqlite3.Connection, table: str, last_receipt: float | None, now: float) -> float | None:
    """Return the rows per second that were receipted while rows were sent; None if that is too long ago or too few."""
    if last_receipt is None or now - last_receipt > WINDOW:
        return None
    receipts = db.execute(
        f"SELECT receipted_at, count(*) FROM {table} "  # noqa: S608 - our own names
        "WHERE receipted_at >= ? GROUP BY receipted_at ORDER BY receipted_at",
        (last_receipt - WINDOW,),
    ).fetchall()
    busy = sum(min(IDLE, later - at) for (at, _), (later, _) in itertools.pairwise(receipts))
    # The first batch travelled before the time that is measured.
    rows = sum(count for _, count in receipts[1:])
    return rows / busy if busy else None


def _arriving(db: sqlite3.Connection, table: str, newest: int, now: float) -> float:
    """Return the rows per second that were stored lately: sequences have no gaps, so two rows tell."""
    # Rows are stored in the order of time; the search goes backwards from the newest and touches few rows.
    low, high = 0, newest
    while low < high:
        middle = (low + high + 1) // 2
        row = db.execute(
            f"SELECT stored_at FROM {table} WHERE seq >= ? ORDER BY seq LIMIT 1",  # noqa: S608 - our own names
            (middle,),
        ).fetchone()
        if row is not None and row[0] < now - WINDOW:
            low = middle
        else:
            high = middle - 1
    return (newest - low) / WINDOW


def _errors(db: sqlite3.Connection) -> list[RunErrors]:
    """Return the last error of each kind (the run's outcome), the latest first."""
    ended = db.execute(
        "SELECT outcome, count(*), max(ended_at) FROM runs WHERE ended_at IS NOT NULL AND outcome <> ? "
        "GROUP BY outcome ORDER BY 3 DESC",
        (DONE,),
    ).fetchall()
    wanted = {outcome for outcome, _, _ in ended}
    causes: dict[str, str] = {}
    rows = db.execute("SELECT body FROM reports ORDER BY seq DESC LIMIT ?", (REPORTS_LOOKED_AT,))
    for (body,) in rows:
        if causes.keys() >= wanted:
            break
        with contextlib.suppress(ContractError):
            report = decode_report(body)
            if isinstance(report, RunReport) and report.outcome in wanted:
                causes.setdefault(report.outcome, report.cause)
    rows.close()
    return [
        RunErrors(
            kind=outcome, count=count, last=dt.datetime.fromtimestamp(last, dt.UTC), cause=causes.get(outcome, "")
        )
        for outcome, count, last in ended
    ]


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[sqlite3.Connection]:
    where = path.resolve().as_uri()
    db = sqlite3.connect(f"{where}?mode=ro", uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
    try:
        try:
            db.execute("SELECT 1 FROM meta LIMIT 1").fetchone()
        except sqlite3.OperationalError:
            # In a folder that we may not write SQLite cannot share the file; without a log nobody has it open.
            log = path.with_name(path.name + "-wal")
            if log.exists() and log.stat().st_size:
                raise
            db.close()
            db = sqlite3.connect(f"{where}?immutable=1", uri=True, isolation_level=None)
        yield db
    finally:
        db.close()


def _instant(at: float | None) -> dt.datetime | None:
    return None if at is None else dt.datetime.fromtimestamp(at, dt.UTC)
