"""Data readouts that nobody asked for, found in a stream: where they begin and end, their parity and block check.

Three forms: a whole telegram of mode D, ``/`` identification, data lines, ``!``, without a block check; the answer of
modes A and B, the identification and then STX ... ``!`` ... ETX and the check; and STX ... ETX and the check alone,
repeated by meters that say their identification once. Source: IEC 62056-21 6.3, 6.4.1, 6.4.2 and 6.4.6.
"""

import dataclasses
import re
from collections.abc import Iterator

from protocol.iec62056.characters import CR, ETX, LF, STX, block_check, learn_parity, strip_parity
from receivers.framing import Junk
from receivers.receiver import MAX_BUFFER

_BEGIN = re.compile(rb"[/\x02]")
_HEAD = re.compile(rb"/[A-Za-z]{3}[^\r\n()]{1,44}\r?\n")
_END = re.compile(rb"\n![ \t]*\r?\n")
_LINE = re.compile(rb"\([^()\r\n]*\)")


@dataclasses.dataclass(frozen=True, slots=True)
class Readout:
    """One readout: what the meter called itself (empty: it did not), its data lines with ``!``, and its raw bytes."""

    identification: str
    text: str
    raw: bytes


class Readouts:
    """Readouts out of a stream in any pieces, seven bits with even parity or eight without.

    What lies between two readouts is idle noise or what a device server adds; only what looks like data lines is told.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[Readout | Junk]:
        """Add bytes; give what they end."""
        self._buffer += data
        while (found := self._next(strip_parity(bytes(self._buffer)))) is not None:
            yield from found
        if len(self._buffer) > MAX_BUFFER:
            yield from self._rubbish(len(self._buffer), f"no readout ended within {MAX_BUFFER} bytes")

    def close(self) -> Iterator[Readout | Junk]:
        """Nothing more comes, or nothing came for long."""
        yield from self._rubbish(len(self._buffer), "the readout was cut: it has no end")
        self._begun = False

    def _next(self, text: bytes) -> list[Readout | Junk] | None:
        """What can be said of the buffer's beginning, which is then taken from it; None: more must come."""
        begin = _BEGIN.search(text)
        if begin is None:
            # Idle noise need not wait for anything.
            return list(self._rubbish(len(text), "")) if text and b"(" not in text else None
        if begin.start():
            return list(self._rubbish(begin.start(), "data lines without the beginning of a readout"))
        block, end = text.find(STX), _END.search(text)
        limit = len(text) if end is None else end.start()
        if 0 <= block < limit:
            return self._checked(text, block)
        again = _HEAD.search(text, 1, limit)
        if again is not None:
            return list(self._rubbish(again.start(), "the readout was cut: another one began"))
        return None if end is None else self._unchecked(text, end.end())

    def _unchecked(self, text: bytes, length: int) -> list[Readout | Junk]:
        """A readout of mode D."""
        head = _HEAD.match(text)
        if head is None:
            return list(self._rubbish(length, "it does not begin with an identification"))
        return [self._whole(head, text[head.end() : length], length)]

    def _checked(self, text: bytes, block: int) -> list[Readout | Junk] | None:
        """A readout with a block check; the identification may be there or not."""
        last = text.find(ETX, block)
        if last < 0 or len(text) < last + 2:
            another = text.find(STX, block + 1)
            if another > 0:
                return list(self._rubbish(another, "the readout was cut: another one began"))
            return None
        if block_check(text[block + 1 : last + 1]) != text[last + 1]:
            return list(self._rubbish(last + 2, "its block check is wrong: damaged on the way"))
        return [self._whole(_HEAD.match(text), text[block + 1 : last], last + 2)]

    def _whole(self, head: re.Match[bytes] | None, content: bytes, length: int) -> Readout | Junk:
        raw = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._begun = True
        if learn_parity(raw) is None:
            return Junk(raw, "its parity is neither even nor unused: damaged on the way")
        shown = "" if head is None else head[0][1:].decode("ascii", "replace").strip()
        return Readout(shown, content.lstrip(bytes((CR, LF))).decode("ascii", "replace"), raw)

    def _rubbish(self, length: int, cause: str) -> Iterator[Junk]:
        raw = bytes(self._buffer[:length])
        del self._buffer[:length]
        begun, self._begun = self._begun, True
        text = strip_parity(raw)
        # A stream begins anywhere; only what begins a readout was one.
        if text[:1] in {b"/", b"\x02"} or (begun and _LINE.search(text)):
            yield Junk(raw, cause)
