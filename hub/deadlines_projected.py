"""What will be there at a deadline, as far as can be said before it: pure functions, explained in docs/deadlines.md.

- ``possible`` is the upper bound: everything that is expected but what is lost for good.
- ``projected`` is what is stored, and of the gateways that are online and believe their clocks: what waits on them, and
  of what is due, still to come, or being fetched the share that they usually bring in time. What is missing stays so,
  and a gateway that is away counts as if it stayed away.
"""

import dataclasses
import math
import statistics
import uuid
from collections.abc import Iterable, Mapping

from hub.deadlines_tallies import Counted, Tally
from hub.reasons import BEING_FETCHED, DUE, ON_GATEWAY, UNRECOVERABLE

_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of the gateways of a period's meters: which are away, and the rates of those that had periods."""

    away: frozenset[uuid.UUID] = frozenset()
    rates: Mapping[uuid.UUID | None, float] = dataclasses.field(default_factory=dict)

    def of(self, tally: Tally, gateway: uuid.UUID | None) -> float:
        """Return how many of a gateway's slots will be stored in time; parts of a slot add up over gateways."""
        if gateway in self.away:
            return tally.stored
        coming = tally.states[DUE] + tally.states[BEING_FETCHED] + tally.to_come + max(0, tally.unexplained)
        return tally.stored + tally.states[ON_GATEWAY] + coming * self.rates.get(gateway, 1.0)


def usual_rate(periods: Iterable[tuple[int, int]]) -> float:
    """Return the share that a gateway usually brings in time, of (expected, stored in time) in its last periods.

    The middle one (of two the lower): one bad day is no habit. 1 when nothing was expected yet.
    """
    shares = [stored / expected for expected, stored in periods if expected]
    return statistics.median_low(shares) if shares else 1.0


def possible_of(tally: Tally) -> int:
    """Return how many slots may be stored in time at best."""
    return tally.expected - tally.states[UNRECOVERABLE]


def projected_of(counted: Counted, outlook: Outlook) -> int:
    """Return how many of a period's slots will be stored in time."""
    return _whole(outlook.of(tally, gateway) for gateway, tally in counted.gateways.items())


def projected_by_group(counted: Counted, outlook: Outlook) -> dict[uuid.UUID | None, int]:
    """Return the same for each group."""
    by_group: dict[uuid.UUID | None, list[float]] = {}
    for (group, gateway), tally in counted.groups.items():
        by_group.setdefault(group, []).append(outlook.of(tally, gateway))
    return {group: _whole(parts) for group, parts in by_group.items()}


def projected_by_gateway(counted: Counted, outlook: Outlook) -> dict[uuid.UUID | None, int]:
    """Return the same for each gateway."""
    return {gateway: _whole([outlook.of(tally, gateway)]) for gateway, tally in counted.gateways.items()}


def _whole(parts: Iterable[float]) -> int:
    return math.floor(math.fsum(parts) + _ROUNDING)
