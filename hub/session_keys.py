"""The keys that users' sessions (``hub.sessions``) are signed with: outside of the database, rotatable.

Rules. Without a file of its own the key is derived from the hub's key, so that all REST processes that are given that
file agree. ``hub.key.sessions`` beside it has, after the first rotation, one key a line as 64 hex digits: the first
signs, all are believed. Whoever rotates copies the file to every host with REST. It is read again when it changes.
"""

import os
import pathlib

from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc.jwk import KeySet, OctKey

from hub.keys import SEED_BYTES, KeyFileError, read_seeds, write_seeds
from protocol.envelopes import SigningKey

_WHAT = "the file of keys for sessions"
_ADVICE = "remove it: users have to sign in again"
_KEPT = 2
"""Keys in the file after a rotation: the new one, and the one before, whose sessions go on."""


def session_file(hub_key_file: pathlib.Path) -> pathlib.Path:
    """Return where the keys for sessions are kept."""
    return hub_key_file.with_name(f"{hub_key_file.name}.sessions")


class SessionKeys:
    """All keys that sessions are believed by; ``signing`` is the one for new ones. No key appears in its repr."""

    def __init__(self, hub_key: SigningKey, file: pathlib.Path) -> None:
        self._derived = HKDF(algorithm=SHA256(), length=SEED_BYTES, salt=None, info=b"metergate sessions key").derive(
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
            raise KeyFileError(f"{_WHAT} {self.file} cannot be read: {error}") from None
        if seen != self._seen:
            self._raw = self._of_file() if seen[1] else [self._derived]
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
        new = os.urandom(SEED_BYTES)
        write_seeds(self.file, _WHAT, [new, *self._raw][: _KEPT if keep else 1])
        return key_id(new)

    def _of_file(self) -> list[bytes]:
        keys = read_seeds(self.file, _WHAT, _ADVICE)
        if not keys:
            raise KeyFileError(f"{_WHAT} {self.file} is empty; {_ADVICE}")
        return keys

    def __repr__(self) -> str:
        """Show where they are."""
        return f"SessionKeys({self.file})"


def key_id(key: bytes) -> str:
    """Return the name of a key, by which a session says what it is signed with."""
    digest = Hash(SHA256())
    digest.update(b"metergate sessions key id" + key)
    return digest.finalize()[:8].hex()
