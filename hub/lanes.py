"""What waits in a relay to be stored: bounded in bytes, in two lanes, and taken in groups of one transaction each.

Rules:
- Small deliveries and reports (the states and results of commands) go in a lane of their own: people wait for a command
  and for what was just read, nobody for one batch of a backlog more. A group is of one lane, and while both wait they
  take turns, so neither keeps the other from moving, whatever is sent; the small ones' transaction is a short one.
- What comes in while a group is stored waits for all of it. So a group has no more than was stored within
  ``GROUP_SECONDS`` last time: large enough that its commit is the smaller part, short enough that nobody notices.

Nothing depends on the order of deliveries. Time is an argument.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from hub.ingest import Delivery
from protocol.topics import Channel

GROUP_SECONDS = 0.2
"""How long storing a group should take: the delay of what comes just after its begin."""

LEAST_BYTES, MOST_BYTES = 128 * 1024, 2 * 1024 * 1024
"""Bounds of what a group may have, however slow or quick the database is."""

GROUP_DELIVERIES = 200
"""The most deliveries of a group."""

SMALL_BYTES = 6 * 1024
"""A batch of readings up to this size goes with the reports: some forty readings."""

_STEP = 1.25


class Lanes:
    """Deliveries that wait to be stored."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        """How many bytes wait."""
        self.group_bytes = LEAST_BYTES
        """How many bytes the next group may have."""
        self._limit = limit
        self._small: deque[Delivery] = deque()
        self._bulk: deque[Delivery] = deque()
        self._filled = asyncio.Event()
        self._was_small = False
        self._full = False

    def put(self, delivery: Delivery, channel: Channel) -> bool:
        """Take the delivery, or say that there is no room."""
        size = len(delivery.payload)
        if self.bytes + size > self._limit:
            return False
        (self._small if size <= SMALL_BYTES or channel is Channel.REPORT else self._bulk).append(delivery)
        self.bytes += size
        self._filled.set()
        return True

    async def take(self) -> list[Delivery]:
        """Wait for a delivery; return as many as one transaction should have."""
        await self._filled.wait()
        lane = self._bulk if self._bulk and (self._was_small or not self._small) else self._small
        self._was_small = lane is self._small
        group: list[Delivery] = []
        size = 0
        while lane and size < self.group_bytes and len(group) < GROUP_DELIVERIES:
            group.append(lane.popleft())
            size += len(group[-1].payload)
        self.bytes -= size
        self._full = size >= self.group_bytes
        if not self._small and not self._bulk:
            self._filled.clear()
        return group

    def put_back(self, group: Sequence[Delivery]) -> None:
        """Take a group back that could not be stored now; it is the first again, whatever has come meanwhile.

        It is taken whole: so much more than the limit may wait until it is stored.
        """
        (self._small if self._was_small else self._bulk).extendleft(reversed(group))
        self.bytes += sum(len(delivery.payload) for delivery in group)
        self._was_small = not self._was_small
        self._filled.set()

    def stored(self, seconds: float) -> None:
        """Hear how long it took to store the last group; the next ones are larger or smaller for it."""
        if seconds > GROUP_SECONDS * _STEP:
            self.group_bytes = max(LEAST_BYTES, int(self.group_bytes / _STEP))
        elif seconds < GROUP_SECONDS / _STEP and self._full:
            self.group_bytes = min(MOST_BYTES, int(self.group_bytes * _STEP))
