"""A virtual meter: who it is, what time it shows, and what it answers to each command.

Rules: knows telegrams (``protocol.iec62056`` events), never bytes or waiting. The clock is handed in as a function;
``heard_at`` is the monotonic second of the command that is being answered. Everything that is answered is written to
the truth before it is returned. Source: LIS-200 fact sheet 2 and 3.
"""

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from zoneinfo import ZoneInfo

from agent.simulator.archives import Archives, Row
from agent.simulator.electricity import ELECTRICITY, ElectricPersona
from agent.simulator.layouts import AONO, EVENT, GONO, TIME, Column
from agent.simulator.locks import Locks, codes_for
from agent.simulator.objects import CONSTANT, WRONG_INPUT, Object, objects_of
from agent.simulator.personas import PERSONAS, Archive, Echo, Persona
from agent.simulator.process import DAY, draw
from agent.simulator.quantities import Quantities
from agent.simulator.truth import Truth
from protocol.iec62056 import Data, Identification, lis200
from protocol.iec62056.codes import ARCHIVE_EMPTY, NO_RIGHT_TO_READ, NO_RIGHT_TO_WRITE
from protocol.iec62056.errors import MeterRefusal, UnreadableValue

WRONG_ADDRESS, NO_OBJECT, NO_INSTANCE, NO_ATTRIBUTE, ATTRIBUTE_ELSEWHERE = 1, 2, 3, 4, 5
NO_ARCHIVE, NO_POSITION, SYNTAX = 100, 101, 200
MAX_ROWS = 999
DEFAULT_ROWS = 10
"""Rows of a partial block if the reader does not say. LIS-200 fact sheet 3.1, 3.3."""

LANGUAGES = ("german", "english")


class VirtualMeter:
    """One meter.

    Args:
        address: its bus address.
        serial: its serial number; with ``seed`` it decides every value.
        persona: its model.
        seed: of the simulation.
        now: the clock, aware UTC.
        zone: what its clock shows.
        interval: measuring period in minutes, a divisor of 60.
        history_days: how far back its archives reach at the start.
        drift: seconds by which its clock is ahead of ``now`` before anybody sets it.
        locked: reading needs an open lock.
        codes: lock -> code; else the factory code for locks 3 and 4.
        language: of the column names; None leaves it to the seed.
        rate_id: baud identification to announce; None: that of the model.
        truth: file for the truth.
    """

    def __init__(
        self,
        address: str,
        serial: str,
        persona: Persona,
        *,
        seed: int,
        now: Callable[[], dt.datetime],
        zone: ZoneInfo,
        interval: int = 60,
        history_days: float = 2,
        drift: float = 0,
        locked: bool = False,
        codes: Mapping[int, str] | None = None,
        language: str | None = None,
        rate_id: str | None = None,
        truth: Path | None = None,
    ) -> None:
        if interval <= 0 or 60 % interval:
            raise ValueError(f"a measuring period of {interval} minutes is not a divisor of 60")
        if language not in {None, *LANGUAGES}:
            raise ValueError(f"the language {language!r} is none of {', '.join(LANGUAGES)}")
        self.address, self.serial, self.persona = address, serial, persona
        self.shown_serial = serial
        self.zone, self.interval = zone, interval
        self.language = language or LANGUAGES[draw(seed, serial, "language") % len(LANGUAGES)]
        self.locks = Locks(codes or codes_for(persona.code))
        self.heard_at = 0.0
        self._now, self._drift, self._locked = now, drift, locked
        self._rate_id = rate_id or persona.rate_id
        step = interval * 60
        self.quantities = Quantities(persona, seed=seed, serial=serial, zone=zone, step=step)
        begin = self.process - math.floor(history_days * DAY)
        key = f"{seed}/{serial}"
        self.archives = Archives(persona, self.quantities, key=key, zone=zone, step=step, begin=begin)
        self._objects = objects_of(self)
        self._truth = Truth(truth) if truth else None
        self.archives.advance(self.process)
        self._tell(self.archives.everything())

    def __repr__(self) -> str:
        return f"<VirtualMeter {self.persona.model} {self.serial} at {self.address!r}>"

    def close(self) -> None:
        """Close the truth file."""
        if self._truth:
            self._truth.close()
            self._truth = None

    @property
    def process(self) -> int:
        """The process second: what the clock would show had nobody set it."""
        return math.floor(self._now().timestamp() + self._drift)

    @property
    def clock(self) -> int:
        """What the clock shows, as seconds of UTC since 1970."""
        return self.process + self.archives.shift

    def advance(self) -> None:
        """Let the rows arise that are due, and write them down."""
        process = self.process
        if process >= self.archives.next_due:
            self._tell(self.archives.advance(process))

    def set_clock(self, local: dt.datetime) -> None:
        """Set the clock to a local time; in a repeated hour to the one nearer to what it shows."""
        before, process = self.clock, self.process
        candidates = (int(local.replace(tzinfo=self.zone, fold=fold).timestamp()) for fold in (0, 1))
        after = min(candidates, key=lambda second: abs(second - before))
        self._tell(self.archives.set_clock(process, after - process))

    def changed_code(self, lock: int, old: str | None, new: str) -> None:
        """Write a changed code into the audit trail, in the clear, as the careless among real meters may."""
        if old is not None:
            self._tell(self.archives.changed(self.process, f"{lock:04}:0171", old, new))

    def quantity(self, content: str) -> str:
        """A momentary value, over the second that has just passed."""
        second = self.process
        return self.quantities.text(content, second, second, second + self.archives.shift)

    def identification(self) -> Identification:
        """Who it says it is. LIS-200 fact sheet 1.4."""
        return Identification(self.persona.maker, self._rate_id, self.persona.model, self.persona.escapes)

    def readout(self) -> str:
        """The data readout (mode C, ``ACK 0 Z 0``): identity and momentary values. IEC 62056-21 6.4."""
        self.advance()
        wanted = ("1:180", "2:190", "1:400", "2:300", "2:302", "4:300", "4:302", "1:202", "2:202")
        lines = (f"{core}({self._value(self._objects[core])})" for core in wanted if core in self._objects)
        return "".join(f"{line}\r\n" for line in lines) + "!\r\n"

    # --- commands ------------------------------------------------------------------------------------------------

    def log_in(self, operand: str, at: float) -> None:
        """Command P1 with ``lock:code``; raises MeterRefusal."""
        number, _, code = operand.partition(":")
        self.locks.unlock(int(number) if number.isascii() and number.isdigit() else 0, code, at)

    def write(self, address: str, value: str, at: float) -> None:
        """Command W1; raises MeterRefusal."""
        self._work(at)
        asked = _parsed(address)
        if asked.object == "V":
            raise MeterRefusal(CONSTANT)
        target = self._object(asked)
        if not target.free and not self.locks.may_write(at):
            raise MeterRefusal(NO_RIGHT_TO_WRITE)
        if asked.attribute not in {"", "0"} or target.write is None:
            raise MeterRefusal(CONSTANT)
        target.write(value, at)

    def read(self, address: str, argument: str, at: float) -> str:
        """Command R1: one object, or an archive in one block; raises MeterRefusal."""
        self._work(at)
        asked = _parsed(address)
        if asked.object == "V":
            return lis200.format_rows(self._archive(asked, argument, at)[0])
        target = self._object(asked)
        self._allow_reading(target.free, at)
        return f"{self._echo(address, asked)}({self._attribute(asked, target)})"

    def read_blocks(self, address: str, argument: str, at: float) -> list[Data]:
        """Command R3: an archive in partial blocks; raises MeterRefusal."""
        self._work(at)
        asked = _parsed(address)
        if asked.object != "V":
            raise MeterRefusal(SYNTAX)
        rows, size = self._archive(asked, argument, at)
        blocks = [rows[index : index + size] for index in range(0, len(rows), size)]
        return [Data(lis200.format_rows(block), last=block is blocks[-1]) for block in blocks]

    def _work(self, at: float) -> None:
        self.heard_at = at
        self.locks.touch(at)
        self.advance()

    def _allow_reading(self, free: bool, at: float) -> None:  # noqa: FBT001 - a property of the object
        if self._locked and not free and not self.locks.any_open(at):
            raise MeterRefusal(NO_RIGHT_TO_READ)

    # --- simple objects ------------------------------------------------------------------------------------------

    def _object(self, asked: lis200.Address) -> Object:
        found = self._objects.get(asked.core)
        if found is not None:
            return found
        same = f":{asked.object}{'_' if asked.sub else ''}{asked.sub}"
        raise MeterRefusal(NO_INSTANCE if any(core.endswith(same) for core in self._objects) else NO_OBJECT)

    def _attribute(self, asked: lis200.Address, target: Object) -> str:
        match asked.attribute:
            case "" | "0":
                return self._told(asked, target)
            case "1":
                return "0xBF" if target.write else "0xAA"
            case "2":
                return target.name
            case "3":
                return target.unit
            case "4" | "5" | "6" | "7" | "8" | "9" | "A":
                raise MeterRefusal(ATTRIBUTE_ELSEWHERE)
            case _:
                raise MeterRefusal(NO_ATTRIBUTE)

    def _value(self, target: Object) -> str:
        text = lis200.encode_text(target.read())
        return f"{text}*{target.unit}" if target.unit else text

    def _told(self, asked: lis200.Address, target: Object) -> str:
        answer = self._value(target)
        if self._truth and not target.secret:
            text, _, unit = answer.partition("*")
            self._truth.single(self.serial, self.address, asked.core, text, lis200.normalise_unit(unit), self._now())
        return answer

    def _echo(self, address: str, asked: lis200.Address) -> str:
        match self.persona.echo:
            case Echo.ASKED:
                return address
            case Echo.CORE:
                return asked.core
            case Echo.MEDIUM:
                return f"7-{asked.core}.2"

    # --- archives ------------------------------------------------------------------------------------------------

    def _archive(self, asked: lis200.Address, argument: str, at: float) -> tuple[list[tuple[str, ...]], int]:
        """The groups of an archive command's rows, and how many of them make a block."""
        self._allow_reading(False, at)  # noqa: FBT003 - archives are never free
        archive = self.persona.archive(asked.instance)
        if archive is None:
            raise MeterRefusal(NO_ARCHIVE)
        try:
            wanted = lis200.ArchiveRange.parse(argument)
        except UnreadableValue as error:
            raise MeterRefusal(SYNTAX) from error
        size = wanted.rows or DEFAULT_ROWS
        if not 0 < size <= MAX_ROWS:
            raise MeterRefusal(WRONG_INPUT)
        attribute = asked.attribute.removesuffix(".0") or "0"
        if attribute == "0":
            rows = self._range(archive, wanted)
            if not rows:
                raise MeterRefusal(ARCHIVE_EMPTY)
            return [row.groups for row in rows], size
        if attribute == "A":
            return [(str(len(self._range(archive, wanted))),)], size
        return [tuple(self._column(archive, column, attribute) for column in archive.layout)], size

    def _column(self, archive: Archive, column: Column, attribute: str) -> str:
        if attribute in self.persona.undescribed:
            raise MeterRefusal(NO_ATTRIBUTE)
        described = {
            "1": "0xAA",
            "2": column.german if self.language == "german" else column.english,
            "3": self.archives.unit_of(column.unit),
            "4": column.notation(archive.number),
        }
        if attribute in described:
            return described[attribute]
        raise MeterRefusal(ATTRIBUTE_ELSEWHERE if attribute in set("56789") else NO_ATTRIBUTE)

    def _range(self, archive: Archive, wanted: lis200.ArchiveRange) -> Sequence[Row]:
        """Rows whose column at ``position`` (1 unless given) lies between the limits, both included. Fact sheet 3.1."""
        rows = list(self.archives.rows(archive.number))
        position = wanted.position or 1
        if not 1 <= position <= len(archive.layout):
            raise MeterRefusal(NO_POSITION)
        content = archive.layout[position - 1].content
        if content not in {GONO, AONO, TIME, EVENT}:
            raise MeterRefusal(NO_POSITION)
        lower, upper = (_limit(text, content) if text else None for text in (wanted.start, wanted.end))
        if lower is None and upper is None:
            return rows
        keys = [_limit(row.groups[position - 1], content) for row in rows]
        return [
            row
            for row, key in zip(rows, keys, strict=True)
            if (lower is None or key >= lower) and (upper is None or key <= upper)
        ]

    def _tell(self, rows: Sequence[Row]) -> None:
        if self._truth:
            self._truth.rows(self.serial, self.address, self.zone, rows)


def _parsed(address: str) -> lis200.Address:
    try:
        return lis200.Address.parse(address)
    except UnreadableValue as error:
        raise MeterRefusal(WRONG_ADDRESS) from error


def _limit(text: str, content: str) -> int:
    """A limit as a number that can be compared; times as seconds of the meter's own clock face."""
    try:
        if content == TIME:
            return int(lis200.parse_datetime(text).replace(tzinfo=dt.UTC).timestamp())
        return int(text, 0) if content == EVENT else int(text)
    except (UnreadableValue, ValueError) as error:
        raise MeterRefusal(WRONG_INPUT) from error


def read_meter(text: str) -> tuple[str, str, Persona | ElectricPersona]:
    """Read ``ADDRESS:SERIAL:MODEL``; raises ValueError with what is wrong."""
    parts = text.split(":")
    if len(parts) != 3 or not parts[1]:  # noqa: PLR2004 - address, serial, model
        raise ValueError(f"{text!r} is not ADDRESS:SERIAL:MODEL, e.g. 1:4711:EK280")
    address, serial, model = parts
    if len(address) > 32 or not ((address.isascii() and address.replace(" ", "").isalnum()) or not address):  # noqa: PLR2004
        raise ValueError(f"{address!r} is not a bus address: up to 32 letters, digits and blanks (IEC 62056-21)")
    if not (serial.isascii() and serial.isprintable()) or set(serial) & set("()*\\"):
        raise ValueError(f"{serial!r} is not a serial number that a meter could send")
    persona = PERSONAS.get(model.upper()) or ELECTRICITY.get(model.upper())
    if persona is None:
        known = ", ".join([*PERSONAS, *ELECTRICITY])
        raise ValueError(f"the model {model!r} cannot be simulated; known are {known}")
    return address, serial, persona
