"""Secrets at rest: sealed for the hub's key, so that a copy of the database opens none of them.

Rules:
- Whoever stores a secret needs only the public half, which relays note in the database (``note_public_half``): REST
  processes have no key. Only what holds the hub's key file opens one.
- The key pair is derived from the hub's signing key, so there is one file to keep, until a rotation makes seeds of its
  own (``hub.secrets_ring``). What was sealed for a key that is lost has to be given again.
- ``purpose`` is bound into the seal: a secret that is moved to another place in the database does not open there.

``protocol.seals`` says what a sealed secret is. A secret that is a JSON object may be sealed in parts: to give one of
its fields anew without opening the others, which REST cannot. It is ``_PARTS`` and then, in MessagePack, parts by name
in the order in which they count; ``parts_of`` and ``join_parts`` take it apart and put together what was in it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import HubState
from hub.once import upsert
from protocol import seals
from protocol.envelopes import SigningKey

PUBLIC_HALF = "secrets_public_key"
"""The row of ``hub_state`` that has the public half, in hexadecimal."""

_LABEL = b"metergate secrets key"
_PARTS = b"\xff"
"""What no sealed secret begins with that is in one piece: those begin with a small version."""

_WHOLE = ""
"""The name of a part that had all fields when it was sealed."""


class SealError(RuntimeError):
    """A secret cannot be sealed, or not be opened; the text says why and what to do, and nothing of the secret."""


def public_half(key: SigningKey) -> bytes:
    """Return the public half for secrets of this hub key."""
    return seals.SealingKey(key.seed, _LABEL).public


def seal(public: bytes, secret: bytes, purpose: str) -> bytes:
    """Seal a secret; the result is never the same twice."""
    return seals.seal(public, secret, purpose)


def unseal(key: SigningKey, sealed: bytes, purpose: str) -> bytes:
    """Open a sealed secret.

    Raises:
        SealError: when it was sealed for another key or purpose, or is damaged.
    """
    opener = seals.SealingKey(key.seed, _LABEL)
    try:
        return join_parts([opener.open(part, purpose) for part in parts_of(sealed)])
    except seals.NewerSealError:
        raise SealError("the secret was sealed by a newer version of the hub: run that one") from None
    except seals.UnsealableError:
        raise SealError("the secret was sealed for another hub key, or is damaged: give it again") from None


def parts_of(sealed: bytes) -> list[bytes]:
    """Return the sealed parts of a secret, each of which opens by itself; one that is whole is its only part.

    Raises:
        SealError: when it is damaged.
    """
    return list(_named_parts(sealed).values())


def join_parts(opened: Sequence[bytes]) -> bytes:
    """Put together what was in the parts of a secret: of a field that several have, the last counts."""
    if len(opened) == 1:
        return opened[0]
    fields: dict[str, Any] = {}
    for part in opened:
        fields |= msgspec.json.decode(part, type=dict[str, Any])
    return msgspec.json.encode(fields)


def seal_fields(
    public: bytes, sealed: bytes | None, stored: Collection[str], fields: Mapping[str, str], purpose: str
) -> bytes:
    """Seal fields beside those that are sealed already and have the names ``stored``; equal names are replaced.

    Raises:
        SealError: when what is sealed already is damaged.
    """
    if sealed is None or set(stored) <= fields.keys():
        return seal(public, msgspec.json.encode(fields), purpose)
    parts = _named_parts(sealed)
    parts |= {name: seal(public, msgspec.json.encode({name: value}), purpose) for name, value in fields.items()}
    if set(stored) <= parts.keys():
        parts.pop(_WHOLE, None)
    return _PARTS + msgspec.msgpack.encode(parts)


def _named_parts(sealed: bytes) -> dict[str, bytes]:
    if sealed[:1] != _PARTS:
        return {_WHOLE: sealed}
    try:
        return msgspec.msgpack.decode(sealed[1:], type=dict[str, bytes])
    except msgspec.DecodeError:
        raise SealError("the secret is damaged: give it again") from None


async def note_public_half(session: AsyncSession, key: SigningKey) -> None:
    """Write the public half into the database, in the caller's transaction."""
    statement = upsert(session, HubState).values(key=PUBLIC_HALF, value=public_half(key).hex())
    await session.execute(
        statement.on_conflict_do_update(index_elements=["key"], set_={"value": statement.excluded.value})
    )


async def read_public_half(session: AsyncSession) -> bytes:
    """Return the public half that the relays have noted.

    Raises:
        SealError: when no relay has run on this database yet.
    """
    # A share of the row, so that a rotation finds all that is sealed for the old key.
    row = await session.get(HubState, PUBLIC_HALF, with_for_update={"read": True})
    if row is None:
        raise SealError("no relay has run on this database yet, so there is no key for secrets: start one, try again")
    return bytes.fromhex(row.value)
