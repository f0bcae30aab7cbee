"""Where in the rows of a LIS-200 archive what stands: columns found by the meter's own words.

Rules: pure functions. Columns are found by source address first, by name second, by what stands in the rows last,
because layouts differ by firmware and the same name means opposite things in two languages (fact sheet 3.5).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from contexts.meters import Layout
from protocol.iec62056.errors import RemoteProtocolError, UnreadableValue
from protocol.iec62056.lis200 import Address, normalise_unit, parse_datetime, parse_event_code

TOTALS = frozenset({"200", "201", "202", "203", "300", "301", "302"})
"""Objects that count up for ever, wherever they are read. Source: LIS-200 fact sheet 4."""

NO_QUANTITIES = frozenset(
    {"000", "100", "110", "111", "170", "171", "174", "180", "181", "190", "191", "1F8", "222", "400", "40F"}
)
"""Objects that hold states, locks, serial and row numbers, and times, though digits may stand there. Fact sheet 4."""

Test = Callable[[str], bool]

_TIME_NAMES = frozenset({"zeit", "time", "date", "datum"})
_NUMBER_NAMES = frozenset({"aonr", "aono", "aonum"})
_CHECK_NAMES = frozenset({"check", "crc", "chk"})
_EVENT_NAMES = frozenset({"er", "ev", "event", "ereignis", "evnt"})
_SYSTEM_STATUS_NAMES = frozenset({"stsy", "st.sy", "sysst"})
_STATUS_NAME = re.compile(r"st(\.?\d+|\.?sy|atus)?", re.IGNORECASE)
_STATUS_OF = re.compile(r"st\.?(\d+)", re.IGNORECASE)
_STATUS_OBJECT = "110"
_NUMBER_LIKE = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|s?nan\d*)", re.ASCII | re.IGNORECASE)
_AUDITED = re.compile(r"\d{4}:[0-9A-Fa-f]{4}")
_NUMBER_SOURCE, _EVENT_SOURCE, _GLOBAL_NUMBER, _CLOCK, _SYSTEM_STATUS = "A20", "A22", "1:1F8", "1:400", "2:100"


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
    statuses: tuple[tuple[int, int], ...] = ()
    """Columns with the messages of one status, and which (``St.2``)."""
    parameter: int | None = None
    """In an audit trail the column with the address of what was changed; its old and new value follow it."""

    @property
    def log_book(self) -> bool:
        """Whether this archive is there for its events alone."""
        return not self.quantities


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
        time = next((at for at in range(count) if _mostly(sample, at, is_time)), None)
    if time is None:
        raise LayoutError(f"none of the {count} columns {' '.join(layout.names) or '(without names)'} holds a time")
    parameter = next((at for at in range(count) if _mostly(sample, at, _is_audited)), None)
    audit = parameter is not None
    event = None if audit else _event_column(layout, addresses, sample)
    unnamed_check = 2 * sum(len(row) == count + 1 for row in rows) > len(rows)
    check = None if unnamed_check else _check_column(layout, addresses, {time, event})
    skipped = {time, check, event}
    return Columns(
        count=count,
        time=time,
        number=number_column(layout, time),
        check=check,
        event=event,
        system_status=_system_status_column(layout, addresses),
        quantities=() if audit else tuple(_quantities(layout, addresses, time, skipped, sample)),
        statuses=() if audit else tuple(_statuses(layout, addresses)),
        parameter=parameter,
    )


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


def _statuses(layout: Layout, addresses: Sequence[Address | None]) -> Iterable[tuple[int, int]]:
    for position, address in enumerate(addresses):
        named = _STATUS_OF.fullmatch(_at(layout.names, position))
        if address is not None and address.object == _STATUS_OBJECT:
            yield position, address.instance
        elif address is None and named is not None:
            yield position, int(named[1])


def _quantities(
    layout: Layout,
    addresses: Sequence[Address | None],
    time: int,
    skipped: set[int | None],
    sample: Sequence[Sequence[str]],
) -> Iterable[Quantity]:
    own_times = {at for at in range(time + 1, len(addresses)) if at not in skipped and _mostly(sample, at, is_time)}
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
        timed = not total and position + 1 in own_times and _belongs(layout, addresses, position)
        yield Quantity(
            position=position,
            source=address.core if repeated == 1 else f"{address.core}#{repeated}",
            unit=unit,
            total=total,
            own_time=position + 1 if timed else None,
        )


def _belongs(layout: Layout, addresses: Sequence[Address | None], position: int) -> bool:
    """Whether the time in the next column is that of the value at ``position``.

    It is if it has the same source; one without a source, or with the clock's, is if a status follows it: value, time,
    status is how month archives have their maxima, and nothing else is so. LIS-200 fact sheet 3.5.
    """
    this, following = addresses[position], addresses[position + 1]
    if this is not None and following is not None and this.core == following.core:
        return True
    status_follows = _STATUS_NAME.fullmatch(_at(layout.names, position + 2)) is not None
    return status_follows and (following is None or following.core == _CLOCK)


def _is_audited(text: str) -> bool:
    """An audit trail has a column with the address of what was changed; its old and new values are no readings."""
    return _AUDITED.fullmatch(text) is not None


def _mostly(sample: Sequence[Sequence[str]], position: int, test: Test) -> bool:
    """Whether most of a column passes: a damaged row among the others must not change what the column is."""
    texts = [text for row in sample if (text := row[position].strip())]
    return bool(texts) and 2 * sum(map(test, texts)) > len(texts)


def _any(sample: Sequence[Sequence[str]], position: int, test: Test) -> bool:
    return not sample or any(test(row[position].strip()) for row in sample)


def is_time(text: str) -> bool:
    """Whether this is a date and time as a meter writes it."""
    if "-" not in text:
        return False
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
