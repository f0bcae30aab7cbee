"""The clock of a LIS-200 meter: read, and set to the gateway's time.

Rules: a gateway whose own clock is not believed sets nothing. Object 1:400, LIS-200 fact sheet 2.5.
"""

import datetime as dt

from contexts.calls import CallError
from contexts.lis200_kwargs import SetTime
from contexts.lis200_times import local_time, nearest
from contexts.meters import Answer, Meter, Moment
from protocol.iec62056.lis200 import format_datetime, parse_datetime

_CLOCK, _CLOCK_TO_WRITE = "1:400.0", "1:0400.0"
_HALF_A_SECOND = dt.timedelta(seconds=0.5)


async def set_time(meter: Meter, moment: Moment, kwargs: SetTime) -> Answer:
    """Set the meter's clock to the gateway's UTC in the meter's zone; answer with what it showed before and after.

    Raises:
        CallError: when the gateway's own clock is not believed: a wrong clock must not spread.
        MeterRefusal: when the meter says no (``#0019``: a lock must be open).
    """
    del kwargs  # it has none
    if not moment.clock_believed:
        raise CallError("task_call", "set_time is refused: this gateway's own clock is not confirmed, nothing was set")
    before, drift = await _read_clock(meter)
    await meter.write(_CLOCK_TO_WRITE, format_datetime(local_time(meter.zone, await meter.now() + _HALF_A_SECOND)))
    after, remaining = await _read_clock(meter)
    return Answer(
        result={
            "before": before.isoformat(),
            "after": after.isoformat(),
            "drift_seconds": drift,
            "remaining_seconds": remaining,
        }
    )


async def _read_clock(meter: Meter) -> tuple[dt.datetime, float]:
    """What the meter's clock shows as UTC, and how many seconds it is ahead of the gateway."""
    groups = await meter.read(_CLOCK)
    now = await meter.now()
    shown = nearest(meter.zone, parse_datetime(groups[0] if groups else ""), now)
    return shown, round((shown - now).total_seconds(), 3)
