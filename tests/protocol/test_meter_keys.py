"""Keys of meters: sealed for one gateway and one meter, opened there and nowhere else, shown by nothing."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelopes import SigningKey
from protocol.meter_keys import SEALED_BYTES, MeterKeys, gateway_sealing_key, open_keys, purpose_of, seal_keys
from protocol.seals import NewerSealError, SealingKey, UnsealableError, seal

SIGNING = SigningKey(bytes(range(32)))
KEY = gateway_sealing_key(SIGNING)
METER = uuid.uuid4()
KEYS = MeterKeys(b"E" * 16, b"A" * 16)


@given(st.lists(st.sampled_from([b"", b"k" * 16, b"K" * 32]), min_size=4, max_size=4))
def test_what_is_sealed_for_a_gateway_opens_there(raw: list[bytes]) -> None:
    keys = MeterKeys(*raw)
    sealed = seal_keys(KEY.public, keys, "gw-1", METER)
    assert open_keys(gateway_sealing_key(SIGNING), sealed, "gw-1", METER) == keys
    assert len(sealed) <= SEALED_BYTES
    assert not any(key in sealed for key in keys.by_kind().values())


def test_it_opens_for_no_other_gateway_and_no_other_meter() -> None:
    sealed = seal_keys(KEY.public, KEYS, "gw-1", METER)
    others = [
        (gateway_sealing_key(SigningKey(bytes(32))), sealed, "gw-1", METER),
        (SealingKey(SIGNING.seed, b"another label"), sealed, "gw-1", METER),
        (KEY, sealed, "gw-2", METER),
        (KEY, sealed, "gw-1", uuid.uuid4()),
        (KEY, sealed[:-1], "gw-1", METER),
        (KEY, sealed[:20], "gw-1", METER),
        (KEY, seal(KEY.public, b"no keys", purpose_of("gw-1", METER)), "gw-1", METER),
    ]
    for key, bytes_, gateway, meter in others:
        with pytest.raises(UnsealableError):
            open_keys(key, bytes_, gateway, meter)
    for newer in (b"", b"\x02" + sealed[1:]):
        with pytest.raises(NewerSealError):
            open_keys(KEY, newer, "gw-1", METER)


@pytest.mark.parametrize("public", [b"", b"short", bytes(32)])
def test_what_is_no_public_half_seals_nothing(public: bytes) -> None:
    """32 zeros are a point of low order: whatever is sealed with it anybody opens."""
    with pytest.raises(UnsealableError):
        seal_keys(public, KEYS, "gw-1", METER)


def test_nothing_shows_a_key() -> None:
    assert repr(KEYS) == "MeterKeys(encryption, authentication)"
    assert KEYS.by_kind() == {"encryption": b"E" * 16, "authentication": b"A" * 16}
    assert repr(KEY) == "SealingKey()"
