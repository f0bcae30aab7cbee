"""One session with one meter: opened, locked open if need be, used through ``contexts.meters.Meter``, always ended.

Rules: ``open_session`` is the only way in, and its way out always says goodbye, also on errors and cancellation,
shielded and with a short deadline of its own. The goodbye may begin before that (``leave``), while an answer is made of
what came: the way out waits for its end. How a meter is opened and left is in ``agent.opening``.
"""

import asyncio
import contextlib
import datetime as dt
import math
import zoneinfo
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from agent.blocks import Blocks
from agent.conversation import NoAnswer, Observer, SessionError, Times
from agent.links import BITS, Link, LinkError
from agent.opening import Learned, Opening, SilentMeter, WrongMeter, data_only, shown, who
from agent.readouts import Readout
from agent.runs import LineMemory
from agent.settings import MeterPassword
from contexts.calls import CallError
from contexts.lis200_checks import ArchiveChecks, Doubt, Kind
from contexts.lis200_times import nearest
from contexts.meters import LIS200, DataMessage, Held, Layout, Manner
from protocol import iec62056
from protocol.iec62056 import lis200
from protocol.iec62056.lock_codes import hidden, hidden_in_bytes, hidden_in_row
from protocol.plans import Device, Line

__all__ = [
    "ANSWERS",
    "CONVERSATION_FAILURES",
    "DEFAULT_TIMES",
    "FAILURES",
    "Between",
    "Enough",
    "Learned",
    "Session",
    "SilentMeter",
    "WrongMeter",
    "cause_of",
    "open_session",
    "who",
]

CLOCK = "1:400.0"
UNKNOWN_ATTRIBUTE = frozenset({4, 5})
MOST_RAW = 200
"""Bytes of a damaged telegram that a cause repeats at most."""
NO_LAYOUT = Layout((), (), ())
"""Kept in place of columns that do not hold any more: an empty layout is none."""
DEFAULT_TIMES = Times()
CONVERSATION_FAILURES = (LinkError, SessionError, iec62056.Iec62056Error)
"""What can go wrong between us and the meter."""
ANSWERS = (iec62056.MeterRefusal, iec62056.UnreadableValue)
"""Those of them that the meter said in good form: the session goes on after it."""
FAILURES = (CallError, *CONVERSATION_FAILURES, ValueError, LookupError, ArithmeticError)
"""What a call may fail with: as asked, between us and the meter, and the last three when a meter sends what a context
cannot make sense of (``ContractError`` is a ``ValueError``)."""
_LAYOUT_ATTRIBUTES = (lis200.SOURCES, lis200.NAMES, lis200.UNITS)

Between = Callable[["Session"], Awaitable[bool]]
"""Called between two blocks; True when the line was used for something else and the archive has to be asked again."""
Enough = Callable[["Session"], Awaitable[None]]
"""Called when a call asks nothing more, as far as it knows, and goes on to make its answer."""


class _Misunderstood(iec62056.RemoteProtocolError):
    """The meter may have heard something else than we said: not the block is to be repeated but the question."""

    def __init__(self, text: str, problem: Doubt | None = None) -> None:
        super().__init__(text)
        self.problem = problem


class Session:
    """An open session; implements ``contexts.meters.RegisterMeter``. Made by ``open_session``.

    Attributes:
        device: The meter, as the plan has it.
        who: The meter and its line, named for people.
        rows_read: Archive rows read so far.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        memory: LineMemory,
        now: Callable[[], dt.datetime],
        between_blocks: Between | None,
        enough: Enough | None = None,
    ) -> None:
        self.device, self.who = opening.device, opening.who
        self._opening, self._memory, self._now, self._between_blocks = opening, memory, now, between_blocks
        self._enough = enough
        # The goodbye that began before the way out, and the bytes moved until then.
        self._goodbye: asyncio.Task[None] | None = None
        self._bytes_before_goodbye = 0
        self.rows_read = 0
        self._message: DataMessage | None = None
        self._zone = _zone(self.device, self.who)
        self._mappings = {(mapping.archive, mapping.source): mapping.series for mapping in self.device.mappings}
        self._layouts: dict[int, Layout] = {}
        self._remembered: set[int] = set()
        self._behind: str | None = ""
        # Of a slice: the rows that came, so that a call which asks twice gets them again; None outside of one.
        self._slice: list[list[list[str]]] | None = None
        self._cut = False
        self._block_seconds = math.inf

    # --- what a context sees ---------------------------------------------------------------------------------------

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The time zone of the meter's clock and archives."""
        return self._zone

    @property
    def model(self) -> str:
        """What the meter called itself (``EK280``)."""
        return self.identification.ident.strip() if self.identification else ""

    @property
    def mappings(self) -> Mapping[tuple[int, str], str]:
        """Other series names for (archive, source address)."""
        return self._mappings

    async def read(self, address: str) -> list[str]:
        """Read one object (R1); an answer to another question is not taken for this one."""
        await self._come_back()
        return await self._opening.read(address)

    async def write(self, address: str, value: str) -> None:
        """Write one object (W1), once: a write whose acknowledgement is missing is reported, not repeated."""
        await self._come_back()
        await self._opening.write(address, value)

    async def register(self, address: str, *, command: str = "R1") -> str:
        """Read one register by its id and return the data sets of the answer as they came."""
        await self._come_back()
        return (await self._opening.answer(address, command=command)).text

    async def readout(self, *, again: bool = False) -> DataMessage:
        """Return the data message that came when the session was opened; ``again`` opens it anew for another one."""
        if again:
            await self.end()
            await self.begin()
        if self._message is None:
            raise SessionError(f"{self.who}: the session was not opened for data readout")
        return self._message

    async def layout(self, archive: int) -> Layout:
        """Read the archive's columns (attributes 4, 2, 3), once per meter.

        Raises:
            RemoteProtocolError: when the three do not have the same number of columns.
        """
        known = self._memory.layout(self.device.id, archive)
        if known is not None and known != NO_LAYOUT:
            self._layouts[archive] = known
            self._remembered.add(archive)
            return known
        sources, names, units = [await self._attribute(archive, attribute) for attribute in _LAYOUT_ATTRIBUTES]
        counts = [len(groups) for groups in (sources, names, units) if groups]
        if len(set(counts)) > 1:
            raise iec62056.RemoteProtocolError(
                f"archive {archive}: the meter's sources, names and units have {counts} columns; they must agree"
            )
        layout = Layout(tuple(_source(text) for text in sources), tuple(names), tuple(units))
        if counts:
            self._layouts[archive] = layout
            self._memory.keep_layout(self.device.id, archive, layout)
        return layout

    async def _attribute(self, archive: int, attribute: str) -> list[str]:
        """One row of column texts; nothing if this meter does not have that attribute."""
        try:
            await self._come_back()
            # Read once and kept for years, so one wrong character here would name every reading wrongly.
            return await self._opening.read(lis200.archive_address(archive, attribute), twice=True)
        except iec62056.MeterRefusal as refusal:
            if refusal.code not in UNKNOWN_ATTRIBUTE:
                raise
            return []

    async def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        """Read an archive (R3) block by block; goes on after its last good row if the line was lent in between.

        It goes on by the archive's own row numbers where there are some, because a meter's clock may have gone back.
        """
        if self._cut:
            for rows in self._slice or ():
                yield rows
            return
        async for rows in self._readout(archive, position, start, end):
            if self._slice is not None:
                self._slice.append(rows)
            yield rows
            del rows

    async def _readout(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        """Ask for the rows, and again from the last good one, until all have come or the slice ends."""
        readout = Readout(archive, position, start, end, self._layouts.get(archive))
        checks = ArchiveChecks(archive, self._layouts.get(archive), self._zone)
        asked_anew = 0
        while not (readout.over or self._cut):
            try:
                async for rows in self._answer(readout, checks):
                    yield rows
                    del rows
            except iec62056.MeterRefusal as refusal:
                if not readout.goes_on_after(refusal.code, self._opening.times.repeats):
                    raise
            except _Misunderstood as misunderstood:
                asked_anew += 1
                if asked_anew > self._opening.times.repeats:
                    raise
                if misunderstood.problem is not None:
                    checks.settle(misunderstood.problem)
                await self._opening.conversation.quiet()
                readout.interrupted()
            except (NoAnswer, iec62056.RemoteProtocolError):
                # Where a long block does not come through, a shorter one may.
                if self._forgotten(archive) or self._rows_per_block(archive) == 1:
                    raise
                self._blocks(archive).lost()
                readout.interrupted()

    async def _answer(self, readout: Readout, checks: ArchiveChecks) -> AsyncIterator[list[list[str]]]:
        """Ask once (R3) and bring the new rows of each block, until it is over or the line was lent."""
        await self._come_back()
        talk, blocks = self._opening.conversation, self._blocks(readout.archive)
        asked = self._rows_per_block(readout.archive)
        command = iec62056.ReadBlocks(lis200.archive_address(readout.archive), readout.argument(asked))
        block = data_only(await talk.ask(command, again=True, expected=blocks.characters(asked), ours=_has_rows))
        stuck = 0
        while True:
            block, rows = await self._sound(block, readout, checks)
            anew = blocks.came(self._opening.times.repeats - talk.core.repeats_left)
            fresh = readout.take(rows, last=block.last)
            self.rows_read += len(fresh)
            if fresh:
                yield [hidden_in_row(row) for row in fresh]
            del rows, fresh  # of many lines that are waited for, none keeps a block
            if readout.over or readout.asks_on:
                return
            if (self._between_blocks is not None and await self._between_blocks(self)) or anew:
                readout.interrupted()
                return
            # A block whose acknowledgement was lost comes again; its rows are dropped above.
            stuck = stuck + 1 if block.repeated else 0
            del block
            if stuck > self._opening.times.repeats:
                raise iec62056.TooManyRepeats
            block = await talk.next_block(good=True, expected=blocks.characters(asked))

    def begin_slice(self, block_seconds: float) -> None:
        """From now on an archive's readout may be cut after any block; blocks last no longer than that."""
        self._slice, self._cut, self._block_seconds = [], False, block_seconds

    @property
    def slice_rows(self) -> int:
        """How many rows the slice has brought."""
        return sum(map(len, self._slice or ()))

    def cut(self) -> None:
        """End the readout with the rows that have come: for the call it is over."""
        self._cut = True

    def end_slice(self) -> bool:
        """Let readouts go to their end again; whether this one was cut."""
        was, self._slice, self._cut = self._cut, None, False
        self._block_seconds = math.inf
        return was

    def held(self, archive: int) -> Held | None:
        """Return what the gateway already holds of this archive."""
        return self._memory.held(self.device.id, archive)

    async def now(self) -> dt.datetime:
        """Return the gateway's UTC at this instant."""
        return self._now()

    async def enough(self) -> None:
        """Hear that the call asks nothing more, as far as it knows; what it asks after all opens the meter anew."""
        if self._enough is not None:
            await self._enough(self)

    def under_way(self, characters: int) -> dt.timedelta:
        """Return how long so many characters take on the line at its present rate, pauses not counted."""
        return dt.timedelta(seconds=characters * BITS / self._opening.conversation.core.rate)

    # --- what the line's worker does with it -----------------------------------------------------------------------

    @property
    def identification(self) -> iec62056.Identification | None:
        """What the meter said of itself."""
        return self._opening.identification

    @property
    def line_bytes(self) -> int:
        """Bytes moved on the line so far, both directions; those of the goodbye belong to no call."""
        return self._opening.line_bytes if self._goodbye is None else self._bytes_before_goodbye

    async def begin(self) -> None:
        """Open the conversation, see ``Opening.begin``."""
        await self._opening.begin()
        if self._opening.message is not None:
            self._message = DataMessage(self._opening.message, self._now())

    @property
    def manner(self) -> Manner:
        """What it was opened for, and how this kind of meter is spoken to."""
        return self._opening.manner

    async def end(self) -> None:
        """Say goodbye, see ``Opening.end``, or wait until it is said."""
        if self._goodbye is None:
            await self._opening.end()
        else:
            await asyncio.shield(self._goodbye)

    def leave(self) -> None:
        """Begin to say goodbye, once, while the call goes on to make its answer."""
        if self._goodbye is None:
            self._bytes_before_goodbye = self._opening.line_bytes
            self._goodbye = asyncio.create_task(self._opening.end(), name="goodbye")

    @property
    def left(self) -> bool:
        """Whether the goodbye is being said, or was: nothing else is executed in this session."""
        return self._goodbye is not None

    async def _come_back(self) -> None:
        """Open the meter again that was left too early."""
        if self._goodbye is not None:
            await self.end()
            self._goodbye = None
            await self.begin()

    async def serial_number(self) -> str:
        """Read the number that the meter gives itself."""
        return await self._opening.serial_number()

    async def clock_offset(self) -> float | None:
        """Seconds that the meter's clock is ahead of the gateway's; None where it does not show its clock."""
        try:
            groups = await self.read(CLOCK)
            now = self._now()
            shown = nearest(self._zone, lis200.parse_datetime(groups[0] if groups else ""), now)
        except ANSWERS:
            return None
        return round((shown - now).total_seconds(), 3)

    # --- archives --------------------------------------------------------------------------------------------------

    def _columns(self, archive: int) -> int | None:
        layout = self._layouts.get(archive)
        return len(layout.sources or layout.names) if layout else None

    def _rows_per_block(self, archive: int) -> int:
        rate, seconds = self._opening.conversation.core.rate, min(self._opening.times.block, self._block_seconds)
        return self._blocks(archive).rows(seconds, rate, self._columns(archive))

    def _blocks(self, archive: int) -> Blocks:
        return self._opening.learned.blocks.setdefault((self.device.id, archive), Blocks())

    def _forgotten(self, archive: int) -> bool:
        """Whether the columns turned out to be others than remembered."""
        return archive in self._remembered and self._memory.layout(self.device.id, archive) == NO_LAYOUT

    async def _sound(
        self, block: iec62056.Data, readout: Readout, checks: ArchiveChecks
    ) -> tuple[iec62056.Data, tuple[lis200.Row, ...]]:
        """Return the block and its rows once they hold together: the block check lets some errors through.

        What comes the same twice is the meter's own word, however odd, and is left to the context to judge.

        Raises:
            _Misunderstood: when not the block but the question has to be repeated.
            RemoteProtocolError: when the block never held together; with its text as it came.
        """
        archive, conversation = readout.archive, self._opening.conversation
        odd = None
        while True:
            problem: iec62056.RemoteProtocolError | None = None
            rows: tuple[lis200.Row, ...] = ()
            try:
                rows = block.rows
                problem = checks.doubt(rows, readout.asked)
            except iec62056.UnreadableValue as error:
                problem = error
            if await conversation.surplus() and not self._more_behind(block.text):
                raise _Misunderstood(f"archive {archive}: more came behind a block: {shown(block.text)}")
            same_again = bool(rows) and block.text == odd
            doubt = problem if isinstance(problem, Doubt) else None
            if doubt is not None and doubt.misunderstood:
                raise _Misunderstood(f"{doubt}; the block as it came: {shown(block.text)}", doubt)
            if same_again and doubt is not None:
                checks.settle(doubt)
                if doubt.kind is Kind.COLUMNS and archive in self._remembered:
                    # The meter was changed since its columns were read.
                    self._memory.keep_layout(self.device.id, archive, NO_LAYOUT)
                    raise iec62056.RemoteProtocolError(f"{doubt}; its columns will be read anew by the next run")
            if problem is None or same_again:
                checks.accept(rows)
                self._blocks(archive).seen(len(block.text), len(rows))
                return block, rows
            if not conversation.core.repeats_left:
                raise iec62056.RemoteProtocolError(f"{problem}; the block as it came: {shown(block.text)}")
            odd = block.text
            block = await conversation.next_block(good=False)

    def _more_behind(self, text: str) -> bool:
        """Whether this meter always sends something behind its blocks: it did so behind this very block before."""
        same, self._behind = self._behind in {text, None}, text
        if same:
            self._behind = None
        return same


@contextlib.asynccontextmanager
async def open_session(
    link: Link,
    line: Line,
    device: Device,
    *,
    memory: LineMemory,
    now: Callable[[], dt.datetime],
    access: MeterPassword | None = None,
    between_blocks: Between | None = None,
    enough: Enough | None = None,
    times: Times = DEFAULT_TIMES,
    learned: Learned | None = None,
    observer: Observer | None = None,
    calls: int | None = None,
    manner: Manner = LIS200,
) -> AsyncIterator[Session]:
    """Open a session with ``device`` over ``link``; always ends it.

    Args:
        link: The open line.
        line: How the line is worked: opening rate, parity, wake-up, echo.
        device: Whom to call, and what is known of it.
        memory: What the line remembers across restarts.
        now: The gateway's UTC.
        access: The lock to open and its code; None leaves locks alone.
        between_blocks: Awaited between the blocks of an archive, see ``Between``.
        enough: Awaited when a call asks nothing more, see ``Enough``.
        times: Time-outs and repeats.
        learned: What is known of the line from earlier sessions of this process; updated.
        observer: Told of everything that is said and heard, see ``agent.conversation.Observer``.
        calls: How often the meter is called while it says nothing; None: as often as ``times`` says.
        manner: What to open it for, and how this kind of meter is spoken to.

    Raises:
        LinkError, SessionError, Iec62056Error: when the session cannot be opened.
    """
    opening = Opening(
        link,
        line,
        device,
        access=access,
        memory=memory,
        times=times,
        learned=learned or Learned(),
        observer=observer,
        calls=calls,
        manner=manner,
    )
    session = Session(opening, memory=memory, now=now, between_blocks=between_blocks, enough=enough)
    try:
        await session.begin()
        yield session
    finally:
        await _to_the_end(session.end())


async def _to_the_end(closing: Coroutine[Any, Any, None]) -> None:
    """Await a short clean-up to its end even when we are cancelled meanwhile: a meter left open blocks its line."""
    task = asyncio.create_task(closing, name="session end")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def cause_of(error: Exception, meter: str) -> str:
    """Say in a sentence why a call failed; names meter and line unless the call itself was wrong. Shows no code."""
    if isinstance(error, CallError | SessionError):
        return hidden(str(error))
    raw = hidden_in_bytes(error.raw) if isinstance(error, iec62056.RemoteProtocolError) else b""
    came = f"; the telegram as it came, with its parity bits: {raw[:MOST_RAW].hex(' ')}" if raw else ""
    return f"{meter}: {hidden(error.what if isinstance(error, LinkError) else str(error))}{came}"


def _has_rows(block: iec62056.Data) -> bool:
    """Whether a block may be one of an archive: those have no address in front. LIS-200 fact sheet 3.3."""
    return not block.address


def _zone(device: Device, meter: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(device.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise SessionError(f"{meter}: no time zone is called {device.timezone!r}; use an IANA name") from error


def _source(text: str) -> str:
    """``0002:0300`` as ``2:300``; empty for a column without a source, or one that names none."""
    try:
        return lis200.Address.parse(text).core
    except iec62056.UnreadableValue:
        return ""
