"""Secrets at rest open with the hub's key, for their purpose, undamaged, and else not at all."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.database import reading, writing
from hub.secrets_box import SealError, note_public_half, public_half, read_public_half, seal, unseal
from protocol.envelopes import SigningKey
from tests.parts.databases import database_url, engine

__all__ = ["database_url", "engine"]

KEY = SigningKey(bytes(range(32)))
SECRET = b"a password"


def test_what_is_sealed_opens_with_its_key_for_its_purpose() -> None:
    sealed = seal(public_half(KEY), SECRET, "meter 1")
    assert SECRET not in sealed
    assert seal(public_half(KEY), SECRET, "meter 1") != sealed
    assert unseal(KEY, sealed, "meter 1") == SECRET


def test_it_opens_in_no_other_way() -> None:
    sealed = seal(public_half(KEY), SECRET, "meter 1")
    damaged = [sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :] for place in range(len(sealed))]
    cut = [sealed[:length] for length in range(len(sealed))]
    for other in (*damaged, *cut):
        with pytest.raises(SealError):
            unseal(KEY, other, "meter 1")
    with pytest.raises(SealError, match="another hub key"):
        unseal(KEY, sealed, "meter 2")
    with pytest.raises(SealError, match="another hub key") as caught:
        unseal(SigningKey.generate(), sealed, "meter 1")
    assert SECRET.decode() not in str(caught.value)


def test_the_form_stays_readable() -> None:
    """Sealed in November 2026: a later version has to open it."""
    sealed = bytes.fromhex(
        "01ed2d9c971b84e92029fe6ec9b2828ddedef21bfae2080b40d1c93b36a61e40342afa7a8a2797ddf9f2e4f63d0194434559c739f993c392db2688"
    )
    assert unseal(KEY, sealed, "meter 1") == SECRET


async def test_relays_note_what_to_seal_for(engine: AsyncEngine) -> None:
    async with reading(engine) as session:
        with pytest.raises(SealError, match="no relay has run"):
            await read_public_half(session)
    async with writing(engine) as session:
        await note_public_half(session, SigningKey.generate())
        await note_public_half(session, KEY)
    async with reading(engine) as session:
        assert await read_public_half(session) == public_half(KEY)
