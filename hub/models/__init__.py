"""The hub's tables, all of them, on PostgreSQL and SQLite alike.

Columns carry the names of the REST fields, foreign keys included (``organization`` is the organization's id), and
there are no relationships: operations say what they read. ``created_at`` and ``updated_at`` are given by the
operation that writes the row, from the hub's clock. The schema itself is made by ``hub/migrations``; a test compares
the two.
"""

from hub.models.access import Membership, Token, User
from hub.models.audit import AuditEntry
from hub.models.backfills import Backfill
from hub.models.base import Base, Dated, Identified
from hub.models.commands import (
    Command,
    CommandBatch,
    CommandEvent,
    CommandRefusal,
    CommandUpdate,
    IdempotencyKey,
)
from hub.models.completeness import (
    Expectation,
    ExpectationMark,
    LedgerChunk,
    LedgerPending,
    LedgerRaster,
    LedgerSettled,
    LedgerSum,
)
from hub.models.deadlines import Deadline, DeadlinePart, DeadlinePeriod, Notification, deadline_series
from hub.models.deliveries import (
    Batch,
    LossRecord,
    MeterSystemEvent,
    OutboxProgress,
    Quarantined,
    Reading,
    ReadingVersion,
    RunReport,
    StagedReading,
)
from hub.models.estate import (
    AmrTask,
    AmrTaskGroup,
    Caller,
    DeviceGateway,
    Gateway,
    HubState,
    MeterDevice,
    MeterDeviceConfig,
    MeterDeviceType,
    NetworkInterface,
    Organization,
    ReadingSeries,
    SimCard,
    config_series,
    device_groups,
    device_tasks,
    group_tasks,
)
from hub.models.plans import GatewayPlan
from hub.models.receivers import Receiver, UndecodablePush, receiver_meters
from hub.models.retention import ReadingsKept, RetentionPolicy
from hub.models.security import MeterSecurityKeys, SealedMeterKeys
from hub.models.validation import DevicePeriod, UnjudgedReadings

__all__ = [
    "AmrTask",
    "AmrTaskGroup",
    "AuditEntry",
    "Backfill",
    "Base",
    "Batch",
    "Caller",
    "Command",
    "CommandBatch",
    "CommandEvent",
    "CommandRefusal",
    "CommandUpdate",
    "Dated",
    "Deadline",
    "DeadlinePart",
    "DeadlinePeriod",
    "DeviceGateway",
    "DevicePeriod",
    "Expectation",
    "ExpectationMark",
    "Gateway",
    "GatewayPlan",
    "HubState",
    "IdempotencyKey",
    "Identified",
    "LedgerChunk",
    "LedgerPending",
    "LedgerRaster",
    "LedgerSettled",
    "LedgerSum",
    "LossRecord",
    "Membership",
    "MeterDevice",
    "MeterDeviceConfig",
    "MeterDeviceType",
    "MeterSecurityKeys",
    "MeterSystemEvent",
    "NetworkInterface",
    "Notification",
    "Organization",
    "OutboxProgress",
    "Quarantined",
    "Reading",
    "ReadingSeries",
    "ReadingVersion",
    "ReadingsKept",
    "Receiver",
    "RetentionPolicy",
    "RunReport",
    "SealedMeterKeys",
    "SimCard",
    "StagedReading",
    "Token",
    "UndecodablePush",
    "UnjudgedReadings",
    "User",
    "config_series",
    "deadline_series",
    "device_groups",
    "device_tasks",
    "group_tasks",
    "receiver_meters",
]
