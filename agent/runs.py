"""What a line is asked to do, and what came of it: the words between scheduler, store, uplink and lines.

Rules: values only. A ``Run`` says everything that a line's worker needs to carry it out, so that a worker never asks
the store what to do; a ``RunResult`` says everything that the store writes in one transaction (readings, outcome and
what is held of an archive). ``LineMemory`` is the little that a line has to remember across restarts.
"""

import dataclasses
import datetime as dt
import uuid
from typing import Any, Protocol

import msgspec

from contexts.meters import Answer, Held, Layout
from protocol.plans import Device


class Earlier(msgspec.Struct, frozen=True, array_like=True):
    """What the slices of a background run have brought before: readings stored, bytes moved, the first problem."""

    readings: int = 0
    line_bytes: int = 0
    problem: str = ""


NOTHING_EARLIER = Earlier()


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One call to be made on one meter: by a task at a tick, or by a command.

    Attributes:
        id: The run's own id, made when it is stored.
        device: The meter as the plan described it when the run began.
        context: Name of the execution context, e.g. ``generic_lis200``.
        call: Name of the call in that context.
        kwargs: Its arguments as the task or command gave them; judged again before the call is made.
        tick: The due time without the offset, UTC; None for a command.
        since: For a coalesced run the oldest tick that was missed, UTC.
        task: The task that it runs for; None for a command.
        command: The command that it runs for; None for a task. Commands come before scheduled runs.
        not_before: UTC before which the run must not start (tick plus offset, or a command's delay); None: at once.
        priority: Of commands that wait for one line the higher come first.
        background: Whether it has the line only while nothing else is due there, see ``agent.background``.
        earlier: What its slices have brought so far.
    """

    id: uuid.UUID
    device: Device
    context: str
    call: str
    kwargs: dict[str, Any]
    tick: dt.datetime | None = None
    since: dt.datetime | None = None
    task: uuid.UUID | None = None
    command: uuid.UUID | None = None
    not_before: dt.datetime | None = None
    background: bool = False
    earlier: Earlier = NOTHING_EARLIER
    priority: int = 0

    @property
    def urgent(self) -> bool:
        """Whether somebody waits for it: a command overtakes what is scheduled, unless it is for the background."""
        return self.command is not None and not self.background


@dataclasses.dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        run: The run that ended.
        outcome: One of the outcomes in ``protocol.reports`` (``DONE``, ``FAILED``, ``WRONG_METER``, ...).
        cause: The first cause in a sentence that names line and meter; empty when the outcome is ``DONE``.
        started: UTC when the line began to work on it; None if it never did.
        ended: UTC when it ended; also the collection time of its readings.
        answer: What the call brought; None if it failed as a whole. A run that failed because some rows were damaged
            still has an answer, and what that holds counts.
        line_bytes: Bytes that the run moved on the line, both directions, its share of the session included.
        kind: What kind of failure it was, see ``agent.failure_kinds``; empty unless the outcome is ``FAILED``.
        clock_offset: Seconds that the meter's clock was ahead of the gateway's when last asked; None if not known.
    """

    run: Run
    outcome: str
    cause: str
    started: dt.datetime | None
    ended: dt.datetime
    answer: Answer | None = None
    line_bytes: int = 0
    clock_offset: float | None = None
    kind: str = ""


class LineMemory(Protocol):
    """What lines remember across restarts. All calls are synchronous and quick; the store implements them."""

    def layout(self, device: uuid.UUID, archive: int) -> Layout | None:
        """Return the columns of a meter's archive if they were read before."""

    def keep_layout(self, device: uuid.UUID, archive: int, layout: Layout) -> None:
        """Remember the columns of a meter's archive."""

    def held(self, device: uuid.UUID, archive: int) -> Held | None:
        """Return which rows of a meter's archive are stored without a gap."""

    def line_rate(self, line: uuid.UUID) -> int | None:
        """Return the rate in baud at which a session was open when the process died; None if none was."""

    def keep_line_rate(self, line: uuid.UUID, rate: int | None) -> None:
        """Remember the rate in baud of the open session, or None once it has ended."""
