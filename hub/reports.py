"""What gateways report besides readings: runs, command updates, applied plans, events, losses, undecodable pushes.

Everything has a UUID made when it was stored, so a repeated report changes nothing. State-like reports carry
(session, sequence): a lower one never overwrites a higher one.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import prometheus_client
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import command_updates, judging, models
from hub.counted import count
from hub.once import insert_once
from hub.plans_kept import note_applied
from protocol import commands, reports

OTHER = "other"
"""What an outcome is counted as that this version does not know."""

_OUTCOMES = frozenset(
    {
        *(reports.DONE, reports.FAILED, reports.MISSED, reports.WRONG_METER),
        *(reports.REFUSED, reports.CANCELLED, reports.INTERRUPTED),
    }
)
_runs = prometheus_client.Counter(
    "metergate_runs",
    "Runs that gateways have reported, by outcome; one that comes twice counts twice",
    ["outcome"],
)


async def store_reports(
    session: AsyncSession,
    gateway: uuid.UUID,
    organization: uuid.UUID,
    found: Sequence[reports.Report],
    now: dt.datetime,
) -> dict[int, str]:
    """Store the reports of one gateway in the caller's transaction.

    Returns:
        The positions of those that belong to nothing that the hub knows, with the reason: they go into quarantine.
    """
    left: dict[int, str] = {}
    runs: list[dict[str, Any]] = []
    losses: list[dict[str, Any]] = []
    events: list[tuple[int, reports.MeterSystemEvent]] = []
    updates: list[tuple[int, commands.CommandUpdate]] = []
    pushes: list[dict[str, Any]] = []
    for position, report in enumerate(found):
        match report:
            case reports.RunReport():
                runs.append(msgspec.structs.asdict(report) | {"gateway": gateway, "received_at": now})
            case reports.LossRecord():
                losses.append(msgspec.structs.asdict(report) | {"gateway": gateway, "received_at": now})
            case reports.MeterSystemEvent():
                events.append((position, report))
            case reports.PlanApplied():
                await _note_applied(session, gateway, report, now)
            case reports.UndecodablePush():
                pushes.append(msgspec.structs.asdict(report) | {"gateway": gateway, "received_at": now})
            case commands.CommandUpdate():
                updates.append((position, report))
    await insert_once(session, models.RunReport, runs, "id")
    count(session, _runs, (run["outcome"] if run["outcome"] in _OUTCOMES else OTHER for run in runs))
    await insert_once(session, models.LossRecord, losses, "id")
    await insert_once(session, models.UndecodablePush, pushes, "id")
    left |= await _store_events(session, gateway, organization, events, now)
    left |= await command_updates.apply_updates(session, gateway, organization, updates, now)
    return left


async def _note_applied(
    session: AsyncSession, gateway: uuid.UUID, report: reports.PlanApplied, now: dt.datetime
) -> None:
    """Note what a gateway runs, unless something newer is known; and what of that plan it cannot run.

    A life sign names plan and state as well and may overtake the report, but only the report has the problems: they are
    taken whenever they are those of the plan that is known to run.
    """
    table = models.Gateway
    problems = [msgspec.structs.asdict(problem) for problem in report.problems]
    newer = sa.or_(
        table.applied_session < report.session,
        sa.and_(table.applied_session == report.session, table.applied_sequence < report.sequence),
    )
    same_plan = sa.and_(table.applied_revision == report.revision, table.applied_digest == report.digest)
    same = await session.execute(
        sa.update(table)
        .where(table.id == gateway, sa.not_(newer), same_plan)
        .values(applied_problems=problems, updated_at=now)
        .execution_options(synchronize_session=False)
    )
    later = await session.execute(
        sa.update(table)
        .where(table.id == gateway, newer)
        .values(
            applied_revision=report.revision,
            applied_digest=report.digest,
            applied_problems=problems,
            applied_session=report.session,
            applied_sequence=report.sequence,
            updated_at=now,
        )
        .execution_options(synchronize_session=False)
    )
    if any(cast("sa.CursorResult[Any]", done).rowcount for done in (same, later)):
        await note_applied(session, gateway, report, now)


async def _store_events(
    session: AsyncSession,
    gateway: uuid.UUID,
    organization: uuid.UUID,
    events: list[tuple[int, reports.MeterSystemEvent]],
    now: dt.datetime,
) -> dict[int, str]:
    if not events:
        return {}
    left: dict[int, str] = {}
    rows = []
    directory = await judging.look_up_meters(session, {event.device for _, event in events}, gateway)
    for position, event in events:
        meter = directory.meter(event.device)
        if meter is None:
            left[position] = judging.UNKNOWN_METER
        elif not directory.has_polled(gateway, meter):
            left[position] = judging.NOT_THIS_GATEWAY
        else:
            rows.append(
                {
                    "organization": meter.organization or organization,
                    "meter_device": meter.id,
                    "timestamp": event.timestamp,
                    "title": event.title,
                    "content": event.content,
                    "code": event.code,
                    "report": event.id,
                    "created_at": now,
                    "updated_at": now,
                }
            )
    await insert_once(session, models.MeterSystemEvent, rows, "report")
    return left
