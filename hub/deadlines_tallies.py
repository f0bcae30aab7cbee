"""Slots of a deadline's period, counted: by gateway, and by task group and gateway."""

import dataclasses
import uuid
from collections import Counter
from collections.abc import Iterable

from hub.reasons import MISSING


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a meter's slots count: at its gateway, and in its groups (None for one that has none)."""

    gateway: uuid.UUID | None
    groups: tuple[uuid.UUID | None, ...]


@dataclasses.dataclass(slots=True)
class Tally:
    """Counted slots. ``asked`` are those whose time has come; ``states`` and ``reasons`` are of some that lack."""

    expected: int = 0
    asked: int = 0
    stored: int = 0
    late: int = 0
    states: Counter[str] = dataclasses.field(default_factory=Counter)
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Add another one's slots."""
        self.expected += other.expected
        self.asked += other.asked
        self.stored += other.stored
        self.late += other.late
        self.states += other.states
        self.reasons += other.reasons

    @property
    def unexplained(self) -> int:
        """Slots whose time has come that are not stored, and were not looked into."""
        return self.asked - self.stored - self.late - sum(self.states.values())

    @property
    def to_come(self) -> int:
        """Slots whose time is still to come within the period."""
        return self.expected - self.asked

    def lacking(self) -> dict[str, int]:
        """Return all slots that are not stored, by state, those that are ``missing`` by reason."""
        named = {state: count for state, count in self.states.items() if state != MISSING} | dict(self.reasons)
        named["unexplained"] = self.unexplained
        named["due"] = named.get("due", 0) + self.to_come
        return {name: count for name, count in sorted(named.items()) if count > 0}


Cell = tuple[uuid.UUID | None, uuid.UUID | None]
"""A task group (None for meters in none) and a gateway (None for meters on no line of one)."""


@dataclasses.dataclass(slots=True)
class Counted:
    """A period's slots by gateway, and by group and gateway: a meter in two groups counts in each of them."""

    gateways: dict[uuid.UUID | None, Tally] = dataclasses.field(default_factory=dict)
    groups: dict[Cell, Tally] = dataclasses.field(default_factory=dict)
    rebuilding: bool = False
    """Whether some of it is being made anew from the readings at this moment, and may show too little."""

    def tallies(self, place: Place) -> Iterable[Tally]:
        """Yield all that a meter counts in."""
        yield self.gateways.setdefault(place.gateway, Tally())
        for group in place.groups:
            yield self.groups.setdefault((group, place.gateway), Tally())

    @property
    def total(self) -> Tally:
        """All gateways' slots."""
        found = Tally()
        for tally in self.gateways.values():
            found.add(tally)
        return found

    def by_group(self) -> dict[uuid.UUID | None, Tally]:
        """Return the slots by group."""
        found: dict[uuid.UUID | None, Tally] = {}
        for (group, _), tally in self.groups.items():
            found.setdefault(group, Tally()).add(tally)
        return found
