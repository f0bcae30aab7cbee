"""The keys that users' sessions (``hub.sessions``) are signed with: outside of the database, rotatable.

Rules. Without a file of its own the key is derived from the hub's key, so that all REST processes that are given that
file agree. ``hub.key.sessions`` beside it has, after the first rotation, one key a line as 64 hex digits: the first
signs, all are believed. Whoever rotates copies the file to every host with REST. It is read again when it changes.
"""

import os
import pathlib
import tempfile
from collections.abc import Sequence

from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc.jwk import KeySet, OctKey

from hub.keys import KeyFileError
from protocol.envelopes import SigningKey

KEY_BYTES = 32
_KEPT = 2
"""Keys in the file after a rotation: the new one, and the one before, whose sessions go on."""


def session_file(hub_key_file: pathlib.Path) -> pathlib.Path:
    """Return where the keys for sessions are kept."""
    return hub_key_file.with_name(f"{hub_key_file.name}.sessions")


class SessionKeys:
    """All keys that sessions are believed by; ``signing`` is the one for new ones. No key appears in its repr."""

    def __init__(self, hub_key: SigningKey, file: pathlib.Path) -> None:
        self._derived = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"metergate sessions key").derive(
            hub_key.seed
        )
        self.file = file
        self._seen: tuple[int, int, int] | None = None
        self._set = KeySet([])
        self._raw: list[bytes] = []

    def believed(self) -> KeySet:
        """Return all keys, the newest first, as the file has them now.

        Raises:
            KeyFileError: when it cannot be read or is damaged.
        """
        try:
            status = self.file.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        except FileNotFoundError:
            seen = (0, 0, 0)
        except OSError as error:
            raise KeyFileError(f"the file of keys for sessions {self.file} cannot be read: {error}") from None
        if seen != self._seen:
            self._raw = (read_keys(self.file) if seen[1] else []) or [self._derived]
            self._set = KeySet([OctKey.import_key(raw, {"kid": key_id(raw), "use": "sig"}) for raw in self._raw])
            self._seen = seen
        return self._set

    @property
    def signing(self) -> OctKey:
        """The key that new sessions are signed with."""
        newest = self.believed().keys[0]
        if not isinstance(newest, OctKey):
            raise TypeError("keys for sessions are octets")
        return newest

    def rotate(self, *, keep: bool) -> str:
        """Put a new key before the others, and forget all but the last one; return the new one's id.

        With ``keep`` False the former ones are forgotten too: all sessions end.

        Raises:
            KeyFileError: when the file cannot be read or written.
        """
        self.believed()
        new = os.urandom(KEY_BYTES)
        write_keys(self.file, [new, *self._raw][: _KEPT if keep else 1])
        return key_id(new)

    def __repr__(self) -> str:
        """Show where they are."""
        return f"SessionKeys({self.file})"


def key_id(key: bytes) -> str:
    """Return the name of a key, by which a session says what it is signed with."""
    digest = Hash(SHA256())
    digest.update(b"metergate sessions key id" + key)
    return digest.finalize()[:8].hex()


def read_keys(file: pathlib.Path) -> list[bytes]:
    """Read the keys of the file, the newest first.

    Raises:
        KeyFileError: when it cannot be read or is damaged.
    """
    try:
        lines = file.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the file of keys for sessions {file} cannot be read: {error}") from None
    try:
        keys = [bytes.fromhex(line) for line in lines]
    except ValueError:
        keys = [b""]
    if not keys or not all(len(key) == KEY_BYTES for key in keys):
        # The content is secret, so the message must not repeat it.
        raise KeyFileError(
            f"the file of keys for sessions {file} has a line without 64 hex digits, or none; remove the file: "
            "users have to sign in again"
        )
    return keys


def write_keys(file: pathlib.Path, keys: Sequence[bytes]) -> None:
    """Write the file anew: whole or not at all, readable by its owner only.

    Raises:
        KeyFileError: when it cannot be written.
    """
    try:
        # mkstemp makes the file with mode 0600.
        handle, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as writer:
                writer.write("".join(f"{key.hex()}\n" for key in keys))
                writer.flush()
                os.fsync(writer.fileno())
            pathlib.Path(draft).replace(file)
        finally:
            pathlib.Path(draft).unlink(missing_ok=True)
    except OSError as error:
        raise KeyFileError(f"the file of keys for sessions {file} cannot be written: {error}") from None
