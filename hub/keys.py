"""The hub's signing key, and how files of keys are kept: read by their owner only, whole or not there, never logged.

The signing key is made at the first start. All parts of one hub (REST, relays) and its restored copies must use the
same: gateways pin the first that they see. ``run`` keeps it in its data directory; ``serve`` and ``relay`` are given
the file.
"""

import os
import pathlib
import stat
import tempfile
from collections.abc import Sequence

import structlog

from protocol.envelopes import SigningKey, fingerprint

SEED_BYTES = 32

_log = structlog.get_logger(__name__)


class KeyFileError(RuntimeError):
    """The hub's key file cannot be used; the text names the file, what is wrong, and what to do."""


def open_key(path: pathlib.Path) -> SigningKey:
    """Read the key from the file, or make one there when the file does not exist yet (mode 0600, synced).

    Two processes that start at once agree on one key: the file appears whole or not at all, and the first wins.

    Raises:
        KeyFileError: when the file cannot be read, written, or holds no key.
    """
    if not path.exists():
        _make_key(path)
    key = read_key(path)
    # What an operator copies into the settings of a gateway that is to trust this hub and no other.
    _log.info("hub_key_opened", path=str(path), fingerprint=fingerprint(key.public))
    return key


def read_key(path: pathlib.Path) -> SigningKey:
    """Read the key from a file with the seed as 64 hex digits.

    Raises:
        KeyFileError: when it is missing, unreadable, or holds no key.
    """
    seeds = read_seeds(path, "the hub's key file", "restore it from a backup")
    if len(seeds) != 1:
        raise KeyFileError(f"the hub's key file {path} does not hold 64 hex digits; restore it from a backup")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        _log.warning("hub_key_readable_by_others", path=str(path), mode=oct(mode), advice=f"chmod 600 {path}")
    return SigningKey(seeds[0])


def _make_key(path: pathlib.Path) -> None:
    if write_seeds(path, "the hub's key file", [SigningKey.generate().seed], first=True):
        _log.info("hub_key_made", path=str(path))


def read_seeds(path: pathlib.Path, what: str, advice: str) -> list[bytes]:
    """Read a file with a secret of 32 bytes in each line, as 64 hex digits.

    ``what`` the file is and ``advice`` for a damaged one stand in the error.

    Raises:
        KeyFileError: when it is missing, unreadable or damaged.
    """
    try:
        lines = path.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{what} {path} cannot be read: {error}; {advice}") from None
    try:
        seeds = [bytes.fromhex(line) for line in lines]
    except ValueError:
        seeds = [b""]
    if not all(len(seed) == SEED_BYTES for seed in seeds):
        # The content is secret, so the message must not repeat it.
        raise KeyFileError(f"{what} {path} does not hold 64 hex digits in each line; {advice}")
    return seeds


def write_seeds(path: pathlib.Path, what: str, seeds: Sequence[bytes], *, first: bool = False) -> bool:
    """Write such a file anew, on the disk when this returns; with ``first`` only if none is there. Whether it was.

    Raises:
        KeyFileError: when it cannot be written; what was there before stays.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes the file with mode 0600.
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write("".join(f"{seed.hex()}\n" for seed in seeds))
                file.flush()
                os.fsync(file.fileno())
            if first:
                os.link(draft, path)
            else:
                pathlib.Path(draft).replace(path)
        except FileExistsError:
            return False
        finally:
            pathlib.Path(draft).unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyFileError(f"{what} {path} cannot be written: {error}") from None
    return True
