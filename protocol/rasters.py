"""Rasters: at which instants a series is expected to have a value. A *slot* is the number of one such instant.

Rules:
- Pure functions over UTC instants; slots are whole numbers without gaps, so a span of time is a span of numbers.
- Intervals below a day are counted in UTC: a meter's local time becomes UTC once, and hours follow one another however
  clocks are changed. Days and longer ones are counted on the zone's calendar: such a day has 23, 24 or 25 hours.
- ``anchor_seconds`` shifts the raster from where the interval begins by itself: the whole UTC interval; for days 00:00
  local, for gas days 06:00 local (EN 437 and DVGW G 685 count gas by days that begin at six), for weeks Monday 00:00,
  for months and years the first day 00:00. It is counted on the wall clock.
- Where clocks go forward over a slot's wall time, its instant is that time by the offset before the change, which
  is right after the change. Where they go back over it, the first of both passes is meant.
"""

import dataclasses
import datetime as dt
import functools
import zoneinfo
from collections.abc import Callable

from protocol.wire import ContractError, checked_instant

SECONDS = {
    "minute": 60,
    "five_minutes": 300,
    "ten_minutes": 600,
    "quarter_hour": 900,
    "half_hour": 1800,
    "hour": 3600,
}
"""The intervals that are counted in UTC, with their seconds."""

CALENDAR = {"day": 86_400, "gas_day": 86_400, "week": 604_800, "month": 2_419_200, "year": 31_536_000}
"""The intervals that are counted on a calendar, with the seconds of the shortest but for changes of the clock."""

INTERVALS = (*SECONDS, *CALENDAR)
"""All intervals, the short ones first."""

GAS_DAY_SECONDS = 6 * 3600
MAX_ANCHOR_SECONDS = 27 * 86_400
"""An anchor stays within the shortest month; within the interval itself where that is shorter."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_DAY = dt.timedelta(days=1)
_MONDAY = dt.date(1970, 1, 5).toordinal()


@functools.cache
def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ContractError(f"{name[:64]!r} is no IANA time zone name, such as Europe/Berlin") from None


def _date_of_week(number: int) -> dt.date:
    return dt.date.fromordinal(_MONDAY + 7 * number)


def _date_of_month(number: int) -> dt.date:
    year, month = divmod(number, 12)
    return dt.date(year, month + 1, 1)


_NUMBERS: dict[str, tuple[Callable[[dt.date], int], Callable[[int], dt.date]]] = {
    "day": (dt.date.toordinal, dt.date.fromordinal),
    "gas_day": (dt.date.toordinal, dt.date.fromordinal),
    "week": (lambda date: (date.toordinal() - _MONDAY) // 7, _date_of_week),
    "month": (lambda date: date.year * 12 + date.month - 1, _date_of_month),
    "year": (lambda date: date.year, lambda number: dt.date(number, 1, 1)),
}
"""For each calendar interval: the number of the one that a date lies in, and the first date of a number."""


@dataclasses.dataclass(frozen=True, slots=True)
class Raster:
    """A raster: ``interval`` is one of ``INTERVALS``, ``zone`` an IANA name (only calendar intervals look at it)."""

    interval: str
    anchor_seconds: int = 0
    zone: str = "UTC"

    def __post_init__(self) -> None:
        """Refuse what has no slots.

        Raises:
            ContractError: naming the interval, the anchor or the zone, and what is allowed.
        """
        if self.interval not in INTERVALS:
            raise ContractError(f"interval {self.interval[:20]!r} is none of {', '.join(INTERVALS)}")
        limit = min(SECONDS.get(self.interval) or CALENDAR[self.interval], MAX_ANCHOR_SECONDS)
        if not 0 <= self.anchor_seconds < limit:
            raise ContractError(
                f"anchor_seconds is {self.anchor_seconds}; for {self.interval} it must lie within 0..{limit - 1}"
            )
        _zone(self.zone)

    @property
    def seconds(self) -> int:
        """The seconds of one interval; of calendar ones the shortest, but for changes of the clock."""
        return SECONDS.get(self.interval) or CALENDAR[self.interval]

    def instant_of(self, slot: int) -> dt.datetime:
        """Return the slot's instant in UTC.

        Raises:
            OverflowError, ValueError: when it lies outside the years 1 to 9999.
        """
        step = SECONDS.get(self.interval)
        if step is not None:
            return _EPOCH + dt.timedelta(seconds=slot * step + self.anchor_seconds)
        wall = dt.datetime.combine(_NUMBERS[self.interval][1](slot), dt.time()) + self._anchor
        return wall.replace(tzinfo=_zone(self.zone)).astimezone(dt.UTC)

    def slot_of(self, instant: dt.datetime) -> int | None:
        """Return the slot whose instant this is; None when it is none's."""
        return self.slot_of_microseconds((checked_instant(instant) - _EPOCH) // _MICROSECOND)

    def slot_of_microseconds(self, count: int) -> int | None:
        """Return the slot whose instant lies this many microseconds after 1970; None when none does."""
        step = SECONDS.get(self.interval)
        if step is not None:
            slot, rest = divmod(count - self.anchor_seconds * 1_000_000, step * 1_000_000)
            return None if rest else slot
        # Every time zone's offset is a whole number of seconds.
        if count % 1_000_000:
            return None
        instant = _EPOCH + count * _MICROSECOND
        # A slot's wall time, or what clocks that go forward make of it, lies in the interval that the slot begins.
        slot = self._number(instant)
        return slot if self.instant_of(slot) == instant else None

    def slot_at_or_before(self, instant: dt.datetime) -> int:
        """Return the latest slot whose instant is not after this one."""
        step = SECONDS.get(self.interval)
        if step is not None:
            return ((checked_instant(instant) - _EPOCH) // _MICROSECOND - self.anchor_seconds * 1_000_000) // (
                step * 1_000_000
            )
        # One later than the wall clock says: clocks that go back pass the same wall time twice.
        slot = self._number(checked_instant(instant)) + 1
        while self.instant_of(slot) > instant:
            slot -= 1
        return slot

    def first_slot_at_or_after(self, instant: dt.datetime) -> int:
        """Return the earliest slot whose instant is not before this one."""
        slot = self.slot_at_or_before(instant)
        return slot if self.instant_of(slot) == instant else slot + 1

    def _number(self, instant: dt.datetime) -> int:
        """The calendar interval that the wall clock shows."""
        wall = instant.astimezone(_zone(self.zone)).replace(tzinfo=None)
        return _NUMBERS[self.interval][0]((wall - self._anchor).date())

    @property
    def _anchor(self) -> dt.timedelta:
        own = GAS_DAY_SECONDS if self.interval == "gas_day" else 0
        return dt.timedelta(seconds=own + self.anchor_seconds)


def local_anchor(interval: str, zone: str) -> int:
    """Return the anchor that lets intervals below a day begin with the local ones: 1800 for hours in Asia/Kolkata.

    0 where the zone is off by whole intervals, and for intervals that are counted on the calendar anyway. Of a zone
    whose summer time shifts by less than the interval the standard time counts. By the offsets of the year 2026.
    """
    step = SECONDS.get(interval)
    if step is None:
        return 0
    offsets = [dt.datetime(2026, month, 1, tzinfo=_zone(zone)).utcoffset() or dt.timedelta() for month in (1, 7)]
    return -int(min(offsets).total_seconds()) % step
