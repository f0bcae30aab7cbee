"""The hub's signing key: made at the first start, kept in a file that only its owner reads, never logged.

All parts of one hub (REST, relays) and its restored copies must use the same key: gateways pin the first that they
see. ``run`` keeps it in its data directory; ``serve`` and ``relay`` are given the file.
"""

import os
import pathlib
import stat
import tempfile

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
    try:
        text = path.read_text("ascii").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the hub's key file {path} cannot be read: {error}; restore it from a backup") from None
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        # The content is a secret, so the message must not repeat it.
        raise KeyFileError(f"the hub's key file {path} does not hold 64 hex digits; restore it from a backup")
    if mode & 0o077:
        _log.warning("hub_key_readable_by_others", path=str(path), mode=oct(mode), advice=f"chmod 600 {path}")
    return SigningKey(seed)


def _make_key(path: pathlib.Path) -> None:
    key = SigningKey.generate()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes the file with mode 0600; the link fails if another process was first.
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(f"{key.seed.hex()}\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(draft, path)
            except FileExistsError:
                return
        finally:
            pathlib.Path(draft).unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyFileError(f"the hub's key file {path} cannot be made: {error}") from None
    _log.info("hub_key_made", path=str(path))
