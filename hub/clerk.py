"""The clerk: keeps the ledger beside ingestion. A task of every relay; one of them at a time has the ledger's turn."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.ledger import keep_some

PAUSE_SECONDS = 0.5
"""Real seconds between two looks: what comes meanwhile is folded together, a chunk at most once."""


async def keep_ledger(engine: AsyncEngine, clock: Clock) -> None:
    """Keep the ledger for ever."""
    while True:
        if not await keep_some(engine, clock.now()):
            await asyncio.sleep(PAUSE_SECONDS)
