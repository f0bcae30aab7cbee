"""The settable clock as arithmetic: which instant a demo, test or benchmark shows at a given real instant.

``METERGATE_CLOCK=START,RATE`` starts the clock at START (RFC 3339) when the process starts and lets it run RATE times
as fast. ``START@ANCHOR,RATE`` ties START to the real instant ANCHOR (seconds since 1970), so that several processes
show the same time. It is refused unless ``METERGATE_ENVIRONMENT`` is ``demo``, ``test`` or ``benchmark``: on a real
gateway a wrong clock does harm.
"""

import dataclasses
import datetime as dt
import math

from protocol.wire import ContractError

CLOCK_VARIABLE = "METERGATE_CLOCK"
ENVIRONMENT_VARIABLE = "METERGATE_ENVIRONMENT"
ENVIRONMENTS = ("demo", "test", "benchmark")


@dataclasses.dataclass(frozen=True, slots=True)
class ClockSetting:
    """A straight line from real to shown time: ``start`` at the real instant ``anchor`` (s), then ``rate`` s per s."""

    start: dt.datetime
    anchor: float
    rate: float

    def at(self, real: float) -> dt.datetime:
        """Return the UTC instant shown at the real instant, in seconds since 1970."""
        return self.start + dt.timedelta(seconds=(real - self.anchor) * self.rate)


def read_clock_setting(text: str, environment: str, real: float) -> ClockSetting:
    """Read the variable's text; ``real`` is the instant of process start, in seconds since 1970.

    Raises:
        ContractError: when it is unreadable, or set outside a demo, test or benchmark.
    """
    if environment not in ENVIRONMENTS:
        raise ContractError(
            f"{CLOCK_VARIABLE} is set, but {ENVIRONMENT_VARIABLE} is {environment!r}: "
            f"the clock can be set only in {', '.join(ENVIRONMENTS)}"
        )
    try:
        start_text, rate_text = text.split(",")
        start_text, _, anchor_text = start_text.partition("@")
        start = dt.datetime.fromisoformat(start_text)
        anchor = float(anchor_text) if anchor_text else real
        rate = float(rate_text)
    except ValueError as error:
        raise ContractError(f"{CLOCK_VARIABLE}={text!r} is not START[@ANCHOR],RATE: {error}") from error
    if start.tzinfo is None or not (math.isfinite(rate) and math.isfinite(anchor) and rate > 0):
        raise ContractError(
            f"{CLOCK_VARIABLE}={text!r}: START needs an offset, ANCHOR and RATE must be finite, RATE > 0"
        )
    return ClockSetting(start.astimezone(dt.UTC), anchor, rate)
