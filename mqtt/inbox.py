"""Incoming messages that wait for whoever iterates over them, bounded in bytes: they may be of any size."""

import asyncio
from collections import deque

from mqtt.packets import Incoming


class Inbox:
    """Messages in the order in which they came.

    ``limit`` bounds the payloads in bytes (None: nothing does). What is refused was acknowledged: a limit is only for
    those to whom receipts count.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.held = 0
        """Bytes of the payloads that wait."""
        self._limit = limit
        self._waiting: deque[Incoming] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, message: Incoming) -> bool:
        """Take a message, or say that there is no room."""
        size = len(message.payload)
        if self._limit is not None and self.held + size > self._limit:
            return False
        self._waiting.append(message)
        self.held += size
        self._wake()
        return True

    def take(self) -> Incoming | None:
        """Return the message that came first; None when none waits."""
        if not self._waiting:
            return None
        message = self._waiting.popleft()
        self.held -= len(message.payload)
        return message

    async def wait(self, gone: "asyncio.Future[None]") -> None:
        """Wait for a message, or until ``gone`` is done; one at a time may."""
        if self._waiting or gone.done():
            return
        self._waiter = asyncio.get_running_loop().create_future()
        gone.add_done_callback(self._wake)
        try:
            await self._waiter
        finally:
            gone.remove_done_callback(self._wake)
            self._waiter = None

    def _wake(self, _gone: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
