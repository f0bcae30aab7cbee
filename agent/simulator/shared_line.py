"""One line with one or more virtual meters on it: who answers, when, and how fast.

Rules: every byte goes through ``protocol.iec62056`` (role METER); here are only waiting, pacing, sharing and faults.
Wire times are real seconds on the monotonic clock even when the meters' clock is set.

Theory of operation. A chunk that arrives is *heard* when its last bit has passed: at once, or with ``throttle`` after
10 bits per byte at the line's present rate. Every meter hears it; what follows is performed in order: waiting for the
reaction time, switching the rate, sending. If more than one meter answers (a general call), their bytes collide and
nobody is intelligible, as on RS-485.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from agent.simulator import site_faults  # noqa: F401 - makes its faults known by name
from agent.simulator.conversations import Action, AnyMeter, Conversation, Say
from agent.simulator.faults import Piece, read_faults
from agent.simulator.meters import VirtualMeter
from agent.simulator.wire_log import WireLog
from agent.simulator.wires import Wire
from protocol.iec62056 import Pause, State, SwitchRate

BITS_PER_BYTE = 10
"""Start, seven or eight data bits, parity or none, stop."""
PIECE = 8
"""Bytes that are written at most at once when the line is throttled."""
OPTION_SECONDS = 2.2
"""How long a meter waits for the option select, and to be asked for its data again. LIS-200 fact sheet 1.6."""
SILENCE_SECONDS = 60.0
"""After how much silence a meter is back at its start. LIS-200 fact sheet 1.6."""
_TICK = 0.1  # real seconds between looks at the meters' clocks


class VirtualBus:
    """The meters of one line.

    Args:
        meters: who is on the line; addressed by ``/?<address>!``, all of them by the general call.
        others: meters on the same line that are not LIS-200: electricity meters, recorded conversations.
        faults: named faults, e.g. ``["corrupt_bcc=0.1", "echo"]`` (``agent.simulator.faults``).
        own_faults: those of single meters, by their address; ``echo`` and ``mute_reconnect`` are the whole line's.
        throttle: bytes take their time, 10 bits each at the present rate, in both directions.
        opening_rate: Bd of the request.
        fixed_rate: the line never changes its rate.
        strict_rate: who calls at another rate than the line's is not heard, as by a UART (pseudo-terminals only).
        log: file for the wire log (JSON lines).
        seed: of the faults.
    """

    def __init__(
        self,
        meters: Sequence[VirtualMeter],
        *,
        others: Sequence[AnyMeter] = (),
        faults: Sequence[str] = (),
        own_faults: Mapping[str, Sequence[str]] | None = None,
        throttle: bool = False,
        opening_rate: int = 300,
        fixed_rate: bool = False,
        strict_rate: bool = False,
        log: Path | None = None,
        seed: int = 1,
    ) -> None:
        self.meters = tuple(meters)
        self.everybody: tuple[AnyMeter, ...] = (*meters, *others)
        self._throttle, self._rate, self._opening_rate = throttle, opening_rate, opening_rate
        self._strict_rate = strict_rate
        self._conversations = []
        self._echoes = self._mutes_again = False
        self._connections = 0
        for meter in self.everybody:
            own = read_faults([*faults, *(own_faults or {}).get(meter.address, ())], f"{seed}/{meter.serial}")
            self._echoes = self._echoes or any(fault.echoes for fault in own)
            self._mutes_again = self._mutes_again or any(fault.mute_again for fault in own)
            if any(fault.other_serial for fault in own):
                meter.shown_serial = _other(meter.serial)
            self._conversations.append(Conversation(meter, own, opening_rate=opening_rate, fixed_rate=fixed_rate))
        self._log = WireLog(log) if log else None
        self.ended = asyncio.Event()
        """Set when serving has failed (the cause is raised where its context ends), or by whoever wants it to end."""
        self._free = 0.0  # when the last bit on the line has passed
        self._heard = 0.0  # when the last bit to us has passed

    def close(self) -> None:
        """Close truth and log."""
        for meter in self.everybody:
            meter.close()
        if self._log:
            self._log.close()
            self._log = None

    @property
    def rate(self) -> int:
        """Bd at which the line stands."""
        return self._rate

    async def keep_time(self) -> None:
        """Let rows arise as the meters' clocks pass; runs until it is cancelled."""
        while True:
            for meter in self.everybody:
                meter.advance()
            await asyncio.sleep(_TICK)

    def clear_archives(self) -> None:
        """Have every meter forget what its archives hold; rows that arise from now on are kept."""
        for meter in self.meters:
            meter.advance()
            meter.archives.clear()

    def mutes(self) -> bool:
        """Count a connection; whether it is one that leads nowhere."""
        self._connections += 1
        return self._mutes_again and self._connections % 2 == 0

    async def serve(self, wire: Wire) -> None:
        """Answer on a wire until it is closed."""
        patience = self._patience()
        if patience is not None and asyncio.get_running_loop().time() - self._heard > patience:
            await self._return_to_start(wire)  # the reader before went without a break, and time has passed since
        with contextlib.suppress(EOFError):
            while True:
                await self._step(wire)

    async def _step(self, wire: Wire) -> None:
        try:
            at, data = await wire.read(self._patience())
        except TimeoutError:
            await self._return_to_start(wire)
            return
        if self._strict_rate and self._patience() is None and wire.rate not in {None, self._rate}:
            # Its bits are too long or too short for us. Only a call is judged: inside a conversation a reader changes
            # the terminal's rate as soon as the terminal has taken the bytes, which a UART would still be sending.
            return
        start = max(at, self._free) if self._throttle else at
        self._free = self._heard = start + self._seconds(len(data))
        await _until(self._heard)
        if self._echoes:
            await wire.write(data)
        ended = start + len(data) * BITS_PER_BYTE / self._rate
        heard = [(each, each.hear(data, self._heard, start, ended)) for each in self._conversations]
        self._note_heard(at, start, data)
        speaking = [(conversation, actions) for conversation, actions in heard if _says(actions)]
        if len(speaking) > 1:
            await self._collide(wire, [actions for _, actions in speaking])
            heard = [(conversation, actions) for conversation, actions in heard if not _says(actions)]
        for conversation, actions in heard:
            await self._perform(wire, conversation, actions)

    async def _return_to_start(self, wire: Wire) -> None:
        for conversation in self._conversations:
            await self._perform(wire, conversation, conversation.give_up())

    def _patience(self) -> float | None:
        """Seconds of silence after which meters return to their start; None while all are there."""
        states = {conversation.state for conversation in self._conversations}
        if states & {State.IDENTIFIED, State.READ_OUT}:
            return OPTION_SECONDS
        return None if states <= {State.IDLE} else SILENCE_SECONDS

    def _seconds(self, count: int) -> float:
        """How long ``count`` bytes are on the line."""
        return count * BITS_PER_BYTE / self._rate if self._throttle else 0.0

    async def _perform(self, wire: Wire, conversation: Conversation, actions: Sequence[Action]) -> None:
        earliest = self._heard
        for action in actions:
            match action:
                case Pause(seconds):
                    earliest = self._heard + seconds
                case SwitchRate(baud):
                    self._rate = baud
                case Say(pieces):
                    await _until(earliest)
                    await self._transmit(wire, pieces, conversation.meter.serial)

    async def _transmit(self, wire: Wire, pieces: Sequence[Piece], serial: str | None) -> None:
        """Send pieces, each byte at the end of its time."""
        loop = asyncio.get_running_loop()
        start = due = max(loop.time(), self._free)
        sent = b""
        for piece in pieces:
            due += piece.delay
            for index in range(0, len(piece.data), PIECE if self._throttle else len(piece.data) or 1):
                part = piece.data[index : index + PIECE] if self._throttle else piece.data
                due += self._seconds(len(part))
                await _until(due)
                await wire.write(part)
                sent += part
            if piece.close:
                wire.hang_up()
                break
        self._free = due if self._throttle else loop.time()
        if self._log and sent:
            self._log.passed("tx", sent, serial, loop.time(), start, self._free)

    async def _collide(self, wire: Wire, answers: Sequence[Sequence[Action]]) -> None:
        """Two meters speak at once: a 0 wins over a 1 on every bit, and what comes out is nobody's."""
        pauses = [action.seconds for actions in answers for action in actions if isinstance(action, Pause)]
        await _until(self._heard + max(pauses, default=0.0))
        spoken = [
            b"".join(piece.data for action in actions if isinstance(action, Say) for piece in action.pieces)
            for actions in answers
        ]
        mixed = bytearray()
        for column in zip_longest(*spoken, fillvalue=0xFF):
            byte = 0xFF
            for each in column:
                byte &= each
            mixed.append(byte)
        # Two meters never begin at the same bit, so even what they say alike does not come through.
        await self._transmit(wire, [Piece(bytes(byte >> 1 for byte in mixed))], None)

    def _note_heard(self, at: float, start: float, data: bytes) -> None:
        if self._log:
            engaged = [conversation.meter.serial for conversation in self._conversations if conversation.engaged]
            serial = engaged[0] if len(engaged) == 1 else None
            self._log.passed("rx", data, serial, at, start, self._heard)


def _says(actions: Sequence[Action]) -> bool:
    return any(isinstance(action, Say) for action in actions)


def _other(serial: str) -> str:
    """A serial number that is not this one."""
    return serial[:-1] + ("1" if serial[-1:] == "0" else "0")


async def _until(second: float) -> None:
    """Wait until the loop's clock shows ``second``; lets others run in any case."""
    await asyncio.sleep(max(0.0, second - asyncio.get_running_loop().time()))
