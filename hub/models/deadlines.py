"""Deadlines: by when which readings should be there, how that went period by period, and who was told of it."""

import datetime as dt
import decimal
import uuid
from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Index, String, Table, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from hub.models.base import Base, Dated, Identified, owner


class Deadline(Identified, Base):
    """What is expected of a task group's meters (of all, without one) in a period has to be stored in time.

    In time is ``within_seconds`` after the period's end. Of which series says ``deadline_series``: of all, when it has
    none of this deadline. ``webhook_secret`` is sealed for the hub's key (``hub.secrets_box``).
    """

    __tablename__ = "deadlines"
    __table_args__ = (UniqueConstraint("organization", "name"),)

    organization: Mapped[uuid.UUID] = owner()
    name: Mapped[str] = mapped_column(String(100))
    description: Mapped[str] = mapped_column(String(500), default="")
    task_group: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("amr_task_groups.id"), index=True)
    interval: Mapped[str] = mapped_column(String(20))
    anchor_seconds: Mapped[int] = mapped_column(default=0)
    within_seconds: Mapped[int]
    target_percent: Mapped[decimal.Decimal]
    patience_seconds: Mapped[int] = mapped_column(default=300)
    is_active: Mapped[bool] = mapped_column(default=True)
    webhook_url: Mapped[str | None] = mapped_column(String(500))
    webhook_secret: Mapped[bytes | None]


deadline_series = Table(
    "deadline_series",
    Base.metadata,
    Column("deadline", ForeignKey("deadlines.id", ondelete="CASCADE"), primary_key=True),
    Column("series", ForeignKey("meter_reading_series.id"), primary_key=True, index=True),
)


class DeadlinePeriod(Base):
    """One period of one deadline where clocks show one zone's time: values with a time after ``start``, up to ``end``.

    Until it is *closed*, soon after ``due_at``, its figures are those of the last look (``seen_at``). From then on
    ``stored`` is what was stored in time and stays; only ``late`` still rises. ``reasons`` says of what was neither
    which state or reason it had when the period was closed. ``alerted``: it was told that the projection is below the
    target; ``turned_at``: since when it is on the other side of it than was told; ``events`` have been made.
    """

    __tablename__ = "deadline_periods"
    __table_args__ = (
        UniqueConstraint("deadline", "zone", "slot"),
        Index("ix_deadline_periods_deadline_start", "deadline", "start"),
        Index(
            "ix_deadline_periods_open",
            "due_at",
            sqlite_where=text("closed_at IS NULL"),
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index(
            "ix_deadline_periods_watched",
            "counted_at",
            sqlite_where=text("counted_at IS NOT NULL"),
            postgresql_where=text("counted_at IS NOT NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    deadline: Mapped[uuid.UUID] = mapped_column(ForeignKey("deadlines.id", ondelete="CASCADE"))
    zone: Mapped[str] = mapped_column(String(64))
    slot: Mapped[int] = mapped_column(BigInteger)
    start: Mapped[dt.datetime]
    end: Mapped[dt.datetime]
    due_at: Mapped[dt.datetime]
    target_percent: Mapped[decimal.Decimal]
    seen_at: Mapped[dt.datetime | None]
    expected: Mapped[int] = mapped_column(BigInteger, default=0)
    stored: Mapped[int] = mapped_column(BigInteger, default=0)
    late: Mapped[int] = mapped_column(BigInteger, default=0)
    possible: Mapped[int] = mapped_column(BigInteger, default=0)
    projected: Mapped[int] = mapped_column(BigInteger, default=0)
    reasons: Mapped[dict[str, Any]] = mapped_column(default=dict)
    closed_at: Mapped[dt.datetime | None]
    counted_at: Mapped[dt.datetime | None]
    """When late values were counted last; None while it is open, and when none are waited for any more."""
    alerted: Mapped[bool] = mapped_column(default=False)
    turned_at: Mapped[dt.datetime | None]
    events: Mapped[int] = mapped_column(default=0)


class DeadlinePart(Base):
    """A closed period's share of one gateway or task group; ``key`` is its id, null for meters that have none.

    Not a reference: what was is told after a gateway has gone, too, by its ``name`` then.
    """

    __tablename__ = "deadline_parts"
    __table_args__ = (Index("ix_deadline_parts_period", "period", "kind"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    period: Mapped[uuid.UUID] = mapped_column(ForeignKey("deadline_periods.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(10))
    key: Mapped[uuid.UUID | None]
    name: Mapped[str] = mapped_column(Text, default="")
    expected: Mapped[int] = mapped_column(BigInteger)
    stored: Mapped[int] = mapped_column(BigInteger)
    late: Mapped[int] = mapped_column(BigInteger, default=0)
    reasons: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Notification(Dated, Base):
    """One event for a deadline's webhook: ``body`` is what is sent, the same at every try, ``id`` the event's id.

    States: ``waiting`` (for ``next_at``), ``sending`` (a relay is at it; another one takes over at ``next_at``), and
    the ends ``delivered``, ``gave_up``, ``cancelled``.
    """

    __tablename__ = "notifications"
    __table_args__ = (
        Index("ix_notifications_deadline_created_at", "deadline", "created_at"),
        Index(
            "ix_notifications_open",
            "next_at",
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    deadline: Mapped[uuid.UUID] = mapped_column(ForeignKey("deadlines.id", ondelete="CASCADE"))
    period: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("deadline_periods.id", ondelete="SET NULL"), index=True)
    type: Mapped[str] = mapped_column(String(30))
    body: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(20), default="waiting")
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[dt.datetime]
    last_status: Mapped[int | None]
    last_error: Mapped[str] = mapped_column(Text, default="")
    ended_at: Mapped[dt.datetime | None]
