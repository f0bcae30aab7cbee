"""What was submitted for one line and is not executed yet, and what of it is next.

Rules, in this order: commands before scheduled runs, by priority; meters that answer before those that said nothing;
then by due time, equal ones as they were submitted. Nothing is next before its ``not_before``, nor before its meter's
probe (a command is a probe), and what is for the background only where somebody asks for just that.
"""

import datetime as dt
import math
import uuid
from collections.abc import Iterator

from agent.clocks import Clock
from agent.runs import Run
from agent.silence import Silences
from contexts.catalogue import CallError, find_call
from contexts.meters import LIS200, Manner

__all__ = ["LineQueue", "manner_of"]

LONGEST_WAIT = 60.0
"""Real seconds after which a waiting line looks again: the gateway's clock may have been set meanwhile."""
_FOREVER_AGO = dt.datetime.min.replace(tzinfo=dt.UTC)


class LineQueue:
    """The runs of one line that wait.

    Args:
        clock: The gateway's clock: runs are due by its time, probes by its monotonic seconds.
        silences: Which meters of the line say nothing.
    """

    def __init__(self, clock: Clock, silences: Silences) -> None:
        self._clock, self._silences = clock, silences
        self._runs: list[Run] = []

    def __iter__(self) -> Iterator[Run]:
        """Iterate over all, as they were submitted."""
        return iter(self._runs)

    def add(self, run: Run) -> None:
        """Put a run behind those that are there."""
        self._runs.append(run)

    def take(self, run: Run) -> None:
        """Take a run out; it must be there."""
        self._runs.remove(run)

    def next(
        self,
        *,
        device: uuid.UUID | None = None,
        commands: bool = False,
        manner: Manner | None = None,
        background: bool = False,
    ) -> Run | None:
        """Return what is next: of one meter (and manner), or (``commands``) only what overtakes a readout.

        With ``background`` only of what is for the background, which otherwise does not count.
        """
        now, instant = self._clock.now(), self._clock.monotonic()

        def due(run: Run) -> bool:
            if run.background is not background or (run.not_before is not None and run.not_before > now):
                return False
            if (device is not None and run.device.id != device) or manner not in {None, manner_of(run)}:
                return False
            return run.urgent or (not commands and self._silences.until(run.device.id) <= instant)

        return min(filter(due, self._runs), key=self._precedence, default=None)

    def _precedence(self, run: Run) -> tuple[bool, int, bool, dt.datetime]:
        behind = not run.urgent and self._silences.behind(run.device.id)
        return not run.urgent, -run.priority, behind, run.not_before or run.tick or _FOREVER_AGO

    def until_wanted(self, scheduled: dt.datetime | None) -> float:
        """In how many real seconds something not for the background is due; 0 when it is, infinite when nothing is.

        ``scheduled`` is when the next run will be submitted, as far as that is known.
        """
        if self.next() is not None:
            return 0.0
        now, instant = self._clock.now(), self._clock.monotonic()
        queued = (
            max(self._until_due(run, now), self._until_probe(run, instant)) for run in self._runs if not run.background
        )
        until_scheduled = math.inf if scheduled is None else (scheduled - now).total_seconds() / self._clock.rate
        return max(0.0, min(*queued, until_scheduled, math.inf))

    def until_next(self, until_idle: float) -> float:
        """In how many real seconds to look again, if nothing is submitted meanwhile; more than 0.

        ``until_idle`` is in how many the line may be idle enough for the background.
        """
        now, instant = self._clock.now(), self._clock.monotonic()
        wait = LONGEST_WAIT
        for run in self._runs:
            idle = until_idle if run.background else 0.0
            wait = min(wait, max(self._until_due(run, now), self._until_probe(run, instant), idle, 0.001))
        return wait

    def _until_due(self, run: Run, now: dt.datetime) -> float:
        return (run.not_before - now).total_seconds() / self._clock.rate if run.not_before else 0.0

    def _until_probe(self, run: Run, instant: float) -> float:
        return 0.0 if run.urgent else self._silences.until(run.device.id) - instant


def manner_of(run: Run) -> Manner:
    """What a run's session is opened for; a call that does not exist is refused before anybody is asked."""
    try:
        return find_call(run.context, run.call).manner
    except CallError:
        return LIS200
