"""The keys that open what the database keeps sealed (``hub.secrets_box``): a file beside the hub's key, outside of it.

Rules:
- The file ``hub.key.secrets`` has one seed a line, the newest first. Without it, or when nothing in it fits, the hub's
  key itself opens what was sealed before the first rotation. The hub's key stays: gateways pin it.
- The database says which key is sealed for (``hub.secrets_box``): the first that was noted, until a rotation notes
  another. A relay with an older file never writes an older key back.
- A rotation (``metergate-hub keys rotate``) is steps that may end anywhere and be begun again: the new seed is in the
  file, synced, before anything is sealed for it; old seeds leave the file when nothing needs them any more.
- Whoever holds a ring reads the file again when a secret does not open: it may have been rotated meanwhile.
"""

import pathlib

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub.keys import read_seeds
from hub.models import HubState
from hub.secrets_box import PUBLIC_HALF, SealError, join_parts, note_public_half, parts_of, public_half, unseal
from protocol.envelopes import SigningKey, fingerprint

_log = structlog.get_logger(__name__)

WHAT = "the file of keys for secrets"
"""As errors call it."""


def ring_file(hub_key_file: pathlib.Path) -> pathlib.Path:
    """Return where the keys for secrets are kept."""
    return hub_key_file.with_name(f"{hub_key_file.name}.secrets")


class Ring:
    """All keys that open secrets, the newest first. No seed appears in its repr."""

    def __init__(self, hub_key: SigningKey, file: pathlib.Path) -> None:
        self.hub_key = hub_key
        self.file = file
        self.keys: tuple[SigningKey, ...] = ()
        self.read()

    def read(self) -> None:
        """Read the file again.

        Raises:
            KeyFileError: when it cannot be read or is damaged.
        """
        self.keys = (*keys_of(self.file), self.hub_key)

    @property
    def newest(self) -> SigningKey:
        """The key that a rotation seals for."""
        return self.keys[0]

    def unseal(self, sealed: bytes, purpose: str) -> bytes:
        """Open a secret with whichever key fits.

        Raises:
            SealError: when none does.
            KeyFileError: when none did, and the file cannot be read again.
        """
        try:
            return self._unseal(sealed, purpose)
        except SealError:
            self.read()
            return self._unseal(sealed, purpose)

    def _unseal(self, sealed: bytes, purpose: str) -> bytes:
        # Parts that were given at different times may be sealed for different keys.
        return join_parts([self._open(part, purpose) for part in parts_of(sealed)])

    def _open(self, sealed: bytes, purpose: str) -> bytes:
        for key in self.keys:
            try:
                return unseal(key, sealed, purpose)
            except SealError as error:
                last = error
        raise last

    def __repr__(self) -> str:
        """Show how many keys there are."""
        return f"Ring({len(self.keys)} keys, {self.file})"


def keys_of(file: pathlib.Path) -> list[SigningKey]:
    """Read the keys of the file; none when there is no file.

    Raises:
        KeyFileError: when it cannot be read or is damaged.
    """
    if not file.exists():
        return []
    return [SigningKey(seed) for seed in read_seeds(file, WHAT, "restore it")]


async def noted_half(session: AsyncSession) -> bytes | None:
    """Return the public half that secrets are sealed for now; None when none was noted yet."""
    row = await session.get(HubState, PUBLIC_HALF)
    return None if row is None else bytes.fromhex(row.value)


async def note_ring(session: AsyncSession, ring: Ring) -> None:
    """Note what to seal for, where that is not noted yet; say so when this process could not open it."""
    noted = await noted_half(session)
    if noted is None:
        await note_public_half(session, ring.newest)
    elif noted not in {public_half(key) for key in ring.keys}:
        _log.error("secrets_key_missing", file=str(ring.file), sealed_for=fingerprint(noted))
