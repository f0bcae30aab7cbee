"""Codes of locks are taken out of what was said and heard on a line before anybody keeps or shows it.

Rules: a code is what is written to object 171 of a lock, or compared with ``P1``, what a meter answers when its 171 is
read, and the old and new value of a 171 in an audit trail (LIS-200 fact sheet 2.4, 3.5); also where another master on
the line says it. Every character of it becomes ``*``: the length stays, the block check and the parity bits are made to
fit again (or to be wrong in the same bits), so that what is left can still be decoded and replayed. What comes after a
code was said is judged byte by byte, because it may be the line's echo, cut anywhere and damaged; in doubt a character
is masked. Of anything else that comes only what an address of a 171 announces is masked, also one that looks like it
where parity shows that the line has damaged it. Pure state, no input or output.
"""

import dataclasses
import re
from collections.abc import Iterator

from protocol.iec62056 import (
    Ack,
    Nak,
    Password,
    ReadBlocks,
    ReadCommand,
    ReaderEvent,
    UnreadableValue,
    WriteCommand,
)
from protocol.iec62056.characters import EOT, ETX, SEVEN_BITS, SOH, STX, has_even_parity, with_even_parity
from protocol.iec62056.data_lines import Obis
from protocol.iec62056.lis200 import Address
from protocol.iec62056.lock_codes import CHANGED_VALUES, CODE_OBJECT, MASK, names_code
from protocol.iec62056.telegrams import encode

__all__ = ["MASK", "Mask", "masked"]

_PARITY_BIT = 0x80
_ECHO_BITS = 2
"""A returned byte that differs in more bits than this is not our own; the core sees it the same way."""
_NOISE = b"\x00\x7f\xff"
_LIKE_A_CODE = tuple(bytes(f"{mark}{CODE_OBJECT}", "ascii") for mark in "0:")
"""How the address of a code ends, as an audit trail writes it and in short."""
_LIKENESS_BITS = 3
"""So many bits of the end of an address may be damaged where the line has damaged it."""
_ADDRESS = re.compile(r"\d{0,3}(-\d{0,4})?(:0?(1(7(1(\.\d?)?)?)?)?)?")
"""What may stand in front of a code's bracket, and every beginning of it."""


def masked(event: ReaderEvent) -> ReaderEvent:
    """``event`` without the code that it carries; the event itself if it carries none."""
    if isinstance(event, Password):
        lock, colon, code = event.operand.rpartition(":")
        return Password(f"{lock}{colon}{MASK * len(code)}")
    if isinstance(event, WriteCommand) and _names_code(event.address):
        return dataclasses.replace(event, value=MASK * len(event.value))
    return event


def _names_code(address: str) -> bool:
    try:
        return Address.parse(address).object == CODE_OBJECT
    except UnreadableValue:
        return True


def _asks_code(address: str) -> bool:
    """Whether an answer may tell a code: registers by OBIS ids (``1.8.0``) hold none."""
    try:
        Obis.parse(address)
    except UnreadableValue:
        return _names_code(address)
    return ":" in address and _names_code(address)


class Mask:
    """Masks one line's bytes, both directions, in the order in which they pass."""

    def __init__(self) -> None:
        self._secret = False
        self._even = True
        self._own, self._shown, self._returned = b"", b"", 0
        self._frame: _Frame | None = None
        self._watch = _Watch()

    def said(self, data: bytes, event: ReaderEvent) -> bytes:
        """What to show of ``event``, which left as ``data``."""
        if isinstance(event, Ack | Nak):
            return data  # the block before, with whatever it holds, may come again
        asks = isinstance(event, ReadCommand | ReadBlocks) and _asks_code(event.address)
        shown = masked(event)
        self._secret = asks or shown is not event
        self._frame, self._watch = None, _Watch()
        self._even = has_even_parity(data)
        self._own, self._shown, self._returned = data, data, 0
        if shown is not event:
            characters = encode(shown)
            self._shown = with_even_parity(characters) if self._even else characters
        return self._shown

    def heard(self, data: bytes) -> bytes:
        """What to show of ``data``, which came."""
        return bytes(self._each(data) if self._secret else map(self._watched, data))

    def _watched(self, byte: int) -> int:
        damaged = self._even and not has_even_parity(bytes((byte,)))
        return self._like(byte, self._watch.take(byte & SEVEN_BITS, damaged=damaged))

    def _each(self, data: bytes) -> Iterator[int]:
        for byte in data:
            if self._returned < len(self._own):
                if not self._returned and byte in _NOISE:
                    yield byte
                    continue
                damage = byte ^ self._own[self._returned]
                if damage.bit_count() <= (_ECHO_BITS if self._returned else 0):
                    yield self._shown[self._returned] ^ damage
                    self._returned += 1
                    continue
                self._returned = len(self._own)
            yield self._answered(byte)

    def _answered(self, byte: int) -> int:
        character = byte & SEVEN_BITS
        if self._frame is not None and self._frame.ended:
            shown = character ^ self._frame.difference
            self._frame = None
            return self._like(byte, shown)
        if character in {SOH, STX} and (self._frame is None or character == STX):
            self._frame = self._frame or _Frame()
            self._frame.begin(character)
            return byte
        if self._frame is None:
            return self._like(byte, ord(MASK)) if _printable(character) else byte
        return self._like(byte, self._frame.take(character))

    def _like(self, byte: int, character: int) -> int:
        """``character`` with a parity bit that is right or wrong as that of ``byte`` was."""
        if character == byte & SEVEN_BITS:
            return byte
        if not self._even:
            return character | byte & _PARITY_BIT
        right = with_even_parity(bytes((character,)))[0]
        return right if has_even_parity(bytes((byte,))) else right ^ _PARITY_BIT


@dataclasses.dataclass(slots=True)
class _Frame:
    """One block from SOH or STX on; ``difference`` is what masking has changed of its block check."""

    text: str = ""
    difference: int = 0
    ended: bool = False
    _hidden: bool = False

    def begin(self, character: int) -> None:
        """SOH, or the STX that data begin with."""
        if character == STX:
            self.text = ""

    def take(self, character: int) -> int:
        """The character to show."""
        if character in {ETX, EOT}:
            self.ended = True
            return character
        self.text = (self.text + chr(character))[:32]
        if not _printable(character) or self._plain(chr(character)):
            return character
        self.difference ^= character ^ ord(MASK)
        return ord(MASK)

    def _plain(self, character: str) -> bool:
        if character in "()":
            self._hidden = True
            return True
        if re.fullmatch(r"\(#\d{0,4}", self.text):
            return True  # a refusal tells no code
        return not self._hidden and (_ADDRESS.fullmatch(self.text) is not None or self.text in {"W", "W1", "R", "R1"})


@dataclasses.dataclass(slots=True)
class _Watch:
    """Everything that comes and should hold no code: looks for addresses of codes, and hides what they announce.

    ``left`` is how many groups are still to be hidden.
    """

    text: str = ""
    difference: int = 0
    left: int = 0
    _inside: bool = False
    _hiding: bool = False
    _damaged: bool = False
    _check: bool = False

    def take(self, character: int, *, damaged: bool) -> int:
        """The character to show; ``damaged``: its parity bit is wrong."""
        if self._check:
            shown = character ^ self.difference
            self._check, self.difference, self.left = False, 0, 0
            self._begin(inside=False)
            return shown
        if character in {ETX, EOT}:
            self._check = True
        elif character == SOH:
            self.difference, self.left = 0, 0
            self._begin(inside=False)
        elif character == STX:
            self.difference, self.left = 0, 0
            if self.text != "P1":
                self._begin(inside=False)
        elif chr(character) in "()":
            self._bracket(chr(character))
        elif self.left and _printable(character):
            self.difference ^= character ^ ord(MASK)
            self._hiding = True
            return ord(MASK)
        else:
            self.text = (self.text + chr(character))[-32:]
            self._damaged = self._damaged or damaged
        return character

    def _bracket(self, bracket: str) -> None:
        if self.left:
            # A bracket too many, which noise has made, ends no group.
            self.left -= self._inside and (bracket == ")" or self._hiding)
        elif bracket == "(" and (self.text == "P1" or self._names_code()):
            self.left = CHANGED_VALUES if self._inside else 1
        elif bracket == ")" and self._names_code():
            self.left = CHANGED_VALUES
        self._begin(inside=bracket == "(")

    def _begin(self, *, inside: bool) -> None:
        self.text, self._inside, self._hiding, self._damaged = "", inside, False, False

    def _names_code(self) -> bool:
        address = self.text.strip()
        if names_code(address.removeprefix("W1").removeprefix("R1")):
            return True
        ends = [address[at : at + 4].encode() for at in range(max(0, len(address) - 6), len(address) - 3)]
        return self._damaged and any(
            sum((a ^ b).bit_count() for a, b in zip(end, like, strict=True)) <= _LIKENESS_BITS
            for end in ends
            for like in _LIKE_A_CODE
        )


def _printable(character: int) -> bool:
    return chr(character).isprintable()
