"""Network interfaces: the ways to meters. Hosts and ports, and (additive) the serial lines of gateways.

An interface is polled by its ``gateway``. With ``serial_port`` it is a serial line there; otherwise the gateway
connects to ``host``, which is ``fqdn``, else ``static_ip_address``, else the address of the SIM card.

One that ``can_block`` can be blocked (additive: ``/block`` and ``/unblock``): while ``is_blocked`` it is in no plan, so
nobody talks on it, and no call is taken for its meters. Who takes ``can_block`` away unblocks it.
"""

import datetime as dt
import re
import uuid
from collections.abc import Collection, Sequence
from typing import Annotated

from litestar import Response, post
from litestar.params import FromPath
from litestar.status_codes import HTTP_200_OK
from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import plans
from hub.bodies import Body
from hub.etags import Edited
from hub.hosts import Addresses, host_of, sim_addresses
from hub.models import DeviceGateway, Gateway, MeterDevice, SimCard
from hub.models import NetworkInterface as Row
from hub.once import insert_once
from hub.problems import Conflict, Wrong, WrongField
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Use, Values, answer, hold, in_transaction, note, show
from hub.sim_cards import wrong_address
from hub.state import Hub, HubRequest, hub_of
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


def describe(row: Row, addresses: Addresses) -> str:
    """Say in a short text where an interface leads, for people."""
    host = host_of(row, addresses)
    where = row.serial_port or (f"{host}:{row.port}" if host and row.port is not None else host) or "nowhere yet"
    where = f"{where}, blocked" if row.is_blocked else where
    return f"{row.name} ({where})" if row.name else where


async def remember_gateways(session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime) -> None:
    """Note that these meters are now polled by the gateways of their interfaces, for ever."""
    assigned = await session.execute(
        select(MeterDevice.id, Row.gateway)
        .join(Row, Row.id == MeterDevice.network_interface)
        .where(MeterDevice.id.in_(devices), Row.gateway.is_not(None))
    )
    rows = [{"device": device, "gateway": gateway, "since": now} for device, gateway in assigned]
    await insert_once(session, DeviceGateway, rows, "device", "gateway")


async def _check(_session: AsyncSession, row: Row | None, values: Values, _now: dt.datetime) -> None:
    address = values["static_ip_address"]
    errors = wrong_address("static_ip_address", address)
    if values["fqdn"] and not _HOST.fullmatch(values["fqdn"]):
        errors.append(WrongField("fqdn", f"{values['fqdn']!r} is not a host's name"))
    if values["serial_port"] is not None and not values["serial_port"].isprintable():
        errors.append(WrongField("serial_port", f"{values['serial_port']!r} has characters that cannot be printed"))
    if values["parity"] not in PARITIES:
        errors.append(WrongField("parity", f"{values['parity']!r} is none of {', '.join(PARITIES)}"))
    if values["serial_port"] is not None and (values["fqdn"] or address):
        errors.append(WrongField("serial_port", "an interface has either a serial port or a host"))
    if errors:
        raise Wrong(*errors)
    if row is not None and row.is_blocked and not values["can_block"]:
        values |= {"is_blocked": False, "block_time": None}


async def _host(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    addresses = await sim_addresses(session, rows)
    return [{"host": host_of(row, addresses)} for row in rows]


async def _changed(session: AsyncSession, row: Row, hub: Hub) -> None:
    devices = (await session.execute(select(MeterDevice.id).where(MeterDevice.network_interface == row.id))).scalars()
    await remember_gateways(session, devices.all(), hub.clock.now())


RESOURCE = Resource(
    noun="network interface",
    path="/v1/metering/network-interfaces",
    model=Row,
    body=NetworkInterfaceBody,
    out=NetworkInterface,
    references={"gateway": Gateway, "sim": SimCard},
    used_by=(Use("meter devices", MeterDevice, "network_interface"),),
    check=_check,
    more=_host,
    changed=_changed,
    gateways=plans.gateways_of_interface,
    adopts=True,
)


async def _set_blocked(request: HubRequest, row_id: uuid.UUID, *, blocked: bool) -> Response[NetworkInterface]:
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Response[NetworkInterface]:
        row = await hold(session, RESOURCE, row_id, request)
        if blocked and not row.can_block:
            raise Conflict("this network interface cannot be blocked: set can_block first")
        told = (await show(session, RESOURCE, [row]))[0]
        if row.is_blocked != blocked:
            now = hub.clock.now()
            row.is_blocked, row.block_time, row.updated_at = blocked, now if blocked else None, now
            await session.flush()
            await plans.raise_changed(session, await plans.gateways_of_interface(session, row.id), now)
        shown = (await show(session, RESOURCE, [row]))[0]
        await note(session, RESOURCE, "block" if blocked else "unblock", row, before=told, after=shown)
        return await answer(session, RESOURCE, row, shown)

    return await in_transaction(request, work, RESOURCE)


@post(
    "/{row_id:uuid}/block",
    status_code=HTTP_200_OK,
    summary="Block a network interface",
    operation_class=Edited,
)
async def block(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Response[NetworkInterface]:
    """Keep everybody from talking on the interface, from the next plan of its gateway on.

    Raises:
        Conflict: when it is not one that can be blocked.
    """
    return await _set_blocked(request, row_id, blocked=True)


@post(
    "/{row_id:uuid}/unblock",
    status_code=HTTP_200_OK,
    summary="Unblock a network interface",
    operation_class=Edited,
)
async def unblock(request: HubRequest, row_id: FromPath[uuid.UUID]) -> Response[NetworkInterface]:
    """Let the interface be used again."""
    return await _set_blocked(request, row_id, blocked=False)


router = router_of(RESOURCE, block, unblock)
