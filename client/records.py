"""What the hub's objects look like to a program: the fields that scripts use, in Python's own types.

Values are ``Decimal``, exactly as the meter said them; times know their offset (UTC). Fields that are not here are left
out, and a hub that is newer may have more: ``Hub.get`` with a path in place of a kind returns all of them as they came.
``path`` is where objects of a kind live, ``named_by`` the field that they are called by, where they have names; lists
that are ``walked`` are long, and taken row after row by a cursor, so that what comes meanwhile moves no row.
"""

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any, ClassVar

import msgspec


class Record(msgspec.Struct, kw_only=True, frozen=True):
    """An object of the hub."""

    path: ClassVar[str] = ""
    noun: ClassVar[str] = ""
    named_by: ClassVar[str] = "name"
    walked: ClassVar[bool] = False


class Organization(Record, kw_only=True, frozen=True):
    """Who owns things."""

    path = "organizations"
    noun = "organization"
    id: uuid.UUID
    name: str
    is_active: bool


class Gateway(Record, kw_only=True, frozen=True):
    """A gateway, what it should run and what it does; ``oldest_seconds`` and ``depth`` are of its outbox."""

    path = "gateways"
    noun = "gateway"
    named_by = "gateway_id"
    id: uuid.UUID
    gateway_id: str
    organization: uuid.UUID
    name: str
    online: bool
    last_seen: dt.datetime | None
    desired_revision: int
    applied_revision: int
    in_step: bool
    problems: list[Any]
    software: str
    depth: int
    oldest_seconds: float | None
    clock_believed: bool
    status: str
    backfill_paused: bool


class Meter(Record, kw_only=True, frozen=True):
    """A meter device."""

    path = "metering/meter-devices"
    noun = "meter"
    id: uuid.UUID
    name: str
    organization: uuid.UUID | None
    protocol: str
    iec62056_21_address: str | None
    manufacturer_serial: str | None
    external_system_reference: str | None
    type: uuid.UUID | None
    network_interface: uuid.UUID | None
    network_interface_info: str | None
    task_groups: list[uuid.UUID]
    meter_tasks: list[uuid.UUID]
    commissioned: dt.datetime | None
    decommissioned: dt.datetime | None


class Series(Record, kw_only=True, frozen=True):
    """The name of a time series, and its unit."""

    path = "metering/meter-reading-series"
    noun = "series"
    id: uuid.UUID
    name: str
    organization: uuid.UUID
    unit: str
    description: str
    si_multiplier: Decimal


class Task(Record, kw_only=True, frozen=True):
    """How and when meters are polled."""

    path = "metering/amr-tasks"
    noun = "AMR task"
    id: uuid.UUID
    name: str
    organization: uuid.UUID
    is_active: bool
    schedule: str
    run_offset_seconds: int
    meter_execution_type: str
    task_call: str
    task_kwargs: dict[str, Any] | None


class TaskGroup(Record, kw_only=True, frozen=True):
    """Tasks that are managed together."""

    path = "metering/amr-task-groups"
    noun = "AMR task group"
    id: uuid.UUID
    name: str
    organization: uuid.UUID
    tasks: list[uuid.UUID]


class Reading(Record, kw_only=True, frozen=True):
    """A value of a series of a meter at an instant."""

    path = "metering/meter-readings"
    noun = "reading"
    named_by = ""
    walked = True
    id: int
    organization: uuid.UUID
    meter_device: uuid.UUID
    series: uuid.UUID
    timestamp: dt.datetime
    value: Decimal
    unit: str
    collected: dt.datetime
    provenance: str
    flags: list[str]


class Event(Record, kw_only=True, frozen=True):
    """Something that a meter told of itself."""

    path = "metering/meter-system-events"
    noun = "event"
    named_by = ""
    walked = True
    id: int
    organization: uuid.UUID
    meter_device: uuid.UUID
    timestamp: dt.datetime
    title: str
    content: str
    code: str


class Command(Record, kw_only=True, frozen=True):
    """A call that was made on demand, and what became of it; it has ended when it is ``final``."""

    path = "commands"
    noun = "command"
    named_by = ""
    id: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID | None
    meter: str
    meter_execution_type: str
    task_call: str
    task_kwargs: dict[str, Any]
    state: str
    final: bool
    cause: str
    origin: str
    cancel_requested: bool
    readings: list[Any]
    result: dict[str, Any]
    created_at: dt.datetime
    expires_at: dt.datetime
    ended_at: dt.datetime | None


class StateChange(msgspec.Struct, kw_only=True, frozen=True):
    """A command has come into a state, for a cause if it is an end that is not ``done``."""

    command: uuid.UUID
    state: str
    final: bool
    cause: str
    at: dt.datetime


class CommandBatch(Record, kw_only=True, frozen=True):
    """The same call on many meters: how many commands are in which state; ``final`` when all have ended."""

    path = "command-batches"
    noun = "batch of commands"
    named_by = ""
    id: uuid.UUID
    organization: uuid.UUID
    meter_execution_type: str
    task_call: str
    task_kwargs: dict[str, Any]
    meters: int
    commands: int
    refused: int
    states: dict[str, Any]
    ended: int
    final: bool
    causes: list[Any]
    created_at: dt.datetime


class Run(Record, kw_only=True, frozen=True):
    """What a gateway did for one task or command, and how it ended."""

    path = "runs"
    noun = "run"
    named_by = ""
    id: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID
    task: uuid.UUID | None
    command: uuid.UUID | None
    tick: dt.datetime | None
    outcome: str
    cause: str
    started: dt.datetime | None
    ended: dt.datetime
    readings: int


class Backfill(Record, kw_only=True, frozen=True):
    """A gap that is being closed."""

    path = "backfills"
    noun = "backfill"
    named_by = ""
    id: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID
    archive: int
    start: dt.datetime
    end: dt.datetime
    state: str
    origin: str
    request: uuid.UUID | None
    tries: int
    evidence: str
    command: uuid.UUID | None
    ended_at: dt.datetime | None


class Token(Record, kw_only=True, frozen=True):
    """A token of staff or of a machine, without its key."""

    path = "tokens"
    noun = "token"
    id: uuid.UUID
    name: str
    organization: uuid.UUID | None
    scopes: list[str]
    expires: dt.datetime | None
    revoked: dt.datetime | None
    last_used: dt.datetime | None
    created_at: dt.datetime
