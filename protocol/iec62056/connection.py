"""The one stateful object of the core: bytes in, events and effects out, events in, bytes out.

Rules: what is legal is decided in ``states``, where telegrams begin and end in ``receiving``, what they say in
``telegrams``; here are only the things that need memory: the state, the parity that was learned, the rate, how often
a block was asked for, and what the driver has still to fetch.

Theory of operation. ``receive_data`` only keeps bytes. ``next_event`` cuts out one telegram, moves the state, and
queues what follows from it, effects first: the driver switches the rate and waits *before* it sees the telegram that it
will answer. As long as something is queued, ``send`` refuses.
"""

from collections import deque
from dataclasses import replace

from protocol.iec62056.characters import (
    ACK,
    NAK,
    NUL,
    SOH,
    STX,
    has_even_parity,
    learn_parity,
    strip_parity,
    with_even_parity,
)
from protocol.iec62056.errors import (
    DamagedTelegram,
    LocalProtocolError,
    Overflow,
    RemoteProtocolError,
    TooManyRepeats,
)
from protocol.iec62056.events import (
    NEED_DATA,
    RATES,
    RATES_B,
    REACTION_TIME,
    Ack,
    Break,
    Data,
    Effect,
    Event,
    Identification,
    Nak,
    Need,
    OptionSelect,
    Parity,
    Pause,
    Request,
    Role,
    SwitchRate,
    WakeUp,
)
from protocol.iec62056.receiving import Receiver, Sought
from protocol.iec62056.states import SILENT, TRANSITIONS, UNHEARD, Kind, State, kind_of, legal_kinds
from protocol.iec62056.telegrams import (
    IDENTIFICATION_LINE,
    REQUEST_LINE,
    decode_block,
    decode_line,
    encode,
    fillers,
)

_SLASH = ord("/")
_STARTS: dict[Kind, int] = {
    Kind.REQUEST: _SLASH,
    Kind.IDENTIFICATION: _SLASH,
    Kind.ANNOUNCEMENT: _SLASH,
    Kind.PROGRAMMING: ACK,
    Kind.OTHER_MODE: ACK,
    Kind.PROMPT: SOH,
    Kind.PASSWORD: SOH,
    Kind.READ: SOH,
    Kind.READ_BLOCKS: SOH,
    Kind.WRITE: SOH,
    Kind.BREAK: SOH,
    Kind.LAST_BLOCK: STX,
    Kind.PARTIAL_BLOCK: STX,
    Kind.REFUSAL: STX,
    Kind.ACK: ACK,
    Kind.NAK: NAK,
}
_LINES = {Role.READER: REQUEST_LINE, Role.METER: IDENTIFICATION_LINE}
_COMMANDED = frozenset({State.READING, State.WRITING})
"""Where a meter owes an answer to a command, and never says SOH."""


def _sought(state: State, sender: Role) -> Sought:
    kinds = legal_kinds(state, sender)
    starts = {_STARTS[kind] for kind in kinds if kind in _STARTS}
    foreign = sender is Role.METER and state in _COMMANDED
    if foreign:
        starts.add(SOH)
    return Sought(bytes(sorted(starts)), _LINES[sender], option_select=Kind.PROGRAMMING in kinds, foreign=foreign)


_SOUGHT = {(state, sender): _sought(state, sender) for state in State for sender in Role}


class Connection:
    """One side of one line.

    Args:
        role: which side we are.
        parity: what bit 7 is. ``AUTO`` learns from the identification (reader) or from each request (meter); before,
            a reader sends even parity, but every second request that nobody answers without (some paths are 8N1, fact
            sheet 1.1). A meter answers in the way the request came.
        opening_rate: Bd of the request, and again after a break.
        fixed_rate: the line never changes its rate (wired terminals, TCP): no ``SwitchRate``, Z is still echoed.
        rate: Bd at which the port stands now, if not at ``opening_rate``: the first act may be a ``Break`` there.
        echo: the line returns our own bytes (optical heads, two-wire RS-485); they are swallowed.
        reaction_time: minimum in seconds until an identification passes and tells it; a meter knows its own before.
        max_repeats: how often one block may be asked for again.
        max_telegram: characters of the longest telegram; a longer one is an ``Overflow``.
        unanswered: how many requests nobody has answered before this connection, see ``parity``.
    """

    def __init__(
        self,
        role: Role,
        *,
        parity: Parity = Parity.AUTO,
        opening_rate: int = 300,
        fixed_rate: bool = False,
        rate: int | None = None,
        echo: bool = False,
        reaction_time: float = REACTION_TIME,
        max_repeats: int = 3,
        max_telegram: int = 65_536,
        unanswered: int = 0,
    ) -> None:
        self._role = role
        self._parity = parity
        self._even = None if parity is Parity.AUTO else parity is Parity.EVEN
        self._unanswered = unanswered
        self._opening_rate = opening_rate
        self._fixed_rate = fixed_rate
        self._rate = rate or opening_rate
        self._offered_rate_id = ""
        self._reaction_time = reaction_time
        self._echo = echo
        self._max_repeats = max_repeats
        self._naks = 0
        self._block: Data | None = None
        self._state = State.IDLE
        self._before: tuple[State, Data | None] = (self._state, None)
        self._receiver = Receiver(max_telegram)
        self._queue: deque[Event | Effect | RemoteProtocolError] = deque()

    def __repr__(self) -> str:
        parity = {None: "parity not learned", True: "even parity", False: "no parity"}[self._even]
        return (
            f"<Connection {self._role.name} {self._state.name} {self._rate} Bd, {parity}, "
            f"{len(self._receiver)} bytes and {len(self._queue)} events waiting>"
        )

    @property
    def role(self) -> Role:
        """Which side we are."""
        return self._role

    @property
    def state(self) -> State:
        """Where the conversation stands, as far as this side knows."""
        return self._state

    @property
    def rate(self) -> int:
        """Bd at which the next byte flows once all effects are performed."""
        return self._rate

    @property
    def even_parity(self) -> bool | None:
        """Whether bytes carry even parity; None while ``AUTO`` has not learned it."""
        return self._even

    @property
    def reaction_time(self) -> float:
        """Minimum reaction time in seconds, of this meter once it is identified."""
        return self._reaction_time

    @property
    def repeats_left(self) -> int:
        """How often the present block may still be asked for again with ``Nak``."""
        return max(0, self._max_repeats - self._naks)

    @property
    def surplus(self) -> int:
        """Bytes behind the telegram that was understood last, ask before anything else is received.

        A telegram is followed by silence. Where more follows at once its end may be none: an ETX can be made by noise
        out of a line feed in the middle, with the right parity and, once in 128 times, the right block check.
        """
        return self._receiver.surplus

    @property
    def buffered(self) -> int:
        """Bytes that are kept, to be understood or compared with an echo; at most eight of the longest telegrams."""
        return self._receiver.kept

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the line. Never raises, and never keeps more than a bounded number of bytes."""
        self._receiver.append(data, self._sought, even=self._even)

    def next_event(self) -> Event | Effect | Need:
        """The next thing that happened or has to be done; ``NEED_DATA`` if nothing did.

        Raises DamagedTelegram if a telegram is damaged: wait until the line is quiet, then a reader sends ``Nak`` (or
        its request again, as an identification is not repeated by ``Nak``), a meter ``Nak`` or a ``Refusal``. Raises
        TooManyRepeats instead if ``max_repeats`` are spent; Overflow for a telegram without end; RemoteProtocolError
        for what is not legal here. The connection can be used on after each of them.
        """
        while not self._queue:
            try:
                raw = self._receiver.next_telegram(self._sought, even=self._even)
            except Overflow as error:
                self._queue.append(error)
                break
            if raw is None:
                return NEED_DATA
            self._hear(raw)
        item = self._queue.popleft()
        if isinstance(item, RemoteProtocolError):
            raise item
        return item

    def next_effect(self) -> Effect | None:
        """Only the next effect, nothing read: what a driver performs before it ends a session with ``Break``."""
        effect = next((item for item in self._queue if isinstance(item, Pause | SwitchRate)), None)
        if effect is not None:
            self._queue.remove(effect)
        return effect

    def send(self, event: Event) -> bytes:
        """Say ``event``; returns the bytes for the port, parity and block check included.

        Raises LocalProtocolError if it is not legal here, cannot be put into a telegram, or something is not fetched
        (only a ``Break`` may pass over everything but a ``SwitchRate``). A reader drops what has arrived and was not
        read: it cannot answer what is said now.
        """
        self._refuse_unfetched(event)
        kind = kind_of(event)
        following = TRANSITIONS.get((self._state, self._role, kind))
        if following is None:
            raise LocalProtocolError(f"a {self._role.value} may not send {kind.value} while {self._state.value}")
        if kind is Kind.NAK and self._role is Role.READER and not self.repeats_left:
            raise LocalProtocolError(f"a block may be asked for again {self._max_repeats} times, and was")
        raw = self._raw_bytes(event)
        if self._role is Role.READER:
            self._receiver.clear()
        self._queue.clear()
        self._remember(event, self._role)
        self._queue_rate(event)
        if isinstance(event, WakeUp):
            self._queue.append(Pause(event.silence_seconds))
        self._state = following
        if self._echo:
            self._receiver.expect_echo(raw)
        return raw

    def pass_over(self) -> None:
        """The block that was understood last answers another master: a reader waits on for the answer to its own.

        Raises LocalProtocolError if something is not fetched.
        """
        if self._queue:
            raise LocalProtocolError("fetch everything with next_event() before a telegram is passed over")
        self._state, self._block = self._before

    def reset(self) -> None:
        """Forget the conversation: nobody spoke for too long, or the line was lost; back to the opening rate."""
        self._receiver.clear()
        self._queue.clear()
        self._state = State.IDLE
        self._naks = 0
        self._block = None
        self._switch_to(self._opening_rate)

    @property
    def _sought(self) -> Sought:
        return _SOUGHT[self._state, self._role.peer]

    # --- receiving -------------------------------------------------------------------------------------------------

    def _hear(self, raw: bytes) -> None:
        """Queue what follows from one telegram."""
        block = self._role is Role.READER and raw[0] & 0x7F == SOH
        try:
            event = self._understand(raw)
            kind = kind_of(event)
        except RemoteProtocolError as error:
            if block and self._sought.foreign:
                self._receiver.put_back(raw)
            else:
                self._hear_wrong(error, raw)
            return
        if block and kind is not Kind.PROMPT:
            return  # only readers say commands: this is another master's. LIS-200 fact sheet 8.6
        self._before = (self._state, self._block)
        key = (self._state, self._role.peer, kind)
        following = TRANSITIONS.get(key)
        if following is None:
            sender = self._role.peer.value
            self._hear_wrong(
                RemoteProtocolError(f"the {sender} sent {kind.value}, not legal while {self._state.value}"), raw
            )
        elif kind is Kind.NAK and self._role is Role.METER and key not in SILENT and not self.repeats_left:
            self._queue.append(TooManyRepeats())
        else:
            self._remember(event, self._role.peer)
            self._queue_rate(event)
            self._state = following
            if key not in SILENT:
                self._queue_event(event, kind)

    def _understand(self, raw: bytes) -> Event:
        characters = strip_parity(raw)
        if characters[0] == _SLASH and self._parity is Parity.AUTO:
            learned = learn_parity(raw)
            if learned is None:
                raise DamagedTelegram("a line arrived damaged: its parity bits are neither even nor unused")
            self._even = learned
        elif self._even and not self._parity_holds(raw, characters):
            raise DamagedTelegram("a telegram arrived damaged: a parity bit is wrong")
        if raw[0] & 0x7F in {SOH, STX}:
            return decode_block(characters)
        if len(characters) > 1:
            return decode_line(characters)
        return Ack() if characters[0] == ACK else Nak()

    @staticmethod
    def _parity_holds(raw: bytes, characters: bytes) -> bool:
        if has_even_parity(raw):
            return True
        ignored = fillers(characters)
        return has_even_parity(bytes(byte for index, byte in enumerate(raw) if index not in ignored))

    def _hear_wrong(self, error: RemoteProtocolError, raw: bytes) -> None:
        """Queue an error, or nothing if it was never meant for us."""
        if self._role is Role.METER and self._state in UNHEARD:
            return
        damaged = isinstance(error, DamagedTelegram)
        if damaged and self._role is Role.READER and self._naks >= self._max_repeats:
            error = TooManyRepeats()
        error.raw = raw
        self._state = TRANSITIONS.get((self._state, self._role.peer, Kind.DAMAGED), self._state)
        self._queue.extend((Pause(self._reaction_time), error))

    def _queue_event(self, event: Event, kind: Kind) -> None:
        if isinstance(event, Data):
            before, self._block = self._block, event
            event = replace(event, repeated=event == before)
        if kind is not Kind.BREAK:
            self._queue.append(Pause(self._reaction_time))
        self._queue.append(event)

    # --- sending ---------------------------------------------------------------------------------------------------

    def _refuse_unfetched(self, event: Event) -> None:
        switching = any(isinstance(item, SwitchRate) for item in self._queue)
        if switching or (self._queue and not isinstance(event, Break)):
            raise LocalProtocolError("fetch everything with next_event() and perform it before sending")

    def _raw_bytes(self, event: Event) -> bytes:
        if isinstance(event, WakeUp):
            return bytes((NUL,)) * event.nuls(self._rate)
        even = self._even is not False
        if isinstance(event, Request) and self._parity is Parity.AUTO and self._unanswered % 2:
            even = not even
        characters = encode(event)
        return with_even_parity(characters) if even else characters

    # --- what needs memory, for what is said and for what is heard -------------------------------------------------

    def _remember(self, event: Event, sender: Role) -> None:
        if isinstance(event, Identification):
            self._reaction_time = event.reaction_time
            self._offered_rate_id = event.rate_id
            self._unanswered = 0
        if sender is Role.METER:
            return
        if isinstance(event, Request):
            self._unanswered += 1
        if isinstance(event, Nak):
            self._naks += 1
            return
        self._naks = 0
        if not isinstance(event, Ack):
            self._block = None

    def _queue_rate(self, event: Event) -> None:
        """The rate changes if the reader repeats the offered Z (mode C) or by itself (B), and back at the end.

        A data message that came by itself ends at the opening rate, where commands may follow. Fact sheet 7.
        """
        if isinstance(event, OptionSelect):
            if event.rate_id == self._offered_rate_id and event.rate_id in RATES:
                self._switch_to(RATES[event.rate_id])
        elif isinstance(event, Identification):
            self._switch_to(RATES_B.get(event.rate_id, self._rate))
        elif isinstance(event, Break) or (isinstance(event, Data) and self._state is State.UNASKED):
            self._switch_to(self._opening_rate)

    def _switch_to(self, rate: int) -> None:
        if rate != self._rate and not self._fixed_rate:
            self._rate = rate
            self._queue.append(SwitchRate(rate))
