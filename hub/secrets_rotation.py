"""Rotation of the key for secrets: everything that is sealed in the database is sealed anew (``keys rotate``).

Each step leaves a state in which all secrets can be opened by the keys in the file, so a rotation may be killed at any
point and begun again; hubs and relays go on meanwhile. Secrets that no key opens are counted and left as they are.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import audit
from hub.database import writing
from hub.keys import write_seeds
from hub.models import Deadline, MeterSecurityKeys
from hub.secrets_box import SealError, note_public_half, public_half, seal, unseal
from hub.secrets_ring import WHAT, Ring, noted_half
from hub.security_keys import purpose_of
from hub.webhooks import secret_purpose
from protocol.envelopes import SigningKey, fingerprint

ROWS = 100
"""Secrets that are sealed anew in one transaction."""


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A column of sealed secrets; ``purpose(row)`` is what they are sealed for."""

    model: type[Any]
    column: str
    purpose: Callable[[Any], str]


PLACES = (
    Place(MeterSecurityKeys, "sealed", lambda row: purpose_of(row.meter)),
    Place(Deadline, "webhook_secret", lambda row: secret_purpose(row.id)),
)
"""Every column of the database with secrets."""


class Rotated(msgspec.Struct, kw_only=True):
    """What a rotation did. ``key`` is the fingerprint of the key that everything is sealed for now."""

    key: str
    file: str
    sealed_anew: int
    unreadable: int

    def text(self) -> str:
        """Say it to a person."""
        lines = [f"{self.sealed_anew} secrets are sealed anew, for the key {self.key} in {self.file}"]
        if self.unreadable:
            lines.append(
                f"{self.unreadable} secrets were sealed for a key that is not in {self.file}: put its line back and "
                "rotate again, or give these secrets again"
            )
        return "\n".join(lines)


async def rotate(engine: AsyncEngine, ring: Ring, author: audit.Author, now: dt.datetime) -> Rotated:
    """Seal everything for a new key; one that an earlier, unfinished rotation has made is used.

    The audit log has the author's note of the new key; what is sealed anew is the same secrets.
    """
    async with writing(engine) as session:
        noted = await noted_half(session)
    begun = ring.newest is not ring.hub_key and noted is not None and noted != public_half(ring.newest)
    if not begun:
        write_seeds(ring.file, WHAT, [key.seed for key in (SigningKey.generate(), *_of_file(ring))])
        ring.read()
    key = fingerprint(public_half(ring.newest))
    async with audit.changing(engine, author, now) as session:
        # Who seals for the old key has a share of this row until its commit: then there is nothing behind our back.
        await note_public_half(session, ring.newest)
        audit.note(session, "rotate", "key of secrets", None, None, after={"key": key})
    done = Rotated(key=key, file=str(ring.file), sealed_anew=0, unreadable=0)
    for place in PLACES:
        await _seal_anew(engine, ring, place, done)
    if not done.unreadable:
        write_seeds(ring.file, WHAT, [ring.newest.seed])
        ring.read()
    return done


def _of_file(ring: Ring) -> list[SigningKey]:
    return [key for key in ring.keys if key is not ring.hub_key]


async def _seal_anew(engine: AsyncEngine, ring: Ring, place: Place, done: Rotated) -> None:
    column = getattr(place.model, place.column)
    last = uuid.UUID(int=0)
    while True:
        async with writing(engine) as session:
            rows = (
                await session.scalars(
                    sa.select(place.model)
                    .where(column.is_not(None), place.model.id > last)
                    .order_by(place.model.id)
                    .limit(ROWS)
                    .with_for_update()
                )
            ).all()
            for row in rows:
                sealed, purpose = getattr(row, place.column), place.purpose(row)
                if _opens(ring.newest, sealed, purpose):
                    continue
                try:
                    secret = ring.unseal(sealed, purpose)
                except SealError:
                    done.unreadable += 1
                    continue
                setattr(row, place.column, seal(public_half(ring.newest), secret, purpose))
                done.sealed_anew += 1
        if len(rows) < ROWS:
            return
        last = rows[-1].id


def _opens(key: SigningKey, sealed: bytes, purpose: str) -> bool:
    try:
        unseal(key, sealed, purpose)
    except SealError:
        return False
    return True
