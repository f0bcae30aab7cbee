"""SIM cards: what modems reach meters by. An interface without a name and address of its own has that of its card."""

import datetime as dt
import ipaddress
import uuid
from typing import Annotated
from urllib.parse import urlsplit

from msgspec import Meta
from sqlalchemy.ext.asyncio import AsyncSession

from hub import plans
from hub.bodies import Body
from hub.models import NetworkInterface
from hub.models import SimCard as Row
from hub.paging import equals
from hub.problems import Wrong, WrongField
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Use, Values


class SimCardBody(Body, kw_only=True):
    """A card as clients send it."""

    read_only = READ_ONLY
    organization: uuid.UUID | None = None
    iccid: Annotated[str, Meta(min_length=1, max_length=20)]
    imsi: Annotated[str, Meta(min_length=1, max_length=15)]
    ip_address: Annotated[str, Meta(min_length=1, max_length=45)] | None = None
    phone_number: Annotated[str, Meta(min_length=1, max_length=30)] | None = None
    external_system_link: Annotated[str, Meta(min_length=1, max_length=200)] | None = None


class SimCard(SimCardBody, kw_only=True):
    """A card."""

    id: uuid.UUID
    created_at: dt.datetime
    updated_at: dt.datetime


def wrong_address(field: str, text: str | None) -> list[WrongField]:
    """Say what is wrong with an address; nothing, if it is an IP address or None."""
    try:
        if text is not None:
            ipaddress.ip_address(text)
    except ValueError:
        return [WrongField(field, f"{text!r} is not an IP address")]
    return []


def _is_link(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme in {"http", "https"} and parts.netloc and not any(map(str.isspace, text)))


async def _check(_session: AsyncSession, _row: Row | None, values: Values, _now: dt.datetime) -> None:
    errors = wrong_address("ip_address", values["ip_address"])
    link = values["external_system_link"]
    if link is not None and not _is_link(link):
        errors.append(WrongField("external_system_link", f"{link!r} is not a link such as https://sims.example/4711"))
    if errors:
        raise Wrong(*errors)


RESOURCE = Resource(
    noun="SIM card",
    path="/v1/metering/sim-cards",
    model=Row,
    body=SimCardBody,
    out=SimCard,
    unique=("organization", "iccid"),
    plain=frozenset({"iccid", "imsi", "phone_number", "external_system_link"}),
    filters={"iccid": equals(Row.iccid), "imsi": equals(Row.imsi)},
    used_by=(Use("network interfaces", NetworkInterface, "sim"),),
    check=_check,
    gateways=plans.gateways_of_sim,
)

router = router_of(RESOURCE)
