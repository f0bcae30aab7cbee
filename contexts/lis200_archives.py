"""Archives of a LIS-200 meter: which rows to ask for, and what came back as an ``Answer``.

Role: turns a range into reads of a ``Meter``. What rows mean is in ``contexts.lis200_rows``, when they were in
``contexts.lis200_times``.

Rules: an archive is asked wide in the meter's time and cut exactly in UTC, both limits included. What is held is
known by the archive's own row numbers, because a meter's clock goes back and numbers do not. A row that is damaged
is asked for once more; one that stays so becomes a problem of the answer and costs itself only.
"""

import dataclasses
import datetime as dt
from collections.abc import Sequence

from contexts.calls import CallError
from contexts.lis200_columns import Columns, LayoutError, columns, number_column, time_column
from contexts.lis200_events import events, summer_by_events
from contexts.lis200_kwargs import ReadArchiveByDate, ReadArchiveByOffsetSeconds
from contexts.lis200_rows import DamagedRow, Row, read_row, readings
from contexts.lis200_times import meter_window, resolve, summer_hints
from contexts.meters import Answer, Held, Layout, Meter, Moment
from protocol.iec62056.codes import ARCHIVE_EMPTY
from protocol.iec62056.errors import MeterRefusal
from protocol.iec62056.lis200 import format_datetime

_EMPTY = frozenset({ARCHIVE_EMPTY, 104, 105})
"""Refusals that mean that no row is in the range. Source: LIS-200 fact sheet 3.3."""


async def read_archive_by_date(meter: Meter, moment: Moment, kwargs: ReadArchiveByDate) -> Answer:
    """Read the rows from ``start_date`` to ``end_date``, both included. An empty range is an empty answer.

    Raises:
        CallError: when ``control_position`` is not the time column, or the range ends before it starts.
        LayoutError: when no column of the archive holds a time.
        MeterRefusal: when the meter says no.
    """
    del moment  # both limits are absolute
    layout = await meter.layout(kwargs.archive_number)
    _check_position(layout, kwargs.archive_number, kwargs.control_position)
    start = kwargs.start_date.earliest(meter.zone)
    end = kwargs.end_date.latest(meter.zone) if kwargs.end_date else None
    if end is not None and end < start:
        raise CallError("task_kwargs.end_date", f"{end.isoformat()} is before start_date {start.isoformat()}")
    read = await _read_window(meter, layout, kwargs.archive_number, kwargs.control_position, start, end)
    return _answer(meter, kwargs.archive_number, read)


async def read_archive_by_offset_seconds(meter: Meter, moment: Moment, kwargs: ReadArchiveByOffsetSeconds) -> Answer:
    """Read the rows from ``offset_seconds`` before the run's tick to the newest; only those that are not held yet.

    Raises:
        CallError: when ``control_position`` is not the time column.
        LayoutError: when no column of the archive holds a time.
        MeterRefusal: when the meter says no.
    """
    archive, position = kwargs.archive_number, kwargs.control_position
    layout = await meter.layout(archive)
    _check_position(layout, archive, position)
    counted_from = moment.reference if moment.since is None else min(moment.since, moment.reference)
    start = counted_from - dt.timedelta(seconds=kwargs.offset_seconds)
    held = meter.held(archive)
    read = None
    if held is not None and held.start <= start <= held.through:
        read = await _read_after(meter, layout, archive, position, held)
    if read is not None and held is not None:
        begin = held.start
    else:
        read, begin = await _read_window(meter, layout, archive, position, start, None), start
    now_held = held
    if read.rows:
        last, through = read.rows[-1]
        now_held = None if last.number is None else Held(begin, through, last.number)
    return dataclasses.replace(_answer(meter, archive, read), archive=archive, held=now_held)


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """What an archive answered: its columns, rows with their instants in the archive's order, and damaged rows."""

    columns: Columns | None = None
    rows: Sequence[tuple[Row, dt.datetime]] = ()
    damaged: Sequence[DamagedRow] = ()


async def _read_window(
    meter: Meter, layout: Layout, archive: int, position: int, start: dt.datetime, end: dt.datetime | None
) -> _Read:
    """The rows stamped from ``start`` to ``end`` in UTC, both included."""
    low, high = meter_window(meter.zone, start, end)
    limits = format_datetime(low), "" if high is None else format_datetime(high)
    read = await _read_rows(meter, layout, archive, position, limits)
    inside = [(row, at) for row, at in read.rows if start <= at and (end is None or at <= end)]
    return dataclasses.replace(read, rows=inside)


async def _read_after(meter: Meter, layout: Layout, archive: int, position: int, held: Held) -> _Read | None:
    """The rows after the last one that is held; None if that row is not there any more as it was.

    They are asked for by number where the archive has one, because rows that were stamped after the meter's clock was
    put back have earlier times. A number may begin again at 1, so nothing new by number is asked for by time, too.
    """
    low, _ = meter_window(meter.zone, held.through)
    limits = [(position, format_datetime(low))]
    number = number_column(layout, position - 1)
    if number is not None:
        limits.insert(0, (number + 1, str(held.through_number)))
    found = None
    for compared, first in limits:
        try:
            read = await _read_rows(meter, layout, archive, compared, (first, ""), held)
        except MeterRefusal:
            if compared == position:
                raise
            continue  # this meter does not compare numbers, or has none as low: its times tell
        last_held = [(row.number, at) for row, at in read.rows]
        if (held.through_number, held.through) not in last_held:
            continue
        after = read.rows[last_held.index((held.through_number, held.through)) + 1 :]
        found = dataclasses.replace(read, rows=after)
        if after:
            break
    return found


async def _read_rows(
    meter: Meter, layout: Layout, archive: int, position: int, limits: tuple[str, str], held: Held | None = None
) -> _Read:
    """Read and resolve rows; once more if one of them is damaged, because a line's noise may pass its block check."""
    read = await _read_once(meter, layout, archive, position, limits, held)
    if read.damaged:
        again = await _read_once(meter, layout, archive, position, limits, held)
        read = min(again, read, key=lambda attempt: len(attempt.damaged))
    return read


async def _read_once(
    meter: Meter, layout: Layout, archive: int, position: int, limits: tuple[str, str], held: Held | None
) -> _Read:
    texts: list[list[str]] = []
    try:
        async for block in meter.rows(archive, position, *limits):
            texts += block
    except MeterRefusal as refusal:
        if refusal.code not in _EMPTY or texts:
            raise
        return _Read()
    if not texts:
        return _Read()
    found = columns(layout, texts)
    judged = [read_row(found, row) for row in texts]
    good = [row for row in judged if isinstance(row, Row)]
    locals_ = [row.local for row in good]
    first = held.through if held is not None and good and good[0].number == held.through_number else None
    by_status = summer_hints(locals_, [row.summer for row in good])
    summer = [
        shown if logged is None else logged for logged, shown in zip(summer_by_events(good), by_status, strict=True)
    ]
    instants = resolve(meter.zone, locals_, summer=summer, first=first)
    damaged = [row for row in judged if isinstance(row, DamagedRow)]
    return _Read(found, list(zip(good, instants, strict=True)), damaged)


def _answer(meter: Meter, archive: int, read: _Read) -> Answer:
    if read.columns is None:
        return Answer(result={"rows": 0})
    problems = [f"archive {archive}: {row}" for row in read.damaged]
    return Answer(
        values=readings(read.columns, read.rows, archive=archive, mappings=meter.mappings, zone=meter.zone),
        events=events(read.columns, read.rows),
        result={"rows": len(read.rows), **({"damaged": problems} if problems else {})},
        problems=problems,
    )


def _check_position(layout: Layout, archive: int, position: int) -> None:
    """The column that dates are compared with must be the time column, as far as the layout tells which it is."""
    if not layout.sources and not layout.names:
        raise LayoutError(f"the meter tells nothing of the columns of archive {archive}")
    time = time_column(layout)
    if time is not None and time + 1 != position:
        raise CallError(
            "task_kwargs.control_position",
            f"{position} is not the time column of archive {archive} of this meter; expected {time + 1}",
        )
