"""Secrets for one reader: sealed with the public half of its key, opened by nobody else.

HPKE (RFC 9180) in base mode with X25519, HKDF-SHA256 and ChaCha20-Poly1305; a sealed secret is its version (1 byte),
then what HPKE makes of it. ``purpose`` is HPKE's ``info``: a secret that is moved elsewhere does not open there.
Who sealed it is not shown by the seal: that is the signature's affair of the message that brings it.

A reader's key pair is derived from the seed of its signing key by HKDF-SHA256 with a label, so that there is one file
to keep and no key does two things.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_VERSION = b"\x01"
_KEY_BYTES = 32
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)


class UnsealableError(ValueError):
    """What cannot be sealed or opened; the text says why, and nothing of the secret."""


class NewerSealError(UnsealableError):
    """It was sealed in a way that this version does not know."""


class SealingKey:
    """The key that opens what was sealed with its public half. Nothing of it appears in its repr."""

    def __init__(self, seed: bytes, label: bytes) -> None:
        derived = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=label).derive(seed)
        self._key = X25519PrivateKey.from_private_bytes(derived)

    @property
    def public(self) -> bytes:
        """The public half: 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Open a sealed secret.

        Raises:
            NewerSealError: when a newer version has sealed it.
            UnsealableError: when it was sealed for another key or purpose, or is damaged.
        """
        if sealed[:1] != _VERSION:
            raise NewerSealError("it was sealed by a newer version")
        try:
            return _SUITE.decrypt(sealed[1:], self._key, purpose.encode())
        except (InvalidTag, ValueError):
            raise UnsealableError("it was sealed for another key or purpose, or is damaged") from None

    def __repr__(self) -> str:
        """Show nothing."""
        return "SealingKey()"


def seal(public: bytes, secret: bytes, purpose: str) -> bytes:
    """Seal a secret for who has the other half; the result is never the same twice.

    Raises:
        UnsealableError: when that is no public half.
    """
    try:
        return _VERSION + _SUITE.encrypt(secret, X25519PublicKey.from_public_bytes(public), purpose.encode())
    except ValueError:
        raise UnsealableError("that is no public X25519 key") from None
