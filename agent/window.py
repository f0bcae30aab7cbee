"""The window: how many bytes may travel without a receipt, and when a batch is sent again. Time is an argument.

It starts with one small batch and grows by what is receipted while receipts come quickly. When they take long, the hub
has more than it can store at once: the window shrinks before anything is lost, down to one small batch, so that a
thousand gateways which return together share what the database takes instead of filling queues. When a batch has to
be sent again it halves.

The resend time is the settings' and, where receipts take longer, follows the measured time from sending to receipt
(smoothed mean plus four deviations, from batches that were sent once). It doubles while no receipt comes and stays so
until one is measured again (a receipt for a batch that was sent twice does not say for which sending it was), and has
jitter, so that many agents do not send in step.

Beside the window there is room for one *fresh* batch: what was just read does not wait for the backlog before it.
"""

import dataclasses
import math
import random

from protocol.readings import BatchName

LEAST_BYTES = 4 * 1024
"""The smallest window, and what it starts with: some forty readings."""

MOST_BYTES = 1024 * 1024
"""The largest window: 16 of the largest batches in flight per channel."""

SHORTEST = 5.0
"""No resend time is shorter than this many seconds, however quick the receipts are: a hub under load grows slow
much sooner than it loses anything, and what a lost connection or a relay's restart costs is sent at once anyway."""

QUICK, SLOW = 1.0, 2.0
"""Receipts within so many seconds let the window grow, receipts after more make it smaller."""

_SHRINK = 0.85
_MEAN_WEIGHT = 1 / 8
_DEVIATION_WEIGHT = 1 / 4
_DEVIATIONS = 4
_JITTER = 0.25
_MOST_DOUBLINGS = 16


@dataclasses.dataclass(slots=True)
class Flight:
    """A batch without receipt: what was sent, when (monotonic seconds), how often, and when it is sent again."""

    name: BatchName
    body: bytes
    sent_at: float
    due_at: float
    fresh: bool
    first_sent_at: float
    sends: int = 1


class Window:
    """The flights of one channel over one connection."""

    def __init__(self, first_resend: float, longest: float) -> None:
        self.size = LEAST_BYTES
        self.flights: dict[BatchName, Flight] = {}
        self._bytes = 0
        self._fresh = 0
        self._first_resend = first_resend
        self._longest = longest
        self._mean: float | None = None
        self._deviation = 0.0
        self._doublings = 0
        self._halved_at = -math.inf

    @property
    def batch_bytes(self) -> int:
        """How large the next batch may be; half of the window, so that one travels while another is stored."""
        return max(LEAST_BYTES, self.size // 2)

    @property
    def fresh_bytes(self) -> int:
        """How large the next fresh batch may be."""
        return max(LEAST_BYTES, self.size // 4)

    def open(self, room: int) -> bool:
        """Whether another batch may leave, where none is larger than ``room`` bytes."""
        return self._bytes == 0 or self._bytes + min(room, self.batch_bytes) <= self.size

    def open_for_fresh(self) -> bool:
        """Whether a fresh batch may leave beside the others."""
        return self._fresh == 0

    @property
    def resend_seconds(self) -> float:
        """The present resend time, without jitter."""
        seconds, measured = self._first_resend, 0.0
        if self._mean is not None:
            measured = self._mean + _DEVIATIONS * self._deviation
            seconds = max(SHORTEST, seconds, measured)
        # The longest one bounds the doubling: before a receipt is to be expected nothing is won by asking again.
        return min(max(self._longest, measured), seconds * 2.0**self._doublings)

    def sent(self, name: BatchName, body: bytes, now: float, *, fresh: bool = False) -> None:
        """Note that a batch has left."""
        self.flights[name] = Flight(name, body, now, now + self._jittered(self.resend_seconds), fresh, now)
        self._count(self.flights[name], 1)

    def receipted(self, name: BatchName, now: float) -> bool:
        """Note a receipt; False if the batch is not in flight."""
        flight = self.flights.pop(name, None)
        if flight is None:
            return False
        self._count(flight, -1)
        if flight.sends > 1:
            return True
        took = now - flight.sent_at
        self._doublings = 0
        self._measure(took)
        if took > SLOW:
            self.size = max(LEAST_BYTES, int(self.size * _SHRINK))
        elif took < QUICK and not flight.fresh:
            self.size = min(MOST_BYTES, self.size + len(flight.body))
        return True

    def overdue(self, now: float) -> list[Flight]:
        """Return the flights to send again now, and count them as sent."""
        late = [flight for flight in self.flights.values() if flight.due_at <= now]
        if any(flight.first_sent_at >= self._halved_at for flight in late):
            # Once for all that travelled together.
            self._halved_at = now
            self.size = max(LEAST_BYTES, self.size // 2)
        if late:
            self._doublings = min(_MOST_DOUBLINGS, max(self._doublings, *(flight.sends for flight in late), 1))
        for flight in late:
            flight.sends += 1
            flight.sent_at = now
            flight.due_at = now + self._jittered(self.resend_seconds)
        return late

    def next_due(self) -> float | None:
        """Return when (monotonic) the next flight is sent again."""
        return min((flight.due_at for flight in self.flights.values()), default=None)

    def hurry(self, now: float, within: float) -> None:
        """End the back-off: whatever travels is due within this many seconds (jitter), for a relay that has started.

        What the one before it held is lost, also what was sent only once.
        """
        self._doublings = 0
        for flight in self.flights.values():
            flight.due_at = min(flight.due_at, now + random.uniform(0, within))  # noqa: S311 - jitter, no secret

    def clear(self) -> None:
        """Forget all flights, for a new connection or because rows wait again; the times measured stay."""
        self.flights.clear()
        self._bytes = self._fresh = 0
        self._doublings = 0
        self.size = LEAST_BYTES

    def _count(self, flight: Flight, sign: int) -> None:
        if flight.fresh:
            self._fresh += sign
        else:
            self._bytes += sign * len(flight.body)

    def _measure(self, seconds: float) -> None:
        if self._mean is None:
            self._mean, self._deviation = seconds, seconds / 2
            return
        self._deviation += _DEVIATION_WEIGHT * (abs(seconds - self._mean) - self._deviation)
        self._mean += _MEAN_WEIGHT * (seconds - self._mean)

    def _jittered(self, seconds: float) -> float:
        return seconds * random.uniform(1, 1 + _JITTER)  # noqa: S311 - jitter, no secret
