"""Backup and restore of a hub on SQLite: ``metergate-hub backup`` and ``metergate-hub restore``.

Rules:
- A backup is taken by SQLite's own online backup, in one step, inside one read transaction: it is the database as it
  stood at one instant, and the running hub is not held up. It is one file, without -wal and -shm.
- Nothing appears under its name before every page of it was read back and found sound, and it lies on the disk.
- A file that is put back is judged in the same way, beside the one that it replaces. What it replaces is renamed, never
  deleted. At each instant there is a whole database under the name, the old one or the new one.
- What the restored database lacks is not this module's to find out: gateways say so in their life signs
  (``hub.lifesigns``), and send it again.

PostgreSQL has better tools of its own; docs/operations.md says which.
"""

import contextlib
import datetime as dt
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hub.database import SERVES, Schema, schemas
from hub.sole_use import sole_use

BUSY_SECONDS = 10.0
_BESIDE = ("-wal", "-shm")
_HEADER = b"SQLite format 3\x00"
_MOST_FAULTS = 5


class BackupError(Exception):
    """The backup or restore cannot be done; the text names the file and says what to do. Nothing was changed."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a sound database file holds."""

    file: str
    bytes: int
    schema: str
    gateways: int
    readings: int
    newest: str | None
    """When the latest reading was collected."""
    replaced: str | None = None
    """Where the file lies that was replaced; None when there was none."""


def backup(database: Path, target: Path, now: dt.datetime, *, replace: bool = False) -> Verdict:
    """Copy the database, in use or not, to ``target``; into a directory under a name with the time.

    Raises:
        BackupError: when there is no database, ``target`` exists (unless ``replace``), or the copy is not sound.
    """
    _refuse_missing(database, "there is no database")
    if target.is_dir():
        target /= f"hub-{now:%Y%m%dT%H%M%SZ}.db"
    if target.exists():
        if target.samefile(database):
            raise BackupError(f"{target} is the hub's database itself; name another file")
        if not replace:
            raise BackupError(f"{target} exists; name another file, or say --replace")
    verdict = _copied(database, target, fully=True)
    return msgspec.structs.replace(verdict, file=str(target))


def restore(source: Path, data: Path, now: dt.datetime, *, verify: bool = False) -> Verdict:
    """Put a backup back as the database of a data directory; with ``verify`` read every row and reference of it.

    Raises:
        StartError: when a hub runs on the directory.
        BackupError: when ``source`` is no sound database of a hub, or another program has the old one open.
    """
    _refuse_missing(source, "there is no backup")
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = data / "hub.db"
    if database.exists() and source.samefile(database):
        raise BackupError(f"{source} is the hub's database itself; name a backup of it")
    with sole_use(data):
        arrived = database.with_name("hub.db.arrived")
        verdict = _copied(source, arrived, fully=verify)
        try:
            replaced = _put_aside(database, now)
            # Until here the old one stands under the name, from here the new one.
            arrived.replace(database)
            _sync(data)
        finally:
            arrived.unlink(missing_ok=True)
    return msgspec.structs.replace(verdict, file=str(database), replaced=str(replaced) if replaced else None)


def _copied(source: Path, target: Path, *, fully: bool) -> Verdict:
    """Copy, judge and name a database; nothing remains of a copy that is not sound."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        try:
            os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise BackupError(f"{unfinished} cannot be written: {error.strerror}") from error
        try:
            with _opened(source, read_only=True) as origin, _opened(unfinished) as copy:
                origin.backup(copy)
                # One file, whole by itself; the hub turns write-ahead logging on again when it opens it.
                copy.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.Error as error:
            raise BackupError(f"{source} cannot be copied to {unfinished}: {error}") from error
        verdict = _judged(unfinished, source, fully=fully)
        _sync(unfinished)
        unfinished.replace(target)
        _sync(target.parent)
    finally:
        for path in (unfinished, *(unfinished.with_name(unfinished.name + end) for end in ("-journal", *_BESIDE))):
            path.unlink(missing_ok=True)
    return verdict


def _judged(path: Path, source: Path, *, fully: bool) -> Verdict:
    """Read a copy through.

    Raises:
        BackupError: when it is damaged, no hub's, or of a newer version; it is called by its source's name.
    """
    check = "integrity_check" if fully else "quick_check"
    try:
        with _opened(path, read_only=True) as db:
            faults = [str(row[0]) for row in db.execute(f"PRAGMA {check}({_MOST_FAULTS})")]
            if faults != ["ok"]:
                raise BackupError(f"{source} is damaged: {'; '.join(faults)}; take another backup")
            if fully and (orphans := db.execute("PRAGMA foreign_key_check").fetchmany(_MOST_FAULTS)):
                tables = ", ".join(sorted({f"{row[0]} -> {row[2]}" for row in orphans}))
                raise BackupError(f"{source} is damaged: rows refer to rows that are not there ({tables})")
            (schema,) = db.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
            (serves,) = db.execute("SELECT value FROM hub_state WHERE key = ?", (SERVES,)).fetchone() or ("",)
            (gateways,) = db.execute("SELECT count(*) FROM gateways").fetchone()
            readings, newest = db.execute("SELECT count(*), max(collected) FROM readings").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{source} is not the database of a hub: {error}") from error
    # One that a newer version has migrated is as good, where it serves this version.
    if schema not in schemas() and Schema(schema, serves, schemas()[-1]).problem:
        raise BackupError(f"{source} has schema {schema or 'none'}, which this version does not know: update metergate")
    return Verdict(
        file=str(path),
        bytes=path.stat().st_size,
        schema=schema,
        gateways=gateways,
        readings=readings,
        # Instants are microseconds since 1970 (hub.columns).
        newest=None if newest is None else dt.datetime.fromtimestamp(newest // 1_000_000, dt.UTC).isoformat(),
    )


def _put_aside(database: Path, now: dt.datetime) -> Path | None:
    """Give the present database a second name, whole in one file if it can still be read; return that name."""
    if not database.exists():
        for end in _BESIDE:
            _rename_if_there(
                database.with_name(database.name + end), f"{database.name}.replaced-{now:%Y%m%dT%H%M%SZ}{end}"
            )
        return None
    number, aside = 1, database.with_name(f"{database.name}.replaced-{now:%Y%m%dT%H%M%SZ}")
    while aside.exists():
        number += 1
        aside = database.with_name(f"{database.name}.replaced-{now:%Y%m%dT%H%M%SZ}-{number}")
    # SQLite may throw away the log of a file that it cannot read; of such a file all is kept.
    log, kept_log = (path.with_name(path.name + "-wal") for path in (database, aside))
    with contextlib.suppress(FileNotFoundError):
        os.link(log, kept_log)
    try:
        with _opened(database) as db:
            # Fails when any other process has the file open, whatever lock it forgot; after it there is no log.
            db.execute("PRAGMA journal_mode = DELETE")
        kept_log.unlink(missing_ok=True)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            kept_log.unlink(missing_ok=True)
            raise BackupError(f"{database} is in use by another program: end it, then restore again") from error
        for end in _BESIDE:
            database.with_name(database.name + end).unlink(missing_ok=True)
    os.link(database, aside)
    _sync(database.parent)
    return aside


def _rename_if_there(path: Path, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(name))


@contextlib.contextmanager
def _opened(path: Path, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a database file that exists, in autocommit mode."""
    mode = "ro" if read_only else "rw"
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        yield db
    finally:
        db.close()


def _refuse_missing(path: Path, what: str) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(len(_HEADER))
    except OSError as error:
        raise BackupError(f"{what} at {path}: {error.strerror}") from error
    if header != _HEADER:
        raise BackupError(f"{path} is not an SQLite database")


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
