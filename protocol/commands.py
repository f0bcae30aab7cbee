"""On-demand commands and what becomes of them.

A command names the store it is for: an agent that has lost its store cannot know whether it ran the command before,
so it refuses, and the hub reports the command as interrupted rather than let it run twice. A command that comes over
MQTT from a caller (direct invocation) may leave the store out; then its id is remembered like any other.
"""

import uuid
from typing import Annotated, Any

import msgspec

from protocol.readings import NewMeterReading
from protocol.wire import Checked, Instant, Sequence, State, StoreId, Text, Word

ACCEPTED = "accepted"
RUNNING = "running"
DONE = "done"
FAILED = "failed"
REFUSED = "refused"
EXPIRED = "expired"
CANCELLED = "cancelled"
INTERRUPTED = "interrupted"

FINAL_STATES = frozenset({DONE, FAILED, REFUSED, EXPIRED, CANCELLED, INTERRUPTED})
"""Every command ends in exactly one of these."""

MAX_COMMAND_SECONDS = 7 * 86400
"""The longest life a command may ask for, its delay included."""


MOST_PRIORITY = 9
"""The most urgent; what says nothing has 0."""


class Command(Checked, frozen=True, array_like=True):
    """Run one call on one meter now (or after ``delay_seconds``), unless it is older than ``ttl_seconds``.

    The meter is named by ``device`` (UUID), or by ``meter`` (its name in the plan) when device is None.
    ``expires`` is ``issued`` plus ``ttl_seconds`` by the sender's clock; an agent whose own clock is not believed
    counts by the latest time that it knows to have been, or from the arrival if it knows none.
    With ``cancels`` set the command asks for the end of that other command, and nothing else counts.
    With ``background`` it is run only when nothing else is due on the meter's line, and within the gateway's budget of
    line time for such commands; an agent that does not know the field runs it as any other command.
    Of commands that wait for one line those of a higher ``priority`` come first, equal ones as they arrived.
    """

    id: uuid.UUID
    gateway: Word
    context: Word
    call: Word
    kwargs: dict[str, Any]
    issued: Instant
    ttl_seconds: Annotated[int, msgspec.Meta(ge=1, le=MAX_COMMAND_SECONDS)]
    device: uuid.UUID | None = None
    meter: Word = ""
    delay_seconds: Annotated[int, msgspec.Meta(ge=0, le=MAX_COMMAND_SECONDS)] = 0
    store: StoreId | None = None
    cancels: uuid.UUID | None = None
    background: bool = False
    priority: Annotated[int, msgspec.Meta(ge=0, le=MOST_PRIORITY)] = 0


class CommandUpdate(Checked, frozen=True, array_like=True, tag="command"):
    """One step in the life of a command; a lower (session, sequence) never overwrites a higher one.

    ``origin`` is ``hub`` or the caller's name, ``command`` the whole command when the hub may not know it yet
    (direct invocation), ``cause`` the first cause of an end that is not ``done``, ``readings`` the result.
    """

    id: uuid.UUID
    command_id: uuid.UUID
    state: State
    at: Instant
    session: Sequence
    sequence: Sequence
    origin: Word = "hub"
    cause: Text = ""
    readings: list[NewMeterReading] = msgspec.field(default_factory=list)
    result: dict[str, Any] = msgspec.field(default_factory=dict)
    command: Command | None = None
