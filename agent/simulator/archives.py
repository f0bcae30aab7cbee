"""The archives of one virtual meter: rows that arise as its clock passes, numbered as a device numbers them.

Rules: no clock of its own; ``advance`` is told the *process second*, which is what the meter's clock would show had
nobody set it. While nobody sets it, a row is a pure function of (seed, serial, archive, moment), its numbers included,
so every process computes the same one. Setting the clock moves what is *stamped*, never what flows: the rows go on
with running numbers, stamps may repeat or be skipped, as on a device (LIS-200 fact sheet 2.5, 5.3).

GONo counts all rows of the device, AONo those of the archive (LIS-200 fact sheet 3.3).
"""

import heapq
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from agent.simulator.layouts import AONO, CHECK, EVENT, GONO, TIME
from agent.simulator.personas import Archive, Content, Persona
from agent.simulator.process import BEGIN, DAY, draw
from agent.simulator.quantities import Quantities, decimal_text
from agent.simulator.schedules import Days, Intervals, Scattered, Schedule, SummerTime, is_summer, local_time
from protocol.iec62056 import lis200

CHANGED_BEFORE, CHANGED_AFTER = 0x8300, 0x8200
"""A parameter of archive nn was changed: state before, state after. LIS-200 fact sheet 5.3."""
SUMMER_BEGINS, SUMMER_ENDS = 0x3F02, 0x1F02
LOCK_OPENED, LOCK_CLOSED = 0x2D03, 0x0D03
_PARAMETERS = (("0007:0311", 4), ("0006:0311", 2), ("0008:0158", 1))
"""Substitute pressure and temperature, a warning limit; with their decimals."""

_CHANGE_BLOCK = 3 * DAY


@dataclass(frozen=True, slots=True)
class Row:
    """One row: ``clock`` is what the meter's clock showed, as seconds of UTC since 1970; ``groups`` as it is sent."""

    archive: int
    aono: int
    gono: int
    clock: int
    event: int | None
    groups: tuple[str, ...]
    values: dict[str, str] = field(hash=False)
    units: dict[str, str] = field(hash=False)
    times: dict[str, str] = field(default_factory=dict, hash=False)
    """When maxima were, by the source of the maximum, as it is sent."""
    changed: tuple[str, str, str] | None = None
    """In an audit trail the object, its old and its new value, as sent."""


@dataclass(frozen=True, slots=True)
class _Stream:
    """Rows of one kind in one archive; ``code`` gives the event code for (process second, clock second)."""

    archive: Archive
    schedule: Schedule
    code: Callable[[int, int], int]


class Archives:
    """All archives of one meter, filled from ``begin`` (a process second) on by ``advance``."""

    def __init__(
        self, persona: Persona, quantities: Quantities, *, key: str, zone: ZoneInfo, step: int, begin: int
    ) -> None:
        self._persona, self._quantities, self._zone = persona, quantities, zone
        self._key, self._intervals, self._days = key, Intervals(step, zone), Days(zone)
        self._months = Days(zone, monthly=True)
        self._changes = Scattered(f"{key}/changes", _CHANGE_BLOCK)
        self._rows: dict[int, deque[Row]] = {a.number: deque(maxlen=a.depth) for a in persona.archives}
        self._streams = [stream for archive in persona.archives for stream in self._streams_of(archive)]
        self.shift = 0
        """How far the clock was moved from the process second, in seconds."""
        self._reached = max(begin, BEGIN)
        self._aono = dict.fromkeys(self._rows, 0)
        for stream in self._streams:
            self._aono[stream.archive.number] += stream.schedule.count(self._reached)
        self._gono = sum(self._aono.values())
        self._due: list[tuple[int, int]] = []
        self._plan()

    def _streams_of(self, archive: Archive) -> list[_Stream]:
        number, changes, messages = archive.number, self._changes.key, self._quantities.messages
        match archive.content:
            case Content.INTERVALS:
                return [
                    _Stream(archive, self._intervals, lambda _, __: archive.event),
                    _Stream(archive, self._changes, lambda _, __: CHANGED_BEFORE + number),
                    _Stream(archive, Scattered(changes, _CHANGE_BLOCK, 1), lambda _, __: CHANGED_AFTER + number),
                ]
            case Content.DAYS:
                return [_Stream(archive, self._days, lambda _, __: archive.event)]
            case Content.MONTHS:
                return [_Stream(archive, self._months, lambda _, __: archive.event)]
            case Content.CHANGES:
                return [_Stream(archive, self._changes, lambda _, __: 0)]
            case Content.EVENTS:
                return [
                    _Stream(archive, self._quantities.messages.schedule, lambda process, _: messages.code(process)),
                    _Stream(archive, SummerTime(self._zone), self._summer_change),
                    _Stream(archive, Scattered(changes, _CHANGE_BLOCK, -20), lambda _, __: LOCK_OPENED),
                    _Stream(archive, Scattered(changes, _CHANGE_BLOCK, 30), lambda _, __: LOCK_CLOSED),
                ]

    def _summer_change(self, _: int, clock: int) -> int:
        return SUMMER_BEGINS if is_summer(clock, self._zone) else SUMMER_ENDS

    def _plan(self) -> None:
        self._due = [(self._next(index), index) for index in range(len(self._streams))]
        heapq.heapify(self._due)

    def _next(self, index: int) -> int:
        schedule = self._streams[index].schedule
        if not schedule.clocked:
            return schedule.after(self._reached)
        return schedule.after(self._reached + self.shift) - self.shift

    @property
    def next_due(self) -> int:
        """The process second of the next row."""
        return self._due[0][0]

    def rows(self, archive: int) -> Sequence[Row]:
        """What the archive holds, oldest first."""
        return self._rows[archive]

    def everything(self) -> list[Row]:
        """What all archives hold, in the order in which it arose."""
        return sorted((row for rows in self._rows.values() for row in rows), key=lambda row: row.gono)

    def advance(self, process: int) -> list[Row]:
        """Let the time pass up to and including the process second; returns the rows that arose."""
        arisen = []
        while self._due[0][0] <= process:
            moment, index = self._due[0]
            self._reached = max(self._reached, moment)
            stream = self._streams[index]
            arisen.append(self._record(stream.archive, moment, stream.code(moment, moment + self.shift)))
            heapq.heapreplace(self._due, (self._next(index), index))
        self._reached = max(self._reached, process)
        return arisen

    def clear(self) -> None:
        """Forget all rows, as when somebody clears a device's archives; the numbers go on."""
        for rows in self._rows.values():
            rows.clear()

    def set_clock(self, process: int, shift: int) -> list[Row]:
        """Move the clock at a process second; returns the rows that this leaves, before and after, in each archive."""
        arisen = self.advance(process)
        if shift == self.shift:
            return arisen
        old, kept = self.shift, (Content.INTERVALS, Content.EVENTS)
        for archive in self._persona.archives:
            if archive.content in kept:
                arisen.append(self._record(archive, process, CHANGED_BEFORE + archive.number))
        self.shift = shift
        for archive in self._persona.archives:
            if archive.content in kept:
                arisen.append(self._record(archive, process, CHANGED_AFTER + archive.number))
            elif archive.content is Content.CHANGES:
                old_text, new_text = (self._clock_text(process + offset) for offset in (old, shift))
                arisen.append(self._record(archive, process, 0, ("0001:0400", old_text, new_text)))
        self._plan()
        return arisen

    def changed(self, process: int, parameter: str, old: str, new: str) -> list[Row]:
        """Enter into the audit trails that somebody changed an object; returns the rows that this leaves."""
        arisen = self.advance(process)
        trails = [archive for archive in self._persona.archives if archive.content is Content.CHANGES]
        return arisen + [self._record(archive, process, 0, (parameter, old, new)) for archive in trails]

    def _clock_text(self, clock: int) -> str:
        return lis200.format_datetime(local_time(clock, self._zone))

    def _start(self, archive: Archive, process: int) -> int:
        """Where the period of a row began."""
        schedule = {Content.DAYS: self._days, Content.MONTHS: self._months}.get(archive.content, self._intervals)
        return schedule.before(process + self.shift) - self.shift

    def _record(self, archive: Archive, process: int, event: int, change: tuple[str, str, str] | None = None) -> Row:
        number = archive.number
        self._gono += 1
        self._aono[number] += 1
        clock = process + self.shift
        texts = {
            GONO: str(self._gono),
            AONO: str(self._aono[number]),
            TIME: self._clock_text(clock),
            EVENT: f"0x{event:04X}",
            CHECK: "CRC Ok",
        }
        if archive.content is Content.CHANGES:
            change = change or self._change(process)
            texts |= dict(zip(("parameter", "old", "new"), change, strict=True), open="1")
        groups, values, units, times = [], {}, {}, {}
        start = self._start(archive, process)
        last = ("", "")
        for column in archive.layout:
            text = texts.get(column.content) or self._quantities.text(column.content, start, process, clock)
            groups.append(text)
            if column.measured:
                source = column.source_in(number)
                values[source] = text
                units[source] = lis200.normalise_unit(self.unit_of(column.unit))
                last = (column.content, source)
            elif column.content == f"{last[0]} time":
                times[last[1]] = text
        if self._persona.numeric_check:
            groups[-1] = str(zlib.crc32("".join(groups).encode()) % 65_536)
        has_event = any(column.content == EVENT for column in archive.layout)
        row = Row(
            number,
            self._aono[number],
            self._gono,
            clock,
            event if has_event else None,
            tuple(groups),
            values,
            units,
            times,
            change,
        )
        self._rows[number].append(row)
        return row

    def unit_of(self, unit: str) -> str:
        """A column's unit as this model writes it."""
        return self._persona.pressure_unit if unit == " bar" else unit

    def _change(self, process: int) -> tuple[str, str, str]:
        """Which parameter somebody changed, from what to what."""
        index = self._changes.index(process)
        parameter, decimals = _PARAMETERS[index % len(_PARAMETERS)]
        old, new = (
            decimal_text(draw(self._key, parameter, which) % 90_000 + 10_000, decimals)
            for which in (index - len(_PARAMETERS), index)
        )
        return parameter, old, new
