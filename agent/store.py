"""The agent's store: one SQLite file with everything that must survive SIGKILL and power cuts.

WAL with ``synchronous=FULL`` for all that is promised; every write transaction begins IMMEDIATE. The parts (``outbox``,
``journal``, ``memory``) write inside ``transaction()``, so that readings, events, a run's outcome, held marks and a
command's update are stored together or not at all.

The file has a *store id*: 16 random bytes, made when the file is. A file that does not fit its seal (``agent.seal``:
it was copied, or put back from a backup) gets a new id, and everything in it is sent again: the hub knows what it has
by content. So does the file of another gateway, of which only the rows without a receipt are used: for the hub to
judge, because nobody else can tell whether the other gateway still has them. A damaged file is moved aside, never
deleted, and what can still be read of it goes over into a new one (``agent.salvage``).
"""

import contextlib
import datetime as dt
import functools
import os
import pathlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import structlog

from agent import journal, looks, memory, outbox
from agent.budget import DEFAULT_BYTES, Budget
from agent.clocks import Clock
from agent.outbox import READINGS_TABLE, REPORTS_TABLE
from agent.pages import PAGE_BYTES
from agent.salvage import GONE, carry_over, read_wreck
from agent.seal import Seal
from agent.storage_faults import StoreFullError, is_damage, is_full
from protocol.readings import STORE_ID_BYTES
from protocol.topics import Channel

log = structlog.get_logger(__name__)

_VERSION = 1
_NORMAL = 1
"""SQLite's ``synchronous`` that syncs at checkpoints only."""

_MOST_VERSION = 1000
"""A version beyond this was never written by any release: the file's header is damaged."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;"
    + outbox.SCHEMA
    + journal.SCHEMA
    + looks.SCHEMA
    + memory.SCHEMA
)

NEW = "new"
KEPT = "kept"
RESTORED = "restored"
FOREIGN = "foreign"
BROKEN = "broken"


class StoreError(Exception):
    """The store file cannot be used; the text names the file and says what to do."""


class Store:
    """The open store of one agent process.

    Attributes:
        id: The store id.
        session: The number of this process start or connection; rises with each and never falls.
        origin: ``new``, ``kept``, ``restored`` (found not to fit its seal), ``foreign`` (another gateway's) or
            ``broken`` (damaged: moved aside, and salvaged into a new file).
        fault: Why nothing can be written now, for people; empty when the last write went well.
        budget: How much of the disk it may take.
    """

    def __init__(self, path: pathlib.Path, gateway: str, clock: Clock, budget: int = DEFAULT_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._clock = clock
        self._depth = 0
        self._committed = 0
        self._on_rows: Callable[[], None] | None = None
        self._seal = Seal(path)
        self._wreck = path.with_name(path.name + ".damaged")
        self.origin = KEPT
        self.fault = ""
        with contextlib.ExitStack() as unless_opened:
            unless_opened.callback(self._seal.close)
            self._db = unless_opened.enter_context(contextlib.closing(self._open(path)))
            try:
                self._set_up(gateway, clock, budget)
            except sqlite3.Error as error:
                if is_damage(error):
                    self._seal.doubt(self._seal.session())
                raise
            unless_opened.pop_all()

    def _set_up(self, gateway: str, clock: Clock, budget: int) -> None:
        self.readings = outbox.Outbox(self._db, Channel.READINGS, clock.now)
        self.reports = outbox.Outbox(self._db, Channel.REPORT, clock.now)
        self.budget = Budget(self._db, clock.now, budget, self.readings.sent, self.reports.sent)
        self.runs = journal.Runs(self._db, clock.now)
        self.commands = journal.Commands(self._db, clock.now)
        self.looks = looks.Looks(self._db)
        self.memory = memory.Memory(self._db, functools.partial(self.transaction, durable=False))
        self.id = self._identify(gateway)
        if self._wreck.exists():
            self._salvage(gateway)
        self.session = max(int(self.get("session") or 0), self._seal.session())
        self.next_session()
        self._seal.press(self.id, self._generation(), self.session, sync=True)

    def _open(self, path: pathlib.Path) -> sqlite3.Connection:
        if self._wreck.exists():
            # The last start ended between moving a damaged file aside and salvaging it.
            self.origin = BROKEN
            if not path.exists():
                _move(path, self._wreck)
        try:
            return self._examined(_connected(path))
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            # A damaged file also tells nonsense about tables and columns, in bytes that are no text.
            if is_full(error):
                raise StoreFullError(f"the store {path} cannot be opened: {error}; {_HINT}") from error
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise StoreError(
                    f"the store {path} cannot be opened: {error}; check the folder and its rights"
                ) from error
            log.warning("store_damaged", path=str(path), cause=str(error))
            if self._wreck.exists():
                _move(self._wreck, _free_name(path))
            _move(path, self._wreck)
            self.origin = BROKEN
            return _connected(path)

    def _examined(self, db: sqlite3.Connection) -> sqlite3.Connection:
        """Read the whole of a file that does not fit its seal: put back beside a newer -wal, it may be a mixture.

        Raises:
            sqlite3.DatabaseError: when it is damaged.
        """
        meta = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('store', 'generation')"))
        if "store" not in meta or self._seal.fits(meta["store"], int(meta.get("generation") or 0)):
            return db
        try:
            (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            verdict = "unreadable"
        if verdict != "ok":
            db.close()
            raise sqlite3.DatabaseError(verdict)
        return db

    def _identify(self, gateway: str) -> bytes:
        """Return the id of the file, a new one where the old one can no longer be trusted to name its rows."""
        known: bytes | None = self.get("store")
        if known is not None and self._seal.fits(known, self._generation()) and self.get("gateway") == gateway:
            return known
        fresh = secrets.token_bytes(STORE_ID_BYTES)
        with self.transaction(sealed=False):
            if known is None:
                self.origin = NEW if self.origin == KEPT else self.origin
                self.put("generation", 0)
            elif self.get("gateway") == gateway:
                self.origin = RESTORED
                self.readings.send_again()
                self.reports.send_again()
            else:
                self.origin = FOREIGN
                self._forget_gateway()
            self.put("store", fresh)
            self.put("gateway", gateway)
        return fresh

    def _salvage(self, gateway: str) -> None:
        """Carry over what a damaged file still holds; the file itself stays, for people."""
        wreck = read_wreck(self._wreck)
        with self.transaction(sealed=False):
            rows = carry_over(self._db, wreck, gateway, self._clock.now())
        log.warning("store_salvaged", rows=rows, faults=wreck.faults)
        _move(self._wreck, _free_name(self.path))

    def doubt(self) -> None:
        """Have the next start examine the whole file, because it was found to be damaged."""
        self._seal.doubt(self.session)

    def _forget_gateway(self) -> None:
        """Keep only the rows that wait: the plan, the runs and the commands are another gateway's to do."""
        for table in ("runs", "commands", "looks"):
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - our own table names
        self._db.execute(
            "DELETE FROM meta WHERE key NOT IN ('session', 'generation', 'state', 'confirmed', 'hub_time')"
        )

    def _generation(self) -> int:
        return int(self.get("generation") or 0)

    @contextlib.contextmanager
    def transaction(self, *, sealed: bool = True, durable: bool = True) -> Iterator[None]:
        """Write all of it or nothing; blocks inside each other are one transaction.

        What is not ``durable`` survives SIGKILL, but not a power cut until the next transaction that is: it costs the
        flash less, and is for what may be done or heard once more (receipts, that a read has begun, a line's rate).
        """
        if self._depth:
            yield
            return
        (level,) = self._db.execute("PRAGMA synchronous").fetchone()
        if not durable:
            self._db.execute(f"PRAGMA synchronous = {min(level, _NORMAL)}")
        try:
            with self._writing():
                yield
        finally:
            if not durable:
                self._db.execute(f"PRAGMA synchronous = {level}")
        # The seal must not be ahead of what a power cut leaves.
        if sealed and durable:
            # A seal that lags behind its store is as good: it only must never be ahead.
            with contextlib.suppress(OSError):
                self._seal.press(self.id, self._committed, self.session)
        if self.readings.grown or self.reports.grown:
            self.readings.grown = self.reports.grown = False
            if self._on_rows is not None:
                self._on_rows()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Do the outermost transaction.

        Raises:
            StoreFullError: when it could not be written; ``fault`` says why.
        """
        self._depth = 1
        self.reports.awaited = False
        try:
            with contextlib.ExitStack() as unless_committed:
                unless_committed.callback(self._undo)
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
                self._committed = self._generation()
                self._db.execute("COMMIT")
                unless_committed.pop_all()
        except (sqlite3.Error, OSError, StoreFullError) as error:
            if is_full(error):
                self._found_full(error)
                raise StoreFullError(self.fault) from error
            raise
        else:
            if self.fault:
                log.info("store_can_be_written_again", before=self.fault)
                self.fault = ""
        finally:
            self._depth = 0

    def _undo(self) -> None:
        # SQLite itself may have rolled back already (disk full, I/O error).
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        self.readings.grown = self.reports.grown = False

    def _found_full(self, error: Exception) -> None:
        fault = f"the store {self.path} cannot be written: {error}; {_HINT}"
        if fault != self.fault:
            log.error("store_cannot_be_written", cause=fault)
        self.fault = fault

    def relieve(self) -> bool:
        """Take one step towards the disk budget; whether another one would help.

        Raises:
            StoreFullError: when even that cannot be written.
        """
        if not self.budget.pressing():
            return False
        with self.transaction():
            more = self.budget.relieve()
            self.note_gone()
            self.reports.grown = True
        return more

    def try_writing(self) -> bool:
        """Look whether a store with a fault can be written again."""
        with contextlib.suppress(StoreFullError), self.transaction():
            pass
        return not self.fault

    def tell(self, on_rows: Callable[[], None]) -> None:
        """Have this called after every commit that added rows to an outbox."""
        self._on_rows = on_rows

    def get(self, key: str) -> Any:  # noqa: ANN401 - SQLite's own types, each key has its own
        """Return one of the store's single values; None if it was never put."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, value: float | str | bytes | None) -> None:
        """Keep a single value; call it inside a transaction."""
        self._db.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def get_instant(self, key: str) -> dt.datetime | None:
        """Return a single value that is a time, in UTC."""
        value = self.get(key)
        return None if value is None else dt.datetime.fromtimestamp(value, dt.UTC)

    def next_session(self) -> int:
        """Begin a session: of a new process, or of a new connection.

        The number is at least the clock's seconds, so that it rises also over a store that was lost or put back.
        """
        self.session = max(self.session + 1, int(self._clock.now().timestamp()))
        # A full disk must not keep the gateway from saying so: the seal and the clock keep the number rising.
        with contextlib.suppress(StoreFullError), self.transaction():
            self.put("session", self.session)
        return self.session

    def last_state(self) -> int:
        """Return the number of the last state-like message."""
        return int(self.get("state") or 0)

    def next_state(self) -> int:
        """Return the next number for state-like messages; call it inside the transaction that stores the message."""
        number = self.last_state() + 1
        self.put("state", number)
        return number

    def depth(self) -> int:
        """Return how many rows of both outboxes wait for a receipt."""
        return self.readings.depth() + self.reports.depth()

    def oldest_waiting(self) -> dt.datetime | None:
        """Return when the oldest row without a receipt was stored."""
        return min((at for box in (self.readings, self.reports) if (at := box.oldest()) is not None), default=None)

    def prune(self) -> int:
        """Delete what is past its time: receipted tails, ended runs and commands."""
        with self.transaction():
            rows = self.readings.prune() + self.reports.prune()
            self.note_gone()
            return rows + self.runs.prune() + self.commands.prune()

    def note_gone(self) -> None:
        """Keep up to where rows were deleted, for whoever salvages this file; call it inside a transaction."""
        # Never back: what lies before rows that were numbered anew has been delivered.
        self.put(READINGS_TABLE + GONE, max(self.readings.gone(), int(self.get(READINGS_TABLE + GONE) or 0)))
        self.put(REPORTS_TABLE + GONE, max(self.reports.gone(), int(self.get(REPORTS_TABLE + GONE) or 0)))

    def note_renumbered(self, channel: Channel, last: int) -> None:
        """Keep that no row up to this one waits any more, for whoever salvages this file; inside the transaction."""
        self.put((READINGS_TABLE if channel is Channel.READINGS else REPORTS_TABLE) + GONE, last)

    def close(self) -> None:
        """Close the file and let go of its seal."""
        self._db.close()
        self._seal.close()


_HINT = "free some space there; what was not stored is tried again, and no meter forgets its archives meanwhile"


def _free_name(path: pathlib.Path) -> pathlib.Path:
    """Return the first name for a damaged file that is not taken."""
    number = 1
    while (name := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    return name


def _move(path: pathlib.Path, to: pathlib.Path) -> None:
    """Rename a file and what SQLite keeps beside it; done again, it goes on where it was interrupted."""
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(to.with_name(to.name + suffix))
    _sync_folder(path.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_CACHE_KIB = 512
"""SQLite's own would keep 2 MiB of pages; the store is written far more than it is read."""


def _connected(path: pathlib.Path) -> sqlite3.Connection:
    with contextlib.ExitStack() as unless_usable:
        db = unless_usable.enter_context(contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10.0)))
        db.text_factory = _text
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute("PRAGMA synchronous = FULL")
        _check_version(db, path)
        db.executescript(_SCHEMA)
        if not db.execute("PRAGMA user_version").fetchone()[0]:
            db.execute(f"PRAGMA user_version = {_VERSION}")
        unless_usable.pop_all()
    path.chmod(0o600)
    # SQLite syncs the folder for its log, not for the file: a new one could be gone after a power cut.
    _sync_folder(path.parent)
    return db


def _text(stored: bytes) -> str:
    """Read text also where it was damaged: what it means is judged by whoever uses it."""
    return stored.decode(errors="replace")


def _check_version(db: sqlite3.Connection, path: pathlib.Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if not 0 <= version < _MOST_VERSION:
        raise sqlite3.DatabaseError(f"its version would be {version}")
    if version > _VERSION:
        raise StoreError(
            f"the store {path} was written by a newer version (form {version}); this one knows form {_VERSION}. "
            "Update metergate, or start with another `data` folder"
        )
