"""One meter's side of the conversation: telegrams in, effects and bytes out.

Rules: drives ``protocol.iec62056.Connection`` in the role of the meter and asks the meter for answers; waits for
nothing and writes nothing, that is ``bus``. What it yields has to be performed in its order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agent.simulator.electricity import ElectricityMeter
from agent.simulator.faults import Fault, Piece
from agent.simulator.meters import VirtualMeter
from agent.simulator.recorded import RecordedMeter
from protocol.iec62056 import (
    TRANSITIONS,
    Ack,
    Connection,
    Data,
    Event,
    Identification,
    Kind,
    MeterRefusal,
    Mode,
    Nak,
    Need,
    OptionSelect,
    Parity,
    Password,
    Pause,
    Prompt,
    ReadBlocks,
    ReadCommand,
    Refusal,
    RemoteProtocolError,
    Request,
    Role,
    State,
    SwitchRate,
    WriteCommand,
)
from protocol.iec62056.codes import WRONG_INPUT


@dataclass(frozen=True, slots=True)
class Say:
    """Put these bytes on the line."""

    pieces: Sequence[Piece]


Action = Pause | SwitchRate | Say
AnyMeter = VirtualMeter | ElectricityMeter | RecordedMeter


class Conversation:
    """One meter on a line."""

    def __init__(
        self,
        meter: AnyMeter,
        faults: Sequence[Fault],
        *,
        opening_rate: int,
        fixed_rate: bool,
    ) -> None:
        self.meter = meter
        self._faults = faults
        parity = Parity.NONE if any(fault.no_parity for fault in faults) else Parity.AUTO
        self._refuses_damaged = any(fault.refuses_damaged for fault in faults)
        fixed_rate = fixed_rate or any(fault.fixed_rate for fault in faults)
        self._connection = Connection(Role.METER, parity=parity, opening_rate=opening_rate, fixed_rate=fixed_rate)
        self._last: Event | None = None
        self._blocks: list[Data] = []

    @property
    def state(self) -> State:
        """Where the conversation stands."""
        return self._connection.state

    @property
    def engaged(self) -> bool:
        """Whether this meter is the one that is spoken to."""
        return self.state not in {State.IDLE, State.REQUESTED}

    def hear(self, data: bytes, at: float, begun: float | None = None, ended: float | None = None) -> list[Action]:
        """Take bytes; returns what follows from them.

        ``at``: monotonic second at which they were heard; ``begun``, ``ended``: their first and last bit, if known.
        """
        for fault in self._faults:
            first, last = at if begun is None else begun, at if ended is None else ended
            data = fault.hears(data, first, last, idle=self.state is State.IDLE)
        self._connection.receive_data(data)
        return list(self._actions(at))

    def give_up(self) -> list[Action]:
        """Nobody has spoken for too long: back to the opening rate."""
        self._connection.reset()
        return list(self._actions(0.0))

    def _actions(self, at: float) -> Iterator[Action]:
        while True:
            try:
                event = self._connection.next_event()
            except RemoteProtocolError:
                answer = self._not_understood()
            else:
                if isinstance(event, Need):
                    return
                if isinstance(event, Pause | SwitchRate):
                    yield event
                    continue
                answer = self._answer(event, at)
            if answer is not None:
                yield self._say(answer)
            if isinstance(answer, Identification) and answer.mode is not Mode.C:
                yield from self._unasked(answer)

    def _unasked(self, identification: Identification) -> Iterator[Action]:
        """Modes A and B: switch the rate if it was announced, and say everything after a gap. Fact sheet 7."""
        while (effect := self._connection.next_effect()) is not None:
            yield effect
        first, *others = self._say(Data(self.meter.readout())).pieces or (Piece(b""),)
        yield Say((replace(first, delay=first.delay + identification.reaction_time), *others))

    def _say(self, answer: Event) -> Say:
        self._last = answer
        for fault in self._faults:
            answer = fault.told(answer)
        pieces: Sequence[Piece] = (Piece(self._connection.send(answer)),)
        for fault in self._faults:
            pieces = fault.sent(pieces)
        return Say(pieces)

    def _not_understood(self) -> Event | None:
        """Answer what was damaged with Nak where the protocol has one, else with silence."""
        may = (self._connection.state, Role.METER, Kind.NAK) in TRANSITIONS
        if not may:
            return None
        return Refusal(WRONG_INPUT) if self._refuses_damaged else Nak()

    def _answer(self, event: Event, at: float) -> Event | None:
        match event:
            case Nak():
                return self._last
            case Ack():
                return self._blocks.pop(0) if self._blocks else None
        self._blocks = []
        match event:
            case Request():
                return self._called(event)
            case OptionSelect():
                return Prompt() if event.programming else Data(self.meter.readout())
        try:
            return self._perform(event, at)
        except MeterRefusal as refusal:
            return Refusal(refusal.code)

    def _called(self, request: Request) -> Event | None:
        if request.calls(self.meter.address):
            return self.meter.identification()
        self._connection.reset()  # somebody else is called: out of the way, and to the opening rate
        return None

    def _perform(self, event: Event, at: float) -> Event | None:
        match event:
            case ReadCommand(address, argument):
                return Data(self.meter.read(address, argument, at))
            case ReadBlocks(address, argument):
                self._blocks = self.meter.read_blocks(address, argument, at)
                return self._blocks.pop(0)
            case WriteCommand(address, value):
                self.meter.write(address, value, at)
            case Password(operand):
                self.meter.log_in(operand, at)
            case _:
                return None
        return Ack()
