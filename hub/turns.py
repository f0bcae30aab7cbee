"""Who may have a transaction open in a relay: so many that store at once, or one other alone.

A transaction that waits for this process between two statements keeps its rows from whoever edits them. Those that
store share the database, a few at a time; life signs and plans, which change rows that people edit, are alone.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Turns:
    """Turns are given in the order in which they were asked for. None may be asked for within another."""

    def __init__(self, together: int) -> None:
        self.together = together
        """How many may store at once."""
        self._door = asyncio.Lock()
        self._places = asyncio.Semaphore(together)

    @contextlib.asynccontextmanager
    async def storing(self) -> AsyncIterator[None]:
        """Have a turn beside others that store."""
        async with self._door:
            await self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Have a turn when everybody else's has ended."""
        taken = 0
        async with self._door:
            try:
                for _ in range(self.together):
                    await self._places.acquire()
                    taken += 1
                yield
            finally:
                for _ in range(taken):
                    self._places.release()
