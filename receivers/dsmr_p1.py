"""``dsmr_p1``: what Dutch, Belgian, Luxembourgish and Swedish meters say on their P1 port, every second or ten.

Rules: a telegram counts when its CRC16 is right (without one only where the kwargs allow it). The electricity meter's
registers have the time of the telegram, each M-Bus meter's value its own; both say whether summer time is kept. An
M-Bus meter is known by its equipment id, not by its channel: a meter that moves on the bus stays itself. With a raster
the first telegram at or after each slot is taken, per meter, by its own time. Source: P1 Companion Standard 5.0.2,
6.4 to 6.12, with 2.2, 3.0, 4.2 and e-MUCS P1 1.7.1 (Belgium).
"""

import dataclasses
import datetime as dt
import re
from collections.abc import Iterator
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec

from protocol.iec62056.data_lines import parse_stamp, same_register
from protocol.iec62056.errors import UnreadableValue
from protocol.kwargs import KwargsError
from protocol.wire import ContractError, parse_decimal
from receivers.framing import FramedDecoder
from receivers.local_times import instant_of
from receivers.p1_telegrams import Line, Telegram, Telegrams, lines_of
from receivers.receiver import Arrival, Pushed, Receiver, Transport, Undecodable
from receivers.thinning import ThinnedKwargs, ThinningIntake, Zone

TELEGRAM_TIME = "0-0:1.0.0"
EQUIPMENT = ("0-0:96.1.1", "0-0:96.1.0")
_MBUS = re.compile(r"0-([1-9]):(\d+\.\d+\.\d+)")
_MBUS_IDS = ("96.1.0", "96.1.1")
_MBUS_VALUE = "24.2."
_MBUS_OLD = "24.3.0"
_OLD_GROUPS = 7
_STAMPS = re.compile(rb"\n0-(?:0:1\.0\.0|\d:24\.2\.\d)\((\d{12}[SW])\)")
_COUNTER = "8"
"""D of an OBIS id that counts since the meter was installed. IEC 62056-61."""
_UNITS = {"kVArh": "kvarh", "kVAr": "kvar"}
"""As some meters in Sweden write them."""
_MOST_STAMPS = 64
_MOST_SHOWN = 60


class Kwargs(ThinnedKwargs, frozen=True, forbid_unknown_fields=True):
    """What a ``dsmr_p1`` receiver may be told."""

    timezone: Zone = "Europe/Amsterdam"
    checksum: Annotated[
        str, msgspec.Meta(description="required, or optional for DSMR 2.2 and 3.0, whose telegrams have none")
    ] = "required"
    rate: Annotated[
        int, msgspec.Meta(ge=300, le=921_600, description="baud of a serial port: 115200, before DSMR 4 9600")
    ] = 115_200

    def __post_init__(self) -> None:
        """Refuse what cannot be done.

        Raises:
            KwargsError: naming the key.
        """
        super().__post_init__()
        if self.checksum not in {"required", "optional"}:
            raise KwargsError("checksum", f"{self.checksum[:20]!r} is neither required nor optional")


class P1Intake(ThinningIntake[Kwargs]):
    """What all connections of one receiver share."""

    def connection(self) -> "P1Decoder":
        """A decoder with an empty buffer."""
        return P1Decoder(self)


@dataclasses.dataclass(slots=True)
class _Bus:
    """What a telegram says of one M-Bus meter: its id, and its values as (series, time, value, unit) texts."""

    identity: str = ""
    values: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)


class P1Decoder(FramedDecoder[Telegram]):
    """Takes one stream of telegrams apart."""

    def __init__(self, intake: P1Intake) -> None:
        super().__init__(Telegrams())
        self._intake = intake
        self._zone = ZoneInfo(intake.kwargs.timezone)
        self._taken: tuple[int | None, ...] | None = None
        self._slots: dict[bytes, int | None] = {}

    def judge(self, frame: Telegram, at: dt.datetime) -> Iterator[Arrival]:
        """The values of a telegram, if they are wanted."""
        # Before the CRC: a flood of telegrams that nobody needs costs next to nothing.
        if self._taken is not None and self._signature(frame.content, at) == self._taken:
            self._intake.superfluous += 1
            return
        if frame.crc is None and self._intake.kwargs.checksum == "required":
            yield Undecodable(frame.content, "it has no CRC; allow that with checksum: optional (DSMR 2.2, 3.0)", at)
            return
        if not frame.sound:
            yield Undecodable(frame.content, f"its CRC is not {frame.crc:04X}: damaged on the way", at)
            return
        yield from self._objects(frame.content, at)
        self._taken = None if self._intake.thinning.raster is None else self._signature(frame.content, at)

    def _signature(self, content: bytes, at: dt.datetime) -> tuple[int | None, ...]:
        """The slots of all times of a telegram: as long as they are the same, nothing is new."""
        stamps: list[bytes] = _STAMPS.findall(content)
        if not stamps:
            return (self._intake.thinning.slot(at),)
        return tuple([self._slot(stamp, at) for stamp in stamps])

    def _slot(self, stamp: bytes, at: dt.datetime) -> int | None:
        try:
            return self._slots[stamp]
        except KeyError:
            pass
        if len(self._slots) >= _MOST_STAMPS:
            self._slots.clear()
        try:
            slot = self._intake.thinning.slot(instant_of(parse_stamp(stamp.decode()), self._zone, at))
        except (UnreadableValue, OverflowError, ValueError):
            slot = None
        self._slots[stamp] = slot
        return slot

    def _objects(self, content: bytes, at: dt.datetime) -> Iterator[Arrival]:
        registers: list[Line] = []
        buses: dict[str, _Bus] = {}
        identity, time = "", ""
        for line in lines_of(content):
            bus = _MBUS.fullmatch(line.id)
            if bus is not None:
                _note(buses.setdefault(bus[1], _Bus()), bus[2], line)
            elif line.id in EQUIPMENT:
                identity = identity or _identity(line.groups[0])
            elif line.id == TELEGRAM_TIME:
                time = line.groups[0]
            else:
                registers.append(line)
        zone = self._intake.zone(identity)
        if zone != self._zone:
            self._zone = zone
            self._slots.clear()
        yield from self._electricity(identity, time, registers, at)
        for channel, bus_meter in buses.items():
            name = bus_meter.identity or f"{identity} M-Bus {channel}".strip()
            yield from self._bus(name, bus_meter, at)

    def _electricity(self, identity: str, time: str, lines: list[Line], at: dt.datetime) -> Iterator[Arrival]:
        wanted = [line for line in lines if self._wants(line)]
        if not wanted:
            return
        try:
            stamp = instant_of(parse_stamp(time), self._zone, at) if time else None
        except UnreadableValue as error:
            yield Undecodable(time.encode(), f"the telegram's time: {error}", at, identity)
            return
        if not self._intake.thinning.takes(identity, stamp or at):
            return
        offset = None if stamp is None else (stamp - at).total_seconds()
        for line in wanted:
            *before, text = line.groups
            try:
                # A peak stands behind the time that it was at.
                own = instant_of(parse_stamp(before[0]), self._zone, at) if before else stamp
                yield _pushed(identity, line.id, text, own, at, offset)
            except (UnreadableValue, ContractError) as error:
                yield Undecodable(_shown(line), f"{line.id}: {error}", at, identity)

    def _wants(self, line: Line) -> bool:
        named = self._intake.kwargs.registers
        if named is not None:
            return any(same_register(name, line.id) for name in named)
        return line.id.startswith("1-") and line.id.split(".")[1] == _COUNTER

    def _bus(self, identity: str, bus: _Bus, at: dt.datetime) -> Iterator[Arrival]:
        for series, time, text in bus.values:
            try:
                stamp = instant_of(parse_stamp(time), self._zone, at)
                if self._intake.thinning.takes(f"{identity} {series}", stamp):
                    yield _pushed(identity, series, text, stamp, at, None)
            except (UnreadableValue, ContractError) as error:
                yield Undecodable(f"{series}({time})({text})".encode(), f"{series}: {error}", at, identity)


def _note(bus: _Bus, object_id: str, line: Line) -> None:
    """Keep what a line says of an M-Bus meter."""
    groups = line.groups
    if object_id in _MBUS_IDS:
        bus.identity = bus.identity or _identity(groups[0])
    elif object_id.startswith(_MBUS_VALUE) and len(groups) > 1 and groups[0]:
        bus.values.append((object_id, groups[0], groups[-1]))
    elif object_id == _MBUS_OLD and len(groups) == _OLD_GROUPS:
        # DSMR 2.2, 3.0: (time)(status)(period)(how many)(id)(unit)(value).
        found = _MBUS.fullmatch(groups[4])
        if found is not None and groups[6]:
            bus.values.append((found[2], groups[0], f"{groups[6]}*{groups[5]}"))


def _identity(text: str) -> str:
    """An equipment id: hex of its characters; what is none stays as it is."""
    try:
        plain = bytes.fromhex(text).decode("ascii")
    except ValueError:
        plain = "\0"
    if not plain.isprintable():
        plain = "".join(character for character in text if character.isprintable())
    return plain.strip()[:50]


def _pushed(
    meter: str, series: str, text: str, stamp: dt.datetime | None, at: dt.datetime, offset: float | None
) -> Pushed:
    number, _, unit = text.partition("*")
    if not unit.isprintable():
        raise ContractError("its unit has characters that cannot be printed")
    unit = unit.strip()
    return Pushed(meter, series, parse_decimal(number), _UNITS.get(unit, unit), stamp, at, clock_offset=offset)


def _shown(line: Line) -> bytes:
    return (line.id + "".join(f"({group})" for group in line.groups)).encode()


RECEIVER = Receiver(
    name="dsmr_p1",
    description="P1 ports of Dutch, Belgian and other meters (DSMR, ESMR, e-MUCS): telegrams with a CRC16",
    kwargs=Kwargs,
    open=P1Intake,
    transports=frozenset({Transport.STREAM}),
    rate=lambda kwargs: int(kwargs.rate),
    port=23,
    silence=30.0,
)
