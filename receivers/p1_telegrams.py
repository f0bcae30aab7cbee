"""P1 telegrams as bytes and lines: found in a stream, checked by their CRC16, taken apart into objects.

A telegram begins with a line ``/XXXZ...`` and ends with a line ``!`` and, from DSMR 4 on, four hex digits
of a CRC16 over everything from ``/`` to ``!``. Source: P1 Companion Standard (Dutch Smart Meter Requirements) 5.0.2,
6.2 to 6.12; 2.2 and 3.0 for telegrams without a CRC; e-MUCS P1 1.7.1 for Belgium.
"""

import dataclasses
import re
from collections.abc import Iterator

from protocol.iec62056.characters import has_even_parity, strip_parity
from receivers.framing import Junk
from receivers.receiver import MAX_BUFFER

START = ord("/")
_END = re.compile(rb"\n!([0-9A-Fa-f]{4})?[ \t]*\r?\n")
_HEAD = re.compile(rb"/[A-Za-z]{3}[^\r\n()]{1,44}\r?\n")
_CLOSED = re.compile(rb"\n!([0-9A-Fa-f]{4})?\s*\Z")
_OBJECT = re.compile(r"(\d{1,3}-\d{1,3}:\d{1,3}\.\d{1,3}\.\d{1,3})(?:[*.]255)?((?:\([^()]*\))+)\s*")
_GROUP = re.compile(r"\(([^()]*)\)")

_POLYNOMIAL = 0xA001


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _table()


def crc16(data: bytes) -> int:
    """CRC16 with x^16 + x^15 + x^2 + 1, least significant bit first, beginning with 0. P1 5.0.2, 6.2."""
    value = 0
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class Telegram:
    """The bytes from ``/`` to ``!``, and the CRC that the telegram names (None: it has none)."""

    content: bytes
    crc: int | None

    @property
    def sound(self) -> bool:
        """Whether the CRC is that of the content; True when there is none."""
        return self.crc is None or crc16(self.content) == self.crc


class Telegrams:
    """Telegrams out of a stream in any pieces. What comes before the first ``/`` of a stream is a cut one: no junk."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[Telegram | Junk]:
        """Add bytes; give what they end."""
        # Seven bits and even parity (DSMR 2.2, 9600 baud) come through an 8N1 port with the parity bit on top.
        self._buffer += data if data.isascii() or not has_even_parity(data) else strip_parity(data)
        at = 0
        while (found := _END.search(self._buffer, at)) is not None:
            yield from self._whole(bytes(self._buffer[at : found.start() + 2]), found[1])
            at = found.end()
        del self._buffer[:at]
        if len(self._buffer) > MAX_BUFFER:
            junk = bytes(self._buffer)
            # What may still be the beginning of a telegram stays.
            begins = junk.rfind(b"/", MAX_BUFFER // 2)
            keep = junk[begins:] if begins >= 0 else b""
            self._buffer[:] = keep
            yield from self._strange(junk[: len(junk) - len(keep)], f"no telegram ended within {MAX_BUFFER} bytes")

    def close(self) -> Iterator[Telegram | Junk]:
        """Nothing more comes: the last telegram may lack its line end."""
        left = bytes(self._buffer)
        self._buffer.clear()
        found = _CLOSED.search(left)
        if found is not None:
            yield from self._whole(left[: found.start() + 2], found[1])
        else:
            yield from self._strange(left, "the telegram was cut: it has no end")
        self._begun = False

    def _whole(self, data: bytes, crc: bytes | None) -> Iterator[Telegram | Junk]:
        """One end was found: the telegram begins at the last head before it."""
        heads = [found.start() for found in _HEAD.finditer(data)]
        start = heads[-1] if heads else 0
        if data[start] != START:
            yield from self._strange(data, "a telegram's end without its beginning")
            return
        yield from self._strange(data[:start], "the telegram was cut: another one began")
        self._begun = True
        yield Telegram(data[start:], None if crc is None else int(crc, 16))

    def _strange(self, data: bytes, cause: str) -> Iterator[Junk]:
        began, self._begun = self._begun, True
        if data.strip(b"\r\n \t\0") and (began or data.startswith(b"/")):
            yield Junk(data, cause)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One object of a telegram: its OBIS id (without ``*255``), and what stands in its brackets."""

    id: str
    groups: tuple[str, ...]


def lines_of(content: bytes) -> Iterator[Line]:
    """The objects of a telegram; lines that are none (the head, the end, a maker's own) are left out.

    A line that begins with a bracket goes on with the one before it: DSMR 2.2 and 3.0 write a gas value so.
    """
    joined: list[str] = []
    for line in content.decode("ascii", "replace").replace("\r", "").split("\n"):
        if line.startswith("(") and joined:
            joined[-1] += line
        else:
            joined.append(line)
    for line in joined:
        found = _OBJECT.fullmatch(line)
        if found is not None:
            yield Line(found[1], tuple(_GROUP.findall(found[2])))
