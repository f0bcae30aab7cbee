"""When tasks are due: pure functions over UTC instants. A *tick* is the due time without the run offset.

``quarterly`` is every quarter of an hour (00, 15, 30, 45); ``hourly``, ``daily`` (00:00), ``weekly`` (Monday 00:00),
``monthly`` (first day 00:00) and ``yearly`` (1 January 00:00) follow, all in UTC. A run never starts before its tick
plus its offset, and the offset is at most the schedule's shortest period.
"""

import datetime as dt
from collections.abc import Callable, Iterator

from protocol.wire import ContractError, checked_instant

OFFSET_LIMITS = {
    "quarterly": 900,
    "hourly": 3600,
    "daily": 86_400,
    "weekly": 604_800,
    "monthly": 2_419_200,
    "yearly": 31_536_000,
}
"""The largest ``run_offset_seconds`` per schedule: its shortest period in seconds, both ends included."""

SCHEDULES = tuple(OFFSET_LIMITS)


def _floor_quarter(at: dt.datetime) -> dt.datetime:
    return at.replace(minute=at.minute // 15 * 15, second=0, microsecond=0)


def _floor_hour(at: dt.datetime) -> dt.datetime:
    return at.replace(minute=0, second=0, microsecond=0)


def _floor_day(at: dt.datetime) -> dt.datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def _floor_week(at: dt.datetime) -> dt.datetime:
    return _floor_day(at) - dt.timedelta(days=at.weekday())


def _floor_month(at: dt.datetime) -> dt.datetime:
    return _floor_day(at).replace(day=1)


def _floor_year(at: dt.datetime) -> dt.datetime:
    return _floor_day(at).replace(month=1, day=1)


_FLOORS: dict[str, Callable[[dt.datetime], dt.datetime]] = {
    "quarterly": _floor_quarter,
    "hourly": _floor_hour,
    "daily": _floor_day,
    "weekly": _floor_week,
    "monthly": _floor_month,
    "yearly": _floor_year,
}
_LONGEST = {
    "quarterly": dt.timedelta(minutes=15),
    "hourly": dt.timedelta(hours=1),
    "daily": dt.timedelta(days=1),
    "weekly": dt.timedelta(days=7),
    "monthly": dt.timedelta(days=31),
    "yearly": dt.timedelta(days=366),
}


def check_schedule(schedule: str) -> str:
    """Return the schedule unchanged if this version knows it.

    Raises:
        ContractError: naming the schedules that exist.
    """
    if schedule not in OFFSET_LIMITS:
        raise ContractError(f"schedule {schedule!r} is none of {', '.join(SCHEDULES)}")
    return schedule


def check_offset(schedule: str, run_offset_seconds: int) -> int:
    """Return the offset unchanged if the schedule allows it.

    Raises:
        ContractError: naming the limit.
    """
    limit = OFFSET_LIMITS[check_schedule(schedule)]
    if not 0 <= run_offset_seconds <= limit:
        raise ContractError(f"run_offset_seconds is {run_offset_seconds}; for {schedule} it must lie within 0..{limit}")
    return run_offset_seconds


def tick_at_or_before(schedule: str, at: dt.datetime) -> dt.datetime:
    """Return the latest tick that is not after the instant."""
    return _FLOORS[check_schedule(schedule)](checked_instant(at).astimezone(dt.UTC))


def tick_after(schedule: str, at: dt.datetime) -> dt.datetime:
    """Return the earliest tick after the instant."""
    tick = tick_at_or_before(schedule, at)
    # The longest period always lands in the next one, and flooring finds where that begins.
    return tick_at_or_before(schedule, tick + _LONGEST[schedule])


def ticks(schedule: str, after: dt.datetime, until: dt.datetime) -> Iterator[dt.datetime]:
    """Yield every tick in ``(after, until]``, oldest first."""
    tick = tick_after(schedule, after)
    until = checked_instant(until)
    while tick <= until:
        yield tick
        tick = tick_after(schedule, tick)


def due_ticks(
    schedule: str, run_offset_seconds: int, last_look: dt.datetime, now: dt.datetime
) -> Iterator[dt.datetime]:
    """Yield the ticks whose due time (tick plus offset) lies in ``(last_look, now]``, oldest first."""
    offset = dt.timedelta(seconds=check_offset(schedule, run_offset_seconds))
    return ticks(schedule, checked_instant(last_look) - offset, checked_instant(now) - offset)
