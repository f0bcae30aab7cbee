"""What can be said on the line (events), and what a driver must do about it (effects).

Rules: frozen, slotted values without behaviour beyond reading themselves; no bytes, no parity, no block check, no
state. What may hold a lock code never shows it in its ``repr``. Text is 7-bit ISO 646, as the line is.

An *event* is a telegram, sent or received. An *effect* is something that only the driver can do: wait, change the
port's rate. Both come out of ``Connection.next_event`` in the order in which they count.
"""

import enum
from dataclasses import dataclass, field

from protocol.iec62056 import lis200
from protocol.iec62056.codes import refusal_meaning

RATES: dict[str, int] = {"0": 300, "1": 600, "2": 1200, "3": 2400, "4": 4800, "5": 9600, "6": 19200}
"""Baud identification character Z of mode C, in Bd. Source: IEC 62056-21 6.3.14, LIS-200 fact sheet 1.1."""

RATES_B: dict[str, int] = {"A": 600, "B": 1200, "C": 2400, "D": 4800, "E": 9600, "F": 19200}
"""The same of mode B, where the meter switches unasked. Source: IEC 62056-21 6.3.14, LIS-200 fact sheet 1.1, 7."""
RESERVED_RATES = frozenset("789GHI")
"""Characters that the standard keeps for rates to come; every other one is mode A. Source: IEC 62056-21 6.3.14."""

REACTION_TIME = 0.2
"""Minimum reaction time in seconds. Source: IEC 62056-21 6.3.14 (tr), LIS-200 fact sheet 1.6."""
FAST_REACTION_TIME = 0.02
"""The same for a maker whose third letter is lower case. Source: IEC 62056-21 6.3.12, LIS-200 fact sheet 1.4."""


class Role(enum.Enum):
    """Who we are on this line, and who sent a telegram."""

    READER = "reader"
    METER = "meter"

    @property
    def peer(self) -> "Role":
        """The other side."""
        return Role.METER if self is Role.READER else Role.READER


class Parity(enum.Enum):
    """What bit 7 of a byte is, on a port that is opened 8N1. Source: LIS-200 fact sheet 1.1, 1.9."""

    AUTO = "auto"
    EVEN = "even"
    NONE = "none"


class Mode(enum.Enum):
    """What follows an identification. Source: IEC 62056-21 6.4, LIS-200 fact sheet 7."""

    A = "A: the data message at once, all at the opening rate"
    B = "B: the data message at once, at the rate that was announced"
    C = "C: whatever the option select asks for"


class Need(enum.Enum):
    """Why ``next_event`` has nothing to say."""

    DATA = "data"


NEED_DATA = Need.DATA
"""``next_event`` has nothing more until ``receive_data`` brings bytes (or ``send`` makes an effect)."""


# --- effects -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pause:
    """Send nothing before ``seconds`` have passed since the last byte came (after a wake-up: since the last went)."""

    seconds: float


@dataclass(frozen=True, slots=True)
class SwitchRate:
    """Let every byte handed to the port leave it, then set the port to ``baud``."""

    baud: int


# --- what a reader sends -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WakeUp:
    """NULs for ``nul_seconds`` without a gap over 5 ms, then ``silence_seconds`` of nothing, for battery devices.

    Source: IEC 62056-21 Annex B.1 (2.1 to 2.3 s, then 1.5 to 1.7 s), LIS-200 fact sheet 1.2.
    """

    nul_seconds: float = 2.2
    silence_seconds: float = 1.6

    def nuls(self, baud: int) -> int:
        """How many NULs, back to back at ten bits each, fill ``nul_seconds`` at ``baud``."""
        return max(1, round(self.nul_seconds * baud / 10))


WAKE_UP = WakeUp()
"""The wake-up of the standard."""


@dataclass(frozen=True, slots=True)
class Request:
    """``/?<address>!``: who is there? An empty address calls every meter. LIS-200 fact sheet 1.3."""

    address: str = ""

    def calls(self, address: str) -> bool:
        """Whether a meter with the bus ``address`` must answer: leading zeros are ignored on both sides."""
        return not self.address or self.address.lstrip("0") == address.lstrip("0")


@dataclass(frozen=True, slots=True)
class OptionSelect:
    """``ACK V Z Y``: what the reader wants; ``mode`` 1 is programming, 0 data readout. LIS-200 fact sheet 1.5.

    The line changes to the rate of ``rate_id`` only if the meter had announced the same.
    """

    rate_id: str
    mode: str = "1"
    protocol: str = "0"

    @property
    def programming(self) -> bool:
        """Whether programming mode is asked for; anything else is answered with a readout."""
        return self.mode == "1" and self.protocol == "0"


@dataclass(frozen=True, slots=True)
class Password:
    """``P1``: the operand is ``lock:code`` on LIS-200 meters. LIS-200 fact sheet 2.4."""

    operand: str = field(repr=False)

    @classmethod
    def for_lock(cls, lock: int, code: str) -> "Password":
        """Open ``lock`` (3 supplier, 4 customer) with its ``code``."""
        return cls(f"{lock}:{code}")


@dataclass(frozen=True, slots=True)
class ReadCommand:
    """``R1``: read one object, or an archive in one single block. LIS-200 fact sheet 2.1, 3.1.

    ``command`` is ``R5`` for meters that read a register so; the standard leaves it to national use. Fact sheet 7.
    """

    address: str
    argument: str = "1"
    command: str = "R1"


@dataclass(frozen=True, slots=True)
class ReadBlocks:
    """``R3``: read an archive in partial blocks; ``argument`` is ``position;from;to;rows``. Fact sheet 3.1."""

    address: str
    argument: str


@dataclass(frozen=True, slots=True)
class WriteCommand:
    """``W1``: write one object. LIS-200 fact sheet 2.5; its value may be a lock code, so no repr shows it."""

    address: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Break:
    """``B0``: the end of the session, from any state; both go back to the opening rate. Fact sheet 1.8."""


# --- what a meter sends ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identification:
    r"""``/XXXZ<ident>``: the meter's maker, the rate it offers, and its type. LIS-200 fact sheet 1.4.

    ``escapes`` holds the ``\W`` pairs in front of ``ident`` (``"\2"``: HDLC is possible).
    """

    maker: str
    rate_id: str
    ident: str
    escapes: str = ""

    @property
    def reaction_time(self) -> float:
        """The meter's minimum reaction time in seconds, which the reader observes too."""
        return FAST_REACTION_TIME if self.maker[-1:].islower() else REACTION_TIME

    @property
    def rate(self) -> int | None:
        """The offered rate in Bd; None if ``rate_id`` is none of mode C."""
        return RATES.get(self.rate_id)

    @property
    def mode(self) -> Mode:
        """What follows by ``rate_id``; reserved characters are those of mode C, where nothing comes unasked."""
        if self.rate_id in RATES_B:
            return Mode.B
        return Mode.C if self.rate_id in RATES or self.rate_id in RESERVED_RATES else Mode.A


@dataclass(frozen=True, slots=True)
class Prompt:
    """``P0``: programming mode is open. The operand is always ``1234567`` and nobody uses it. Fact sheet 2.4."""

    operand: str = "1234567"


@dataclass(frozen=True, slots=True)
class Data:
    """One block of an answer: everything between STX and ETX (``last``) or EOT (more blocks follow on Ack).

    ``repeated`` is set on receive if this very block came before in the same answer: the Ack for it was lost, or the
    reader itself asked for it again.
    """

    text: str
    last: bool = True
    repeated: bool = False

    @property
    def address(self) -> str:
        """What stands in front of the first group: the echoed address, or nothing."""
        return self.text.partition("(")[0].strip()

    @property
    def groups(self) -> tuple[str, ...]:
        """The texts in brackets of the only row; raises ``UnreadableValue`` if there is not exactly one row."""
        return lis200.parse_groups(self.text)

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The texts in brackets of each row of the block; raises ``UnreadableValue`` if brackets do not match."""
        return lis200.parse_rows(self.text)


@dataclass(frozen=True, slots=True)
class Refusal:
    """``(#nnnn)``: the command was understood and is not executed. LIS-200 fact sheet 1.8, 5.1."""

    code: int

    @property
    def meaning(self) -> str:
        """The meaning of ``code`` as a sentence."""
        return refusal_meaning(self.code)


# --- what both send ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ack:
    """A meter: done. A reader: the block is good, send the next."""


@dataclass(frozen=True, slots=True)
class Nak:
    """A meter: the command was damaged or broke the protocol. A reader: send this block again."""


ReaderEvent = WakeUp | Request | OptionSelect | Password | ReadCommand | ReadBlocks | WriteCommand | Ack | Nak | Break
MeterEvent = Identification | Prompt | Data | Refusal | Ack | Nak
Event = ReaderEvent | MeterEvent
Effect = Pause | SwitchRate
