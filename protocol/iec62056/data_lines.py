"""The data lines of IEC 62056-21: a data message taken apart, OBIS ids, and times as electricity meters write them.

Rules: texts in, values out, nothing remembered; a number stays the meter's own text until somebody asks for it. What
is no whole data message raises ``UnreadableValue``: one that was cut, or ended early by noise, lacks its ``!``.
Source: IEC 62056-21 6.5.2 and 6.5.3 (data lines and data sets), IEC 62056-61 (OBIS), LIS-200 fact sheet 7.
"""

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass

from protocol.iec62056.errors import UnreadableValue
from protocol.iec62056.lis200 import Value, parse_value

END = "!"
MAX_ID, MAX_VALUE, MAX_UNIT = 32, 128, 16
"""Characters of the parts of a data set. IEC 62056-21 6.5.3 has 16 for an id and 32 for a value outside of programming
mode; full OBIS ids and some meters' texts are longer."""
NO_BILLING = 255
"""F of an OBIS id that is about the present. IEC 62056-61."""

_LINE_BREAK = re.compile(r"\r?\n|\r")
_SET = re.compile(r"(?P<id>[^()!/]*)\((?P<group>[^()]*)\)[ \x00\x7f]*")
_NOT_PRINTABLE = re.compile(r"[^ -~]")
_OBIS = re.compile(
    r"(?:(?P<medium>\d{1,3})-)?(?:(?P<channel>\d{1,3}):)?"
    r"(?P<quantity>[0-9A-Z]{1,3})\.(?P<measure>[0-9A-Z]{1,3})(?:\.(?P<tariff>[0-9A-Z]{1,3}))?"
    r"(?:[*&](?P<billing>\d{1,3}))?",
    re.ASCII,
)
_ERROR = re.compile(r"ER(?:R(?:OR)?)?[ -]?\d*", re.ASCII)
_DIGITS = re.compile(r"(?P<season>[012])?(?P<digits>\d{12}|\d{10})(?P<letter>[SW])?", re.ASCII)
_PUNCTUATED = re.compile(r"(?:\d\d)?(\d\d)-(\d\d)-(\d\d)[ ,T](\d\d):(\d\d)(?::(\d\d))?", re.ASCII)
_UTC, _SUMMER = "2", "1"


@dataclass(frozen=True, slots=True)
class Register:
    """What stands under one id: its groups, the first of which is the value unless a time comes before it.

    ``id`` is as the meter sent it; a set whose id was left out belongs to the one before it.
    """

    id: str
    groups: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Obis:
    """``A-B:C.D.E*F``, also reduced (``C.D.E``, ``F.F``); a part that was not given is None. IEC 62056-61.

    ``quantity``, ``measure`` and ``tariff`` (C, D, E) are numbers or letters (``C.1.0``, ``F.F``), unpadded.
    """

    quantity: str
    measure: str
    tariff: str | None = None
    medium: int | None = None
    channel: int | None = None
    billing: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Obis":
        """Read ``1-0:1.8.0*255``, ``1.8.0``, ``1.6.1&02``, ``F.F``; raises UnreadableValue."""
        found = _OBIS.fullmatch(text.strip().upper())
        if found is None:
            raise UnreadableValue(text, "an OBIS id such as 1.8.0 or 1-0:1.8.0*01")
        billing = _number(found["billing"])
        return cls(
            _unpadded(found["quantity"]),
            _unpadded(found["measure"]),
            None if found["tariff"] is None else _unpadded(found["tariff"]),
            _number(found["medium"]),
            _number(found["channel"]),
            None if billing == NO_BILLING else billing,
        )

    @property
    def physical(self) -> bool:
        """Whether this is a measured quantity: C from 1 to 95. The rest is about the meter itself. IEC 62056-61."""
        return self.quantity.isdigit() and 1 <= int(self.quantity) <= 95  # noqa: PLR2004 - as above

    def names(self, other: "Obis") -> bool:
        """Whether who asks for this means ``other``: what is given here must be so there, medium and channel may lack.

        An id without F is about the present, so no stored value is meant.
        """
        if (self.quantity, self.measure, self.tariff or "0") != (other.quantity, other.measure, other.tariff or "0"):
            return False
        pairs = ((self.medium, other.medium), (self.channel, other.channel))
        return self.billing == other.billing and all(None in pair or pair[0] == pair[1] for pair in pairs)


@dataclass(frozen=True, slots=True)
class Stamp:
    """A time as a meter writes it: its own clock face, and what it says of it (``summer`` None: nothing)."""

    local: dt.datetime
    summer: bool | None = None
    utc: bool = False


def parse_data_message(text: str) -> tuple[Register, ...]:
    """The registers of a whole data message, in its order.

    Raises UnreadableValue where a line is none, or the message does not end as it must: with ``!``.
    """
    lines = [line.strip(" \x00\x7f") for line in _LINE_BREAK.split(text)]
    while lines and not lines[-1]:
        lines.pop()
    if not lines or lines.pop() != END:
        raise UnreadableValue(text[-UnreadableValue.SHOWN :], "the end of a data message, a line with ! alone")
    return tuple(_registers(lines))


def parse_data_sets(text: str) -> tuple[Register, ...]:
    """The registers of an answer to a read, which has no ``!``; the first may have no id. Raises UnreadableValue."""
    return tuple(_registers([line.strip(" \x00\x7f") for line in _LINE_BREAK.split(text)], first_id=""))


def format_data_message(registers: tuple[Register, ...]) -> str:
    """A data message with one line per register: the inverse of ``parse_data_message``."""
    lines = (f"{register.id}{''.join(f'({_written(group)})' for group in register.groups)}" for register in registers)
    return "".join(f"{line}\r\n" for line in lines) + f"{END}\r\n"


def same_register(asked: str, shown: str) -> bool:
    """Whether an answer with the id ``shown`` may answer ``asked``: the same register, or no id at all."""
    if not shown.strip() or asked.strip() == shown.strip():
        return True
    try:
        return Obis.parse(asked).names(Obis.parse(shown))
    except UnreadableValue:
        return False


def is_error(text: str) -> bool:
    """Whether the only group of an answer is an error message of the meter: ``ERROR``, ``ER01``. Fact sheet 7."""
    return _ERROR.fullmatch(text.strip().upper()) is not None


def parse_stamp(text: str) -> Stamp:
    """A time of a data line; raises UnreadableValue.

    Known are ``YYMMDDhhmm`` and ``YYMMDDhhmmss``, with a digit in front for the season (0 winter, 1 summer, 2 UTC) or a
    letter behind (S, W), and ``YY-MM-DD hh:mm[:ss]``, also with four digits of the year.
    """
    stripped = text.strip()
    found = _DIGITS.fullmatch(stripped)
    season: str | None = None
    if found is not None:
        digits, season = found["digits"], found["season"]
        parts = [digits[at : at + 2] for at in range(0, len(digits), 2)]
        summer = {"S": True, "W": False}.get(found["letter"] or "", None if season is None else season == _SUMMER)
    elif (punctuated := _PUNCTUATED.fullmatch(stripped)) is not None:
        parts, summer = [part or "0" for part in punctuated.groups()], None
    else:
        raise UnreadableValue(text, "a time such as 240131235900")
    year, month, day, hour, minute, second = (*map(int, parts), 0)[:6]
    # A day's end may be written as 24:00 of it.
    days, hour = (1, 0) if (hour, minute, second) == (24, 0, 0) else (0, hour)
    try:
        local = dt.datetime(2000 + year, month, day, hour, minute, second)  # noqa: DTZ001 - the meter knows no zone
        return Stamp(local + dt.timedelta(days=days), None if season == _UTC else summer, utc=season == _UTC)
    except ValueError as error:
        raise UnreadableValue(text, "an existing date and time") from error


def is_stamp(text: str) -> bool:
    """Whether ``parse_stamp`` reads it."""
    try:
        parse_stamp(text)
    except UnreadableValue:
        return False
    return True


def _registers(lines: list[str], first_id: str | None = None) -> Iterator[Register]:
    """Join sets that share an id; ``first_id`` is that of a first set without one, None: there must be one."""
    current, groups = first_id, list[Value]()
    for line in lines:
        for name, group in _sets(line):
            if name:
                if groups:
                    yield Register(current or "", tuple(groups))
                current, groups = name, []
            elif current is None:
                raise UnreadableValue(line, "a data line that begins with an id")
            groups.append(group)
    if groups:
        yield Register(current or "", tuple(groups))


def _sets(line: str) -> Iterator[tuple[str, Value]]:
    at = 0
    while at < len(line):
        found = _SET.match(line, at)
        if found is None:
            raise UnreadableValue(line, "a data line: id(value*unit)...")
        name, group = found["id"].strip(), parse_value(found["group"])
        long = len(name) > MAX_ID or len(group.text) > MAX_VALUE or len(group.unit) > MAX_UNIT
        if long or _NOT_PRINTABLE.search(name) or _NOT_PRINTABLE.search(found["group"]):
            raise UnreadableValue(line, "a data set of printable characters, not longer than the standard allows")
        yield name, group
        at = found.end()


def _written(group: Value) -> str:
    # Seven bits have no degree: meters send it as the brace that stands in its place.
    return f"{group.text}*{group.unit.replace('°', '{')}" if group.unit else group.text


def _unpadded(text: str) -> str:
    return str(int(text)) if text.isdigit() else text


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
