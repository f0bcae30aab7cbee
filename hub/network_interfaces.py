"""Network interfaces: the ways to meters. Hosts and ports, and (additive) the serial lines of gateways.

An interface is polled by its ``gateway``. With ``serial_port`` it is a serial line there; otherwise the gateway
connects to ``host``, which is ``fqdn``, else ``static_ip_address``.
"""

import datetime as dt
import ipaddress
import re
import uuid
from collections.abc import Collection, Sequence
from typing import Annotated

from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import plans
from hub.bodies import Body
from hub.models import DeviceGateway, Gateway, MeterDevice
from hub.models import NetworkInterface as Row
from hub.problems import Wrong, WrongField
from hub.resources import READ_ONLY, Resource, Use, Values, router_of
from hub.state import Hub
from protocol.plans import PARITIES

_HOST = re.compile(r"[^\s/?#@:\[\]\x00-\x1f\x7f]+")
"""What can stand in an address as its host; whether there is such a host is for the gateway to find out."""


class NetworkInterfaceBody(Body, kw_only=True):
    """An interface as clients send it; all from ``gateway`` on is additive.

    ``rate`` is the opening rate in baud, ``fixed_rate`` forbids to change it. ``parity`` is auto, even or none.
    """

    read_only = READ_ONLY | {"host", "is_blocked", "block_time"}
    organization: uuid.UUID
    static_ip_address: Annotated[str, Meta(min_length=1, max_length=45)] | None = None
    fqdn: Annotated[str, Meta(max_length=200)] | None = None
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    sim: uuid.UUID | None = None
    can_block: bool = False
    gateway: uuid.UUID | None = None
    name: Annotated[str, Meta(max_length=150)] = ""
    serial_port: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    rate: Annotated[int, Meta(ge=50, le=4_000_000)] = 300
    fixed_rate: bool = False
    parity: str = "auto"
    wake_up: bool = False
    echo: bool = False


class NetworkInterface(NetworkInterfaceBody, kw_only=True):
    """An interface. ``host`` is what its fields resolve to."""

    id: uuid.UUID
    host: str | None
    is_blocked: bool
    block_time: dt.datetime | None
    created_at: dt.datetime
    updated_at: dt.datetime


def host_of(row: Row) -> str | None:
    """Return where to connect: the name if there is one, else the address."""
    return row.fqdn or row.static_ip_address


def describe(row: Row) -> str:
    """Say in a short text where an interface leads, for people."""
    host = host_of(row)
    where = row.serial_port or (f"{host}:{row.port}" if host and row.port is not None else host) or "nowhere yet"
    return f"{row.name} ({where})" if row.name else where


async def remember_gateways(session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime) -> None:
    """Note that these meters are now polled by the gateways of their interfaces, for ever."""
    assigned = await session.execute(
        select(MeterDevice.id, Row.gateway)
        .join(Row, Row.id == MeterDevice.network_interface)
        .where(MeterDevice.id.in_(devices), Row.gateway.is_not(None))
    )
    pairs = {(device, gateway) for device, gateway in assigned}
    known = await session.execute(
        select(DeviceGateway.device, DeviceGateway.gateway).where(DeviceGateway.device.in_(devices))
    )
    for device, gateway in pairs - {(device, gateway) for device, gateway in known}:
        session.add(DeviceGateway(device=device, gateway=gateway, since=now))
    await session.flush()


async def _check(_session: AsyncSession, _row: Row | None, values: Values, _now: dt.datetime) -> None:
    errors = []
    address = values["static_ip_address"]
    if address is not None:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            errors.append(WrongField("static_ip_address", f"{address!r} is not an IP address"))
    if values["fqdn"] and not _HOST.fullmatch(values["fqdn"]):
        errors.append(WrongField("fqdn", f"{values['fqdn']!r} is not a host's name"))
    if values["serial_port"] is not None and not values["serial_port"].isprintable():
        errors.append(WrongField("serial_port", f"{values['serial_port']!r} has characters that cannot be printed"))
    if values["parity"] not in PARITIES:
        errors.append(WrongField("parity", f"{values['parity']!r} is none of {', '.join(PARITIES)}"))
    if values["sim"] is not None:
        errors.append(WrongField("sim", f"there is no SIM card {values['sim']}"))
    if values["serial_port"] is not None and (values["fqdn"] or address):
        errors.append(WrongField("serial_port", "an interface has either a serial port or a host"))
    if errors:
        raise Wrong(*errors)


async def _host(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [{"host": host_of(row)} for row in rows]


async def _changed(session: AsyncSession, row: Row, hub: Hub) -> None:
    devices = (await session.execute(select(MeterDevice.id).where(MeterDevice.network_interface == row.id))).scalars()
    await remember_gateways(session, devices.all(), hub.clock.now())


RESOURCE = Resource(
    noun="network interface",
    path="/v1/metering/network-interfaces",
    model=Row,
    body=NetworkInterfaceBody,
    out=NetworkInterface,
    references={"gateway": Gateway},
    used_by=(Use("meter devices", MeterDevice, "network_interface"),),
    check=_check,
    more=_host,
    changed=_changed,
    gateways=plans.gateways_of_interface,
    adopts=True,
)

router = router_of(RESOURCE)
