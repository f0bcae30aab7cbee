"""When the rows of an archive were: meter-local times become UTC here, once.

Rules: pure functions; a time of a meter is a naive ``datetime`` in its zone, an instant is aware UTC. A meter stamps
its rows in local time without saying which pass of the repeated autumn hour it means, so the *order* of the rows says
it (fact sheet 2.5, 3.3: oldest first, and at the change time stamps go backwards). No row is ever reordered: a clock
that was set back is decoded as it stands.

Theory. Rows next to each other whose local times exist twice form a run. In a run the clock is put back once at most:
some first rows (perhaps none, perhaps all) are of the first pass, the others of the second. Every such cut is judged,
in this order, by how often time would run backwards, by how many rows' own word on summer time it contradicts, and by
how evenly the rows then lie between their neighbours. Hence a run needs neighbours: ``meter_window`` asks for them.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from zoneinfo import ZoneInfo

NEIGHBOURHOOD = dt.timedelta(hours=1)
"""Rows asked for on either side of a clock change, beside the repeated time itself, so that neighbours decide."""

_REACH = dt.timedelta(hours=26)
"""How far from an instant a clock change is looked for: further than any zone ever jumped (24 h, Samoa 2011)."""

_TICK = dt.timedelta(microseconds=1)
_SAME_CHANGE = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the zone's offset: when, and from what to what."""

    instant: dt.datetime
    before: dt.timedelta
    after: dt.timedelta

    @property
    def reach(self) -> dt.timedelta:
        """How far from the change local times are doubtful, with room for neighbours."""
        return abs(self.after - self.before) + NEIGHBOURHOOD


def offset_at(zone: ZoneInfo, instant: dt.datetime) -> dt.timedelta:
    """The zone's offset from UTC at an instant."""
    return instant.astimezone(zone).utcoffset() or dt.timedelta(0)


def local_time(zone: ZoneInfo, instant: dt.datetime) -> dt.datetime:
    """What a meter's clock in that zone shows at an instant."""
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def candidates(zone: ZoneInfo, local: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """The instants that a local time may be, the first pass of a repeated hour first; equal when there is no doubt.

    A time that the spring change leaves out is read with the offset before the change, which a meter's clock still has
    that was not put forward yet: a period that ends at the change is often stamped so.
    """
    before, after = _offsets(zone, local)
    return _at(local, before), _at(local, min(after, before))


def nearest(zone: ZoneInfo, local: dt.datetime, instant: dt.datetime) -> dt.datetime:
    """The instant that a local time alone means, in doubt the one nearest to ``instant``."""
    return min(candidates(zone, local), key=lambda candidate: abs(candidate - instant))


def meter_window(
    zone: ZoneInfo, start: dt.datetime, end: dt.datetime | None = None
) -> tuple[dt.datetime, dt.datetime | None]:
    """The local times to ask a meter for, so that every row from ``start`` to ``end`` is among the answer.

    Where a limit lies near a clock change the window is wider, because local times there are doubtful and rows need
    neighbours; whoever asks cuts the answer exactly, in UTC.
    """
    change = _change_near(zone, start)
    if change is not None and abs(start - change.instant) <= change.reach:
        start = min(start, change.instant - change.reach)
    first = local_time(zone, start)
    if end is None:
        return first, None
    change = _change_near(zone, end)
    if change is not None and abs(end - change.instant) <= change.reach:
        end = max(end, change.instant + change.reach)
    return first, local_time(zone, end)


def resolve(
    zone: ZoneInfo,
    locals_: Sequence[dt.datetime],
    *,
    summer: Sequence[bool | None] | None = None,
    first: dt.datetime | None = None,
) -> list[dt.datetime]:
    """The instants of the rows whose local times these are, in the order of the rows.

    Args:
        zone: where the meter's clock is.
        locals_: the rows' time stamps as delivered, oldest row first.
        summer: per row, whether the meter said that summer time was active, or None where it said nothing.
        first: the instant of the first row, if it is known from before.
    """
    hints = summer or [None] * len(locals_)
    instants: list[dt.datetime] = []
    while len(instants) < len(locals_):
        index = len(instants)
        if index == 0 and first is not None and first in candidates(zone, locals_[0]):
            instants.append(first)
            continue
        run = _run_from(zone, locals_, index)
        if run is None:
            instants.append(candidates(zone, locals_[index])[0])
            continue
        before, after, length = run
        stop = index + length
        following = candidates(zone, locals_[stop])[0] if stop < len(locals_) else None
        previous = instants[-1] if instants else None
        first_pass = [_at(local, before) for local in locals_[index:stop]]
        second_pass = [_at(local, after) for local in locals_[index:stop]]
        meant = [_pass_meant(zone, (first_pass[0], second_pass[0]), hint) for hint in hints[index:stop]]
        cut = _best_cut(first_pass, second_pass, previous, following, meant)
        instants += first_pass[:cut] + second_pass[cut:]
    return instants


def _offsets(zone: ZoneInfo, local: dt.datetime) -> tuple[dt.timedelta, dt.timedelta]:
    before, after = (local.replace(tzinfo=zone, fold=fold).utcoffset() or dt.timedelta(0) for fold in (0, 1))
    return before, after


def _at(local: dt.datetime, offset: dt.timedelta) -> dt.datetime:
    return (local - offset).replace(tzinfo=dt.UTC, fold=0)


def _change_near(zone: ZoneInfo, instant: dt.datetime) -> _Change | None:
    low, high = instant - _REACH, instant + _REACH
    before, after = offset_at(zone, low), offset_at(zone, high)
    if before == after:
        return None
    while high - low > _TICK:
        middle = low + (high - low) / 2
        if offset_at(zone, middle) == before:
            low = middle
        else:
            high = middle
    return _Change(high, before, after)


def _run_from(
    zone: ZoneInfo, locals_: Sequence[dt.datetime], index: int
) -> tuple[dt.timedelta, dt.timedelta, int] | None:
    """Offsets and length of the run of repeated times that begins here; None if this time does not exist twice."""
    before, after = _offsets(zone, locals_[index])
    if after >= before:
        stale = _stale_offsets(zone, locals_, index)
        if stale is None:
            return None
        before, after = stale
    length = 1
    for following in range(index + 1, len(locals_)):
        if abs(locals_[following] - locals_[index]) > _SAME_CHANGE:
            break
        if (before, after) not in (_offsets(zone, locals_[following]), _stale_offsets(zone, locals_, following)):
            break
        length += 1
    return before, after, length


def _stale_offsets(
    zone: ZoneInfo, locals_: Sequence[dt.datetime], index: int
) -> tuple[dt.timedelta, dt.timedelta] | None:
    """Offsets for a row stamped 03:00:00 although its clock was due to go to 02:00:00 at this instant.

    The period that ends at the change may be stamped before the clock is put back; the row after it then runs backwards
    into the repeated hour, which no row does that is really stamped an hour later.
    """
    if index + 1 >= len(locals_) or locals_[index + 1] >= locals_[index]:
        return None
    before, after = _offsets(zone, locals_[index] - _TICK)
    if after >= before or _offsets(zone, locals_[index])[0] == before:
        return None
    return (before, after) if _offsets(zone, locals_[index + 1]) == (before, after) else None


def _pass_meant(
    zone: ZoneInfo,
    instants: tuple[dt.datetime, dt.datetime],
    hint: bool | None,  # noqa: FBT001 - what the meter said
) -> int | None:
    """Which pass, 0 or 1, the meter's summer-time message speaks for; None if the change is no end of summer time."""
    first, second = (instant.astimezone(zone).dst() for instant in instants)
    if hint is None or first == second:
        return None
    return 0 if hint else 1


def _best_cut(
    first_pass: Sequence[dt.datetime],
    second_pass: Sequence[dt.datetime],
    previous: dt.datetime | None,
    following: dt.datetime | None,
    meant: Sequence[int | None],
) -> int:
    """How many rows of a run are of the first pass."""
    count = len(first_pass)
    # Only the gaps at the ends and at the cut differ between two cuts; the others are the same in either pass.
    inner = [(later - earlier).total_seconds() for earlier, later in pairwise(first_pass)]
    inner_squares, inner_backwards = sum(gap * gap for gap in inner), sum(gap < 0 for gap in inner)
    contradicted = sum(pass_ == 0 for pass_ in meant)
    best, best_cost = 0, None
    for cut in range(count + 1):
        if cut:
            contradicted += {0: -1, 1: 1, None: 0}[meant[cut - 1]]
        gaps = _end_gaps(previous, first_pass[0] if cut else second_pass[0])
        gaps += _end_gaps(second_pass[-1] if cut < count else first_pass[-1], following)
        squares, backwards = inner_squares, inner_backwards
        if 0 < cut < count:
            plain = inner[cut - 1]
            squares, backwards = squares - plain * plain, backwards - (plain < 0)
            gaps.append((second_pass[cut] - first_pass[cut - 1]).total_seconds())
        cost = (backwards + sum(gap < 0 for gap in gaps), contradicted, squares + sum(gap * gap for gap in gaps))
        if best_cost is None or cost <= best_cost:  # in doubt the longer first pass: such a row is revised, not lost
            best, best_cost = cut, cost
    return best


def _end_gaps(earlier: dt.datetime | None, later: dt.datetime | None) -> list[float]:
    return [] if earlier is None or later is None else [(later - earlier).total_seconds()]


def summer_hints(locals_: Iterable[dt.datetime], active: Iterable[bool | None]) -> list[bool | None]:
    """What the rows' system status (message 16, fact sheet 2.5) tells of summer time, where it can be trusted.

    A meter that never shows the message says nothing by leaving it out, and the status of the row that ends exactly at
    the change belongs to the hour before it: on the full hour a message tells nothing.
    """
    stamps, shown = list(locals_), list(active)
    if True not in shown:
        return [None] * len(stamps)
    return [None if (local.minute, local.second) == (0, 0) else flag for local, flag in zip(stamps, shown, strict=True)]
