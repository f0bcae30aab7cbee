"""What kind of failure it was, for people who look at many at once; a run's cause says it of the one.

Rules: the kind follows from the error alone, here and nowhere else; the words are those of ``protocol.reports``.
"""

from agent.conversation import SessionError
from agent.links import LinkError
from agent.opening import NotLetIn
from protocol import iec62056, reports

_KINDS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((iec62056.MeterRefusal, NotLetIn), reports.DEVICE),
    ((LinkError, SessionError, iec62056.DamagedTelegram, iec62056.TooManyRepeats, iec62056.Overflow), reports.COMMS),
    ((iec62056.LocalProtocolError,), reports.GATEWAY),
    # What a context could not make sense of is a ValueError, LookupError or ArithmeticError.
    ((iec62056.RemoteProtocolError, ValueError, LookupError, ArithmeticError), reports.PARSE),
)
"""The first that fits counts."""


def kind_of(error: Exception) -> str:
    """Return the kind of a failure of ``agent.session.FAILURES``; what cannot be told apart is the gateway's own."""
    return next((kind for errors, kind in _KINDS if isinstance(error, errors)), reports.GATEWAY)
