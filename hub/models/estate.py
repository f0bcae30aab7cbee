"""What people set up: organizations, gateways, meters, series, tasks, callers; and what the hub knows of itself."""

import datetime as dt
import decimal
import uuid
from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Index, String, Table, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from hub.models.base import Base, Identified, owner


class Organization(Identified, Base):
    """Who owns gateways, meters, tasks and readings."""

    __tablename__ = "organizations"

    name: Mapped[str] = mapped_column(String(64), unique=True)
    is_active: Mapped[bool] = mapped_column(default=True)


class Gateway(Identified, Base):
    """Where an agent runs: what it should run (desired), what was sent (published), what it says it runs (applied).

    ``content_digest`` is the digest of the plan's content without revision and time of issue: only a change of it
    raises ``desired_revision``; ``desired_at`` is when it was raised. ``session``, ``sequence`` order state-like
    messages: a lower one is ignored. ``publishing_*`` are of ``hub.plan_claims``; ``rival_*``, ``past_stores`` and
    ``said_at`` are of ``hub.rivals``. While ``backfill_paused`` nothing that is missing is fetched from it.
    ``sealing_key`` is what keys of its meters are sealed with, as it said last; while ``keys_wanted`` some wait for
    that.
    """

    __tablename__ = "gateways"

    gateway_id: Mapped[str] = mapped_column(String(63), unique=True)
    organization: Mapped[uuid.UUID] = owner()
    name: Mapped[str] = mapped_column(String(150), default="")
    description: Mapped[str] = mapped_column(String(500), default="")
    public_key: Mapped[bytes | None]
    desired_revision: Mapped[int] = mapped_column(BigInteger, default=0)
    desired_at: Mapped[dt.datetime | None]
    content_digest: Mapped[bytes | None]
    published_revision: Mapped[int] = mapped_column(BigInteger, default=0)
    published_digest: Mapped[bytes | None]
    publishing_revision: Mapped[int | None] = mapped_column(BigInteger)
    publishing_at: Mapped[dt.datetime | None]
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
    backfill_paused: Mapped[bool] = mapped_column(default=False)
    sealing_key: Mapped[bytes | None]
    keys_wanted: Mapped[bool] = mapped_column(default=False)


class SimCard(Identified, Base):
    """What a modem reaches meters by. ``ip_address`` is where interfaces lead that have no other."""

    __tablename__ = "sim_cards"
    __table_args__ = (
        UniqueConstraint("organization", "iccid"),
        # SQL holds two NULLs for different.
        Index(
            "uq_sim_cards_iccid_alone",
            "iccid",
            unique=True,
            sqlite_where=text("organization IS NULL"),
            postgresql_where=text("organization IS NULL"),
        ),
    )

    organization: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("organizations.id"))
    iccid: Mapped[str] = mapped_column(String(20), index=True)
    imsi: Mapped[str] = mapped_column(String(15), index=True)
    ip_address: Mapped[str | None] = mapped_column(String(45))
    phone_number: Mapped[str | None] = mapped_column(String(30))
    external_system_link: Mapped[str | None] = mapped_column(String(200))


class NetworkInterface(Identified, Base):
    """A way to meters: a host and port, or (additive) a serial line of a gateway; ``gateway`` says who polls it.

    ``sim`` is the id of a SIM card. While ``is_blocked`` nobody talks on it.
    """

    __tablename__ = "network_interfaces"

    organization: Mapped[uuid.UUID] = owner()
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

    organization: Mapped[uuid.UUID] = owner()
    name: Mapped[str] = mapped_column(String(50))
    description: Mapped[str] = mapped_column(String(250), default="")
    unit: Mapped[str] = mapped_column(String(10))
    unit_description: Mapped[str | None] = mapped_column(String(250))
    si_multiplier: Mapped[decimal.Decimal]
    affected_by_ct_ratio: Mapped[bool] = mapped_column(default=False)
    affected_by_vt_ratio: Mapped[bool] = mapped_column(default=False)


class MeterDeviceConfig(Identified, Base):
    """Which series the meters of a type may have (``config_series``), their time zone, and other series names.

    ``mappings`` is a list of ``{"archive": int, "source": str, "series": str}``, ``limits`` one of
    ``hub.validation.Limit``, ``expectations`` one of ``hub.expected_series.ExpectedSeries``.
    """

    __tablename__ = "meter_device_configs"
    __table_args__ = (Index("uq_meter_device_configs_organization_name", "organization", "name", unique=True),)

    organization: Mapped[uuid.UUID] = owner()
    name: Mapped[str] = mapped_column(String(50))
    timezone: Mapped[str] = mapped_column(String(64), default="UTC")
    mappings: Mapped[list[Any]] = mapped_column(default=list)
    limits: Mapped[list[Any]] = mapped_column(default=list)
    expectations: Mapped[list[Any]] = mapped_column(default=list)


config_series = Table(
    "config_series",
    Base.metadata,
    Column("config", ForeignKey("meter_device_configs.id", ondelete="CASCADE"), primary_key=True),
    Column("series", ForeignKey("meter_reading_series.id"), primary_key=True, index=True),
)


class MeterDeviceType(Identified, Base):
    """A model of meter."""

    __tablename__ = "meter_device_types"
    __table_args__ = (Index("uq_meter_device_types_organization_name", "organization", "name", unique=True),)

    organization: Mapped[uuid.UUID] = owner()
    name: Mapped[str] = mapped_column(String(50))
    description: Mapped[str] = mapped_column(String(500), default="")
    manufacturer: Mapped[str] = mapped_column(String(100))
    manufacturer_model: Mapped[str] = mapped_column(String(50))
    config: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("meter_device_configs.id"), index=True)


class AmrTask(Identified, Base):
    """How and when to poll. ``missed_policy`` (additive) is one of ``protocol.plans.MISSED_POLICIES``."""

    __tablename__ = "amr_tasks"
    __table_args__ = (Index("uq_amr_tasks_organization_name", "organization", "name", unique=True),)

    organization: Mapped[uuid.UUID] = owner()
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
    __table_args__ = (Index("uq_amr_task_groups_organization_name", "organization", "name", unique=True),)

    organization: Mapped[uuid.UUID] = owner()
    name: Mapped[str] = mapped_column(String(150))
    description: Mapped[str] = mapped_column(String(500), default="")


class MeterDevice(Identified, Base):
    """A physical meter. ``timezone`` (additive) overrides its type's config's.

    Readings are expected of it from ``commissioned`` (else ``created_at``) until ``decommissioned``.
    """

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
    commissioned: Mapped[dt.datetime | None]
    decommissioned: Mapped[dt.datetime | None]


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


class Caller(Identified, Base):
    """Who may invoke calls on a gateway over MQTT: ``allowed`` has ``context.call`` or ``context.*``."""

    __tablename__ = "callers"
    __table_args__ = (UniqueConstraint("gateway", "name"),)

    organization: Mapped[uuid.UUID] = owner()
    gateway: Mapped[uuid.UUID] = mapped_column(ForeignKey("gateways.id"))
    name: Mapped[str] = mapped_column(String(63))
    public_key: Mapped[bytes]
    allowed: Mapped[list[Any]] = mapped_column(default=list)
    expires: Mapped[dt.datetime | None]


class HubState(Base):
    """What the hub remembers about itself, such as its id."""

    __tablename__ = "hub_state"

    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(Text)
