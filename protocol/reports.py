"""What a gateway says besides readings, what the hub answers, and the life sign that ties both to a session.

Rows on the channel ``report`` are one of RunReport, CommandUpdate, PlanApplied, MeterSystemEvent, LossRecord and
UndecodablePush, told apart by the tag in their first element; a row with an unknown tag costs that row only.
"""

import uuid
from typing import Annotated

import msgspec

from protocol.commands import CommandUpdate
from protocol.plans import Problem
from protocol.readings import BatchName
from protocol.wire import (
    Checked,
    ContractError,
    Count,
    Digest,
    Instant,
    Revision,
    Sequence,
    StoreId,
    Text,
    Word,
    decode,
)

DONE = "done"
FAILED = "failed"
MISSED = "missed"
WRONG_METER = "wrong_meter"
REFUSED = "refused"
CANCELLED = "cancelled"
INTERRUPTED = "interrupted"

COMMS = "comms"
"""Kind of failure: the meter did not answer, not in time or not understandably; or the port, the connection failed."""

DEVICE = "device"
"""Kind of failure: the meter understood and said no."""

PARSE = "parse"
"""Kind of failure: what the meter sent arrived whole and is not what it should be."""

PARTIAL = "partial"
"""Kind of failure: some of it could not be had; the rest is stored and counts."""

GATEWAY = "gateway"
"""Kind of failure: the gateway itself could not: its disk, its plan, a fault of its own."""

STORED = "stored"
"""Receipt outcome: the rows are committed in the hub's database (as reading, duplicate, revision or staged)."""

QUARANTINED = "quarantined"
"""Receipt outcome: the batch could not be read; its bytes are committed in the hub's quarantine."""


class RunReport(Checked, frozen=True, array_like=True, tag="run"):
    """One execution of one task or command on one meter, and its outcome.

    ``tick`` is the due time without the offset (None for a command); ``cause`` says why it is not ``done``;
    ``readings`` counts the rows stored with it, ``line_bytes`` what it moved on the line, both directions. Ticks that
    were missed one after the other are one report: ``count`` of them, from ``since`` (None if it is one) to ``tick``.
    ``kind`` says of a run that ``failed`` what kind of failure it was; empty from agents that do not know the field.
    """

    id: uuid.UUID
    device: uuid.UUID
    outcome: Word
    started: Instant | None
    ended: Instant
    task: uuid.UUID | None = None
    command: uuid.UUID | None = None
    tick: Instant | None = None
    cause: Text = ""
    readings: Count = 0
    line_bytes: Sequence = 0
    since: Instant | None = None
    count: Count = 1
    kind: Word = ""


class PlanApplied(Checked, frozen=True, array_like=True, tag="plan"):
    """The agent runs the plan of this revision, but for the items listed as problems."""

    id: uuid.UUID
    revision: Revision
    digest: Digest
    at: Instant
    session: Sequence
    sequence: Sequence
    problems: list[Problem] = msgspec.field(default_factory=list)


class MeterSystemEvent(Checked, frozen=True, array_like=True, tag="event"):
    """Something that the meter logged: a code of its own with the meaning we know for it."""

    id: uuid.UUID
    device: uuid.UUID
    meter: Word
    timestamp: Instant
    code: Word
    title: Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
    content: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    collected: Instant | None = None


class LossRecord(Checked, frozen=True, array_like=True, tag="loss"):
    """Rows that had to go before they were delivered: never silently, always one of these."""

    id: uuid.UUID
    device: uuid.UUID | None
    meter: Word
    series: Word
    start: Instant
    end: Instant
    count: Count
    reason: Text


MAX_PUSHED_BYTES = 4096
"""Of a payload that could not be taken: what its report carries of it."""


class UndecodablePush(Checked, frozen=True, array_like=True, tag="push"):
    """What came through a receiver and is no reading: its first bytes, for people and for a fix.

    ``size`` is the whole payload's; ``meter`` what it calls its meter, where that could be read; ``source`` where it
    came from. ``count`` is how many there were since the report before: a gateway reports so many of them in an hour,
    and counts the rest.
    """

    id: uuid.UUID
    receiver: uuid.UUID
    name: Word
    came: Instant
    cause: Text
    payload: Annotated[bytes, msgspec.Meta(max_length=MAX_PUSHED_BYTES)]
    size: Sequence
    source: Word = ""
    meter: Word = ""
    count: Count = 1


Report = RunReport | CommandUpdate | PlanApplied | MeterSystemEvent | LossRecord | UndecodablePush


def decode_report(row: bytes | msgspec.Raw) -> Report:
    """Decode one row of the channel ``report``.

    Raises:
        ContractError: when the row is none of the reports that this version knows.
    """
    try:
        report: Report = msgspec.msgpack.decode(row, type=Report)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise ContractError(f"not a report: {error}") from error
    return report


class Receipt(Checked, frozen=True, array_like=True, tag="receipt"):
    """The hub's word that these batches of one channel are committed. ``hub_time`` lets the agent judge its clock."""

    channel: Word
    names: list[BatchName]
    hub_time: Instant
    outcome: Word = STORED


class Resend(Checked, frozen=True, array_like=True, tag="resend"):
    """Send again from this sequence on whatever the store still holds, the receipted tail included."""

    store: StoreId
    channel: Word
    first: Sequence
    hub_time: Instant


def decode_receipt(body: bytes) -> Receipt | Resend:
    """Decode a message of the channel ``receipt``.

    Raises:
        ContractError: when it is neither a receipt nor a resend.
    """
    try:
        message: Receipt | Resend = msgspec.msgpack.decode(body, type=Receipt | Resend)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise ContractError(f"not a receipt: {error}") from error
    return message


class LineFigures(Checked, frozen=True, array_like=True):
    """What one line did since the process started: ``since``, counted up to the life sign that it stands in.

    ``errors`` are by kind, ``timeouts`` by the meter's name; ``silent`` are the meters that are left alone just now.
    """

    line: uuid.UUID
    name: Word
    since: Instant
    sessions: Count = 0
    busy_seconds: float = 0.0
    bytes: Sequence = 0
    repeats: Count = 0
    errors: dict[Word, Count] = msgspec.field(default_factory=dict)
    timeouts: dict[Word, Count] = msgspec.field(default_factory=dict)
    silent: list[Word] = msgspec.field(default_factory=list)


class Online(Checked, frozen=True, array_like=True):
    """The gateway's life sign, retained; with ``online`` false it is the will.

    ``readings_through`` and ``reports_through`` are the highest sequences up to which every row has its receipt;
    ``depth`` and ``oldest`` describe what has none. The session number rises with every process start and connection;
    ``sequence`` is that of the last state-like message before it (PlanApplied, CommandUpdate), which orders them.
    ``sealing_key`` is the public half that keys of meters are to be sealed with (``protocol.meter_keys``); empty while
    nothing of its plan needs such keys.
    """

    gateway: Word
    online: bool
    session: Sequence
    store: StoreId
    software: Word
    at: Instant
    plan_revision: Revision = 0
    plan_digest: Annotated[bytes, msgspec.Meta(max_length=16)] = b""
    readings_through: Sequence = 0
    reports_through: Sequence = 0
    depth: Sequence = 0
    oldest: Instant | None = None
    clock_believed: bool = True
    status: Text = ""
    sequence: Sequence = 0
    lines: list[LineFigures] = msgspec.field(default_factory=list)
    sealing_key: Annotated[bytes, msgspec.Meta(max_length=32)] = b""


class Hello(Checked, frozen=True, array_like=True):
    """A relay has started, or has gone (its will): end your back-off, with jitter, and say that you are online."""

    hub_time: Instant
    relay: Word = ""


def decode_online(body: bytes) -> Online:
    """Decode a life sign.

    Raises:
        ContractError: when it is not one.
    """
    return decode(body, Online)
