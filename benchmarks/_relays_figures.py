"""Figures of the bench ``relays``: throughput with its limits, what a relay's end costs, what is published twice."""

import dataclasses
import math
from collections.abc import Mapping

from benchmarks.loaded_hub import quantile

WANTED_RATIO = 0.9
"""More relays than processors must not be slower than one by more than this."""

MOST_TAKEN_OVER = 10.0
"""Seconds until everything that was on its way to a relay that is gone has its receipt from another one."""

MOST_DOUBLED = 0.01
"""The share of edits whose plan may be published more than once."""

MOST_LEFT = 50
"""Milliseconds from an operator's request until 95 of 100 commands have left the hub, two relays at rest."""

FULL = 0.9
"""A processor, or all of them, busy for this share of the time are what limits."""


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Some relays, all rounds together."""

    relays: int
    readings: int
    seconds: float
    rate: float
    ratio: float
    """To one relay."""
    resent: int
    processor: dict[str, float]
    """Processors that each part kept busy, on average; of relays, each one by itself."""
    microseconds: float
    """Processor time of all relays for one reading."""
    waits: dict[str, float]
    """Sessions in the database that worked or waited, on average, by what for."""
    limit: str

    def lines(self) -> list[str]:
        """Say it for people."""
        busy = ", ".join(f"{name} {share:.2f}" for name, share in self.processor.items())
        waits = ", ".join(f"{name} {count:.2f}" for name, count in self.waits.items())
        return [
            f"{self.relays} relay(s): {self.rate:,.0f} readings/s, ratio {self.ratio:.2f}",
            f"  {self.microseconds:.1f} us of relays' processor for a reading; {self.resent} batches sent again",
            f"  processors: {busy}",
            f"  sessions in the database: {waits}",
            f"  the limit: {self.limit}",
        ]


def limit_of(processor: Mapping[str, float], processors: int, waits: Mapping[str, float]) -> str:
    """Say what limited: all processors together, a process that has one for itself, or what the database waited for."""
    total = sum(processor.values())
    most = ", ".join(
        f"{name} {share / total:.0%}" for name, share in sorted(processor.items(), key=lambda item: -item[1])[:4]
    )
    alone = [name for name, share in processor.items() if share >= FULL and name not in {"database", "rest"}]
    if total >= FULL * processors:
        return f"the {processors} processors ({most})"
    if alone:
        return f"{' and '.join(alone)}: one process has one processor"
    waiting = {name: count for name, count in waits.items() if name != "running"}
    wait = max(waiting, key=lambda name: waiting[name], default="nothing")
    return f"no processor ({total:.2f} of {processors} busy): sessions in the database wait most for {wait}"


@dataclasses.dataclass(frozen=True)
class Takeover:
    """Two relays under load, one of them ended."""

    how: str
    readings: int
    taken_over: float
    """Seconds until everything that was on its way at that moment had its receipt."""
    silence: float
    """The longest time without any receipt after it."""
    batches: int
    resent: int
    repeated: int
    """Receipts for batches that had one."""
    missing: int
    doubled: int
    wrong: int

    @property
    def missed(self) -> list[str]:
        """The goals that do not hold."""
        goals = {
            f"{self.how}: {self.missing} missing": not self.missing,
            f"{self.how}: {self.doubled} doubled": not self.doubled,
            f"{self.how}: {self.wrong} wrong": not self.wrong,
            f"{self.how}: taken over after {self.taken_over:.1f} s": self.taken_over <= MOST_TAKEN_OVER,
        }
        return [text for text, holds in goals.items() if not holds]

    def lines(self) -> list[str]:
        """Say it for people."""
        return [
            f"one of two relays {self.how} under load: taken over after {self.taken_over:.2f} s",
            f"  longest time without a receipt {self.silence:.2f} s",
            f"  {self.resent} of {self.batches} batches sent again, {self.repeated} receipts for what had one",
            f"  {self.readings:,} rows compared: missing {self.missing}, doubled {self.doubled}, wrong {self.wrong}",
        ]


@dataclasses.dataclass(frozen=True)
class Published:
    """What two relays published for edits and commands: how many revisions and commands so many times."""

    edits: int
    plans: dict[int, int]
    not_published: int
    """Gateways whose last revision the broker never had."""
    asked: int
    commands: dict[int, int]
    left: list[float]
    """Milliseconds from each command's REST request until the broker handed the command to its gateway."""

    @property
    def left_p95(self) -> float:
        """Milliseconds within which 95 of 100 commands have left the hub."""
        return quantile(self.left, 0.95)

    @property
    def doubled(self) -> int:
        """Revisions that were published more than once."""
        return sum(count for times, count in self.plans.items() if times > 1)

    @property
    def missed(self) -> list[str]:
        """The goals that do not hold."""
        twice = sum(count for times, count in self.commands.items() if times > 1)
        goals = {
            f"{self.doubled} of {self.edits} edits were published twice": self.doubled <= MOST_DOUBLED * self.edits,
            f"{self.not_published} gateways lack their last plan": not self.not_published,
            f"{twice} of {self.asked} commands were published twice": not twice,
            f"{sum(self.commands.values())} of {self.asked} commands were published": (
                sum(self.commands.values()) == self.asked
            ),
            f"commands left the hub after {self.left_p95:.0f} ms (p95), wanted {MOST_LEFT}": (
                len(self.left) == self.asked and self.left_p95 <= MOST_LEFT
            ),
        }
        return [text for text, holds in goals.items() if not holds]

    def lines(self) -> list[str]:
        """Say it for people."""
        middle, most = quantile(self.left, 0.5), max(self.left, default=math.inf)
        return [
            f"{self.edits} edits with two relays, revisions by how often each was published: {self.plans}",
            f"  gateways without their last plan: {self.not_published}",
            f"{self.asked} commands by how often each was published: {self.commands}",
            f"  from request to gateway: p50 {middle:.0f} ms, p95 {self.left_p95:.0f}, most {most:.0f}",
        ]


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What a reading takes, in bytes, and what a life sign takes of a processor."""

    on_the_wire: float
    """Of a batch's packet."""
    on_disk: float
    """With all indices, where no month was there before."""
    of_batches: float
    """Of the rows that name batches, for each reading."""
    written: float
    """Of the write-ahead log: what a replica is sent."""
    sign_microseconds: float
    """Processor of one relay for one life sign; each relay hears all."""
    sign_database_microseconds: float
    """Processor of the database for it, once a relay."""

    def lines(self) -> list[str]:
        """Say it for people."""
        return [
            f"a reading: {self.on_the_wire:.0f} bytes on the wire, {self.on_disk:.0f} on disk with its indices",
            f"  {self.of_batches:.0f} for its batch's name, {self.written:.0f} of write-ahead log",
            f"a life sign: {self.sign_microseconds:.0f} us of each relay's processor",
            f"  {self.sign_database_microseconds:.0f} us of the database's for each relay",
        ]


@dataclasses.dataclass(frozen=True)
class Figures:
    """All of it."""

    throughput: list[Throughput]
    footprint: Footprint | None
    """None where no throughput was measured."""
    takeovers: list[Takeover]
    published: Published
    connections: dict[str, int]
    """The most sessions in the database that each process had."""
    deadlocks: int
    lock_waits: int
    """Waits for a lock of more than 1 s, and for what, below."""
    waited_for: list[str]
    deadlocked: list[str]
    """What the database's log says of each deadlock."""

    @property
    def missed(self) -> list[str]:
        """The goals that do not hold."""
        slow = [one for one in self.throughput if one.ratio < WANTED_RATIO]
        return [
            *(f"{one.relays} relays: {one.ratio:.2f} of one, wanted {WANTED_RATIO}" for one in slow),
            *(text for one in self.takeovers for text in one.missed),
            *self.published.missed,
            *([f"{self.deadlocks} deadlocks"] if self.deadlocks else []),
        ]

    def lines(self) -> list[str]:
        """Say it for people."""
        return [
            *(line for one in self.throughput for line in one.lines()),
            *(self.footprint.lines() if self.footprint else []),
            *(line for one in self.takeovers for line in one.lines()),
            *self.published.lines(),
            "sessions in the database, at most: "
            + ", ".join(f"{name} {count}" for name, count in self.connections.items()),
            f"in the database's log: {self.deadlocks} deadlocks, {self.lock_waits} waits for a lock above 1 s",
            *(f"  {text}" for text in [*self.waited_for, *self.deadlocked]),
            *([f"A GOAL DOES NOT HOLD: {text}" for text in self.missed] or ["the goals hold"]),
        ]
