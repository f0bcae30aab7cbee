"""Incoming messages that wait, bounded in bytes: aiomqtt's own bound counts messages, which may be of any size."""

import asyncio

import aiomqtt


def bounded(limit: int) -> type["asyncio.Queue[aiomqtt.Message]"]:
    """Return a queue that refuses what would make the payloads in it larger than the limit (bytes).

    aiomqtt has acknowledged what is refused: this is for those to whom only receipts count.
    """

    class BoundedQueue(asyncio.Queue[aiomqtt.Message]):
        """Refuses what would make the payloads in it larger than the limit."""

        held = 0

        def put_nowait(self, item: aiomqtt.Message) -> None:
            if self.held + _size(item) > limit:
                raise asyncio.QueueFull
            super().put_nowait(item)

        def _put(self, item: aiomqtt.Message) -> None:
            self.held += _size(item)
            super()._put(item)

        def _get(self) -> aiomqtt.Message:
            item = super()._get()
            self.held -= _size(item)
            return item

    return BoundedQueue


def _size(message: aiomqtt.Message) -> int:
    return len(message.payload) if isinstance(message.payload, bytes) else 0
