"""The hub's tables, all of them, on PostgreSQL and SQLite alike.

Columns carry the names of the REST fields, foreign keys included (``organization`` is the organization's id), and
there are no relationships: operations say what they read. ``created_at`` and ``updated_at`` are given by the
operation that writes the row, from the hub's clock. The schema itself is made by ``hub/migrations``; a test compares
the two. On PostgreSQL ``readings`` is partitioned by month of its timestamp (there its key is (id, timestamp)).
"""

import datetime as dt
import decimal
import uuid
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from hub.columns import BigId, Document, ExactDecimal, UtcDateTime

_COUNTED = {"sqlite_autoincrement": True}
"""Ids that clients have seen are never given again, not even after the newest row was deleted."""


class Base(DeclarativeBase):
    """What all tables share: constraint names that migrations can rely on, and a column type for each Python type."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own interface
        decimal.Decimal: ExactDecimal,
        dt.datetime: UtcDateTime,
        uuid.UUID: Uuid,
        bytes: LargeBinary,
        dict[str, Any]: Document,
        list[Any]: Document,
    }


class Dated:
    """Columns of every row that people edit."""

    created_at: Mapped[dt.datetime]
    updated_at: Mapped[dt.datetime]


class Identified(Dated):
    """A row that people edit and programs name by a UUID."""

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


def _owner() -> Mapped[uuid.UUID]:
    return mapped_column(ForeignKey("organizations.id"), index=True)


class Organization(Identified, Base):
    """Who owns gateways, meters, tasks and readings."""

    __tablename__ = "organizations"

    name: Mapped[str] = mapped_column(String(64), unique=True)
    is_active: Mapped[bool] = mapped_column(default=True)


class Token(Base):
    """A staff token. The key itself is never stored, only its SHA-256."""

    __tablename__ = "tokens"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column(String(150))
    digest: Mapped[bytes] = mapped_column(unique=True)
    created: Mapped[dt.datetime]
    revoked: Mapped[dt.datetime | None]


class Gateway(Identified, Base):
    """Where an agent runs: what it should run (desired), what was sent (published), what it says it runs (applied).

    ``content_digest`` is the digest of the plan's content without revision and time of issue: only a change of it
    raises ``desired_revision``; ``desired_at`` is when it was raised. ``session``, ``sequence`` order state-like
    messages: a lower one is ignored. ``rival_*``, ``past_stores``, ``said_at`` are of ``hub.rivals``.
    """

    __tablename__ = "gateways"

    gateway_id: Mapped[str] = mapped_column(String(63), unique=True)
    organization: Mapped[uuid.UUID] = _owner()
    name: Mapped[str] = mapped_column(String(150), default="")
    description: Mapped[str] = mapped_column(String(500), default="")
    public_key: Mapped[bytes | None]
    desired_revision: Mapped[int] = mapped_column(BigInteger, default=0)
    desired_at: Mapped[dt.datetime | None]
    content_digest: Mapped[bytes | None]
    published_revision: Mapped[int] = mapped_column(BigInteger, default=0)
    published_digest: Mapped[bytes | None]
    applied_revision: Mapped[int] = mapped_column(BigInteger, default=0)
    applied_digest: Mapped[bytes | None]
    applied_problems: Mapped[list[Any]] = mapped_column(default=list)
    applied_session: Mapped[int] = mapped_column(BigInteger, default=0)
    applied_sequence: Mapped[int] = mapped_column(BigInteger, default=0)
    session: Mapped[int] = mapped_column(BigInteger, default=0)
    sequence: Mapped[int] = mapped_column(BigInteger, default=0)
    online: Mapped[bool] = mapped_column(default=False)
    last_seen: Mapped[dt.datetime | None]
    store_id: Mapped[bytes | None]
    software: Mapped[str] = mapped_column(Text, default="")
    readings_through: Mapped[int] = mapped_column(BigInteger, default=0)
    reports_through: Mapped[int] = mapped_column(BigInteger, default=0)
    depth: Mapped[int] = mapped_column(BigInteger, default=0)
    oldest: Mapped[dt.datetime | None]
    clock_believed: Mapped[bool] = mapped_column(default=True)
    status: Mapped[str] = mapped_column(Text, default="")
    said_at: Mapped[dt.datetime | None]
    rival_store: Mapped[bytes | None]
    rival_said_at: Mapped[dt.datetime | None]
    rival_returns: Mapped[int] = mapped_column(default=0)
    rival_key: Mapped[bytes | None]
    rival_at: Mapped[dt.datetime | None]
    past_stores: Mapped[list[Any]] = mapped_column(default=list)
    lines: Mapped[list[Any]] = mapped_column(default=list)


class NetworkInterface(Identified, Base):
    """A way to meters: a host and port, or (additive) a serial line of a gateway; ``gateway`` says who polls it."""

    __tablename__ = "network_interfaces"

    organization: Mapped[uuid.UUID] = _owner()
    static_ip_address: Mapped[str | None] = mapped_column(String(45))
    fqdn: Mapped[str | None] = mapped_column(String(200))
    port: Mapped[int | None]
    sim: Mapped[uuid.UUID | None]
    can_block: Mapped[bool] = mapped_column(default=False)
    is_blocked: Mapped[bool] = mapped_column(default=False)
    block_time: Mapped[dt.datetime | None]
    gateway: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("gateways.id"), index=True)
    name: Mapped[str] = mapped_column(String(150), default="")
    serial_port: Mapped[str | None] = mapped_column(String(255))
    rate: Mapped[int] = mapped_column(default=300)
    fixed_rate: Mapped[bool] = mapped_column(default=False)
    parity: Mapped[str] = mapped_column(String(10), default="auto")
    wake_up: Mapped[bool] = mapped_column(default=False)
    echo: Mapped[bool] = mapped_column(default=False)


class ReadingSeries(Identified, Base):
    """A named time series of an organization, with its unit."""

    __tablename__ = "meter_reading_series"
    __table_args__ = (UniqueConstraint("organization", "name"),)

    organization: Mapped[uuid.UUID] = _owner()
    name: Mapped[str] = mapped_column(String(50))
    description: Mapped[str] = mapped_column(String(250), default="")
    unit: Mapped[str] = mapped_column(String(10))
    unit_description: Mapped[str | None] = mapped_column(String(250))
    si_multiplier: Mapped[decimal.Decimal]
    affected_by_ct_ratio: Mapped[bool] = mapped_column(default=False)
    affected_by_vt_ratio: Mapped[bool] = mapped_column(default=False)


class MeterDeviceConfig(Identified, Base):
    """Which series the meters of a type may have (``config_series``), their time zone, and other series names.

    ``mappings`` is a list of ``{"archive": int, "source": str, "series": str}``.
    """

    __tablename__ = "meter_device_configs"

    organization: Mapped[uuid.UUID] = _owner()
    name: Mapped[str] = mapped_column(String(50))
    timezone: Mapped[str] = mapped_column(String(64), default="UTC")
    mappings: Mapped[list[Any]] = mapped_column(default=list)


config_series = Table(
    "config_series",
    Base.metadata,
    Column("config", ForeignKey("meter_device_configs.id", ondelete="CASCADE"), primary_key=True),
    Column("series", ForeignKey("meter_reading_series.id"), primary_key=True, index=True),
)


class MeterDeviceType(Identified, Base):
    """A model of meter."""

    __tablename__ = "meter_device_types"

    organization: Mapped[uuid.UUID] = _owner()
    name: Mapped[str] = mapped_column(String(50))
    description: Mapped[str] = mapped_column(String(500), default="")
    manufacturer: Mapped[str] = mapped_column(String(100))
    manufacturer_model: Mapped[str] = mapped_column(String(50))
    config: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("meter_device_configs.id"), index=True)


class AmrTask(Identified, Base):
    """How and when to poll. ``missed_policy`` (additive) is one of ``protocol.plans.MISSED_POLICIES``."""

    __tablename__ = "amr_tasks"

    organization: Mapped[uuid.UUID] = _owner()
    name: Mapped[str] = mapped_column(String(150))
    description: Mapped[str] = mapped_column(String(500), default="")
    is_active: Mapped[bool] = mapped_column(default=True)
    schedule: Mapped[str] = mapped_column(String(20))
    run_offset_seconds: Mapped[int] = mapped_column(default=0)
    meter_execution_type: Mapped[str] = mapped_column(String(50))
    task_call: Mapped[str] = mapped_column(String(50))
    task_kwargs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    missed_policy: Mapped[str] = mapped_column(String(10), default="default")


class AmrTaskGroup(Identified, Base):
    """Tasks managed together (``group_tasks``) and given to many meters (``device_groups``)."""

    __tablename__ = "amr_task_groups"

    organization: Mapped[uuid.UUID] = _owner()
    name: Mapped[str] = mapped_column(String(150))
    description: Mapped[str] = mapped_column(String(500), default="")


class MeterDevice(Identified, Base):
    """A physical meter. ``timezone`` (additive) overrides its type's config's."""

    __tablename__ = "meter_devices"
    __table_args__ = (
        UniqueConstraint("organization", "name"),
        # SQL holds two NULLs for different; two meters without organization must still differ in name.
        Index(
            "uq_meter_devices_name_alone",
            "name",
            unique=True,
            sqlite_where=text("organization IS NULL"),
            postgresql_where=text("organization IS NULL"),
        ),
    )

    organization: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("organizations.id"))
    name: Mapped[str] = mapped_column(String(50), index=True)
    external_system_reference: Mapped[str | None] = mapped_column(String(50))
    manufacturer_serial: Mapped[str | None] = mapped_column(String(50))
    protocol: Mapped[str] = mapped_column(String(20))
    iec62056_21_address: Mapped[str | None] = mapped_column(String(8))
    dlms_logical_device_name: Mapped[str | None] = mapped_column(String(32))
    dlms_system_title: Mapped[str | None] = mapped_column(String(16))
    type: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("meter_device_types.id"), index=True)
    network_interface: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("network_interfaces.id"), index=True)
    has_current_transformer: Mapped[bool] = mapped_column(default=False)
    current_transformer_ratio: Mapped[int] = mapped_column(default=1)
    has_voltage_transformer: Mapped[bool] = mapped_column(default=False)
    voltage_transformer_ratio: Mapped[int] = mapped_column(default=1)
    has_disconnector: Mapped[bool] = mapped_column(default=False)
    disconnector_status: Mapped[int | None]
    timezone: Mapped[str | None] = mapped_column(String(64))


device_groups = Table(
    "device_groups",
    Base.metadata,
    Column("device", ForeignKey("meter_devices.id", ondelete="CASCADE"), primary_key=True),
    Column("group", ForeignKey("amr_task_groups.id", ondelete="CASCADE"), primary_key=True, index=True),
)

device_tasks = Table(
    "device_tasks",
    Base.metadata,
    Column("device", ForeignKey("meter_devices.id", ondelete="CASCADE"), primary_key=True),
    Column("task", ForeignKey("amr_tasks.id", ondelete="CASCADE"), primary_key=True, index=True),
)

group_tasks = Table(
    "group_tasks",
    Base.metadata,
    Column("group", ForeignKey("amr_task_groups.id", ondelete="CASCADE"), primary_key=True),
    Column("task", ForeignKey("amr_tasks.id", ondelete="CASCADE"), primary_key=True, index=True),
)


class DeviceGateway(Base):
    """Every gateway that a meter was ever assigned to, so that a backlog of its old gateway still counts."""

    __tablename__ = "device_gateways"

    device: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id", ondelete="CASCADE"), primary_key=True)
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id", ondelete="CASCADE"), primary_key=True)
    since: Mapped[dt.datetime]


class Batch(Base):
    """What is the same for all rows of a delivered batch, and what became of them."""

    __tablename__ = "batches"
    __table_args__ = (UniqueConstraint("gateway", "store", "channel", "first", "last", "digest"), _COUNTED)

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
    set only when the current value was collected more than once: then it is the first time.
    """

    __tablename__ = "readings"
    __table_args__ = (UniqueConstraint("meter_device", "series", "timestamp"), _COUNTED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    organization: Mapped[uuid.UUID] = _owner()
    meter_device: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id"))
    series: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_reading_series.id"), index=True)
    timestamp: Mapped[dt.datetime] = mapped_column(index=True)
    value: Mapped[decimal.Decimal]
    unit: Mapped[str] = mapped_column(Text, default="")
    provenance: Mapped[str] = mapped_column(Text, default="meter")
    collected: Mapped[dt.datetime]
    first_collected: Mapped[dt.datetime | None]
    clock_offset: Mapped[float | None]
    batch: Mapped[int | None] = mapped_column(BigId, ForeignKey("batches.id"))
    version_count: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[dt.datetime]


class ReadingVersion(Base):
    """One of several values that arrived for the same reading, with when it was first and last collected."""

    __tablename__ = "reading_versions"
    __table_args__ = (UniqueConstraint("meter_device", "series", "timestamp", "value"), _COUNTED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    meter_device: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_devices.id"))
    series: Mapped[uuid.UUID] = mapped_column(ForeignKey("meter_reading_series.id"))
    timestamp: Mapped[dt.datetime]
    value: Mapped[decimal.Decimal]
    first_collected: Mapped[dt.datetime]
    collected: Mapped[dt.datetime]
    batch: Mapped[int | None] = mapped_column(BigId, ForeignKey("batches.id"))


class StagedReading(Dated, Base):
    """A reading that cannot be a reading yet, with the reason; adopted when the reason is gone, or purged.

    ``identity`` is a digest over what makes two deliveries the same (gateway or organization, device or name, series,
    timestamp, value): repeated deliveries stage once.
    """

    __tablename__ = "staged_meter_readings"
    __table_args__ = (_COUNTED,)

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
    __table_args__ = (_COUNTED,)

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
    __table_args__ = (Index("ix_meter_system_events_meter_device_timestamp", "meter_device", "timestamp"), _COUNTED)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    organization: Mapped[uuid.UUID] = _owner()
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
    """One run of a task or command on a gateway, and its outcome."""

    __tablename__ = "run_reports"
    __table_args__ = (
        Index("ix_run_reports_device_ended", "device", "ended"),
        Index(
            "ix_run_reports_failed",
            "gateway",
            "ended",
            sqlite_where=text("outcome <> 'done'"),
            postgresql_where=text("outcome <> 'done'"),
        ),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id"), index=True)
    device: Mapped[uuid.UUID]
    task: Mapped[uuid.UUID | None] = mapped_column(index=True)
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


class Caller(Identified, Base):
    """Who may invoke calls on a gateway over MQTT: ``allowed`` has ``context.call`` or ``context.*``."""

    __tablename__ = "callers"
    __table_args__ = (UniqueConstraint("gateway", "name"),)

    organization: Mapped[uuid.UUID] = _owner()
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id"))
    name: Mapped[str] = mapped_column(String(63))
    public_key: Mapped[bytes]
    allowed: Mapped[list[Any]] = mapped_column(default=list)
    expires: Mapped[dt.datetime | None]


class Command(Identified, Base):
    """An on-demand call and where it stands.

    States are those of ``protocol.commands`` and, before the gateway has answered, ``pending`` and ``sent``.
    ``store_id`` is pinned when the command is first published; ``session``, ``sequence`` are those of the update that
    set the state. ``origin`` is ``hub``, or the caller's name for a direct invocation over MQTT.
    """

    __tablename__ = "commands"
    __table_args__ = (Index("ix_commands_state_expires_at", "state", "expires_at"),)

    organization: Mapped[uuid.UUID] = _owner()
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id"), index=True)
    meter_device: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("meter_devices.id", ondelete="SET NULL"))
    meter: Mapped[str] = mapped_column(Text, default="")
    context: Mapped[str] = mapped_column(Text)
    call: Mapped[str] = mapped_column(Text)
    kwargs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    delay_seconds: Mapped[int] = mapped_column(default=0)
    ttl_seconds: Mapped[int]
    state: Mapped[str] = mapped_column(String(20), default="pending")
    cause: Mapped[str] = mapped_column(Text, default="")
    origin: Mapped[str] = mapped_column(Text, default="hub")
    expires_at: Mapped[dt.datetime]
    store_id: Mapped[bytes | None]
    published_at: Mapped[dt.datetime | None]
    session: Mapped[int] = mapped_column(BigInteger, default=0)
    sequence: Mapped[int] = mapped_column(BigInteger, default=0)
    readings: Mapped[list[Any]] = mapped_column(default=list)
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    ended_at: Mapped[dt.datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    cancel_published_at: Mapped[dt.datetime | None]


class CommandUpdate(Base):
    """The history of a command: every update that came, in whatever order."""

    __tablename__ = "command_updates"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    command: Mapped[uuid.UUID] = mapped_column(ForeignKey("commands.id", ondelete="CASCADE"), index=True)
    state: Mapped[str] = mapped_column(Text)
    at: Mapped[dt.datetime]
    session: Mapped[int] = mapped_column(BigInteger)
    sequence: Mapped[int] = mapped_column(BigInteger)
    cause: Mapped[str] = mapped_column(Text, default="")


class HubState(Base):
    """What the hub remembers about itself, such as its id."""

    __tablename__ = "hub_state"

    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
