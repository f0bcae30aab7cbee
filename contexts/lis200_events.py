"""What a LIS-200 meter logged: rows to events with their meanings. Pure functions. Source: LIS-200 fact sheet 5.3."""

import datetime as dt
from collections.abc import Iterable, Sequence

from contexts.lis200_columns import Columns
from contexts.lis200_rows import Row
from contexts.meters import LoggedEvent
from protocol.iec62056.codes import event_title

MAX_TITLE, MAX_CONTENT = 50, 500
"""Characters of a MeterSystemEvent's title and content."""

SUMMER_BEGINS, SUMMER_ENDS = 0x3F02, 0x1F02
"""Events of the summer time message in the system status. Source: LIS-200 fact sheet 5.3."""

_BOUNDARY_EVENTS = 0x81


def events(found: Columns, rows: Iterable[tuple[Row, dt.datetime]]) -> list[LoggedEvent]:
    """What the event column tells: in a log book everything, elsewhere all but the period's boundaries (``0x81nn``)."""
    logged = []
    for row, instant in rows:
        if row.event is None or (row.event >> 8 == _BOUNDARY_EVENTS and not found.log_book):
            continue
        title = event_title(row.event)
        code = f"0x{row.event:04X}"
        shown = title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 3]}..."
        logged.append(LoggedEvent(instant, code, shown, f"{code} {title}"[:MAX_CONTENT]))
    return logged


def summer_by_events(rows: Sequence[Row]) -> list[bool | None]:
    """Per row, whether summer time was active by the events that the rows themselves log; None where none tells."""
    states: list[bool | None] = []
    state: bool | None = None
    for row in rows:
        if row.event in {SUMMER_BEGINS, SUMMER_ENDS}:
            if state is None:
                states = [row.event == SUMMER_ENDS] * len(states)
            state = row.event == SUMMER_BEGINS
        states.append(state)
    return states
