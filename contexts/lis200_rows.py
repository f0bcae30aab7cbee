"""What the rows of a LIS-200 archive mean: columns found by the meter's own words, rows to readings and events.

Rules: pure functions. Columns are found by source address first, by name second, by what stands in the rows last,
because layouts differ by firmware and the same name means opposite things in two languages (fact sheet 3.5). A row that
does not hold together is never half used: it is a ``DamagedRow`` that keeps its text.

What becomes a reading: a column with a source whose object is a quantity, right of the row's time.

* A total (objects 200 to 203, 300 to 302) is in the series of its address, ``2:300``.
* Everything else is in the series of address and archive, ``7:310/3``; a second column of the same source in one
  archive (the minimum beside the maximum) in ``7:310#2/2``.
* Every reading of a row is stamped with the row's time, the end of its period. Only where a maximum is followed by a
  time column of the *same* source (value, time, status in month archives) is it stamped with that: a time column
  without a source, or with another one, does not say whose time it is.
* Row numbers, states, locks, texts and times are no readings, nor is anything in an audit trail.
"""

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from zoneinfo import ZoneInfo

from contexts.lis200_times import candidates
from contexts.meters import Layout, LoggedEvent, Value
from protocol.iec62056.codes import event_title
from protocol.iec62056.errors import RemoteProtocolError, UnreadableValue
from protocol.iec62056.lis200 import (
    Address,
    normalise_unit,
    parse_datetime,
    parse_decimal,
    parse_event_code,
    parse_status,
    parse_value,
)

TOTALS = frozenset({"200", "201", "202", "203", "300", "301", "302"})
"""Objects that count up for ever, wherever they are read. Source: LIS-200 fact sheet 4."""

NO_QUANTITIES = frozenset(
    {"000", "100", "110", "111", "170", "171", "174", "180", "181", "190", "191", "1F8", "222", "400", "40F"}
)
"""Objects that hold states, locks, serial and row numbers, and times, though digits may stand there. Fact sheet 4."""

SUMMER_TIME = 16
"""Message of the system status while summer time is active. Source: LIS-200 fact sheet 5.2."""

MAX_TITLE, MAX_CONTENT = 50, 500
"""Characters of a MeterSystemEvent's title and content."""

SUMMER_BEGINS, SUMMER_ENDS = 0x3F02, 0x1F02
"""Events of the summer time message in the system status. Source: LIS-200 fact sheet 5.3."""

Test = Callable[[str], bool]

_TIME_NAMES = frozenset({"zeit", "time", "date", "datum"})
_NUMBER_NAMES = frozenset({"aonr", "aono", "aonum"})
_CHECK_NAMES = frozenset({"check", "crc", "chk"})
_EVENT_NAMES = frozenset({"er", "ev", "event", "ereignis", "evnt"})
_SYSTEM_STATUS_NAMES = frozenset({"stsy", "st.sy", "sysst"})
_STATUS_NAME = re.compile(r"st(\.?\d+|\.?sy|atus)?", re.IGNORECASE)
_NUMBER_LIKE = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|s?nan\d*)", re.ASCII | re.IGNORECASE)
_AUDITED = re.compile(r"\d{4}:[0-9A-Fa-f]{4}")
_NUMBER_SOURCE, _EVENT_SOURCE, _GLOBAL_NUMBER, _CLOCK, _SYSTEM_STATUS = "A20", "A22", "1:1F8", "1:400", "2:100"
_BOUNDARY_EVENTS = 0x81


class LayoutError(RemoteProtocolError):
    """The archive has no columns that its rows could be read by; the text says what is missing."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column that becomes readings. ``own_time`` is the column with the time of a maximum, if it has one."""

    position: int
    source: str
    unit: str
    total: bool
    own_time: int | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row what stands; positions count from 0."""

    count: int
    time: int
    number: int | None
    check: int | None
    event: int | None
    system_status: int | None
    quantities: tuple[Quantity, ...]

    @property
    def log_book(self) -> bool:
        """Whether this archive is there for its events alone."""
        return not self.quantities


@dataclass(frozen=True, slots=True)
class Row:
    """A row that holds together. ``summer`` is whether its system status shows summer time, if it has one."""

    texts: tuple[str, ...]
    local: dt.datetime
    number: int | None
    event: int | None
    summer: bool | None


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A row that cannot be believed: its text as delivered, and why."""

    texts: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return f"damaged row {''.join(f'({text})' for text in self.texts)}: {self.why}"


def is_quantity(address: Address) -> bool:
    """Whether a number at this address is a measured or counted value, and not a state, a lock, a text or a time."""
    return address.object not in NO_QUANTITIES and not address.object.startswith("A") and address.object != "V"


def is_total(address: Address) -> bool:
    """Whether this address is a total, the same series whichever archive or single read it comes from."""
    return address.object in TOTALS


def is_number_like(text: str) -> bool:
    """Whether this is a number, or would be one if it were finite and not too long (``NaN``, ``1E+400000``)."""
    return _NUMBER_LIKE.fullmatch(text.strip()) is not None


def series_name(mappings: Mapping[tuple[int, str], str], archive: int, source: str, *, total: bool) -> str:
    """The series of a quantity: what the device's config maps it to, else its address (and archive).

    ``archive`` is 0 for a single read. A total is looked up under archive 0, unless a mapping singles out this archive.
    """
    mapped = mappings.get((archive, source)) or (mappings.get((0, source)) if total else None)
    if mapped is not None:
        return mapped
    return source if total or not archive else f"{source}/{archive}"


def time_column(layout: Layout) -> int | None:
    """Position, from 0, of the column with the rows' time, as far as the layout itself says it."""
    for position, address in enumerate(_addresses(layout)):
        if address is not None and address.core == _CLOCK:
            return position
    return _named(layout, _TIME_NAMES)


def number_column(layout: Layout, time: int | None) -> int | None:
    """Position of the archive's own row number; on TC, which have one number only, the global one (fact sheet 3.5)."""
    addresses = _addresses(layout)
    for position, address in enumerate(addresses):
        if address is not None and address.object == _NUMBER_SOURCE:
            return position
    named = _named(layout, _NUMBER_NAMES)
    if named is not None:
        return named
    for position, address in enumerate(addresses):
        if address is not None and address.core == _GLOBAL_NUMBER:
            return position
    return time - 1 if time else None


def columns(layout: Layout, rows: Sequence[Sequence[str]] = ()) -> Columns:
    """Find the columns of an archive; ``rows`` are what the layout does not tell is found by.

    Raises:
        LayoutError: when no column holds the rows' time.
    """
    addresses = _addresses(layout)
    count = len(addresses)
    sample = [row for row in rows if len(row) >= count]
    time = time_column(layout)
    if time is None:
        time = next((at for at in range(count) if _mostly(sample, at, _is_time)), None)
    if time is None:
        raise LayoutError(f"none of the {count} columns {' '.join(layout.names) or '(without names)'} holds a time")
    audit = any(_mostly(sample, at, _is_audited) for at in range(count))
    event = None if audit else _event_column(layout, addresses, sample)
    check = _check_column(layout, addresses, {time, event})
    skipped = {time, check, event}
    return Columns(
        count=count,
        time=time,
        number=number_column(layout, time),
        check=check,
        event=event,
        system_status=_system_status_column(layout, addresses),
        quantities=() if audit else tuple(_quantities(layout, addresses, time, skipped, sample)),
    )


def read_row(found: Columns, texts: Sequence[str]) -> Row | DamagedRow:
    """Check one row in all that it offers: its groups, check column, time, number, event and quantities.

    The block check of the line lets errors through, so whatever does not hold together makes the row a DamagedRow.
    """
    row = tuple(text.strip() for text in texts)
    try:
        _check(found, row)
        for quantity in found.quantities:
            _number(quantity, row[quantity.position])
        return Row(
            texts=row,
            local=parse_datetime(row[found.time]),
            number=None if found.number is None else int(parse_decimal(row[found.number])),
            event=None if found.event is None or not row[found.event] else parse_event_code(row[found.event]),
            summer=_summer(found, row),
        )
    except UnreadableValue as error:
        return DamagedRow(row, f"{error.text!r} is not {error.expected}")


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
        for quantity, name in names.items():
            number = _number(quantity, row.texts[quantity.position])
            if number is not None:
                stamp = _own_time(quantity, row, zone) or instant
                values.setdefault((name, stamp, number), Value(name, number, quantity.unit, stamp))
    return list(values.values())


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


def _addresses(layout: Layout) -> list[Address | None]:
    count = max(len(layout.sources), len(layout.names), len(layout.units))
    return [_address(_at(layout.sources, position)) for position in range(count)]


def _address(source: str) -> Address | None:
    try:
        return Address.parse(source) if source.strip() else None
    except UnreadableValue:
        return None


def _at(texts: Sequence[str], position: int) -> str:
    return texts[position].strip() if position < len(texts) else ""


def _named(layout: Layout, names: frozenset[str]) -> int | None:
    return next((at for at, name in enumerate(layout.names) if name.strip().lower() in names), None)


def _check_column(layout: Layout, addresses: Sequence[Address | None], taken: set[int | None]) -> int | None:
    """The column of that name, else the last one if it is nothing else: some layouts leave the check out."""
    named = _named(layout, _CHECK_NAMES)
    if named is not None:
        return named
    last = len(addresses) - 1
    address = addresses[last]
    if last in taken or _STATUS_NAME.fullmatch(_at(layout.names, last)) or (address and is_quantity(address)):
        return None
    return last


def _event_column(layout: Layout, addresses: Sequence[Address | None], sample: Sequence[Sequence[str]]) -> int | None:
    for position, address in enumerate(addresses):
        if address is not None and address.object == _EVENT_SOURCE:
            return position
    named = _named(layout, _EVENT_NAMES)
    if named is not None:
        return named
    return next((at for at in range(len(addresses)) if _mostly(sample, at, _is_event)), None)


def _system_status_column(layout: Layout, addresses: Sequence[Address | None]) -> int | None:
    named = _named(layout, _SYSTEM_STATUS_NAMES)
    if named is not None:
        return named
    return next((at for at, address in enumerate(addresses) if address and address.core == _SYSTEM_STATUS), None)


def _quantities(
    layout: Layout,
    addresses: Sequence[Address | None],
    time: int,
    skipped: set[int | None],
    sample: Sequence[Sequence[str]],
) -> Iterable[Quantity]:
    own_times = {at for at in range(time + 1, len(addresses)) if at not in skipped and _mostly(sample, at, _is_time)}
    seen: Counter[str] = Counter()
    for position, address in enumerate(addresses):
        if position <= time or position in skipped or position in own_times:
            continue
        unit = normalise_unit(_at(layout.units, position))
        # The column after a maximum's time is that maximum's status, whatever its source says.
        is_status = _STATUS_NAME.fullmatch(_at(layout.names, position)) or (position - 1 in own_times and not unit)
        if address is None or is_status or not is_quantity(address):
            continue
        if not unit and not _any(sample, position, is_number_like):
            continue
        seen[address.core] += 1
        repeated = seen[address.core]
        total = is_total(address) and repeated == 1
        yield Quantity(
            position=position,
            source=address.core if repeated == 1 else f"{address.core}#{repeated}",
            unit=unit,
            total=total,
            own_time=position + 1 if not total and position + 1 in own_times and _same(addresses, position) else None,
        )


def _same(addresses: Sequence[Address | None], position: int) -> bool:
    """Whether the next column tells of the same object."""
    this, following = addresses[position], addresses[position + 1]
    return this is not None and following is not None and this.core == following.core


def _is_audited(text: str) -> bool:
    """An audit trail has a column with the address of what was changed; its old and new values are no readings."""
    return _AUDITED.fullmatch(text) is not None


def _mostly(sample: Sequence[Sequence[str]], position: int, test: Test) -> bool:
    """Whether most of a column passes: a damaged row among the others must not change what the column is."""
    texts = [text for row in sample if (text := row[position].strip())]
    return bool(texts) and 2 * sum(map(test, texts)) > len(texts)


def _any(sample: Sequence[Sequence[str]], position: int, test: Test) -> bool:
    return not sample or any(test(row[position].strip()) for row in sample)


def _is_time(text: str) -> bool:
    try:
        parse_datetime(text)
    except UnreadableValue:
        return False
    return True


def _is_event(text: str) -> bool:
    try:
        parse_event_code(text)
    except UnreadableValue:
        return False
    return True


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
    if quantity.own_time is None or not _is_time(row.texts[quantity.own_time]):
        return None
    return candidates(zone, parse_datetime(row.texts[quantity.own_time]))[0]
