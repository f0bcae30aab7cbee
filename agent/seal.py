"""The seal beside the store file: proof that the file is the one that this agent wrote last, and written by it alone.

``<store>.seal`` holds the store's id, the number of its last write (*generation*), the session number and the file's
inode, and is locked while an agent runs. A store file that was deleted, copied or put back from a backup no longer
fits its seal; the store then takes a new id (``agent.store``), because sequences that it will use again may already
name other rows.

The seal is written after the commit that it counts, and not synced: after a crash or a power cut the store may be
ahead of its seal, which is fine, but never behind it.
"""

import fcntl
import os
import pathlib

_FORM = "metergate-seal 1 {store} {generation:020d} {inode:020d} {session:020d}\n"
_FIELDS = 6
_LOCKS = pathlib.Path("/proc/locks")


def seal_is_held(store_path: pathlib.Path) -> bool | None:
    """Whether an agent has the store open, found out without a lock of our own; None where the system does not tell."""
    seal = store_path.with_name(store_path.name + ".seal")
    try:
        inode = seal.stat().st_ino
        locks = _LOCKS.read_text(encoding="ascii")
    except FileNotFoundError:
        return None if seal.exists() else False
    except OSError:
        return None
    # `1: FLOCK  ADVISORY  WRITE 2471 08:01:131123 0 EOF`; devices have other numbers in containers: not asked.
    return any(" FLOCK " in line and f":{inode} " in line for line in locks.splitlines())


class SealError(Exception):
    """Another agent has the store open."""


class Seal:
    """The open, locked seal of one store file."""

    def __init__(self, store_path: pathlib.Path) -> None:
        self.path = store_path.with_name(store_path.name + ".seal")
        self._store_path = store_path
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise SealError(
                f"the store {store_path} is in use by another process; one store belongs to one agent "
                "(give each its own `data` folder)"
            ) from error

    def fits(self, store: bytes, generation: int) -> bool:
        """Whether the store is the one that was sealed, at least as far as it was then."""
        fields = self._fields()
        if fields is None:
            return False
        sealed_generation, inode, _ = (int(field) for field in fields[1:])
        return fields[0] == store.hex() and generation >= sealed_generation and inode == self._inode()

    def session(self) -> int:
        """Return the session number that was sealed last; it outlives the store file."""
        fields = self._fields()
        return int(fields[3]) if fields else 0

    def press(self, store: bytes, generation: int, session: int, *, sync: bool = False) -> None:
        """Write what the store is now; of fixed length, so that one write replaces the one before."""
        text = _FORM.format(store=store.hex(), generation=generation, inode=self._inode(), session=session)
        os.pwrite(self._file, text.encode("ascii"), 0)
        if sync:
            os.fsync(self._file)

    def doubt(self, session: int) -> None:
        """Make no store fit any more, because this one was found to be damaged; the session number stays."""
        text = _FORM.format(store="0" * 32, generation=0, inode=0, session=session)
        os.pwrite(self._file, text.encode("ascii"), 0)
        os.fsync(self._file)

    def _fields(self) -> list[str] | None:
        fields = os.pread(self._file, 200, 0).decode("ascii", "replace").split()
        if len(fields) != _FIELDS or not all(field.isdigit() for field in fields[3:]):
            return None
        return fields[2:]

    def _inode(self) -> int:
        return self._store_path.stat().st_ino

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._file)
