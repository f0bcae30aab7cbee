"""What a failed write or read says about the disk: full (it passes), damaged (the file is salvaged), or neither."""

import errno
import sqlite3

FULL, DAMAGED = "full", "damaged"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StoreFullError(Exception):
    """Nothing can be written now: the disk is full or fails, or the budget is spent. What was begun is undone."""


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of space, or because the medium would not take it."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return isinstance(error, StoreFullError) or _code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def is_damage(error: BaseException) -> bool:
    """Whether SQLite has found the file to be damaged."""
    return _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def storage_fault(error: BaseException) -> str:
    """Return ``full`` or ``damaged`` when that is all that went wrong; groups are looked through."""
    if isinstance(error, BaseExceptionGroup):
        faults = {storage_fault(inner) for inner in error.exceptions}
        if "" in faults:
            return ""
        return DAMAGED if DAMAGED in faults else FULL
    if is_damage(error):
        return DAMAGED
    return FULL if is_full(error) else ""


def _code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF if isinstance(error, sqlite3.Error) else sqlite3.SQLITE_OK
