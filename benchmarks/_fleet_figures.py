"""What the bench ``fleet`` brings, what is wanted of it, and how it is told.

The goals mean the same on any machine: they are bounds that follow from what gateways and people do (a life sign of
each gateway a minute, a quarter of an hour of readings a minute, a proxy that waits a minute for an answer), or ratios
to what the same broker takes from a bare loop in the same run.
"""

import dataclasses
from collections.abc import Mapping

MINUTE = 60.0
WANTED_ANSWER = 30.0
"""Seconds until an edit of what all gateways have is answered: half of what a proxy in front of a hub waits."""

WANTED_SHARE = 0.1
"""Of what a bare loop signs and publishes in the time from the request that changes plans to the last of them."""

WANTED_COLD_SHARE = 0.3
"""The same of a relay from when it is there, whose plans are all made already."""

LEAST_SHARED = 1000
"""Of fewer plans the time is that of one look and one answer: no share is judged."""

WANTED_SOME = 10.0
"""Seconds from the request that changes a tenth of the plans to the last of them at the broker."""

WANTED_SIGNS = MINUTE / 3
"""Seconds for a life sign of each gateway: on every day that is a third of what the relay can do."""

WANTED_BURST = MINUTE
WANTED_STEADY = 1.15
"""The third burst to the first."""

WANTED_REST = 1.0
"""Seconds: no one of a hundred requests beside a burst takes longer."""

MOST_RELAY, MOST_REST = 320.0, 320.0
"""MiB at the peak, of what a relay and a ``serve`` have resident. A relay declares 48 of messages (16 in its queue, 32
in its connection); the interpreter with all modules is 110."""


def busy(processors: Mapping[str, float]) -> str:
    """Tell who took how much processor time."""
    return "  seconds of processor: " + ", ".join(f"{name} {spent:.1f}" for name, spent in processors.items())


@dataclasses.dataclass(frozen=True)
class Change:
    """Plans that are made and published because of one thing; times in seconds from its begin."""

    name: str
    gateways: int
    answer: float | None
    """Until REST had answered; None where nobody asked."""
    last_plan: float | None
    """Until a subscriber at the broker had the last one; None: not in time."""
    known: float | None
    """Until the hub knew that all gateways run them."""
    plans: int
    """How many came: more than gateways where some were sent twice."""
    bare: float
    """Seconds that a bare loop took to sign and publish as many."""
    relay_memory: float
    rest_memory: float
    wanted_seconds: float
    wanted_share: float
    asked: bool = False
    """Whether REST was asked."""
    started: float = 0.0
    """Until the relay was there, where it was started."""
    processors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of processor time of each part, until all was known."""

    @property
    def rate(self) -> float:
        """Plans per second."""
        return self.gateways / (self.last_plan - self.started) if self.last_plan else 0.0

    @property
    def share(self) -> float:
        """The rate to that of a bare loop."""
        return self.bare / (self.last_plan - self.started) if self.last_plan else 0.0

    @property
    def good(self) -> bool:
        """Whether all goals hold."""
        return (
            self.last_plan is not None
            and self.known is not None
            and self.last_plan <= self.wanted_seconds
            and (self.gateways < LEAST_SHARED or self.share >= self.wanted_share)
            and (not self.asked or (self.answer is not None and self.answer <= WANTED_ANSWER))
            and self.relay_memory <= MOST_RELAY
            and self.rest_memory <= MOST_REST
        )

    def lines(self) -> list[str]:
        """Tell it to people."""
        answer = "" if self.answer is None else f"answered after {self.answer:.2f} s, "
        answer = "NOT ANSWERED, " if self.asked and self.answer is None else answer
        answer = f"the relay was there after {self.started:.1f} s, " if self.started else answer
        last = "NEVER" if self.last_plan is None else f"{self.last_plan:.1f} s"
        known = "NEVER" if self.known is None else f"{self.known:.1f} s"
        return [
            f"{self.name}: {self.gateways:,} gateways",
            f"  {answer}last plan at a subscriber after {last}, all known to run after {known}",
            f"  {self.rate:,.0f} plans/s, {self.share:.2f} of a bare loop's (at least {self.wanted_share:.2f})",
            f"  {self.plans:,} plans came",
            busy(self.processors),
            f"  at most {self.relay_memory:.0f} MiB in the relay, {self.rest_memory:.0f} in serve",
            f"  {'the goals hold' if self.good else 'A GOAL DOES NOT HOLD'}",
        ]


@dataclasses.dataclass(frozen=True)
class Burst:
    """One quarter of an hour of all meters; times in seconds from the first publication."""

    number: int
    batches: int
    readings: int
    mebibytes: float
    seconds: float
    """Until the last receipt."""
    published: float
    """Until the last batch was published first."""
    missing: int
    resent: int
    rest_requests: int
    rest_median: float
    rest_p99: float
    rest_failures: tuple[str, ...]
    relay_memory: float
    rest_memory: float
    processors: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether all goals of it alone hold."""
        return (
            not self.missing
            and not self.rest_failures
            and self.seconds <= WANTED_BURST
            and self.rest_p99 <= WANTED_REST
            and self.relay_memory <= MOST_RELAY
            and self.rest_memory <= MOST_REST
        )

    def lines(self) -> list[str]:
        """Tell it to people."""
        median, p99 = self.rest_median * 1000, self.rest_p99 * 1000
        return [
            f"burst {self.number}: {self.batches:,} batches, {self.readings:,} readings, {self.mebibytes:.1f} MiB",
            f"  last receipt after {self.seconds:.1f} s: {self.readings / self.seconds:,.0f} readings/s",
            f"  published within {self.published:.1f} s, {self.resent:,} sent again, {self.missing:,} missing",
            f"  REST beside it: {self.rest_requests} requests, median {median:.0f} ms, p99 {p99:.0f} ms",
            f"  at most {self.relay_memory:.0f} MiB in the relay, {self.rest_memory:.0f} in serve",
            busy(self.processors),
            *(f"  {text}" for text in self.rest_failures),
            f"  {'the goals hold' if self.good else 'A GOAL DOES NOT HOLD'}",
        ]


@dataclasses.dataclass(frozen=True)
class Figures:
    """All of it."""

    gateways: int
    meters: int
    filled_seconds: float
    signs_seconds: float | None
    """Until the hub had noted a life sign of each gateway, and nothing else to do."""
    signs_processors: Mapping[str, float]
    changes: list[Change]
    bursts: list[Burst]

    @property
    def steady(self) -> float:
        """The last burst to the first."""
        return self.bursts[-1].seconds / self.bursts[0].seconds if self.bursts else 1.0

    @property
    def good(self) -> bool:
        """Whether all goals hold."""
        signs = self.signs_seconds is not None and self.signs_seconds <= WANTED_SIGNS
        goods = [*(one.good for one in self.changes), *(one.good for one in self.bursts)]
        return signs and self.steady <= WANTED_STEADY and all(goods)

    def lines(self) -> list[str]:
        """Tell it to people."""
        told = [f"{self.gateways:,} gateways, {self.meters:,} meters; filled in {self.filled_seconds:.0f} s"]
        for change in self.changes:
            told += change.lines()
        for burst in self.bursts:
            told += burst.lines()
        signs = "NEVER" if self.signs_seconds is None else f"{self.signs_seconds:.1f} s"
        told += [
            f"a life sign of each gateway is noted after {signs} (at most {WANTED_SIGNS:.0f})",
            busy(self.signs_processors),
        ]
        if self.bursts:
            told.append(f"the last burst took {self.steady:.2f} times the first (at most {WANTED_STEADY:.2f})")
        return [*told, "all goals hold" if self.good else "A GOAL DOES NOT HOLD"]
