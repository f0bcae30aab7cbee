"""What the rows of a LIS-200 archive mean: columns found by the meter's own words, rows to readings and events.

Rules: pure functions. Columns are found by source address first, by name second, by what stands in the rows last,
because layouts differ by firmware and the same name means opposite things in two languages (fact sheet 3.5). A row
whose length, check, number or time is wrong is not used at all: it is a ``DamagedRow`` that keeps its text. In a row
that holds together a column that is not what it should be costs itself only: it is a ``Fault`` of the row.

What becomes a reading: a column with a source whose object is a quantity, right of the row's time.

* A total (objects 200 to 203, 300 to 302) is in the series of its address, ``2:300``.
* Everything else is in the series of address and archive, ``7:310/3``; a second column of the same source in one
  archive (the minimum beside the maximum) in ``7:310#2/2``.
* Every reading of a row is stamped with the row's time, the end of its period. Only a maximum is stamped with the time
  in the column behind it: one of the *same* source, or one without a source that a status follows (value, time, status
  in month archives). Any other time column does not say whose time it is.
* Row numbers, states, locks, texts and times are no readings, nor is anything in an audit trail.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from zoneinfo import ZoneInfo

from contexts.lis200_columns import Columns, Quantity, is_number_like, is_time, series_name
from contexts.lis200_times import candidates
from contexts.meters import Value
from protocol.iec62056.errors import UnreadableValue
from protocol.iec62056.lis200 import parse_datetime, parse_decimal, parse_event_code, parse_status, parse_value

SUMMER_TIME = 16
"""Message of the system status while summer time is active. Source: LIS-200 fact sheet 5.2."""

_BETWEEN_GROUPS, _BETWEEN_ROWS = "(", ")"
"""Stand in no group, because groups stand in brackets."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A column that is not what it should be, in a row that holds together; ``position`` counts from 0."""

    position: int
    source: str
    text: str
    expected: str

    def __str__(self) -> str:
        named = f" ({self.source})" if self.source else ""
        return f"column {self.position + 1}{named} has {self.text!r}, which is not {self.expected}"


@dataclass(frozen=True, slots=True)
class Row:
    """A row that holds together. ``summer`` is whether its system status shows summer time, if it has one.

    ``numbers`` are those of the quantities, in their order; None where there is none. ``faults`` are its columns that
    are not used.
    """

    texts: tuple[str, ...]
    local: dt.datetime
    number: int | None
    event: int | None
    summer: bool | None
    numbers: tuple[Decimal | None, ...]
    faults: tuple[Fault, ...] = ()

    @property
    def problem(self) -> str:
        """What is wrong with some of its columns, with the raw text of the row; empty if nothing is."""
        if not self.faults:
            return ""
        whole = "".join(f"({text})" for text in self.texts)
        return f"row {whole}: {'; '.join(map(str, self.faults))}; its other columns count"


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A row that cannot be believed: its text as delivered, and why."""

    texts: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f"damaged row {''.join(f'({text})' for text in self.texts)}: {self.why}"


def read_row(found: Columns, texts: Sequence[str]) -> Row | DamagedRow:
    """Check one row in all that it offers: its groups, check column, time, number, event and quantities.

    The block check of the line lets errors through, so a row whose length, check, time or number is wrong is a
    DamagedRow; a value or event that is none costs its column.
    """
    row = tuple(text.strip() for text in texts)
    faults: list[Fault] = []
    numbers: list[Decimal | None] = []
    try:
        _check(found, row)
        local = parse_datetime(row[found.time])
        number = None if found.number is None else int(parse_decimal(row[found.number]))
    except UnreadableValue as error:
        return DamagedRow(row, f"{error.text!r} is not {error.expected}")
    for quantity in found.quantities:
        shown = None
        try:
            shown = _number(quantity, row[quantity.position])
            if quantity.own_time is not None and any(mark in row[quantity.own_time] for mark in "-:"):
                parse_datetime(row[quantity.own_time])  # not a time that cannot be: the value would get another one
        except UnreadableValue as error:
            faults.append(Fault(quantity.position, quantity.source, error.text, error.expected))
            shown = None
        numbers.append(shown)
    event = None
    if found.event is not None and row[found.event]:
        try:
            event = parse_event_code(row[found.event])
        except UnreadableValue as error:
            faults.append(Fault(found.event, "", error.text, error.expected))
    return Row(row, local, number, event, _summer(found, row), tuple(numbers), tuple(faults))


def readings(
    found: Columns,
    rows: Iterable[tuple[Row, dt.datetime]],
    *,
    archive: int,
    mappings: Mapping[tuple[int, str], str],
    zone: ZoneInfo,
) -> list[Value]:
    """The readings of rows whose instants are known, in the order of the rows.

    Two rows of one second may both be there (an event before and after); a value that only repeats one of them is left
    out, because it is the same reading.
    """
    names = {
        quantity: series_name(mappings, archive, quantity.source, total=quantity.total) for quantity in found.quantities
    }
    values: dict[tuple[str, dt.datetime, Decimal], Value] = {}
    for row, instant in rows:
        for (quantity, name), number in zip(names.items(), row.numbers, strict=True):
            if number is not None:
                stamp = _own_time(quantity, row, zone) or instant
                values.setdefault((name, stamp, number), Value(name, number, quantity.unit, stamp))
    return list(values.values())


def packed(rows: Iterable[Sequence[str]]) -> str:
    """Rows as one text, as long as more of them are waited for: a sixth of the memory that their groups take."""
    return _BETWEEN_ROWS.join(map(_BETWEEN_GROUPS.join, rows))


def unpacked(text: str) -> list[list[str]]:
    """The rows that were packed; at least one."""
    return [row.split(_BETWEEN_GROUPS) for row in text.split(_BETWEEN_ROWS)]


def _check(found: Columns, row: tuple[str, ...]) -> None:
    whole = "".join(f"({text})" for text in row)
    extra = len(row) == found.count + 1 and found.check is None
    if len(row) != found.count and not extra:
        raise UnreadableValue(whole, f"a row of {found.count} columns but has {len(row)}")
    at = found.count if extra else found.check
    if at is None:
        return
    text = row[at]
    if text.lower() != "crc ok" and not (text.isascii() and text.isdigit()):
        raise UnreadableValue(text, "the check text 'CRC Ok' or a decimal number")


def _number(quantity: Quantity, text: str) -> Decimal | None:
    """The exact value; None for a group without any digit, and for a text in a column that has no unit.

    ``NaN`` and its like are neither: they stand where a number belongs, so they raise UnreadableValue.
    """
    plain = parse_value(text).text.strip()
    if not is_number_like(plain) and not (quantity.unit and any(map(str.isdigit, plain))):
        return None
    return parse_decimal(plain)


def _summer(found: Columns, row: tuple[str, ...]) -> bool | None:
    if found.system_status is None:
        return None
    try:
        return SUMMER_TIME in parse_status(row[found.system_status])
    except UnreadableValue:
        return None


def _own_time(quantity: Quantity, row: Row, zone: ZoneInfo) -> dt.datetime | None:
    """When a maximum was, if the row says it; of the repeated hour the first pass, as nothing tells them apart."""
    if quantity.own_time is None or not is_time(row.texts[quantity.own_time]):
        return None
    return candidates(zone, parse_datetime(row.texts[quantity.own_time]))[0]
