"""What a LIS-200 meter logged: rows to events with their meanings. Pure functions.

Rules: what becomes an event

* the event column: in a log book everything, elsewhere all but the ends of periods (``0x81nn``);
* a parameter that was changed (``0x83nn`` before, ``0x82nn`` after): the later of the two tells what differs;
* each entry of an audit trail: which object, from what to what, behind which open locks;
* an alarm or warning that a status column shows and the row before did not, or the other way round. Reports and
  information (messages from 9 on) are the log book's matter: they come and go with every readout.

Source: LIS-200 fact sheet 2.5, 3.5, 5.2, 5.3.
"""

import datetime as dt
from collections.abc import Iterable, Sequence

from contexts.lis200_columns import Columns
from contexts.lis200_kwargs import LOCK_CODE
from contexts.lis200_rows import Row
from contexts.meters import LoggedEvent
from protocol.iec62056.codes import LAST_WARNING, event_title, message_title, severity
from protocol.iec62056.errors import UnreadableValue
from protocol.iec62056.lis200 import Address, parse_status

HIDDEN = "***"
"""In place of a lock's code, as meters show it that hide it themselves. LIS-200 fact sheet 3.5."""

MAX_TITLE, MAX_CONTENT = 50, 500
"""Characters of a MeterSystemEvent's title and content."""

SUMMER_BEGINS, SUMMER_ENDS = 0x3F02, 0x1F02
"""Events of the summer time message in the system status. Source: LIS-200 fact sheet 5.3."""

PARAMETERS = {
    "1:400": "clock",
    "1:40F": "offset to UTC",
    "2:141": "begin of the gas day",
    "4:150": "measuring period",
    "1:253": "pulse value",
    "6:311": "substitute temperature",
    "6:311_1": "substitute temperature",
    "7:311": "substitute pressure",
    "8:311": "substitute K",
    "6:312": "base temperature",
    "7:312": "base pressure",
    "8:150": "warning limit",
    "8:158": "warning limit",
    "9:150": "warning limit",
    "9:158": "warning limit",
    "3:171": "supplier lock's code",
    "4:171": "customer lock's code",
}
"""What the objects are that are changed most. Source: LIS-200 fact sheet 4."""

_BOUNDARY, _AFTER, _BEFORE = 0x81, 0x82, 0x83
_LOCKS = {
    4: ("calibration", "manufacturer", "supplier", "customer"),
    3: ("calibration", "supplier", "customer"),
}
"""The columns of lock states, by how many there are. Source: LIS-200 fact sheet 3.5."""
_CLOCK_JUMP = dt.timedelta(seconds=2)


def events(
    found: Columns, rows: Iterable[tuple[Row, dt.datetime]], *, model: str = "", before: Row | None = None
) -> list[LoggedEvent]:
    """What rows in the archive's order tell.

    Args:
        found: The columns.
        rows: Rows with their instants.
        model: How the meter names itself: data loggers have other messages.
        before: The row before the first one, if it is known: what it showed already has not appeared now.
    """
    logged: list[LoggedEvent] = []
    for row, instant in rows:
        if found.parameter is not None:
            logged.append(_audited(found, found.parameter, row, instant))
        if row.event is not None and (row.event >> 8 != _BOUNDARY or found.log_book):
            title = event_title(row.event, model)
            told = f"{title}{_differences(found, before, row)}"
            code = f"0x{row.event:04X}"
            logged.append(LoggedEvent(instant, code, _short(title), _cut(f"{code} {told}")))
        if before is not None:
            logged += _appeared(found, before, row, instant, model)
        before = row
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


def _audited(found: Columns, parameter: int, row: Row, instant: dt.datetime) -> LoggedEvent:
    """An entry of an audit trail. A lock's code is hidden, whether the meter hides it (``***``) or not."""
    try:
        core = Address.parse(row.texts[parameter]).core
    except UnreadableValue:
        core = row.texts[parameter]
    end = found.count if found.check is None else found.check
    old, new, *states = (*row.texts[parameter + 1 : end], "", "")
    if f":{LOCK_CODE}" in core or core.endswith(f":0{LOCK_CODE}"):
        old = new = HIDDEN
    states = states[:-2]
    names = _LOCKS.get(len(states), ())
    locks = [name for name, state in zip(names, states, strict=False) if state.strip() not in {"", "0"}]
    known = f" ({PARAMETERS[core]})" if core in PARAMETERS else ""
    behind = f"; open locks: {', '.join(locks)}" if locks else ""
    return LoggedEvent(
        instant, core, _short(f"{core}{known} changed"), _cut(f"{core}{known} changed from {old!r} to {new!r}{behind}")
    )


def _differences(found: Columns, before: Row | None, after: Row) -> str:
    """What the row after a change of a parameter shows otherwise than the one before it."""
    if before is None or before.event is None or after.event is None:
        return ""
    if (before.event >> 8, after.event >> 8) != (_BEFORE, _AFTER) or before.event & 0xFF != after.event & 0xFF:
        return ""
    changes = []
    if not dt.timedelta(0) <= after.local - before.local <= _CLOCK_JUMP:
        changes.append(f"clock {before.local.isoformat(' ')} -> {after.local.isoformat(' ')}")
    for quantity in found.quantities:
        old, new = before.texts[quantity.position], after.texts[quantity.position]
        if old != new:
            changes.append(f"{quantity.source} {old} -> {new}")
    return f": {', '.join(changes)}" if changes else ""


def _appeared(found: Columns, before: Row, row: Row, instant: dt.datetime, model: str) -> Iterable[LoggedEvent]:
    for position, status in [*found.statuses, *([(found.system_status, None)] if found.system_status else [])]:
        if before.texts[position] == row.texts[position]:
            continue
        try:
            old, new = (set(parse_status(texts[position])) for texts in (before.texts, row.texts))
        except UnreadableValue:
            continue
        for message in sorted(old ^ new):
            if message > LAST_WARNING:
                continue
            edge, sign = ("appeared", "+") if message in new else ("ended", "-")
            name = "StSy" if status is None else f"St.{status}"
            meaning = message_title(message, status, model)
            yield LoggedEvent(
                instant,
                f"{name}:{message}{sign}",
                _short(f"{meaning}: {edge}"),
                _cut(
                    f"{severity(message)}: {meaning}: {edge} (message {message} in {name}, by the rows of an archive)"
                ),
            )


def _short(title: str) -> str:
    return title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 3]}..."


def _cut(content: str) -> str:
    return content if len(content) <= MAX_CONTENT else f"{content[: MAX_CONTENT - 3]}..."
