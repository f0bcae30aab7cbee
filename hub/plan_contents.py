"""What the plans of gateways should say: read set by set, in one order, as the items that go into the documents.

Rules:
- Whoever reads contents reads them of many gateways at once: what a plan is made of is ten statements, for one gateway
  as for hundreds. Meters come as rows, tasks and configs once for all that have them.
- An item that no agent could read is left out and logged; the rest of the plan goes on.
- Each item is encoded once: what is compared, measured and sent are these bytes.
"""

import dataclasses
import datetime as dt
import functools
import hashlib
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import structlog
from sqlalchemy import ColumnElement, Row, Table, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from hub.among import among
from hub.hosts import host_of, sim_addresses
from hub.identities import identity_field
from hub.models import (
    AmrTask,
    Caller,
    MeterDevice,
    MeterDeviceConfig,
    MeterDeviceType,
    NetworkInterface,
    Receiver,
    device_groups,
    device_tasks,
    group_tasks,
    receiver_meters,
)
from hub.sealed_keys import read_needs
from protocol import plans
from protocol.wire import ContractError, encode

_log = structlog.get_logger(__name__)


@dataclasses.dataclass(slots=True)
class Content:
    """What a plan says, without its revision and time; items as they are sent."""

    lines: list[msgspec.Raw] = dataclasses.field(default_factory=list)
    devices: list[msgspec.Raw] = dataclasses.field(default_factory=list)
    tasks: list[msgspec.Raw] = dataclasses.field(default_factory=list)
    callers: list[msgspec.Raw] = dataclasses.field(default_factory=list)
    receivers: list[msgspec.Raw] = dataclasses.field(default_factory=list)
    meters: dict[uuid.UUID, None] = dataclasses.field(default_factory=dict)
    """The meters whose readings this gateway brings, polled or pushed, in the order of the items."""
    keys_wait: bool = False
    """Whether keys of its meters have to be sealed (``hub.key_sealing``); no part of what is said."""
    unsealed: int = 0
    """Of how many meters there will be keys, and are none yet."""

    def digest(self) -> bytes:
        """Digest by which two contents are compared: 16 bytes of SHA-256."""
        state = hashlib.sha256()
        for items in (self.lines, self.devices, self.tasks, self.callers):
            state.update(encode(cast("Any", items)))
        if self.receivers:
            # Only then: what was the same before there were receivers stays the same.
            state.update(encode(cast("Any", self.receivers)))
        return state.digest()[:16]

    def size(self) -> int:
        """Return how many bytes the items have."""
        items = (self.lines, self.devices, self.tasks, self.callers, self.receivers)
        return sum(len(memoryview(item)) for some in items for item in some)

    def render(self, gateway: str, revision: int, issued: dt.datetime) -> bytes:
        """Render the document."""
        return plans.render_plan(
            gateway,
            revision,
            issued,
            lines=self.lines,
            devices=self.devices,
            tasks=self.tasks,
            callers=self.callers,
            receivers=self.receivers,
        )


async def read_contents(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, Content]:
    """Read what the plans of these gateways should say, everything in one order."""
    contents = {gateway: Content() for gateway in gateways}
    lines: dict[uuid.UUID, uuid.UUID] = {}
    interfaces = (
        select(NetworkInterface).where(among(session, NetworkInterface.gateway, gateways)).order_by(NetworkInterface.id)
    )
    rows = (await session.scalars(interfaces.where(NetworkInterface.is_blocked.is_(False)))).all()
    addresses = await sim_addresses(session, rows)
    for interface in rows:
        line = _line(interface, host_of(interface, addresses))
        if line is not None and interface.gateway is not None:
            contents[interface.gateway].lines.append(line)
            lines[interface.id] = interface.gateway
    # What the session knew is written by now, and rows that are no objects come quicker without it.
    connection = await session.connection()
    used: dict[uuid.UUID, set[uuid.UUID]] = {gateway: set() for gateway in gateways}
    # By the lines and not by their gateways: that would be a look at all meters there are for every hundred gateways.
    polled = among(session, MeterDevice.network_interface, lines)
    has_arrays = connection.dialect.name == "postgresql"
    statement = (_METERS.add_columns(*_GIVEN) if has_arrays else _METERS).where(polled).order_by(MeterDevice.id)
    meters = (await connection.execute(statement)).all()
    if has_arrays:
        own = {meter.id: set(meter.own) for meter in meters if meter.own}
        groups = {meter.id: set(meter.groups) for meter in meters if meter.groups}
    else:
        own, groups = [await _pairs(connection, table, far, polled) for table, far in _MEMBERSHIPS]
    tasks = await _read_tasks(session, own, groups)
    kinds = await _read_kinds(session, {meter.type for meter in meters})
    for meter in meters:
        gateway, named = lines[meter.network_interface], tasks.of(meter.id)
        device = _item("device", meter.name, lambda: _device(meter, kinds.get(meter.type, _NO_KIND), named))  # noqa: B023 - called at once
        if device is not None:
            contents[gateway].devices.append(device)
            contents[gateway].meters[meter.id] = None
            used[gateway].update(named)
    for gateway, wanted in used.items():
        contents[gateway].tasks.extend(tasks.made[key] for key in sorted(wanted) if key in tasks.made)
    callers = select(Caller).where(among(session, Caller.gateway, gateways)).order_by(Caller.name)
    for caller in (await session.scalars(callers)).all():
        grant = _item("caller", caller.name, lambda: _grant(caller))  # noqa: B023 - as above
        if grant is not None:
            contents[caller.gateway].callers.append(grant)
    await _read_receivers(session, contents)
    return contents


_METERS = select(
    MeterDevice.id,
    MeterDevice.name,
    MeterDevice.network_interface,
    MeterDevice.iec62056_21_address,
    MeterDevice.dlms_logical_device_name,
    MeterDevice.dlms_system_title,
    MeterDevice.manufacturer_serial,
    MeterDevice.timezone,
    MeterDevice.type,
)
"""Meters as rows: as objects they would take ten times as long."""

_MEMBERSHIPS = ((device_tasks, "task"), (device_groups, "group"))
_GIVEN = [
    select(func.array_agg(table.c[far])).where(table.c.device == MeterDevice.id).scalar_subquery().label(name)
    for (table, far), name in zip(_MEMBERSHIPS, ("own", "groups"), strict=True)
]
"""The tasks and groups of each meter, where the database has arrays."""


async def _pairs(
    connection: AsyncConnection, table: Table, far: str, polled: ColumnElement[bool]
) -> dict[uuid.UUID, set[uuid.UUID]]:
    """Return the tasks or groups of these meters, where the database has no arrays."""
    found: dict[uuid.UUID, set[uuid.UUID]] = {}
    given = select(table.c.device, table.c[far]).join(MeterDevice, MeterDevice.id == table.c.device).where(polled)
    for meter, one in await connection.execute(given):
        found.setdefault(meter, set()).add(one)
    return found


class _Kind(NamedTuple):
    """What meters have from their type's config. Where a mapping is none that may be sent, ``polled`` raises."""

    timezone: str
    polled: Callable[[], list[plans.SeriesMapping]]
    pushed: Callable[[], list[plans.SeriesMapping]]


_NO_KIND = _Kind("UTC", list, list)


def _mappings(entries: Sequence[Mapping[str, Any]]) -> Callable[[], list[plans.SeriesMapping]]:
    """Return what makes the mappings, once for all meters that have them."""

    @functools.cache
    def make() -> list[plans.SeriesMapping]:
        return [plans.SeriesMapping(entry["archive"], entry["source"], entry["series"]) for entry in entries]

    return make


async def _read_kinds(session: AsyncSession, types: Collection[uuid.UUID | None]) -> dict[uuid.UUID, _Kind]:
    """Read the configs of these types, each once however many meters have it."""
    connection = await session.connection()
    found = await connection.execute(
        select(MeterDeviceType.id, MeterDeviceConfig.timezone, MeterDeviceConfig.mappings)
        .join(MeterDeviceConfig, MeterDeviceConfig.id == MeterDeviceType.config)
        .where(among(session, MeterDeviceType.id, [key for key in types if key is not None]))
    )
    kinds = {}
    for row in found:
        entries = row.mappings or ()
        pushed = _mappings([entry for entry in entries if not entry["archive"]])
        kinds[row.id] = _Kind(row.timezone or "UTC", _mappings(entries), pushed)
    return kinds


async def _read_receivers(session: AsyncSession, contents: dict[uuid.UUID, Content]) -> None:
    """Add the active receivers of the gateways with their meters."""
    statement = (
        select(Receiver).where(among(session, Receiver.gateway, contents), Receiver.is_active).order_by(Receiver.id)
    )
    receivers = (await session.scalars(statement)).all()
    if not receivers:
        return
    pushing = (
        _METERS.add_columns(receiver_meters.c.receiver)
        .join(receiver_meters, receiver_meters.c.device == MeterDevice.id)
        .where(among(session, receiver_meters.c.receiver, [row.id for row in receivers]))
    )
    rows = (await session.execute(pushing.order_by(MeterDevice.id))).all()
    kinds = await _read_kinds(session, {meter.type for meter in rows})
    meters: dict[uuid.UUID, list[tuple[Row[Any], _Kind]]] = {}
    for meter in rows:
        meters.setdefault(meter.receiver, []).append((meter, kinds.get(meter.type, _NO_KIND)))
    sealed: dict[uuid.UUID, dict[uuid.UUID, bytes]] = {}
    for need in await read_needs(session, {row.gateway for row in receivers}):
        sealed.setdefault(need.receiver, {})[need.device] = need.sealed
        contents[need.gateway].keys_wait |= need.waits
        contents[need.gateway].unsealed += need.given and need.box is None
    for row in receivers:
        item = _item("receiver", row.name, lambda: _receiver(row, meters.get(row.id, []), sealed.get(row.id, {})))  # noqa: B023 - called at once
        if item is not None:
            contents[row.gateway].receivers.append(item)
            contents[row.gateway].meters |= dict.fromkeys(meter.id for meter, _ in meters.get(row.id, []))


@dataclasses.dataclass(slots=True)
class _Tasks:
    """The active tasks of some meters: which there are, own and in groups, and the items that plans have of them."""

    made: dict[uuid.UUID, msgspec.Raw]
    active: set[uuid.UUID]
    grouped: dict[uuid.UUID, set[uuid.UUID]]
    """Tasks of groups."""
    own: dict[uuid.UUID, set[uuid.UUID]]
    groups: dict[uuid.UUID, set[uuid.UUID]]
    _known: dict[frozenset[uuid.UUID], list[uuid.UUID]] = dataclasses.field(default_factory=dict)

    def of(self, meter: uuid.UUID) -> list[uuid.UUID]:
        """The active tasks of a meter, however they reached it, each once and in one order."""
        groups = self.groups.get(meter, set())
        if meter not in self.own:
            # Meters have the same few groups: what those come to is found out once.
            key = frozenset(groups)
            if key not in self._known:
                self._known[key] = self._together(groups, set())
            return self._known[key]
        return self._together(groups, self.own[meter])

    def _together(self, groups: Iterable[uuid.UUID], own: set[uuid.UUID]) -> list[uuid.UUID]:
        return sorted(own.union(*(self.grouped.get(group, set()) for group in groups)) & self.active)


async def _read_tasks(
    session: AsyncSession, own: dict[uuid.UUID, set[uuid.UUID]], groups: dict[uuid.UUID, set[uuid.UUID]]
) -> _Tasks:
    """Read the active tasks that meters have by themselves, and in groups."""
    connection = await session.connection()
    grouped: dict[uuid.UUID, set[uuid.UUID]] = {}
    named = set().union(*groups.values())
    for group, task in await connection.execute(
        select(group_tasks.c.group, group_tasks.c.task).where(among(session, group_tasks.c.group, named))
    ):
        grouped.setdefault(group, set()).add(task)
    wanted = set().union(*own.values(), *grouped.values())
    active = (await session.scalars(select(AmrTask).where(among(session, AmrTask.id, wanted), AmrTask.is_active))).all()
    made = {task.id: _item("task", task.name, lambda: _task(task)) for task in active}  # noqa: B023 - called at once
    return _Tasks(
        made={key: item for key, item in made.items() if item is not None},
        active={task.id for task in active},
        grouped=grouped,
        own=own,
        groups=groups,
    )


def _item(kind: str, name: str, make: Callable[[], msgspec.Struct]) -> msgspec.Raw | None:
    """Make an item; one that no agent could read is left out and logged, the rest of the plan goes on."""
    try:
        return msgspec.Raw(encode(make()))
    except ContractError as error:
        _log.warning("plan_item_left_out", kind=kind, item=name, cause=str(error))
        return None


def _line(interface: NetworkInterface, host: str | None) -> msgspec.Raw | None:
    if interface.serial_port:
        endpoint = interface.serial_port
    elif host and interface.port is not None:
        endpoint = f"socket://[{host}]:{interface.port}" if ":" in host else f"socket://{host}:{interface.port}"
    else:
        return None
    return _item(
        "line",
        interface.name or endpoint,
        lambda: plans.Line(
            id=interface.id,
            name=interface.name or endpoint[:150],
            endpoint=endpoint,
            rate=interface.rate,
            fixed_rate=interface.fixed_rate,
            parity=interface.parity,
            wake_up=interface.wake_up,
            echo=interface.echo,
        ),
    )


def _device(meter: Row[Any], kind: _Kind, tasks: list[uuid.UUID]) -> plans.Device:
    return plans.Device(
        id=meter.id,
        name=meter.name,
        line=meter.network_interface,
        timezone=meter.timezone or kind.timezone,
        address=meter.iec62056_21_address or "",
        serial=meter.manufacturer_serial or None,
        tasks=tasks,
        mappings=kind.polled(),
    )


def _task(task: AmrTask) -> plans.Task:
    return plans.Task(
        id=task.id,
        name=task.name,
        schedule=task.schedule,
        run_offset_seconds=task.run_offset_seconds,
        context=task.meter_execution_type,
        call=task.task_call,
        kwargs=task.task_kwargs or {},
        missed=task.missed_policy,
    )


def _receiver(row: Receiver, meters: list[tuple[Row[Any], _Kind]], sealed: Mapping[uuid.UUID, bytes]) -> plans.Receiver:
    field = identity_field(row.receiver)
    return plans.Receiver(
        id=row.id,
        name=row.name,
        receiver=row.receiver,
        endpoint=row.endpoint,
        kwargs=row.receiver_kwargs,
        meters=[
            plans.PushMeter(
                device=meter.id,
                name=meter.name,
                identity=(getattr(meter, field) if field else None) or "",
                timezone=meter.timezone or kind.timezone,
                mappings=kind.pushed(),
                keys=sealed.get(meter.id, b""),
            )
            for meter, kind in meters
        ],
    )


def _grant(caller: Caller) -> plans.CallerGrant:
    return plans.CallerGrant(caller.name, caller.public_key, list(caller.allowed), caller.expires)
