"""What could not be read, kept as it came: bounded, visible, replayable after a fix.

Whole payloads stand here (``channel`` is the channel of their topic) and single rows of batches that otherwise could
be read (``channel`` is ``readings-row`` or ``report-row``; the batch's name stands beside them). A repeated delivery is
quarantined once. When the quarantine is full nothing that belongs into it is receipted: the gateway keeps it. What is
no envelope at all may be anybody's: it is kept for people to see, without a name, and has half of the room at most.
"""

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Quarantined
from hub.once import insert_once
from protocol.readings import BatchName

ROW = "-row"
"""Ends the channel of a single row."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """A payload or row that could not be read; ``gateway`` is the topic's word, or the signer if it is ``signed``."""

    gateway: str
    channel: str
    topic: str
    payload: bytes
    reason: str
    name: BatchName | None = None
    signed: bool = True

    @property
    def identity(self) -> bytes:
        """What makes two deliveries the same."""
        return hashlib.sha256(f"{self.topic}\0{self.channel}\0".encode() + self.payload).digest()


async def quarantine(session: AsyncSession, unreadable: Sequence[Unreadable], now: dt.datetime) -> None:
    """Keep what could not be read, each once, in the caller's transaction."""
    rows = [
        {
            "gateway": item.gateway,
            "channel": item.channel,
            "topic": item.topic,
            "payload": item.payload,
            "reason": item.reason.replace("\0", "\N{REPLACEMENT CHARACTER}"),
            "store": item.name.store if item.name else None,
            "first": item.name.first if item.name else None,
            "last": item.name.last if item.name else None,
            "digest": item.name.digest if item.name else None,
            "identity": item.identity,
            "received_at": now,
            "replayed_at": None,
        }
        for item in unreadable
    ]
    await insert_once(session, Quarantined, rows, "identity")


async def admitted(
    session: AsyncSession, unreadable: Sequence[Unreadable], limit: int
) -> dict[bytes, BatchName | None]:
    """Return what may be kept, by identity: what is kept already, and new payloads while there are fewer than limit.

    The names are those under which they were kept first: user properties are not signed, so a payload that the gateway
    did sign must not come again under the name of another batch.
    """
    if not unreadable:
        return {}
    kept = await session.scalars(
        sa.select(Quarantined).where(Quarantined.identity.in_([item.identity for item in unreadable]))
    )
    names = {row.identity: name_of(row) for row in kept}
    count = await quarantined_count(session)
    for item in sorted(unreadable, key=lambda item: not item.signed):
        if item.identity not in names and count < (limit if item.signed else limit // 2):
            names[item.identity] = item.name
            count += 1
    return names


def name_of(row: Quarantined) -> BatchName | None:
    """Return the name of the batch that it is, or was a row of; None where it has none."""
    if row.store is None or row.first is None or row.last is None or row.digest is None:
        return None
    return BatchName(row.store, row.first, row.last, row.digest)


async def quarantined_count(session: AsyncSession) -> int:
    """Return how many unreadable payloads and rows are kept and were not replayed."""
    statement = sa.select(sa.func.count()).select_from(Quarantined).where(Quarantined.replayed_at.is_(None))
    return (await session.execute(statement)).scalar_one()
