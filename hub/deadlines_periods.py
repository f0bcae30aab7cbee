"""Periods of deadlines: which there are, when each ends, and until when its values have to be there. Pure functions.

A value's time is the end of what it measures (LIS-200 fact sheet 3.4: a row is written when its interval ends), so a
period has the values *after* its start, up to and including its end: the gas day of the 21st ends with the value of
06:00 on the 22nd. Periods are counted on the calendar where meters stand, so a gas day has 23, 24 or 25 hours.
"""

import dataclasses
import datetime as dt
import decimal

from protocol.rasters import SECONDS, Raster

PERIODS = ("hour", "day", "gas_day", "week", "month")
"""The intervals that a deadline may have."""

MOST_OPEN = 10
"""How many periods long the time after a period's end may be: so many are open beside the running one, at most."""

PAST = 28
"""Periods before a deadline was made that are worked out afterwards."""

RATED = 7
"""Periods that a gateway's rate of success is taken from."""

_INSTANT = dt.timedelta(microseconds=1)


@dataclasses.dataclass(frozen=True, slots=True)
class Period:
    """One period; ``start`` is not in it, ``end`` is. What is stored after ``due_at`` is late."""

    zone: str
    slot: int
    start: dt.datetime
    end: dt.datetime
    due_at: dt.datetime

    @property
    def window(self) -> tuple[dt.datetime, dt.datetime]:
        """The same as first instant, and first instant that no longer belongs to it: how completeness counts."""
        return self.start + _INSTANT, self.end + _INSTANT


def has_zones(interval: str) -> bool:
    """Whether periods of this interval are counted on calendars; below a day there is one raster for all, in UTC."""
    return interval not in SECONDS


def raster_of(interval: str, anchor_seconds: int, zone: str) -> Raster:
    """Return the raster of the instants at which periods begin and end.

    Raises:
        ContractError: when there is no such raster.
    """
    return Raster(interval, anchor_seconds, zone if has_zones(interval) else "UTC")


def period_of(raster: Raster, slot: int, within_seconds: int) -> Period:
    """Return the period that begins at a slot of the raster."""
    end = raster.instant_of(slot + 1)
    return Period(raster.zone, slot, raster.instant_of(slot), end, end + dt.timedelta(seconds=within_seconds))


def running_slot(raster: Raster, now: dt.datetime) -> int:
    """Return the period that ``now`` lies in; at the instant of its end a period is still the running one."""
    return raster.first_slot_at_or_after(now) - 1


def open_slots(raster: Raster, within_seconds: int, now: dt.datetime) -> range:
    """Return the periods that have begun and whose values still have time, the oldest first."""
    running = running_slot(raster, now)
    first = running_slot(raster, now - dt.timedelta(seconds=within_seconds))
    return range(first, running + 1)


def is_below(count: float, expected: int, target_percent: decimal.Decimal) -> bool:
    """Whether so many of the expected are less than the target; nothing is below when nothing is expected."""
    return decimal.Decimal(count) * 100 < target_percent * expected


def percent_of(count: int, expected: int) -> float | None:
    """Return the share in percent, rounded down: what is not whole is not 100."""
    return count * 1_000_000 // expected / 10_000 if expected else None


@dataclasses.dataclass(frozen=True, slots=True)
class Alert:
    """What was told of a period: that it is below the target, or not; ``turned_at`` as in ``DeadlinePeriod``."""

    told: bool = False
    turned_at: dt.datetime | None = None

    def step(self, *, below: bool, now: dt.datetime, patience: dt.timedelta) -> "Alert":
        """Return what holds after another look: what has been otherwise for long enough is told now."""
        if below == self.told:
            return Alert(self.told)
        since = self.turned_at or now
        return Alert(below) if now - since >= patience else Alert(self.told, since)
