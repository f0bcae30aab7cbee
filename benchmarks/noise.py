"""What noise on the line gets past everything that is checked: wrong values stored, of a million rows.

Two parts. *Every error of a kind*: representative telegrams, each with all its single errors (a bit flipped, a byte
lost, a byte of any value inserted, a byte doubled) and all pairs of flipped bits. What the core takes for a whole
telegram and says something else than was sent is put on the line of a session, to see what the session makes of it.
*A million rows*: archives are read over lines on which telegrams of both sides are struck at random, by sessions as
the agent runs them: core, conversation, session and context are the real ones, only time is not waited for. Whatever
the context hands on to be stored is compared with what the meter held.

Wanted, else the exit status is 1: no wrong value with parity, for any single error and any two bits; none without
parity, for any single error; and none with ``verify: twice`` for anything else. The rest is printed as it is. *Wrong*
is a value that the meter did not hold at that time; *missing* is one that it held and a run that ended well did not
bring; *failed* are runs that gave up, whose rows are read by a later one. *Bytes* is what was moved on the line
compared with what the same reads move on a quiet one, ``verify: twice`` included.
"""

import argparse
import asyncio
import dataclasses
import datetime as dt
import itertools
import json
import random
import sys
import time
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal

from agent.conversation import SessionError, Times
from agent.links import LinkError
from agent.session import FAILURES, open_session
from agent.simulator.conversations import Conversation
from agent.simulator.faults import read_faults
from agent.simulator.meters import VirtualMeter
from agent.simulator.personas import PERSONAS
from benchmarks import _noise_line as lines
from benchmarks._poll_wire import Memory
from contexts.catalogue import check_call, find_call
from contexts.meters import Answer, Moment
from protocol import iec62056
from protocol.plans import Device, Line

ROWS = 1_000_000
RATE = 0.0001
"""Of one byte to be struck: on a block of 2800 bytes one time in four."""
BAUD = 9600
ZONE = zoneinfo.ZoneInfo("Europe/Berlin")
NOW = dt.datetime(2025, 3, 12, 9, 30, 10, tzinfo=dt.UTC)
DAYS = 8
SERIAL = "11000001"
TIMES = Times(identification=0.5, telegram=2.0, character=0.3, quiet=0.05)
ARCHIVES = (("EK280", 3, 3), ("DL220", 2, 3), ("TC220", 3, 2), ("EK280", 4, 3))
"""Model, archive and its time column."""
SAMPLE = 1500
"""How many of the pairs that pass the block check without parity are put on a line."""
SHORT_SAMPLE, QUESTIONS = 40, 500
EVEN, NONE = "even", "none"
LOGGED = Decimal(1)
"""Stands for an event among the values."""

Key = tuple[str, dt.datetime | None]
Known = dict[Key, set[Decimal]]


@dataclasses.dataclass(frozen=True, slots=True)
class Course:
    """One kind of noise: ``weight`` is its share of the rows, ``judged`` whether no value may be wrong."""

    parity: str
    kind: str
    strike: lines.Strike
    verify: str
    judged: bool
    weight: int


SINGLE: tuple[tuple[str, lines.Strike], ...] = (
    ("one bit flipped", lines.one_bit),
    ("one byte lost", lines.drop),
    ("one byte inserted", lines.insert),
    ("one byte doubled", lines.double),
)
REST: tuple[tuple[str, str, lines.Strike], ...] = (
    (NONE, "two bits flipped", lines.two_bits),
    (NONE, "two bits of one column", lines.one_column),
    (NONE, "a burst", lines.burst),
    (EVEN, "a burst", lines.burst),
    (EVEN, "two bytes lost", lines.two_drops),
    (EVEN, "a byte moved", lines.swap),
)
COURSES = (
    *(Course(EVEN, kind, strike, "once", judged=True, weight=5) for kind, strike in SINGLE),
    Course(EVEN, "two bits flipped", lines.two_bits, "once", judged=True, weight=5),
    *(Course(NONE, kind, strike, "once", judged=True, weight=5) for kind, strike in SINGLE),
    *(Course(parity, kind, strike, "once", judged=False, weight=3) for parity, kind, strike in REST),
    *(Course(parity, kind, strike, "twice", judged=True, weight=2) for parity, kind, strike in REST),
)


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
        told = _told(answer)
        for (name, at), value in told:
            if name.startswith("event St"):  # what a status tells of rows side by side, the meter has no word for
                self.known.setdefault((name, at), set()).add(value)
        if sum(count for _, count in _wrong(told, self.known)) or {key for key, _ in told} - self.known.keys():
            raise RuntimeError("a quiet line brings something else than the meter holds: the bench itself is wrong")
        self.expected = set(told)

    async def read(
        self, noise: Callable[[bytes], bytes], *, verify: str = "once", rows: Sequence[int] | None = None
    ) -> tuple[Answer, lines.NoisyLine]:
        """One session that reads the archive, or the row numbers from the first to the last of ``rows``."""
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
        return await self._call(line, "read_archive_by_date", kwargs), line

    async def value(self, noise: Callable[[bytes], bytes], verify: str = "once") -> tuple[Answer, lines.NoisyLine]:
        """One session that reads a single value."""
        faults = read_faults(["parity_none"] if self.parity == NONE else [], "noise")
        line = lines.NoisyLine(Conversation(self.meter, faults, opening_rate=BAUD, fixed_rate=True), noise, self.loop)
        return await self._call(line, "read_single_value", {"address": "2:302", "verify": verify}), line

    async def _call(self, line: lines.NoisyLine, call: str, kwargs: dict[str, str | int]) -> Answer:
        checked = check_call("generic_lis200", call, kwargs)
        async with open_session(
            line, self.line, self.device, memory=self.memory, now=lambda: NOW, times=TIMES
        ) as session:
            return await find_call("generic_lis200", call).run(session, Moment(NOW, NOW), checked)


def _told(answer: Answer) -> list[tuple[Key, Decimal]]:
    """What would be stored."""
    values = [((value.series, value.timestamp), value.value) for value in answer.values]
    return values + [((f"event {event.code}", event.timestamp), LOGGED) for event in answer.events]


def _wrong(told: Iterable[tuple[Key, Decimal]], known: Known) -> list[tuple[tuple[Key, Decimal], int]]:
    """What was told and never held."""
    return [((key, value), 1) for key, value in told if value not in known.get(key, ())]


# --- a million rows ------------------------------------------------------------------------------------------------


async def random_course(course: Course, sites: Sequence[Site], rows: int, seed: str) -> Figure:
    """Read archives in turn until so many rows have been asked for."""
    figure = Figure("rows", course.parity, course.kind, course.verify, course.judged)
    noise = lines.Noise(course.strike, RATE, random.Random(seed))  # noqa: S311 - reproducible on purpose
    for site in itertools.cycle(sites):
        if figure.tried >= rows:
            break
        figure.tried += len(site.rows)
        try:
            answer, line = await site.read(noise, verify=course.verify)
        except (*FAILURES, SessionError, LinkError):
            figure.failed += 1
            continue
        figure.moved += line.moved
        figure.ideal += site.ideal[course.verify]
        told = _told(answer)
        wrong = _wrong(told, site.known)
        figure.values += len(told)
        figure.wrong += len(wrong)
        if answer.problems:
            figure.failed += 1
        else:
            figure.missing += len(site.expected - set(told))
        if wrong and not figure.example:
            figure.example = f"{site.device.name}/{site.archive}: {wrong[0][0]}"
    figure.struck = noise.struck
    return figure


# --- every error of a kind -----------------------------------------------------------------------------------------


class Core:
    """A reader's core that waits for an answer, again and again."""

    def __init__(self, parity: str) -> None:
        self._core = iec62056.Connection(
            iec62056.Role.READER, parity=iec62056.Parity(parity), opening_rate=BAUD, fixed_rate=True
        )
        meter = iec62056.Connection(
            iec62056.Role.METER, parity=iec62056.Parity(parity), opening_rate=BAUD, fixed_rate=True
        )
        for said, answer in (
            (iec62056.Request("1"), iec62056.Identification("Els", "5", "EK280")),
            (iec62056.OptionSelect("5"), iec62056.Prompt()),
        ):
            meter.receive_data(self._core.send(said))
            _drain(meter)
            self._core.receive_data(meter.send(answer))
            _drain(meter)
            _drain(self._core)

    def hears(self, raw: bytes) -> tuple[str, bool] | None:
        """The text of an answer and whether it is the last; None where the reader asks again."""
        self._core.send(iec62056.ReadCommand("1:1.0"))
        self._core.receive_data(raw)
        found: tuple[str, bool] | None = None
        while True:
            try:
                event = self._core.next_event()
            except iec62056.RemoteProtocolError:
                continue
            if isinstance(event, iec62056.Need):
                return found
            if isinstance(event, iec62056.Data):
                found = None if self._core.surplus else (event.text, event.last)
            elif not isinstance(event, iec62056.Pause | iec62056.SwitchRate):
                found = ("", True)  # a refusal or a NAK that was made of it: the session has to see it


def _drain(core: iec62056.Connection) -> None:
    while not isinstance(core.next_event(), iec62056.Need):
        pass


def single_errors(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """All of them."""
    for bit in range(8 * len(raw)):
        yield "one bit flipped", lines.flipped(raw, bit)
    for at in range(len(raw)):
        yield "one byte lost", raw[:at] + raw[at + 1 :]
        yield "one byte doubled", raw[: at + 1] + raw[at:]
    for at in range(len(raw) + 1):
        for byte in range(256):
            yield "one byte inserted", raw[:at] + bytes((byte,)) + raw[at:]


def double_flips(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """All pairs of bits, quickly: this is most of the work."""
    damaged = bytearray(raw)
    for first in range(8 * len(raw)):
        damaged[first >> 3] ^= 1 << (first & 7)
        for second in range(first + 1, 8 * len(raw)):
            damaged[second >> 3] ^= 1 << (second & 7)
            yield "two bits flipped", bytes(damaged)
            damaged[second >> 3] ^= 1 << (second & 7)
        damaged[first >> 3] ^= 1 << (first & 7)


@dataclasses.dataclass(slots=True)
class Specimen:
    """A telegram whose every error is tried: how it is provoked, and what is told when nothing goes wrong."""

    name: str
    site: Site
    rows: Sequence[int] | None
    pairs: bool = True
    raw: bytes = b""
    told: Sequence[tuple[Key, Decimal]] = ()

    async def find(self) -> None:
        """Read it once over a quiet line: the longest telegram of the meter is the answer that is meant."""
        answer, line = await self.run(bytes)
        self.raw = max((said for said in line.telegrams if said[:1] in {b"\x02", b"\x82"}), key=len)
        self.told = _told(answer)

    async def run(self, noise: Callable[[bytes], bytes]) -> tuple[Answer, lines.NoisyLine]:
        """One session that brings it."""
        return await (self.site.value(noise) if self.rows is None else self.site.read(noise, rows=self.rows))

    async def judge(self, damaged: bytes, figure: Figure, telegram: bytes | None = None) -> None:
        """Put the damaged telegram on a line and see what a session makes of it."""
        try:
            answer, _ = await self.run(lines.Once(telegram or self.raw, damaged))
        except FAILURES:
            figure.failed += 1
            return
        told = _told(answer)
        wrong = [item for item in told if item not in self.told]
        figure.values += len(told)
        figure.wrong += len(wrong)
        figure.missing += 0 if answer.problems else sum(item not in told for item in self.told)
        if wrong and not figure.example:
            figure.example = f"{self.name}: {damaged!r}"


async def every_error(parity: str, specimens: Sequence[Specimen], *, sample: int, seed: int) -> list[Figure]:
    """All single errors and all pairs of bits of each specimen, and all single errors of what the reader says."""
    figures = {
        kind: Figure("answers", parity, kind, "once", judged=True)
        for kind in ("one bit flipped", "one byte lost", "one byte doubled", "one byte inserted")
    }
    figures["two bits flipped"] = Figure("answers", parity, "two bits flipped", "once", judged=parity == EVEN)
    asked = Figure("questions", parity, "one bit, one byte", "once", judged=True)
    rng = random.Random(seed)  # noqa: S311 - reproducible on purpose
    for specimen in specimens:
        core = Core(parity)
        sent = core.hears(specimen.raw)
        survivors: list[tuple[str, bytes]] = []
        pairs_too = double_flips(specimen.raw) if specimen.pairs else ()
        for kind, damaged in itertools.chain(single_errors(specimen.raw), pairs_too):
            figures[kind].tried += 1
            heard = core.hears(damaged)
            if heard is not None and heard != sent:
                figures[kind].passed += 1
                survivors.append((kind, damaged))
        singles = [item for item in survivors if item[0] != "two bits flipped"]
        pairs = [item for item in survivors if item[0] == "two bits flipped"]
        tried = pairs if parity == EVEN else rng.sample(pairs, min(len(pairs), sample))
        for kind, damaged in (*singles, *tried):
            figures[kind].struck += 1
            await specimen.judge(damaged, figures[kind])
        if specimen in specimens[:2]:  # one of each command; the others ask the same
            await _every_question(specimen, asked, min(sample, QUESTIONS), rng)
    return [*figures.values(), asked]


async def _every_question(specimen: Specimen, figure: Figure, sample: int, rng: random.Random) -> None:
    """All flipped, lost and doubled bytes of what the reader says (``sample`` at most), and some inserted ones."""
    _, line = await specimen.run(bytes)
    said = {raw for raw in line.telegrams if raw[:1] in {b"\x01", b"\x81", b"\x06", b"\x15"}}
    for raw in sorted(said):
        errors = list(single_errors(raw))
        inserted = [item for item in errors if item[0] == "one byte inserted"]
        others = [item for item in errors if item[0] != "one byte inserted"]
        tried = (*rng.sample(others, min(len(others), sample)), *rng.sample(inserted, min(len(inserted), sample // 5)))
        for _, damaged in tried:
            figure.tried += 1
            figure.struck += 1
            await specimen.judge(damaged, figure, telegram=raw)


# --- the command ---------------------------------------------------------------------------------------------------


async def measure(
    loop: lines.InstantLoop, rows: int, seed: int, *, short: bool, say: Callable[[str], None]
) -> list[Figure]:
    """Every figure, in the order of the report."""
    figures: list[Figure] = []
    days = 2 if short else DAYS
    for parity in (EVEN, NONE):
        sites = {
            (model, archive): Site(model, archive, position, parity, days=days, seed=seed, loop=loop)
            for model, archive, position in ARCHIVES
        }
        for site in sites.values():
            await site.prepare()
        ek, dl, tc, log = sites.values()
        specimens = [Specimen("a single value", ek, None), Specimen("a row of a DL", dl, range(20, 21))]
        if not short:
            # Pairs take most of the time and pass the core in their thousands where there is no parity: fewer there.
            specimens += [
                Specimen("two entries of a log", log, range(3, 5), pairs=parity == EVEN),
                Specimen("a row of an EK", ek, range(20, 21), pairs=parity == EVEN),
                Specimen("two rows of a DL", dl, range(20, 22), pairs=False),
                Specimen("a row of a TC", tc, range(20, 21), pairs=False),
            ]
        for specimen in specimens:
            await specimen.find()
        say(f"every error, parity {parity}")
        figures += await every_error(parity, specimens, sample=SHORT_SAMPLE if short else SAMPLE, seed=seed)
        whole = sum(course.weight for course in COURSES)
        for course in (course for course in COURSES if course.parity == parity):
            say(f"rows, parity {parity}, {course.kind}, {course.verify}")
            turns = [ek, dl, tc, dl, log]
            share = rows * course.weight // whole
            figures.append(await random_course(course, turns, share, f"{seed}/{parity}/{course.kind}/{course.verify}"))
        for site in sites.values():
            site.meter.close()
    return figures


def run(rows: int, seed: int, *, short: bool = False, say: Callable[[str], None] = lambda _: None) -> list[Figure]:
    """Measure on a loop of its own, on which no time is waited for."""
    loop = lines.InstantLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(measure(loop, rows, seed, short=short, say=say))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 1 when a value was stored that must not be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks noise", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to read in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of meters and noise (default %(default)s)")
    parser.add_argument("--short", action="store_true", help="two specimens and short archives, for a first look")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    figures = run(options.rows, options.seed, short=options.short, say=_say)
    seconds = time.monotonic() - begun
    good = all(figure.good for figure in figures)
    if options.json:
        shown = [dataclasses.asdict(figure) | {"good": figure.good} for figure in figures]
        print(json.dumps({"good": good, "seconds": round(seconds, 1), "figures": shown}, indent=1))
    else:
        _print(figures, seconds)
    return 0 if good else 1


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")


def _print(figures: Sequence[Figure], seconds: float) -> None:
    print(
        f"{'every error of':<14} {'parity':<6} {'kind':<22}{'errors':>10}{'pass core':>10}{'run':>7}{'wrong':>7}"
        f"{'failed':>7}"
    )
    for one in (figure for figure in figures if figure.part != "rows"):
        mark = "" if one.judged else "  (not judged)"
        print(
            f"{one.part:<14} {one.parity:<6} {one.kind:<22}{one.tried:>10}{one.passed:>10}{one.struck:>7}"
            f"{one.wrong:>7}{one.failed:>7}{mark}{'' if one.good else '  !'}"
        )
    print(
        f"\n{'parity':<6} {'kind':<22} {'verify':<6}{'rows':>9}{'values':>10}{'struck':>8}{'wrong':>7}{'missing':>8}"
        f"{'failed':>7}{'bytes':>7}"
    )
    courses = [figure for figure in figures if figure.part == "rows"]
    for one in courses:
        mark = "" if one.judged else "  (not judged)"
        ratio = one.moved / one.ideal if one.ideal else 0.0
        print(
            f"{one.parity:<6} {one.kind:<22} {one.verify:<6}{one.tried:>9}{one.values:>10}{one.struck:>8}{one.wrong:>7}"
            f"{one.missing:>8}{one.failed:>7}{ratio:>6.2f}x{mark}{'' if one.good else '  !'}"
        )
    rows = sum(one.tried for one in courses)
    print(f"\n{rows} rows and {sum(one.tried for one in figures) - rows} single cases in {seconds:.0f} s")
    for one in (figure for figure in figures if figure.example):
        print(f"wrong, {one.part}, parity {one.parity}, {one.kind}, {one.verify}: {one.example}")
