"""Envelopes: forged, moved, cut and oversized messages are refused, and keys stay out of sight."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.envelopes import (
    ENVELOPE_BYTES,
    ForgedError,
    Signed,
    SigningKey,
    fingerprint,
    open_envelope,
    signed_bytes,
)
from protocol.topics import Channel, topic_for
from protocol.wire import MAX_MESSAGE_BYTES, ContractError, encode

KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(32))
TOPIC = topic_for("gw-1", Channel.READINGS)


@given(st.binary(max_size=500))
def test_a_sealed_body_opens_with_the_key_that_sealed_it(body: bytes) -> None:
    signed = open_envelope(TOPIC, KEY.seal(TOPIC, body))
    assert (signed.key, signed.body) == (KEY.public, body)


@pytest.mark.parametrize(
    "topic",
    [
        topic_for("gw-2", Channel.READINGS),
        topic_for("gw-1", Channel.REPORT),
        topic_for("gw-1", Channel.INVOKE, "readings"),
        "",
    ],
)
def test_a_message_moved_to_another_topic_is_forged(topic: str) -> None:
    with pytest.raises(ForgedError, match=fingerprint(KEY.public)):
        open_envelope(topic, KEY.seal(TOPIC, b"body"))


def test_what_is_signed_cannot_be_split_in_another_place() -> None:
    """Topic and body are parted by NUL, which no topic contains: one signature is good for one pair only."""
    assert signed_bytes("a", b"/bc") != signed_bytes("a/b", b"c")
    payload = KEY.seal("a", b"/b" + b"body")
    with pytest.raises(ForgedError):
        open_envelope("a/b", encode(Signed(KEY.public, b"body", open_envelope("a", payload).signature)))


def test_a_body_or_key_put_in_place_of_another_is_forged() -> None:
    signed = open_envelope(TOPIC, KEY.seal(TOPIC, b"body"))
    for forged in (
        Signed(KEY.public, b"Body", signed.signature),
        Signed(OTHER.public, b"body", signed.signature),
        Signed(KEY.public, b"body", bytes(64)),
        Signed(bytes(32), b"body", signed.signature),
        Signed(b"\xff" * 32, b"body", signed.signature),
    ):
        with pytest.raises(ForgedError):
            open_envelope(TOPIC, encode(forged))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=500))
def test_what_another_library_signs_is_verified_and_it_verifies_what_we_sign(seed: bytes, body: bytes) -> None:
    """Agents and callers in other languages have other libraries: OpenSSL stands for them."""
    ours, theirs = SigningKey(seed), Ed25519PrivateKey.from_private_bytes(seed)
    assert ours.public == theirs.public_key().public_bytes_raw()
    theirs_signed = Signed(ours.public, body, theirs.sign(signed_bytes(TOPIC, body)))
    assert open_envelope(TOPIC, encode(theirs_signed)) == theirs_signed
    ours_signed = open_envelope(TOPIC, ours.seal(TOPIC, body))
    theirs.public_key().verify(ours_signed.signature, signed_bytes(TOPIC, body))
    assert ours_signed == theirs_signed


SMALL_ORDER = [b"\x01" + bytes(31), bytes(32), b"\xec" + b"\xff" * 30 + b"\x7f"]
"""Points of order 1, 4 and 2, encoded as RFC 8032, 5.1.2 has it."""
ANYBODYS = b"\x01" + bytes(31) + bytes(32)
"""The neutral point and nothing: with the first of these keys it fits every message."""


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_a_key_under_which_anybody_can_sign_verifies_nothing(key: bytes) -> None:
    with pytest.raises(ForgedError):
        open_envelope(TOPIC, encode(Signed(key, b"any body", ANYBODYS)))


def test_such_a_key_is_a_danger_and_not_a_fancy() -> None:
    """Another library takes the signature, so the test above refuses one that fits."""
    Ed25519PublicKey.from_public_bytes(SMALL_ORDER[0]).verify(ANYBODYS, signed_bytes(TOPIC, b"any body"))
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(KEY.public).verify(ANYBODYS, signed_bytes(TOPIC, b"any body"))


@settings(max_examples=200)
@given(st.data())
def test_no_single_changed_byte_goes_unseen(data: st.DataObject) -> None:
    """Unless the changed bytes say the same: an envelope may be longer than it needs to be, its body never differs."""
    payload = bytearray(KEY.seal(TOPIC, b"a body that matters"))
    position = data.draw(st.integers(0, len(payload) - 1))
    payload[position] ^= data.draw(st.integers(1, 255))
    try:
        signed = open_envelope(TOPIC, bytes(payload))
    except ContractError:
        return
    assert (signed.key, signed.body) == (KEY.public, b"a body that matters")


@given(st.integers(0, 400))
def test_a_truncated_envelope_is_refused(length: int) -> None:
    payload = KEY.seal(TOPIC, b"x" * 300)
    with pytest.raises(ContractError):
        open_envelope(TOPIC, payload[: min(length, len(payload) - 1)])


def test_the_largest_body_is_sent_and_one_more_byte_is_not() -> None:
    body = bytes(MAX_MESSAGE_BYTES - ENVELOPE_BYTES)
    payload = KEY.seal(TOPIC, body)
    assert len(payload) <= MAX_MESSAGE_BYTES
    assert open_envelope(TOPIC, payload).body == body
    with pytest.raises(ContractError, match="larger than"):
        KEY.seal(TOPIC, body + b"x")
    with pytest.raises(ContractError, match="larger than"):
        open_envelope(TOPIC, bytes(MAX_MESSAGE_BYTES + 1))


def test_a_key_is_named_by_its_fingerprint_and_never_shows_its_seed() -> None:
    key = SigningKey.generate()
    assert fingerprint(key.public) in repr(key)
    assert key.seed.hex() not in repr(key)
    assert fingerprint(KEY.public) == "5647-5aa7-5463-474c-0285-df5d-bf2b-cab7"
    assert SigningKey(key.seed).public == key.public
