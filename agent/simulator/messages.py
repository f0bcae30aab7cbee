"""Which messages a virtual meter's status lists show, and the events by which its log book tells of them.

Rules: pure; both follow from one schedule, so that a warning that the log book tells of is shown by the status in the
rows between. Source: LIS-200 fact sheet 5.2, 5.3.
"""

from agent.simulator.process import HOUR
from agent.simulator.schedules import Scattered

_BLOCK = 6 * HOUR
_CORRECTOR = ((0x3C02, 0x1C02), (0x2506, 0x0506), (0x2106, 0x0106), (0x2005, 0x0005))
"""Data transmission began and ended; T warning limits, pressure sensor error, C not computable: appeared and ended."""
_LOGGER = ((0x3C02, 0x1C02), (0x2501, 0x0501), (0x2C01, 0x0C01))
"""Data transmission; warning limit of channel 1; report signal at input 1."""


class Messages:
    """What comes and goes on one meter; ``key`` names it."""

    def __init__(self, key: str, *, logger: bool) -> None:
        self.schedule = Scattered(f"{key}/events", _BLOCK)
        self._pairs = _LOGGER if logger else _CORRECTOR

    def code(self, process: int) -> int:
        """The event at a moment of the schedule."""
        index = self.schedule.index(process)
        return self._pairs[index // 2 % len(self._pairs)][index % 2]

    def shown(self, status: int, process: int) -> tuple[int, ...]:
        """The messages of ``St.status`` at a process second."""
        if self.schedule.index(process) < 0:
            return ()
        code = self.code(process)
        return (((code >> 8) & 0xF) + 1,) if (code >> 12, code & 0xFF) == (2, status) else ()
