"""The one clock seam of the agent: what time it is, and how long to wait in that time.

Only the wiring (``app.py``, the commands, the simulator's start) makes a clock; everything else is given one. Wire
times (reaction times, time-outs of a line or a broker) are real seconds: they use ``asyncio.sleep`` and
``monotonic()``, never ``sleep()``.

A clock that somebody moves while a process runs: ``METERGATE_CLOCK_FILE`` names a file with the text of
``METERGATE_CLOCK``, read again whenever it has changed, and refused like it outside demos, tests and benchmarks. A
third field has the clock judged as on a real gateway: ``synchronised`` if the kernel says so, ``judged`` if not.
"""

import asyncio
import datetime as dt
import os
import pathlib
import time
from collections.abc import Mapping

from protocol.clock_settings import CLOCK_VARIABLE, ENVIRONMENT_VARIABLE, ClockSetting, read_clock_setting
from protocol.wire import ContractError

CLOCK_FILE_VARIABLE = "METERGATE_CLOCK_FILE"
JUDGED, SYNCHRONISED = "judged", "synchronised"


class Clock:
    """The system's clock, or with a setting a clock that starts elsewhere and runs at another rate."""

    def __init__(self, setting: ClockSetting | None = None) -> None:
        self._setting = setting

    @property
    def settable(self) -> bool:
        """Whether this is the clock of a demo, test or benchmark: then its time is what somebody chose."""
        return self._setting is not None

    @property
    def judged(self) -> bool:
        """Whether ``agent.trust`` has to say if this clock is believed; a clock that was set is, without it."""
        return self._setting is None

    def synchronised(self) -> bool | None:
        """Return what stands in for the kernel's word; None where the kernel itself is to be asked."""
        return None

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


class FileClock(Clock):
    """A clock that goes by a file, which somebody may write anew at any time."""

    def __init__(self, path: pathlib.Path, environment: str) -> None:
        """Read the file.

        Raises:
            ContractError: when it cannot be read, or outside a demo, test or benchmark.
        """
        super().__init__()
        self._path, self._environment = path, environment
        self._read_at = 0
        self._standing = ""
        self._look()

    def now(self) -> dt.datetime:
        """Return the instant that the file says, aware, in UTC."""
        self._look()
        return super().now()

    @property
    def judged(self) -> bool:
        """Whether the file asks for it."""
        self._look()
        return bool(self._standing)

    def synchronised(self) -> bool | None:
        """Return what the file says in place of the kernel."""
        self._look()
        return self._standing == SYNCHRONISED

    def _look(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._read_at:
                return
            text = self._path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ContractError(f"{CLOCK_FILE_VARIABLE}: {error}") from error
        setting, _, standing = text.rpartition(",")
        if standing not in {JUDGED, SYNCHRONISED}:
            setting, standing = text, ""
        self._setting = read_clock_setting(setting, self._environment, time.time())
        self._standing, self._read_at = standing, changed


def system_clock(environment: Mapping[str, str] = os.environ) -> Clock:
    """Make the clock that the environment asks for.

    Raises:
        ContractError: when ``METERGATE_CLOCK`` is unreadable, or set outside a demo, test or benchmark.
    """
    path = environment.get(CLOCK_FILE_VARIABLE)
    if path:
        return FileClock(pathlib.Path(path), environment.get(ENVIRONMENT_VARIABLE, ""))
    text = environment.get(CLOCK_VARIABLE)
    if not text:
        return Clock()
    return Clock(read_clock_setting(text, environment.get(ENVIRONMENT_VARIABLE, ""), time.time()))
