"""What gateways report besides readings: runs, command updates, applied plans, events, losses, undecodable pushes.

Everything has a UUID made when it was stored, so a repeated report changes nothing. State-like reports carry
(session, sequence): a lower one never overwrites a higher one.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import prometheus_client
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import command_updates, judging, models
from hub.among import among
from hub.counted import count
from hub.many import update_many
from hub.once import insert_once
from hub.plans_kept import Applied, note_applied
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


class Told(NamedTuple):
    """What one gateway reports, in its order."""

    gateway: uuid.UUID
    organization: uuid.UUID
    reports: Sequence[reports.Report]


async def store_reports(
    session: AsyncSession, told: Sequence[Told], now: dt.datetime
) -> dict[tuple[uuid.UUID, int], str]:
    """Store what gateways report in the caller's transaction, each gateway named once.

    Returns:
        Gateway and position of those that belong to nothing that the hub knows, with the reason: they go into
        quarantine.
    """
    left: dict[tuple[uuid.UUID, int], str] = {}
    runs: list[dict[str, Any]] = []
    losses: list[dict[str, Any]] = []
    pushes: list[dict[str, Any]] = []
    applied: list[Applied] = []
    events: dict[uuid.UUID, list[tuple[int, reports.MeterSystemEvent]]] = {}
    updates: dict[uuid.UUID, list[tuple[int, commands.CommandUpdate]]] = {}
    for gateway, _, found in told:
        for position, report in enumerate(found):
            match report:
                case reports.RunReport():
                    runs.append(msgspec.structs.asdict(report) | {"gateway": gateway, "received_at": now})
                case reports.LossRecord():
                    losses.append(msgspec.structs.asdict(report) | {"gateway": gateway, "received_at": now})
                case reports.MeterSystemEvent():
                    events.setdefault(gateway, []).append((position, report))
                case reports.PlanApplied():
                    applied.append(Applied(gateway, report))
                case reports.UndecodablePush():
                    pushes.append(msgspec.structs.asdict(report) | {"gateway": gateway, "received_at": now})
                case commands.CommandUpdate():
                    updates.setdefault(gateway, []).append((position, report))
    await _note_applied(session, applied, now)
    await insert_once(session, models.RunReport, runs, "id")
    count(session, _runs, (run["outcome"] if run["outcome"] in _OUTCOMES else OTHER for run in runs))
    await insert_once(session, models.LossRecord, losses, "id")
    await insert_once(session, models.UndecodablePush, pushes, "id")
    for gateway, organization, _ in told:
        unknown = await _store_events(session, gateway, organization, events.get(gateway, []), now)
        unknown |= await command_updates.apply_updates(session, gateway, organization, updates.get(gateway, []), now)
        left |= {(gateway, position): reason for position, reason in unknown.items()}
    return left


async def _note_applied(session: AsyncSession, applied: Sequence[Applied], now: dt.datetime) -> None:
    """Note what gateways run, unless something newer is known; and what of that plan they cannot run.

    A life sign names plan and state as well and may overtake the report, but only the report has the problems: they are
    taken whenever they are those of the plan that is known to run.
    """
    if not applied:
        return
    table = models.Gateway
    found = await session.execute(
        sa.select(table.id, table.applied_revision, table.applied_digest, table.applied_session, table.applied_sequence)
        .where(among(session, table.id, {one.gateway for one in applied}))
        .order_by(table.gateway_id)
        .with_for_update(key_share=True)
    )
    known = {
        row.id: (row.applied_session, row.applied_sequence, row.applied_revision, row.applied_digest) for row in found
    }
    news: dict[uuid.UUID, dict[str, Any]] = {}
    taken = []
    for one in applied:
        report = one.report
        before = known.get(one.gateway)
        state = (report.session, report.sequence, report.revision, report.digest)
        if before is None or (before[:2] >= state[:2] and before[2:] != state[2:]):
            continue
        known[one.gateway] = state = max(before, state, key=lambda which: which[:2])
        taken.append(one)
        news[one.gateway] = {
            "id": one.gateway,
            "applied_session": state[0],
            "applied_sequence": state[1],
            "applied_revision": report.revision,
            "applied_digest": report.digest,
            "applied_problems": [msgspec.structs.asdict(problem) for problem in report.problems],
            "updated_at": now,
        }
    if taken:
        await update_many(session, table, ("id",), list(news.values()))
        await note_applied(session, taken, now)


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
    directory = await judging.look_up_meters(session, {event.device for _, event in events})
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
