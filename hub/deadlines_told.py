"""What deadlines tell: the figures of a period, and the events that a webhook gets. One form for both.

An event is made in the transaction that makes it true, and its body never changes: what a receiver gets late is what
was so then.
"""

import datetime as dt
import decimal
import uuid
from collections.abc import Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from hub.deadlines_periods import percent_of
from hub.models import Deadline, DeadlinePeriod, Notification

BELOW, RECOVERED, MET, MISSED, TEST = (
    "deadline.below",
    "deadline.recovered",
    "deadline.met",
    "deadline.missed",
    "deadline.test",
)
TYPES = (BELOW, RECOVERED, MET, MISSED, TEST)
"""What happened: the projection fell below the target, or came back; the period is over, the target met or missed."""

RUNNING, CLOSING, OVER = "running", "closing", "over"
"""States of a period: its values still have time; their time is over, and they are being counted; the result stands."""

MOST_EVENTS = 20
"""Events of one period, so that a gateway that comes and goes does not tire its people; the result always comes."""

MOST_PARTS = 10
"""Parts that an event names, those that lack most."""


class Part(msgspec.Struct, kw_only=True):
    """A gateway's, a group's or an organization's share; ``id`` is null for meters that have none."""

    id: uuid.UUID | None
    name: str
    expected: int
    stored: int
    late: int
    missing: int
    projected: int
    missing_by_reason: dict[str, int]
    percent: float | None


class Result(msgspec.Struct, kw_only=True):
    """How a period stands, or stood.

    ``expected`` are all slots of the period, ``stored`` those in time, ``late`` those that came later, ``missing`` all
    others; ``missing_by_reason`` says which state or reason what was not in time has: as of now, or, of a period that
    is over, as of its end. ``met`` is null until it is over.
    """

    start: dt.datetime
    end: dt.datetime
    zone: str
    due_at: dt.datetime
    state: str
    as_of: dt.datetime
    target_percent: decimal.Decimal
    expected: int
    stored: int
    late: int
    missing: int
    missing_by_reason: dict[str, int]
    percent: float | None
    possible: int
    projected: int
    projected_percent: float | None
    met: bool | None
    parts: list[Part] = []


class EventDeadline(msgspec.Struct, kw_only=True):
    """Whose event it is."""

    id: uuid.UUID
    name: str
    organization: uuid.UUID
    interval: str


class Event(msgspec.Struct, kw_only=True):
    """The body of an event; ``number`` counts a period's events, because they may arrive in any order."""

    id: uuid.UUID
    type: str
    timestamp: dt.datetime
    number: int
    deadline: EventDeadline
    period: Result | None


def result_of(row: DeadlinePeriod, state: str, parts: Sequence[Part] = ()) -> Result:
    """Return a period's figures as its row has them."""
    return Result(
        start=row.start,
        end=row.end,
        zone=row.zone,
        due_at=row.due_at,
        state=state,
        as_of=row.seen_at or row.start,
        target_percent=row.target_percent,
        expected=row.expected,
        stored=row.stored,
        late=row.late,
        missing=row.expected - row.stored - row.late,
        missing_by_reason=row.reasons,
        percent=percent_of(row.stored, row.expected),
        possible=row.possible,
        projected=row.projected,
        projected_percent=percent_of(row.projected, row.expected),
        met=is_met(row) if state == OVER else None,
        parts=list(parts),
    )


def is_met(row: DeadlinePeriod) -> bool:
    """Whether what was stored in time is the target at least."""
    return decimal.Decimal(row.stored) * 100 >= row.target_percent * row.expected


def part_of(
    key: uuid.UUID | None,
    name: str,
    *,
    expected: int,
    stored: int,
    late: int,
    projected: int,
    reasons: dict[str, int],
) -> Part:
    """Return a part."""
    return Part(
        id=key,
        name=name,
        expected=expected,
        stored=stored,
        late=late,
        missing=expected - stored - late,
        projected=projected,
        missing_by_reason=reasons,
        percent=percent_of(stored, expected),
    )


def worst(parts: Sequence[Part]) -> list[Part]:
    """Return the parts that an event names."""
    lacking = [part for part in parts if part.stored < part.expected]
    return sorted(lacking, key=lambda part: (part.projected - part.expected, part.name))[:MOST_PARTS]


def tell(
    session: AsyncSession,
    deadline: Deadline,
    row: DeadlinePeriod | None,
    kind: str,
    period: Result | None,
    now: dt.datetime,
) -> Notification | None:
    """Make an event, in the caller's transaction; None where there is nobody to tell, or too much was told already."""
    if deadline.webhook_url is None:
        return None
    number = 0
    if row is not None:
        if row.events >= MOST_EVENTS and kind in {BELOW, RECOVERED}:
            return None
        row.events = number = row.events + 1
    event = Event(
        id=uuid.uuid4(),
        type=kind,
        timestamp=now,
        number=number,
        deadline=EventDeadline(
            id=deadline.id, name=deadline.name, organization=deadline.organization, interval=deadline.interval
        ),
        period=period,
    )
    made = Notification(
        id=event.id,
        deadline=deadline.id,
        period=row.id if row is not None else None,
        type=kind,
        body=msgspec.json.encode(event).decode(),
        next_at=now,
        created_at=now,
        updated_at=now,
    )
    session.add(made)
    return made
