"""When rows arise in the archives of a virtual meter.

Rules: pure; seconds since 1970. Each schedule says what its first moment after a second is, and how many moments it
had since the meter was put into service, so that row numbers need no history. A *clocked* schedule follows the meter's
clock (ends of periods, summer time), any other one the process (somebody changed a parameter).
"""

import datetime as dt
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from agent.simulator.process import BEGIN, DAY, HOUR, draw

DAY_BOUNDARY = 6 * HOUR
"""Local time of the gas day's begin, object 2:141. LIS-200 fact sheet 4."""
_LAST_YEAR = 2100


def local_time(second: int, zone: ZoneInfo) -> dt.datetime:
    """What a clock in ``zone`` shows, with its fold and offset."""
    return dt.datetime.fromtimestamp(second, zone)


class Schedule(Protocol):
    """Moments at which rows arise."""

    @property
    def clocked(self) -> bool:
        """Whether the moments follow the meter's clock."""

    def after(self, second: int) -> int:
        """The first moment after ``second``."""

    def count(self, second: int) -> int:
        """How many moments there were after BEGIN, up to and including ``second``."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Ends of measuring periods: full multiples of ``step`` seconds on the local clock."""

    step: int
    zone: ZoneInfo
    clocked: bool = True

    @property
    def _anchor(self) -> int:
        offset = local_time(BEGIN, self.zone).utcoffset() or dt.timedelta()
        return -int(offset.total_seconds()) % self.step

    def before(self, second: int) -> int:
        """The last full multiple before ``second``: where the period that ends there began."""
        return second - ((second - self._anchor) % self.step or self.step)

    def after(self, second: int) -> int:
        """The next full multiple."""
        return second + self.step - (second - self._anchor) % self.step

    def count(self, second: int) -> int:
        """Whole periods."""
        return (second - self._anchor) // self.step - (BEGIN - self._anchor) // self.step


@dataclass(frozen=True, slots=True)
class Days:
    """Begins of gas days, 06:00 local time; with ``monthly`` only those on the first of a month."""

    zone: ZoneInfo
    monthly: bool = False
    clocked: bool = True

    def _gas_day(self, second: int) -> dt.date:
        """The gas day that is running: it began on this date."""
        local = local_time(second, self.zone)
        date = local.date()
        return date if local.hour * HOUR >= DAY_BOUNDARY else date - dt.timedelta(days=1)

    def _begin(self, date: dt.date) -> int:
        return int(dt.datetime.combine(date, dt.time(DAY_BOUNDARY // HOUR), self.zone).timestamp())

    def before(self, second: int) -> int:
        """The last begin before ``second``: where the gas day or month that ends there began."""
        date = self._gas_day(second - 1)
        return self._begin(date.replace(day=1) if self.monthly else date)

    def after(self, second: int) -> int:
        """The begin of the next gas day or gas month."""
        date = self._gas_day(second)
        if self.monthly:
            return self._begin((date.replace(day=1) + dt.timedelta(days=32)).replace(day=1))
        return self._begin(date + dt.timedelta(days=1))

    def count(self, second: int) -> int:
        """Whole gas days or months."""
        now, then = self._gas_day(second), self._gas_day(BEGIN)
        if self.monthly:
            return (now.year - then.year) * 12 + now.month - then.month
        return (now - then).days


@dataclass(frozen=True, slots=True)
class Scattered:
    """One moment in every block of ``block`` seconds, drawn from ``key``, off every minute; ``delay`` seconds later."""

    key: str
    block: int
    delay: int = 0
    clocked: bool = False

    def moment(self, index: int) -> int:
        """The moment in block ``index``."""
        number = draw(self.key, index)
        minutes = number % (self.block // 60 - 2) + 1
        return BEGIN + index * self.block + minutes * 60 + 5 + number // 7 % 40 + self.delay

    def index(self, second: int) -> int:
        """The block whose moment was the last one up to ``second``; -1 before the first."""
        index = (second - BEGIN) // self.block
        return index if index < 0 or self.moment(index) <= second else index - 1

    def after(self, second: int) -> int:
        """The next one."""
        return self.moment(max(self.index(second) + 1, 0))

    def count(self, second: int) -> int:
        """One for each block."""
        return max(self.index(second) + 1, 0)


@dataclass(frozen=True, slots=True)
class SummerTime:
    """The changes to and from summer time."""

    zone: ZoneInfo
    clocked: bool = True

    def after(self, second: int) -> int:
        """The next change; far in the future where there is none."""
        changes = _clock_changes(self.zone)
        index = bisect_right(changes, second)
        return changes[index] if index < len(changes) else second + 200 * 365 * DAY

    def count(self, second: int) -> int:
        """Changes since BEGIN."""
        return bisect_right(_clock_changes(self.zone), second)


@lru_cache(maxsize=16)
def _clock_changes(zone: ZoneInfo) -> tuple[int, ...]:
    """Every change of the zone's offset from BEGIN on, found by halving."""
    last = int(dt.datetime(_LAST_YEAR, 1, 1, tzinfo=dt.UTC).timestamp())
    changes = []
    for start in range(BEGIN, last, 14 * DAY):
        low, high = start, start + 14 * DAY
        if _offset(low, zone) == _offset(high, zone):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _offset(middle, zone) == _offset(low, zone) else (low, middle)
        changes.append(high)
    return tuple(changes)


def _offset(second: int, zone: ZoneInfo) -> dt.timedelta | None:
    return local_time(second, zone).utcoffset()


def is_summer(second: int, zone: ZoneInfo) -> bool:
    """Whether system message 16 (summer time) is set. LIS-200 fact sheet 2.5."""
    return bool(local_time(second, zone).dst())
