"""One session with one meter: opened, locked open if need be, used through ``contexts.meters.Meter``, always ended.

Rules: ``open_session`` is the only way in, and its way out always says goodbye, also on errors and cancellation,
shielded and with a short deadline of its own. The goodbye may begin before that (``leave``), while an answer is made of
what came: the way out waits for its end. How a meter is opened and left is in ``agent.opening``.
"""

import asyncio
import contextlib
import datetime as dt
import zoneinfo
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from agent.archives import Archives
from agent.conversation import Observer, SessionError, Times
from agent.links import BITS, Link, LinkError
from agent.opening import Learned, Opening, SilentMeter, WrongMeter, who
from agent.runs import LineMemory
from agent.settings import MeterPassword
from contexts.calls import CallError
from contexts.lis200_times import nearest
from contexts.meters import LIS200, DataMessage, Held, Layout, Manner
from protocol import iec62056
from protocol.iec62056 import lis200
from protocol.iec62056.lock_codes import hidden, hidden_in_bytes
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
MOST_RAW = 200
"""Bytes of a damaged telegram that a cause repeats at most."""
DEFAULT_TIMES = Times()
CONVERSATION_FAILURES = (LinkError, SessionError, iec62056.Iec62056Error)
"""What can go wrong between us and the meter."""
ANSWERS = (iec62056.MeterRefusal, iec62056.UnreadableValue)
"""Those of them that the meter said in good form: the session goes on after it."""
FAILURES = (CallError, *CONVERSATION_FAILURES, ValueError, LookupError, ArithmeticError)
"""What a call may fail with: as asked, between us and the meter, and the last three when a meter sends what a context
cannot make sense of (``ContractError`` is a ``ValueError``)."""

Between = Callable[["Session"], Awaitable[bool]]
"""Called between two blocks; True when the line was used for something else and the archive has to be asked again."""
Enough = Callable[["Session"], Awaitable[None]]
"""Called when a call asks nothing more, as far as it knows, and goes on to make its answer."""


class Session:
    """An open session; implements ``contexts.meters.RegisterMeter``. Made by ``open_session``.

    Attributes:
        device: The meter, as the plan has it.
        who: The meter and its line, named for people.
        archives: How its archives are read.
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
        self._opening, self._memory, self._now = opening, memory, now
        self._between_blocks, self._enough = between_blocks, enough
        # The goodbye that began before the way out, and the bytes moved until then.
        self._goodbye: asyncio.Task[None] | None = None
        self._bytes_before_goodbye = 0
        self._message: DataMessage | None = None
        self._zone = _zone(self.device, self.who)
        self._mappings = {(mapping.archive, mapping.source): mapping.series for mapping in self.device.mappings}
        self.archives = Archives(
            opening, memory=memory, zone=self._zone, come_back=self._come_back, between_blocks=self._lend
        )

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
        """Return the archive's columns, see ``agent.archives``."""
        return await self.archives.layout(archive)

    def rows(self, archive: int, position: int, start: str, end: str) -> AsyncIterator[list[list[str]]]:
        """Read an archive block by block, see ``agent.archives``."""
        return self.archives.rows(archive, position, start, end)

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

    async def _lend(self) -> bool:
        """Lend the line between two blocks; whether it was used for something else."""
        return self._between_blocks is not None and await self._between_blocks(self)

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


def _zone(device: Device, meter: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(device.timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
        raise SessionError(f"{meter}: no time zone is called {device.timezone!r}; use an IANA name") from error
