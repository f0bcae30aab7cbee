"""What the registers of a meter bring: readings with their times, texts, and the error register as an event.

Rules: every register is judged by itself, and one that is not what it should be costs itself only. A number of a
measured quantity (OBIS C from 1 to 95) is a reading, of another register only if it was named; the meter's number,
clock and errors never are. A series is called as the meter writes the id, unless the device's config maps it. Source:
IEC 62056-21 6.5, IEC 62056-61 (OBIS), LIS-200 fact sheet 7.
"""

import dataclasses
import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from contexts.lis200_columns import is_number_like
from contexts.lis200_times import candidates, nearest
from contexts.meters import LoggedEvent, Value
from protocol.iec62056 import lis200
from protocol.iec62056.data_lines import Obis, Register, Stamp, is_stamp, parse_stamp, same_register
from protocol.iec62056.errors import UnreadableValue

MAX_TEXTS = 100
"""Texts that a result repeats at most."""

_ABOUT_THE_METER = frozenset({("0", "0"), ("0", "9"), ("C", "1"), ("F", "F"), ("96", "1"), ("97", "97")})
"""(C, D) of numbers that are names, times and error words. IEC 62056-61."""
_ERRORS = frozenset({("F", "F"), ("97", "97")})
_RESETS = frozenset({("0", "1", "0"), ("0", "1", "2")})
"""(C, D, E) whose stored value F is when the F-th billing period ended. IEC 62056-61."""


@dataclasses.dataclass(slots=True)
class Brought:
    """What registers brought, as an ``Answer`` has it."""

    values: list[Value] = dataclasses.field(default_factory=list)
    events: list[LoggedEvent] = dataclasses.field(default_factory=list)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)


def brought(
    registers: Sequence[Register],
    *,
    named: Sequence[str] | None,
    came: dt.datetime,
    zone: ZoneInfo,
    mappings: Mapping[tuple[int, str], str],
) -> Brought:
    """Judge registers that came at ``came`` (UTC): those that are ``named``, or all."""
    found = Brought()
    ends = dict(_ends_of_billing(registers))
    for register in _distinct(registers):
        obis = _obis(register.id)
        if obis is not None and (obis.quantity, obis.measure) in _ERRORS:
            found.events += _error(register, came)
        if named is not None and not any(same_register(name, register.id) for name in named):
            continue
        if registers.count(register) < sum(other.id == register.id for other in registers):
            found.problems.append(f"{register.id} came more than once, with different values")
            continue
        try:
            value = _value(register, obis, named=named is not None, end=_end_of(obis, ends))
        except UnreadableValue as error:
            found.problems.append(f"{register.id}: {error}")
            continue
        if value is None:
            if len(found.texts) < MAX_TEXTS:
                found.texts[register.id] = ", ".join(group.text.strip() for group in register.groups)
            continue
        number, stamp = value
        timestamp = None if stamp is None else _instant(stamp, zone, came)
        found.values.append(Value(_series(register.id, mappings), number.number, number.unit, timestamp, answered=came))
    for name in named or ():
        if not any(same_register(name, register.id) for register in registers):
            found.problems.append(f"the meter does not show {name}")
    return found


def _distinct(registers: Iterable[Register]) -> Iterable[Register]:
    """The first register of each id."""
    firsts: dict[str, Register] = {}
    for register in registers:
        firsts.setdefault(register.id, register)
    return firsts.values()


def _value(
    register: Register, obis: Obis | None, *, named: bool, end: Stamp | None
) -> tuple[lis200.Value, Stamp | None] | None:
    """The number and its time, None for what is a text."""
    first, *others = register.groups
    if obis is not None and (obis.quantity, obis.measure) in _ABOUT_THE_METER:
        return None
    if not named and (obis is None or not obis.physical):
        return None
    following = others[0] if others else None
    if following is not None and following.unit and not first.unit and is_stamp(first.text):
        first, following = following, first  # time and value the other way round
    if not is_number_like(first.text):
        if named and first.unit:
            raise UnreadableValue(first.text, "a number")
        return None
    _ = first.number  # NaN and its like are no numbers
    own = following is not None and not following.unit and is_stamp(following.text)
    return first, parse_stamp(following.text) if own and following is not None else end


def _instant(stamp: Stamp, zone: ZoneInfo, came: dt.datetime) -> dt.datetime:
    if stamp.utc:
        return stamp.local.replace(tzinfo=dt.UTC)
    if stamp.summer is None:
        return nearest(zone, stamp.local, came)
    first, second = candidates(zone, stamp.local)
    return first if stamp.summer else second


def _ends_of_billing(registers: Iterable[Register]) -> Iterable[tuple[int, Stamp]]:
    for register in registers:
        obis = _obis(register.id)
        if obis is None or obis.billing is None or (obis.quantity, obis.measure, obis.tariff or "0") not in _RESETS:
            continue
        for group in register.groups:
            if is_stamp(group.text):
                yield obis.billing, parse_stamp(group.text)


def _end_of(obis: Obis | None, ends: Mapping[int, Stamp]) -> Stamp | None:
    return ends.get(obis.billing) if obis is not None and obis.billing is not None else None


def _error(register: Register, came: dt.datetime) -> list[LoggedEvent]:
    text = register.groups[0].text.strip()
    if not text.strip("0 "):
        return []
    content = f"the error register {register.id} shows {text}; what its digits mean is the maker's own"
    return [LoggedEvent(came, f"F.F:{text}"[:50], "error register is not zero", content)]


def _series(shown: str, mappings: Mapping[tuple[int, str], str]) -> str:
    mapped = mappings.get((0, shown))
    same = (name for (archive, source), name in mappings.items() if not archive and same_register(source, shown))
    return mapped or next(same, shown)


def _obis(text: str) -> Obis | None:
    try:
        return Obis.parse(text)
    except UnreadableValue:
        return None


def as_result(found: Brought, model: str) -> dict[str, Any]:
    """What people are told: who answered, and what is no reading."""
    return {"identification": model, "texts": found.texts}
