"""The one stateful object of the core: bytes in, events and effects out, events in, bytes out."""

from protocol.iec62056.events import Effect, Event, Need, Parity, Role
from protocol.iec62056.states import State


class Connection:
    """One side of one line.

    Args:
        role: which side we are.
        parity: what bit 7 is. ``AUTO`` learns from the identification (reader) or from each request (meter); before,
            a reader sends even parity, and every second request that nobody answers without (fact sheet 1.1: some paths
            are 8N1). A meter answers in the way the request came.
        opening_rate: Bd of the request, and again after a break.
        fixed_rate: the line never changes its rate (wired terminals, TCP): no ``SwitchRate`` is made, Z is still echoed.
        rate: Bd at which the port stands now, if not at ``opening_rate``: the first act may then be a ``Break`` there.
        echo: the line returns our own bytes (optical heads, two-wire RS-485); they are swallowed.
        max_repeats: how often one block may be asked for again.
        max_telegram: characters of the longest telegram; a longer one is an ``Overflow``.
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
        max_repeats: int = 3,
        max_telegram: int = 65_536,
    ) -> None: ...

    @property
    def role(self) -> Role:
        """Which side we are."""

    @property
    def state(self) -> State:
        """Where the conversation stands, as far as this side knows."""

    @property
    def rate(self) -> int:
        """Bd at which the next byte must flow, once the fetched effects are performed."""

    @property
    def even_parity(self) -> bool | None:
        """Whether bytes carry even parity; None while ``AUTO`` has not learned it."""

    @property
    def reaction_time(self) -> float:
        """Minimum reaction time in seconds, of this meter once it is identified."""

    @property
    def repeats_left(self) -> int:
        """How often the present block may still be asked for again with ``Nak``."""

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the line. Never raises, and never holds more than a bounded number of bytes."""

    def next_event(self) -> Event | Effect | Need:
        """The next thing that happened or has to be done; ``NEED_DATA`` if nothing did.

        Raises DamagedTelegram if a telegram is damaged: wait until the line is quiet, then a reader sends ``Nak`` (or its
        request again if the identification was damaged; that is not repeated by ``Nak``), a meter ``Nak`` or a ``Refusal``.
        Raises TooManyRepeats instead if ``max_repeats`` are spent; Overflow for a telegram without end;
        RemoteProtocolError for what is not legal here. The connection can be used on after each of them.
        """

    def next_effect(self) -> Effect | None:
        """Only the next effect, no telegram and no error: what a driver performs before it ends a session with ``Break``."""

    def send(self, event: Event) -> bytes:
        """Say ``event``; returns the bytes for the port, parity and block check included.

        Raises LocalProtocolError if it is not legal here, cannot be put into a telegram, or an effect is not fetched (a
        ``Break`` is legal with a ``Pause`` outstanding). What had arrived unread is dropped: it answers nothing.
        """

    def reset(self) -> None:
        """Forget the conversation: nobody spoke for too long, or the line was lost. Makes ``SwitchRate`` if needed."""
