"""Where telegrams begin and end in what arrives: a bounded buffer that throws noise away.

Rules: knows control characters, never meanings; which telegrams are looked for is an argument, because it depends on
the state. Whatever cannot be the beginning of one of these is noise: NULs, modem text, another master's telegrams. What
is cut out depends only on the order of the bytes, never on how they were split.

Theory of operation. A block begins with SOH or STX and ends one byte after its first ETX or EOT, because the block
check may have any value, that of ETX too. A line begins with ``/`` (or ACK for an option select) and ends with LF; the
first other control character shows that it was noise. A reader that restarts in the middle of its own telegram is
heard: a whole request, or a break, inside an unfinished block counts, the beginning does not. Source: IEC 62056-21 6.3,
LIS-200 fact sheet 1.3, 1.7, 1.8, 8.5 to 8.7.
"""

import re
from dataclasses import dataclass

from protocol.iec62056.characters import ACK, CR, DEL, LF, NAK, NUL, SOH, STX, has_even_parity, strip_parity
from protocol.iec62056.errors import Overflow
from protocol.iec62056.telegrams import MAX_LINE, OPTION_SELECT_LINE, REQUEST_LINE

_BREAK = b"\x01B0\x03q"
_NOT_PRINTABLE = re.compile(rb"[^ -~]")
_END = re.compile(rb"[\x03\x04]")
_COMMAND = re.compile(rb"\x01(?:$|[PWREB](?:$|[0-9](?:$|\x02?[ -~]*(?:$|[\x03\x04]))))")
"""A command of a reader up to its end, and every beginning of one that nothing else follows."""
_LINE_FILLERS = bytes((NUL, DEL))
_DAMAGED_ECHO_BITS = 2
"""A returned byte that differs in more bits than this is not our own."""


@dataclass(frozen=True, slots=True)
class Sought:
    """What may begin a telegram just now.

    Args:
        starts: the characters that do.
        line: what a line that begins with ``/`` must look like.
        option_select: whether an ACK begins an option select; otherwise it stands alone.
        foreign: whether SOH is among the starts only to cut out whole what another master says.
    """

    starts: bytes
    line: re.Pattern[bytes]
    option_select: bool
    foreign: bool = False

    @property
    def restarts(self) -> bool:
        """Whether an unfinished block may be given up for a request or a break: only a meter hears those."""
        return self.line is REQUEST_LINE


class Receiver:
    """The bytes that have come and are not yet understood."""

    def __init__(self, max_telegram: int) -> None:
        self._max_telegram = max_telegram
        self._limit = 2 * max_telegram
        self._raw = bytearray()
        self._characters = bytearray()
        self._searched = 0
        self._overflowed = False
        self._echo = bytearray()
        self._returned = bytearray()

    def __len__(self) -> int:
        return len(self._raw)

    @property
    def kept(self) -> int:
        """How many bytes are kept, what an echo is compared with included."""
        return len(self._raw) + len(self._echo) + len(self._returned)

    @property
    def surplus(self) -> int:
        """How many bytes stand behind the last telegram that was cut out, fillers of the line at both ends left out."""
        return len(self._characters.strip(_LINE_FILLERS))

    def expect_echo(self, sent: bytes) -> None:
        """Our own bytes, which the line is going to return."""
        if len(self._echo) > self._limit:
            self._forget_echo()
        self._echo += sent

    def put_back(self, raw: bytes) -> None:
        """What was cut out and is none stands in front again, its first byte left out."""
        self._raw[:0] = raw[1:]
        self._characters[:0] = strip_parity(raw[1:])
        self._searched = 0

    def clear(self) -> None:
        """Throw away everything that has come."""
        self._drop(len(self._raw))
        self._overflowed = False

    def append(self, data: bytes, sought: Sought, *, even: bool | None) -> None:
        """Keep ``data``, but no noise in front of what is ``sought``, and no more than the limit."""
        data = self._without_echo(data) if self._echo else data
        self._raw += data
        self._characters += strip_parity(data)
        self._skip_noise(sought, even=even)
        if len(self._raw) > self._limit:
            del self._raw[self._limit :], self._characters[self._limit :]
            self._overflowed = True

    def next_telegram(self, sought: Sought, *, even: bool | None) -> bytes | None:
        """The raw bytes of the next telegram that is ``sought``, or None until more has come.

        ``even``: whether a lone ACK or NAK must carry even parity. Raises Overflow for a telegram without end.
        """
        length: int | None = 0
        while length == 0:
            self._skip_noise(sought, even=even)
            length = self._length(sought)
        if length is not None:
            telegram = bytes(self._raw[:length])
            self._drop(length)
            return telegram
        if self._overflowed:
            self.clear()
            raise Overflow
        return None

    def _skip_noise(self, sought: Sought, *, even: bool | None) -> None:
        for index, character in enumerate(self._characters):
            if character not in sought.starts:
                continue
            if not even or character not in {ACK, NAK} or has_even_parity(bytes((self._raw[index],))):
                if index:
                    self._drop(index)
                return
        self._drop(len(self._raw))

    def _length(self, sought: Sought) -> int | None:
        """How long the telegram in front is; None until that is known, 0 after dropping what turned out to be none."""
        if not self._characters:
            return None
        first = self._characters[0]
        if first == NAK or (first == ACK and not sought.option_select):
            return 1
        if first == SOH and sought.foreign and not _COMMAND.match(self._characters):
            self._drop(1)
            return 0
        if first in {SOH, STX}:
            return self._block_length(restarts=sought.restarts)
        return self._line_length(OPTION_SELECT_LINE if first == ACK else sought.line)

    def _block_length(self, *, restarts: bool) -> int | None:
        found = _END.search(self._characters, self._searched or 1)
        end = min(found.start() if found else len(self._characters), self._max_telegram)
        if restarts:
            request = REQUEST_LINE.search(self._characters, max(1, self._searched - MAX_LINE), end)
            if request:
                self._drop(request.start())
                return 0
        if end == self._max_telegram:
            self._drop(end)
            raise Overflow
        self._searched = end
        length = end + 2
        if length > len(self._characters):
            return None
        if restarts and length > len(_BREAK) and self._characters.endswith(_BREAK, 0, length):
            self._drop(length - len(_BREAK))
            return 0
        return length

    def _line_length(self, line: re.Pattern[bytes]) -> int | None:
        found = _NOT_PRINTABLE.search(self._characters, 1, MAX_LINE)
        if found is None and len(self._characters) < MAX_LINE:
            return None
        if found is not None:
            end = found.start() + (found[0][0] == CR)
            if end == len(self._characters):
                return None
            if self._characters[end] == LF and line.fullmatch(self._characters, 0, end + 1):
                return end + 1
        self._drop(1)
        return 0

    def _without_echo(self, data: bytes) -> bytes:
        """``data`` without what the line returned of our own.

        A returned byte may be damaged like any other, except the first, which tells an echo from an answer; NULs and
        FFs in front of it are noise of the line. As soon as something else comes the line has no echo, and what was
        taken for one counts as received.
        """
        for index, byte in enumerate(data):
            expected = self._echo[len(self._returned)]
            tolerance = _DAMAGED_ECHO_BITS if self._returned else 0
            if (byte ^ expected).bit_count() <= tolerance:
                self._returned.append(byte)
                if len(self._returned) == len(self._echo):
                    self._forget_echo()
                    return data[index + 1 :]
            elif self._returned or byte not in {NUL, 0xFF}:
                received = bytes(self._returned) + data[index:]
                self._forget_echo()
                return received
        return b""

    def _forget_echo(self) -> None:
        self._echo.clear()
        self._returned.clear()

    def _drop(self, length: int) -> None:
        del self._raw[:length], self._characters[:length]
        self._searched = 0
