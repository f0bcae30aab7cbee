"""Private keys in files: the agent's own, and a caller's for direct invocation.

A key file holds the 32 bytes of an Ed25519 seed as 64 hex digits and one line end, readable by its owner only. A file
of exactly 32 bytes is read as the seed itself, as other programs write it.
"""

import os
import pathlib

from protocol.envelopes import SigningKey

_SEED_BYTES = 32


class KeyFileError(Exception):
    """A key file that cannot be used; the text names it and says what to do."""


def load_or_make_key(path: pathlib.Path) -> SigningKey:
    """Read the key, or make one at first start.

    Raises:
        KeyFileError: when the file is there but unreadable or no key.
    """
    return load_key(path) if path.exists() else make_key(path)


def make_key(path: pathlib.Path) -> SigningKey:
    """Make a new key in a new file of mode 0600; complete or not there at all.

    Raises:
        KeyFileError: when the file exists already or cannot be written.
    """
    key = SigningKey.generate()
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(key.seed.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, unlike a rename, never replaces a key that is already there.
            os.link(draft, path)
        finally:
            draft.unlink()
    except FileExistsError:
        raise KeyFileError(f"the key file {path} exists already; it is not overwritten") from None
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be written: {error.strerror}") from error
    return key


def load_key(path: pathlib.Path) -> SigningKey:
    """Read a key file.

    Raises:
        KeyFileError: when it is unreadable or no key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from error
    if len(content) == _SEED_BYTES:
        return SigningKey(content)
    try:
        seed = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        seed = b""
    if len(seed) != _SEED_BYTES:
        # The content is never shown: it may be a key with one digit too many.
        raise KeyFileError(f"{path} is not a key file: expected {2 * _SEED_BYTES} hex digits, or {_SEED_BYTES} bytes")
    return SigningKey(seed)
