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

import os
import pathlib
import tempfile
from collections.abc import Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub.keys import SEED_BYTES, KeyFileError
from hub.models import HubState
from hub.secrets_box import PUBLIC_HALF, SealError, note_public_half, public_half, unseal
from protocol.envelopes import SigningKey, fingerprint

_log = structlog.get_logger(__name__)


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
        self.keys = (*read_seeds(self.file), self.hub_key)

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
        for key in self.keys:
            try:
                return unseal(key, sealed, purpose)
            except SealError as error:
                last = error
        raise last

    def __repr__(self) -> str:
        """Show how many keys there are."""
        return f"Ring({len(self.keys)} keys, {self.file})"


def read_seeds(file: pathlib.Path) -> list[SigningKey]:
    """Read the keys of the file; none when there is no file.

    Raises:
        KeyFileError: when it cannot be read or is damaged.
    """
    try:
        lines = file.read_text("ascii").split()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"the file of keys for secrets {file} cannot be read: {error}") from None
    try:
        seeds = [bytes.fromhex(line) for line in lines]
    except ValueError:
        seeds = [b""]
    if not all(len(seed) == SEED_BYTES for seed in seeds):
        # The content is secret, so the message must not repeat it.
        raise KeyFileError(f"the file of keys for secrets {file} has a line without 64 hex digits; restore it")
    return [SigningKey(seed) for seed in seeds]


def write_seeds(file: pathlib.Path, keys: Sequence[SigningKey]) -> None:
    """Write the file anew: whole or not at all, on the disk when this returns, readable by its owner only.

    Raises:
        KeyFileError: when it cannot be written.
    """
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes the file with mode 0600.
        handle, draft = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as writer:
                writer.write("".join(f"{key.seed.hex()}\n" for key in keys))
                writer.flush()
                os.fsync(writer.fileno())
            pathlib.Path(draft).replace(file)
        finally:
            pathlib.Path(draft).unlink(missing_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyFileError(f"the file of keys for secrets {file} cannot be written: {error}") from None


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
