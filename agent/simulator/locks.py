"""The access locks of a virtual meter. Source: LIS-200 fact sheet 2.4.

Rules: time is an argument, in real seconds (an operator's minutes, whatever the meter's clock shows). A wrong code is
``#0017``; writing 171 to an *open* lock changes its code. No code leaves this module but an
old one, for the audit trail.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.simulator.personas import CUSTOMER, LOCKS, SUPPLIER
from protocol.iec62056.codes import WRONG_ACCESS_CODE
from protocol.iec62056.errors import MeterRefusal

AUTO_CLOSE_MINUTES = 10
"""Object n:174."""


@dataclass(slots=True)
class _Lock:
    code: str | None = field(repr=False)
    minutes: int = AUTO_CLOSE_MINUTES
    open_until: float | None = None


class Locks:
    """All locks; one without a code (calibration, manufacturer, 5 and 6 as a rule) is not opened over the line."""

    def __init__(self, codes: Mapping[int, str]) -> None:
        self._locks = {number: _Lock(codes.get(number)) for number in LOCKS}

    def is_open(self, number: int, at: float) -> bool:
        """Whether a lock is open at ``at``."""
        until = self._locks[number].open_until
        return until is not None and at < until

    def any_open(self, at: float) -> bool:
        """Whether reading is allowed on a meter that guards it."""
        return any(self.is_open(number, at) for number in LOCKS)

    def may_write(self, at: float) -> bool:
        """Whether writing is allowed: supplier or customer lock open, or one that ranks higher."""
        return self.any_open(at)

    def enter(self, number: int, code: str, at: float) -> str | None:
        """Write 171: open the lock, or change its code if it is open; raises MeterRefusal for a wrong code.

        Returns the old code if it was changed.
        """
        lock = self._locks[number]
        if self.is_open(number, at):
            old, lock.code = lock.code, code
            return old or "0"
        self.unlock(number, code, at)
        return None

    def unlock(self, number: int, code: str, at: float) -> None:
        """Open a lock (command P1); raises MeterRefusal for a wrong code or a lock that no code opens."""
        lock = self._locks.get(number)
        if lock is None or lock.code is None or lock.code != code:
            raise MeterRefusal(WRONG_ACCESS_CODE)
        lock.open_until = at + lock.minutes * 60

    def touch(self, at: float) -> None:
        """Somebody works with the meter: what is open stays open."""
        for number, lock in self._locks.items():
            if self.is_open(number, at):
                lock.open_until = at + lock.minutes * 60

    def close(self, number: int) -> None:
        """Write 170: close the lock."""
        self._locks[number].open_until = None

    def minutes(self, number: int) -> int:
        """Minutes until a lock closes by itself, object n:174."""
        return self._locks[number].minutes

    def set_minutes(self, number: int, minutes: int) -> None:
        """Write n:174."""
        self._locks[number].minutes = minutes


def codes_for(code: str) -> dict[int, str]:
    """The same code for the two locks that customers and suppliers use."""
    return {SUPPLIER: code, CUSTOMER: code}
