"""AMR tasks: how and when to poll. Calls and kwargs are judged by the catalogue that the gateways run by.

A context that the interface names and no gateway has yet (``PROMISED``) may be kept in a task that is not active.
"""

import datetime as dt
import uuid
from typing import Annotated, Any

from msgspec import Meta
from sqlalchemy.ext.asyncio import AsyncSession

from contexts.catalogue import CONTEXTS, CallError, check_call
from hub import plans
from hub.bodies import Body
from hub.models import AmrTask as Row
from hub.paging import equals, is_uuid
from hub.problems import Wrong, WrongField, wrong
from hub.resources import READ_ONLY, Resource, Values
from protocol.plans import MISSED_POLICIES
from protocol.schedules import SCHEDULES, check_offset
from protocol.wire import ContractError

PROMISED = ("generic_corus_meter",)
"""Contexts of the published interface that do not exist here yet."""


class AmrTaskBody(Body, kw_only=True):
    """A task as clients send it; ``missed_policy`` is additive."""

    read_only = READ_ONLY
    organization: uuid.UUID
    name: Annotated[str, Meta(min_length=1, max_length=150)]
    description: Annotated[str, Meta(max_length=500)] = ""
    is_active: bool = True
    schedule: str
    run_offset_seconds: int = 0
    meter_execution_type: str
    task_call: Annotated[str, Meta(min_length=1, max_length=50)]
    task_kwargs: dict[str, Any] | None = None
    missed_policy: str = "default"


class AmrTask(AmrTaskBody, kw_only=True):
    """A task."""

    id: uuid.UUID
    task_kwargs: dict[str, Any] | None
    created_at: dt.datetime
    updated_at: dt.datetime


def judge_call(context: str, call: str, kwargs: dict[str, Any]) -> None:
    """Accept a call that some gateway can make.

    Raises:
        Wrong: naming ``meter_execution_type``, ``task_call`` or the key of ``task_kwargs``.
    """
    if context in PROMISED:
        raise wrong("meter_execution_type", f"no gateway has {context} yet")
    if context not in CONTEXTS:
        raise wrong("meter_execution_type", f"{context!r} is none of {', '.join(CONTEXTS)}")
    try:
        check_call(context, call, kwargs)
    except CallError as error:
        raise wrong(error.field, error.text) from error


async def _check(_session: AsyncSession, _row: Row | None, values: Values, _now: dt.datetime) -> None:
    values["task_kwargs"] = values["task_kwargs"] or {}
    errors = []
    if values["schedule"] not in SCHEDULES:
        errors.append(WrongField("schedule", f"{values['schedule']!r} is none of {', '.join(SCHEDULES)}"))
    else:
        try:
            check_offset(values["schedule"], values["run_offset_seconds"])
        except ContractError as error:
            errors.append(WrongField("run_offset_seconds", str(error)))
    if values["missed_policy"] not in MISSED_POLICIES:
        errors.append(
            WrongField("missed_policy", f"{values['missed_policy']!r} is none of {', '.join(MISSED_POLICIES)}")
        )
    context = values["meter_execution_type"]
    if context in PROMISED:
        if values["is_active"]:
            text = f"no gateway has {context} yet; until then its tasks can be kept with is_active false only"
            errors.append(WrongField("is_active", text))
    else:
        try:
            judge_call(context, values["task_call"], values["task_kwargs"])
        except Wrong as error:
            errors += error.errors
    if errors:
        raise Wrong(*errors)


RESOURCE = Resource(
    noun="AMR task",
    path="/v1/metering/amr-tasks",
    model=Row,
    body=AmrTaskBody,
    out=AmrTask,
    unique=("organization", "name"),
    filters={"name": equals(Row.name), "organization": is_uuid(Row.organization)},
    check=_check,
    gateways=plans.gateways_of_task,
)
