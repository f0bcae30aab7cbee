"""What one case of the bench ``stampede`` brings, what is wanted of it, and how it is told."""

import dataclasses

WANTED_REST = 0.25
WANTED_RESENT = 0.05
MOST_GROWTH = 48.0 + 64.0
"""MiB by which a relay may grow: what it declares to hold of messages (16 in its queue, 32 in its connection), and what
it works on: the rows of one transaction as objects."""

TIMES = 2.0
BUSY = 0.9
"""The database is the limit when so large a share of the looks finds deliveries that wait in a relay to be stored."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """One case; times in seconds, memory in MiB, windows in KiB for each gateway, rates in readings a second."""

    case: str
    agents: int
    relays: int
    readings: int
    seconds: float
    rate: float
    best_rate: float
    database_share: float
    """The share of the time in which the database was let run."""
    wanted_rate: float
    """What was to be stored beside the backlog; 0 where nothing was."""
    offered_rate: float
    taken_rate: float
    waiting_share: float
    """Of the looks while new readings were stored: how many found deliveries that waited in a relay."""
    rest_requests: int
    rest_median: float
    rest_p99: float
    rest_latest: float
    rest_kinds: dict[str, float]
    """The 99th percentile of each kind of request."""
    rest_idle_p99: float
    ratio: float
    batches: int
    resent: int
    resent_share: float
    connections: int
    relay_memory: float
    relay_growth: float
    relay_queue: float
    relay_dropped: int
    window_most: float
    window_fed: float
    missing: int
    doubled: int
    wrong: int
    processor: dict[str, float]
    """Seconds of processor time that each kind of process took meanwhile."""
    failures: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, doubled or changed, and memory stayed bounded."""
        return (
            self.relay_growth <= MOST_GROWTH and not (self.missing or self.doubled or self.wrong) and not self.failures
        )

    @property
    def times(self) -> float:
        """How many times what was taken was offered meanwhile; 0 where nothing was."""
        return self.offered_rate / self.taken_rate if self.taken_rate else 0.0

    @property
    def loaded(self) -> bool:
        """Whether the load was the one that is meant: twice, and the hub was what it waited for."""
        return not self.wanted_rate or (self.times >= TIMES and self.waiting_share >= BUSY)

    @property
    def good(self) -> bool:
        """Whether all goals hold."""
        return self.sound and self.ratio < 1 and self.resent_share < WANTED_RESENT and self.loaded

    def lines(self) -> list[str]:
        """Tell it to people."""
        kinds = ", ".join(f"{kind} {took * 1000:.0f}" for kind, took in self.rest_kinds.items())
        took = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in self.processor.items())
        median, p99, idle, latest = (
            f"{seconds * 1000:.0f} ms"
            for seconds in (self.rest_median, self.rest_p99, self.rest_idle_p99, self.rest_latest)
        )
        return [
            f"{self.case}: {self.agents} gateways, {self.relays} relays, {self.readings:,} readings",
            f"  all drained after {self.seconds:.1f} s: {self.rate:,.0f} readings/s",
            f"  in the best ten seconds {self.best_rate:,.0f}/s",
            *self._load(),
            f"  REST: {self.rest_requests} requests, median {median}, p99 {p99} (idle {idle}), slowest {latest}",
            f"  p99 of each kind (ms): {kinds}",
            f"  ratio of p99 to its limit of {WANTED_REST * 1000:.0f} ms: {self.ratio:.2f}",
            f"  connections {self.connections}, batches {self.batches}, sent again {self.resent_share:.1%}",
            f"  relay: {self.relay_memory:.0f} MiB at most, grew by {self.relay_growth:.0f} (bound {MOST_GROWTH:.0f})",
            f"  relay's queue: {self.relay_queue:.1f} MiB at most, dropped {self.relay_dropped} messages",
            f"  processor seconds: {took}",
            f"  window of a gateway: {self.window_most:.1f} KiB at most, {self.window_fed:.1f} at the end of the load",
            f"  missing {self.missing}, doubled {self.doubled}, wrong {self.wrong}",
            *(f"  {text}" for text in self.failures),
            f"  {'the goals hold' if self.good else 'A GOAL DOES NOT HOLD'}",
        ]

    def _load(self) -> list[str]:
        if not self.wanted_rate:
            return []
        offered, taken = f"{self.offered_rate:,.0f}/s", f"{self.taken_rate:,.0f}/s"
        short = "" if self.loaded else ": this was not the load that is meant"
        return [
            f"  offered {offered} beside the backlog, taken {taken}: {self.times:.1f} times{short}",
            f"  the database ran {self.database_share:.0%} of the time, behind at {self.waiting_share:.0%} of looks",
        ]
