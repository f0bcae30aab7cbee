"""The one clock seam of the agent: what time it is, and how long to wait in that time.

Only the wiring (``app.py``, the commands, the simulator's start) makes a clock; everything else is given one. Wire
times (reaction times, time-outs of a line or a broker) are real seconds: they use ``asyncio.sleep`` and
``monotonic()``, never ``sleep()``.
"""

import asyncio
import datetime as dt
import os
import time
from collections.abc import Mapping

from protocol.clock_settings import CLOCK_VARIABLE, ENVIRONMENT_VARIABLE, ClockSetting, read_clock_setting


class Clock:
    """The system's clock, or with a setting a clock that starts elsewhere and runs at another rate."""

    def __init__(self, setting: ClockSetting | None = None) -> None:
        self._setting = setting

    @property
    def settable(self) -> bool:
        """Whether this is the clock of a demo, test or benchmark: then its time is what somebody chose."""
        return self._setting is not None

    @property
    def rate(self) -> float:
        """Seconds of clock time per real second."""
        return self._setting.rate if self._setting else 1.0

    def now(self) -> dt.datetime:
        """Return the instant that the clock shows, aware, in UTC."""
        real = time.time()
        return self._setting.at(real) if self._setting else dt.datetime.fromtimestamp(real, dt.UTC)

    def system_now(self) -> dt.datetime:
        """Return what the machine's own clock shows, whatever this one does: commands are issued in that time."""
        return dt.datetime.fromtimestamp(time.time(), dt.UTC)

    def monotonic(self) -> float:
        """Return real seconds that never go back; only differences mean something."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for this many seconds of clock time; not at all when it is not positive."""
        await asyncio.sleep(max(0.0, seconds) / self.rate)


def system_clock(environment: Mapping[str, str] = os.environ) -> Clock:
    """Make the clock that the environment asks for.

    Raises:
        ContractError: when ``METERGATE_CLOCK`` is unreadable, or set outside a demo, test or benchmark.
    """
    text = environment.get(CLOCK_VARIABLE)
    if not text:
        return Clock()
    return Clock(read_clock_setting(text, environment.get(ENVIRONMENT_VARIABLE, ""), time.time()))
