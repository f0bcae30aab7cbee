"""Plans: which gateways an edit concerns, whether it changes what they should run, and the document that says it.

Rules:
- An edit and the raised desired revisions of the gateways that it changes are one transaction, in the order of gateway
  ids. Edits of what plans are made of go one after the other (``one_at_a_time``): of two that cross, a meter that
  leaves a line and the line that moves to another gateway, neither would see what the other makes of the plans.
- An edit that changes nothing raises nothing: what counts is the digest of the content, without revision and time.
- A document is a pure function of the database: rendered again for the same revision it has the same bytes, whichever
  relay does it, so the digest that an agent reports can be compared.
- Every gateway that a meter ever stood on the plan of is remembered (``device_gateways``): a backlog of its old gateway
  still counts.
"""

import dataclasses
import datetime as dt
import hashlib
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, cast

import sqlalchemy as sa
import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.hosts import host_of, sim_addresses
from hub.identities import identity_field
from hub.models import (
    AmrTask,
    Caller,
    DeviceGateway,
    Gateway,
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
from hub.notices import Notice, tell
from hub.once import insert_once
from hub.plans_kept import Made, keep
from hub.problems import Conflict
from hub.sealed_keys import read_needs
from protocol import plans
from protocol.envelopes import ENVELOPE_BYTES
from protocol.meter_keys import SEALED_BYTES
from protocol.wire import MAX_MESSAGE_BYTES, ContractError, encode

_T = TypeVar("_T")
_EDITS = 0x6D706C6E
"""PostgreSQL advisory lock: one transaction edits plans at a time."""

_log = structlog.get_logger(__name__)


class PlanTooLargeError(Conflict):
    """An edit would make a gateway's plan larger than a message may be. ``gateway`` is its id in topics."""

    def __init__(self, gateway: str, size: int, limit: int) -> None:
        super().__init__(
            f"the plan of gateway {gateway!r} would be {size} bytes; at most {limit} are allowed: "
            "give some of its meters or tasks to another gateway"
        )
        self.gateway = gateway


@dataclasses.dataclass(slots=True)
class Content:
    """What a plan says, without its revision and time."""

    lines: list[plans.Line] = dataclasses.field(default_factory=list)
    devices: list[plans.Device] = dataclasses.field(default_factory=list)
    tasks: list[plans.Task] = dataclasses.field(default_factory=list)
    callers: list[plans.CallerGrant] = dataclasses.field(default_factory=list)
    receivers: list[plans.Receiver] = dataclasses.field(default_factory=list)
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

    def meters(self) -> list[uuid.UUID]:
        """The meters whose readings this gateway brings, polled or pushed, each once."""
        pushed = (meter.device for receiver in self.receivers for meter in receiver.meters)
        return list(dict.fromkeys([*(device.id for device in self.devices), *pushed]))


@dataclasses.dataclass(frozen=True, slots=True)
class Rendered:
    """A plan ready to be signed and published."""

    gateway: str
    revision: int
    body: bytes

    @property
    def digest(self) -> bytes:
        """The digest that the agent repeats."""
        return plans.plan_digest(self.body)


async def gateways_of_device(session: AsyncSession, *devices: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways whose plan has one of these meters now."""
    return await _gateways(session, MeterDevice.id.in_(devices))


async def gateways_of_interface(session: AsyncSession, *interfaces: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways that poll these interfaces, meters or not."""
    statement = select(NetworkInterface.gateway).where(
        NetworkInterface.id.in_(interfaces), NetworkInterface.gateway.is_not(None)
    )
    return {gateway for gateway in (await session.scalars(statement)).all() if gateway is not None}


async def gateways_of_sim(session: AsyncSession, *cards: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways that poll an interface with one of these SIM cards."""
    statement = select(NetworkInterface.gateway).where(
        NetworkInterface.sim.in_(cards), NetworkInterface.gateway.is_not(None)
    )
    return {gateway for gateway in (await session.scalars(statement)).all() if gateway is not None}


async def gateways_of_task(session: AsyncSession, *tasks: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways with a meter that one of these tasks reaches, by itself or in a group."""
    own = select(device_tasks.c.device).where(device_tasks.c.task.in_(tasks))
    grouped = (
        select(device_groups.c.device)
        .join(group_tasks, group_tasks.c.group == device_groups.c.group)
        .where(group_tasks.c.task.in_(tasks))
    )
    return await _gateways(session, MeterDevice.id.in_(own.union(grouped)))


async def gateways_of_group(session: AsyncSession, *groups: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways with a meter that has one of these groups."""
    return await _gateways(
        session, MeterDevice.id.in_(select(device_groups.c.device).where(device_groups.c.group.in_(groups)))
    )


async def gateways_of_type(session: AsyncSession, *types: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways with a meter of one of these types."""
    return await _gateways(session, MeterDevice.type.in_(types))


async def gateways_of_config(session: AsyncSession, *configs: uuid.UUID) -> set[uuid.UUID]:
    """Return the gateways with a meter whose type has one of these configs."""
    return await _gateways(
        session, MeterDevice.type.in_(select(MeterDeviceType.id).where(MeterDeviceType.config.in_(configs)))
    )


async def _gateways(session: AsyncSession, meters: sa.ColumnElement[bool]) -> set[uuid.UUID]:
    polled = (
        select(NetworkInterface.gateway)
        .join(MeterDevice, MeterDevice.network_interface == NetworkInterface.id)
        .where(meters, NetworkInterface.gateway.is_not(None))
    )
    pushed = (
        select(Receiver.gateway)
        .join(receiver_meters, receiver_meters.c.receiver == Receiver.id)
        .join(MeterDevice, MeterDevice.id == receiver_meters.c.device)
        .where(meters)
    )
    return {gateway for gateway in (await session.scalars(polled.union(pushed))).all() if gateway is not None}


async def one_at_a_time(session: AsyncSession) -> None:
    """Wait until no other transaction edits what plans are made of; call it first, before anything is read.

    On SQLite the transaction itself is that lock: it begins IMMEDIATE.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(sa.text(f"SELECT pg_advisory_xact_lock({_EDITS})"))


async def raise_changed(session: AsyncSession, gateways: Collection[uuid.UUID], now: dt.datetime) -> list[str]:
    """Raise the desired revision of those gateways whose content is no longer what it was; return their ids.

    Call it in the edit's own transaction, after the flush, with every gateway that had or has to do with what was
    edited (before and after).

    Raises:
        PlanTooLargeError: when a changed plan would not fit into a message; roll back.
    """
    if not gateways:
        return []
    locked = await session.execute(
        select(Gateway.id, Gateway.gateway_id, Gateway.content_digest, Gateway.desired_revision, Gateway.keys_wanted)
        .where(Gateway.id.in_(gateways))
        .order_by(Gateway.gateway_id)
        # Not FOR UPDATE: ingestion holds key shares of gateways, and the two would form a ring.
        .with_for_update(key_share=True)
    )
    raised: list[str] = []
    made: list[Made] = []
    rows = locked.all()
    contents = await read_contents(session, [row.id for row in rows])
    for row in rows:
        content = contents[row.id]
        if content.keys_wait and not row.keys_wanted:
            await session.execute(sa.update(Gateway).where(Gateway.id == row.id).values(keys_wanted=True))
        digest = content.digest()
        if digest == row.content_digest:
            continue
        revision = row.desired_revision + 1
        made.append(Made(row.id, revision, _render_within_size(row.gateway_id, content, revision, now)))
        await session.execute(
            sa.update(Gateway)
            .where(Gateway.id == row.id)
            .values(desired_revision=revision, desired_at=now, content_digest=digest, updated_at=now)
        )
        await _remember_devices(session, row.id, content.meters(), now)
        raised.append(row.gateway_id)
    await keep(session, made, now)
    if raised:
        await tell(session, Notice.PLANS)
    return raised


async def lift_above(session: AsyncSession, gateway: uuid.UUID, revision: int, now: dt.datetime) -> None:
    """Lift the desired revision above one that an agent already runs: this database was put back from a backup."""
    await session.execute(
        sa.update(Gateway)
        .where(Gateway.id == gateway, Gateway.desired_revision <= revision)
        .values(desired_revision=revision + 1, desired_at=now, updated_at=now)
    )


async def render(session: AsyncSession, gateway: uuid.UUID) -> Rendered | None:
    """Render the plan of the desired revision; None while the gateway was never given one."""
    row = (
        await session.execute(
            select(Gateway.gateway_id, Gateway.desired_revision, Gateway.desired_at).where(Gateway.id == gateway)
        )
    ).one_or_none()
    if row is None or row.desired_at is None:
        return None
    content = (await read_contents(session, [gateway]))[gateway]
    return Rendered(
        row.gateway_id, row.desired_revision, content.render(row.gateway_id, row.desired_revision, row.desired_at)
    )


def _render_within_size(gateway: str, content: Content, revision: int, now: dt.datetime) -> bytes:
    # An edit is told at once what would fit no more when the keys of its meters are sealed.
    keys = content.unsealed * SEALED_BYTES
    plain = sum(len(encode(item)) for items in _lists(content) for item in items) + keys
    if plain > plans.MAX_PLAN_BYTES - 1024:
        raise PlanTooLargeError(gateway, plain, plans.MAX_PLAN_BYTES - 1024)
    body = content.render(gateway, revision, now)
    if (size := len(body) + ENVELOPE_BYTES + keys) > MAX_MESSAGE_BYTES:
        raise PlanTooLargeError(gateway, size, MAX_MESSAGE_BYTES)
    return body


def _lists(content: Content) -> Iterable[list[Any]]:
    return (content.lines, content.devices, content.tasks, content.callers, content.receivers)


async def _remember_devices(
    session: AsyncSession, gateway: uuid.UUID, devices: list[uuid.UUID], now: dt.datetime
) -> None:
    rows = [{"device": device, "gateway": gateway, "since": now} for device in devices]
    await insert_once(session, DeviceGateway, rows, "device", "gateway")


async def read_contents(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, Content]:
    """Read what the plans of these gateways should say, everything in one order."""
    contents = {gateway: Content() for gateway in gateways}
    lines: dict[uuid.UUID, uuid.UUID] = {}
    interfaces = select(NetworkInterface).where(NetworkInterface.gateway.in_(gateways)).order_by(NetworkInterface.id)
    rows = (await session.scalars(interfaces.where(NetworkInterface.is_blocked.is_(False)))).all()
    addresses = await sim_addresses(session, rows)
    for interface in rows:
        line = _line(interface, host_of(interface, addresses))
        if line is not None and interface.gateway is not None:
            contents[interface.gateway].lines.append(line)
            lines[interface.id] = interface.gateway
    tasks = await _read_tasks(session, gateways)
    used: dict[uuid.UUID, dict[uuid.UUID, AmrTask]] = {gateway: {} for gateway in gateways}
    statement = (
        select(MeterDevice, MeterDeviceConfig.timezone, MeterDeviceConfig.mappings)
        .join(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
        .outerjoin(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
        .outerjoin(MeterDeviceConfig, MeterDeviceConfig.id == MeterDeviceType.config)
        .where(NetworkInterface.gateway.in_(gateways))
        .order_by(MeterDevice.id)
    )
    for meter, timezone, mappings in (await session.execute(statement)).all():
        if meter.network_interface not in lines:
            continue
        gateway = lines[meter.network_interface]
        own = tasks.get(meter.id, {})
        device = _item("device", meter.name, lambda: _device(meter, timezone, mappings, sorted(own)))  # noqa: B023 - called at once
        if device is not None:
            contents[gateway].devices.append(device)
            used[gateway].update(own)
    for gateway, named in used.items():
        made = (_item("task", named[key].name, lambda: _task(named[key])) for key in sorted(named))  # noqa: B023 - as above
        contents[gateway].tasks.extend(task for task in made if task is not None)
    callers = select(Caller).where(Caller.gateway.in_(gateways)).order_by(Caller.name)
    for caller in (await session.scalars(callers)).all():
        grant = _item("caller", caller.name, lambda: _grant(caller))  # noqa: B023 - as above
        if grant is not None:
            contents[caller.gateway].callers.append(grant)
    await _read_receivers(session, contents)
    return contents


async def _read_receivers(session: AsyncSession, contents: dict[uuid.UUID, Content]) -> None:
    """Add the active receivers of the gateways with their meters."""
    statement = select(Receiver).where(Receiver.gateway.in_(contents), Receiver.is_active).order_by(Receiver.id)
    receivers = (await session.scalars(statement)).all()
    if not receivers:
        return
    meters: dict[uuid.UUID, list[tuple[MeterDevice, str | None, list[Any] | None]]] = {}
    pairs = (
        select(receiver_meters.c.receiver, MeterDevice, MeterDeviceConfig.timezone, MeterDeviceConfig.mappings)
        .join(MeterDevice, MeterDevice.id == receiver_meters.c.device)
        .outerjoin(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
        .outerjoin(MeterDeviceConfig, MeterDeviceConfig.id == MeterDeviceType.config)
        .where(receiver_meters.c.receiver.in_([row.id for row in receivers]))
        .order_by(MeterDevice.id)
    )
    for receiver, meter, timezone, mappings in (await session.execute(pairs)).all():
        meters.setdefault(receiver, []).append((meter, timezone, mappings))
    sealed: dict[uuid.UUID, dict[uuid.UUID, bytes]] = {}
    for need in await read_needs(session, {row.gateway for row in receivers}):
        sealed.setdefault(need.receiver, {})[need.device] = need.sealed
        contents[need.gateway].keys_wait |= need.waits
        contents[need.gateway].unsealed += need.given and need.box is None
    for row in receivers:
        item = _item("receiver", row.name, lambda: _receiver(row, meters.get(row.id, []), sealed.get(row.id, {})))  # noqa: B023 - called at once
        if item is not None:
            contents[row.gateway].receivers.append(item)


async def _read_tasks(
    session: AsyncSession, gateways: Collection[uuid.UUID]
) -> dict[uuid.UUID, dict[uuid.UUID, AmrTask]]:
    """Read the active tasks of the gateways' meters, own and in groups, each once for a meter."""
    meters = (
        select(MeterDevice.id)
        .join(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
        .where(NetworkInterface.gateway.in_(gateways))
    )
    own = select(device_tasks.c.device, device_tasks.c.task).where(device_tasks.c.device.in_(meters))
    grouped = (
        select(device_groups.c.device, group_tasks.c.task)
        .join(group_tasks, group_tasks.c.group == device_groups.c.group)
        .where(device_groups.c.device.in_(meters))
    )
    pairs = own.union(grouped).subquery()
    statement = select(pairs.c.device, AmrTask).join(AmrTask, AmrTask.id == pairs.c.task).where(AmrTask.is_active)
    found: dict[uuid.UUID, dict[uuid.UUID, AmrTask]] = {}
    for device, task in (await session.execute(statement)).all():
        found.setdefault(device, {})[task.id] = task
    return found


def _item(kind: str, name: str, make: Callable[[], _T]) -> _T | None:
    """Make an item; one that no agent could read is left out and logged, the rest of the plan goes on."""
    try:
        item = make()
        encode(cast("Any", item))
    except ContractError as error:
        _log.warning("plan_item_left_out", kind=kind, item=name, cause=str(error))
        return None
    return item


def _line(interface: NetworkInterface, host: str | None) -> plans.Line | None:
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


def _device(
    meter: MeterDevice, timezone: str | None, mappings: list[Any] | None, tasks: list[uuid.UUID]
) -> plans.Device:
    return plans.Device(
        id=meter.id,
        name=meter.name,
        line=cast("uuid.UUID", meter.network_interface),
        timezone=meter.timezone or timezone or "UTC",
        address=meter.iec62056_21_address or "",
        serial=meter.manufacturer_serial or None,
        tasks=tasks,
        mappings=[plans.SeriesMapping(entry["archive"], entry["source"], entry["series"]) for entry in mappings or []],
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


def _receiver(
    row: Receiver, meters: list[tuple[MeterDevice, str | None, list[Any] | None]], sealed: Mapping[uuid.UUID, bytes]
) -> plans.Receiver:
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
                timezone=meter.timezone or timezone or "UTC",
                mappings=[
                    plans.SeriesMapping(entry["archive"], entry["source"], entry["series"])
                    for entry in mappings or []
                    if not entry["archive"]
                ],
                keys=sealed.get(meter.id, b""),
            )
            for meter, timezone, mappings in meters
        ],
    )


def _grant(caller: Caller) -> plans.CallerGrant:
    return plans.CallerGrant(caller.name, caller.public_key, list(caller.allowed), caller.expires)
