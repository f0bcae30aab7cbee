"""Meter system events: what meters logged, and what staff noted about them."""

import datetime as dt
import uuid
from typing import Annotated

from msgspec import Meta

from hub.bodies import Body
from hub.models import MeterDevice
from hub.models import MeterSystemEvent as Row
from hub.paging import is_uuid, since, until
from hub.resource_routes import router_of
from hub.resources import EVERYTHING, READ_ONLY, Resource
from protocol.wire import Instant


class MeterSystemEventBody(Body, kw_only=True):
    """An event as staff sends it."""

    read_only = READ_ONLY | {"code"}
    organization: uuid.UUID
    meter_device: uuid.UUID
    timestamp: Instant
    title: Annotated[str, Meta(min_length=1, max_length=50)]
    content: Annotated[str, Meta(min_length=1, max_length=500)]


class MeterSystemEvent(MeterSystemEventBody, kw_only=True):
    """An event. ``code`` (additive) is the meter's own, such as ``0x8103``."""

    id: int
    code: str
    created_at: dt.datetime
    updated_at: dt.datetime


RESOURCE = Resource(
    noun="meter system event",
    path="/v1/metering/meter-system-events",
    model=Row,
    body=MeterSystemEventBody,
    out=MeterSystemEvent,
    operations=EVERYTHING - {"edit"},
    integer_ids=True,
    references={"meter_device": MeterDevice},
    filters={
        "meter_device": is_uuid(Row.meter_device),
        "start_time": since(Row.timestamp),
        "end_time": until(Row.timestamp),
    },
    order=(Row.timestamp,),
    orderings={"timestamp": Row.timestamp, "created_at": Row.created_at},
    walk=lambda _filters: (Row.id,),
)

router = router_of(RESOURCE)
