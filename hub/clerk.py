"""The clerk: keeps the ledger beside ingestion. A task of every relay; one of them at a time has the ledger's turn.

Ingestion, which makes the work, has at least half of everything to itself while the clerk follows. A clerk that has
been behind for ``HURRY_SECONDS`` rests no more until it has folded all there was: so what was stored is in the ledger
seconds later, however much comes.
"""

import asyncio
import time

from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.commits import commits_of, look_seconds
from hub.ledger import keep_some, ledger_turn
from hub.ledger_sums import sweep

PAUSE_SECONDS = 1.0
"""Real seconds between two looks at least: what comes meanwhile is folded together, a chunk at most once."""

HURRY_SECONDS = 5.0
"""A clerk that has found more than it could fold for so many real seconds does not rest between its turns."""

SWEPT_SECONDS = 1800.0
"""Real seconds between two looks at who is long behind."""


async def keep_ledger(engine: AsyncEngine, clock: Clock) -> None:
    """Keep the ledger for ever."""
    swept = through = time.monotonic()
    commits = commits_of(engine)
    while True:
        seen = commits.count
        begun = time.monotonic()
        more = await keep_some(engine, clock.now())
        took = time.monotonic() - begun
        if more:
            await asyncio.sleep(took if begun - through < HURRY_SECONDS else 0)
        else:
            await commits.after(seen, at_most=look_seconds(engine), pause=max(PAUSE_SECONDS, took))
            through = time.monotonic()
        if time.monotonic() - swept >= SWEPT_SECONDS:
            swept = time.monotonic()
            async with ledger_turn(engine, wait=False) as session:
                if session is not None:
                    await sweep(session, clock.now())
