"""Where a network interface leads: its name, else its own address, else the address of its SIM card."""

import uuid
from collections.abc import Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.models import NetworkInterface, SimCard

Addresses = Mapping[uuid.UUID, str]
"""The addresses of SIM cards, by their ids."""


async def sim_addresses(session: AsyncSession, interfaces: Iterable[NetworkInterface]) -> Addresses:
    """Return the addresses of the SIM cards of these interfaces; of those that have one."""
    cards = {interface.sim for interface in interfaces if interface.sim is not None}
    if not cards:
        return {}
    found = await session.execute(
        select(SimCard.id, SimCard.ip_address).where(SimCard.id.in_(cards), SimCard.ip_address.is_not(None))
    )
    return {card: str(address) for card, address in found}


def host_of(interface: NetworkInterface, addresses: Addresses) -> str | None:
    """Return where to connect; None while nothing says it."""
    card = addresses.get(interface.sim) if interface.sim is not None else None
    return interface.fqdn or interface.static_ip_address or card
