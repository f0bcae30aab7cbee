"""Runs (additive, ``/v1/runs``): what the gateways executed, for which tick, and how it ended. Read only.

The newest come first. ``tick`` is the due time without the offset, null for a run on demand; ``cause`` says why an
outcome is not ``done``.
"""

import datetime as dt
import uuid
from typing import Any

import msgspec
from litestar import Router, get
from sqlalchemy.ext.asyncio import AsyncSession

from hub.database import reading
from hub.models import RunReport
from hub.paging import Page, equals, is_uuid, select_page, since, until
from hub.problems import NotFound
from hub.state import HubRequest, hub_of

FILTERS = {
    "gateway": is_uuid(RunReport.gateway),
    "meter_device": is_uuid(RunReport.device),
    "task": is_uuid(RunReport.task),
    "command": is_uuid(RunReport.command),
    "outcome": equals(RunReport.outcome),
    "start_time": since(RunReport.ended),
    "end_time": until(RunReport.ended),
}


class Run(msgspec.Struct, kw_only=True):
    """One execution of one task or command on one meter."""

    id: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID
    task: uuid.UUID | None
    command: uuid.UUID | None
    tick: dt.datetime | None
    outcome: str
    cause: str
    started: dt.datetime | None
    ended: dt.datetime
    readings: int
    line_bytes: int
    received_at: dt.datetime


def show(row: RunReport) -> Run:
    """Make the answer's object of a row."""
    fields = {name: getattr(row, name) for name in Run.__struct_fields__ if name != "meter_device"}
    return Run(meter_device=row.device, **fields)


async def find(session: AsyncSession, run: uuid.UUID) -> RunReport:
    """Return a run.

    Raises:
        NotFound: when no gateway has reported it.
    """
    row = await session.get(RunReport, run)
    if row is None:
        raise NotFound(f"there is no run {run}")
    return row


@get("/")
async def list_runs(request: HubRequest) -> Page[Run]:
    """List runs, the newest first."""
    async with reading(hub_of(request).engine) as session:
        order = (RunReport.ended.desc(), RunReport.id)
        page, rows = await select_page(session, request, RunReport, FILTERS, order)
        results: list[Any] = page.results
        results.extend(show(row) for row in rows)
        return page


@get("/{run:uuid}")
async def get_run(request: HubRequest, run: uuid.UUID) -> Run:
    """Show one run."""
    async with reading(hub_of(request).engine) as session:
        return show(await find(session, run))


router = Router("/v1/runs", route_handlers=[list_runs, get_run])
