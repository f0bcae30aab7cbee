"""What gateways bring: batches, readings and their versions, what waits or could not be read, reports.

On PostgreSQL ``readings`` is partitioned by month of its timestamp (there its key is (id, timestamp)).
"""

import datetime as dt
import decimal
import uuid

from sqlalchemy import BigInteger, ForeignKey, Index, SmallInteger, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from hub.columns import BigId
from hub.models.base import COUNTED, Base, Dated, owner


class Batch(Base):
    """What is the same for all rows of a delivered batch, and what became of them."""

    __tablename__ = "batches"
    __table_args__ = (UniqueConstraint("gateway", "store", "channel", "first", "last", "digest"), COUNTED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id"))
    channel: Mapped[str] = mapped_column(String(20))
    store: Mapped[bytes]
    first: Mapped[int] = mapped_column(BigInteger)
    last: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes]
    received_at: Mapped[dt.datetime]
    stored_at: Mapped[dt.datetime]
    rows: Mapped[int] = mapped_column(default=0)
    duplicates: Mapped[int] = mapped_column(default=0)
    revisions: Mapped[int] = mapped_column(default=0)
    staged: Mapped[int] = mapped_column(default=0)


class OutboxProgress(Base):
    """How far one outbox has come, per channel: ``through`` is where the hub's batches end without a gap.

    ``asked_*`` tell of the last Resend, so that what the gateway no longer has is not asked for again and again.
    """

    __tablename__ = "outbox_progress"

    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id", ondelete="CASCADE"), primary_key=True)
    store: Mapped[bytes] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(20), primary_key=True)
    through: Mapped[int] = mapped_column(BigInteger, default=0)
    asked_first: Mapped[int] = mapped_column(BigInteger, default=0)
    asked_through: Mapped[int] = mapped_column(BigInteger, default=0)
    asked_at: Mapped[dt.datetime | None]


class Reading(Base):
    """A reading: key (meter_device, series, timestamp) and the current version of its value.

    Current is the version collected last (of equal instants the greater value). ``version_count`` is the number of
    distinct values that arrived; when it is more than one, ``ReadingVersion`` has all of them. ``first_collected`` is
    set only when the current value was collected more than once: then it is the first time. ``flags`` are bits of
    ``hub.validation``.
    """

    __tablename__ = "readings"
    __table_args__ = (
        UniqueConstraint("meter_device", "series", "timestamp"),
        # What a cursor goes along: many readings are of one instant.
        Index("ix_readings_timestamp_id", "timestamp", "id"),
        Index(
            "ix_readings_flagged",
            "meter_device",
            "timestamp",
            sqlite_where=text("flags <> 0"),
            postgresql_where=text("flags <> 0"),
        ),
        COUNTED,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    organization: Mapped[uuid.UUID] = owner()
    meter_device: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id"))
    series: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_reading_series.id"), index=True)
    timestamp: Mapped[dt.datetime]
    value: Mapped[decimal.Decimal]
    unit: Mapped[str] = mapped_column(Text, default="")
    provenance: Mapped[str] = mapped_column(Text, default="meter")
    collected: Mapped[dt.datetime]
    first_collected: Mapped[dt.datetime | None]
    clock_offset: Mapped[float | None]
    batch: Mapped[int | None] = mapped_column(BigId, ForeignKey("batches.id"))
    version_count: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[dt.datetime]
    flags: Mapped[int] = mapped_column(SmallInteger, default=0)


class ReadingVersion(Base):
    """One of several values that arrived for the same reading: when it was first and last collected, and which way."""

    __tablename__ = "reading_versions"
    __table_args__ = (UniqueConstraint("meter_device", "series", "timestamp", "value"), COUNTED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    meter_device: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id"))
    series: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_reading_series.id"))
    timestamp: Mapped[dt.datetime] = mapped_column(index=True)
    value: Mapped[decimal.Decimal]
    first_collected: Mapped[dt.datetime]
    collected: Mapped[dt.datetime]
    batch: Mapped[int | None] = mapped_column(BigId, ForeignKey("batches.id"))
    provenance: Mapped[str] = mapped_column(Text, default="meter")


class StagedReading(Dated, Base):
    """A reading that cannot be a reading yet, with the reason; adopted when the reason is gone, or purged.

    ``identity`` is a digest over what makes two deliveries the same (gateway or organization, device or name, series,
    timestamp, value): repeated deliveries stage once.
    """

    __tablename__ = "staged_meter_readings"
    __table_args__ = (COUNTED,)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    identity: Mapped[bytes] = mapped_column(unique=True)
    organization: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("organizations.id"))
    meter_device_name: Mapped[str] = mapped_column(String(50), index=True)
    series_name: Mapped[str] = mapped_column(String(50))
    timestamp: Mapped[dt.datetime]
    value: Mapped[decimal.Decimal]
    unit: Mapped[str] = mapped_column(Text, default="")
    device: Mapped[uuid.UUID | None] = mapped_column(index=True)
    gateway: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("gateways.id"))
    reason: Mapped[str] = mapped_column(Text, default="")
    batch: Mapped[int | None] = mapped_column(BigId, ForeignKey("batches.id"))
    collected: Mapped[dt.datetime]
    provenance: Mapped[str] = mapped_column(Text, default="meter")
    clock_offset: Mapped[float | None]


class Quarantined(Base):
    """A payload that could not be read, as it came. ``gateway`` is the topic's word, whether known or not."""

    __tablename__ = "quarantine"
    __table_args__ = (COUNTED,)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    gateway: Mapped[str] = mapped_column(Text)
    channel: Mapped[str] = mapped_column(Text)
    topic: Mapped[str] = mapped_column(Text)
    payload: Mapped[bytes]
    reason: Mapped[str] = mapped_column(Text)
    store: Mapped[bytes | None]
    first: Mapped[int | None] = mapped_column(BigInteger)
    last: Mapped[int | None] = mapped_column(BigInteger)
    digest: Mapped[bytes | None]
    identity: Mapped[bytes] = mapped_column(unique=True)
    """SHA-256 over topic and payload: a repeated delivery is quarantined once."""
    received_at: Mapped[dt.datetime]
    replayed_at: Mapped[dt.datetime | None]


class MeterSystemEvent(Dated, Base):
    """Something that a meter logged, or that staff noted about it. ``report`` is the gateway's id for it."""

    __tablename__ = "meter_system_events"
    __table_args__ = (Index("ix_meter_system_events_meter_device_timestamp", "meter_device", "timestamp"), COUNTED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    organization: Mapped[uuid.UUID] = owner()
    meter_device: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id", ondelete="CASCADE"))
    timestamp: Mapped[dt.datetime]
    title: Mapped[str] = mapped_column(String(50))
    content: Mapped[str] = mapped_column(String(500))
    code: Mapped[str] = mapped_column(Text, default="")
    report: Mapped[uuid.UUID | None] = mapped_column(unique=True)


class LossRecord(Base):
    """Rows that a gateway had to give up before they were delivered."""

    __tablename__ = "loss_records"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id"), index=True)
    device: Mapped[uuid.UUID | None]
    meter: Mapped[str] = mapped_column(Text)
    series: Mapped[str] = mapped_column(Text)
    start: Mapped[dt.datetime]
    end: Mapped[dt.datetime]
    count: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str] = mapped_column(Text)
    received_at: Mapped[dt.datetime]


class RunReport(Base):
    """One run of a task or command on a gateway, and its outcome; ``kind`` is what the gateway says of a failure."""

    __tablename__ = "run_reports"
    # One index for each filter that leaves many, in the order of the list; those of what failed have its rows only.
    __table_args__ = (
        Index("ix_run_reports_ended", "ended", "id"),
        Index("ix_run_reports_gateway_ended", "gateway", "ended"),
        Index("ix_run_reports_device_ended", "device", "ended"),
        Index("ix_run_reports_task_ended", "task", "ended"),
        Index(
            "ix_run_reports_failed",
            "gateway",
            "ended",
            sqlite_where=text("outcome <> 'done'"),
            postgresql_where=text("outcome <> 'done'"),
        ),
        Index(
            "ix_run_reports_outcome_ended",
            "outcome",
            "ended",
            sqlite_where=text("outcome <> 'done'"),
            postgresql_where=text("outcome <> 'done'"),
        ),
        Index(
            "ix_run_reports_kind_ended",
            "kind",
            "ended",
            sqlite_where=text("kind <> ''"),
            postgresql_where=text("kind <> ''"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id"))
    device: Mapped[uuid.UUID]
    task: Mapped[uuid.UUID | None]
    command: Mapped[uuid.UUID | None] = mapped_column(index=True)
    tick: Mapped[dt.datetime | None]
    outcome: Mapped[str] = mapped_column(Text)
    started: Mapped[dt.datetime | None]
    ended: Mapped[dt.datetime]
    cause: Mapped[str] = mapped_column(Text, default="")
    readings: Mapped[int] = mapped_column(BigInteger, default=0)
    line_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    since: Mapped[dt.datetime | None]
    count: Mapped[int] = mapped_column(default=1)
    received_at: Mapped[dt.datetime]
    kind: Mapped[str] = mapped_column(Text, default="", server_default="")
