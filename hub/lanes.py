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
import datetime as dt
from collections import deque
from collections.abc import Sequence

from hub.ingest import Delivery
from protocol.topics import Channel, parse_topic

GROUP_SECONDS = 0.2
"""How long storing a group should take: the delay of what comes just after its begin."""

LEAST_BYTES, MOST_BYTES = 128 * 1024, 2 * 1024 * 1024
"""Bounds of what a group may have, however slow or quick the database is."""

GROUP_DELIVERIES = 1000
"""The most deliveries of a group: of those with one reading each there are as many as a transaction should have."""

SMALL_BYTES = 6 * 1024
"""A batch of readings up to this size goes with the reports: some forty readings."""

SMALL, BULK = LANES = ("small", "bulk")
"""The lanes, as figures name them."""

_STEP = 1.25


class Lanes:
    """Deliveries that wait to be stored."""

    def __init__(self, limit: int) -> None:
        self.bytes = 0
        """How many bytes wait."""
        self.heard = 0
        """How many deliveries ever came, those that there was no room for too."""
        self.in_hand = 0
        """How many were taken, and neither carried to their end nor put back."""
        self.group_bytes = LEAST_BYTES
        """How many bytes the next group may have."""
        self._limit = limit
        self._small: deque[Delivery] = deque()
        self._bulk: deque[Delivery] = deque()
        self._filled = asyncio.Event()
        self._was_small = False

    def count(self, lane: str) -> int:
        """Return how many deliveries wait in one of ``LANES``."""
        return len(self._small if lane == SMALL else self._bulk)

    @property
    def oldest(self) -> dt.datetime | None:
        """When the delivery came that waits longest; None when none does."""
        return min((lane[0].received_at for lane in (self._small, self._bulk) if lane), default=None)

    def put(self, delivery: Delivery, channel: Channel) -> bool:
        """Take the delivery, or say that there is no room."""
        self.heard += 1
        size = len(delivery.payload)
        if self.bytes + size > self._limit:
            return False
        (self._small if _is_small(delivery, channel) else self._bulk).append(delivery)
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
        self.in_hand += len(group)
        if not self._small and not self._bulk:
            self._filled.clear()
        return group

    def put_back(self, group: Sequence[Delivery]) -> None:
        """Take a group back that could not be stored now; it is the first again, whatever has come meanwhile.

        It is taken whole: so much more than the limit may wait until it is stored.
        """
        if not group:
            return
        small = _is_small(group[0], parse_topic(group[0].topic).channel)
        (self._small if small else self._bulk).extendleft(reversed(group))
        self.bytes += sum(len(delivery.payload) for delivery in group)
        self.in_hand -= len(group)
        self._was_small = not small
        self._filled.set()

    def carried(self, group: Sequence[Delivery]) -> None:
        """Hear that a group that was taken needs nothing more."""
        self.in_hand -= len(group)

    def stored(self, seconds: float, size: int) -> None:
        """Hear how long it took to store a group of so many bytes; the next ones are larger or smaller for it."""
        if seconds > GROUP_SECONDS * _STEP:
            self.group_bytes = max(LEAST_BYTES, int(self.group_bytes / _STEP))
        elif seconds < GROUP_SECONDS / _STEP and size * _STEP >= self.group_bytes:
            self.group_bytes = min(MOST_BYTES, int(self.group_bytes * _STEP))


def _is_small(delivery: Delivery, channel: Channel) -> bool:
    return len(delivery.payload) <= SMALL_BYTES or channel is Channel.REPORT
