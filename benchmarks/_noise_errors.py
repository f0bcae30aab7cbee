"""Every error of a kind: a telegram with all its single errors and all pairs of flipped bits, for the bench ``noise``.

Rules: no error is left out. An answer of the meter is judged by the reader's core, and what the core takes for
something else than was sent is put on the line of a session. A question of the reader is judged by the meter's core:
what it understands, with what is left in its buffer, is all that a meter can act on, so of the errors that it cannot
tell apart one is put on the line of a session, in the place where the question was asked.

Theory of operation. The pairs of bits of a telegram are millions. Most need no core: where neither byte frames or
fills anything, before or after, the telegram is cut out at the same places, and its check is arithmetic (``is_refused``
knows parity and block check by its own lights). What is refused by that is counted as tried; of it one in ``PROBED`` is
put to the core all the same, which has to agree.
"""

import copy
import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from agent.session import FAILURES
from benchmarks import _noise_line as lines
from benchmarks._noise_site import BAUD, EVEN, Figure, Key, Site, told_by
from contexts.meters import Answer
from protocol import iec62056

FRAMING = frozenset({0x00, 0x01, 0x02, 0x03, 0x04, 0x06, 0x15, 0x7F})
"""Characters that begin, end, answer or fill: NUL, SOH, STX, ETX, EOT, ACK, NAK, DEL."""
PROBED = 1009
"""Of so many pairs that arithmetic refuses, one is put to the core; a prime, so that no column is preferred."""
ONE, LOST, DOUBLED, INSERTED, TWO = (
    "one bit flipped",
    "one byte lost",
    "one byte doubled",
    "one byte inserted",
    "two bits flipped",
)
QUIET_BYTES = (b"\x02", b"\x82")
"""What an answer begins with, without and with parity."""

Heard = tuple[object, ...]


class Core:
    """A reader's core that waits for an answer, again and again."""

    def __init__(self, parity: str) -> None:
        self._core = _connection(iec62056.Role.READER, parity)
        meter = _connection(iec62056.Role.METER, parity)
        for said, answer in (
            (iec62056.Request("1"), iec62056.Identification("Els", "5", "EK280")),
            (iec62056.OptionSelect("5"), iec62056.Prompt()),
        ):
            meter.receive_data(self._core.send(said))
            _heard(meter)
            self._core.receive_data(meter.send(answer))
            _heard(meter)
            _heard(self._core)

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


class Listener:
    """A meter's core as it stands before each telegram of a reader, from a conversation over a quiet line."""

    def __init__(self, parity: str, telegrams: Sequence[bytes]) -> None:
        reader, meter = _connection(iec62056.Role.READER, parity), _connection(iec62056.Role.METER, parity)
        self.before: list[tuple[bytes, iec62056.Connection]] = []
        for raw, answer in itertools.zip_longest(telegrams[::2], telegrams[1::2]):
            self.before.append((raw, copy.deepcopy(meter)))
            meter.receive_data(raw)
            for event in _heard(meter):
                if answer is not None and not isinstance(event, iec62056.Pause | iec62056.SwitchRate):
                    reader.send(event)  # type: ignore[arg-type]  # what a meter hears is what a reader says
                    reader.receive_data(answer)
                    said = _heard(reader)[-1]
                    meter.send(said)  # type: ignore[arg-type]
                    _heard(meter)

    @staticmethod
    def hears(core: iec62056.Connection, raw: bytes) -> tuple[Heard, Heard]:
        """What the meter makes of it, and where that leaves it: what is kept meets the next telegram."""
        mine = copy.deepcopy(core)
        mine.receive_data(raw)
        heard = tuple(
            type(event).__name__ if isinstance(event, iec62056.RemoteProtocolError) else event for event in _heard(mine)
        )
        return heard, (mine.state, mine.even_parity, raw[len(raw) - mine.buffered :])


def _connection(role: iec62056.Role, parity: str) -> iec62056.Connection:
    learns = role is iec62056.Role.METER and parity == EVEN  # as the simulator's meters do
    kind = iec62056.Parity.AUTO if learns else iec62056.Parity(parity)
    return iec62056.Connection(role, parity=kind, opening_rate=BAUD, fixed_rate=True)


def _heard(core: iec62056.Connection) -> list[object]:
    found: list[object] = []
    while True:
        try:
            event = core.next_event()
        except iec62056.RemoteProtocolError as error:
            found.append(error)
            continue
        if isinstance(event, iec62056.Need):
            return found
        found.append(event)


def single_errors(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """All of them."""
    for bit in range(8 * len(raw)):
        yield ONE, lines.flipped(raw, bit)
    for at in range(len(raw)):
        yield LOST, raw[:at] + raw[at + 1 :]
        yield DOUBLED, raw[: at + 1] + raw[at:]
    for at in range(len(raw) + 1):
        for byte in range(256):
            yield INSERTED, raw[:at] + bytes((byte,)) + raw[at:]


def double_flips(raw: bytes) -> Iterator[tuple[int, int]]:
    """All pairs of bits, counted from the lowest of the first byte."""
    return itertools.combinations(range(8 * len(raw)), 2)


def _framing(raw: bytes) -> list[list[bool]]:
    """For each bit of each byte, whether the byte frames, or what it becomes when that bit is flipped."""
    return [[not FRAMING.isdisjoint({byte & 0x7F, (byte ^ 1 << bit) & 0x7F}) for bit in range(8)] for byte in raw]


def possible_pairs(raw: bytes, parity: str, probe: Callable[[int, int], None]) -> Iterator[tuple[int, int]]:
    """The pairs of bits that parity or block check might let through; some of the others go to ``probe``."""
    framing = _framing(raw)
    refused = 0
    for first in range(8 * len(raw)):
        byte, bit = first >> 3, first & 7
        if framing[byte][bit]:
            yield from ((first, second) for second in range(first + 1, 8 * len(raw)))
            continue
        for second in range(first + 1, 8 * len(raw)):
            other, column = second >> 3, second & 7
            if byte == other or framing[other][column] or (parity != EVEN and bit == column):
                yield first, second
                continue
            refused += 1
            if not refused % PROBED:
                probe(first, second)


@dataclasses.dataclass(slots=True)
class Specimen:
    """A telegram whose every error is tried: how it is provoked, and what is told when nothing goes wrong."""

    name: str
    site: Site
    rows: Sequence[int] | None
    pairs: bool = True
    questions: bool = False
    answers: bool = True
    new: bool = False
    raw: bytes = b""
    told: Sequence[tuple[Key, object]] = ()

    async def find(self) -> None:
        """Read it once over a quiet line: the longest telegram of the meter is the answer that is meant."""
        answer, line = await self.run(bytes)
        self.raw = max((said for said in line.telegrams if said[:1] in QUIET_BYTES), key=len)
        self.told = told_by(answer)

    async def run(self, noise: Callable[[bytes], bytes]) -> tuple[Answer, lines.NoisyLine]:
        """One session that brings it."""
        return await (
            self.site.value(noise) if self.rows is None else self.site.read(noise, rows=self.rows, new=self.new)
        )

    async def judge(self, damaged: bytes, figure: Figure, telegram: bytes | None = None) -> None:
        """Put the damaged telegram on a line and see what a session makes of it."""
        figure.struck += 1
        try:
            answer, _ = await self.run(lines.Once(telegram or self.raw, damaged))
        except FAILURES:
            figure.failed += 1
            return
        told = told_by(answer)
        wrong = [item for item in told if item not in self.told]
        figure.values += len(told)
        figure.wrong += len(wrong)
        figure.missing += 0 if answer.problems else sum(item not in told for item in self.told)
        if wrong and not figure.example:
            figure.example = f"{self.name}: {damaged!r} for {telegram or self.raw!r}"


async def every_error(parity: str, specimens: Sequence[Specimen], *, sample: int, seed: int) -> list[Figure]:
    """All single errors and all pairs of bits of each specimen, and all single errors of what the reader says.

    Without parity, where pairs pass the block check by the thousand, ``sample`` of them are put on a line.
    """
    figures = {kind: Figure("answers", parity, kind, "once", judged=True) for kind in (ONE, LOST, DOUBLED, INSERTED)}
    figures[TWO] = Figure("answers", parity, TWO, "once", judged=parity == EVEN)
    questions = {
        kind: Figure("questions", parity, kind, "once", judged=True) for kind in (ONE, LOST, DOUBLED, INSERTED)
    }
    rng = random.Random(seed)  # noqa: S311 - reproducible on purpose
    for specimen in specimens:
        if specimen.answers:
            await _every_answer(parity, specimen, figures, sample, rng)
        if specimen.questions:
            await _every_question(parity, specimen, questions)
    return [*figures.values(), *questions.values()]


async def _every_answer(
    parity: str, specimen: Specimen, figures: dict[str, Figure], sample: int, rng: random.Random
) -> None:
    core, raw = Core(parity), specimen.raw
    sent = core.hears(raw)
    for kind, damaged in single_errors(raw):
        figures[kind].tried += 1
        if core.hears(damaged) not in {None, sent}:
            figures[kind].passed += 1
            await specimen.judge(damaged, figures[kind])
    if not specimen.pairs:
        return

    def probe(first: int, second: int) -> None:
        if core.hears(lines.flipped(raw, first, second)) not in {None, sent}:
            raise RuntimeError(f"bits {first} and {second} of {raw!r} pass the core: the bench itself is wrong")

    figures[TWO].tried += 4 * len(raw) * (8 * len(raw) - 1)
    survivors = []
    for pair in possible_pairs(raw, parity, probe):
        damaged = lines.flipped(raw, *pair)
        if core.hears(damaged) not in {None, sent}:
            survivors.append(damaged)
    figures[TWO].passed += len(survivors)
    for damaged in survivors if parity == EVEN else rng.sample(survivors, min(len(survivors), sample)):
        await specimen.judge(damaged, figures[TWO])


async def _every_question(parity: str, specimen: Specimen, figures: dict[str, Figure]) -> None:
    """Each error of each telegram that the reader says for the specimen; one session for all that sound alike."""
    _, line = await specimen.run(bytes)
    done: set[bytes] = set()
    for raw, core in Listener(parity, line.telegrams).before:
        if raw in done:
            continue  # an acknowledgement is said before each block
        done.add(raw)
        meant = Listener.hears(core, raw)
        judged: set[tuple[Heard, Heard]] = set()
        for kind, damaged in single_errors(raw):
            figures[kind].tried += 1
            heard = Listener.hears(core, damaged)
            figures[kind].passed += heard[0] != meant[0] and any(
                not isinstance(event, str | iec62056.Pause) for event in heard[0]
            )
            if heard != meant and heard not in judged:
                judged.add(heard)
                await specimen.judge(damaged, figures[kind], telegram=raw)
