"""What ``identify`` hears beside answers: silence or something that is none, its own echo, another master's telegrams.

Rules: observes only; whatever is shown of it is shown by who asks. Source: LIS-200 fact sheet 8.5, 8.6.
"""

from agent.conversation import NOISE, Observer
from agent.trace import telegrams_in
from protocol.iec62056 import (
    Data,
    Identification,
    MeterEvent,
    Prompt,
    ReadCommand,
    ReaderEvent,
    Refusal,
    RemoteProtocolError,
    lis200,
)
from protocol.iec62056.characters import SOH, STX, strip_parity
from protocol.iec62056.telegrams import decode_block


class Ear:
    """Observes conversations: passes everything on, and keeps what tells silence from what cannot be understood."""

    def __init__(self, following: Observer | None) -> None:
        self._next = following
        self._said, self._heard = b"", b""
        self._asked: ReaderEvent | None = None
        self.foreign: list[bytes] = []
        """Telegrams of another master and of whoever answers it."""
        self.identification: Identification | None = None
        self.not_understood: list[bytes] = []
        self.echoes = False
        """Whether the line has returned what was said, a whole telegram of it."""

    def said(self, data: bytes, event: ReaderEvent, rate: int, begun: float, ended: float) -> None:
        """See Observer."""
        self.foreign += self._foreign()
        self._said, self._heard, self._asked = data, b"", event
        if self._next is not None:
            self._next.said(data, event, rate, begun, ended)

    def heard(self, data: bytes, rate: int, at: float) -> None:
        """See Observer."""
        self._heard += data
        if len(self._said) > 1 and self._heard.lstrip(NOISE).startswith(self._said):
            self.echoes = True
        if self._next is not None:
            self._next.heard(data, rate, at)

    def understood(self, event: MeterEvent, rate: int, at: float) -> None:
        """See Observer."""
        if isinstance(event, Identification):
            self.identification = event
        if self._next is not None:
            self._next.understood(event, rate, at)

    def failed(self, error: Exception, rate: int, at: float) -> None:
        """See Observer."""
        if self._heard.strip(NOISE):
            self.not_understood.append(self._heard)
        if self._next is not None:
            self._next.failed(error, rate, at)

    def _foreign(self) -> list[bytes]:
        """What was heard behind what we said last and answers it not."""
        own = strip_parity(self._said)
        telegrams = [telegram for telegram in telegrams_in(self._heard) if telegram != own]
        wanted = self._asked.address if isinstance(self._asked, ReadCommand) else ""
        return [telegram for telegram in telegrams if says_another_master(telegram, wanted)]

    def end(self) -> None:
        """There will be no more."""
        self.foreign += self._foreign()
        self._heard = b""


def says_another_master(telegram: bytes, asked: str) -> bool:
    """Whether a telegram is another master's, or answers one; ``asked``: the object that we asked for ourselves."""
    if telegram.startswith(b"/?"):
        return True
    try:
        event = decode_block(telegram) if telegram[0] in {SOH, STX} else None
    except RemoteProtocolError:
        return False
    if isinstance(event, Data):
        return bool(asked and event.address) and not lis200.matches(asked, event.address)
    return event is not None and not isinstance(event, Prompt | Refusal)
