"""Archives of a LIS-200 meter: which rows to ask for, and what came back as an ``Answer``.

Role: turns a range into reads of a ``Meter``. What rows mean is in ``contexts.lis200_rows``, when they were in
``contexts.lis200_times``.

Rules: an archive is asked wide in the meter's time and cut exactly in UTC, both limits included. What is held is
known by the archive's own row numbers, because a meter's clock goes back and numbers do not. A row that is damaged, or
has a column that is not what it should be, is asked for once more; what stays so becomes a problem of the answer and
costs itself only: the row, or the column.
"""

import dataclasses
import datetime as dt
from collections.abc import Sequence

from contexts.calls import CallError
from contexts.lis200_columns import Columns, LayoutError, columns, number_column, time_column
from contexts.lis200_events import events, summer_by_events
from contexts.lis200_kwargs import ReadArchiveByDate, ReadArchiveByOffsetSeconds, ReadArchiveSinceLast, ReadEvents
from contexts.lis200_layouts import completed, known_layouts
from contexts.lis200_rows import DamagedRow, Row, packed, read_row, readings, unpacked
from contexts.lis200_times import meter_window, resolve, summer_hints
from contexts.lis200_verify import verified
from contexts.meters import Answer, Held, Layout, Meter, Moment
from protocol.iec62056.codes import ARCHIVE_EMPTY, is_logger
from protocol.iec62056.errors import MeterRefusal
from protocol.iec62056.lis200 import format_datetime

LOG_BOOK, LOGGER_LOG_BOOK = 4, 10
"""Archives with the events, of EK and TC and of DL. Source: LIS-200 fact sheet 3.4."""

BEFORE_ALL = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""Where what is held begins when all that the archive had was read."""

_EMPTY = frozenset({ARCHIVE_EMPTY, 104, 105})
"""Refusals that mean that no row is in the range. Source: LIS-200 fact sheet 3.3."""


async def read_archive_by_date(meter: Meter, moment: Moment, kwargs: ReadArchiveByDate) -> Answer:
    """Read the rows from ``start_date`` to ``end_date``, both included. An empty range is an empty answer.

    Raises:
        CallError: when ``control_position`` is not the time column, or the range ends before it starts.
        LayoutError: when no column of the archive holds a time.
        MeterRefusal: when the meter says no.
    """
    meter = verified(meter, kwargs.verify)
    del moment  # both limits are absolute
    layout = await meter.layout(kwargs.archive_number)
    _check_position(meter, layout, kwargs.archive_number, kwargs.control_position)
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
    meter = verified(meter, kwargs.verify)
    archive, position = kwargs.archive_number, kwargs.control_position
    layout = await meter.layout(archive)
    _check_position(meter, layout, archive, position)
    start = _counted_back(moment, kwargs.offset_seconds)
    held = meter.held(archive)
    read = None
    if held is not None and held.start <= start <= held.through:
        read = await _read_after(meter, layout, archive, position, held)
    if read is not None and held is not None:
        begin = held.start
    else:
        read, begin = await _read_window(meter, layout, archive, position, start, None), start
    return dataclasses.replace(_answer(meter, archive, read), archive=archive, held=_held_with(read, begin, held))


async def read_archive_since_last(meter: Meter, moment: Moment, kwargs: ReadArchiveSinceLast) -> Answer:
    """Read the rows that are not held yet; while none is, all, or those of ``offset_seconds`` before the run's tick.

    Raises:
        CallError: when ``control_position`` is not the time column.
        LayoutError: when no column of the archive holds a time.
        MeterRefusal: when the meter says no.
    """
    meter = verified(meter, kwargs.verify)
    archive = kwargs.archive_number
    read, held = await _read_new(meter, moment, archive, kwargs.control_position, kwargs.offset_seconds)
    return dataclasses.replace(_answer(meter, archive, read), archive=archive, held=held)


async def read_events(meter: Meter, moment: Moment, kwargs: ReadEvents) -> Answer:
    """Read the entries of a log book or audit trail that are not held yet, as events.

    Raises:
        CallError: when the archive holds measured values: to remember its rows as held would lose those.
        LayoutError: when no column of the archive holds a time.
        MeterRefusal: when the meter says no.
    """
    meter = verified(meter, kwargs.verify)
    logger = is_logger(meter.model)
    archive = kwargs.archive_number or (LOGGER_LOG_BOOK if logger else LOG_BOOK)
    read, held = await _read_new(meter, moment, archive, None, kwargs.offset_seconds)
    if read.columns is not None and not read.columns.log_book:
        raise CallError(
            "task_kwargs.archive_number",
            f"archive {archive} of this meter holds measured values; read_archive_since_last brings its events, too",
        )
    return dataclasses.replace(_answer(meter, archive, read), archive=archive, held=held)


@dataclasses.dataclass(frozen=True, slots=True)
class _Read:
    """What an archive answered: its columns, rows with their instants in the archive's order, and damaged rows.

    ``before`` is the row before the first one, if it came, too; ``empty`` how the meter said that there is no row.
    """

    columns: Columns | None = None
    rows: Sequence[tuple[Row, dt.datetime]] = ()
    damaged: Sequence[DamagedRow] = ()
    before: Row | None = None
    empty: str = ""

    @property
    def faults(self) -> list[str]:
        """What is wrong with columns of rows that hold together."""
        return [row.problem for row, _ in self.rows if row.faults]

    @property
    def trouble(self) -> tuple[int, int]:
        """How much of it cannot be used; the lower, the better."""
        return len(self.damaged), len(self.faults)


async def _read_new(
    meter: Meter, moment: Moment, archive: int, position: int | None, offset_seconds: int | None
) -> tuple[_Read, Held | None]:
    """The rows that are not held yet, and what is held with them."""
    layout = await meter.layout(archive)
    if position is None:
        position = _time_position(meter, layout, archive)
    else:
        _check_position(meter, layout, archive, position)
    held = meter.held(archive)
    read = None if held is None else await _read_after(meter, layout, archive, position, held)
    begin = held.start if held else BEFORE_ALL
    if read is None:
        # Nothing is held, or the meter has its last row no more: what was overwritten since cannot be read again.
        start = held.through if held else None
        if start is None and offset_seconds is not None:
            start = begin = _counted_back(moment, offset_seconds)
        read = await _read_window(meter, layout, archive, position, start, None)
    return read, _held_with(read, begin, held)


def _counted_back(moment: Moment, seconds: int) -> dt.datetime:
    """So many seconds before the run's tick, or before the last one that was done if some were missed since."""
    counted_from = moment.reference if moment.since is None else min(moment.since, moment.reference)
    return counted_from - dt.timedelta(seconds=seconds)


def _held_with(read: _Read, begin: dt.datetime, held: Held | None) -> Held | None:
    """What is held once these rows are; None where the archive has no numbers to go on by."""
    if not read.rows:
        return held
    last, through = read.rows[-1]
    return None if last.number is None else Held(begin, through, last.number)


async def _read_window(
    meter: Meter, layout: Layout, archive: int, position: int, start: dt.datetime | None, end: dt.datetime | None
) -> _Read:
    """The rows stamped from ``start`` to ``end`` in UTC, both included; None is open."""
    if start is None:
        return await _read_rows(meter, layout, archive, position, ("", ""))
    low, high = meter_window(meter.zone, start, end)
    limits = format_datetime(low), "" if high is None else format_datetime(high)
    read = await _read_rows(meter, layout, archive, position, limits)
    inside = [(row, at) for row, at in read.rows if start <= at and (end is None or at <= end)]
    earlier = [row for row, at in read.rows if at < start]
    return dataclasses.replace(read, rows=inside, before=earlier[-1] if earlier else None)


async def _read_after(meter: Meter, layout: Layout, archive: int, position: int, held: Held) -> _Read | None:
    """The rows after the last one that is held; None if that row is not there any more as it was.

    They are asked for by number where the archive has one, because rows that were stamped after the meter's clock was
    put back have earlier times. A number may begin again at 1, so nothing new by number is asked for by time, too.
    Where the archive has gone round since, and that row was overwritten, all that it has comes by number: once.
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
            if compared != position and await _is_all_that_came_since(meter, layout, archive, position, read, held):
                return read
            continue
        last = last_held.index((held.through_number, held.through))
        after = read.rows[last + 1 :]
        found = dataclasses.replace(read, rows=after, before=read.rows[last][0])
        if after:
            break
    return found


async def _is_all_that_came_since(
    meter: Meter, layout: Layout, archive: int, position: int, read: _Read, held: Held
) -> bool:
    """Whether the last row held was overwritten, and these are all rows after it: later ones by number and by time.

    Rows whose numbers began again after the last of these are not among them; they would have a later time.
    """
    numbers = [row.number for row, at in read.rows if row.number is not None and at > held.through]
    if not numbers or len(numbers) < len(read.rows) or min(numbers) <= held.through_number:
        return False
    low, _ = meter_window(meter.zone, read.rows[-1][1])
    newest = await _read_rows(meter, layout, archive, position, (format_datetime(low), ""))
    return all(row.number is not None and row.number >= min(numbers) for row, _ in newest.rows)


async def _read_rows(
    meter: Meter, layout: Layout, archive: int, position: int, limits: tuple[str, str], held: Held | None = None
) -> _Read:
    """Read and resolve rows; once more if one of them is not whole, because a line's noise may pass its block check."""
    read = await _read_once(meter, layout, archive, position, limits, held)
    if any(read.trouble):
        again = await _read_once(meter, layout, archive, position, limits, held)
        read = min(again, read, key=lambda attempt: attempt.trouble)
    return read


async def _read_once(
    meter: Meter, layout: Layout, archive: int, position: int, limits: tuple[str, str], held: Held | None
) -> _Read:
    whole = list[str]()
    try:
        async for block in meter.rows(archive, position, *limits):
            whole.append(packed(block))
            del block  # nothing else of it is kept while the next one is waited for
    except MeterRefusal as refusal:
        if refusal.code not in _EMPTY or whole:
            raise
        return _Read(empty=str(refusal))
    if not whole:
        return _Read()
    if _is_last(whole, held):
        await meter.enough()
    texts = [row for block in whole for row in unpacked(block)]
    found = columns(completed(layout, meter.model, archive, texts), texts)
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


def _is_last(whole: Sequence[str], held: Held | None) -> bool:
    """Whether nothing else is asked if these rows are whole: always, but for those after the last one that is held.

    There more is asked if it is not among them, or has none behind it (see ``_read_after``).
    """
    if held is None:
        return True
    rows = [row for block in whole for row in unpacked(block)]
    return len(rows) > 1 and str(held.through_number) in {text.strip().lstrip("0") for text in rows[0]}


def _answer(meter: Meter, archive: int, read: _Read) -> Answer:
    if read.columns is None:
        return Answer(result={"rows": 0, **({"answer": read.empty} if read.empty else {})})
    problems = [f"archive {archive}: {problem}" for problem in (*map(str, read.damaged), *read.faults)]
    return Answer(
        values=readings(read.columns, read.rows, archive=archive, mappings=meter.mappings, zone=meter.zone),
        events=events(read.columns, read.rows, model=meter.model, before=read.before),
        result={"rows": len(read.rows), **({"damaged": problems} if problems else {})},
        problems=problems,
    )


def _check_position(meter: Meter, layout: Layout, archive: int, position: int) -> None:
    """The column that dates are compared with must be the time column, as far as it is known which that is."""
    time = _known_time(meter, layout, archive)
    if time is not None and time + 1 != position:
        raise CallError(
            "task_kwargs.control_position",
            f"{position} is not the time column of archive {archive} of this meter; expected {time + 1}",
        )


def _time_position(meter: Meter, layout: Layout, archive: int) -> int:
    time = _known_time(meter, layout, archive)
    if time is None:
        raise LayoutError(f"which column of archive {archive} is the time is not told: give control_position")
    return time + 1


def _known_time(meter: Meter, layout: Layout, archive: int) -> int | None:
    """Where the time stands by the meter's own columns, or by those that such a meter is known to have."""
    if layout.sources or layout.names:
        return time_column(layout)
    known = known_layouts(meter.model, archive)
    if not known:
        raise LayoutError(f"the meter tells nothing of the columns of archive {archive}")
    times = {time_column(one) for one in known}
    return times.pop() if len(times) == 1 else None
