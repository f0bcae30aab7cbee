"""Speaking with one meter through the sans-io core: says, hears, waits exactly, asks again a bounded number of times.

Rules: what is said and what is legal comes from ``protocol.iec62056``; here are only waiting and repeating. Every
pause of the core is kept to the instant, counted from the arrival of the meter's last byte, and nothing waits longer
than the protocol asks. Every wait has an end, and its error names the line and the meter. A read may be asked twice, a
write never is, because nobody knows whether the first one arrived.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Protocol

from agent.links import Link, LinkError
from contexts.meters import LineFailure
from protocol import iec62056
from protocol.iec62056 import MeterEvent, ReaderEvent, codes
from protocol.iec62056.states import Kind, legal_kinds

NOISE = b"\x00\x7f\xff"
"""Bytes that lines make by themselves; they begin no telegram. LIS-200 fact sheet 8.3."""
FINE_WAIT = 0.0015
"""Seconds before the end of a pause in which the loop is polled: its timers are only exact to a millisecond or more."""
BEHIND = 3
"""Characters of silence behind a telegram before it counts as whole."""
DOZE = 0.1
"""Seconds for which bytes may gather in the middle of a telegram, see ``Conversation._doze``."""
AWAKE_BYTES = 24
"""So near to the end of a telegram every byte is taken as it comes: pauses are counted from the last one."""
FOREIGN = 3
"""Answers to another master that are passed over while one of ours is waited for. LIS-200 fact sheet 8.6."""
LONGEST_MESSAGE = 900.0
"""The same of a data message, which comes at 300 baud in mode A: some 27 000 characters."""
LONGEST_BLOCK = 60.0
"""Seconds that one telegram may take after its first byte before it counts as endless."""


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """Time-outs in seconds of the wire, and how often something is tried. Source: LIS-200 fact sheet 1.6.

    ``identification`` is the wait for an identification or prompt, ``tries`` how often a meter is called, ``telegram``
    the wait for any other answer, ``character`` the longest gap inside one, ``quiet`` the silence after which a line
    is free again, ``block`` the longest a block may last, ``closing`` the deadline of a session's end.
    """

    identification: float = 3.0
    tries: int = 3
    telegram: float = 20.0
    character: float = 1.5
    quiet: float = 0.3
    block: float = 3.0
    repeats: int = 3
    closing: float = 10.0


class SessionError(LineFailure):
    """A session with a meter failed; the text names the meter and its line."""


class NoAnswer(SessionError):  # noqa: N818 - named by what it is
    """The meter said nothing, or stopped in the middle (``broken_off``)."""

    def __init__(self, text: str, *, broken_off: bool = False) -> None:
        super().__init__(text)
        self.broken_off = broken_off


class Observer(Protocol):
    """Told of everything that passes in a conversation, in order; must be quick, and must not raise.

    Instants are monotonic seconds of the event loop's clock, rates are baud as the port stood. Bytes are those of the
    port, with their parity bits. What is said may hold an access code: whoever keeps it masks it.
    """

    def said(self, data: bytes, event: ReaderEvent, rate: int, begun: float, ended: float) -> None:
        """``event`` has left as ``data``, from its first bit to its last."""

    def heard(self, data: bytes, rate: int, at: float) -> None:
        """A chunk came, whatever it is; its last byte at ``at``. Bytes that are dropped as noise count too."""

    def understood(self, event: MeterEvent, rate: int, at: float) -> None:
        """What was heard last has completed ``event``."""

    def failed(self, error: Exception, rate: int, at: float) -> None:
        """What was heard (or not heard) ended in ``error``; asking again may follow."""


class Conversation:
    """One link, one core, one meter. ``who`` names meter and line in errors; ``line_bytes`` counts both directions."""

    def __init__(
        self,
        link: Link,
        core: iec62056.Connection,
        who: str,
        times: Times,
        on_rate: Callable[[int], None],
        *,
        echo: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.core = core
        self.line_bytes = 0
        self._link, self._who, self._times, self._on_rate = link, who, times, on_rate
        self._echo, self._echo_left = echo, 0
        self._observer = observer
        self._ours: Callable[[iec62056.Data], bool] | None = None
        self._loop = asyncio.get_running_loop()
        self._last_byte = self._sent = self._not_before = self._loop.time()
        self._stale = False
        self._unheard = False

    async def say(self, event: ReaderEvent) -> None:
        """Send one telegram, as soon as the reaction time that the core asked for has passed."""
        if self._unheard:
            await self._hear_out()
        await self._nearly(self._not_before)
        if self._stale:
            # After a time-out a late answer may lie in the link; it must not answer the next question.
            self._came(await self._link.read(0))
            self._stale = False
        rate = self.core.rate
        # Made before its instant: what making it takes is no part of the pause.
        data = self.core.send(event)
        await self._exactly(self._not_before)
        begun = self._loop.time()
        await self._link.write(data)
        # A pseudo-terminal or socket takes bytes at once, the wire behind it does not.
        self._sent = max(self._loop.time(), begun + len(data) * 10 / rate)
        self.line_bytes += len(data)
        self._echo_left = len(data) if self._echo else 0
        if self._observer is not None:
            self._observer.said(data, event, rate, begun, self._sent)

    async def effects(self) -> None:
        """Do what the core asks for after ``say`` when no answer follows (wake-up, break)."""
        while (effect := self.core.next_effect()) is not None:
            await self._perform(effect, self._sent)

    async def hear(self, wait: float, expected: int = 0, longest: float = LONGEST_BLOCK) -> MeterEvent:
        """Return the next telegram of the meter; ``expected`` is about how many bytes it will have, 0 if unknown.

        ``longest``: seconds that it may take after its first byte.

        Raises:
            NoAnswer: when nothing came for ``wait`` seconds, or the telegram broke off.
            RemoteProtocolError: whatever the core finds wrong with what came.
        """
        try:
            event = await self._hear(wait, expected, longest)
        except (LinkError, SessionError, iec62056.Iec62056Error) as error:
            if self._observer is not None:
                self._observer.failed(error, self.core.rate, self._loop.time())
            raise
        if self._observer is not None:
            self._observer.understood(event, self.core.rate, self._last_byte)
        return event

    async def _hear(self, wait: float, expected: int, longest: float) -> MeterEvent:
        deadline = self._loop.time() + wait
        latest = deadline + longest
        begun = False
        heard = 0
        while True:
            match self.core.next_event():
                case iec62056.Pause() | iec62056.SwitchRate() as effect:
                    await self._perform(effect, self._last_byte)
                case iec62056.Need.DATA:
                    if heard:
                        await self._doze(expected - heard)
                    data = await self._link.read(max(0.0, min(deadline, latest) - self._loop.time()))
                    if not data:
                        self._stale = True
                        raise self._no_answer(wait, begun)
                    self._came(data)
                    heard += len(data)
                    self.core.receive_data(data)
                    self._echo_left -= len(data)
                    if self._echo_left < 0 and data.strip(NOISE):
                        begun = True
                        deadline = self._last_byte + self._times.character
                case event:
                    # The core gives a reader only what a meter says.
                    return event  # type: ignore[return-value]

    async def ask(
        self,
        command: ReaderEvent,
        *,
        again: bool,
        expected: int = 0,
        ours: Callable[[iec62056.Data], bool] | None = None,
    ) -> MeterEvent:
        """Send a command and return its answer: a block, or the meter's acknowledgement.

        ``again`` allows the command to be sent a second time when nothing came back. ``expected`` is about how many
        bytes the answer will have, 0 if unknown. ``ours`` tells an answer to this command from what another master on
        the line is answered, which is passed over; it holds for the blocks that follow, too.

        Raises:
            MeterRefusal: when the meter says no.
            NoAnswer, RemoteProtocolError: when asking again did not help.
        """
        await self.settle()
        await self.say(command)
        self._ours = ours
        refused = 0
        silent = not again
        while True:
            try:
                event = await self._hear_ours(expected)
            except NoAnswer as error:
                if error.broken_off or silent:
                    raise
                silent = True
                await self.say(command)
                continue
            except iec62056.MeterRefusal as refusal:
                # Some firmware says so of a damaged command, and did not carry it out; said again it may arrive whole.
                refused += 1
                if refusal.code != codes.WRONG_INPUT or refused > self._times.repeats:
                    raise
                await self.quiet()
                await self.say(command)
                continue
            if not isinstance(event, iec62056.Nak):
                if refused or (again and silent):
                    await self.quiet()  # the command went out more than once, so its answer may come twice
                return event
            refused += 1
            if refused > self._times.repeats:
                raise iec62056.RemoteProtocolError(f"the meter found the same command damaged {refused} times (NAK)")
            # Noise may have been taken for a NAK, and the answer follows it: it must not answer the next question.
            await self.quiet()
            await self.say(command)

    async def next_block(self, *, good: bool, expected: int = 0) -> iec62056.Data:
        """Acknowledge the block that came, or (not ``good``) ask for it again; return what the meter sends then.

        A block whose acknowledgement was lost comes twice: ``Data.repeated`` is set on it.
        """
        await self.say(iec62056.Ack() if good else iec62056.Nak())
        silent = False
        while True:
            try:
                event = await self._hear_ours(expected)
            except NoAnswer:
                if silent:
                    raise
                silent = True
                await self.say(iec62056.Nak())
                continue
            if isinstance(event, iec62056.Data):
                return event
            raise iec62056.RemoteProtocolError("the meter stopped sending blocks in the middle of an archive")

    async def data_message(self, *, again: bool = False) -> iec62056.Data:
        """Return the data message of a readout that was selected, or comes unasked; ``again`` asks for it once more.

        A damaged one is asked for again where the meter listens (mode C).

        Raises:
            NoAnswer, RemoteProtocolError: when that did not help, or cannot be.
        """
        if again:
            await self.quiet(LONGEST_MESSAGE)
            await self.say(iec62056.Nak())
        event = await self._hear_undamaged(0, LONGEST_MESSAGE)
        if not isinstance(event, iec62056.Data):
            raise iec62056.RemoteProtocolError("the meter sent something else than its data message")
        return event

    async def surplus(self) -> bool:
        """Wait until we may speak; whether more than noise has come behind the telegram that was heard last.

        A telegram is followed by silence for the reaction time at least, so this costs nothing: see
        ``Connection.surplus``. At low rates it waits for three characters, which take longer than that.
        """
        return self.core.surplus > 0 or await self._more_comes()

    def surplus_so_far(self) -> bool:
        """Whether more has come already; what still comes until we speak next is dropped, and counted as an error.

        For telegrams of one line. Who waits for what they say need not wait for the silence behind them: what makes
        an ETX of a line feed (two bits of one character) cannot cut them, and what is cut anywhere else is not
        readable, but for a second set that four flipped bits and the block check would have to take away.
        """
        self._unheard = True
        return self.core.surplus > 0

    async def _hear_out(self) -> None:
        """Listen until we may speak: what comes belongs to nothing that we ask, and must not answer it."""
        self._unheard = False
        if not await self._more_comes():
            return
        if self._observer is not None:
            error = iec62056.RemoteProtocolError("more came behind an answer that was whole")
            self._observer.failed(error, self.core.rate, self._last_byte)
        await self.quiet()

    async def _more_comes(self) -> bool:
        more = False
        latest = max(self._not_before, self._last_byte + BEHIND * 10 / self.core.rate)
        while (left := latest - FINE_WAIT - self._loop.time()) > 0 and not more:
            try:
                data = await self._link.read(left)
            except LinkError:
                break  # closed behind its answer; whoever speaks next is told
            self._came(data)
            more = bool(data.strip(NOISE))
        return more

    async def settle(self) -> None:
        """Wait until the meter has stopped talking, if it may be."""
        if legal_kinds(self.core.state, iec62056.Role.METER):
            await self.quiet()

    async def quiet(self, longest: float | None = None) -> None:
        """Read and drop until the line is silent; at most ``longest``, else twice as long as a block may last."""
        latest = self._loop.time() + (longest or 2 * self._times.block) + self._times.quiet
        while self._loop.time() < latest and (data := await self._link.read(self._times.quiet)):
            self._came(data)

    def _came(self, data: bytes) -> None:
        """Account for what was read, whatever becomes of it."""
        if not data:
            return
        self._last_byte = self._link.arrived
        self.line_bytes += len(data)
        if self._observer is not None:
            self._observer.heard(data, self.core.rate, self._last_byte)

    async def end(self) -> None:
        """Say goodbye from whatever state: break, then back to the opening rate."""
        await self.settle()
        await self.effects()
        await self.say(iec62056.Break())
        await self.effects()

    async def _hear_ours(self, expected: int) -> MeterEvent:
        """The answer to our own command: what another master is answered meanwhile is passed over."""
        event = await self._hear_undamaged(expected)
        for _ in range(FOREIGN):
            if self._ours is None or not isinstance(event, iec62056.Data) or self._ours(event):
                break
            self.core.pass_over()
            try:
                event = await self._hear_undamaged(expected, wait=self._times.character)
            except NoAnswer as error:
                if error.broken_off:
                    raise
                break  # it was ours, and damaged or strange: whoever asked judges it
        return event

    async def _hear_undamaged(
        self, expected: int, longest: float = LONGEST_BLOCK, *, wait: float | None = None
    ) -> MeterEvent:
        while True:
            try:
                event = await self.hear(wait or self._times.telegram, expected, longest)
            except iec62056.TooManyRepeats:
                raise
            except iec62056.RemoteProtocolError:
                await self.quiet(None if longest == LONGEST_BLOCK else longest)
                if not self._may_ask_again:
                    raise
            except NoAnswer as error:
                if not error.broken_off or not self._may_ask_again:
                    raise
            else:
                if isinstance(event, iec62056.Refusal):
                    raise iec62056.MeterRefusal(event.code)
                return event
            await self.effects()
            await self.say(iec62056.Nak())

    @property
    def _may_ask_again(self) -> bool:
        """Whether Nak brings what came damaged once more; who speaks unasked (modes A and B) hears none."""
        return self.core.repeats_left > 0 and Kind.NAK in legal_kinds(self.core.state, iec62056.Role.READER)

    def _no_answer(self, wait: float, begun: bool) -> NoAnswer:  # noqa: FBT001 - private, and named at its use
        if begun:
            text = f"{self._who} stopped in the middle of a telegram for {self._times.character:g} s"
        else:
            text = f"{self._who} gave no answer within {wait:g} s"
        return NoAnswer(text, broken_off=begun)

    async def _perform(self, effect: iec62056.Effect, since: float) -> None:
        match effect:
            case iec62056.Pause(seconds):
                self._not_before = since + seconds
            case iec62056.SwitchRate(baud):
                await self._link.set_rate(baud)
                self._on_rate(baud)

    async def _doze(self, left: int) -> None:
        """Let bytes gather while the end of a long telegram is far: each time that a loop wakes costs the same."""
        seconds = min(DOZE, (left - AWAKE_BYTES) * 10 / self.core.rate)
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def _nearly(self, instant: float) -> None:
        """Wait until just before ``instant``."""
        coarse = instant - self._loop.time() - FINE_WAIT
        if coarse > 0:
            await asyncio.sleep(coarse)

    async def _exactly(self, instant: float) -> None:
        """Wait for the rest of the pause, to the instant."""
        while self._loop.time() < instant:  # noqa: ASYNC110 - an instant is no event; this is its last millisecond
            await asyncio.sleep(0)
