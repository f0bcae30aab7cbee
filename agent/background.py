"""Background commands on one line: when they may have it, for how long, and where they go on.

Role: the rules; the line's worker (``agent.lines``) asks them and does the rest. No input or output; instants are
monotonic seconds.

Rules:
- A background command has the line only while nothing else is due there, and nothing becomes due within the time that
  opening a session and its next block take, as measured on this line. So it never makes a schedule late.
- It has it in *slices*: after each block of an archive it is asked again whether the line is wanted, and ends there if
  so. What a slice brought is stored, and the next one goes on at its last row, after a restart as well.
- Over time it takes no more of a line than its share (``Allowance``), however much there is to fetch.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

from agent.runs import Earlier, Run, RunResult

DEFAULT_SHARE = 0.1
"""Part of the wall time that background commands may take of each line."""

SAVED_SECONDS = 600.0
"""So much wall time's share is saved up at most: ten minutes may take twice the share, a day no more than it."""

BEGIN_SECONDS = 150.0
"""So much wall time's share must be there for a slice to begin: opening a session for one block is a poor trade."""

BLOCK_SECONDS = 1.0
"""How long a block of an archive is to last in the background: whoever wants the line waits for no more than that."""

CLOSING_SECONDS = 0.5
"""What saying goodbye takes."""

UNKNOWN_SECONDS = 5.0
"""Opening a session, and its first block with all that is asked before it, while neither was measured here."""

_FADE = 0.7
"""A measured time that was longer than later ones is forgotten by that much with each of them."""

_BY_DATE = "read_archive_by_date"
"""The one call that is cut into slices: where it begins can be said by an instant."""


class Allowance:
    """Seconds of line time that are left, saved up over time.

    Args:
        share: Seconds for each second that passes; 0: never any.
        now: The instant at which it is full.
    """

    def __init__(self, share: float, now: float) -> None:
        self._share, self._at = share, now
        self._left = share * SAVED_SECONDS

    def left(self, now: float) -> float:
        """Return the seconds that may be taken now; negative when more was taken than there was."""
        self._left = min(self._share * SAVED_SECONDS, self._left + self._share * max(0.0, now - self._at))
        self._at = max(self._at, now)
        return self._left

    def take(self, seconds: float, now: float) -> None:
        """Note that so many were taken."""
        self._left = self.left(now) - seconds

    def wait(self, now: float) -> float:
        """Return in how many seconds a slice may begin; 0: now; infinite when there is no share."""
        if self._share <= 0:
            return float("inf")
        return max(0.0, (self._share * BEGIN_SECONDS - self.left(now)) / self._share)


class _Longest:
    """About how long something takes here: the longest of late."""

    def __init__(self, unknown: float) -> None:
        self.seconds = unknown
        self._measured = False

    def took(self, seconds: float) -> None:
        self.seconds = max(seconds, self.seconds * _FADE) if self._measured else seconds
        self._measured = True


@dataclasses.dataclass(frozen=True)
class Background:
    """What all lines of a gateway have in common.

    Attributes:
        share: Of each line, see ``Allowance``.
        next_scheduled: UTC of the next scheduled run on a line, not more than a moment ago; None when there is none.
        on_part: Keeps what a slice brought, and the run as it goes on; False when that could not be stored.
        open: Whether archives may be read at all now: an outbox that is full takes none.
    """

    share: float = DEFAULT_SHARE
    next_scheduled: Callable[[uuid.UUID], dt.datetime | None] = lambda _line: None
    on_part: Callable[[RunResult, Run], bool] = lambda _result, _rest: True
    open: Callable[[], bool] = lambda: True


class IdleTime:
    """The time of one line that nobody else wants, and what is taken of it."""

    def __init__(self, background: Background, now: float, block_seconds: float) -> None:
        """Begin to count; ``block_seconds`` is how long blocks of archives last otherwise."""
        self._background = background
        self._allowance = Allowance(background.share, now)
        self._opening = _Longest(UNKNOWN_SECONDS)
        self._lead = _Longest(UNKNOWN_SECONDS)
        self.block_seconds = min(block_seconds, BLOCK_SECONDS)
        """What blocks are asked for."""
        self._block = _Longest(self.block_seconds)
        self.taken = 0.0
        """Seconds that were taken since the process started."""

    def may_begin(self, until_due: float, now: float) -> bool:
        """Whether a slice may begin, when the line is wanted in so many seconds."""
        # Two blocks: the first one's first row is the last one of the slice before.
        needed = self._opening.seconds + self._lead.seconds + self._block.seconds + CLOSING_SECONDS
        return self._background.open() and self._allowance.wait(now) <= 0 and until_due > needed

    def may_go_on(self, until_due: float, elapsed: float, now: float) -> bool:
        """Whether a slice that has lasted so long may have one block more."""
        enough = self._allowance.left(now) > elapsed + self._block.seconds
        return self._background.open() and enough and until_due > self._block.seconds + CLOSING_SECONDS

    def wait(self, now: float) -> float:
        """Return in how many seconds the allowance lets a slice begin."""
        return self._allowance.wait(now)

    def took(self, seconds: float, now: float) -> None:
        """Note what a slice, or its session, took of the line."""
        self.taken += seconds
        self._allowance.take(seconds, now)

    def opened(self, seconds: float) -> None:
        """Learn how long a session takes to open."""
        self._opening.took(seconds)

    def block_came(self, seconds: float, *, first: bool) -> None:
        """Learn how long a block takes; the ``first`` with all that is asked before it."""
        (self._lead if first else self._block).took(seconds)


def comes_in_slices(run: Run) -> bool:
    """Whether the run may be cut after any block, and goes on from there."""
    return run.background and run.call == _BY_DATE


def rest_of(result: RunResult) -> Run:
    """Return what is left to do after a slice: the same run from its last row on.

    The row comes again, because others may bear the same second.
    """
    run, answer = result.run, result.answer
    instants = [value.timestamp for value in answer.values if value.timestamp is not None] if answer else []
    kwargs: dict[str, Any] = dict(run.kwargs)
    if instants:
        kwargs["start_date"] = max(instants).astimezone(dt.UTC).isoformat()
    before = run.earlier
    problems = answer.problems if answer else []
    earlier = Earlier(
        before.readings + (len(answer.values) if answer else 0),
        before.line_bytes + result.line_bytes,
        before.problem or (str(problems[0]) if problems else ""),
    )
    return dataclasses.replace(run, kwargs=kwargs, earlier=earlier)
