"""Opening and ending a session with one meter: crash break, wake-up, handshake, the right meter, the lock, goodbye.

Rules: a device with a serial number is only used after it has shown that number, and before a lock is opened wherever
that is possible. While a session is open its rate stands in the line's memory, so that after a crash the first act on
the line is a break at that rate. The goodbye (lock closed if we opened it, break, opening rate) never fails and never
waits for long.

How the core is driven (``agent.conversation`` does the waiting): request -> identification -> option select, after
whose last bit the port changes its rate -> P0 -> commands, each after the meter's reaction time -> break. In a data
readout the data message takes the place of P0 and commands; in modes A and B it comes without an option select.
"""

import asyncio
import contextlib
import dataclasses
import uuid

from agent.blocks import Blocks
from agent.conversation import LONGEST_MESSAGE, Conversation, NoAnswer, Observer, SessionError, Times
from agent.links import Link, LinkError
from agent.runs import LineMemory
from agent.settings import MeterPassword
from contexts.meters import LIS200, Manner, Opened
from protocol import iec62056
from protocol.iec62056 import codes, lis200
from protocol.iec62056.data_lines import is_error, parse_data_message, same_register
from protocol.iec62056.lock_codes import hidden
from protocol.plans import Device, Line

LOCK_STATE, LOCK_CODE = "170.0", "171.0"
"""Objects of a lock; its number is the instance. Writing 171 to an *open* lock changes its code. Fact sheet 2.4."""
CLOSED, CLOSE = "0", "0"
LAST_CALL = 2.5
"""The last call waits so much longer than those before. LIS-200 fact sheet 1.6 (7.5 s in the field) and 8.2."""
BEFORE_WAKE_UP = 1.5
"""Seconds between a call that failed and the next wake-up. IEC 62056-21 Annex B.1, LIS-200 fact sheet 1.2."""

LINE_END = "\r"
"""Stands before a line feed, of which noise makes an ETX: what has one is not known to be whole before the silence."""

SHOWN = 400
"""Characters of a meter's telegram that a cause repeats at most."""


class SilentMeter(NoAnswer):
    """Nobody answered the call: the meter is off, absent, or not at this address or rate."""


class NotLetIn(SessionError):  # noqa: N818 - named by what it is
    """The meter answers, and does not let us in, or does not say who it is."""


class WrongMeter(SessionError):  # noqa: N818 - named by what it is
    """Another meter answered than the one that the plan means."""


@dataclasses.dataclass(slots=True)
class Learned:
    """What one process has learned about a line and uses from then on.

    ``parity`` is whether its path carries even parity, ``blocks`` how long blocks are, by meter and archive;
    ``unanswered`` is how many calls in a row a meter has left unanswered, ``failed_at`` when a call failed last (on the
    event loop's clock).
    """

    parity: iec62056.Parity | None = None
    blocks: dict[tuple[uuid.UUID, int], Blocks] = dataclasses.field(default_factory=dict)
    unanswered: dict[uuid.UUID, int] = dataclasses.field(default_factory=dict)
    failed_at: float | None = None


class Opening:
    """The way in, the way out, and the two exchanges that both need: reading and writing one object.

    Attributes:
        device: The meter, as the plan has it.
        line: The line, as the plan has it.
        who: The meter and its line, named for people.
        times: Time-outs and repeats.
        learned: What is known of the line.
        calls: How often a meter that says nothing is called here; None: as often as ``times`` says.
        manner: What it is opened for, and how this kind of meter is spoken to.
        identification: What the meter said of itself.
        message: The data message, where it is opened for data readout.
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
        calls: int | None = None,
        manner: Manner = LIS200,
    ) -> None:
        self.manner = manner
        self.message: str | None = None
        self.device, self.line, self.times = device, line, times
        self.calls = calls or times.tries
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
        """Open the conversation: identification, rate, P0 or the data message, the right meter, the lock.

        Raises:
            NoAnswer: when nobody answers; names line and meter.
            WrongMeter: when the meter shows another serial number than the plan has.
            SessionError: when the lock cannot be opened, with the meter's reason.
        """
        self.identification = self.message = None
        await self._break_at_remembered_rate()
        await self._handshake()
        if self.manner.opened is Opened.READOUT:
            await self._check_serial(readable=True)
            return
        checked = await self._check_serial(readable=self._access is None)
        if self._access is not None:
            await (self._open_lock if self.manner.numbered_locks else self._log_in)(self._access)
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
        """Read one object (R1) and return the texts of its groups, see ``answer``."""
        return list((await self.answer(address, twice=twice)).groups)

    async def answer(self, address: str, *, command: str = "R1", twice: bool = False) -> iec62056.Data:
        """Read one object; an answer to another question, or with more behind it, is not taken for this one.

        Args:
            address: What to read.
            command: R1, or R5 where a meter wants that.
            twice: Take only what came the same twice, each time to a question of its own.

        Raises:
            MeterRefusal: when the meter says no, and the same no once more (a question may have been misheard).
            RemoteProtocolError: when no answer could be used; with the last one as it came.
        """

        def ours(data: iec62056.Data) -> bool:
            return self.manner.matches(address, data.address)

        failure: Exception | None = None
        came: str | None = None
        refused: int | None = None
        for _ in range(self.times.repeats * (2 if twice else 1)):
            try:
                asked = iec62056.ReadCommand(address, self.manner.argument, command)
                data = data_only(await self.conversation.ask(asked, again=True, ours=ours))
            except iec62056.MeterRefusal as refusal:
                if refusal.code in {codes.NO_RIGHT_TO_READ, refused}:
                    raise
                failure, refused = refusal, refusal.code
                continue
            same, came = data.text == came, data.text
            talk = self.conversation
            more = await talk.surplus() if LINE_END in data.text else talk.surplus_so_far()
            if more and not same:
                await talk.quiet()
                failure = iec62056.RemoteProtocolError(f"more came behind the answer to {address}: {shown(data.text)}")
                continue
            try:
                _ = data.groups
            except iec62056.UnreadableValue as error:
                failure = error
                continue
            if not self.manner.matches(address, data.address):
                failure = iec62056.RemoteProtocolError(f"asked for {address}, the meter answers {data.address!r}")
            elif same or not twice:
                return data
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
        """The number that the meter gives itself; of several places the first that shows one, empty if none does."""
        if self.message is not None:
            return _shown_in(self.message, self.manner.serial_at)
        if len(self.manner.serial_at) == 1:
            return await self._number_at(self.manner.serial_at[0])
        for address in self.manner.serial_at:
            try:
                number = await self._number_at(address)
            except (iec62056.MeterRefusal, iec62056.RemoteProtocolError):
                continue  # this meter does not have that register
            if number:
                return number
        return ""

    async def _number_at(self, address: str) -> str:
        groups = await self.read(address)
        text = lis200.decode_text(groups[0]).strip() if groups else ""
        return "" if is_error(text) else text

    @property
    def conversation(self) -> Conversation:
        """The open conversation; SessionError when there is none."""
        if self._talk is None:
            raise SessionError(f"{self.who}: the session is not open")
        return self._talk

    def _converse(self, parity: iec62056.Parity, rate: int | None = None, unanswered: int = 0) -> Conversation:
        """Begin anew with nothing heard, the port standing at ``rate``, so many calls left unanswered before."""
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
            unanswered=unanswered,
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
        """Call the meter until it is open, a bounded number of times, with a break between.

        Calls that it left unanswered in sessions before count: which parity is tried, and how long is waited, goes on.
        """
        before = self.learned.unanswered.get(self.device.id, 0)
        talk = self._first_conversation(before)
        self._memory.keep_line_rate(self.line.id, self.line.rate)
        await self._link.set_rate(self.line.rate)
        failed = 0
        while True:
            # Some meters need longer, behind a modem over 6 s: the last call of several waits for them.
            last = (before + failed) % self.times.tries == self.times.tries - 1
            wait = self.times.identification * (LAST_CALL if last and before + failed else 1.0)
            try:
                await self._enter(talk, wait)
            except (NoAnswer, iec62056.RemoteProtocolError) as error:
                failure, failed = error, failed + 1
                self.learned.failed_at = asyncio.get_running_loop().time()
            else:
                return
            if isinstance(failure, NoAnswer) and self.identification is None and not failure.broken_off:
                called = self._left_unanswered()
                if failed >= self.calls:
                    asleep = "" if self.line.wake_up else "; a battery device that sleeps needs the wake-up"
                    raise SilentMeter(
                        f"{self.who} does not answer: called {called}x, last for {wait:g} s; check cable, address "
                        f"and rate, and that its port does not speak another protocol (Modbus){asleep}"
                    ) from failure
            if failed >= max(self.calls, self.times.tries):
                raise SessionError(f"{self.who} could not be opened in {failed} tries: {failure}") from failure
            await talk.end()
            await talk.quiet()
            if self.identification is None:
                await self._link.renew()
            if before + failed == 1 and self.learned.parity is not None:
                # What was learned may no longer hold: the path may have been changed.
                talk = self._converse(self._parity)

    def _first_conversation(self, unanswered: int) -> Conversation:
        if self.learned.parity is None:
            return self._converse(self._parity, unanswered=unanswered)
        if unanswered == 0:
            return self._converse(self.learned.parity)
        return self._converse(self._parity, unanswered=unanswered - 1)

    def _left_unanswered(self) -> int:
        """Count a call that nobody answered; how many in a row it is."""
        called = self.learned.unanswered.get(self.device.id, 0) + 1
        self.learned.unanswered[self.device.id] = called
        return called

    async def _enter(self, talk: Conversation, wait: float) -> None:
        if self.line.wake_up:
            if self.learned.failed_at is not None:
                rest = self.learned.failed_at + BEFORE_WAKE_UP - asyncio.get_running_loop().time()
                await asyncio.sleep(max(0.0, rest))
            await talk.say(iec62056.WAKE_UP)
            await talk.effects()
        await talk.say(iec62056.Request(self.device.address))
        identification = await talk.hear(wait)
        if not isinstance(identification, iec62056.Identification):
            raise iec62056.RemoteProtocolError("the meter did not identify itself")
        self.identification = identification
        self.learned.unanswered.pop(self.device.id, None)
        unasked = identification.mode is not iec62056.Mode.C
        if identification.rate is None and not (unasked and self.manner.unasked):
            raise iec62056.RemoteProtocolError(
                f"the meter offers baud character {identification.rate_id!r}, which is none of mode C (0 to 6)"
            )
        if self._parity is iec62056.Parity.AUTO:
            self.learned.parity = iec62056.Parity.EVEN if talk.core.even_parity else iec62056.Parity.NONE
        programming = self.manner.opened is Opened.PROGRAMMING
        if not unasked:
            await talk.say(iec62056.OptionSelect(identification.rate_id, mode="1" if programming else "0"))
            if programming:
                if not isinstance(await talk.hear(wait), iec62056.Prompt):
                    raise iec62056.RemoteProtocolError("the meter did not open programming mode (P0)")
                return
        message = await self._sound_message(talk, repeatable=not unasked)
        self.message = None if programming else message

    async def _sound_message(self, talk: Conversation, *, repeatable: bool) -> str:
        """The data message once it holds together; what comes the same twice with more behind it counts too.

        Raises:
            RemoteProtocolError: when it never did, or (not ``repeatable``) the meter has to be called again for it.
        """
        text: str | None = None
        while True:
            before, text = text, (await talk.data_message(again=text is not None)).text
            problem: iec62056.RemoteProtocolError
            try:
                parse_data_message(text)
            except iec62056.UnreadableValue as error:
                problem = error
            else:
                if not await talk.surplus() or text == before:
                    return text
                problem = iec62056.RemoteProtocolError("more came behind the data message")
            if not repeatable or text == before or not talk.core.repeats_left:
                await talk.quiet(LONGEST_MESSAGE)
                raise problem

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
        if not shown and self.manner is not LIS200:
            if not readable:
                return False
            places = ", ".join(self.manner.serial_at)
            raise NotLetIn(
                f"{self.who} shows no serial number (looked at {places}), the plan expects {expected}; nothing was "
                "read. Clear the meter's serial number if it is known to show none"
            )
        if shown.lstrip("0") != expected.strip().lstrip("0"):
            raise WrongMeter(f"{self.who} has serial number {shown}, the plan expects {expected}; nothing was read")
        return True

    async def _log_in(self, access: MeterPassword) -> None:
        """Say the password (P1) once: a meter may count the wrong ones."""
        try:
            await self.conversation.settle()
            await self.conversation.say(iec62056.Password(access.password))
            answer = await self.conversation.hear(self.times.telegram)
        except iec62056.RemoteProtocolError as error:
            raise SessionError(f"{self.who}: its answer to the password (P1) was not readable: {error}") from error
        if not isinstance(answer, iec62056.Ack):
            raise NotLetIn(f"{self.who} did not take the password (P1); check the password of this meter")

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
                # Known before it is said: a session that is cancelled meanwhile, or not answered, closes it too.
                self._opened_lock = True
                await self.write(f"{access.lock}:{LOCK_CODE}", access.password)
        except iec62056.MeterRefusal as refusal:
            self._opened_lock = False
            raise NotLetIn(
                f"{self.who}: lock {access.lock} could not be opened: {refusal}; check password and lock of this meter"
            ) from refusal


def _shown_in(message: str, places: tuple[str, ...]) -> str:
    """What the first of ``places`` that a data message has shows; empty if there is none."""
    registers = parse_data_message(message)
    found = (register for place in places for register in registers if same_register(place, register.id))
    return next((text for register in found if (text := register.groups[0].text.strip())), "")


def shown(text: str) -> str:
    """What a meter sent, for people: bounded, without codes, and in characters that can be shown."""
    plain = hidden(text)
    return ascii(plain if len(plain) <= SHOWN else f"{plain[:SHOWN]}...")


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
