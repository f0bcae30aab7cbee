"""What a DataNotification brings: registers by OBIS code with their values, the meter's time, the meter's name.

Pushes come in these forms, told apart by what they are made of:
- names beside values: an OBIS code as an octet string of 6 bytes, the value, and often a structure of scaler and unit;
- the push object list first, then a value for each of its entries (attribute 2, and 3 for scaler and unit);
- values alone, or rows of them: what they are is said by ``Column`` texts of the receiver's kwargs.
Source: IEC 62056-6-1 (OBIS), IEC 62056-6-2 4.3.2 scaler_unit, 4.4.8 push setup.
"""

import dataclasses
import decimal
import re
from collections.abc import Iterator, Mapping, Sequence

from receivers.axdr import DATE_TIME_BYTES, Enum, Stamp, UnreadableDataError, Value, read_stamp

OBIS_BYTES = 6
CLOCK = "0-0:1.0.0"
IDENTITIES = ("0-0:42.0.0", "0-0:96.1.0", "0-0:96.1.1")
"""Logical device name and device ids: what a payload without a system title calls its meter."""

_ANY_PERIOD = 255
_LAST_PERIOD = 99
_CAPTURE_FIELDS = 4
_VALUE, _SCALER_UNIT = 2, 3
_OBIS = re.compile(r"\d{1,3}-\d{1,3}:\d{1,3}\.\d{1,3}\.\d{1,3}(\*\d{1,3})?")
_SCALE = re.compile(r"e-?\d{1,2}")

_KILO = {27: "kW", 28: "kVA", 29: "kvar", 30: "kWh", 31: "kVAh", 32: "kvarh"}
_TEXTS = (
    "4 d,5 h,6 min,7 s,8 deg,9 °C,13 m3,14 m3,15 m3/h,16 m3/h,17 m3/d,18 m3/d,19 l,20 kg,23 Pa,24 bar,25 J,26 J/h,"
    "33 A,35 V,38 Ohm,44 Hz,52 K,56 %,57 Ah,70 dBm"
)
_UNITS = {int(number): unit for number, _, unit in (text.partition(" ") for text in _TEXTS.split(","))}
"""Units by their number; energies and powers come in thousands. IEC 62056-6-2 table 4."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """What one value is: its series (an OBIS code), or the row's time, or nothing to be taken."""

    series: str
    scale: int = 0
    unit: str = ""


SKIPPED = Column("-")
ROW_TIME = Column("clock")


def parse_column(text: str) -> Column:
    """Read a column: ``clock``, ``-``, or a code with scale and unit where the meter does not say them.

    ``1-0:1.8.0 e-3 kWh`` has a thousandth for each count.

    Raises:
        ValueError: when it is none of these.
    """
    name, *more = text.split()[:4] or [""]
    if not more and name in {SKIPPED.series, ROW_TIME.series}:
        return Column(name)
    if not _OBIS.fullmatch(name):
        raise ValueError(f"{text[:40]!r} is neither clock nor - nor an OBIS code such as '1-0:1.8.0 e-3 kWh'")
    scale = int(more.pop(0)[1:]) if more and _SCALE.fullmatch(more[0]) else 0
    unit = more.pop(0) if more else ""
    if more or len(unit) > 10 or not unit.isprintable():  # noqa: PLR2004 - as long as a series' unit may be
        raise ValueError(f"{text[:40]!r}: behind the code come only a scale such as e-3 and a unit such as kWh")
    return Column(name, scale, unit)


@dataclasses.dataclass(frozen=True, slots=True)
class Register:
    """One value, scaled; ``stamp`` is the time of its row, where it has one of its own."""

    series: str
    value: decimal.Decimal
    unit: str
    stamp: Stamp | None = None


@dataclasses.dataclass(slots=True)
class Content:
    """What a body has."""

    registers: list[Register] = dataclasses.field(default_factory=list)
    clock: Stamp | None = None
    identity: str = ""


def obis_text(code: bytes) -> str:
    """Return an OBIS code as text; the last group only where it says something."""
    a, b, c, d, e, f = code
    return f"{a}-{b}:{c}.{d}.{e}" + ("" if f == _ANY_PERIOD else f"*{f}")


def read_content(body: Value, columns: Sequence[Column], registers: Mapping[str, Column]) -> Content:
    """Find the values of a body.

    Args:
        body: the data of a DataNotification.
        columns: what the values are, in their order, where the meter does not name them; else empty.
        registers: scale and unit of registers that come without, by their codes.

    Raises:
        UnreadableDataError: when a body with columns does not have as many values.
    """
    content = Content()
    if columns:
        _read_rows(body, columns, content)
    elif (captures := _captures(body)) and isinstance(body, list):
        _read_captured(body, captures, registers, content)
    else:
        _walk(body, registers, content)
    return content


# Values alone


def _read_rows(body: Value, columns: Sequence[Column], content: Content) -> None:
    for row in _rows(body):
        if len(row) != len(columns):
            raise UnreadableDataError(f"a row of {len(row)} values, where {len(columns)} columns are configured")
        stamps = [_stamp(value) for column, value in zip(columns, row, strict=True) if column.series == "clock"]
        stamp = stamps[0] if stamps else None
        for column, value in zip(columns, row, strict=True):
            if column.series in {SKIPPED.series, ROW_TIME.series} or value is None:
                continue
            if not isinstance(value, decimal.Decimal):
                raise UnreadableDataError(f"{column.series}: no number in its column")
            content.registers.append(Register(column.series, value.scaleb(column.scale), column.unit, stamp))


def _rows(body: Value) -> Iterator[list[Value]]:
    """Yield the innermost lists; a body that is one value is a row of one."""
    if not isinstance(body, list):
        yield [body]
    elif any(isinstance(item, list) for item in body):
        for item in body:
            yield from _rows(item)
    else:
        yield body


# The push object list, and values in its order


@dataclasses.dataclass(frozen=True, slots=True)
class _Capture:
    series: str
    attribute: int


def _captures(body: Value) -> list[_Capture]:
    """Return the entries of the push object list, if the body begins with that of itself."""
    if not isinstance(body, list) or not body or not isinstance(body[0], list):
        return []
    found = [_capture(item) for item in body[0]]
    known = [capture for capture in found if capture is not None]
    return known if known and len(known) == len(found) == len(body) else []


def _capture(item: Value) -> _Capture | None:
    if not isinstance(item, list) or len(item) < _CAPTURE_FIELDS:
        return None
    class_id, code, attribute, _ = item[:_CAPTURE_FIELDS]
    if not isinstance(class_id, decimal.Decimal) or not isinstance(attribute, decimal.Decimal):
        return None
    return _Capture(obis_text(code), int(attribute)) if isinstance(code, bytes) and len(code) == OBIS_BYTES else None


def _read_captured(
    body: list[Value], captures: list[_Capture], registers: Mapping[str, Column], content: Content
) -> None:
    scalers = {
        capture.series: scaler
        for capture, value in zip(captures, body, strict=True)
        if capture.attribute == _SCALER_UNIT and (scaler := _scaler_unit(value)) is not None
    }
    for capture, value in zip(captures, body, strict=True):
        if capture.attribute == _VALUE:
            _take(capture.series, value, scalers.get(capture.series), registers, content)


# Names beside values


def _walk(item: Value, registers: Mapping[str, Column], content: Content) -> None:
    if not isinstance(item, list):
        content.clock = content.clock or _stamp(item)
        return
    if _capture(item) is not None:
        # It says what is captured, and has no value itself.
        return
    position = 0
    while position < len(item):
        code, position = item[position], position + 1
        if not _is_obis(code) or position == len(item):
            _walk(code, registers, content)
            continue
        value, position = item[position], position + 1
        scaler = _scaler_unit(item[position]) if position < len(item) else None
        position += scaler is not None
        _take(obis_text(code) if isinstance(code, bytes) else "", value, scaler, registers, content)


def _is_obis(item: Value) -> bool:
    return isinstance(item, bytes) and len(item) == OBIS_BYTES and (item[5] <= _LAST_PERIOD or item[5] == _ANY_PERIOD)


def _take(
    series: str,
    value: Value,
    scaler: tuple[int, int] | None,
    registers: Mapping[str, Column],
    content: Content,
) -> None:
    """Keep what a named value says."""
    if series == CLOCK:
        content.clock = _stamp(value) or content.clock
    elif series in IDENTITIES:
        content.identity = content.identity or _name(value)
    elif isinstance(value, list):
        _walk(value, registers, content)
    elif isinstance(value, decimal.Decimal):
        if scaler is not None:
            exponent, number = scaler
            kilo = _KILO.get(number)
            unit = kilo or _UNITS.get(number, "")
            content.registers.append(Register(series, value.scaleb(exponent - (3 if kilo else 0)), unit))
        else:
            column = registers.get(series, Column(series))
            content.registers.append(Register(series, value.scaleb(column.scale), column.unit))


def _scaler_unit(item: Value) -> tuple[int, int] | None:
    if not isinstance(item, list) or len(item) != 2:  # noqa: PLR2004 - scaler and unit
        return None
    scaler, unit = item
    if not isinstance(scaler, decimal.Decimal) or not isinstance(unit, Enum):
        return None
    return int(scaler), unit.value


def _stamp(item: Value) -> Stamp | None:
    if isinstance(item, Stamp):
        return item
    if not isinstance(item, bytes) or len(item) != DATE_TIME_BYTES:
        return None
    try:
        return read_stamp(item)
    except UnreadableDataError:
        return None


def _name(value: Value) -> str:
    text = ""
    if isinstance(value, str):
        text = value
    elif isinstance(value, bytes):
        try:
            text = value.decode("ascii")
        except UnicodeDecodeError:
            text = value.hex()
    text = text.strip("\0 ")
    return text[:50] if text.isprintable() else ""
