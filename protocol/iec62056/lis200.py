"""What LIS-200 texts mean: addresses, groups and rows, values, times, states, archive commands. Pure functions.

Rules: texts in, values out, nothing remembered; a number never becomes a float and never loses a digit; a time is the
meter's own local time without a zone. What is not what it should be raises ``UnreadableValue`` with the text. Source:
LIS-200 fact sheet 2.2, 2.3, 3.1, 3.3.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from protocol.iec62056.errors import UnreadableValue

Row = tuple[str, ...]
"""The raw texts in brackets of one row."""

MAX_DIGITS = 38
MAX_EXPONENT = 18
"""Limits of a value, the same as on the wire to the hub: 38 digits, 18 of them after the point."""

VALUE, NAMES, UNITS, SOURCES, ROW_COUNT = "0", "2", "3", "4", "A.0"
"""Attributes of an archive. Source: LIS-200 fact sheet 3.2."""

_REMEMBERED = 256
"""Texts of which it is remembered what they mean: a row is looked at more than once, and says much that others say."""

_ADDRESS = re.compile(
    r"(?:(?P<medium>\d+)-)?(?P<instance>\d{1,4}):(?P<object>[0-9A-Fa-f]{1,4}|V)"
    r"(?:_(?P<sub>[0-9A-Fa-f]+))?(?:\.(?P<attribute>[0-9A-Fa-f]+(?:\.[0-9A-Fa-f]+)?))?"
)
_GROUP = re.compile(r"\(([^()]*)\)")
_ROW = re.compile(r"(?P<address>[^()]*)(?P<groups>(?:\([^()]*\)[ \x00\x7f\xff]*)+)")
_NUMBER = re.compile(r"([+-]?)(\d*)(?:\.(\d*))?", re.ASCII)
_DATETIME = re.compile(r"(\d{4})-(\d\d)-(\d\d), ?(\d\d):(\d\d):(\d\d)", re.ASCII)
_ESCAPE = re.compile(r"\\(?:\\|x([0-9A-Fa-f]{2}))")
_EVENT_CODE = re.compile(r"0x([0-9A-Fa-f]{1,4})")
_LINE_BREAK = re.compile(r"\r?\n|\r")
_UNIT_CHARACTERS = str.maketrans({"{": "°", "|": "/", ":": "/"})


@dataclass(frozen=True, slots=True)
class Address:
    """``[medium-]instance:object[_sub][.attribute]``, normalised. Source: LIS-200 fact sheet 2.2.

    ``object`` is upper-case hexadecimal of three digits without the leading zero, or ``V`` for an archive. A four-digit
    object that does not begin with 0 is the older notation, whose first digit is the attribute.
    """

    instance: int
    object: str
    sub: str = ""
    attribute: str = ""
    medium: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``1:0400.0``, ``7-2:302.2``, ``6:310_1.0``, ``0003:0A20``, ``3:V.A.0``; raises UnreadableValue."""
        found = _ADDRESS.fullmatch(text.strip())
        if found is None:
            raise UnreadableValue(text, "an address such as 2:300.0")
        name, attribute = found["object"].upper(), (found["attribute"] or "").upper()
        if len(name) == 4:  # noqa: PLR2004 - leading zero, or the attribute in the older notation
            attribute = attribute or name[0].removeprefix("0")
            name = name[1:]
        if name != "V":
            name = name.rjust(3, "0")
        sub = (found["sub"] or "").upper()
        return cls(int(found["instance"]), name, sub, attribute, found["medium"] or "")

    @property
    def core(self) -> str:
        """``instance:object[_sub]``: what identifies the object, whatever notation was used (``2:300``)."""
        return f"{self.instance}:{self.object}{'_' if self.sub else ''}{self.sub}"

    def __str__(self) -> str:
        """The address as a reader asks for it: core and attribute (``2:300.0``)."""
        return f"{self.core}.{self.attribute or VALUE}"


def matches(asked: str, echoed: str) -> bool:
    """Whether an answer with the address ``echoed`` may answer ``asked``: same core, or none at all. Fact sheet 2.2."""
    if not echoed.strip():
        return True
    try:
        return Address.parse(asked).core == Address.parse(echoed).core
    except UnreadableValue:
        return False


def parse_groups(text: str) -> Row:
    """The texts in brackets of an answer that is one row, with or without an address in front."""
    rows = parse_rows(text)
    if len(rows) != 1:
        raise UnreadableValue(text, "one row of groups in brackets")
    return rows[0]


def parse_rows(text: str) -> tuple[Row, ...]:
    """The rows of one block: CR LF between them and none after the last, blanks at their ends tolerated.

    Rows never cross blocks, so the rows of an archive are those of its blocks one after the other; joining the *texts*
    of blocks would melt two rows into one. Source: LIS-200 fact sheet 3.3.
    """
    lines = (line.strip(" \x00\x7f\xff") for line in _LINE_BREAK.split(text))
    return tuple(_row(line) for line in lines if line)


def join_blocks(texts: Iterable[str]) -> tuple[Row, ...]:
    """The rows of an archive that came in several blocks."""
    return tuple(row for text in texts for row in parse_rows(text))


def format_rows(rows: Iterable[Iterable[str]]) -> str:
    """The text of one block: the inverse of ``parse_rows``."""
    return "\r\n".join("".join(f"({group})" for group in row) for row in rows)


def _row(line: str) -> Row:
    found = _ROW.fullmatch(line)
    if found is None:
        raise UnreadableValue(line, "a row of groups in brackets")
    return tuple(_GROUP.findall(found["groups"]))


@dataclass(frozen=True, slots=True)
class Value:
    """One group: its text without the unit, and the unit normalised (empty: none)."""

    text: str
    unit: str = ""

    @property
    def number(self) -> Decimal:
        """The exact number; raises UnreadableValue if the text is none."""
        return parse_decimal(self.text)


def parse_value(group: str) -> Value:
    """``20.16*{C`` -> text ``20.16``, unit ``°C``. Source: LIS-200 fact sheet 2.3."""
    text, star, unit = group.partition("*")
    if not star or not text.strip():  # a hidden code is logged as ***
        return Value(decode_text(group))
    return Value(decode_text(text), normalise_unit(unit))


def parse_decimal(text: str) -> Decimal:
    """The exact number in ``text``, every digit kept (``000144076.2083`` is 144076.2083).

    Raises UnreadableValue for everything that is not sign, digits and point, so also for NaN and exponents, and beyond
    38 digits or 18 decimals.
    """
    stripped = text.strip()
    found = _NUMBER.fullmatch(stripped)
    if found is None or not (found[2] or found[3]):
        raise UnreadableValue(text, "a decimal number")
    decimals = found[3] or ""
    if len((found[2] + decimals).lstrip("0")) > MAX_DIGITS or len(decimals) > MAX_EXPONENT:
        raise UnreadableValue(text, f"a number of at most {MAX_DIGITS} digits, {MAX_EXPONENT} after the point")
    return Decimal(stripped)


def normalise_unit(unit: str) -> str:
    """``{C`` -> ``°C``, ``m3|h`` and ``m3:h`` -> ``m3/h``, `` bar`` -> ``bar``. Source: LIS-200 fact sheet 2.3."""
    shown = "".join(filter(str.isprintable, decode_text(unit)))  # an escape may name NUL, which nothing could store
    return shown.strip().translate(_UNIT_CHARACTERS)


def decode_text(text: str) -> str:
    r"""Undo the escapes ``\xHH`` and ``\\`` (read as ISO 8859-1). Source: LIS-200 fact sheet 2.3."""
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else "\\", text)


def encode_text(text: str) -> str:
    r"""Escape what is not 7-bit as ``\xHH`` and the backslash as ``\\``: the inverse of ``decode_text``.

    Raises UnreadableValue for characters outside ISO 8859-1, which no escape can name.
    """
    if any(ord(character) > 0xFF for character in text):  # noqa: PLR2004 - the last code of ISO 8859-1
        raise UnreadableValue(text, "a text in ISO 8859-1")
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    return character if " " <= character <= "~" else f"\\x{ord(character):02X}"


@functools.lru_cache(_REMEMBERED)
def parse_datetime(text: str) -> datetime:
    """``YYYY-MM-DD,HH:MM:SS`` in the meter's local time, as a naive ``datetime``; a blank may follow the comma."""
    found = _DATETIME.fullmatch(text.strip())
    try:
        if found is not None:
            year, month, day, hour, minute, second = map(int, found.groups())
            return datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - the meter knows no zone
    except ValueError as error:
        raise UnreadableValue(text, "an existing date and time") from error
    raise UnreadableValue(text, "a date and time YYYY-MM-DD,HH:MM:SS")


def format_datetime(moment: datetime) -> str:
    """``moment``, meter-local, as the meter reads it: whole seconds, no zone."""
    return moment.strftime("%Y-%m-%d,%H:%M:%S").rjust(19, "0")


@functools.lru_cache(_REMEMBERED)
def parse_status(text: str) -> tuple[int, ...]:
    """The message numbers of a status list: ``13;15`` -> (13, 15); ``0`` is none. Source: LIS-200 fact sheet 2.3."""
    try:
        numbers = tuple(_message_number(part) for part in text.split(";") if part.strip())
    except ValueError as error:
        raise UnreadableValue(text, "a list of message numbers such as 13;15") from error
    return tuple(number for number in numbers if number)


def format_status(messages: Iterable[int]) -> str:
    """The inverse of ``parse_status``."""
    return ";".join(map(str, messages)) or "0"


def _message_number(part: str) -> int:
    stripped = part.strip()
    if not (stripped.isascii() and stripped.isdigit() and len(stripped) <= 3):  # noqa: PLR2004 - 16 messages exist
        raise ValueError(part)
    return int(stripped)


@functools.lru_cache(_REMEMBERED)
def parse_event_code(text: str) -> int:
    """The number of an event column: ``0x8103``. Source: LIS-200 fact sheet 5.3."""
    found = _EVENT_CODE.fullmatch(text.strip())
    if found is None:
        raise UnreadableValue(text, "an event code such as 0x8103")
    return int(found[1], 16)


Bound = datetime | int | str | None
"""A limit of an archive range: a time, a row number, a text as the meter writes it, or None for open."""


@dataclass(frozen=True, slots=True)
class ArchiveRange:
    """The argument of an archive command as the meter gets it; empty texts are open. LIS-200 fact sheet 3.1."""

    position: int | None = None
    start: str = ""
    end: str = ""
    rows: int | None = None

    @classmethod
    def parse(cls, argument: str) -> "ArchiveRange":
        """Read ``position;from;to;rows``, also with fewer parts; ``1`` alone (as in ``V.2(1)``) is everything."""
        parts = [part.strip() for part in argument.split(";")]
        if len(parts) == 1:
            return cls()
        if len(parts) > 4:  # noqa: PLR2004 - the four named above
            raise UnreadableValue(argument, "position;from;to;rows")
        position, start, end, rows = (*parts, "", "", "")[:4]
        try:
            return cls(int(position) if position else None, start, end, int(rows) if rows else None)
        except ValueError as error:
            raise UnreadableValue(argument, "position;from;to;rows") from error


def archive_address(number: int, attribute: str = VALUE) -> str:
    """``3:V.0`` for the rows of archive 3, ``3:V.2`` for its column names. Source: LIS-200 fact sheet 3.1, 3.2."""
    return f"{number}:V.{attribute}"


def archive_argument(
    position: int | None = None, start: Bound = None, end: Bound = None, rows: int | None = None
) -> str:
    """``position;from;to;rows``: the column that is compared (3 is time on EK and DL), limits inclusive.

    ``rows`` is the number of rows per partial block, 1 to 999. Source: LIS-200 fact sheet 3.1.
    """
    return f"{'' if position is None else position};{_bound(start)};{_bound(end)};{'' if rows is None else rows}"


def _bound(bound: Bound) -> str:
    if bound is None:
        return ""
    return format_datetime(bound) if isinstance(bound, datetime) else str(bound)
