"""AMR task groups: tasks managed together and given to many meters."""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import plans
from hub.bodies import Body
from hub.models import AmrTask, Deadline, group_tasks
from hub.models import AmrTaskGroup as Row
from hub.paging import equals, is_uuid
from hub.resource_routes import router_of
from hub.resources import READ_ONLY, Link, Resource, Use, Values


class AmrTaskGroupBody(Body, kw_only=True):
    """A group as clients send it."""

    read_only = READ_ONLY | {"tasks_info"}
    organization: uuid.UUID
    name: Annotated[str, Meta(min_length=1, max_length=150)]
    description: Annotated[str, Meta(max_length=500)] = ""
    tasks: list[uuid.UUID] = msgspec.field(default_factory=list)


class AmrTaskGroup(AmrTaskGroupBody, kw_only=True):
    """A group. ``tasks_info`` names its tasks, for people."""

    id: uuid.UUID
    tasks_info: str
    created_at: dt.datetime
    updated_at: dt.datetime


async def _tasks_info(session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    statement = (
        select(group_tasks.c.group, AmrTask.name, AmrTask.schedule, AmrTask.is_active)
        .join(AmrTask, AmrTask.id == group_tasks.c.task)
        .where(group_tasks.c.group.in_([row.id for row in rows]))
        .order_by(AmrTask.created_at, AmrTask.id)
    )
    texts: dict[uuid.UUID, list[str]] = {}
    for group, name, schedule, is_active in await session.execute(statement):
        texts.setdefault(group, []).append(f"{name} ({schedule if is_active else 'not active'})")
    return [{"tasks_info": ", ".join(texts.get(row.id, []))} for row in rows]


def _deadlines(group: uuid.UUID) -> Select[str]:
    return select(Deadline.name).where(Deadline.task_group == group).order_by(Deadline.name)


RESOURCE = Resource(
    noun="AMR task group",
    path="/v1/metering/amr-task-groups",
    model=Row,
    body=AmrTaskGroupBody,
    out=AmrTaskGroup,
    unique=("organization", "name"),
    filters={"name": equals(Row.name), "organization": is_uuid(Row.organization)},
    links=(Link("tasks", group_tasks, "group", "task", AmrTask),),
    used_by=(Use("deadlines", Deadline, "task_group", names=_deadlines),),
    more=_tasks_info,
    gateways=plans.gateways_of_group,
)

router = router_of(RESOURCE)
