"""COSEM data in A-XDR: what a DLMS meter's bytes mean, as plain values. Sans-io, strict, bounded in depth and count.

Numbers become ``Decimal``, octet and bit strings ``bytes``, texts ``str``, structures and arrays lists, null None.
Floats become the shortest decimal that is the same float, which is what the meter's register shows. Compact arrays
are not read: no meter whose pushes are public sends them.
Source: IEC 62056-6-2 (Blue Book) 4.1.5 common data types, 4.1.6.1 date-time; IEC 62056-5-3 A-XDR lengths.
"""

import dataclasses
import datetime as dt
import decimal
import math
import struct
from collections.abc import Callable
from typing import Union

MAX_DEPTH = 8
MAX_ITEMS = 4000
"""Elements of one payload, all lists taken together."""

DATE_TIME_BYTES = 12
_LONG_LENGTH = 0x80
_MOST_LENGTH_BYTES = 3
_UNSPECIFIED = 0xFF
_NO_YEAR = 0xFFFF
_NO_DEVIATION = -0x8000
_MOST_DEVIATION = 840
_INVALID = 0x01
_SUMMER = 0x80
_NO_STATUS = 0xFF


class UnreadableDataError(ValueError):
    """Bytes that are no COSEM data; the text says which and where."""


@dataclasses.dataclass(frozen=True, slots=True)
class Enum:
    """An enumerated value, such as a unit: a number that nothing can be counted with."""

    value: int


@dataclasses.dataclass(frozen=True, slots=True)
class Stamp:
    """A date-time as a meter's clock shows it.

    Attributes:
        local: Naive, in the meter's local time.
        deviation: Minutes that are added to ``local`` for UTC; None: not specified.
        summer: Whether the clock says that it keeps summer time.
        valid: False when the meter itself says that its time is invalid.
    """

    local: dt.datetime
    deviation: int | None
    summer: bool
    valid: bool


Value = Union[None, bool, decimal.Decimal, bytes, str, Enum, Stamp, "list[Value]"]
_Read = Callable[["Reader"], Value]


class Reader:
    """Reads forward through bytes; what is not there is an error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._items = 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """Read so many bytes.

        Raises:
            UnreadableDataError: when there are fewer.
        """
        if count > self.left:
            raise UnreadableDataError(f"it ends at byte {len(self._data)}, where {count - self.left} more are expected")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        """Read one byte."""
        return self.take(1)[0]

    def length(self) -> int:
        """Read a length: one byte up to 127, or how many bytes of length follow."""
        first = self.byte()
        if first < _LONG_LENGTH:
            return first
        count = first - _LONG_LENGTH
        if not 0 < count <= _MOST_LENGTH_BYTES:
            raise UnreadableDataError(f"byte {self._at}: a length of {count} bytes")
        return int.from_bytes(self.take(count), "big")

    def data(self, depth: int = 0) -> Value:
        """Read one item of data with its tag.

        Raises:
            UnreadableDataError: when there is none, or too much of it.
        """
        self._items += 1
        if self._items > MAX_ITEMS:
            raise UnreadableDataError(f"it has more than {MAX_ITEMS} elements")
        tag = self.byte()
        if tag in _LISTS:
            if depth >= MAX_DEPTH:
                raise UnreadableDataError(f"byte {self._at}: nested more than {MAX_DEPTH} deep")
            return [self.data(depth + 1) for _ in range(self.length())]
        read = _TYPES.get(tag)
        if read is None:
            raise UnreadableDataError(f"byte {self._at}: no data type {tag} is known")
        return read(self)


def _number(form: str) -> _Read:
    packed = struct.Struct(f">{form}")
    return lambda reader: decimal.Decimal(packed.unpack(reader.take(packed.size))[0])


def _float(form: str, digits: range) -> _Read:
    packed = struct.Struct(f">{form}")

    def read(reader: Reader) -> Value:
        raw = reader.take(packed.size)
        value: float = packed.unpack(raw)[0]
        if not math.isfinite(value):
            raise UnreadableDataError("a float that is no number")
        for count in digits:
            text = format(value, f".{count}g")
            try:
                if packed.pack(float(text)) == raw:
                    return decimal.Decimal(text)
            except OverflowError:
                continue
        return decimal.Decimal(value)

    return read


def _bits(reader: Reader) -> Value:
    return reader.take((reader.length() + 7) // 8)


def _text(encoding: str) -> _Read:
    def read(reader: Reader) -> Value:
        try:
            return reader.take(reader.length()).decode(encoding)
        except UnicodeDecodeError as error:
            raise UnreadableDataError(f"a text that is not {encoding}") from error

    return read


def _stamp(reader: Reader) -> Value:
    return read_stamp(reader.take(DATE_TIME_BYTES))


def read_stamp(raw: bytes) -> Stamp | None:
    """Read a date-time of 12 bytes; None when its date or its hour is not specified.

    Raises:
        UnreadableDataError: when it is no date-time.
    """
    year, month, day, _, hour, minute, second, hundredths, deviation, status = struct.unpack(">HBBBBBBBhB", raw)
    if year == _NO_YEAR or _UNSPECIFIED in {month, day, hour}:
        return None
    minute, second, hundredths = (0 if part == _UNSPECIFIED else part for part in (minute, second, hundredths))
    try:
        local = dt.datetime(year, month, day, hour, minute, second, hundredths * 10_000)  # noqa: DTZ001 - the meter's
    except ValueError as error:
        raise UnreadableDataError(f"the date-time {raw.hex()} does not exist: {error}") from error
    if deviation != _NO_DEVIATION and abs(deviation) > _MOST_DEVIATION:
        raise UnreadableDataError(f"the date-time {raw.hex()} deviates {deviation} minutes from UTC")
    told = status != _NO_STATUS
    return Stamp(
        local,
        None if deviation == _NO_DEVIATION else deviation,
        told and bool(status & _SUMMER),
        not (told and status & _INVALID),
    )


_LISTS = frozenset({1, 2})
_TYPES: dict[int, _Read] = {
    0: lambda _reader: None,
    3: lambda reader: bool(reader.byte()),
    4: _bits,
    5: _number("i"),
    6: _number("I"),
    9: lambda reader: reader.take(reader.length()),
    10: _text("ascii"),
    12: _text("utf-8"),
    13: lambda reader: Enum(reader.byte()),
    15: _number("b"),
    16: _number("h"),
    17: _number("B"),
    18: _number("H"),
    20: _number("q"),
    21: _number("Q"),
    22: lambda reader: Enum(reader.byte()),
    23: _float("f", range(6, 10)),
    24: _float("d", range(15, 18)),
    25: _stamp,
    26: lambda reader: reader.take(5),
    27: lambda reader: reader.take(4),
    255: lambda _reader: None,
}
"""By tag. IEC 62056-6-2 table 2; 13 is BCD."""
