"""Meter devices: the physical meters, with their line, address, tasks and type."""

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import audit, plans
from hub.bodies import Body
from hub.device_periods import Renumbered, note_serials
from hub.hosts import sim_addresses
from hub.judging import OLDEST
from hub.meter_device_configs import check_timezone
from hub.models import (
    AmrTask,
    AmrTaskGroup,
    MeterDeviceType,
    NetworkInterface,
    Reading,
    ReadingVersion,
    Receiver,
    device_groups,
    device_tasks,
    receiver_meters,
)
from hub.models import MeterDevice as Row
from hub.network_interfaces import describe, remember_gateways
from hub.paging import equals, is_uuid, parse_uuid
from hub.problems import Conflict, Wrong, WrongField
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Link, Resource, Values
from hub.state import Hub, HubRequest
from hub.unjudged import note_devices
from protocol.iec62056 import LocalProtocolError, Request
from protocol.iec62056.telegrams import encode
from protocol.wire import Instant

PROTOCOLS = ("dlms-cosem", "iec62056-21", "i-flag", "mbus", "modbus", "lis-200")
DISCONNECTOR_STATES = (0, 1, 2)

_Reference = Annotated[str, Meta(max_length=50)]


class MeterDeviceBody(Body, kw_only=True):
    """A meter as clients send it; from ``timezone`` on, which overrides its type's config's, all is additive."""

    read_only = READ_ONLY | {"network_interface_info"}
    organization: uuid.UUID | None = None
    name: Annotated[str, Meta(min_length=1, max_length=50)]
    external_system_reference: _Reference | None = None
    manufacturer_serial: _Reference | None = None
    protocol: str
    iec62056_21_address: Annotated[str, Meta(max_length=8)] | None = None
    dlms_logical_device_name: Annotated[str, Meta(max_length=32)] | None = None
    dlms_system_title: Annotated[str, Meta(max_length=16)] | None = None
    type: uuid.UUID | None = None
    task_groups: list[uuid.UUID] = msgspec.field(default_factory=list)
    meter_tasks: list[uuid.UUID] = msgspec.field(default_factory=list)
    network_interface: uuid.UUID | None = None
    has_current_transformer: bool = False
    current_transformer_ratio: int = 1
    has_voltage_transformer: bool = False
    voltage_transformer_ratio: int = 1
    has_disconnector: bool = False
    disconnector_status: int | None = None
    timezone: str | None = None
    commissioned: Instant | None = None
    decommissioned: Instant | None = None


class MeterDevice(MeterDeviceBody, kw_only=True):
    """A meter. ``network_interface_info`` says where its line leads, for people."""

    id: uuid.UUID
    network_interface_info: str | None
    created_at: dt.datetime
    updated_at: dt.datetime


def judge(values: Values) -> None:
    """Judge what the struct cannot of a meter that would have these values.

    Raises:
        Wrong: naming the fields.
    """
    errors = []
    if values["protocol"] not in PROTOCOLS:
        errors.append(WrongField("protocol", f"{values['protocol']!r} is none of {', '.join(PROTOCOLS)}"))
    if values["disconnector_status"] not in {None, *DISCONNECTOR_STATES}:
        errors.append(WrongField("disconnector_status", f"{values['disconnector_status']} is none of 0, 1, 2"))
    address = values["iec62056_21_address"]
    if address:
        try:
            encode(Request(address))
        except LocalProtocolError:
            errors.append(
                WrongField("iec62056_21_address", f"{address!r} has characters that no meter can be called by")
            )
    errors += [
        WrongField(field, f"{values[field]} does not fit 32 bits")
        for field in ("current_transformer_ratio", "voltage_transformer_ratio")
        if not -(2**31) <= values[field] < 2**31
    ]
    errors += _wrong_life(values["commissioned"], values["decommissioned"])
    if errors:
        raise Wrong(*errors)
    if values["timezone"] is not None:
        check_timezone("timezone", values["timezone"])


async def note_edits(session: AsyncSession, edits: Iterable[tuple[Row, Values]], now: dt.datetime) -> None:
    """Note what readings hang on, before these meters, each once, are given values, as which theirs were judged."""
    edits = list(edits)
    await note_serials(
        session,
        (Renumbered(row.id, row.manufacturer_serial, values["manufacturer_serial"]) for row, values in edits),
        now,
    )
    # Its config says by what its readings are judged.
    await note_devices(session, {row.id for row, values in edits if values["type"] != row.type})


async def _check(session: AsyncSession, row: Row | None, values: Values, now: dt.datetime) -> None:
    judge(values)
    if row is not None:
        await note_edits(session, [(row, values)], now)


def _wrong_life(commissioned: dt.datetime | None, decommissioned: dt.datetime | None) -> list[WrongField]:
    errors = []
    if commissioned is not None and commissioned < OLDEST:
        errors.append(WrongField("commissioned", "it lies before 2000, and no reading is so old"))
    if decommissioned is not None and decommissioned < (commissioned or OLDEST):
        errors.append(WrongField("decommissioned", "it lies before commissioned, or before 2000"))
    return errors


async def _interface_info(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    ids = {row.network_interface for row in rows if row.network_interface is not None}
    found = (await session.scalars(select(NetworkInterface).where(NetworkInterface.id.in_(ids)))).all()
    addresses = await sim_addresses(session, found)
    texts = {interface.id: describe(interface, addresses) for interface in found}
    return [
        {"network_interface_info": texts.get(row.network_interface) if row.network_interface else None} for row in rows
    ]


async def note_changed(session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime) -> None:
    """Do what is due, in the transaction, after these meters were made or changed."""
    await remember_gateways(session, devices, now)


async def _changed(session: AsyncSession, row: Row, hub: Hub) -> None:
    await note_changed(session, [row.id], hub.clock.now())


async def _forget(session: AsyncSession, row: Row, request: HubRequest) -> None:
    """Delete the meter's readings too, but only when that is said.

    Raises:
        Conflict: when there are readings and ``with_readings=true`` is not in the query.
    """
    count = await session.scalar(select(func.count()).select_from(Reading).where(Reading.meter_device == row.id))
    if not count:
        return
    if request.query_params.get("with_readings") != "true":
        raise Conflict(
            f"the meter {row.name} has {count} readings; to delete them as well, add ?with_readings=true to the address"
        )
    for table in (ReadingVersion, Reading):
        await session.execute(delete(table).where(table.meter_device == row.id))
    told = {"meter_device": row.id, "count": count}
    audit.note(session, audit.DELETE, "readings of a meter", None, row.organization, before=told)


def _of_gateway(name: str, text: str) -> ColumnElement[bool]:
    """Filter by the gateway that polls the meter, or that it pushes to."""
    gateway = parse_uuid(name, text)
    lines = select(NetworkInterface.id).where(NetworkInterface.gateway == gateway)
    pushing = select(receiver_meters.c.device).join(Receiver, Receiver.id == receiver_meters.c.receiver)
    return or_(Row.network_interface.in_(lines), Row.id.in_(pushing.where(Receiver.gateway == gateway)))


RESOURCE = Resource(
    noun="meter device",
    path="/v1/metering/meter-devices",
    model=Row,
    body=MeterDeviceBody,
    out=MeterDevice,
    references={"type": MeterDeviceType, "network_interface": NetworkInterface},
    links=(
        Link("task_groups", device_groups, "device", "group", AmrTaskGroup),
        Link("meter_tasks", device_tasks, "device", "task", AmrTask),
    ),
    unique=("organization", "name"),
    filters={
        name: equals(getattr(Row, name))
        for name in (
            "name",
            "external_system_reference",
            "manufacturer_serial",
            "dlms_logical_device_name",
            "dlms_system_title",
        )
    }
    | {
        "organization": is_uuid(Row.organization),
        "network_interface": is_uuid(Row.network_interface),
        "gateway": _of_gateway,
    },
    check=_check,
    more=_interface_info,
    changed=_changed,
    forget=_forget,
    gateways=plans.gateways_of_device,
    adopts=True,
)

router = router_of(RESOURCE)
