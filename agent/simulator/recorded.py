"""A virtual meter made of a recorded conversation: it answers what the real one answered, in any order.

Rules: a *recorded persona* is a JSON document: who the meter is, what it answered to each command, and the rows that it
showed. An answer that was given once is given always; several answers to one command come in their order, the last one
stays. Archive rows can be asked for by another range than was recorded: those that were seen are cut to it. The clock
goes on from what it showed. What was never asked is refused as the meter refuses what it does not have. Codes of locks
are not in a recording, so any code is taken as the recorded one was.
"""

import datetime as dt
import pathlib
from collections.abc import Callable, Iterable, Sequence

import msgspec

from protocol.iec62056 import (
    Ack,
    Connection,
    Data,
    Event,
    Identification,
    Iec62056Error,
    MeterRefusal,
    Nak,
    Need,
    OptionSelect,
    Parity,
    Password,
    Pause,
    ReadBlocks,
    ReadCommand,
    Refusal,
    Request,
    Role,
    SwitchRate,
    UnreadableValue,
    WriteCommand,
    lis200,
)

NO_OBJECT, ARCHIVE_EMPTY = 2, 103
CLOCK = "1:400"


class Answered(msgspec.Struct, omit_defaults=True):
    """One answer: the texts of its blocks, or a refusal's number; neither is an acknowledgement."""

    blocks: list[str] = []
    refused: int | None = None


class Exchange(msgspec.Struct):
    """A command and every answer that it got, in order."""

    kind: str
    address: str
    argument: str
    answers: list[Answered]


class RecordedPersona(msgspec.Struct, kw_only=True):
    """One meter as it was recorded. ``clock_ahead``: seconds of its clock's face before UTC."""

    version: int = 1
    source: str = ""
    address: str = ""
    serial: str = ""
    maker: str
    rate_id: str
    ident: str
    escapes: str = ""
    clock_ahead: float | None = None
    exchanges: list[Exchange] = []


class PersonaError(Exception):
    """A recorded persona cannot be made or read; the text says why."""


def read_persona(path: pathlib.Path) -> RecordedPersona:
    """Read a persona's file.

    Raises:
        PersonaError: when it is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=RecordedPersona)
    except OSError as error:
        raise PersonaError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise PersonaError(f"{path} is no recorded persona: {error}") from error


class Model(msgspec.Struct, frozen=True):
    """What the simulator's announcement calls a persona."""

    model: str


class RecordedMeter:
    """One meter on a virtual line, made of a persona; ``now`` is the clock, aware UTC."""

    language = "recorded"

    def __init__(self, recorded: RecordedPersona, *, now: Callable[[], dt.datetime]) -> None:
        self._recorded, self._now = recorded, now
        self.address, self.serial = recorded.address, recorded.serial
        self.shown_serial = recorded.serial
        self.persona = Model(recorded.ident)
        self._answers = {
            (e.kind, _core(e.address), e.argument if e.kind != "W1" else ""): list(e.answers)
            for e in recorded.exchanges
        }

    def close(self) -> None:
        """Nothing is open."""

    def advance(self) -> None:
        """A recording gets no new rows."""

    def identification(self) -> Identification:
        """Who it said it was."""
        recorded = self._recorded
        return Identification(recorded.maker, recorded.rate_id, recorded.ident, recorded.escapes)

    def readout(self) -> str:
        """A data readout, which no recording holds."""
        return "!\r\n"

    def log_in(self, operand: str, at: float) -> None:
        """Command P1."""
        del operand, at
        self._given("P1", "", "")

    def write(self, address: str, value: str, at: float) -> None:
        """Command W1; raises MeterRefusal."""
        del value, at
        self._given("W1", address, "")

    def read(self, address: str, argument: str, at: float) -> str:
        """Command R1; raises MeterRefusal."""
        del at
        blocks = self._given("R1", address, argument).blocks
        text = blocks[0] if blocks else ""
        if _core(address).startswith(CLOCK) and self._recorded.clock_ahead is not None:
            face = self._now().replace(tzinfo=None) + dt.timedelta(seconds=self._recorded.clock_ahead)
            return f"{text.partition('(')[0]}({lis200.format_datetime(face)})"
        return text

    def read_blocks(self, address: str, argument: str, at: float) -> list[Data]:
        """Command R3; raises MeterRefusal."""
        del at
        asked = lis200.ArchiveRange.parse(argument)
        known = self._answers.get(("R3", _core(address), argument))
        rows = self._rows(address, asked)
        if known is not None and (known[0].refused is not None or not rows):
            self._given("R3", address, argument)
        if not rows:
            raise MeterRefusal(ARCHIVE_EMPTY)
        size = asked.rows or 10
        texts = [lis200.format_rows(rows[index : index + size]) for index in range(0, len(rows), size)]
        return [Data(text, last=index == len(texts) - 1) for index, text in enumerate(texts)]

    def _given(self, kind: str, address: str, argument: str) -> Answered:
        answers = self._answers.get((kind, _core(address), argument))
        if not answers:
            raise MeterRefusal(NO_OBJECT)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.refused is not None:
            raise MeterRefusal(answer.refused)
        return answer

    def _rows(self, address: str, asked: lis200.ArchiveRange) -> list[lis200.Row]:
        """Every row of the archive that was ever seen, cut to the range; oldest first."""
        seen: dict[lis200.Row, None] = {}
        for (kind, core, _), answers in self._answers.items():
            if kind == "R3" and core == _core(address):
                texts = (text for answer in answers for text in answer.blocks)
                seen |= dict.fromkeys(row for text in texts for row in lis200.parse_rows(text))
        rows = sorted(seen, key=lambda row: _key(row[0]))
        at = (asked.position or 1) - 1
        return [
            row
            for row in rows
            if at < len(row)
            and (not asked.start or _key(row[at]) >= _key(asked.start))
            and (not asked.end or _key(row[at]) <= _key(asked.end))
        ]


def _core(address: str) -> str:
    try:
        parsed = lis200.Address.parse(address)
    except UnreadableValue:
        return address
    attribute = parsed.attribute.removesuffix(".0") or "0"
    return f"{parsed.core}.{attribute}"


def _key(text: str) -> tuple[int, str]:
    """Numbers by their size, times by their digits."""
    stripped = text.replace(" ", "")
    return (int(stripped), "") if stripped.isascii() and stripped.isdigit() else (0, stripped)


# --- making one ----------------------------------------------------------------------------------------------------

Passed = tuple[bool, bytes]
"""Whether the reader said it, and the bytes of the port."""


def persona_of(
    passed: Iterable[Passed], *, address: str, source: str, began: dt.datetime, shown: Sequence[dt.datetime]
) -> RecordedPersona:
    """Make a persona of what passed on a line: the meter that answered last is the one.

    Args:
        passed: what was said and heard, in order.
        address: the bus address that it was called by.
        source: where the recording comes from, for people.
        began: when the recording began, UTC.
        shown: what the gateway's clock showed while recording.

    Raises:
        PersonaError: when no meter identified itself.
    """
    made = _Making(address)
    for by_reader, data in passed:
        made.take(data, by_reader=by_reader)
    identified = made.identification
    if identified is None:
        raise PersonaError("nobody identified himself in this recording, so it holds no meter")
    made.finish()
    clock = made.answer("R1", f"{CLOCK}.0")
    serial = made.answer("R1", "1:180.0")
    return RecordedPersona(
        source=source,
        address=made.address,
        serial=serial or "recorded",
        maker=identified.maker,
        rate_id=identified.rate_id,
        ident=identified.ident,
        escapes=identified.escapes,
        clock_ahead=_ahead(clock, shown[-1] if shown else began),
        exchanges=[Exchange(*key, answers) for key, answers in made.exchanges.items()],
    )


class _Making:
    """Listens to a conversation with two cores, one in each role, and pairs commands with their answers."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.identification: Identification | None = None
        self.exchanges: dict[tuple[str, str, str], list[Answered]] = {}
        self._command: tuple[str, str, str] | None = None
        self._answer: Answered | None = None
        self._reader = Connection(Role.METER, parity=Parity.AUTO, fixed_rate=True)
        self._meter = Connection(Role.READER, parity=Parity.AUTO, fixed_rate=True)

    def take(self, data: bytes, *, by_reader: bool) -> None:
        """Bytes of one direction: each core hears one side, and says what it heard to the other."""
        hears, says = (self._reader, self._meter) if by_reader else (self._meter, self._reader)
        hears.receive_data(data)
        while True:
            try:
                event = hears.next_event()
            except Iec62056Error:
                continue
            if isinstance(event, Need):
                return
            if isinstance(event, Pause | SwitchRate):
                continue
            self._mirror(says, event)
            if by_reader:
                self._asked(event)
            else:
                self._told(event)

    @staticmethod
    def _mirror(says: Connection, event: Event) -> None:
        while says.next_effect() is not None:
            pass
        try:
            says.send(event)
        except Iec62056Error:
            return  # what one side heard wrong is not said by the other
        while says.next_effect() is not None:
            pass

    def _asked(self, event: Event) -> None:
        match event:
            case Request(address):
                self.address = address or self.address
                self._begin(None)
            case OptionSelect():
                self._begin(None)
            case ReadCommand(address, argument):
                self._begin(("R1", address, argument))
            case ReadBlocks(address, argument):
                self._begin(("R3", address, argument))
            case WriteCommand(address, _):
                self._begin(("W1", address, ""))
            case Password():
                self._begin(("P1", "", ""))

    def _begin(self, command: tuple[str, str, str] | None) -> None:
        self.finish()
        self._command = command

    def _told(self, event: Event) -> None:
        match event:
            case Identification():
                if self.identification is not None and event != self.identification:
                    self.exchanges.clear()  # another meter: the last one counts
                self.identification = event
            case Data(text, _, repeated) if not repeated:
                self._answer = self._answer or Answered()
                self._answer.blocks.append(text)
            case Refusal(code):
                self._answer = Answered(refused=code)
            case Ack():
                self._answer = Answered()
            case Nak():
                pass

    def finish(self) -> None:
        """The command that was asked last has got its answer."""
        if self._command is not None and self._answer is not None:
            self.exchanges.setdefault(self._command, []).append(self._answer)
        self._command = self._answer = None

    def answer(self, kind: str, address: str) -> str:
        """The last text that was answered to a command; empty if none was."""
        for (asked, at, _), answers in self.exchanges.items():
            if asked == kind and _core(at) == address and answers[-1].blocks:
                return lis200.parse_value(lis200.parse_groups(answers[-1].blocks[0])[0]).text
        return ""


def _ahead(text: str, shown: dt.datetime) -> float | None:
    try:
        face = lis200.parse_datetime(text)
    except UnreadableValue:
        return None
    return round((face - shown.replace(tzinfo=None)).total_seconds(), 1)
