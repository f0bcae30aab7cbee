r"""Signed envelopes: who says it, the bytes that were said, and the proof.

The body is signed as it is and never encoded again. The signature covers the topic as well, so that a message which
is moved to another topic (another gateway, another channel) no longer verifies:
``signature = Ed25519(b"metergate/1\0" + topic + b"\0" + body)``.

Keys are raw Ed25519 keys: 32 bytes public, 32 bytes private seed. The public key itself is the key id; people compare
its fingerprint. Without enrolment the first key seen is trusted and pinned: the pinning is the caller's affair.
A key of small order, under which anybody can sign anything, verifies nothing.
"""

import hashlib
from typing import Annotated

import msgspec
from nacl import signing
from nacl.exceptions import BadSignatureError

from protocol.wire import MAX_MESSAGE_BYTES, ContractError, decode, encode

DOMAIN = b"metergate/1\0"
ENVELOPE_BYTES = 112
"""More than an envelope adds to its body (key 34, signature 66, array and body headers)."""


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """Key id, body, signature: the payload of every message."""

    key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    body: bytes
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class ForgedError(ContractError):
    """The envelope's signature does not fit its key, topic and body."""


class SigningKey:
    """A private Ed25519 key that signs bodies for topics. Its seed appears in no repr and no message."""

    def __init__(self, seed: bytes) -> None:
        self._key = signing.SigningKey(seed)
        self.seed = seed
        self.public = bytes(self._key.verify_key)

    @classmethod
    def generate(cls) -> "SigningKey":
        """Make a new key from the system's random source."""
        return cls(bytes(signing.SigningKey.generate()))

    def seal(self, topic: str, body: bytes) -> bytes:
        """Sign the body for the topic and encode the envelope.

        Raises:
            ContractError: when the message would be larger than MAX_MESSAGE_BYTES.
        """
        if len(body) + ENVELOPE_BYTES > MAX_MESSAGE_BYTES:
            raise ContractError(f"a message of {len(body)} bytes is larger than {MAX_MESSAGE_BYTES}")
        signature = self._key.sign(signed_bytes(topic, body)).signature
        return encode(Signed(self.public, body, signature))

    def __repr__(self) -> str:
        """Show the public half only."""
        return f"SigningKey({fingerprint(self.public)})"


def signed_bytes(topic: str, body: bytes) -> bytes:
    """Return the bytes that the signature covers."""
    return DOMAIN + topic.encode() + b"\0" + body


def open_envelope(topic: str, payload: bytes) -> Signed:
    """Decode an envelope and verify it against the key that it names. Whether that key is trusted is not judged here.

    Raises:
        ForgedError: when the signature is wrong.
        ContractError: when the payload is no envelope, or too large.
    """
    signed = read_envelope(payload)
    verify_envelope(topic, signed)
    return signed


def read_envelope(payload: bytes) -> Signed:
    """Decode an envelope that is verified later, if at all.

    Raises:
        ContractError: when the payload is no envelope, or too large.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ContractError(f"a message of {len(payload)} bytes is larger than {MAX_MESSAGE_BYTES}")
    return decode(payload, Signed)


def verify_envelope(topic: str, signed: Signed) -> None:
    """Verify an envelope that came on this topic against the key that it names.

    Raises:
        ForgedError: when the signature is wrong.
    """
    try:
        signing.VerifyKey(signed.key).verify(signed_bytes(topic, signed.body), signed.signature)
    except BadSignatureError:
        raise ForgedError(f"the message on {topic} is not signed by {fingerprint(signed.key)}") from None


def fingerprint(public: bytes) -> str:
    """Return what people compare: the first 32 hex digits of SHA-256 over the public key, in groups of four."""
    digits = hashlib.sha256(public).hexdigest()[:32]
    return "-".join(digits[i : i + 4] for i in range(0, 32, 4))
