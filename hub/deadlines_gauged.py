"""Deadlines for Prometheus: the period whose deadline is next, of each deadline, as it was seen last; and webhooks.

Labels are a deadline's name and its organization's id, of at most ``MOST`` deadlines: the page is open to everybody, so
it names no customers.
"""

from prometheus_client import CollectorRegistry, Gauge
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import Deadline, DeadlinePeriod, Notification
from hub.webhooks import GAVE_UP

MOST = 200
"""Deadlines that are shown, those first that were made first."""

_LABELS = ("deadline", "organization")
_TEXTS = {
    "metergate_deadline_expected": "Values expected in the period whose deadline is next",
    "metergate_deadline_stored": "Values of it that are stored",
    "metergate_deadline_projected": "Values of it that are projected to be stored in time",
    "metergate_deadline_possible": "Values of it that may be stored in time at best",
    "metergate_deadline_projected_ratio": "Share of the expected that is projected; 1 when nothing is expected",
    "metergate_deadline_target_ratio": "Share of the expected that is to be stored in time",
    "metergate_deadline_seconds_left": "Seconds until the deadline, as of the last look",
    "metergate_deadline_result_ratio": "Share that was stored in time in the last period that is over",
}


async def gauge(session: AsyncSession, registry: CollectorRegistry) -> None:
    """Put the figures into a registry."""
    gauges = {name: Gauge(name, text, _LABELS, registry=registry) for name, text in _TEXTS.items()}
    wanted = (
        select(Deadline.id, Deadline.name, Deadline.organization)
        .where(Deadline.is_active)
        .order_by(Deadline.created_at, Deadline.id)
        .limit(MOST)
    )
    labels = {row.id: (row.name, str(row.organization)) for row in await session.execute(wanted)}
    running = select(DeadlinePeriod).where(
        DeadlinePeriod.deadline.in_(labels), DeadlinePeriod.closed_at.is_(None), DeadlinePeriod.seen_at.is_not(None)
    )
    # The next deadline last, so that its figures stay.
    for row in await session.scalars(running.order_by(DeadlinePeriod.due_at.desc(), DeadlinePeriod.zone.desc())):
        of = labels[row.deadline]
        for name, value in (
            ("expected", row.expected),
            ("stored", row.stored),
            ("projected", row.projected),
            ("possible", row.possible),
            ("projected_ratio", row.projected / row.expected if row.expected else 1),
            ("target_ratio", float(row.target_percent) / 100),
            ("seconds_left", (row.due_at - (row.seen_at or row.due_at)).total_seconds()),
        ):
            gauges[f"metergate_deadline_{name}"].labels(*of).set(value)
    last = (
        select(DeadlinePeriod.deadline, func.max(DeadlinePeriod.due_at).label("due_at"))
        .where(DeadlinePeriod.deadline.in_(labels), DeadlinePeriod.closed_at.is_not(None), DeadlinePeriod.expected > 0)
        .group_by(DeadlinePeriod.deadline)
        .subquery()
    )
    over = select(DeadlinePeriod).join(
        last, (last.c.deadline == DeadlinePeriod.deadline) & (last.c.due_at == DeadlinePeriod.due_at)
    )
    for row in await session.scalars(over.where(DeadlinePeriod.expected > 0).order_by(DeadlinePeriod.zone)):
        gauges["metergate_deadline_result_ratio"].labels(*labels[row.deadline]).set(row.stored / row.expected)
    for name, text, condition in (
        ("metergate_webhooks_open", "Events that are still to be delivered", Notification.ended_at.is_(None)),
        ("metergate_webhooks_gave_up", "Events that were given up and are kept", Notification.state == GAVE_UP),
    ):
        number = await session.scalar(select(func.count()).select_from(Notification).where(condition))
        Gauge(name, text, registry=registry).set(number or 0)
