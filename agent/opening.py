"""Opening and ending a session with one meter: crash break, wake-up, handshake, the right meter, the lock, goodbye.

Rules: a device with a serial number is only used after it has shown that number, and before a lock is opened wherever
that is possible. While a session is open its rate stands in the line's memory, so that after a crash the first act on
the line is a break at that rate. The goodbye (lock closed if we opened it, break, opening rate) never fails and never
waits for long.

How the core is driven (``agent.conversation`` does the waiting): request -> identification -> option select, after
whose last bit the port changes its rate -> P0 -> commands, each after the meter's reaction time -> break.
"""

import asyncio
import contextlib
import dataclasses
import uuid

from agent.blocks import Blocks
from agent.conversation import Conversation, NoAnswer, Observer, SessionError, Times
from agent.links import Link, LinkError
from agent.runs import LineMemory
from agent.settings import MeterPassword
from protocol import iec62056
from protocol.iec62056 import codes, lis200
from protocol.plans import Device, Line

SERIAL_NUMBER = "1:180.0"
LOCK_STATE, LOCK_CODE = "170.0", "171.0"
"""Objects of a lock; its number is the instance. Writing 171 to an *open* lock changes its code. Fact sheet 2.4."""
CLOSED, CLOSE = "0", "0"
LAST_CALL = 2.5
"""The last call waits so much longer than those before. LIS-200 fact sheet 1.6 (7.5 s in the field) and 8.2."""

SHOWN = 400
"""Characters of a meter's telegram that a cause repeats at most."""


class SilentMeter(NoAnswer):
    """Nobody answered the call: the meter is off, absent, or not at this address or rate."""


class WrongMeter(SessionError):  # noqa: N818 - named by what it is
    """Another meter answered than the one that the plan means."""


@dataclasses.dataclass(slots=True)
class Learned:
    """What one process has learned about a line and uses from then on.

    ``parity`` is whether its path carries even parity, ``blocks`` how long blocks are, by meter and archive.
    """

    parity: iec62056.Parity | None = None
    blocks: dict[tuple[uuid.UUID, int], Blocks] = dataclasses.field(default_factory=dict)


class Opening:
    """The way in, the way out, and the two exchanges that both need: reading and writing one object.

    Attributes:
        device: The meter, as the plan has it.
        line: The line, as the plan has it.
        who: The meter and its line, named for people.
        times: Time-outs and repeats.
        learned: What is known of the line.
        identification: What the meter said of itself.
    """

    def __init__(
        self,
        link: Link,
        line: Line,
        device: Device,
        *,
        access: MeterPassword | None,
        memory: LineMemory,
        times: Times,
        learned: Learned,
        observer: Observer | None = None,
    ) -> None:
        self.device, self.line, self.times = device, line, times
        self.who = who(device, line)
        self.identification: iec62056.Identification | None = None
        self._link, self._access, self._memory, self.learned = link, access, memory, learned
        self._observer = observer
        self._bytes_before = 0
        self._opened_lock = False
        self._talk: Conversation | None = None

    @property
    def line_bytes(self) -> int:
        """Bytes moved on the line so far, both directions."""
        return self._bytes_before + (self._talk.line_bytes if self._talk else 0)

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
                async with asyncio.timeout(self.times.closing):
                    await self.write(f"{self._access.lock if self._access else 0}:{LOCK_STATE}", CLOSE)
        with contextlib.suppress(*failures):
            async with asyncio.timeout(self.times.closing):
                await self._talk.end()
                self._memory.keep_line_rate(self.line.id, None)
        self._bytes_before += self._talk.line_bytes
        self._talk = None

    async def read(self, address: str, *, twice: bool = False) -> list[str]:
        """Read one object (R1); an answer to another question, or with more behind it, is not taken for this one.

        Args:
            address: What to read.
            twice: Take only what came the same twice, each time to a question of its own.

        Raises:
            MeterRefusal: when the meter says no, and the same no once more (a question may have been misheard).
            RemoteProtocolError: when no answer could be used; with the last one as it came.
        """
        failure: Exception | None = None
        came: str | None = None
        refused: int | None = None
        for _ in range(self.times.repeats * (2 if twice else 1)):
            try:
                data = data_only(await self.conversation.ask(iec62056.ReadCommand(address), again=True))
            except iec62056.MeterRefusal as refusal:
                if refusal.code in {codes.NO_RIGHT_TO_READ, refused}:
                    raise
                failure, refused = refusal, refusal.code
                continue
            same, came = data.text == came, data.text
            if await self.conversation.surplus() and not same:
                await self.conversation.quiet()
                failure = iec62056.RemoteProtocolError(f"more came behind the answer to {address}: {shown(data.text)}")
                continue
            try:
                groups = data.groups
            except iec62056.UnreadableValue as error:
                failure = error
                continue
            if not lis200.matches(address, data.address):
                failure = iec62056.RemoteProtocolError(f"asked for {address}, the meter answers {data.address!r}")
            elif same or not twice:
                return list(groups)
            else:
                failure = iec62056.RemoteProtocolError(f"two reads of {address} differ, the last is {shown(data.text)}")
        raise failure or iec62056.TooManyRepeats

    async def write(self, address: str, value: str) -> None:
        """Write one object (W1), once: a write whose acknowledgement is missing is reported, not repeated."""
        try:
            await self.conversation.ask(iec62056.WriteCommand(address, value), again=False)
        except NoAnswer as error:
            raise NoAnswer(f"{error}; whether it took the write to {address} is not known") from error

    async def serial_number(self) -> str:
        """Read the number that the meter gives itself."""
        groups = await self.read(SERIAL_NUMBER)
        return lis200.decode_text(groups[0]).strip() if groups else ""

    @property
    def conversation(self) -> Conversation:
        """The open conversation; SessionError when there is none."""
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
            opening_rate=self.line.rate,
            fixed_rate=self.line.fixed_rate,
            rate=rate,
            echo=self.line.echo,
            max_repeats=self.times.repeats,
        )
        self._talk = Conversation(
            self._link, core, self.who, self.times, self._remember_rate, echo=self.line.echo, observer=self._observer
        )
        return self._talk

    def _remember_rate(self, baud: int) -> None:
        # Back at the opening rate the session is over, and what is remembered is cleared once the break has left.
        if baud != self.line.rate:
            self._memory.keep_line_rate(self.line.id, baud)

    @property
    def _parity(self) -> iec62056.Parity:
        return iec62056.Parity(self.line.parity)

    async def _break_at_remembered_rate(self) -> None:
        rate = self._memory.line_rate(self.line.id)
        if rate is None:
            return
        talk = self._converse(self.learned.parity or self._parity, rate)
        await self._link.set_rate(rate)
        await talk.end()
        await self._link.set_rate(self.line.rate)
        await talk.quiet()

    async def _handshake(self) -> None:
        """Call the meter until it has opened programming mode, a bounded number of times, with a break between."""
        failure: Exception | None = None
        wait = 0.0
        talk = self._converse(self.learned.parity or self._parity)
        self._memory.keep_line_rate(self.line.id, self.line.rate)
        await self._link.set_rate(self.line.rate)
        for attempt in range(self.times.tries):
            # Some meters need longer, behind a modem over 6 s: the last call of several waits for them.
            last = attempt == self.times.tries - 1
            wait = self.times.identification * (LAST_CALL if last and attempt else 1.0)
            try:
                if attempt:
                    await talk.end()
                    await talk.quiet()
                if attempt == 1 and self.learned.parity is not None:
                    # What was learned may no longer hold: the path may have been changed.
                    talk = self._converse(self._parity)
                await self._enter_programming(talk, wait)
            except (NoAnswer, iec62056.RemoteProtocolError) as error:
                failure = error
            else:
                return
        if isinstance(failure, NoAnswer) and self.identification is None:
            raise SilentMeter(
                f"{self.who} does not answer: called {self.times.tries}x, last for {wait:g} s; "
                "check cable, address and rate"
            ) from failure
        raise SessionError(f"{self.who} could not be opened in {self.times.tries} tries: {failure}") from failure

    async def _enter_programming(self, talk: Conversation, wait: float) -> None:
        if self.line.wake_up:
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
            self.learned.parity = iec62056.Parity.EVEN if talk.core.even_parity else iec62056.Parity.NONE
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


def shown(text: str) -> str:
    """What a meter sent, for people: bounded, and in characters that can be shown."""
    return ascii(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def who(device: Device, line: Line) -> str:
    """Name a meter and its line for people."""
    address = f"address {device.address}" if device.address else "general call"
    name = f"meter {device.name}" if device.name else "the meter"
    return f"{name} ({address}) on {line.endpoint}"


def data_only(event: iec62056.MeterEvent) -> iec62056.Data:
    """The data of an answer to a read.

    Raises:
        RemoteProtocolError: when the meter acknowledged it instead.
    """
    if not isinstance(event, iec62056.Data):
        raise iec62056.RemoteProtocolError("the meter acknowledged a read instead of answering it")
    return event
