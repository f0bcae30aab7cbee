"""What a context and its calls are made of; ``contexts.catalogue`` lists them all.

The kwargs of a call are a msgspec struct that forbids unknown fields: its fields, with the description in their
``msgspec.Meta``, are the documentation, the check of the hub's 422 and of the agent's refusal, and the typed argument
of the call itself.
"""

import dataclasses
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from contexts.meters import LIS200, Answer, Manner, Moment

FIRST_YEAR, LAST_YEAR = 1970, 2199
"""Years that a date may lie in: what every meter and database of ours can hold."""


def _names_none(_: Any) -> tuple[str, ...]:  # noqa: ANN401 - the kwargs of any call
    return ()


class CallError(ValueError):
    """A call that cannot be made as asked; ``field`` names the key (``task_call``, ``task_kwargs.address``)."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field
        self.text = text


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call of a context: its kwargs struct, the coroutine that makes it with a meter, and how it behaves.

    ``archive`` marks reads that a later read makes up for (missed runs coalesce); ``writes`` marks calls that change
    the meter (never repeated blindly). ``manner`` is how the session that it needs is opened and held: two calls with
    equal manners share one. ``sources`` are the values that it was asked for by name, in the words of a mapping.
    """

    name: str
    kwargs: type[msgspec.Struct]
    run: Callable[[Any, Moment, Any], Awaitable[Answer]]
    archive: bool = False
    writes: bool = False
    manner: Manner = LIS200
    sources: Callable[[Any], tuple[str, ...]] = _names_none


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """An execution context: the calls that one kind of meter understands."""

    name: str
    description: str
    calls: Mapping[str, Call]


class Date:
    """A date of a call's kwargs: an instant if it was given with an offset, else a time in the meter's zone.

    ``2024-01-15T06:00:00Z`` is an instant, ``2024-01-15T06:00:00`` is 06:00 where the meter stands, and
    ``2024-01-15`` is midnight there, at the beginning of that day. A blank may stand for the T.
    """

    __slots__ = ("moment",)

    def __init__(self, text: str) -> None:
        try:
            self.moment = dt.datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is no date") from None
        if not FIRST_YEAR <= self.moment.year <= LAST_YEAR:
            raise ValueError(f"the year {self.moment.year} is not within {FIRST_YEAR} to {LAST_YEAR}")

    def __repr__(self) -> str:
        return f"Date({self.moment.isoformat()!r})"

    def __eq__(self, other: object) -> bool:
        return self.moment == other.moment if isinstance(other, Date) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.moment)

    def earliest(self, zone: ZoneInfo) -> dt.datetime:
        """The first instant, in UTC, that this can be in the zone: a repeated hour is meant from its first pass on."""
        return min(self._instants(zone))

    def latest(self, zone: ZoneInfo) -> dt.datetime:
        """The last instant, in UTC, that this can be in the zone."""
        return max(self._instants(zone))

    def _instants(self, zone: ZoneInfo) -> list[dt.datetime]:
        if self.moment.tzinfo is not None:
            return [self.moment.astimezone(dt.UTC)]
        return [self.moment.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1)]
