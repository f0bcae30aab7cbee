"""``iec62056_push``: electricity and other meters that say a data readout by themselves (IEC 62056-21 mode D and like).

Rules: a number of a measured quantity (OBIS C from 1 to 95) is a reading, of another register only if it was named.
A value has the time that stands behind it (a peak's), else it is of the instant that the readout had come, provenance
``gateway``. Values of past billing periods without a time of their own are left out. The meter is known by the number
that the readout shows (0.0.0, C.1.0, 96.1.0). Source: IEC 62056-21 6.4.6 and 6.5, IEC 62056-61 (OBIS).
"""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec

from protocol.iec62056.data_lines import Obis, Register, is_stamp, parse_data_message, parse_stamp, same_register
from protocol.iec62056.errors import UnreadableValue
from protocol.wire import ContractError, checked_decimal
from receivers.framing import FramedDecoder
from receivers.local_times import instant_of
from receivers.readouts import Readout, Readouts
from receivers.receiver import Arrival, Pushed, Receiver, Transport, Undecodable
from receivers.thinning import ThinnedKwargs, ThinningIntake

SERIAL_AT = ("0.0.0", "C.1.0", "96.1.0", "0-0:96.1.255")
"""Where meters show their number: the owner's, the maker's, the device's; the last is EasyMeter's own."""
_ABOUT_THE_METER = frozenset({("0", "0"), ("0", "9"), ("C", "1"), ("F", "F"), ("96", "1"), ("97", "97")})
_TWO = 2


class Kwargs(ThinnedKwargs, frozen=True, forbid_unknown_fields=True):
    """What an ``iec62056_push`` receiver may be told."""

    rate: Annotated[
        int, msgspec.Meta(ge=50, le=921_600, description="baud of a serial port: 300, 2400 (mode D), 9600")
    ] = 2400


class ReadoutIntake(ThinningIntake[Kwargs]):
    """What all connections of one receiver share."""

    def connection(self) -> "ReadoutDecoder":
        """A decoder with an empty buffer."""
        return ReadoutDecoder(self)


class ReadoutDecoder(FramedDecoder[Readout]):
    """Takes one stream of readouts apart."""

    def __init__(self, intake: ReadoutIntake) -> None:
        super().__init__(Readouts())
        self._intake = intake

    def judge(self, frame: Readout, at: dt.datetime) -> Iterator[Arrival]:
        """The values of a readout."""
        try:
            registers = parse_data_message(frame.text)
        except UnreadableValue as error:
            yield Undecodable(frame.raw, str(error), at)
            return
        identity = _identity(registers)
        if not self._intake.thinning.takes(identity, at):
            self._intake.superfluous += 1
            return
        zone = self._intake.zone(identity)
        for register in registers:
            try:
                pushed = self._pushed(identity, register, zone, at)
            except (UnreadableValue, ContractError) as error:
                shown = register.id + "".join(f"({group.text}*{group.unit})" for group in register.groups)
                yield Undecodable(shown.encode(), f"{register.id}: {error}", at, identity)
                continue
            if pushed is not None:
                yield pushed

    def _pushed(self, identity: str, register: Register, zone: ZoneInfo, at: dt.datetime) -> Pushed | None:
        """The reading of a register; None for what is none."""
        try:
            obis = Obis.parse(register.id)
        except UnreadableValue:
            return None
        named = self._intake.kwargs.registers
        if named is None:
            if not obis.physical:
                return None
        elif not any(same_register(name, register.id) for name in named):
            return None
        if (obis.quantity, obis.measure) in _ABOUT_THE_METER:
            return None
        value, stamp = register.groups[0], None
        if len(register.groups) >= _TWO:
            other = register.groups[1]
            if other.unit and not value.unit and is_stamp(value.text):
                value, other = other, value
            if not other.unit and is_stamp(other.text):
                stamp = instant_of(parse_stamp(other.text), zone, at)
        if not value.text.strip() or (obis.billing is not None and stamp is None):
            return None
        return Pushed(identity, register.id, checked_decimal(value.number), value.unit, stamp, at)


def _identity(registers: Sequence[Register]) -> str:
    for name in SERIAL_AT:
        for register in registers:
            if same_register(name, register.id) and register.groups[0].text.strip():
                return register.groups[0].text.strip()[:50]
    return ""


RECEIVER = Receiver(
    name="iec62056_push",
    description="IEC 62056-21 readouts that nobody asks for: mode D, and meters that repeat their data lines",
    kwargs=Kwargs,
    open=ReadoutIntake,
    transports=frozenset({Transport.STREAM}),
    rate=lambda kwargs: int(kwargs.rate),
    silence=10.0,
)
