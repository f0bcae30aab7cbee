"""One session with one meter: opened, locked open if need be, used through ``contexts.meters.Meter``, always ended.

Rules: ``open_session`` is the only way in, and its way out always says goodbye (lock closed if we opened it, break,
opening rate), also on errors and cancellation, shielded and with a short deadline of its own. A device with a serial
number is only used after it has shown that number. While a session is open its rate stands in the line's memory, so
that after a crash the first act on the line is a break at that rate.

How the core is driven (``agent.conversation`` does the waiting): request -> identification -> option select, after
whose last bit the port changes its rate -> P0 -> commands, each after the meter's reaction time -> break.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import zoneinfo
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from agent.conversation import Conversation, NoAnswer, SessionError, Times
from agent.links import Link, LinkError
from agent.readouts import Readout, doubt, rows_per_block
from agent.runs import LineMemory
from agent.settings import MeterPassword
from contexts.calls import CallError
from contexts.lis200_times import nearest
from contexts.meters import Held, Layout
from protocol import iec62056
from protocol.iec62056 import codes, lis200
from protocol.plans import Device, Line

SERIAL_NUMBER = "1:180.0"
CLOCK = "1:400.0"
LOCK_STATE, LOCK_CODE = "170.0", "171.0"
"""Objects of a lock; its number is the instance. Writing 171 to an *open* lock changes its code. Fact sheet 2.4."""
CLOSED, CLOSE = "0", "0"
UNKNOWN_ATTRIBUTE = frozenset({4, 5})
LAST_CALL = 2.5
"""The last call waits so much longer than those before. LIS-200 fact sheet 1.6 (7.5 s in the field) and 8.2."""
SHORTER = 4
"""By what a block is shortened when it does not come through."""
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


class SilentMeter(NoAnswer):
    """Nobody answered the call: the meter is off, absent, or not at this address or rate."""


class WrongMeter(SessionError):  # noqa: N818 - named by what it is
    """Another meter answered than the one that the plan means."""


@dataclasses.dataclass(slots=True)
class Learned:
    """What one process has learned about a line and uses from then on: whether its path carries even parity."""

    parity: iec62056.Parity | None = None


class Session:
    """An open session; implements ``contexts.meters.Meter``. Made by ``open_session``.

    Attributes:
        device: The meter, as the plan has it.
        who: The meter and its line, named for people.
        identification: What the meter said of itself.
        rows_read: Archive rows read so far.
    """

    def __init__(
        self,
        link: Link,
        line: Line,
        device: Device,
        *,
        access: MeterPassword | None,
        memory: LineMemory,
        now: Callable[[], dt.datetime],
        between_blocks: Between | None,
        times: Times,
        learned: Learned,
    ) -> None:
        self.device = device
        self.who = who(device, line)
        self.identification: iec62056.Identification | None = None
        self._link, self._line, self._access, self._memory = link, line, access, memory
        self._now, self._between_blocks, self._times, self._learned = now, between_blocks, times, learned
        self.rows_read = 0
        self._zone = _zone(device, self.who)
        self._mappings = {(mapping.archive, mapping.source): mapping.series for mapping in device.mappings}
        self._layouts: dict[int, Layout] = {}
        self._remembered: set[int] = set()
        self._row_lengths: dict[int, int] = {}
        self._shortening = 1
        self._bytes_before = 0
        self._opened_lock = False
        self._talk: Conversation | None = None

    # --- what a context sees ---------------------------------------------------------------------------------------

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The time zone of the meter's clock and archives."""
        return self._zone

    @property
    def mappings(self) -> Mapping[tuple[int, str], str]:
        """Other series names for (archive, source address)."""
        return self._mappings

    async def read(self, address: str) -> list[str]:
        """Read one object (R1); an answer to another question is not taken for this one."""
        failure: Exception | None = None
        for _ in range(self._times.repeats):
            data = _data_only(await self._conversation.ask(iec62056.ReadCommand(address), again=True))
            try:
                groups = data.groups
            except iec62056.UnreadableValue as error:
                failure = error
                continue
            if lis200.matches(address, data.address):
                return list(groups)
            failure = iec62056.RemoteProtocolError(f"asked for {address}, the meter answers {data.address!r}")
        raise failure or iec62056.TooManyRepeats

    async def write(self, address: str, value: str) -> None:
        """Write one object (W1), once: a write whose acknowledgement is missing is reported, not repeated."""
        try:
            await self._conversation.ask(iec62056.WriteCommand(address, value), again=False)
        except NoAnswer as error:
            raise NoAnswer(f"{error}; whether it took the write to {address} is not known") from error

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
            return await self.read(lis200.archive_address(archive, attribute))
        except iec62056.MeterRefusal as refusal:
            if refusal.code not in UNKNOWN_ATTRIBUTE:
                raise
            return []

    async def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        """Read an archive (R3) block by block; goes on after its last good row if the line was lent in between.

        It goes on by the archive's own row numbers where there are some, because a meter's clock may have gone back.
        """
        readout = Readout(archive, position, start, end, self._layouts.get(archive))
        while not readout.over:
            try:
                async for rows in self._answer(readout):
                    yield rows
            except iec62056.MeterRefusal as refusal:
                if not readout.goes_on_after(refusal.code, self._times.repeats):
                    raise
            except (NoAnswer, iec62056.RemoteProtocolError):
                # Where a long block does not come through, a shorter one may.
                if self._forgotten(archive) or self._rows_per_block(archive) == 1:
                    raise
                self._shortening *= SHORTER
                readout.interrupted()

    async def _answer(self, readout: Readout) -> AsyncIterator[list[list[str]]]:
        """Ask once (R3) and bring the new rows of each block, until it is over or the line was lent."""
        argument = readout.argument(self._rows_per_block(readout.archive))
        command = iec62056.ReadBlocks(lis200.archive_address(readout.archive), argument)
        block = _data_only(await self._conversation.ask(command, again=True))
        stuck = 0
        while True:
            block, rows = await self._sound(block, readout.archive)
            fresh = readout.take(rows, last=block.last)
            self.rows_read += len(fresh)
            if fresh:
                yield fresh
            if readout.over:
                return
            if self._between_blocks is not None and await self._between_blocks(self):
                readout.interrupted()
                return
            # A block whose acknowledgement was lost comes again; its rows are dropped above.
            stuck = stuck + 1 if block.repeated else 0
            if stuck > self._times.repeats:
                raise iec62056.TooManyRepeats
            block = await self._conversation.next_block(good=True)

    def held(self, archive: int) -> Held | None:
        """Return what the gateway already holds of this archive."""
        return self._memory.held(self.device.id, archive)

    async def now(self) -> dt.datetime:
        """Return the gateway's UTC at this instant."""
        return self._now()

    # --- what the line's worker does with it -----------------------------------------------------------------------

    @property
    def line_bytes(self) -> int:
        """Bytes moved on the line so far, both directions."""
        return self._bytes_before + (self._talk.line_bytes if self._talk else 0)

    async def serial_number(self) -> str:
        """Read the number that the meter gives itself."""
        groups = await self.read(SERIAL_NUMBER)
        return lis200.decode_text(groups[0]).strip() if groups else ""

    async def clock_offset(self) -> float | None:
        """Seconds that the meter's clock is ahead of the gateway's; None where it does not show its clock."""
        try:
            groups = await self.read(CLOCK)
            now = self._now()
            shown = nearest(self._zone, lis200.parse_datetime(groups[0] if groups else ""), now)
        except ANSWERS:
            return None
        return round((shown - now).total_seconds(), 3)

    async def begin(self) -> None:
        """Open the conversation: identification, rate, P0, the right meter, the lock.

        Raises:
            NoAnswer: when nobody answers; names line and meter.
            WrongMeter: when the meter shows another serial number than the plan has.
            SessionError: when the lock cannot be opened, with the meter's reason.
        """
        self.identification = None
        await self._break_at_remembered_rate()
        await self._handshake()
        checked = await self._check_serial(readable=self._access is None)
        if self._access is not None:
            await self._open_lock(self._access)
        if not checked:
            await self._check_serial(readable=True)

    async def end(self) -> None:
        """Say goodbye: close the lock if we opened it, break, opening rate. Never fails, never waits for long."""
        if self._talk is None:
            return
        failures = (LinkError, iec62056.Iec62056Error, SessionError, TimeoutError)
        if self._opened_lock:
            self._opened_lock = False
            with contextlib.suppress(*failures):
                async with asyncio.timeout(self._times.closing):
                    await self.write(f"{self._access.lock if self._access else 0}:{LOCK_STATE}", CLOSE)
        with contextlib.suppress(*failures):
            async with asyncio.timeout(self._times.closing):
                await self._talk.end()
                self._memory.keep_line_rate(self._line.id, None)
        self._bytes_before += self._talk.line_bytes
        self._talk = None

    # --- opening ---------------------------------------------------------------------------------------------------

    @property
    def _conversation(self) -> Conversation:
        if self._talk is None:
            raise SessionError(f"{self.who}: the session is not open")
        return self._talk

    def _converse(self, parity: iec62056.Parity, rate: int | None = None) -> Conversation:
        """Begin anew with nothing heard, the port standing at ``rate``."""
        if self._talk is not None:
            self._bytes_before += self._talk.line_bytes
        core = iec62056.Connection(
            iec62056.Role.READER,
            parity=parity,
            opening_rate=self._line.rate,
            fixed_rate=self._line.fixed_rate,
            rate=rate,
            echo=self._line.echo,
            max_repeats=self._times.repeats,
        )
        self._talk = Conversation(self._link, core, self.who, self._times, self._remember_rate, echo=self._line.echo)
        return self._talk

    def _remember_rate(self, baud: int) -> None:
        # Back at the opening rate the session is over, and what is remembered is cleared once the break has left.
        if baud != self._line.rate:
            self._memory.keep_line_rate(self._line.id, baud)

    @property
    def _parity(self) -> iec62056.Parity:
        return iec62056.Parity(self._line.parity)

    async def _break_at_remembered_rate(self) -> None:
        rate = self._memory.line_rate(self._line.id)
        if rate is None:
            return
        talk = self._converse(self._learned.parity or self._parity, rate)
        await self._link.set_rate(rate)
        await talk.end()
        await self._link.set_rate(self._line.rate)
        await talk.quiet()

    async def _handshake(self) -> None:
        """Call the meter until it has opened programming mode, a bounded number of times, with a break between."""
        failure: Exception | None = None
        wait = 0.0
        talk = self._converse(self._learned.parity or self._parity)
        self._memory.keep_line_rate(self._line.id, self._line.rate)
        await self._link.set_rate(self._line.rate)
        for attempt in range(self._times.tries):
            # Some meters need longer, behind a modem over 6 s: the last call of several waits for them.
            last = attempt == self._times.tries - 1
            wait = self._times.identification * (LAST_CALL if last and attempt else 1.0)
            try:
                if attempt:
                    await talk.end()
                    await talk.quiet()
                if attempt == 1 and self._learned.parity is not None:
                    # What was learned may no longer hold: the path may have been changed.
                    talk = self._converse(self._parity)
                await self._enter_programming(talk, wait)
            except (NoAnswer, iec62056.RemoteProtocolError) as error:
                failure = error
            else:
                return
        if isinstance(failure, NoAnswer) and self.identification is None:
            raise SilentMeter(
                f"{self.who} does not answer: called {self._times.tries}x, last for {wait:g} s; "
                "check cable, address and rate"
            ) from failure
        raise SessionError(f"{self.who} could not be opened in {self._times.tries} tries: {failure}") from failure

    async def _enter_programming(self, talk: Conversation, wait: float) -> None:
        if self._line.wake_up:
            await talk.say(iec62056.WAKE_UP)
            await talk.effects()
        await talk.say(iec62056.Request(self.device.address))
        identification = await talk.hear(wait)
        if not isinstance(identification, iec62056.Identification):
            raise iec62056.RemoteProtocolError("the meter did not identify itself")
        self.identification = identification
        if identification.rate is None:
            raise iec62056.RemoteProtocolError(
                f"the meter offers baud character {identification.rate_id!r}, which is none of mode C (0 to 6)"
            )
        if self._parity is iec62056.Parity.AUTO:
            self._learned.parity = iec62056.Parity.EVEN if talk.core.even_parity else iec62056.Parity.NONE
        await talk.say(iec62056.OptionSelect(identification.rate_id))
        if not isinstance(await talk.hear(wait), iec62056.Prompt):
            raise iec62056.RemoteProtocolError("the meter did not open programming mode (P0)")

    async def _check_serial(self, *, readable: bool) -> bool:
        """Refuse another meter than the planned one; False if it shows nothing yet because a lock is closed.

        It is checked before a lock is opened wherever that is possible: no code is tried on a stranger's meter.
        """
        expected = self.device.serial
        if expected is None:
            return True
        try:
            shown = await self.serial_number()
        except iec62056.MeterRefusal as refusal:
            if readable or refusal.code != codes.NO_RIGHT_TO_READ:
                raise
            return False
        if shown.lstrip("0") != expected.strip().lstrip("0"):
            raise WrongMeter(f"{self.who} has serial number {shown}, the plan expects {expected}; nothing was read")
        return True

    async def _open_lock(self, access: MeterPassword) -> None:
        """Write the code only to a closed lock: written to an open one it would become the new code."""
        try:
            try:
                state = (await self.read(f"{access.lock}:{LOCK_STATE}"))[0].strip()
            except iec62056.MeterRefusal as refusal:
                if refusal.code != codes.NO_RIGHT_TO_READ:
                    raise
                state = CLOSED  # an open lock would give the right to read
            if state == CLOSED:
                await self.write(f"{access.lock}:{LOCK_CODE}", access.password)
                self._opened_lock = True
        except iec62056.MeterRefusal as refusal:
            raise SessionError(
                f"{self.who}: lock {access.lock} could not be opened: {refusal}; check password and lock of this meter"
            ) from refusal

    # --- archives --------------------------------------------------------------------------------------------------

    def _columns(self, archive: int) -> int | None:
        layout = self._layouts.get(archive)
        return len(layout.sources or layout.names) if layout else None

    def _rows_per_block(self, archive: int) -> int:
        rate, length = self._conversation.core.rate, self._row_lengths.get(archive)
        return rows_per_block(self._times.block / self._shortening, rate, length, self._columns(archive))

    def _forgotten(self, archive: int) -> bool:
        """Whether the columns turned out to be others than remembered."""
        return archive in self._remembered and self._memory.layout(self.device.id, archive) == NO_LAYOUT

    async def _sound(self, block: iec62056.Data, archive: int) -> tuple[iec62056.Data, tuple[lis200.Row, ...]]:
        """Return the block and its rows once they hold together: the block check lets some errors through.

        What comes the same twice is the meter's own word, however odd, and is left to the context to judge.
        """
        odd = None
        while True:
            problem: iec62056.RemoteProtocolError | None = None
            rows: tuple[lis200.Row, ...] = ()
            try:
                rows = block.rows
                problem = doubt(rows, archive, self._columns(archive))
            except iec62056.UnreadableValue as error:
                problem = error
            same_again = bool(rows) and block.text == odd
            if same_again and archive in self._remembered:
                # The meter was changed since its columns were read.
                self._memory.keep_layout(self.device.id, archive, NO_LAYOUT)
                raise iec62056.RemoteProtocolError(f"{problem}; its columns will be read anew by the next run")
            if problem is None or same_again:
                length = -(-(len(block.text) + 2) // max(1, len(rows)))
                self._row_lengths[archive] = max(self._row_lengths.get(archive, 0), length)
                return block, rows
            if not self._conversation.core.repeats_left:
                raise problem
            odd = block.text
            block = await self._conversation.next_block(good=False)


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
    times: Times = DEFAULT_TIMES,
    learned: Learned | None = None,
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
        times: Time-outs and repeats.
        learned: What is known of the line from earlier sessions of this process; updated.

    Raises:
        LinkError, SessionError, Iec62056Error: when the session cannot be opened.
    """
    session = Session(
        link,
        line,
        device,
        access=access,
        memory=memory,
        now=now,
        between_blocks=between_blocks,
        times=times,
        learned=learned or Learned(),
    )
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
    """Say in a sentence why a call failed; names meter and line unless the call itself was wrong."""
    if isinstance(error, CallError | SessionError):
        return str(error)
    return f"{meter}: {error.what if isinstance(error, LinkError) else error}"


def who(device: Device, line: Line) -> str:
    """Name a meter and its line for people."""
    address = f"address {device.address}" if device.address else "general call"
    name = f"meter {device.name}" if device.name else "the meter"
    return f"{name} ({address}) on {line.endpoint}"


def _zone(device: Device, meter: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(device.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise SessionError(f"{meter}: no time zone is called {device.timezone!r}; use an IANA name") from error


def _data_only(event: iec62056.MeterEvent) -> iec62056.Data:
    if not isinstance(event, iec62056.Data):
        raise iec62056.RemoteProtocolError("the meter acknowledged a read instead of answering it")
    return event


def _source(text: str) -> str:
    """``0002:0300`` as ``2:300``; empty for a column without a source, or one that names none."""
    try:
        return lis200.Address.parse(text).core
    except iec62056.UnreadableValue:
        return ""
