"""Meters that do not answer: how often one is called in a session, who goes before it, how long it is left alone.

Rules: no input or output; instants are monotonic seconds. A meter that said nothing to a call lets its neighbours go
first before it is called again, so that they wait for one time-out of it at most; once it has left as many calls
unanswered as the time-outs allow, what is due on it fails, and it is left alone for a while that doubles. From then on
it is probed with one call at a time. A command is a probe, and a person waits for it: it is called more often.
"""

import dataclasses
import uuid
from collections.abc import Callable

from protocol.iec62056 import Parity

NEIGHBOURS_FIRST = 60.0
"""Seconds for which a line without a free moment goes before a meter that left a call unanswered."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in real seconds: of one run without the time that it lent the line, and of a silent meter's back-off."""

    run: float = 4 * 3600.0
    back_off: float = 30.0
    longest_back_off: float = 900.0


DEFAULT_LIMITS = Limits()


@dataclasses.dataclass(slots=True)
class _Silence:
    """One meter, by name: how often it was left alone, until when it is, until when its neighbours go first."""

    name: str
    times: int = 0
    until: float = 0.0
    behind_until: float = 0.0


class Silences:
    """The silent meters of one line."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        self._limits, self._monotonic = limits, monotonic
        self._meters: dict[uuid.UUID, _Silence] = {}

    def names(self) -> list[str]:
        """The meters that are left alone now."""
        return [silence.name for silence in self._meters.values() if silence.times]

    def clear(self) -> None:
        """Forget all of them: another line, another chance."""
        self._meters.clear()

    def answered(self, device: uuid.UUID) -> None:
        """It spoke."""
        self._meters.pop(device, None)

    def until(self, device: uuid.UUID) -> float:
        """Until when no scheduled run calls it."""
        silence = self._meters.get(device)
        return silence.until if silence else 0.0

    def behind(self, device: uuid.UUID) -> bool:
        """Whether its neighbours go first."""
        silence = self._meters.get(device)
        return silence is not None and self._monotonic() < silence.behind_until

    def calls(self, device: uuid.UUID, *, unanswered: int, tries: int, command: bool, parity: Parity | None) -> int:
        """How often a session calls it.

        Args:
            device: The meter.
            unanswered: Calls in a row that it has left unanswered.
            tries: After how many of them it counts as silent.
            command: Whether a person waits.
            parity: What is known of the path; None when both have to be tried.
        """
        if not command:
            return 1
        silence = self._meters.get(device)
        if silence is None or not silence.times:
            return max(1, tries - unanswered)
        return 2 if parity is None else 1

    def unanswered(self, device: uuid.UUID, name: str, *, silent: bool) -> None:
        """Note a session in which it said nothing; ``silent``: so often that it is left alone now."""
        now = self._monotonic()
        silence = self._meters.setdefault(device, _Silence(name))
        if not silent:
            silence.behind_until = silence.behind_until or now + NEIGHBOURS_FIRST
            return
        silence.behind_until = 0.0
        silence.until = now + min(self._limits.back_off * 2**silence.times, self._limits.longest_back_off)
        silence.times += 1
