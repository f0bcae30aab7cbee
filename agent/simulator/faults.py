"""Named faults of a line and of what is on it: what goes wrong in the field, on purpose and reproducibly.

Rules: each fault is a class whose docstring is its sentence for people; its name is the class's in snake case. ``NAME``
strikes with the class's own probability, ``NAME=P`` with P; drawn from a seed, so a run can be repeated. A fault
changes what is told or sent; it never answers by itself. ``value=TEXT`` alone takes no probability but what is told.
Source: LIS-200 fact sheet 8.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from protocol.iec62056 import Data, Event, Identification

_BLOCK_CHECK_AT = -1
_NUMBER = re.compile(r"^([^\r\n]*?)\([0-9]+\.[0-9]+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that leave together, ``delay`` seconds after the piece before; ``close``: the line goes down after it."""

    data: bytes
    delay: float = 0.0
    close: bool = False


FAULTS: dict[str, type["Fault"]] = {}
"""Every fault by its name; those of ``agent.simulator.site_faults`` too."""


def name_of(fault: type["Fault"]) -> str:
    """The name that ``--fault`` takes."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", fault.__name__).lower()


class Fault:
    """Nothing goes wrong."""

    probability: ClassVar[float] = 1.0
    """Of one answer, unless the fault says otherwise."""
    expected: ClassVar[str] = "the probability is a number from 0 to 1"
    """What may stand behind ``NAME=``."""
    no_parity: ClassVar[bool] = False
    """The meter sends and expects no parity bit."""
    echoes: ClassVar[bool] = False
    """The line returns what the reader sends."""
    other_serial: ClassVar[bool] = False
    """The meter reports another serial number than its own."""
    fixed_rate: ClassVar[bool] = False
    """The port never changes its rate, whatever it announces."""
    refuses_damaged: ClassVar[bool] = False
    """What arrives damaged is answered with an error telegram, not with NAK."""
    mute_again: ClassVar[bool] = False
    """Every second TCP connection leads nowhere."""

    def __init_subclass__(cls) -> None:
        """Make it known by its name."""
        FAULTS[name_of(cls)] = cls

    def __init__(self, probability: float | None, seed: str) -> None:
        self.chance = self.probability if probability is None else probability
        self.rng = random.Random(f"{seed}/{name_of(type(self))}")  # noqa: S311 - reproducible on purpose

    @classmethod
    def read(cls, given: str | None, seed: str) -> "Fault":
        """Make the fault of what stands behind ``NAME=``, None if nothing does; raises ValueError."""
        if given is None:
            return cls(None, seed)
        probability = float(given)
        if not 0 <= probability <= 1:
            raise ValueError(given)
        return cls(probability, seed)

    def strikes(self) -> bool:
        """Whether it happens this time."""
        return self.rng.random() < self.chance

    def hears(self, data: bytes, begun: float, ended: float, *, idle: bool) -> bytes:
        """What it hears instead of ``data``, whose bits pass between two seconds; ``idle``: nobody talks to it."""
        del begun, ended, idle
        return data

    def told(self, event: Event) -> Event:
        """What the meter says instead of ``event``, before framing."""
        return event

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """What leaves on the wire instead of ``pieces``."""
        return pieces


class Silent(Fault):
    """The meter does not answer."""

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Nothing."""
        return () if self.strikes() else pieces


class CorruptBcc(Fault):
    """The block check of an answer is wrong."""

    probability = 0.1

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Change one bit of the last character of blocks."""
        if not pieces or pieces[0].data[:1] not in {b"\x01", b"\x81", b"\x02", b"\x82"} or not self.strikes():
            return pieces
        *rest, last = pieces
        # Two bits, so that the parity stays even and only the block check can show it.
        broken = last.data[:_BLOCK_CHECK_AT] + bytes((last.data[_BLOCK_CHECK_AT] ^ 0x03,))
        return (*rest, replace(last, data=broken))


class ParityError(Fault):
    """A bit of an answer is flipped on the way."""

    probability = 0.1

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Flip one bit somewhere."""
        if not pieces or not self.strikes():
            return pieces
        index = self.rng.randrange(len(pieces))
        data = bytearray(pieces[index].data)
        data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(7)
        return (*pieces[:index], replace(pieces[index], data=bytes(data)), *pieces[index + 1 :])


class NulNoise(Fault):
    """NUL characters stand before and after an answer."""

    probability = 0.5

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Some before, some after."""
        if not pieces or not self.strikes():
            return pieces
        before, after = bytes(self.rng.randrange(1, 4)), bytes(self.rng.randrange(4))
        first, *rest = pieces
        return (Piece(before, first.delay), replace(first, delay=0.0), *rest, *([Piece(after)] if after else []))


class FfNoise(Fault):
    """FFh characters stand between the brackets of an answer."""

    probability = 0.5

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """After some closing brackets that are followed by an opening one."""
        if not self.strikes():
            return pieces
        return [replace(piece, data=self._filled(piece.data)) for piece in pieces]

    def _filled(self, data: bytes) -> bytes:
        filled = bytearray()
        for index, byte in enumerate(data):
            filled.append(byte)
            following = data[index + 1] & 0x7F if index + 1 < len(data) else 0
            if byte & 0x7F == ord(")") and following == ord("(") and self.rng.random() < self.chance:
                filled += b"\xff" * self.rng.randrange(1, 3)
        return bytes(filled)


class LineNoise(Fault):
    """Modem text stands before an answer."""

    probability = 0.5

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Put it in front."""
        if not pieces or not self.strikes():
            return pieces
        return (Piece(self.rng.choice((b"\r\nRING\r\n", b"+++", b"\r\nOK\r\n"))), *pieces)


class Echo(Fault):
    """The line returns every byte that the reader sends."""

    echoes = True


class ParityNone(Fault):
    """The path carries eight bits without parity (8N1)."""

    no_parity = True


class SplitAnswers(Fault):
    """An answer arrives in pieces with short gaps."""

    probability = 0.5

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Cut it at random places."""
        if not self.strikes():
            return pieces
        return list(self._cut(pieces))

    def _cut(self, pieces: Sequence[Piece]) -> Iterable[Piece]:
        for piece in pieces:
            begin, delay = 0, piece.delay
            while begin < len(piece.data):
                end = min(len(piece.data), begin + self.rng.randrange(1, max(2, len(piece.data))))
                yield Piece(piece.data[begin:end], delay, piece.close and end == len(piece.data))
                begin, delay = end, self.rng.uniform(0.01, 0.1)


class OneByteAtATime(Fault):
    """Every byte of an answer arrives alone."""

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Cut it after every byte."""
        if not self.strikes():
            return pieces
        return [
            Piece(bytes((byte,)), 0.0 if index else piece.delay, piece.close and index == len(piece.data) - 1)
            for piece in pieces
            for index, byte in enumerate(piece.data)
        ]


class LateAnswers(Fault):
    """An answer comes half a second to three seconds late."""

    probability = 0.2

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Wait first."""
        if not pieces or not self.strikes():
            return pieces
        first, *rest = pieces
        return (replace(first, delay=first.delay + self.rng.uniform(0.5, 3.0)), *rest)


class CloseEarly(Fault):
    """The line goes down in the middle of an answer."""

    probability = 0.1

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Send a part, then close."""
        if not pieces or not self.strikes():
            return pieces
        first = pieces[0]
        return (Piece(first.data[: len(first.data) // 2], first.delay, close=True),)


class WrongSerial(Fault):
    """The meter reports another serial number than its own."""

    other_serial = True


class DropBytes(Fault):
    """Bytes of answers get lost (the probability is that of one byte)."""

    probability = 0.002

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Leave some out."""
        kept = (
            replace(piece, data=bytes(byte for byte in piece.data if self.rng.random() >= self.chance))
            for piece in pieces
        )
        return [piece for piece in kept if piece.data or piece.close]


class InsertBytes(Fault):
    """Bytes come from nowhere in the middle of answers (the probability is that of one byte)."""

    probability = 0.002

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Put some in."""
        return [replace(piece, data=self._mixed(piece.data)) for piece in pieces]

    def _mixed(self, data: bytes) -> bytes:
        mixed = bytearray()
        for byte in data:
            if self.rng.random() < self.chance:
                mixed.append(self.rng.randrange(256))
            mixed.append(byte)
        return bytes(mixed)


class DoubleBytes(Fault):
    """Bytes of answers come twice (the probability is that of one byte)."""

    probability = 0.002

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Repeat some."""
        return [
            replace(piece, data=b"".join(bytes((byte,)) * (1 + self.strikes()) for byte in piece.data))
            for piece in pieces
        ]


class FlipPairs(Fault):
    """The same bit of two bytes of an answer is flipped: its block check does not show it, its parity does."""

    probability = 0.1

    def sent(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """Flip it twice in one piece."""
        return [replace(piece, data=self._flipped(piece.data)) for piece in pieces]

    def _flipped(self, data: bytes) -> bytes:
        if len(data) < 4 or not self.strikes():  # noqa: PLR2004 - the shortest block
            return data
        damaged, bit = bytearray(data), 1 << self.rng.randrange(7)
        for at in self.rng.sample(range(1, len(data) - 2), min(2, len(data) - 3)):
            damaged[at] ^= bit
        return bytes(damaged)


class NoCrlf(Fault):
    """The rows of an answer end with LF alone."""

    def told(self, event: Event) -> Event:
        """Change the text before it is framed."""
        if isinstance(event, Data) and self.strikes():
            return replace(event, text=event.text.replace("\r\n", "\n"))
        return event


class TrailingBlanks(Fault):
    """The rows of an answer end with blanks before CR LF."""

    def told(self, event: Event) -> Event:
        """Change the text before it is framed."""
        if isinstance(event, Data) and self.strikes():
            return replace(event, text=event.text.replace("\r\n", "  \r\n"))
        return event


class SlowMaker(Fault):
    """The maker's third letter is upper case: every telegram needs 200 ms of reaction time."""

    def told(self, event: Event) -> Event:
        """Change the identification."""
        if isinstance(event, Identification) and self.strikes():
            return replace(event, maker=event.maker.upper())
        return event


class Value(Fault):
    """The first number with a decimal point, in each answer and row, is TEXT instead (``value=NaN``)."""

    expected = "expected value=TEXT, printable ASCII without brackets, such as value=NaN"

    def __init__(self, text: str, seed: str) -> None:
        super().__init__(None, seed)
        self._text = text

    @classmethod
    def read(cls, given: str | None, seed: str) -> Fault:
        """Take the text that is told."""
        if not given or not given.isascii() or not given.isprintable() or set(given) & set("()"):
            raise ValueError(given)
        return cls(given, seed)

    def told(self, event: Event) -> Event:
        """Change the text before it is framed, so that the block check is right."""
        if isinstance(event, Data):
            return replace(event, text=_NUMBER.sub(lambda found: f"{found[1]}({self._text}", event.text))
        return event


class UnknownFault(ValueError):  # noqa: N818 - named by what it is
    """A fault that nobody has named, or what it cannot be told to do."""


def read_faults(texts: Iterable[str], seed: str) -> list[Fault]:
    """Read ``NAME[=P]`` texts; raises UnknownFault with the list of what is known."""
    return [_read_fault(text, seed) for text in texts]


def _read_fault(text: str, seed: str) -> Fault:
    name, equals, given = text.partition("=")
    kind = FAULTS.get(name)
    if kind is None:
        raise UnknownFault(f"no fault is called {name!r}; known are {', '.join(sorted(FAULTS))}")
    try:
        return kind.read(given if equals else None, seed)
    except ValueError:
        raise UnknownFault(f"{text!r}: {kind.expected}") from None
