"""The core of IEC 62056-21 in both roles, and the simulator's meter, under whatever comes over a line.

An input is four bytes of settings and then what arrives. Between the pieces of it the side under test says whatever
its state allows, and things that it does not. Promised: ``receive_data`` raises nothing, ``next_event`` only what the
other side did wrong, ``send`` only what we did; what is kept stays within its bound, each byte brings a bounded number
of events; and afterwards a new conversation opens and a value is read, whatever happened before.
"""

import contextlib
import datetime as dt
import json
import pathlib
import random
import re
from collections.abc import Iterable, Iterator, Sequence

from agent.simulator.bus import virtual_bus
from agent.simulator.conversations import Conversation, Say
from benchmarks._fuzz_targets import Broken, Notes, Target, broken_unless
from protocol.iec62056 import (
    Ack,
    Break,
    Connection,
    Data,
    Event,
    Identification,
    Iec62056Error,
    LocalProtocolError,
    Nak,
    Need,
    OptionSelect,
    Parity,
    Password,
    Pause,
    Prompt,
    ReadBlocks,
    ReadCommand,
    Refusal,
    RemoteProtocolError,
    Request,
    Role,
    SwitchRate,
    WakeUp,
    WriteCommand,
)
from protocol.iec62056.telegrams import encode

TRANSCRIPTS = pathlib.Path(__file__).parents[1] / "tests" / "transcripts" / "iec62056"
NOW = dt.datetime(2025, 3, 12, 9, 0, 30, tzinfo=dt.UTC)
LONGEST_TELEGRAMS = (65_536, 64, 1000)
PER_TELEGRAM = 8
"""Most bytes kept for each character of the longest telegram, see ``Connection.buffered``."""
EVENTS_PER_BYTE = 4
"""A byte can be a telegram (ACK): a pause, a change of rate and the event or error itself."""
TRIES = 4
"""Requests until a new conversation stands: the first ones may be swallowed with what is left of the one before."""
HEADER = 4
LONGEST_STREAM = 20_000
_REPEATS = (1, 1, 1, 1, 1, 1, 1, 64)

SAID: dict[Role, tuple[Event, ...]] = {
    Role.READER: (
        *(Request(), Request("0012"), Request("ä"), OptionSelect("5"), OptionSelect("0"), OptionSelect("6", "0")),
        *(Password("3:0"), ReadCommand("2:300.0"), ReadCommand("2:(300"), ReadBlocks("3:V.0", ";;;10")),
        *(WriteCommand("1:400.0", "2024-01-15,06:30:00"), Ack(), Nak(), Nak(), Ack(), Break(), WakeUp(0.1, 0.1)),
    ),
    Role.METER: (
        *(Identification("Els", "5", "EK280"), Identification("ELS", "0", "EK 280", "\\2"), Prompt(), Ack(), Nak()),
        *(Identification("Abc", "C", "B"), Data("2:300.0(12*m3)"), Data("(1)(2)\r\n(3)(4)", last=False), Data("")),
        *(Refusal(18), Refusal(103), Data("\x03"), Identification("Els", "x", "A"), Refusal(-1)),
    ),
}
"""Most can be said in some state, some never can."""
CLEAN: tuple[tuple[Role, Event], ...] = (
    (Role.READER, Request()),
    (Role.METER, Identification("Els", "5", "EK280")),
    (Role.READER, OptionSelect("5")),
    (Role.METER, Prompt()),
    (Role.READER, ReadBlocks("3:V.0", ";;;10")),
    (Role.METER, Data("(1)(2)", last=False)),
    (Role.READER, Ack()),
    (Role.METER, Data("(3)(4)")),
    (Role.READER, WriteCommand("1:400.0", "2024-01-15,06:30:00")),
    (Role.METER, Ack()),
    (Role.READER, Break()),
)
"""How far a conversation has gone before the garbage begins."""


def _drained(connection: Connection, notes: Notes | None = None, given: int = 0) -> list[Event | RemoteProtocolError]:
    """Fetch everything; ``given``: bytes that are new."""
    heard: list[Event | RemoteProtocolError] = []
    most = EVENTS_PER_BYTE * (connection.buffered + given + 4)
    for count in range(most + 1):
        before = connection.state
        try:
            item = connection.next_event()
        except RemoteProtocolError as error:
            if notes is not None:
                notes.reached.add((before, type(error), str(error)[:40], connection.state))
            heard.append(error)
            continue
        if isinstance(item, Need):
            if notes is not None and given > 16:  # noqa: PLR2004 - an end may stand for what came long before it
                notes.events_per_byte = max(notes.events_per_byte, count / given)
            return heard
        if notes is not None:
            notes.reached.add((before, type(item), connection.state))
        if not isinstance(item, Pause | SwitchRate):
            heard.append(item)
    raise Broken(f"more than {most} events without another byte")


class Line:
    """One side under test, and another that knows the rules; ``echo``: the line returns what the first says."""

    def __init__(self, role: Role, parity: Parity, longest: int, *, echo: bool, fixed: bool) -> None:
        self.tested = Connection(role, parity=parity, echo=echo, fixed_rate=fixed, max_telegram=longest)
        self._other = Connection(role.peer, parity=parity, fixed_rate=fixed)
        self._echo = echo

    def clean(self, telegrams: Sequence[tuple[Role, Event]]) -> None:
        """Say these, undamaged."""
        for speaker, event in telegrams:
            if speaker is self.tested.role:
                self._carry(event)
            else:
                self._answer(event)

    def opens_again(self) -> None:
        """Raise Broken unless a new conversation stands after a few requests, and a value is read in it."""
        other = self._other = Connection(self.tested.role.peer, parity=Parity.AUTO)
        reader = self.tested if self.tested.role is Role.READER else other
        question, answer = ReadCommand("2:300.0"), Data("2:300.2(12*m3)")
        _drained(self.tested)
        for _ in range(TRIES):
            with contextlib.suppress(_Unheard):
                self.clean(
                    [
                        (Role.READER, Request()),
                        (Role.METER, Identification("Els", "5", "EK280")),
                        (Role.READER, OptionSelect("5")),
                        (Role.METER, Prompt()),
                        (Role.READER, question),
                        (Role.METER, answer),
                    ]
                )
                return
        raise Broken(f"no conversation opens any more: {reader!r} and {self.tested!r}")

    def _carry(self, event: Event) -> None:
        """The side under test says it, the other hears it."""
        raw = self.tested.send(event)
        _drained(self.tested)
        if self._echo:
            self.tested.receive_data(raw)
        self._other.receive_data(raw)
        if event not in _drained(self._other):
            raise _Unheard

    def _answer(self, event: Event) -> None:
        self.tested.receive_data(self._other.send(event))
        _drained(self._other)
        if event not in _drained(self.tested):
            raise _Unheard


class _Unheard(Exception):  # noqa: N818 - named by what it is
    """Something that was said was not heard."""


def _run(role: Role, data: bytes, notes: Notes) -> None:
    settings, action_seed, depth, length = (*data[:HEADER], 0, 0, 0, 0)[:HEADER]
    arriving = (data[HEADER:] * _REPEATS[settings >> 5])[:LONGEST_STREAM]
    longest = LONGEST_TELEGRAMS[length % 3]
    rng = random.Random(action_seed)  # noqa: S311 - part of the input
    line = Line(role, list(Parity)[settings % 3], longest, echo=bool(settings & 8), fixed=bool(settings & 16))
    line.clean(CLEAN[: depth % (len(CLEAN) + 1)])
    tested = line.tested
    unread = 0
    for piece in _pieces(arriving, rng, whole=length >= 128):  # noqa: PLR2004 - half of all
        tested.receive_data(piece)
        unread += len(piece)
        kept = tested.buffered
        notes.peak = max(notes.peak, -(-1000 * kept // longest))
        broken_unless(kept <= PER_TELEGRAM * longest, f"{kept} bytes are kept, telegrams have at most {longest}")
        if rng.random() < 0.8:  # noqa: PLR2004 - now and then a driver is slow to fetch
            _drained(tested, notes, unread)
            unread = 0
        if rng.random() < 0.2:  # noqa: PLR2004 - mostly it listens
            _say(tested, rng.choice(SAID[role]), notes)
    _drained(tested, notes)
    if action_seed % 2:
        tested.reset()
    line.opens_again()


def _say(tested: Connection, event: Event, notes: Notes) -> None:
    before = tested.state
    try:
        tested.send(event)
    except LocalProtocolError:
        return
    notes.reached.add((before, "says", type(event), tested.state))


def _pieces(data: bytes, rng: random.Random, *, whole: bool) -> Iterator[bytes]:
    if whole:
        yield data
        return
    at = 0
    while at < len(data):
        size = rng.choice((1, 3, 20, 200))
        yield data[at : at + size]
        at += size


def _reader(data: bytes, notes: Notes) -> None:
    _run(Role.READER, data, notes)


def _meter(data: bytes, notes: Notes) -> None:
    _run(Role.METER, data, notes)


def _simulator(data: bytes, notes: Notes) -> None:
    """A simulated meter hears it piece by piece, and answers the next request."""
    settings, action_seed, depth, _ = (*data[:HEADER], 0, 0, 0, 0)[:HEADER]
    bus = virtual_bus(f"1:4711:{MODELS[settings % len(MODELS)]}", now=lambda: NOW, history_days=0.4)
    conversation = Conversation(bus.meters[0], (), opening_rate=300, fixed_rate=False)
    rng = random.Random(action_seed)  # noqa: S311 - part of the input
    opening = [encode(event) for speaker, event in CLEAN[: depth % 5] if speaker is Role.READER]
    for piece in (*opening, *_pieces(data[HEADER:], rng, whole=False)):
        before = conversation.state
        said = [action for action in conversation.hear(piece, 0.0) if isinstance(action, Say)]
        notes.reached.add((settings % len(MODELS), before, len(said) > 0, conversation.state))
        broken_unless(len(said) <= EVENTS_PER_BYTE * (len(piece) + 4), f"{len(said)} answers to {len(piece)} bytes")
    conversation.give_up()
    said = [action for action in conversation.hear(encode(Request("1")), 0.0) if isinstance(action, Say)]
    broken_unless(bool(said), "the meter does not identify itself any more")


MODELS = ("EK280", "TC220", "DL220", "EK260", "DL240")


# --- what there is to begin with -----------------------------------------------------------------------------------


def transcripts() -> Iterator[tuple[str, bytes]]:
    """Who said what in the transcripts of real meters."""
    for path in sorted(TRANSCRIPTS.glob("*/wire.txt")):
        for line in path.read_text(encoding="ascii").splitlines():
            if not line.startswith("#"):
                who, _, text = line.partition(": ")
                yield who, re.sub(r"<([0-9A-F]{2})>", lambda found: chr(int(found[1], 16)), text).encode("ascii")


def rows_of_transcripts() -> Iterator[str]:
    """The rows of the transcripts, as texts."""
    for path in sorted(TRANSCRIPTS.glob("*/expected.json")):
        for row in json.loads(path.read_text(encoding="utf-8")).get("meaning", {}).get("rows", []):
            yield "".join(f"({group})" for group in row)


def conversations() -> Iterator[dict[Role, bytes]]:
    """What reader and meter say when models of the simulator are opened and read."""
    for model in MODELS:
        bus = virtual_bus(f"1:4711:{model}", now=lambda: NOW, history_days=0.4)
        meter = Conversation(bus.meters[0], (), opening_rate=300, fixed_rate=False)
        reader = Connection(Role.READER)
        said: dict[Role, bytes] = {Role.READER: b"", Role.METER: b""}
        archive = "2" if model.startswith("DL") else "3"
        rate = bus.meters[0].identification().rate_id
        questions: list[Event] = [Request("1"), OptionSelect(rate), ReadCommand("1:180.0"), ReadCommand("9:999.0")]
        questions += [ReadCommand(f"{archive}:V.{attribute}") for attribute in "234"]
        questions += [ReadBlocks(f"{archive}:V.0", ";;;4"), Ack(), Ack(), WriteCommand("4:171.0", "00000000"), Break()]
        for question in questions:
            with contextlib.suppress(Iec62056Error):
                raw = reader.send(question)
                _drained(reader)
                answer = b"".join(
                    piece.data for action in meter.hear(raw, 0.0) if isinstance(action, Say) for piece in action.pieces
                )
                said[Role.READER] += raw
                said[Role.METER] += answer
                reader.receive_data(answer)
                _drained(reader)
        yield said


def _seeds(role: Role) -> Iterable[bytes]:
    """What the other side says, in every depth of a conversation and with every setting of parity."""
    said = [raw for who, raw in transcripts() if who == role.peer.value]
    said += [talk[role.peer] for talk in conversations()]
    said += [b"".join(encode(event) for speaker, event in CLEAN if speaker is role.peer)]
    for index, raw in enumerate(said):
        for depth in {len(CLEAN) - 1 - index % len(CLEAN), index % 7}:
            yield bytes((index * 7 % 32, index, depth, index * 3 % 256)) + raw
    yield bytes((7 << 5, 0, 6, 0)) + b"(1)(2)" * 400
    yield bytes((7 << 5, 2, 6, 1)) + b"\x02(1)(2)" * 100


READER = Target("reader", lambda: _seeds(Role.READER), _reader, bound=1000 * PER_TELEGRAM, share=50)
METER = Target("meter", lambda: _seeds(Role.METER), _meter, bound=1000 * PER_TELEGRAM, share=50)
SIMULATOR = Target("simulator", lambda: _seeds(Role.METER), _simulator, share=5)
