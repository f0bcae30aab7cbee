"""Whether the rows of a block hold together, with each other and with the rows before: what the block check misses.

Rules: pure; one object per readout of an archive. The block check is an XOR of seven bits, so two errors in the same
column of bits pass it, and without parity nothing else stops them. Everything else that a block offers is compared
here: the number of its groups, the check column, order and step of the row numbers, times within the asked range and
on the archive's raster, totals that only grow and agree with each other, formats, the gas law. A ``Doubt`` is no
verdict: the block is asked for again, and what comes the same twice is the meter's own word (``settle``).

What a meter may do and is not doubted: global numbers with gaps, times that go back where its clock was set (events
``80nn``, ``82nn``, ``83nn``, or an audit trail's change of the clock) or summer time ends, rows off the raster that no
period ended with, numbers with trimmed zeros. Source: LIS-200 fact sheet 3.3, 3.5, 5.3, 6.1, 8.11.
"""

import dataclasses
import datetime as dt
import enum
import re
from collections.abc import Sequence
from decimal import Decimal
from zoneinfo import ZoneInfo

from contexts.lis200_columns import Columns, LayoutError, columns
from contexts.lis200_forms import NUMBER, Format, decimals, exact_number, messages_in, row_number
from contexts.lis200_rows import packed
from contexts.lis200_times import candidates
from contexts.meters import Layout
from protocol.iec62056.errors import RemoteProtocolError, UnreadableValue
from protocol.iec62056.lis200 import ArchiveRange, Row, parse_datetime, parse_event_code

_STATUS = re.compile(r"st(\.?\d+|\.?sy|atus)?", re.IGNORECASE)
_TIME = re.compile(r"\d{4}-\d\d-\d\d, ?\d\d:\d\d:\d\d", re.ASCII)
_CLOCK_WAS_SET = frozenset({0x80, 0x82, 0x83})
"""First byte of the events that a meter logs when its clock was set, or another parameter. Fact sheet 5.3."""
_PERIOD_ENDS = 0x81
_CLOCK_OBJECT = "0001:0400"
_MONTH = dt.timedelta(days=27)
_LONGEST_MONTH = dt.timedelta(days=32)
_LONGEST_CHANGE = dt.timedelta(hours=2)
_ALARMS = 2
"""Messages up to this one are alarms. LIS-200 fact sheet 5.2."""
_LEAP = 100
"""A total that grows by more than so many times the most that it grew before is doubted."""
_GROWTHS = 3
_GAS_LAW = 0.02
"""By how much C K T / p may differ from the row before; the fact sheet's samples agree to 0.0003 (3.5)."""
_ZERO_CELSIUS = 273.15
_PAIRS = (("300", "302"), ("202", "203"))
"""Objects of one instance whose difference stands still: undisturbed and total, total and adjustable. Fact sheet 4."""


class Kind(enum.Enum):
    """What a doubt is about."""

    COLUMNS = "number of columns"
    GAP = "rows are missing"
    ORDER = "order"
    RANGE = "range"
    RASTER = "raster"
    TOTAL = "total"
    FORM = "form"
    LAW = "gas law"


_HABITS = frozenset({Kind.FORM, Kind.LAW})
"""What a meter does once it does again: not doubted any more once it came the same twice."""


class Doubt(RemoteProtocolError):  # noqa: N818 - a doubt is no verdict
    """A block does not hold together."""

    def __init__(self, kind: Kind, text: str, key: object = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.key = key

    @property
    def misunderstood(self) -> bool:
        """Whether the meter may have heard another question, or been a block ahead: then it is to be asked anew."""
        return self.kind in {Kind.GAP, Kind.RANGE}


@dataclasses.dataclass(slots=True)
class _Before:
    """What the rows before have shown."""

    number: int | None = None
    global_number: int | None = None
    time: dt.datetime | None = None
    event: int | None = None
    texts: Row = ()
    boundary: dt.datetime | None = None
    boundary_event: int | None = None
    gap: dt.timedelta | None = None
    period: dt.timedelta | None = None
    clock_set: bool = False
    totals: dict[int, Decimal] = dataclasses.field(default_factory=dict)
    growths: dict[int, tuple[int, Decimal]] = dataclasses.field(default_factory=dict)
    formats: dict[int, Format] = dataclasses.field(default_factory=dict)
    law: float | None = None

    def copy(self) -> "_Before":
        """A copy that can be tried on."""
        return dataclasses.replace(
            self,
            totals=dict(self.totals),
            growths=dict(self.growths),
            formats={at: dataclasses.replace(seen) for at, seen in self.formats.items()},
        )


class ArchiveChecks:
    """What one readout of ``archive`` has shown, and what of the next block does not fit.

    Args:
        archive: The archive's number.
        layout: Its columns; without them only what rows themselves show is compared.
        zone: The zone of the meter's clock: times go back where its summer time ends.
    """

    def __init__(self, archive: int, layout: Layout | None, zone: ZoneInfo) -> None:
        self._archive, self._zone = archive, zone
        self._count = max(len(layout.sources), len(layout.names), len(layout.units)) if layout else 0
        self._columns = _columns(layout)
        self._consecutive = False
        self._statuses: tuple[int, ...] = ()
        self._global: int | None = None
        self._pairs: tuple[tuple[int, int, bool], ...] = ()
        self._gas: tuple[int, int, int | None, int] | None = None
        if layout is not None and self._columns is not None:
            self._find(layout, self._columns)
        self._before = _Before()
        self._tried: tuple[Sequence[Row], _Before] | None = None
        self._recent: frozenset[str] = frozenset()
        self._habits: set[Kind] = set()
        self._settled: set[object] = set()

    def _find(self, layout: Layout, found: Columns) -> None:
        count = found.count
        sources = [layout.sources[at] if at < len(layout.sources) else "" for at in range(count)]
        names = [layout.names[at].strip() if at < len(layout.names) else "" for at in range(count)]
        number = found.number
        self._consecutive = number is not None and (
            sources[number].endswith(":A20") or names[number].lower() in {"aonr", "aono", "aonum"}
        )
        if "1:1F8" in sources:
            self._global = sources.index("1:1F8")
        self._statuses = tuple(at for at, name in enumerate(names) if name and _STATUS.fullmatch(name))
        totals = {quantity.source: quantity.position for quantity in found.quantities if quantity.total}
        self._pairs = tuple(
            (totals[source], totals[f"{source[:-3]}{whole}"], whole == "302")
            for source in totals
            for part, whole in _PAIRS
            if source.endswith(f":{part}") and f"{source[:-3]}{whole}" in totals
        )
        at = {quantity.source: quantity.position for quantity in found.quantities}
        if {"7:310", "6:310_1", "5:310"} <= at.keys() and found.event is not None:
            self._gas = at["7:310"], at["6:310_1"], at.get("8:310"), at["5:310"]

    def doubt(self, rows: Sequence[Row], asked: ArchiveRange) -> Doubt | None:
        """Say what of a block's rows does not hold together; None if all does.

        A row of the block before may come again: an acknowledgement was lost, or the answer goes on after its last row.
        """
        before = self._before.copy()
        for row in rows:
            if packed([row]) in self._recent:
                continue
            problem = self._judge(row, before, asked, len(rows[0]))
            if problem is not None and problem.kind not in self._habits:
                return problem
            self._learn(row, before)
        self._tried = (rows, before)
        return None

    def accept(self, rows: Sequence[Row]) -> None:
        """Take a block's rows for what the meter says; the next block is compared with them."""
        tried, self._tried = self._tried, None
        if tried is not None and tried[0] is rows:
            self._before = tried[1]
        else:
            for row in rows:
                if packed([row]) not in self._recent:
                    self._learn(row, self._before)
        self._recent = frozenset(packed([row]) for row in rows)

    def settle(self, problem: Doubt) -> None:
        """What comes the same again is the meter's own word: this gap, this row, or for ever if it is a habit."""
        if problem.kind in _HABITS:
            self._habits.add(problem.kind)
        if problem.key is not None:
            self._settled.add(problem.key)

    # --- judging one row -------------------------------------------------------------------------------------------

    def _judge(self, row: Row, before: _Before, asked: ArchiveRange, first: int) -> Doubt | None:
        expected = self._count or first
        if len(row) != expected:
            return self._say(Kind.COLUMNS, f"a row has {len(row)} columns instead of {expected}")
        if not row[0].strip().isdigit():
            return self._say(Kind.COLUMNS, f"a row begins with {row[0]!r} instead of its number")
        found = self._columns
        if found is None:
            return None
        try:
            time = parse_datetime(row[found.time])
            event = None if found.event is None or not row[found.event] else parse_event_code(row[found.event])
        except UnreadableValue as error:
            return self._say(Kind.FORM, str(error))
        return (
            self._judge_check(found, row, before)
            or self._judge_range(found, row, time, asked)
            or self._judge_numbers(found, row, before)
            or self._judge_time(time, event, row, before)
            or self._judge_raster(found, time, event, row, before)
            or self._judge_totals(found, row, event, before)
            or self._judge_forms(found, row, time, before)
            or self._judge_law(row, before)
        )

    def _say(self, kind: Kind, text: str, key: object = None) -> Doubt:
        return Doubt(kind, f"archive {self._archive}: {text}", key)

    def _judge_check(self, found: Columns, row: Row, before: _Before) -> Doubt | None:
        if found.check is None:
            return None
        text = row[found.check].strip()
        known = before.texts[found.check].strip() if before.texts else None
        if text == known == "CRC Ok":
            return None
        if text.lower() != "crc ok" and (not text.isdigit() or known == "CRC Ok"):
            return self._say(Kind.FORM, f"the check column says {text!r}")
        return None

    def _judge_range(self, found: Columns, row: Row, time: dt.datetime, asked: ArchiveRange) -> Doubt | None:
        """What lies outside of what was asked for answers another question."""
        position = asked.position
        try:
            if position == found.time + 1:
                low, high = (parse_datetime(text) if text else None for text in (asked.start, asked.end))
                outside = (low is not None and time < low) or (high is not None and time > high)
            elif position is not None and found.number is not None and position == found.number + 1:
                number = row_number(row, found.number)
                first, last = (int(text) if text else None for text in (asked.start, asked.end))
                outside = number is None or not (number if first is None else first) <= number
                outside = outside or (last is not None and number is not None and number > last)
            else:
                return None
        except (UnreadableValue, ValueError):
            return None  # the question itself is nothing to compare with
        if outside and row not in self._settled:
            return self._say(Kind.RANGE, f"a row of {row[found.time]} lies outside of what was asked for", row)
        return None

    def _judge_numbers(self, found: Columns, row: Row, before: _Before) -> Doubt | None:
        pairs = ((self._global, before.global_number, False), (found.number, before.number, self._consecutive))
        for at, was, consecutive in pairs:
            if at is None:
                continue
            number = row_number(row, at)
            if number is None:
                return self._say(Kind.FORM, f"{row[at]!r} is no row number")
            if was is not None and number <= was:
                return self._say(Kind.ORDER, f"row number {number} comes after {was}")
            gap = (was, number)
            if was is not None and consecutive and number != was + 1 and gap not in self._settled:
                return self._say(Kind.GAP, f"row number {number} comes after {was}: rows are missing", gap)
        return None

    def _judge_time(self, time: dt.datetime, event: int | None, row: Row, before: _Before) -> Doubt | None:
        if before.time is None or time >= before.time or _tells_of_a_clock(event, row, before):
            return None
        if before.time - time <= _LONGEST_CHANGE and (self._repeats(time) or self._repeats(before.time)):
            return None
        return self._say(
            Kind.ORDER, f"time goes back from {before.time} to {time} and no row says that a clock was set"
        )

    def _repeats(self, time: dt.datetime) -> bool:
        """Whether a local time is of the hour that a clock change repeats, or its very end."""
        moments = (time, time - dt.timedelta(seconds=1))
        return any(first != second for first, second in (candidates(self._zone, moment) for moment in moments))

    def _judge_raster(
        self, found: Columns, time: dt.datetime, event: int | None, row: Row, before: _Before
    ) -> Doubt | None:
        """Rows with which a period ended lie one period apart, unless the clock was set in between."""
        if event is None or event >> 8 != _PERIOD_ENDS or found.log_book:
            return None
        if before.boundary_event is not None and event != before.boundary_event:
            return self._say(Kind.RASTER, f"a period ends with 0x{event:04X} where 0x{before.boundary_event:04X} stood")
        if before.boundary is None or before.period is None or before.clock_set:
            return None
        number = None if found.number is None else row_number(row, found.number)
        if self._consecutive and before.number is not None and number != before.number + 1:
            return None  # rows are missing in the meter itself, and their time with them
        if self._one_period(before.boundary, time, before.period):
            return None
        gap = time - before.boundary
        return self._say(Kind.RASTER, f"the period that ends at {time} is {gap} long instead of {before.period}")

    def _one_period(self, earlier: dt.datetime, later: dt.datetime, period: dt.timedelta) -> bool:
        """Whether two ends of periods are one period apart on the meter's clock, or on that of the world."""
        gap = later - earlier
        if gap == period:
            return True
        if period >= _MONTH:
            same = (later.day, later.time()) == (earlier.day, earlier.time())
            return same and _MONTH <= gap <= _LONGEST_MONTH
        instants = candidates(self._zone, later), candidates(self._zone, earlier)
        return any(second - first == period for second in instants[0] for first in instants[1])

    def _judge_totals(self, found: Columns, row: Row, event: int | None, before: _Before) -> Doubt | None:
        if not before.texts or _was_set(event) or _was_set(before.event):
            return None
        for at, was in before.totals.items():
            now = exact_number(row, at)
            if now is None:
                continue
            if now < was:
                return self._say(Kind.TOTAL, f"a total goes back from {was} to {now} and no row says that it was set")
            times, most = before.growths.get(at, (0, Decimal(0)))
            if times >= _GROWTHS and most and now - was > _LEAP * most:
                return self._say(Kind.TOTAL, f"a total grows by {now - was}, before by {most} at most")
        if found.event is None:
            return None
        for part, whole, may_grow in self._pairs:
            numbers = [exact_number(texts, at) for texts in (row, before.texts) for at in (whole, part)]
            if any(number is None for number in numbers):
                continue
            total, undisturbed, total_before, undisturbed_before = (number or Decimal(0) for number in numbers)
            step = max(Decimal(1).scaleb(-decimals(texts[at])) for texts in (row, before.texts) for at in (whole, part))
            moved = (total - undisturbed) - (total_before - undisturbed_before)
            if abs(moved) > 2 * step and not (may_grow and moved > 0 and self._alarm(row, before)):
                return self._say(Kind.TOTAL, f"two totals that belong together part by {moved} without an alarm")
        return None

    def _alarm(self, row: Row, before: _Before) -> bool:
        """Whether a status shows an alarm now or in the row before: then a volume counts as disturbed."""
        texts = [row[at] for at in self._statuses] + [before.texts[at] for at in self._statuses if before.texts]
        return not self._statuses or any(
            0 < message <= _ALARMS for text in texts for message in messages_in(text) or ()
        )

    def _judge_forms(self, found: Columns, row: Row, time: dt.datetime, before: _Before) -> Doubt | None:
        for at in self._statuses:
            messages = messages_in(row[at])
            if messages is None:
                return self._say(Kind.FORM, f"a status shows {row[at]!r}")
        for quantity in found.quantities:
            at = quantity.position
            text = row[at].strip()
            seen = before.formats.get(at)
            number = NUMBER.fullmatch(text)
            if number is None:
                if seen is not None:
                    return self._say(Kind.FORM, f"{text!r} stands where numbers stood")
            elif seen is not None and not seen.fits(text):
                return self._say(Kind.FORM, f"{text!r} is written otherwise than the numbers before it")
            own = row[at + 1] if not quantity.total and at + 1 < len(row) else ""
            if _TIME.fullmatch(own.strip()) and not self._plausible(own, time):
                return self._say(Kind.FORM, f"a maximum of {own} stands in a row of {time}")
        return None

    @staticmethod
    def _plausible(own: str, time: dt.datetime) -> bool:
        try:
            return time - _LONGEST_MONTH <= parse_datetime(own) <= time
        except UnreadableValue:
            return False

    def _judge_law(self, row: Row, before: _Before) -> Doubt | None:
        law = self._law(row)
        if law is None or before.law is None or abs(law - before.law) <= _GAS_LAW * before.law:
            return None
        return self._say(
            Kind.LAW, "conversion factor, pressure, temperature and deviation factor contradict each other"
        )

    def _law(self, row: Row) -> float | None:
        """C K T / p, which base pressure and temperature make a constant (only compared, never stored). 3.5."""
        if self._gas is None:
            return None
        pressure, temperature, deviation, conversion = self._gas
        if not all(NUMBER.fullmatch(row[at].strip()) for at in self._gas if at is not None):
            return None
        p, t, c = (float(row[column]) for column in (pressure, temperature, conversion))
        k = 1.0 if deviation is None else float(row[deviation])
        return c * k * (t + _ZERO_CELSIUS) / p if p > 0 and c > 0 and k > 0 else None

    # --- learning from a row ---------------------------------------------------------------------------------------

    def _learn(self, row: Row, before: _Before) -> None:
        found = self._columns
        if found is None or len(row) != found.count:
            return
        try:
            time = parse_datetime(row[found.time])
            event = None if found.event is None or not row[found.event] else parse_event_code(row[found.event])
        except UnreadableValue:
            return
        before.clock_set = before.clock_set or _tells_of_a_clock(event, row, before)
        if event is not None and event >> 8 == _PERIOD_ENDS and not found.log_book:
            gap = None if before.boundary is None or before.clock_set else time - before.boundary
            if gap is not None and gap == before.gap:
                before.period = gap
            before.boundary, before.boundary_event, before.gap = time, event, gap
            before.clock_set = False
        before.number = None if found.number is None else row_number(row, found.number)
        before.global_number = None if self._global is None else row_number(row, self._global)
        for quantity in found.quantities:
            self._learn_number(row, quantity.position, before, total=quantity.total)
        before.time, before.event, before.texts, before.law = time, event, row, self._law(row)

    @staticmethod
    def _learn_number(row: Row, at: int, before: _Before, *, total: bool) -> None:
        text = row[at].strip()
        if NUMBER.fullmatch(text) is None:
            return
        seen = before.formats.setdefault(at, Format.of(text))
        seen.learn(text)
        if total:
            value, was = Decimal(text), before.totals.get(at)
            before.totals[at] = value
            if was is not None and value >= was:
                times, most = before.growths.get(at, (0, Decimal(0)))
                before.growths[at] = times + 1, max(most, value - was)


def _columns(layout: Layout | None) -> Columns | None:
    """The columns as far as the layout alone tells them; None if it does not even tell the time's."""
    if layout is None or not (layout.sources or layout.names):
        return None
    try:
        return columns(layout)
    except LayoutError:
        return None


def _was_set(event: int | None) -> bool:
    return event is not None and event >> 8 in _CLOCK_WAS_SET


def _tells_of_a_clock(event: int | None, row: Row, before: _Before) -> bool:
    """Whether this row or the one before it says that a clock was set, by its event or as an audit trail's object."""
    return _was_set(event) or _was_set(before.event) or _CLOCK_OBJECT in row or _CLOCK_OBJECT in before.texts
