"""Telegrams as characters: one event in, its seven-bit characters out, and back.

Rules: one telegram at a time, whole and without parity bits; no state, so nothing here knows what is legal when. What
we are asked to say and cannot be said raises ``LocalProtocolError``; what arrives and says nothing raises
``RemoteProtocolError``, a wrong block check ``DamagedTelegram``. No message repeats what a telegram says, because that
may be a lock code. Source: IEC 62056-21 6.3 and 6.4, LIS-200 fact sheet 1.3 to 1.8, 2.1.
"""

import re

from protocol.iec62056.characters import ACK, DEL, EOT, ETX, NAK, NUL, SOH, STX, block_check
from protocol.iec62056.errors import DamagedTelegram, LocalProtocolError, RemoteProtocolError
from protocol.iec62056.events import (
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
    Request,
    WriteCommand,
)

REQUEST_LINE = re.compile(rb"/\?([0-9A-Za-z ]{0,32})!?\r?\n")
"""Also without ``!``, as one firmware wants it. Source: LIS-200 fact sheet 1.3."""
IDENTIFICATION_LINE = re.compile(rb"/([A-Za-z]{3})([\x22-.0-~])((?:\\[0-9])*)([ -~]*)\r?\n")
"""Only digits count as escapes: ``/Els6\\EK270`` is seen in the field and its E is part of the type. Fact sheet 1.4."""
OPTION_SELECT_LINE = re.compile(rb"\x06([ -~])([ -~])([ -~])\r?\n")
MAX_LINE = 64
"""No line that a conversation opens with is longer: 32 characters of address or 16 of type, and their frame."""
MAX_IDENT = 16
READS = frozenset({"R1", "R5"})
"""Commands that read one object."""

_COMMAND = re.compile(r"([A-Z][0-9])(?:\x02(?P<data>.*))?", re.DOTALL)
_OPERAND = re.compile(r"(?P<address>[^()]*)\((?P<value>.*)\)", re.DOTALL)
_REFUSAL = re.compile(r"[^()]*\(#(\d{1,4})\)\s*", re.ASCII)
_FILLED = re.compile(rb"(?<=\))[\x00\x7f\r\n ]*[\x00\x7f][\x00\x7f\r\n ]*(?=[(\x03\x04])")
_FILLER = bytes((NUL, DEL))
_GARBLED = re.compile(r"\([^()]*[\x00-\x1f]")
"""A control character inside brackets. A NUL there changes neither parity nor block check, so it is looked for."""
_CONTROL = re.compile(r"[\x00-\x1f]")
_FRAME = {chr(control) for control in (SOH, STX, ETX, EOT)}


def encode(event: Event) -> bytes:
    """The characters of ``event``; a wake-up is no telegram and has none."""
    characters = _encode_line(event) or _encode_command(event) or _encode_answer(event)
    if characters is None:
        raise LocalProtocolError(f"{type(event).__name__} cannot be put into a telegram as it is")
    return characters


def _encode_line(event: Event) -> bytes | None:
    match event:
        case Request(address):
            return _line(event, f"/?{address}!\r\n")
        case Identification(maker, rate_id, ident, escapes) if len(escapes + ident) <= MAX_IDENT:
            return _line(event, f"/{maker}{rate_id}{escapes}{ident}\r\n")
        case OptionSelect(rate_id, mode, protocol):
            return _line(event, f"\x06{protocol}{rate_id}{mode}\r\n")
    return None


def _encode_command(event: Event) -> bytes | None:  # noqa: PLR0911 - one line per command is the clearest table
    match event:
        case Password(operand):
            return _command("P1", f"({_inner(operand)})")
        case ReadCommand(address, argument, command) if command in READS:
            return _command(command, f"{_inner(address)}({_inner(argument)})")
        case ReadBlocks(address, argument):
            return _command("R3", f"{_inner(address)}({_inner(argument)})")
        case WriteCommand(address, value):
            return _command("W1", f"{_inner(address)}({_inner(value)})")
        case Prompt(operand):
            return _command("P0", f"({_inner(operand)})")
        case Break():
            return _checked(SOH, "B0", ETX)
    return None


def _encode_answer(event: Event) -> bytes | None:
    match event:
        case Data(text, last):
            return _checked(STX, _block_text(text), ETX if last else EOT)
        case Refusal(code) if 0 <= code <= 9999:  # noqa: PLR2004 - four digits
            return _checked(STX, f"(#{code:04d})", ETX)
        case Ack():
            return bytes((ACK,))
        case Nak():
            return bytes((NAK,))
    return None


def decode_line(characters: bytes) -> Event:
    """The event of a request, identification or option select that ``receiving`` has cut out."""
    if found := REQUEST_LINE.fullmatch(characters):
        return Request(found[1].decode())
    if found := OPTION_SELECT_LINE.fullmatch(characters):
        protocol, rate_id, mode = (group.decode() for group in found.groups())
        return OptionSelect(rate_id, mode, protocol)
    if found := IDENTIFICATION_LINE.fullmatch(characters):
        maker, rate_id, escapes, ident = (group.decode() for group in found.groups())
        return Identification(maker, rate_id, ident, escapes)
    raise RemoteProtocolError("a line that is neither a request, an identification nor an option select")


def fillers(characters: bytes) -> frozenset[int]:
    """Where NUL and DEL (FFh with parity) stand between brackets, as some meters send them. Fact sheet 8.3."""
    return frozenset(
        index
        for found in _FILLED.finditer(characters)
        for index in range(*found.span())
        if characters[index] in _FILLER
    )


def decode_block(characters: bytes) -> Event:
    """The event of a telegram from SOH or STX to its block check character.

    Fillers are no part of the text. Whether a meter's block check counts them is not known (the source saw them, not
    how they were checked), so either is taken: without fillers the check is as strict as ever.
    """
    *_, end, check = characters
    content, without_fillers = characters[:-1], characters[:-1]
    if ignored := fillers(characters):
        without_fillers = bytes(character for index, character in enumerate(content) if index not in ignored)
    if check not in {block_check(content[1:]), block_check(without_fillers[1:])}:
        raise DamagedTelegram("a telegram arrived damaged: its block check is wrong")
    text = without_fillers[1:-1].decode("ascii")
    if characters[0] == SOH:
        return _decode_command(text, end)
    if _GARBLED.search(text):
        raise DamagedTelegram("a telegram arrived damaged: a control character stands inside its brackets")
    refused = _REFUSAL.fullmatch(text)
    return Refusal(int(refused[1])) if refused and end == ETX else Data(text, last=end == ETX)


def _decode_command(text: str, end: int) -> Event:
    found = _COMMAND.fullmatch(text)
    if found is None or end != ETX:
        raise RemoteProtocolError("a telegram with SOH that holds no command")
    command, data = found[1], found["data"]
    if command == "B0":
        return Break()
    if _CONTROL.search(data or ""):
        raise DamagedTelegram("a command arrived damaged: a control character stands in it")
    operand = _OPERAND.fullmatch(data or "")
    if operand is None:
        raise RemoteProtocolError(f"a command {command} without data in brackets")
    address, value = operand["address"], operand["value"]
    match command:
        case "P0":
            return Prompt(value)
        case "P1":
            return Password(value)
        case "R1" | "R5":
            return ReadCommand(address, value, command)
        case "R3":
            return ReadBlocks(address, value)
        case "W1":
            return WriteCommand(address, value)
        case _:
            raise RemoteProtocolError(f"the command {command}, which this meter does not know")


def _line(event: Event, text: str) -> bytes:
    """``text`` if it fits the line and reads as ``event`` again (a maker of six letters would not)."""
    characters = text.encode("ascii") if text.isascii() else b""
    try:
        if decode_line(characters) == event:
            return characters
    except RemoteProtocolError:
        pass
    raise LocalProtocolError(f"{type(event).__name__} has characters or a length that the line does not allow")


def _command(command: str, data: str) -> bytes:
    return _checked(SOH, f"{command}\x02{data}", ETX)


def _checked(start: int, text: str, end: int) -> bytes:
    content = text.encode("ascii") + bytes((end,))
    return bytes((start, *content, block_check(content)))


def _inner(text: str) -> str:
    """``text`` if it can stand in a command: printable ASCII without brackets."""
    if not text.isascii() or not text.isprintable() or "(" in text or ")" in text:
        raise LocalProtocolError("a command's address and data are printable ASCII without brackets")
    return text


def _block_text(text: str) -> str:
    if not text.isascii() or _FRAME.intersection(text):
        raise LocalProtocolError("the text of a block is ASCII without framing characters; escape others as \\xHH")
    return text
