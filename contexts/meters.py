"""The seam between a context's calls and the session that speaks with the meter.

A context says with a ``Manner`` how its meters are spoken to, asks through ``Meter`` and answers with ``Answer``; it
never sees bytes, lines or clocks. Addresses and group texts are those of the meter (of LIS-200 for all that is said of
archives: fact sheet sections 2 and 3). Refusals of the meter arrive as ``protocol.iec62056.MeterRefusal`` and may be
handled (``#0103``: empty range) or left to end the run.
"""

import dataclasses
import datetime as dt
import decimal
import enum
import zoneinfo
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol

from protocol.iec62056 import lis200


class LineFailure(Exception):  # noqa: N818 - named by what it is
    """The conversation with the meter is over, whatever is asked: the line failed, or nobody answers any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """One value of the answer. ``timestamp`` is aware UTC, or None if the meter gave no time for it.

    ``answered`` is the gateway's UTC when that answer ended, where a call asks for several values; None: when the run
    ended.
    """

    series: str
    value: decimal.Decimal
    unit: str = ""
    timestamp: dt.datetime | None = None
    answered: dt.datetime | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event that the meter logged: its own code (``0x8103``), and what we know of its meaning."""

    timestamp: dt.datetime
    code: str
    title: str
    content: str


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Which rows of an archive the gateway has stored without a gap: times in UTC, by the archive's own number.

    Every row from the instant ``start`` on is stored up to the row ``through_number``, which was stamped ``through``.
    """

    start: dt.datetime
    through: dt.datetime
    through_number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a call brought: values, events, a result for people (``set_time``), and what is held of an archive now.

    ``problems`` says what was not readable while the rest was (a damaged row, with its raw text): such a run has
    failed with the first of them as its cause, but its values, events and held mark count. ``archive`` None means that
    nothing is to be remembered of any archive. ``ended_by`` is the failure that ended the call before it was done:
    whoever makes the call raises it after it has taken what the answer holds.
    """

    values: Sequence[Value] = ()
    events: Sequence[LoggedEvent] = ()
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    archive: int | None = None
    held: Held | None = None
    problems: Sequence[str] = ()
    ended_by: Exception | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Columns of one archive: the meter's own attributes 4 (sources), 2 (names), 3 (units), as delivered.

    ``sources`` are normalised addresses such as ``2:300`` (empty for a column without one).
    """

    sources: tuple[str, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]


class Opened(enum.Enum):
    """What a session is opened for. IEC 62056-21 6.4."""

    PROGRAMMING = "programming mode: single reads and writes"
    READOUT = "data readout: the meter says everything at once"


@dataclasses.dataclass(frozen=True, slots=True)
class Manner:
    """How one kind of meter is spoken to, as far as the session must know; what is said here is that of LIS-200.

    Attributes:
        opened: What its sessions are opened for. Calls of different manners do not share one.
        serial_at: Where the meter shows its number: addresses to read, or ids of a readout; the first counts.
        argument: What stands in the brackets of a read (R1).
        matches: Whether an answer with the second address may answer the first.
        numbered_locks: A code opens a lock by its number (objects 170, 171); else it is the operand of P1.
        unasked: A meter that says its data unasked (modes A and B) is good too, not only one that waits (mode C).
    """

    opened: Opened = Opened.PROGRAMMING
    serial_at: tuple[str, ...] = ("1:180.0",)
    argument: str = "1"
    matches: Callable[[str, str], bool] = lis200.matches
    numbered_locks: bool = True
    unasked: bool = False


LIS200 = Manner()


@dataclasses.dataclass(frozen=True, slots=True)
class DataMessage:
    """The data lines of a readout as the meter sent them, and the gateway's UTC when the last of them came."""

    text: str
    came: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """When a call runs: ``now`` is the gateway's UTC; ``reference`` the instant that relative ranges count from.

    For a scheduled run the reference is its tick, so that neither the run offset nor a late start moves the range;
    for a coalesced run ``since`` is the oldest tick that was missed. ``clock_believed`` guards writes of time.
    """

    now: dt.datetime
    reference: dt.datetime
    since: dt.datetime | None = None
    clock_believed: bool = True


class Meter(Protocol):
    """One open session with one meter, as a context sees it."""

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The time zone that the meter's clock and archives are in."""

    @property
    def model(self) -> str:
        """What the meter called itself when it was opened (``EK280``); empty if it did not say."""

    @property
    def mappings(self) -> Mapping[tuple[int, str], str]:
        """Other series names for (archive, source address); archive 0 stands for single reads and totals."""

    async def read(self, address: str) -> list[str]:
        """Read one object (R1) and return the texts of its groups, e.g. ``["20.16*{C"]``."""

    async def write(self, address: str, value: str) -> None:
        """Write one object (W1); a refusal is raised."""

    async def layout(self, archive: int) -> Layout:
        """Return the archive's columns; read once per meter, then remembered."""

    def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        """Read an archive (R3) oldest first, block by block; each row is the list of its group texts.

        ``position`` is the column that ``start`` and ``end`` (meter's notation, inclusive, empty = open) are compared
        with. The line may be lent to an on-demand command between two blocks; the readout goes on after its last row.
        """

    def held(self, archive: int) -> Held | None:
        """Return what the gateway already holds of this archive."""

    async def now(self) -> dt.datetime:
        """Return the gateway's UTC at this instant (a session may take long)."""

    async def enough(self) -> None:
        """Say that nothing more is asked, before an answer is made of many rows; returns when it may be made.

        The meter may be told goodbye meanwhile. What is asked after all is answered, at the price of opening it anew.
        """

    def under_way(self, characters: int) -> dt.timedelta:
        """How long so many characters take on the line at its present rate, pauses not counted."""


class RegisterMeter(Meter, Protocol):
    """One open session with a meter that has registers by OBIS ids; what a call gets whose manner is not LIS-200's."""

    async def register(self, address: str, *, command: str = "R1") -> str:
        """Read one register (R1, or R5 where a meter wants that) and return the answer's data sets as they came."""

    async def readout(self, *, again: bool = False) -> DataMessage:
        """Return what the meter said when the session was opened for data readout, whole and sound.

        ``again`` makes it say it once more. Only in sessions that are opened for it, see ``Manner``.
        """
