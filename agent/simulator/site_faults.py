"""More named faults: how a meter is powered and set, what stands between it and us, and who else is on the line.

Rules: those of ``agent.simulator.faults``. Source: IEC 62056-21 Annex B.1, LIS-200 fact sheet 1.1, 1.2, 1.8, 2.2, 8.
"""

from collections.abc import Sequence
from dataclasses import replace

from agent.simulator.faults import Fault, Piece
from protocol.iec62056 import Data, Event, Identification
from protocol.iec62056.characters import with_even_parity

NUL_SECONDS, SILENCE_SECONDS = (2.1, 2.3), (1.5, 1.7)
"""Shortest and longest string of NULs, and silence behind it, that wake a battery meter."""
LONGEST_GAP = 0.005
"""Seconds between two NULs of one string."""
_ROUNDING = 0.002  # of instants that are computed from a number of characters
_AWAKE = 1.5  # seconds between characters of one message


class Battery(Fault):
    """The meter sleeps: only NULs for 2.1 to 2.3 s and 1.5 to 1.7 s of silence wake it for the request behind them."""

    def __init__(self, probability: float | None, seed: str) -> None:
        super().__init__(probability, seed)
        self._began = self._ended = self._awake_until = float("-inf")

    def hears(self, data: bytes, begun: float, ended: float, *, idle: bool) -> bytes:
        """Nothing, unless it was woken; it falls asleep when the conversation is over."""
        if not idle or begun <= self._awake_until:
            self._awake_until = ended + _AWAKE if idle else float("-inf")
            return data
        if not data.strip(b"\0"):
            if begun - self._ended > LONGEST_GAP:
                self._began = begun
            self._ended = ended
            return b""
        shortest, longest = NUL_SECONDS
        woken = shortest - _ROUNDING <= self._ended - self._began <= longest + _ROUNDING
        shortest, longest = SILENCE_SECONDS
        woken = woken and shortest - _ROUNDING <= begun - self._ended <= longest + _ROUNDING
        self._began = self._ended = float("-inf")
        if not woken:
            return b""
        self._awake_until = ended + _AWAKE
        return data


class OtherRateId(Fault):
    """The identification announces another rate than the port runs at, which never changes."""

    fixed_rate = True

    def told(self, event: Event) -> Event:
        """Change the identification."""
        return (
            replace(event, rate_id="0" if event.rate_id != "0" else "6") if isinstance(event, Identification) else event
        )


class StrippedParity(Fault):
    """A converter set to 7E1 takes the parity bits off what it passes on, and makes those that the meter needs."""

    def hears(self, data: bytes, begun: float, ended: float, *, idle: bool) -> bytes:
        """Seven bits with even parity."""
        del begun, ended, idle
        return with_even_parity(bytes(byte & 0x7F for byte in data))

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Seven bits, the eighth is 0."""
        return [replace(piece, data=bytes(byte & 0x7F for byte in piece.data)) for piece in pieces]


class ForeignMaster(Fault):
    """Telegrams of another master and its meter stand before an answer."""

    probability = 0.3

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Put one of them in front."""
        if not pieces or not self.strikes():
            return pieces
        call = b"/?77!\r\n"
        return (
            Piece(with_even_parity(self.rng.choice((call, _block(b"\x01R1\x02", b"1:400.0(1)"), _FOREIGN)))),
            *pieces,
        )


def _block(head: bytes, text: bytes) -> bytes:
    check = 0
    for byte in (framed := head + text + b"\x03")[1:]:
        check ^= byte
    return framed + bytes((check,))


_FOREIGN = _block(b"\x02", b"5:321.0(17.25*bar)")


class NoAddress(Fault):
    """Answers carry no address in front of the brackets."""

    def told(self, event: Event) -> Event:
        """Leave it out."""
        if isinstance(event, Data) and self.strikes():
            return replace(event, text=event.text[max(0, event.text.find("(")) :])
        return event


class EarlyEnd(Fault):
    """A block that others follow ends as the last one does: noise has made an ETX of its EOT, and its check fits."""

    def told(self, event: Event) -> Event:
        """Change the end before it is framed."""
        if isinstance(event, Data) and not event.last and self.strikes():
            return replace(event, last=True)
        return event


class LastRowEnd(Fault):
    """The last row of a block ends with CR LF too."""

    def told(self, event: Event) -> Event:
        """Append it."""
        if isinstance(event, Data) and event.text.startswith("(") and self.strikes():
            return replace(event, text=event.text + "\r\n")
        return event


class DamagedRequests(Fault):
    """A bit of what the reader says is flipped on the way."""

    probability = 0.1

    def hears(self, data: bytes, begun: float, ended: float, *, idle: bool) -> bytes:
        """Flip one bit of a block."""
        del begun, ended
        if idle or data[:1] not in {b"\x01", b"\x81"} or b"B" in data[1:2] or not self.strikes():
            return data
        damaged = bytearray(data)
        damaged[self.rng.randrange(4, len(data))] ^= 1
        return bytes(damaged)


class ErrorTelegrams(Fault):
    """What arrives damaged is answered with the error telegram #0013, not with NAK."""

    refuses_damaged = True


class Modbus(Fault):
    """The port is set to Modbus: the meter answers nothing that is said in this protocol."""

    def hears(self, data: bytes, begun: float, ended: float, *, idle: bool) -> bytes:
        """Nothing that it understands."""
        del data, begun, ended, idle
        return b""


class MuteReconnect(Fault):
    """A TCP converter accepts every second connection and passes nothing on, until it is closed and opened again."""

    mute_again = True
