"""One meter of the bench ``noise``, one archive of it, how it is read over a line with noise, and what it holds.

Rules: what the meter holds is taken from the simulator's own rows, never from what was read; core, conversation,
session and context are those of the agent.
"""

import dataclasses
import datetime as dt
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal

from agent.conversation import Times
from agent.session import open_session
from agent.simulator.conversations import Conversation
from agent.simulator.faults import read_faults
from agent.simulator.meters import VirtualMeter
from agent.simulator.personas import PERSONAS
from benchmarks import _noise_line as lines
from benchmarks._poll_wire import Memory
from contexts.catalogue import check_call, find_call
from contexts.meters import Answer, Moment
from protocol.plans import Device, Line

BAUD = 9600
ZONE = zoneinfo.ZoneInfo("Europe/Berlin")
NOW = dt.datetime(2025, 3, 12, 9, 30, 10, tzinfo=dt.UTC)
SERIAL = "11000001"
TIMES = Times(identification=0.5, telegram=2.0, character=0.3, quiet=0.05)
EVEN, NONE = "even", "none"
LOGGED = Decimal(1)
"""Stands for an event among the values."""

Key = tuple[str, dt.datetime | None]
Known = dict[Key, set[Decimal]]


@dataclasses.dataclass(slots=True)
class Figure:
    """What one course, or one kind of error, ended in; ``tried`` counts rows or errors."""

    part: str
    parity: str
    kind: str
    verify: str
    judged: bool
    tried: int = 0
    values: int = 0
    wrong: int = 0
    missing: int = 0
    failed: int = 0
    struck: int = 0
    passed: int = 0
    moved: int = 0
    ideal: int = 0
    example: str = ""

    @property
    def good(self) -> bool:
        """Whether it is as it has to be."""
        return not (self.judged and self.wrong)


class Site:
    """One meter, one archive, what it holds, and how it is read."""

    def __init__(
        self, model: str, archive: int, position: int, parity: str, *, days: int, seed: int, loop: lines.InstantLoop
    ) -> None:
        self.archive, self.position, self.parity = archive, position, parity
        self.meter = VirtualMeter(
            "1", SERIAL, PERSONAS[model], seed=seed, now=lambda: NOW, zone=ZONE, interval=15, history_days=days
        )
        self.loop = loop
        self.line = Line(uuid.uuid4(), "noise", "socket://localhost:1", BAUD, fixed_rate=True, parity=parity)
        self.device = Device(uuid.uuid4(), model, self.line.id, ZONE.key, "1", SERIAL)
        self.memory = Memory()
        self.expected: set[tuple[Key, Decimal]] = set()
        self.rows = self.meter.archives.rows(archive)
        self.known: Known = {}
        self.ideal = {"once": 0, "twice": 0}

    async def prepare(self) -> None:
        """Read everything over a quiet line, and compare it with what the meter holds by its own account."""
        answer = Answer()
        for verify in ("once", "once", "twice"):  # the first time the columns are read, too
            answer, line = await self.read(bytes, verify=verify)
            self.ideal[verify] = line.moved
        for row in self.rows:
            stamp = dt.datetime.fromtimestamp(row.clock, dt.UTC)
            for source, text in row.values.items():
                total = source.rpartition(":")[2] in {"202", "203", "300", "302"}
                series = source if total else f"{source}/{self.archive}"
                self.known.setdefault((series, stamp), set()).add(Decimal(text))
            if row.event is not None:
                self.known.setdefault((f"event 0x{row.event:04X}", stamp), set()).add(LOGGED)
        told = told_by(answer)
        for (name, at), value in told:
            if name.startswith("event St"):  # what a status tells of rows side by side, the meter has no word for
                self.known.setdefault((name, at), set()).add(value)
        if sum(count for _, count in wrong_of(told, self.known)) or {key for key, _ in told} - self.known.keys():
            raise RuntimeError("a quiet line brings something else than the meter holds: the bench itself is wrong")
        self.expected = set(told)

    async def read(
        self,
        noise: Callable[[bytes], bytes],
        *,
        verify: str = "once",
        rows: Sequence[int] | None = None,
        new: bool = False,
    ) -> tuple[Answer, lines.NoisyLine]:
        """One session that reads the archive, or the row numbers from the first to the last of ``rows``.

        ``new``: by a gateway that does not know the archive's columns yet.
        """
        faults = read_faults(["parity_none"] if self.parity == NONE else [], "noise")
        line = lines.NoisyLine(Conversation(self.meter, faults, opening_rate=BAUD, fixed_rate=True), noise, self.loop)
        start, end = (
            dt.datetime.fromtimestamp(self.rows[index].clock, dt.UTC)
            for index in ((rows[0], rows[-1]) if rows else (0, -1))
        )
        kwargs: dict[str, str | int] = {
            "start_date": start.isoformat(),
            "end_date": end.isoformat(),
            "archive_number": self.archive,
            "control_position": self.position,
            "verify": verify,
        }
        return await self._call(line, "read_archive_by_date", kwargs, Memory() if new else self.memory), line

    async def value(self, noise: Callable[[bytes], bytes], verify: str = "once") -> tuple[Answer, lines.NoisyLine]:
        """One session that reads a single value."""
        faults = read_faults(["parity_none"] if self.parity == NONE else [], "noise")
        line = lines.NoisyLine(Conversation(self.meter, faults, opening_rate=BAUD, fixed_rate=True), noise, self.loop)
        kwargs: dict[str, str | int] = {"address": "2:302", "verify": verify}
        return await self._call(line, "read_single_value", kwargs, self.memory), line

    async def _call(self, line: lines.NoisyLine, call: str, kwargs: dict[str, str | int], memory: Memory) -> Answer:
        checked = check_call("generic_lis200", call, kwargs)
        async with open_session(line, self.line, self.device, memory=memory, now=lambda: NOW, times=TIMES) as session:
            return await find_call("generic_lis200", call).run(session, Moment(NOW, NOW), checked)


def told_by(answer: Answer) -> list[tuple[Key, Decimal]]:
    """What would be stored."""
    values = [((value.series, value.timestamp), value.value) for value in answer.values]
    return values + [((f"event {event.code}", event.timestamp), LOGGED) for event in answer.events]


def wrong_of(told: Iterable[tuple[Key, Decimal]], known: Known) -> list[tuple[tuple[Key, Decimal], int]]:
    """What was told and never held."""
    return [((key, value), 1) for key, value in told if value not in known.get(key, ())]
