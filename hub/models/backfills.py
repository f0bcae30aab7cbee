"""Gaps that are being closed: one row for each window of an archive that is, or was, to be read again."""

import datetime as dt
import uuid

from sqlalchemy import ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from hub.models.base import Base, Identified, owner


class Backfill(Identified, Base):
    """Rows of one archive of one meter from ``start`` to ``end`` (both included), and how fetching them stands.

    States: ``waiting`` (for its turn, or for ``next_at``), ``fetching`` (``command`` is under way), ``settling`` (the
    command has ended, and what it brought may still be on its way); and the ends ``done``, ``gave_up``,
    ``cancelled``. ``paused`` holds a waiting one where it is. ``noticed_at`` is when its state was last seen: nothing
    is concluded from before the gateway has delivered what it had then. ``request`` ties what one operator asked for.
    """

    __tablename__ = "backfills"
    __table_args__ = (
        Index("ix_backfills_meter_device_archive", "meter_device", "archive"),
        Index(
            "ix_backfills_open",
            "state",
            "next_at",
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index("ix_backfills_created_at", "created_at"),
    )

    organization: Mapped[uuid.UUID] = owner()
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id", ondelete="CASCADE"), index=True)
    meter_device: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id", ondelete="CASCADE"))
    archive: Mapped[int]
    start: Mapped[dt.datetime]
    end: Mapped[dt.datetime]
    state: Mapped[str] = mapped_column(String(20), default="waiting")
    paused: Mapped[bool] = mapped_column(default=False)
    priority: Mapped[int] = mapped_column(default=0)
    origin: Mapped[str] = mapped_column(String(10), default="auto")
    request: Mapped[uuid.UUID | None] = mapped_column(index=True)
    tries: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[dt.datetime]
    noticed_at: Mapped[dt.datetime]
    cost_seconds: Mapped[float]
    evidence: Mapped[str] = mapped_column(Text, default="")
    command: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("commands.id", ondelete="SET NULL"))
    ended_at: Mapped[dt.datetime | None]
