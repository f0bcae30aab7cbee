"""What a relay tells Prometheus of the deliveries that it carries, and the log of those that it drops."""

import datetime as dt
import functools
from collections import Counter
from collections.abc import Sequence

import prometheus_client
import structlog

from hub.clocks import Clock
from hub.ingest import Delivery, Opened
from hub.lanes import LANES, Lanes

SAY_EVERY = 5.0
"""Seconds between two lines in the log about full lanes."""

_log = structlog.get_logger(__name__)
_outcomes = prometheus_client.Counter(
    "metergate_relay_outcomes", "What became of deliveries and their rows, by word", ["outcome"]
)
_dropped = prometheus_client.Counter("metergate_relay_dropped", "Messages dropped because the relay's queue was full")
_stored = prometheus_client.Histogram(
    "metergate_relay_store_seconds",
    "One transaction of deliveries, from its begin to its commit",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_took = prometheus_client.Histogram(
    "metergate_relay_delivery_seconds",
    "From when the relay heard a delivery to the commit that stored it",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
_queued = prometheus_client.Gauge("metergate_relay_queued_bytes", "Bytes that wait in the relay to be stored")
_waiting = prometheus_client.Gauge(
    "metergate_relay_waiting_deliveries", "Deliveries that wait in the relay to be stored, by lane", ["lane"]
)
_longest = prometheus_client.Gauge("metergate_relay_waiting_seconds", "For how long the oldest of them has waited")


class StoringFigures:
    """The figures of one relay.

    Args:
        clock: The hub's clock; what is told are real seconds.
        lanes: What waits is looked at when somebody asks for the figures.
    """

    def __init__(self, clock: Clock, lanes: Lanes) -> None:
        self._clock = clock
        _queued.set_function(lambda: lanes.bytes)
        for lane in LANES:
            _waiting.labels(lane).set_function(functools.partial(lanes.count, lane))
        _longest.set_function(lambda: self._seconds(lanes.oldest, clock.now()) if lanes.oldest else 0.0)
        self._said_full = -SAY_EVERY
        self._unsaid = 0

    def count(self, counts: Counter[str]) -> None:
        """Count what became of deliveries and their rows."""
        for word, count in counts.items():
            _outcomes.labels(word).inc(count)

    def stored(self, group: Sequence[Opened], seconds: float) -> None:
        """Tell of a group that is committed, after a transaction of so many seconds."""
        _stored.observe(seconds)
        committed = self._clock.now()
        for one in group:
            _took.observe(self._seconds(one.delivery.received_at, committed))

    def dropped(self, count: int) -> None:
        """Count messages that were dropped."""
        _dropped.inc(count)

    def no_room(self, delivery: Delivery, limit: int) -> None:
        """Count one that is dropped because the lanes are full; say so now and then: there may be thousands."""
        self.dropped(1)
        self._unsaid += 1
        now = self._clock.monotonic()
        if now - self._said_full >= SAY_EVERY:
            _log.warning("relay_queue_full", topic=delivery.topic, limit=limit, dropped=self._unsaid)
            self._said_full, self._unsaid = now, 0

    def _seconds(self, instant: dt.datetime, later: dt.datetime) -> float:
        """Return how many real seconds lie between them; none when the clock was put back."""
        return max(0.0, (later - instant).total_seconds()) / self._clock.rate
