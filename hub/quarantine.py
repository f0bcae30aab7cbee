"""What could not be read, kept as it came: bounded, visible, replayable after a fix.

Whole payloads stand here (``channel`` is the channel of their topic) and single rows of batches that otherwise could
be read (``channel`` is ``readings-row`` or ``report-row``; the batch's name stands beside them). A repeated delivery is
quarantined once. When the quarantine is full nothing that belongs into it is receipted: the gateway keeps it.
"""

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import cast

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Quarantined
from protocol.readings import BatchName

ROW = "-row"
"""Ends the channel of a single row."""

_quarantine = cast("Table", Quarantined.__table__)


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """A payload or row that could not be read; ``gateway`` is the topic's word."""

    gateway: str
    channel: str
    topic: str
    payload: bytes
    reason: str
    name: BatchName | None = None

    @property
    def identity(self) -> bytes:
        """What makes two deliveries the same."""
        return hashlib.sha256(f"{self.topic}\0{self.channel}\0".encode() + self.payload).digest()


async def quarantine(session: AsyncSession, unreadable: Sequence[Unreadable], now: dt.datetime) -> None:
    """Keep what could not be read, each once, in the caller's transaction."""
    if not unreadable:
        return
    rows = {
        item.identity: {
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
    }
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    connection = await session.connection()
    await connection.execute(
        insert(_quarantine).on_conflict_do_nothing(index_elements=["identity"]), [rows[key] for key in sorted(rows)]
    )


async def quarantined_count(session: AsyncSession) -> int:
    """Return how many unreadable payloads and rows are kept and were not replayed."""
    statement = sa.select(sa.func.count()).select_from(_quarantine).where(_quarantine.c.replayed_at.is_(None))
    return (await session.execute(statement)).scalar_one()
