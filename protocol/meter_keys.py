"""Keys of what a meter pushes, as a plan carries them: sealed for the one gateway that receives it.

The gateway's sealing key is derived from its signing key; it says the public half in its life sign. The purpose has
gateway and meter in it: what is moved to another meter of the plan does not open.
"""

import uuid
from typing import Annotated

import msgspec

from protocol.envelopes import SigningKey
from protocol.seals import SealingKey, UnsealableError, seal
from protocol.wire import Checked, ContractError, decode, encode

LABEL = b"metergate gateway sealing key"
"""HKDF's ``info``."""

KEY_SIZES = (16, 32)
"""Bytes of an AES key."""

SEALED_BYTES = 192
"""More than the keys of one meter take in a plan, sealed."""

Key = Annotated[bytes, msgspec.Meta(max_length=32)]


class MeterKeys(Checked, frozen=True, array_like=True):
    """The AES keys of one meter, raw; empty: it has none. No value appears in its repr.

    ``encryption`` is the global unicast key, ``broadcast`` the global broadcast key, ``authentication`` the global
    authentication key, ``dedicated`` that of general-ded-ciphering. Source: IEC 62056-5-3 (Green Book) 9.2.7.
    """

    encryption: Key
    authentication: Key = b""
    broadcast: Key = b""
    dedicated: Key = b""

    def by_kind(self) -> dict[str, bytes]:
        """Return those that there are, by the names that receivers have for them."""
        return {name: key for name in self.__struct_fields__ if (key := getattr(self, name))}

    def __repr__(self) -> str:
        """Show which there are."""
        return f"MeterKeys({', '.join(self.by_kind())})"


def gateway_sealing_key(key: SigningKey) -> SealingKey:
    """Return the key that opens what is sealed for the gateway with this signing key."""
    return SealingKey(key.seed, LABEL)


def purpose_of(gateway: str, device: uuid.UUID) -> str:
    """Return what the keys of a meter are sealed for; ``gateway`` is its id in topics."""
    return f"keys of meter {device} for gateway {gateway}"


def seal_keys(public: bytes, keys: MeterKeys, gateway: str, device: uuid.UUID) -> bytes:
    """Seal the keys of a meter for the gateway with this public half.

    Raises:
        UnsealableError: when that is no public half.
    """
    return seal(public, encode(keys), purpose_of(gateway, device))


def open_keys(key: SealingKey, sealed: bytes, gateway: str, device: uuid.UUID) -> MeterKeys:
    """Open the keys of a meter.

    Raises:
        UnsealableError: when they are sealed for another gateway or meter, or are none; no text has anything of them.
    """
    opened = key.open(sealed, purpose_of(gateway, device))
    try:
        return decode(opened, MeterKeys)
    except ContractError:
        raise UnsealableError("what was sealed are no keys of a meter") from None
