"""The clerk: keeps the ledger beside ingestion. A task of every relay; one of them at a time has the ledger's turn."""

import asyncio
import time

from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.ledger import keep_some, ledger_turn
from hub.ledger_sums import sweep

PAUSE_SECONDS = 0.5
"""Real seconds between two looks: what comes meanwhile is folded together, a chunk at most once."""

SWEPT_SECONDS = 1800.0
"""Real seconds between two looks at who is long behind."""


async def keep_ledger(engine: AsyncEngine, clock: Clock) -> None:
    """Keep the ledger for ever."""
    swept = time.monotonic()
    while True:
        if not await keep_some(engine, clock.now()):
            await asyncio.sleep(PAUSE_SECONDS)
        if time.monotonic() - swept >= SWEPT_SECONDS:
            swept = time.monotonic()
            async with ledger_turn(engine, wait=False) as session:
                if session is not None:
                    await sweep(session, clock.now())
