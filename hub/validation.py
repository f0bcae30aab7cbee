"""Validation: what is strange about a reading, as flags. Never a loss: a flagged reading stays what it is.

Rules:
- A reading's flags are a function of the limits of its series, of the readings before it in the same device period,
  and of nothing else: not of the order of arrival, not of other flags. So judging again always gives the same.
- A device period is the time of one physical meter (``hub.device_periods``). No step is judged across its beginning.
- ``Limit`` is what a meter device config says of a series. Without one only the replacement of a meter is flagged.

Pure: no database, no clock. ``hub.flagging`` reads what is to be judged and writes the flags.
"""

import bisect
import dataclasses
import datetime as dt
import decimal
from collections import deque
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

FLAGS = {
    "negative": 1,
    "not_monotonic": 2,
    "outside_limits": 4,
    "spike": 8,
    "stuck": 16,
    "meter_replaced": 32,
}
"""The bit of each flag; bits are never given another meaning."""

NEGATIVE, NOT_MONOTONIC, OUTSIDE_LIMITS, SPIKE, STUCK, METER_REPLACED = FLAGS.values()

REJECTING = NEGATIVE | NOT_MONOTONIC | OUTSIDE_LIMITS | SPIKE | STUCK
"""Flags that make a reading count as missing where its limit says ``reject``; a new meter's reading is a good one."""

STEPS = 48
"""How many steps of a series are its history: two days of an hourly one."""

LEAST_STEPS = 12
"""A series with fewer steps that are not zero has no history to compare with."""

MOST_STUCK_HOURS = 744
"""31 days: each reading is compared with all of so many hours before it."""

_EXACT = decimal.Context(prec=120)
"""Values have at most 38 digits and an exponent within 18: a difference or a product of two is exact here."""


class Limit(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the readings of a series should be like; what is left out is not judged.

    ``max_per_hour`` bounds the change from the reading before, in the series' unit per hour. ``spike_factor`` bounds
    it by the series' own history: so many times the median of its last steps. ``monotonic`` is for counters, which
    are not negative either. ``reject`` has the ledger count a flagged reading as missing.
    """

    series: Annotated[str, Meta(min_length=1, max_length=50)]
    min: decimal.Decimal | None = None
    max: decimal.Decimal | None = None
    max_per_hour: decimal.Decimal | None = None
    monotonic: bool = False
    not_negative: bool = False
    stuck_hours: Annotated[int, Meta(ge=1, le=MOST_STUCK_HOURS)] | None = None
    spike_factor: Annotated[float, Meta(gt=1, le=1e6)] | None = None
    reject: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A reading as judging sees it."""

    timestamp: dt.datetime
    value: decimal.Decimal


def names_of(flags: int) -> list[str]:
    """Return the names of the flags, in the order of their bits."""
    return [name for name, bit in FLAGS.items() if flags & bit]


def judge(points: Sequence[Point], limit: Limit | None, replaced: Sequence[dt.datetime]) -> list[int]:
    """Return the flags of each reading of one series of one device, in order of time.

    Args:
        points: all readings from some instant on. The flags of the first ones may want for what lies before.
        limit: what is configured for the series.
        replaced: when the meter was replaced, in order of time.
    """
    judged = []
    state = _Period(limit)
    before: Point | None = None
    for point in points:
        flags = 0
        if before is not None and _replacements(replaced, point.timestamp) > _replacements(replaced, before.timestamp):
            flags = METER_REPLACED
            state = _Period(limit)
        judged.append(flags | state.judge(point))
        before = point
    return judged


def _replacements(replaced: Sequence[dt.datetime], timestamp: dt.datetime) -> int:
    return bisect.bisect_right(replaced, timestamp)


class _Period:
    """The readings of one physical meter so far."""

    def __init__(self, limit: Limit | None) -> None:
        self._limit = limit
        self._before: Point | None = None
        self._same_since: dt.datetime | None = None
        self._rates: deque[float] = deque(maxlen=STEPS)
        """The last steps, in units per microsecond."""
        self._ordered: list[float] = []
        """Those of them that are not zero, by size."""

    def judge(self, point: Point) -> int:
        """Return the flags of the next reading."""
        limit, before = self._limit, self._before
        if limit is None:
            return 0
        self._before = point
        flags = self._judge_alone(point, limit)
        if before is None:
            self._same_since = point.timestamp
            return flags
        step = _EXACT.subtract(point.value, before.value)
        elapsed = (point.timestamp - before.timestamp) // _MICROSECOND
        size = step.copy_abs()
        if limit.monotonic and step < 0:
            flags |= NOT_MONOTONIC
        if limit.max_per_hour is not None and _EXACT.multiply(size, _HOUR) > _EXACT.multiply(
            limit.max_per_hour, decimal.Decimal(elapsed)
        ):
            flags |= OUTSIDE_LIMITS
        if limit.spike_factor is not None and self._is_spike(float(size) / elapsed, limit.spike_factor):
            flags |= SPIKE
        if step or self._same_since is None:
            self._same_since = point.timestamp
        elif limit.stuck_hours is not None and point.timestamp - self._same_since >= dt.timedelta(
            hours=limit.stuck_hours
        ):
            flags |= STUCK
        return flags

    @staticmethod
    def _judge_alone(point: Point, limit: Limit) -> int:
        flags = 0
        if (limit.min is not None and point.value < limit.min) or (limit.max is not None and point.value > limit.max):
            flags |= OUTSIDE_LIMITS
        if (limit.monotonic or limit.not_negative) and point.value < 0:
            flags |= NEGATIVE
        return flags

    def _is_spike(self, rate: float, factor: float) -> bool:
        """Whether the step is one by the history before it; then it is part of the history."""
        ordered = self._ordered
        spike = len(ordered) >= LEAST_STEPS and rate > factor * ordered[len(ordered) // 2] * _ROUNDING
        if len(self._rates) == STEPS and (gone := self._rates[0]):
            del ordered[bisect.bisect_left(ordered, gone)]
        self._rates.append(rate)
        if rate:
            bisect.insort(ordered, rate)
        return spike


_MICROSECOND = dt.timedelta(microseconds=1)
_HOUR = decimal.Decimal(3_600_000_000)
_ROUNDING = 1 + 1e-9
"""Rates are floats: one of exactly so many times the median is no spike."""
