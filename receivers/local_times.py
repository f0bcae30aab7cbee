"""Times that a meter's clock shows become UTC here: with its own word on summer time, or by when they came.

A meter that says which time it keeps (``S`` summer, ``W`` winter) is taken at its word, also in the repeated hour and
where its zone would have it otherwise. Without a word the pass nearest to the arrival is meant.
"""

import datetime as dt
import functools
from zoneinfo import ZoneInfo

from protocol.iec62056.data_lines import Stamp

_HOUR = dt.timedelta(hours=1)


def instant_of(stamp: Stamp, zone: ZoneInfo, at: dt.datetime) -> dt.datetime:
    """The instant of a time as a data line has it; ``at`` is when it came.

    Raises:
        OverflowError: when it lies outside the years 1 to 9999.
    """
    if stamp.utc:
        return stamp.local.replace(tzinfo=dt.UTC)
    if stamp.summer is None:
        return by_arrival(zone, stamp.local, at)
    return by_season(zone, stamp.local, summer=stamp.summer)


def by_season(zone: ZoneInfo, local: dt.datetime, *, summer: bool) -> dt.datetime:
    """The instant of a time that says whether summer time is kept."""
    winter_offset, summer_offset = _offsets(zone, local.year)
    return (local - (summer_offset if summer else winter_offset)).replace(tzinfo=dt.UTC)


def by_arrival(zone: ZoneInfo, local: dt.datetime, at: dt.datetime) -> dt.datetime:
    """The instant of a time that says nothing of its season: of two, the one nearest to ``at``."""
    passes = (local.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC) for fold in (0, 1))
    return min(passes, key=lambda instant: abs(instant - at))


@functools.lru_cache(maxsize=64)
def _offsets(zone: ZoneInfo, year: int) -> tuple[dt.timedelta, dt.timedelta]:
    """The zone's offsets in the winter and in the summer of a year, of either hemisphere."""
    # Not by tzinfo.dst(): Dublin's winter is a negative one.
    found = {dt.datetime(year, month, 1, 12, tzinfo=zone).utcoffset() or dt.timedelta() for month in (1, 7)}
    winter = min(found)
    return winter, max(found) if len(found) > 1 else winter + _HOUR
