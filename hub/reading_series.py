"""Reading series: the named time series of an organization, each with its unit."""

import datetime as dt
import decimal
import uuid
from typing import Annotated

from msgspec import Meta
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.bodies import Body
from hub.models import Deadline, Reading, config_series, deadline_series
from hub.models import ReadingSeries as Row
from hub.paging import equals
from hub.problems import wrong
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Resource, Use, Values
from protocol.wire import ContractError, checked_decimal


class MeterReadingsSeriesBody(Body, kw_only=True):
    """A series as clients send it."""

    read_only = READ_ONLY
    organization: uuid.UUID
    name: Annotated[str, Meta(min_length=1, max_length=50)]
    description: Annotated[str, Meta(max_length=250)] = ""
    unit: Annotated[str, Meta(min_length=1, max_length=10)]
    unit_description: Annotated[str, Meta(min_length=1, max_length=250)] | None = None
    si_multiplier: decimal.Decimal = decimal.Decimal(1)
    affected_by_ct_ratio: bool = False
    affected_by_vt_ratio: bool = False


class MeterReadingsSeries(MeterReadingsSeriesBody, kw_only=True):
    """A series."""

    id: uuid.UUID
    created_at: dt.datetime
    updated_at: dt.datetime


async def _check(_session: AsyncSession, _row: Row | None, values: Values, _now: dt.datetime) -> None:
    try:
        checked_decimal(values["si_multiplier"])
    except ContractError as error:
        raise wrong("si_multiplier", str(error)) from error


def _deadlines(series: uuid.UUID) -> Select[str]:
    of_series = select(deadline_series.c.deadline).where(deadline_series.c.series == series)
    return select(Deadline.name).where(Deadline.id.in_(of_series)).order_by(Deadline.name)


RESOURCE = Resource(
    noun="reading series",
    path="/v1/metering/meter-reading-series",
    model=Row,
    body=MeterReadingsSeriesBody,
    out=MeterReadingsSeries,
    unique=("organization", "name"),
    filters={"name": equals(Row.name), "unit": equals(Row.unit)},
    used_by=(
        Use("meter device configs", config_series, "series"),
        Use("readings", Reading, "series"),
        Use("deadlines", deadline_series, "series", names=_deadlines),
    ),
    check=_check,
    adopts=True,
)

router = router_of(RESOURCE)
