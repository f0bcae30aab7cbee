"""What passes on a line as records: for people (``agent.trace``), for a file, and for a replay (``agent.replay``).

Rules: a ``Recorder`` observes conversations, masks the codes of locks (``agent.masking``) and hands each record to its
sinks; nothing unmasked leaves it. A capture is JSON Lines: the first line is a ``Head`` (what was asked, of which line,
by which version), then the records in their order. Fields are only added, with defaults. Seconds count from the head;
bytes are those of the port, with their parity bits, as hexadecimal text.
"""

import datetime as dt
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from agent.conversation import NoAnswer
from agent.links import LinkError
from agent.masking import Mask
from protocol.iec62056 import MeterEvent, ReaderEvent
from protocol.iec62056.lock_codes import hidden

CAPTURE_VERSION = 1


class CaptureError(Exception):
    """A capture cannot be written or read; the text says which and why."""


class Head(msgspec.Struct, frozen=True, tag="head", kw_only=True):
    """The first line: what was asked, so that a replay can ask the same. ``began`` is the gateway's UTC."""

    version: int = CAPTURE_VERSION
    software: str = ""
    began: dt.datetime
    endpoint: str
    asked: dict[str, Any] = {}


class Said(msgspec.Struct, frozen=True, tag="said", omit_defaults=True):
    """A telegram left, from its first bit (``at``) for ``seconds``; ``masked``: a code was taken out of it."""

    at: float
    rate: int
    seconds: float
    data: str
    masked: bool = False


class Heard(msgspec.Struct, frozen=True, tag="heard"):
    """A chunk came; its last byte at ``at``."""

    at: float
    rate: int
    data: str


class Silent(msgspec.Struct, frozen=True, tag="silent"):
    """A wait ended without an answer, or with only a part of one."""

    at: float
    why: str


class Wrong(msgspec.Struct, frozen=True, tag="wrong"):
    """What came could not be understood, or is not allowed; asking again may follow."""

    at: float
    why: str


class Lost(msgspec.Struct, frozen=True, tag="lost"):
    """The port or connection failed."""

    at: float
    why: str


class Stopped(msgspec.Struct, frozen=True, tag="stopped"):
    """Somebody ended the command before it was done (Ctrl-C); what follows is how it said goodbye."""

    at: float


class Looked(msgspec.Struct, frozen=True, tag="clock"):
    """The command looked at the gateway's clock and saw this UTC."""

    shows: dt.datetime


class Note(msgspec.Struct, frozen=True, tag="note"):
    """What begins here, for whoever reads along."""

    at: float
    text: str


Record = Said | Heard | Silent | Wrong | Lost | Stopped | Looked | Note
Sink = Callable[[Record], None]
_DECODER = msgspec.json.Decoder(Head | Record)


class Recorder:
    """An ``agent.conversation.Observer`` that makes records and hands them to sinks. Its zero is when it is made."""

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = tuple(sinks)
        self._mask = Mask()
        self._zero = time.monotonic()

    def said(self, data: bytes, event: ReaderEvent, rate: int, begun: float, ended: float) -> None:
        """See Observer."""
        shown = self._mask.said(data, event)
        self._tell(Said(self._at(begun), rate, round(ended - begun, 4), shown.hex(), shown != data))

    def heard(self, data: bytes, rate: int, at: float) -> None:
        """See Observer."""
        self._tell(Heard(self._at(at), rate, self._mask.heard(data).hex()))

    def understood(self, event: MeterEvent, rate: int, at: float) -> None:
        """See Observer; whoever reads records decodes them."""

    def failed(self, error: Exception, rate: int, at: float) -> None:
        """See Observer."""
        del rate
        kind = Silent if isinstance(error, NoAnswer) else Lost if isinstance(error, LinkError) else Wrong
        self._tell(kind(self._at(at), hidden(error.what if isinstance(error, LinkError) else str(error))))

    def looked(self, shows: dt.datetime) -> dt.datetime:
        """Record what the clock shows, and return it."""
        self._tell(Looked(shows))
        return shows

    def stopped(self) -> None:
        """Record that the command is told to stop."""
        self._tell(Stopped(self._at(time.monotonic())))

    def note(self, text: str) -> None:
        """Record what begins now."""
        self._tell(Note(self._at(time.monotonic()), text))

    def _at(self, instant: float) -> float:
        return round(instant - self._zero, 4)

    def _tell(self, record: Record) -> None:
        for sink in self._sinks:
            sink(record)


class CaptureFile:
    """A capture being written; each record is in the file before the next is made. Readable by its owner only."""

    def __init__(self, path: pathlib.Path, head: Head) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise CaptureError(f"{path} exists; a capture is never overwritten, name another file") from None
        except OSError as error:
            raise CaptureError(f"{path} cannot be written: {error.strerror}") from error
        self._file = open(descriptor, "wb", buffering=0)  # noqa: SIM115, PTH123 - closed by close(); the descriptor is new
        self._write(head)

    def __call__(self, record: Record) -> None:
        """Be a ``Sink``."""
        self._write(record)

    def _write(self, line: Head | Record) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_capture(path: pathlib.Path) -> tuple[Head, list[Record]]:
    """Read a capture; a last line that was cut off (power, kill) is left out.

    Raises:
        CaptureError: when the file is none, or a newer version's.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror}") from error
    records: list[Head | Record] = list(_decoded(path, lines))
    if not records or not isinstance(records[0], Head):
        raise CaptureError(f"{path} is no capture; its first line must be a head, as --capture writes it")
    head, rest = records[0], records[1:]
    if head.version > CAPTURE_VERSION:
        raise CaptureError(f"{path} is a capture of version {head.version}; this program knows {CAPTURE_VERSION}")
    return head, [record for record in rest if not isinstance(record, Head)]


def _decoded(path: pathlib.Path, lines: list[bytes]) -> Iterator[Head | Record]:
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            yield _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if number == len(lines):
                return
            raise CaptureError(f"{path}, line {number} is no record of a capture: {error}") from error
