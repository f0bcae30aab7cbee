"""Turns: of many lines that have read their last rows at once, one after the other makes an answer of them.

Rules: what is said on a line comes before what is made of it. Rows become readings, and are stored, in one piece of
some 20 ms in which no other line is served; between two such pieces there is time for what all lines wait to say.
"""

import asyncio

BREATH = 0.005
"""Seconds between two answers: a break is waited for, written and seen to its end in several steps of the loop."""


class Turns:
    """The order in which lines of one process make their answers: first come, first served."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def mine(self) -> None:
        """Wait for a turn; it lasts until the caller waits for something again."""
        async with self._lock:
            await asyncio.sleep(BREATH)
