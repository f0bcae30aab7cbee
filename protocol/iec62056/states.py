"""When what may be said: the conversation of modes A, B and C as one table.

Rule 1: everything that decides whether a telegram is legal is in this file.
Rule 2: this file does not know which role we play, so that no other rules hold for us than for the other side.

Theory of operation. A conversation has one state, which reader and meter each keep for themselves. Every telegram,
sent or received, is a ``Kind``; ``TRANSITIONS[state, sender, kind]`` is the next state, and what is not in the table
is not legal. A telegram that is damaged on the way leaves the two with different states for a moment; the table is
made so that every ``Nak``, repeated command, ``Request`` or ``Break`` brings them together again.

Nothing here waits: time-outs belong to drivers. Source: IEC 62056-21 6.4 and Annex A, LIS-200 fact sheet 1.3 to 1.8,
2.1, 3.3, 7.
"""

import enum
from collections.abc import Iterator

from protocol.iec62056.events import (
    Ack,
    Break,
    Data,
    Event,
    Identification,
    Mode,
    Nak,
    OptionSelect,
    Password,
    Prompt,
    ReadBlocks,
    ReadCommand,
    Refusal,
    Request,
    Role,
    WakeUp,
    WriteCommand,
)


class State(enum.Enum):
    """Where a conversation stands, and with that whose turn it is."""

    IDLE = "idle, at the opening rate"
    REQUESTED = "requested: the meter owes its identification"
    IDENTIFIED = "identified: the reader owes an option select"
    SELECTED = "programming mode selected: the meter owes its prompt"
    READOUT = "readout selected: the meter owes the data message"
    READ_OUT = "read out: the reader may ask for the data message again, or ends"
    UNASKED = "identified in mode A or B: the meter owes the data message without being asked"
    PROMPTED = "prompted: the reader commands"
    READY = "ready: the reader commands"
    READING = "reading: the meter owes a block"
    HOLDING = "holding a partial block: the reader acknowledges it"
    ANSWERED = "answered: the reader commands, or asks for the answer again"
    WRITING = "writing: the meter owes an acknowledgement"
    UNREADABLE = "a command was not readable: the meter owes a Nak or a refusal"


class Kind(enum.Enum):
    """The words of the table; what ``Connection`` sends and receives is one of these."""

    WAKE_UP = "wake-up"
    REQUEST = "request"
    IDENTIFICATION = "identification"
    ANNOUNCEMENT = "identification, data message follows at once"
    PROGRAMMING = "option select, programming"
    OTHER_MODE = "option select, any other mode"
    PROMPT = "P0"
    PASSWORD = "P1"  # noqa: S105 - the name of a command
    READ = "R1"
    READ_BLOCKS = "R3"
    WRITE = "W1"
    LAST_BLOCK = "last block"
    PARTIAL_BLOCK = "partial block"
    REFUSAL = "refusal"
    ACK = "ACK"
    NAK = "NAK"
    BREAK = "break"
    DAMAGED = "damaged or unknown telegram"


Key = tuple[State, Role, Kind]

_R, _M = Role.READER, Role.METER
_COMMANDS = {
    Kind.PASSWORD: State.WRITING,
    Kind.WRITE: State.WRITING,
    Kind.READ: State.READING,
    Kind.READ_BLOCKS: State.READING,
}
_PROGRAMMING_MODE = (
    State.PROMPTED,
    State.READY,
    State.READING,
    State.HOLDING,
    State.ANSWERED,
    State.WRITING,
    State.UNREADABLE,
)


def _everywhere() -> Iterator[tuple[Key, State]]:
    """A request restarts and a break ends a conversation from any state; commands run anywhere in programming mode.

    A command is also legal while an answer is owed: after a time-out the reader cannot know whether the meter heard
    it. Such a command, or one instead of an acknowledgement, ends the answer before.
    """
    for state in State:
        yield (state, _R, Kind.REQUEST), State.REQUESTED
        yield (state, _R, Kind.BREAK), State.IDLE
    for state in _PROGRAMMING_MODE:
        yield (state, _R, Kind.DAMAGED), State.UNREADABLE
        for kind, following in _COMMANDS.items():
            yield (state, _R, kind), following


TRANSITIONS: dict[Key, State] = {
    **dict(_everywhere()),
    # opening
    (State.IDLE, _R, Kind.WAKE_UP): State.IDLE,
    (State.REQUESTED, _R, Kind.WAKE_UP): State.IDLE,
    (State.REQUESTED, _M, Kind.IDENTIFICATION): State.IDENTIFIED,
    (State.IDENTIFIED, _R, Kind.PROGRAMMING): State.SELECTED,
    (State.IDENTIFIED, _R, Kind.OTHER_MODE): State.READOUT,
    (State.SELECTED, _M, Kind.PROMPT): State.PROMPTED,
    (State.SELECTED, _R, Kind.NAK): State.SELECTED,
    (State.PROMPTED, _R, Kind.NAK): State.SELECTED,
    # data readout: asked for in mode C, where it may be repeated; by itself in modes A and B, where commands may follow
    (State.READOUT, _M, Kind.LAST_BLOCK): State.READ_OUT,
    (State.READOUT, _R, Kind.NAK): State.READOUT,
    (State.READ_OUT, _R, Kind.NAK): State.READOUT,
    (State.REQUESTED, _M, Kind.ANNOUNCEMENT): State.UNASKED,
    (State.UNASKED, _M, Kind.LAST_BLOCK): State.READY,
    # answers to reads
    (State.READING, _M, Kind.LAST_BLOCK): State.ANSWERED,
    (State.READING, _M, Kind.PARTIAL_BLOCK): State.HOLDING,
    (State.READING, _M, Kind.REFUSAL): State.ANSWERED,
    (State.READING, _M, Kind.NAK): State.READY,
    (State.READING, _R, Kind.NAK): State.READING,
    (State.HOLDING, _R, Kind.ACK): State.READING,
    (State.HOLDING, _R, Kind.NAK): State.READING,
    (State.ANSWERED, _R, Kind.ACK): State.ANSWERED,
    (State.ANSWERED, _R, Kind.NAK): State.READING,
    # answers to writes and passwords
    (State.WRITING, _M, Kind.ACK): State.READY,
    (State.WRITING, _M, Kind.NAK): State.READY,
    (State.WRITING, _M, Kind.REFUSAL): State.ANSWERED,
    (State.WRITING, _R, Kind.NAK): State.WRITING,
    # a command that the meter could not read
    (State.UNREADABLE, _M, Kind.NAK): State.READY,
    (State.UNREADABLE, _M, Kind.REFUSAL): State.ANSWERED,
    # nothing stands to be repeated
    (State.READY, _R, Kind.ACK): State.READY,
    (State.READY, _R, Kind.NAK): State.READY,
    (State.UNREADABLE, _R, Kind.NAK): State.UNREADABLE,
}
"""``(state, sender, kind) -> next state``; a missing key is an illegal telegram."""

SILENT: frozenset[Key] = frozenset(
    {
        (State.ANSWERED, _R, Kind.ACK),
        (State.READY, _R, Kind.ACK),
        (State.READY, _R, Kind.NAK),
        (State.UNREADABLE, _R, Kind.NAK),
    }
)
"""Legal, but nothing follows from it, so a meter's driver never hears of it (an Ack after the last block)."""

UNHEARD: frozenset[State] = frozenset({State.IDLE, State.REQUESTED})
"""Where a meter is not spoken to: illegal telegrams here are another conversation on the bus, not errors."""

_KINDS: dict[type, Kind] = {
    WakeUp: Kind.WAKE_UP,
    Request: Kind.REQUEST,
    Prompt: Kind.PROMPT,
    Password: Kind.PASSWORD,
    ReadCommand: Kind.READ,
    ReadBlocks: Kind.READ_BLOCKS,
    WriteCommand: Kind.WRITE,
    Refusal: Kind.REFUSAL,
    Ack: Kind.ACK,
    Nak: Kind.NAK,
    Break: Kind.BREAK,
}


def kind_of(event: Event) -> Kind:
    """The word of the table for ``event``."""
    match event:
        case Data():
            return Kind.LAST_BLOCK if event.last else Kind.PARTIAL_BLOCK
        case OptionSelect():
            return Kind.PROGRAMMING if event.programming else Kind.OTHER_MODE
        case Identification():
            return Kind.IDENTIFICATION if event.mode is Mode.C else Kind.ANNOUNCEMENT
        case _:
            return _KINDS[type(event)]


def legal_kinds(state: State, sender: Role) -> frozenset[Kind]:
    """What ``sender`` may say in ``state``."""
    return frozenset(kind for at, who, kind in TRANSITIONS if at is state and who is sender)
