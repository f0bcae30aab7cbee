"""The three families of errors of the IEC 62056-21 core.

Rules: who is at fault is the class; the docstring is the default sentence; what more is known is an attribute.
No message repeats what *we* sent, because that may hold a password.

The tree::

    Iec62056Error
    +-- LocalProtocolError         our bug: the driver broke the rules of the core
    +-- RemoteProtocolError        the other side broke the rules
    |   +-- DamagedTelegram        parity or block check wrong: ask again (Nak, or the command, or the request)
    |   +-- TooManyRepeats         one block stayed damaged through all its repeats
    |   +-- Overflow               a telegram without end: its bytes were thrown away
    |   +-- UnreadableValue        a well-framed text that is not the number, time, address or row it should be
    +-- MeterRefusal(code)         the meter understood and said no: ``(#nnnn)``
"""

from protocol.iec62056.codes import refusal_meaning


class Iec62056Error(Exception):
    """Something went wrong in an IEC 62056-21 conversation."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().partition("\n")[0])


class LocalProtocolError(Iec62056Error):
    """The driver asked the core for something that the protocol does not allow here."""


class RemoteProtocolError(Iec62056Error):
    """The other side sent something that the protocol does not allow here."""

    raw: bytes = b""
    """The telegram as it came, with its parity bits, where it was one that could not be used."""


class DamagedTelegram(RemoteProtocolError):  # noqa: N818 - named by what it is, not by what it derives from
    """A telegram arrived damaged: a parity bit or the block check is wrong."""


class TooManyRepeats(RemoteProtocolError):  # noqa: N818 - as DamagedTelegram
    """One block was repeated as often as allowed and is still not readable."""


class Overflow(RemoteProtocolError):  # noqa: N818 - as DamagedTelegram
    """A telegram was longer than allowed and had no end; its bytes were thrown away."""


class UnreadableValue(RemoteProtocolError):  # noqa: N818 - as DamagedTelegram
    """A text from the meter is not what it should be at this place."""

    SHOWN = 60
    """Characters of a meter's text that a message repeats at most."""

    def __init__(self, text: str, expected: str) -> None:
        shown = text if len(text) <= self.SHOWN else f"{text[: self.SHOWN]}..."
        super().__init__(f"the meter sent {shown!r} where {expected} was expected")
        self.text = text
        self.expected = expected


class MeterRefusal(Iec62056Error):  # noqa: N818 - as DamagedTelegram
    """The meter understood the command and refused it: ``(#nnnn)``, see ``codes.REFUSALS``."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.meaning = refusal_meaning(code)
        super().__init__(f"the meter refused with #{code:04d}: {self.meaning}")
