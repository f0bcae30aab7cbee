"""What LIS-200 texts, rows and answers mean, for whatever a meter may send in a block that is whole.

Promised of the texts: nothing but ``UnreadableValue``, and what was read can be written and read again. Promised of the
calls of both contexts: they end with an answer, a refusal, or what the other side did wrong, and every value that
they bring is a finite number with an aware time that can be stored.
"""

import datetime as dt
import zoneinfo
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from benchmarks._fuzz_core import rows_of_transcripts
from benchmarks._fuzz_targets import Broken, Notes, Target, broken_unless
from contexts.catalogue import CallError, check_call, find_call
from contexts.lis200_checks import ArchiveChecks, Doubt
from contexts.meters import Answer, DataMessage, Held, Layout, Moment
from protocol.iec62056 import MeterRefusal, RemoteProtocolError, UnreadableValue, codes, data_lines, lis200
from protocol.readings import NewMeterReading
from protocol.wire import checked_decimal, encode

NOW = dt.datetime(2025, 3, 30, 1, 0, 30, tzinfo=dt.UTC)
ZONES = tuple(map(zoneinfo.ZoneInfo, ("Europe/Berlin", "UTC", "America/St_Johns", "Pacific/Apia", "Africa/Casablanca")))
READERS: tuple[Callable[[str], object], ...] = (
    *(lis200.Address.parse, lis200.parse_groups, lis200.parse_rows, lis200.parse_value, lis200.parse_decimal),
    *(lis200.normalise_unit, lis200.decode_text, lis200.encode_text, lis200.parse_datetime, lis200.parse_status),
    *(lis200.parse_event_code, lis200.ArchiveRange.parse, lambda text: lis200.parse_value(text).number),
    *(data_lines.parse_data_message, data_lines.parse_data_sets, data_lines.Obis.parse, data_lines.parse_stamp),
)


def _texts(data: bytes, notes: Notes) -> None:
    text = data.decode("latin-1" if data.isascii() or len(data) % 2 else "utf-8", "replace")
    for index, reader in enumerate(READERS):
        try:
            found = reader(text)
        except UnreadableValue as error:
            notes.reached.add((index, error.expected[:30]))
            broken_unless(len(str(error)) < 1000, "an error repeats a whole text")  # noqa: PLR2004 - one line
            continue
        notes.reached.add((index, type(found), _shape(found)))
        _goes_back(found)
    for code in data[:4]:
        codes.event_title(code * 257)
        codes.refusal_meaning(code)


def _shape(found: object) -> object:
    if isinstance(found, lis200.Address):
        return bool(found.sub), bool(found.attribute), bool(found.medium)
    return min(len(found), 3) if isinstance(found, tuple) else None


def _goes_back(found: object) -> None:
    if isinstance(found, lis200.Address):
        again = lis200.Address.parse(str(found))
        broken_unless(again.core == found.core, f"{found} is {again} when it is asked for")
        broken_unless(
            again.attribute == (found.attribute or lis200.VALUE), f"{found} has another attribute when it is asked for"
        )
    elif isinstance(found, dt.datetime):
        broken_unless(lis200.parse_datetime(lis200.format_datetime(found)) == found, f"{found} is another time")
    elif isinstance(found, tuple) and found and isinstance(found[0], data_lines.Register):
        if found[0].id:  # an answer to a read may leave it out
            sent = data_lines.format_data_message(found)
            broken_unless(data_lines.parse_data_message(sent) == found, f"{found} are others when they are sent")
    elif isinstance(found, tuple) and found and isinstance(found[0], int):
        broken_unless(lis200.parse_status(lis200.format_status(found)) == found, f"{found} are other messages")


# --- calls -----------------------------------------------------------------------------------------------------------


class AnyMeter:
    """A meter of which nothing is known but what an input says: columns, rows, and the answers to single reads."""

    def __init__(self, parts: list[str], settings: bytes) -> None:
        kind, zone, model, held = settings
        self.zone = ZONES[zone % len(ZONES)]
        self.model = ("EK280", "TC220", "DL220", "EK260", "", "\x00")[model % 6]
        self.mappings: Mapping[tuple[int, str], str] = {(3, "7:310"): "1-0:1.8.0"} if kind & 128 else {}
        heads = [_row(part) for part in parts[:3]]
        sources, names, units = (*heads, (), (), ())[:3]
        self._layout = Layout(tuple(map(_source, sources)), names, units)
        self._parts = parts
        self._blocks = parts[3:]
        self._held = Held(NOW - dt.timedelta(days=held), NOW - dt.timedelta(hours=held), held) if held % 2 else None
        self._answers = [group for part in parts for group in _row(part)] or [""]
        self._asked = 0

    async def read(self, address: str) -> list[str]:
        """The next group or two of the input."""
        self._asked += 1
        group = self._answers[self._asked % len(self._answers)]
        if group.startswith("#"):
            raise MeterRefusal(len(group))
        return [group] if len(address) % 2 else [group, self._answers[0]]

    async def register(self, address: str, *, command: str = "R1") -> str:
        """The next group of the input."""
        del command
        return (await self.read(address))[0]

    async def readout(self, *, again: bool = False) -> DataMessage:
        """The first part of the input, and the second when it is to be said again."""
        return DataMessage(self._parts[min(int(again), len(self._parts) - 1)], NOW)

    async def write(self, address: str, value: str) -> None:
        """Take everything."""
        del address, value

    async def layout(self, archive: int) -> Layout:
        """The columns of the input."""
        del archive
        return self._layout

    async def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        """The blocks of the input, whatever was asked, as the session's checks let them through."""
        checks = ArchiveChecks(archive, self._layout if any(self._layout.sources) else None, self.zone)
        asked = lis200.ArchiveRange(position, start, end, 10)
        for block in self._blocks:
            rows = lis200.parse_rows(block)
            doubt = checks.doubt(rows, asked)
            if isinstance(doubt, Doubt):
                checks.settle(doubt)
                checks.doubt(rows, asked)
            checks.accept(rows)
            yield [list(row) for row in rows]

    def held(self, archive: int) -> Held | None:
        """As the input's settings say."""
        del archive
        return self._held

    async def now(self) -> dt.datetime:
        """Always the same."""
        return NOW

    async def enough(self) -> None:
        """Nobody waits for it."""

    def under_way(self, characters: int) -> dt.timedelta:
        """As at 9600 Bd."""
        return dt.timedelta(seconds=characters / 960)


def _row(text: str) -> tuple[str, ...]:
    try:
        return lis200.parse_groups(text)
    except UnreadableValue:
        return tuple(text.split(";"))


def _source(text: str) -> str:
    try:
        return lis200.Address.parse(text).core if text.strip() else ""
    except UnreadableValue:
        return text


ARCHIVE = {"archive_number": 3, "control_position": 3}
LIS200, REGISTERS = "generic_lis200", "generic_iec6205621"
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("read_archive_by_date", {"start_date": "1971-01-01", **ARCHIVE}),
    ("read_archive_by_date", {"start_date": "2024-10-27T02:30:00", "end_date": "2199-12-31", **ARCHIVE}),
    ("read_archive_by_date", {"start_date": "2000-01-01", "archive_number": 3, "control_position": 2}),
    ("read_archive_by_offset_seconds", {"offset_seconds": 86_400 * 400, **ARCHIVE}),
    ("read_archive_since_last", {"archive_number": 3}),
    ("read_archive_since_last", {"archive_number": 1, "offset_seconds": 86_400 * 3000}),
    ("read_events", {}),
    ("read_events", {"archive_number": 5}),
    ("read_values", {"addresses": ["2:300", "7:310", "1:180", "1:100", "2:100", "4:161", "1:400", "3:110.2"]}),
    ("read_single_value", {"address": "2:310", "verify": "twice"}),
    ("read_identity", {}),
    ("set_time", {"allowed_drift_seconds": 1}),
    ("set_time", {"force": True}),
    ("read_readout", {}),
    ("read_readout", {"registers": ["1.8.0", "1-0:2.8.0*255", "0.9.1"]}),
    ("read_register", {"address": "1.8.0"}),
)


def _rows(data: bytes, notes: Notes) -> None:
    settings = (data[:4] + bytes(4))[:4]
    parts = data[4:].decode("latin-1").split("\x1e")
    name, kwargs = CALLS[settings[0] % len(CALLS)]
    context = REGISTERS if name in {"read_readout", "read_register"} else LIS200
    call = find_call(context, name)
    asked = check_call(context, name, kwargs)
    moment = Moment(NOW, NOW, since=NOW - dt.timedelta(days=40) if settings[0] & 64 else None)
    try:
        answer = _done(call.run(AnyMeter(parts, settings), moment, asked))
    except (RemoteProtocolError, MeterRefusal, CallError) as error:
        notes.reached.add((name, type(error), getattr(error, "expected", "")[:30]))
        return
    notes.reached |= {(name, len(answer.problems) > 0, min(len(answer.values), 3), min(len(answer.events), 3))}
    notes.reached |= {(name, event.code[:4]) for event in answer.events}
    for value in answer.values:
        checked_decimal(value.value)
        stamp = value.timestamp or value.answered or NOW
        reading = NewMeterReading("meter", value.series, stamp, value.value, value.unit)
        encode(reading)
    for event in answer.events:
        broken_unless(event.timestamp.tzinfo is not None, "an event without a zone")


def _done(call: Awaitable[Answer]) -> Answer:
    try:
        call.__await__().send(None)
    except StopIteration as ended:
        answer: Answer = ended.value
        return answer
    raise Broken("a call waits for something that is no meter")


READOUT = (
    "0.0.0(1234)\r\n0.9.1(235959)\r\n0.9.2(250330)\r\n1-0:1.8.0*255(0012.5*kWh)\r\n1.8.0*01(0010.5*kWh)(2502010000)\r\n"
    "1.6.1(1.2*kW)(2401312359)\r\nF.F(00)\r\n!\r\n"
)
HEADS = (
    (
        "(1:1F8)(3:A20)(1:400)(2:300)(2:302)(4:300)(4:302)(7:310)(6:310_1)(8:310)(5:310)(2:110)(4:110)(7:110)(6:110)"
        "(2:100)(3:A22)()"
    ),
    "(GONr)(AONr)(Zeit)(Vn)(VnG)(Vb)(VbG)(p.MP )(T.MP)(K.MP)(Z.MP)(St.2)(St.4)(St.7)(St.6)(StSy)(Er)(Check)",
    "()()()(m3)(m3)(m3)(m3)( bar)({C)()()()()()()()()()",
)


def _text_seeds() -> Iterable[bytes]:
    rows = list(rows_of_transcripts())
    yield from (row.encode() for row in rows)
    yield from (group.encode() for row in rows for group in lis200.parse_groups(row))
    yield b"0.0.0(1234)\r\n1-0:1.8.0*255(0012.5*kWh)\r\n1.6.1(1.2*kW)(2401312359)(1)\r\nF.F(00)\r\n!\r\n"
    yield from (b"1-0:1.8.0*255", b"1.6.1&02", b"240131235900", b"!\r\n")
    yield from (b"7-6:310_1.1", b"3:V.A.0", b"0003:0A20", b"20.16*{C", b"3;2024-01-15,06:00:00;;10", b"a\\xE4\\\\")


def _row_seeds() -> Iterable[bytes]:
    rows = list(rows_of_transcripts())
    for index in range(len(CALLS) * 4):
        settings = bytes((index % len(CALLS) + 64 * (index % 3), index, index // 2, index * 5 % 40))
        own = [row for row in rows if row.count("(") == HEADS[0].count("(")]
        heads = HEADS if index % 2 else ("", "", "")
        yield settings + "\x1e".join((*heads, "\r\n".join(own), *own)).encode()
        yield settings + "\x1e".join((*heads, rows[index % len(rows)], rows[index * 3 % len(rows)])).encode()

    for index in range(len(CALLS)):
        lines = READOUT.replace("1.8.0", f"1.8.{index % 3}")
        yield bytes((index, index, 0, 0)) + f"{lines}\x1e{READOUT}\x1e()\x1e".encode()


TEXTS = Target("texts", _text_seeds, _texts, share=100)
ROWS = Target("rows", _row_seeds, _rows)
