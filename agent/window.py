"""The window: how many batches may travel without a receipt, and when one is sent again. Time is an argument.

It starts at one batch, grows by one per receipt and halves when a batch has to be sent again. The resend time follows
the measured time from sending to receipt (smoothed mean plus four deviations, from batches that were sent once),
doubles while no receipt comes, and has jitter, so that many agents do not send in step.
"""

import dataclasses
import random

from protocol.readings import BatchName

MOST_BATCHES = 16
"""The largest window: with 64 KiB batches one MiB in flight per channel."""

SHORTEST = 1.0
"""No resend time is shorter than this many seconds, however quick the receipts are."""

_MEAN_WEIGHT = 1 / 8
_DEVIATION_WEIGHT = 1 / 4
_DEVIATIONS = 4
_JITTER = 0.25


@dataclasses.dataclass(slots=True)
class Flight:
    """A batch without receipt: what was sent, when (monotonic seconds), how often, and when it is sent again."""

    name: BatchName
    body: bytes
    sent_at: float
    due_at: float
    sends: int = 1


class Window:
    """The flights of one channel over one connection."""

    def __init__(self, first_resend: float, longest: float) -> None:
        self.size = 1
        self.flights: dict[BatchName, Flight] = {}
        self._first_resend = first_resend
        self._longest = longest
        self._mean: float | None = None
        self._deviation = 0.0

    @property
    def open(self) -> bool:
        """Whether another batch may leave."""
        return len(self.flights) < self.size

    @property
    def resend_seconds(self) -> float:
        """The present resend time, without jitter."""
        if self._mean is None:
            return self._first_resend
        return min(self._longest, max(SHORTEST, self._mean + _DEVIATIONS * self._deviation))

    def sent(self, name: BatchName, body: bytes, now: float) -> None:
        """Note that a batch has left."""
        self.flights[name] = Flight(name, body, now, now + self._jittered(self.resend_seconds))

    def receipted(self, name: BatchName, now: float) -> bool:
        """Note a receipt; False if the batch is not in flight."""
        flight = self.flights.pop(name, None)
        if flight is None:
            return False
        if flight.sends == 1:
            self._measure(now - flight.sent_at)
        self.size = min(MOST_BATCHES, self.size + 1)
        return True

    def overdue(self, now: float) -> list[Flight]:
        """Return the flights to send again now, and count them as sent."""
        late = [flight for flight in self.flights.values() if flight.due_at <= now]
        if late:
            self.size = max(1, self.size // 2)
        for flight in late:
            flight.sends += 1
            flight.sent_at = now
            doubled = self.resend_seconds * 2 ** min(flight.sends - 1, 16)
            flight.due_at = now + self._jittered(min(self._longest, doubled))
        return late

    def next_due(self) -> float | None:
        """Return when (monotonic) the next flight is sent again."""
        return min((flight.due_at for flight in self.flights.values()), default=None)

    def hurry(self, now: float, within: float) -> None:
        """End the back-off: whatever was sent again already is due within this many seconds (jitter)."""
        for flight in self.flights.values():
            if flight.sends > 1:
                flight.sends = 1
                flight.due_at = min(flight.due_at, now + random.uniform(0, within))  # noqa: S311 - jitter, no secret

    def clear(self) -> None:
        """Forget all flights, for a new connection or because rows wait again; the times measured stay."""
        self.flights.clear()
        self.size = 1

    def _measure(self, seconds: float) -> None:
        if self._mean is None:
            self._mean, self._deviation = seconds, seconds / 2
            return
        self._deviation += _DEVIATION_WEIGHT * (abs(seconds - self._mean) - self._deviation)
        self._mean += _MEAN_WEIGHT * (seconds - self._mean)

    def _jittered(self, seconds: float) -> float:
        return seconds * random.uniform(1, 1 + _JITTER)  # noqa: S311 - jitter, no secret
