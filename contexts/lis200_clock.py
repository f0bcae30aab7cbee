"""The clock of a LIS-200 meter: read, judged, and set to the gateway's time. LIS-200 fact sheet 2.5.

Rules: the clock is read first, and a gateway whose own clock is not believed sets nothing. What a change of the clock
does to archives is why a moment is chosen: a measuring period that ends between the old and the new time is recorded
twice or not at all, one that ends soon is cut short, and around a clock change nobody can say which hour is meant. A
clock that is off by a whole period or more has no better moment, so only nearness counts for it.

The session opens the lock that the gateway has a code for (never writing the code to an open one) and closes it at its
end. What was written is read back.
"""

import datetime as dt
from zoneinfo import ZoneInfo

from contexts.calls import CallError
from contexts.lis200_kwargs import SetTime
from contexts.lis200_times import local_time, nearest, offset_at
from contexts.meters import Answer, Meter, Moment
from protocol.iec62056 import codes
from protocol.iec62056.errors import MeterRefusal, UnreadableValue
from protocol.iec62056.lis200 import format_datetime, parse_datetime, parse_decimal

GUARD = dt.timedelta(seconds=30)
"""So near to the end of a period no clock is set."""

CHANGE_GUARD = dt.timedelta(hours=1)
"""So near to a change to or from summer time no clock is set."""

RESOLUTION = dt.timedelta(seconds=1)
"""A meter shows whole seconds, so a clock that is right seems up to one behind. LIS-200 fact sheet 2.3."""

ASKED, ANSWERED, WRITTEN = 16, 31, 35
"""Characters of the read of a clock, of its answer, and of a write.

The meter looks at its clock, or sets it, when the last character has come. No pause is in front: a session waits out
the reaction time behind an answer, to see that nothing follows it, before it hands it on. So the reader's wait behind
an answer, the meter's own reaction, and how often the read was repeated are part of how long a read takes and not of
how long a write is under way.
"""
REPEATED = dt.timedelta(seconds=1)
"""A read that takes so much longer than its characters was repeated, or goes a long way (a modem, a network)."""
CLOCK_READS = 3
"""How often the clock is read until one read is quick; where none is, the way is long, half of it there."""

VERIFIED = 2.0
"""Seconds that the clock may be off when it is read back: its resolution, and a slow line's doubt."""

_CLOCK, _CLOCK_TO_WRITE = "1:400.0", "1:0400.0"
_PERIOD, _DAY_BEGIN = ("4:150.0", "5:150.0"), ("2:141.0", "5:141.0")
"""Measuring period (minutes) and begin of the gas day: of EK and TC, of the first channel of DL. Fact sheet 4."""
_ASSUMED_PERIOD = dt.timedelta(minutes=60)
_LOCKED = frozenset({codes.NO_RIGHT_TO_WRITE, codes.NO_RIGHT_TO_READ})
_DAY = dt.timedelta(days=1)


async def set_time(meter: Meter, moment: Moment, kwargs: SetTime) -> Answer:
    """Set the meter's clock to the gateway's UTC in the meter's zone, if it is off by more than is allowed.

    The answer's result has ``before`` and ``after`` (UTC, as the clock showed it), ``drift_seconds`` and
    ``remaining_seconds`` (positive: the meter's clock is ahead), and ``set``. A write that the meter refuses, or a
    clock that shows another time afterwards, is a problem of the answer.

    Raises:
        CallError: when the gateway's own clock is not believed, or the moment is a bad one and ``force`` is not given.
        MeterRefusal: when the clock cannot be read.
    """
    if not moment.clock_believed:
        raise CallError("task_call", "set_time is refused: this gateway's own clock is not confirmed, nothing was set")
    before, drift, way = await _read_clock(meter)
    result = {"before": before.isoformat(), "after": before.isoformat(), "drift_seconds": drift}
    if abs(drift) <= kwargs.allowed_drift_seconds:
        return Answer(result={**result, "remaining_seconds": drift, "set": False})
    if not kwargs.force:
        await _check_moment(meter, drift)
    arrival = await meter.now() + meter.under_way(WRITTEN) + way
    try:
        await meter.write(_CLOCK_TO_WRITE, format_datetime(local_time(meter.zone, arrival + RESOLUTION / 2)))
    except MeterRefusal as refusal:
        hint = (
            "; this gateway needs the code of a lock that may set it (3, supplier)" if refusal.code in _LOCKED else ""
        )
        return Answer(
            result={**result, "remaining_seconds": drift, "set": False},
            problems=[f"the clock was not set, it is {drift:g} s ahead: {refusal}{hint}"],
        )
    after, remaining, _ = await _read_clock(meter)
    problems = []
    if abs(remaining) > VERIFIED:
        problems = [f"the clock was set, but shows {after.isoformat()} afterwards, which is {remaining:g} s ahead"]
    return Answer(
        result={**result, "after": after.isoformat(), "remaining_seconds": remaining, "set": True}, problems=problems
    )


async def _read_clock(meter: Meter) -> tuple[dt.datetime, float, dt.timedelta]:
    """What the meter's clock shows as UTC, by how many seconds it is ahead, and how long the way to the meter is.

    It is compared with the moment at which the meter looked at it.
    """
    for _ in range(CLOCK_READS):
        asked = await meter.now()
        groups = await meter.read(_CLOCK)
        more = await meter.now() - asked - meter.under_way(ASKED + ANSWERED)
        way = more / 2 if more >= REPEATED else dt.timedelta(0)
        if not way:
            break
    looked = asked + meter.under_way(ASKED) + way
    shown = nearest(meter.zone, parse_datetime(groups[0] if groups else ""), looked)
    return shown, round((shown - looked).total_seconds(), 3), way


async def _check_moment(meter: Meter, drift: float) -> None:
    """Refuse a moment at which setting the clock would spoil what the meter records."""
    now = await meter.now()
    shown = now + dt.timedelta(seconds=drift)
    off = f"its clock is {drift:g} s ahead" if drift > 0 else f"its clock is {-drift:g} s behind"
    if any(_change_near(meter.zone, instant) for instant in (now, shown)):
        raise CallError(
            "task_call",
            f"set_time is refused: {off}, and a change to or from summer time is within an hour; "
            "try again after it, or give force",
        )
    new, old = (local_time(meter.zone, instant) for instant in (now, shown))
    boundaries = (
        ("measuring period", dt.timedelta(0), await _period(meter)),
        ("gas day", await _day_begins(meter), _DAY),
    )
    for what, anchor, step in boundaries:
        end = _boundary(new, old, anchor, step)
        if end is not None:
            raise CallError(
                "task_call",
                f"set_time is refused: {off}, and a {what} ends at {end:%H:%M} of the meter's time, too near to the "
                "old or the new time; try again some minutes after it (run_offset_seconds of the task), or give force",
            )


def _change_near(zone: ZoneInfo, instant: dt.datetime) -> bool:
    return offset_at(zone, instant - CHANGE_GUARD) != offset_at(zone, instant + CHANGE_GUARD)


def _boundary(new: dt.datetime, old: dt.datetime, anchor: dt.timedelta, step: dt.timedelta) -> dt.datetime | None:
    """The end of a period that forbids to go from one time to the other; all are times of the meter."""
    for time in (old, new):
        end = _next_end(time - GUARD, anchor, step)
        if end <= time + GUARD:
            return end
    low, high = sorted((old, new))
    end = _next_end(low, anchor, step)
    return end if end <= high and high - low < step else None


def _next_end(time: dt.datetime, anchor: dt.timedelta, step: dt.timedelta) -> dt.datetime:
    """The first end of a period at or after ``time``; periods count from ``anchor`` after midnight."""
    midnight = dt.datetime.combine(time.date(), dt.time()) + anchor - _DAY
    return midnight + -(-(time - midnight) // step) * step


async def _period(meter: Meter) -> dt.timedelta:
    text = await _own(meter, _PERIOD)
    try:
        minutes = int(parse_decimal(text.partition("*")[0]))
    except UnreadableValue:
        return _ASSUMED_PERIOD
    return dt.timedelta(minutes=minutes) if 0 < minutes <= _DAY / dt.timedelta(minutes=1) else _ASSUMED_PERIOD


async def _day_begins(meter: Meter) -> dt.timedelta:
    """``06:00`` or an hour. Source: LIS-200 fact sheet 4."""
    hours, _, minutes = (await _own(meter, _DAY_BEGIN)).partition("*")[0].strip().partition(":")
    if not (hours.isascii() and hours.isdigit() and (not minutes or minutes[:2].isdigit())):
        return dt.timedelta(0)
    return dt.timedelta(hours=int(hours) % 24, minutes=int(minutes[:2] or 0) % 60)


async def _own(meter: Meter, addresses: tuple[str, str]) -> str:
    """The text of the object that this kind of meter has for it; empty if it does not let it be read."""
    try:
        groups = await meter.read(addresses[codes.is_logger(meter.model)])
    except (MeterRefusal, UnreadableValue):
        return ""
    return groups[0] if groups else ""
