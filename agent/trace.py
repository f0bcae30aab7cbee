"""A conversation in readable form: when, which way, how long, the telegram with its control characters, its meaning.

Rules: works from the records of ``agent.capture`` alone, so it shows the same live and from a file. A telegram is shown
when it is complete; what is none is shown as it came. Nothing is judged here that the core judges: a wrong block check
or parity bit is said, not acted on.
"""

import re
from collections.abc import Iterator

from agent.capture import Heard, Looked, Lost, Note, Record, Said, Silent, Stopped, Wrong
from protocol.iec62056 import (
    RATES,
    Ack,
    Break,
    Data,
    Event,
    Identification,
    Nak,
    OptionSelect,
    Password,
    Prompt,
    ReadBlocks,
    ReadCommand,
    Refusal,
    RemoteProtocolError,
    Request,
    WriteCommand,
)
from protocol.iec62056.characters import SOH, STX, block_check, has_even_parity, strip_parity
from protocol.iec62056.telegrams import decode_block, decode_line

TITLE = "  seconds  way  baud   bytes    ms  telegram and meaning"
_FIRST = ("NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "HT", "LF", "VT", "FF", "CR", "SO", "SI")
_SECOND = ("DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US")
_NAMES = dict(enumerate((*_FIRST, *_SECOND))) | {0x7F: "DEL"}
_TELEGRAM = re.compile(
    rb"/[^\r\n]*\r?\n|\x06[ -~]{3}\r\n|[\x01\x02][^\x03\x04]*[\x03\x04][\x00-\x7f]|[\x06\x15]", re.DOTALL
)
_RUN = re.compile(r"((?:<\w+>))\1{3,}")
_PLAIN: dict[type, str] = {
    Prompt: "programming mode is open",
    Password: "log in",
    Ack: "acknowledged",
    Nak: "damaged, once more",
    Break: "goodbye",
}
_INDENT = " " * len(TITLE.partition("telegram")[0])


class Trace:
    """Turns records into lines of text."""

    def __init__(self) -> None:
        self._began = self._ended = 0.0
        self._latest = 0.0
        self._rate = 0
        self._line_rate = 0
        self._waiting = b""

    def lines(self, record: Record) -> Iterator[str]:
        """What to show now that this record has come."""
        if isinstance(record, Heard):
            yield from self._heard(record)
            return
        yield from self.rest()
        match record:
            case Said(at, rate, seconds, data, masked):
                self._latest = at
                yield from self._new_rate(rate)
                yield from _shown(at, "->", rate, seconds, bytes.fromhex(data), " (code masked)" if masked else "")
            case Silent(at, why) | Wrong(at, why) | Lost(at, why):
                yield f"{at:9.3f}  !!  {why}"
            case Stopped(at):
                yield f"{at:9.3f}  --  told to stop"
            case Note(at, text):
                yield f"{at:9.3f}  --  {text}"
            case Looked():
                pass

    def rest(self) -> Iterator[str]:
        """What came and is no whole telegram: nothing more of it will come."""
        if self._waiting:
            data, self._waiting = self._waiting, b""
            yield from self._came(data)

    def _heard(self, record: Heard) -> Iterator[str]:
        data = bytes.fromhex(record.data)
        if not self._waiting:
            # A socket brings bytes faster than the nominal rate: none began before what it answers.
            self._began = max(record.at - max(0, len(data) - 1) * 10 / record.rate, self._latest)
            self._rate = record.rate
        self._ended = self._latest = record.at
        self._waiting += data
        yield from self._new_rate(self._rate)
        while found := _TELEGRAM.search(strip_parity(self._waiting)):
            noise, telegram = self._waiting[: found.start()], self._waiting[found.start() : found.end()]
            self._waiting = self._waiting[found.end() :]
            if noise:
                yield from self._came(noise)
            yield from self._came(telegram)

    def _came(self, data: bytes) -> Iterator[str]:
        yield from _shown(self._began, "<-", self._rate, max(0.0, self._ended - self._began), data, "")

    def _new_rate(self, rate: int) -> Iterator[str]:
        if self._line_rate not in {0, rate}:
            yield f"{'':9}  --  the line changes to {rate} Bd"
        self._line_rate = rate


def telegrams_in(data: bytes) -> list[bytes]:
    """The whole telegrams among raw bytes, as characters; noise between them is left out."""
    return _TELEGRAM.findall(strip_parity(data))


def readable(data: bytes) -> str:
    """The characters of raw bytes, control characters by their names, runs of them counted."""
    named = "".join(f"<{_NAMES[byte]}>" if byte in _NAMES else chr(byte) for byte in strip_parity(data))
    return _RUN.sub(lambda run: f"{run[1]} x {len(run[0]) // len(run[1])} ", named)


def meaning(data: bytes) -> str:
    """What a telegram says, or what is wrong with it; nothing for what is none."""
    characters = strip_parity(data)
    found = _TELEGRAM.fullmatch(characters)
    if found is None:
        nuls = len(characters.strip(b"\x00")) == 0
        return f"wake-up, {len(characters)} NULs" if nuls and len(characters) > 10 else "no telegram"  # noqa: PLR2004 - a wake-up has 60
    parts = [_said(characters)]
    if characters[0] in {SOH, STX}:
        right = block_check(characters[1:-1])
        shown = "BCC ok" if right == characters[-1] else f"BCC bad: {characters[-1]:02X}, should be {right:02X}"
        parts.append(shown)
    if not has_even_parity(data) and not data.isascii():
        count = sum(not has_even_parity(bytes((byte,))) for byte in data)
        parts.append(f"parity wrong in {count} bytes")
    return "; ".join(part for part in parts if part)


def _said(characters: bytes) -> str:
    try:
        if characters[0] in {SOH, STX}:
            event = decode_block(characters)
        elif len(characters) > 1:
            event = decode_line(characters)
        else:
            event = Ack() if characters == b"\x06" else Nak()
    except RemoteProtocolError:
        return ""
    return _words(event)


def _words(event: Event) -> str:
    match event:
        case Request(address):
            return f"who is there at address {address}?" if address else "who is there? (every meter)"
        case OptionSelect(rate_id):
            mode = "programming mode" if event.programming else "data readout"
            return f"{mode} at {RATES.get(rate_id, '?')} Bd"
        case ReadCommand(address):
            return f"read {address}"
        case ReadBlocks(address, argument):
            return f"read archive {address} from {argument}"
        case WriteCommand(address):
            return f"write {address}"
        case _:
            return _answer_words(event)


def _answer_words(event: Event) -> str:
    match event:
        case Identification(maker, rate_id, ident, escapes):
            hdlc = ", knows HDLC" if escapes == "\\2" else ""
            return f"{ident} of maker {maker}, offers {RATES.get(rate_id, f'character {rate_id}')} Bd{hdlc}"
        case Data(_, last):
            return "" if last else "more blocks follow"
        case Refusal():
            return f"refused: {event.meaning}"
        case _:
            return _PLAIN.get(type(event), "")


def _shown(at: float, way: str, rate: int, seconds: float, data: bytes, more: str) -> Iterator[str]:
    says = meaning(data)
    head = f"{at:9.3f}  {way} {rate:>6} {len(data):>7} {seconds * 1000:>5.0f}  "
    # An archive's rows stand one on a line.
    first, *others = re.sub(r"(<CR><LF>)(?=\()", "\\1\n", readable(data)).split("\n")
    texts = [first, *others]
    texts[-1] += f"   | {says}{more}" if says or more else ""
    yield head + texts[0]
    for text in texts[1:]:
        yield _INDENT + text
