"""Passwords: kept as scrypt hashes that carry their own cost, compared in constant time, a few at a time.

Rules. Where there is no such user, as much is computed as for one (``DECOY``), so that the time of an answer tells
nothing. Computing takes 16 MiB and a part of a second, so a process does ``AT_ONCE`` of them and lets ``WAITING`` more
wait; others are sent away.
"""

import asyncio
import base64
import hashlib
import hmac
import secrets
import unicodedata

from hub.problems import TooOften

SHORTEST, LONGEST = 10, 1024
"""Characters of a password."""

AT_ONCE, WAITING = 2, 20
_LOG2_N, _R, _P = 14, 8, 5
"""The cost of new hashes; those with another cost are still read, and replaced when their user signs in."""

_SALT_BYTES, _HASH_BYTES = 16, 32
_MOST_MEMORY = 64 * 1024 * 1024
_BUSY_SECONDS = 2.0


def hash_password(password: str) -> str:
    """Return what is stored of a password: ``scrypt:LOG2_N:R:P:SALT:HASH``, salt and hash in Base64."""
    salt = secrets.token_bytes(_SALT_BYTES)
    found = _scrypt(password, salt, _LOG2_N, _R, _P)
    return f"scrypt:{_LOG2_N}:{_R}:{_P}:{base64.b64encode(salt).decode()}:{base64.b64encode(found).decode()}"


def matches(password: str, stored: str) -> bool:
    """Whether it is the password of which ``stored`` was made."""
    _, log2_n, r, p, salt, known = stored.split(":")
    found = _scrypt(password, base64.b64decode(salt), int(log2_n), int(r), int(p))
    return hmac.compare_digest(found, base64.b64decode(known))


def is_outdated(stored: str) -> bool:
    """Whether the hash was made at another cost than new ones are."""
    return not stored.startswith(f"scrypt:{_LOG2_N}:{_R}:{_P}:")


def password_problem(password: str) -> str:
    """Say why this cannot be a password; nothing when it can."""
    if not SHORTEST <= len(password) <= LONGEST:
        return f"a password has {SHORTEST} to {LONGEST} characters"
    return "a password has no character NUL" if "\0" in password else ""


def _scrypt(password: str, salt: bytes, log2_n: int, r: int, p: int) -> bytes:
    # Keyboards type the same character in different ways; so that it is the same password on all of them.
    text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=2**log2_n, r=r, p=p, maxmem=_MOST_MEMORY, dklen=_HASH_BYTES)


DECOY = f"scrypt:{_LOG2_N}:{_R}:{_P}:{base64.b64encode(bytes(_SALT_BYTES)).decode()}:{base64.b64encode(b'-').decode()}"
"""What a password is compared with when there is no such user: it takes as long, and matches nothing."""


class Checker:
    """Compares passwords in threads, few at once. One per process."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def matches(self, password: str, stored: str) -> bool:
        """Compare without holding up the others of this process.

        Raises:
            TooOften: when too many wait already.
        """
        if self._waiting >= WAITING:
            raise TooOften("many are signing in at this moment; try again", _BUSY_SECONDS)
        self._waiting += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(matches, password, stored)
        finally:
            self._waiting -= 1
