"""Security keys of meters: passwords and DLMS keys. They go in and never come out: answers say which there are.

One collection for each meter; who posts it again replaces it. The values are sealed (``hub.secrets_box``) before they
reach the database, and only what holds the hub's keys can open them: no answer, log or error has them. What gateways
need of them comes with their plans, sealed for each (``hub.sealed_keys``).
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Response, post
from litestar.params import JSONBody
from msgspec import Meta
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import plans
from hub.access import Access, access_of
from hub.bodies import Body
from hub.etags import Tagged
from hub.models import MeterDevice
from hub.models import MeterSecurityKeys as Row
from hub.paging import Condition, is_uuid
from hub.problems import Unavailable, wrong
from hub.resource_routes import router_of
from hub.resources import EVERYTHING, READ_ONLY, Resource, Values, answer, flush, in_transaction, note, show
from hub.secrets_box import SealError, read_public_half, seal
from hub.state import HubRequest, hub_of

_Key = Annotated[str, Meta(max_length=64)]


class MeterSecurityKeyCollectionBody(Body, kw_only=True):
    """A meter's keys as clients send them."""

    read_only = READ_ONLY | {"stored"}
    meter: uuid.UUID
    iec62056_21_password: Annotated[str, Meta(min_length=1, max_length=8)] | None = None
    dlms_global_unicast_encryption_key: _Key | None = None
    dlms_global_broadcast_encryption_key: _Key | None = None
    dlms_master_key: _Key | None = None
    dlms_global_authentication_key: _Key | None = None
    dlms_dedicated_key: _Key | None = None


SECRETS = tuple(name for name in MeterSecurityKeyCollectionBody.__struct_fields__ if name != "meter")
"""The fields that are stored and never returned."""


class KeyedMeter(msgspec.Struct, kw_only=True):
    """The meter of a collection, with all that it can be found by."""

    id: uuid.UUID
    name: str
    external_system_reference: str | None
    manufacturer_serial: str | None
    dlms_logical_device_name: str | None
    dlms_system_title: str | None


class MeterSecurityKeyCollection(msgspec.Struct, kw_only=True):
    """A meter's keys: null, each of them. ``stored`` (additive) names those that there are."""

    id: uuid.UUID
    meter: KeyedMeter
    iec62056_21_password: str | None = None
    dlms_global_unicast_encryption_key: str | None = None
    dlms_global_broadcast_encryption_key: str | None = None
    dlms_global_authentication_key: str | None = None
    dlms_dedicated_key: str | None = None
    stored: list[str]
    created_at: dt.datetime
    updated_at: dt.datetime


def purpose_of(meter: uuid.UUID) -> str:
    """Return what the keys of a meter are sealed for."""
    return f"security keys of meter {meter}"


async def _meters(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    found = await session.scalars(select(MeterDevice).where(MeterDevice.id.in_([row.meter for row in rows])))
    names = KeyedMeter.__struct_fields__
    meters = {meter.id: KeyedMeter(**{name: getattr(meter, name) for name in names}) for meter in found}
    return [{"meter": meters[row.meter]} for row in rows]


def _of_meter(column: Any) -> Condition:  # noqa: ANN401 - any mapped column
    return lambda _name, text: Row.meter.in_(select(MeterDevice.id).where(column == text))


def _owned(organization: uuid.UUID) -> ColumnElement[bool]:
    return Row.meter.in_(select(MeterDevice.id).where(MeterDevice.organization == organization))


async def _owner(session: AsyncSession, row: Row) -> uuid.UUID | None:
    return await session.scalar(select(MeterDevice.organization).where(MeterDevice.id == row.meter))


async def _gateways(session: AsyncSession, row_id: uuid.UUID) -> set[uuid.UUID]:
    meter = await session.scalar(select(Row.meter).where(Row.id == row_id))
    return set() if meter is None else await plans.gateways_of_device(session, meter)


async def store(session: AsyncSession, body: MeterSecurityKeyCollectionBody, access: Access, now: dt.datetime) -> Row:
    """Seal and store the keys of a meter in place of those that it had; who calls it raises the plans.

    Raises:
        Wrong: when there is no such meter.
        Unavailable: when there is no key yet to seal them for.
    """
    meter = await session.get(MeterDevice, body.meter, with_for_update={"key_share": True})
    if meter is None or not access.covers(meter.organization):
        raise wrong("meter", f"there is no meter device {body.meter}")
    values = {name: value for name in SECRETS if (value := getattr(body, name)) is not None}
    try:
        sealed = seal(await read_public_half(session), msgspec.json.encode(values), purpose_of(meter.id))
    except SealError as error:
        raise Unavailable(str(error)) from error
    row = await session.scalar(select(Row).where(Row.meter == meter.id))
    if row is None:
        row = Row(meter=meter.id, created_at=now, generation=0)
        session.add(row)
    row.generation += 1
    row.sealed, row.stored, row.updated_at = sealed, sorted(values), now
    await flush(session, RESOURCE)
    return row


RESOURCE = Resource(
    noun="collection of security keys",
    path="/v1/metering/meter-security-keys",
    model=Row,
    body=MeterSecurityKeyCollectionBody,
    out=MeterSecurityKeyCollection,
    operations=EVERYTHING - {"create", "edit"},
    filters={
        "meter": is_uuid(Row.meter),
        "meter_name": _of_meter(MeterDevice.name),
        "meter_external_system_reference": _of_meter(MeterDevice.external_system_reference),
        "meter_manufacturer_serial": _of_meter(MeterDevice.manufacturer_serial),
        "meter_dlms_system_title": _of_meter(MeterDevice.dlms_system_title),
        "meter_dlms_logical_device_name": _of_meter(MeterDevice.dlms_logical_device_name),
    },
    more=_meters,
    owned=_owned,
    owner=_owner,
    gateways=_gateways,
)


@post("/", summary="Create or replace: collection of security keys", operation_class=Tagged)
async def post_keys(
    request: HubRequest, data: JSONBody[MeterSecurityKeyCollectionBody]
) -> Response[MeterSecurityKeyCollection]:
    """Store the keys of a meter; those that it had are gone."""
    hub = hub_of(request)

    async def work(session: AsyncSession) -> Response[MeterSecurityKeyCollection]:
        now = hub.clock.now()
        row = await store(session, data, access_of(request), now)
        await plans.raise_changed(session, await plans.gateways_of_device(session, row.meter), now)
        shown: MeterSecurityKeyCollection = (await show(session, RESOURCE, [row]))[0]
        told = {"meter": shown.meter, "stored": shown.stored}
        await note(session, RESOURCE, "replace", row, after=told, secrets=shown.stored)
        return await answer(session, RESOURCE, row, shown)

    return await in_transaction(request, work, RESOURCE)


router = router_of(RESOURCE, post_keys)
