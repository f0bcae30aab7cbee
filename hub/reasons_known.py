"""What the database knows about meters that lack slots: runs, commands, backfills, losses, staged readings, periods.

One round of queries for all lacks of a question, however many; ``hub.reasons`` makes answers of it.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from hub import models
from hub.among import among
from hub.backfill_archives import replaced_since
from hub.backfill_rows import CANCELLED, GAVE_UP
from hub.dispatch import OPEN_STATES
from hub.expectations import Expecting, tasks_of
from hub.ledger import Settled, settled_of
from hub.ledger_chunks import Spans
from protocol import reports

_RUNS = 20_000
"""Runs looked at for the momentary values of one question, the newest first."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lack:
    """What one expectation lacks: spans of slots. ``rejected``: those that are there but do not count, with flags."""

    one: Expecting
    spans: Spans
    rejected: Mapping[int, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A device as far as reasons need it."""

    name: str
    gateway: models.Gateway | None


@dataclasses.dataclass(slots=True)
class Known:
    """What the database says about the devices of some lacks."""

    places: dict[uuid.UUID, Place]
    tasks: dict[uuid.UUID, list[models.AmrTask]]
    latest: dict[tuple[uuid.UUID, uuid.UUID | None], Any]
    failed: dict[tuple[uuid.UUID, uuid.UUID | None], list[Any]]
    settled: dict[int, list[Settled]]
    commands: dict[uuid.UUID, list[models.Command]]
    backfills: dict[uuid.UUID, list[models.Backfill]]
    replaced: dict[uuid.UUID, dt.datetime]
    staged: dict[tuple[uuid.UUID, str], list[Any]]
    lost: dict[tuple[uuid.UUID, str], list[models.LossRecord]]
    series: dict[uuid.UUID, str]


_SHORTEST = 900
"""Seconds between two runs of a task at least (``protocol.schedules``)."""


async def look_up(session: AsyncSession, lacks: Sequence[Lack]) -> Known:
    """Return what is known that may explain these lacks; each has a span at least."""
    devices = sorted({lack.one.device for lack in lacks})
    start = min(lack.one.raster.instant_of(lack.spans[0][0]) for lack in lacks)
    end = max(lack.one.raster.instant_of(lack.spans[-1][1] + 1) for lack in lacks)
    places = {
        row[0]: Place(row[1], row[2])
        for row in await session.execute(
            select(models.MeterDevice.id, models.MeterDevice.name, models.Gateway)
            .outerjoin(models.NetworkInterface, models.NetworkInterface.id == models.MeterDevice.network_interface)
            .outerjoin(models.Gateway, models.Gateway.id == models.NetworkInterface.gateway)
            .where(among(session, models.MeterDevice.id, devices))
        )
    }
    names = await session.execute(
        select(models.ReadingSeries.id, models.ReadingSeries.name).where(
            models.ReadingSeries.id.in_({lack.one.series for lack in lacks})
        )
    )
    commands = await session.scalars(
        select(models.Command).where(
            among(session, models.Command.meter_device, devices), models.Command.state.in_(OPEN_STATES)
        )
    )
    momentary = sorted({lack.one.device for lack in lacks if lack.one.momentary})
    return Known(
        places,
        await tasks_of(session, devices),
        await _latest_runs(session, devices, start),
        await _failed_runs(session, momentary, start),
        await settled_of(session, [lack.one for lack in lacks]),
        _grouped((row.meter_device, row) for row in commands),
        await _backfills(session, devices),
        await replaced_since(session, devices),
        await _staged(session, places, start, end),
        await _lost(session, devices, start, end),
        {row.id: row.name for row in names},
    )


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


async def _backfills(session: AsyncSession, devices: Collection[uuid.UUID]) -> dict[uuid.UUID, list[models.Backfill]]:
    """Those that are open, and those that were given up or cancelled; the latest first."""
    table = models.Backfill
    rows = await session.scalars(
        select(table)
        .where(
            among(session, table.meter_device, devices),
            sa.or_(table.ended_at.is_(None), table.state.in_((GAVE_UP, CANCELLED))),
        )
        .order_by(table.ended_at.is_not(None), table.created_at.desc(), table.id)
    )
    return _grouped((row.meter_device, row) for row in rows)


_RUN = (
    models.RunReport.device,
    models.RunReport.task,
    models.RunReport.tick,
    models.RunReport.since,
    models.RunReport.outcome,
    models.RunReport.cause,
    models.RunReport.started,
    models.RunReport.ended,
    models.RunReport.readings,
)


async def _latest_runs(
    session: AsyncSession, devices: Collection[uuid.UUID], start: dt.datetime
) -> dict[tuple[uuid.UUID, uuid.UUID | None], Any]:
    """The last run of each task on each device, of those that ended since ``start``; missed ticks are no run."""
    table = models.RunReport
    ran = (among(session, table.device, devices), table.ended >= start, table.task.is_not(None))
    last = (
        select(table.device, table.task, sa.func.max(table.ended).label("ended"))
        .where(*ran)
        .group_by(table.device, table.task)
        .subquery()
    )
    same = sa.and_(table.device == last.c.device, table.task == last.c.task, table.ended == last.c.ended)
    return {(row.device, row.task): row for row in await session.execute(select(*_RUN).join(last, same))}


async def _failed_runs(
    session: AsyncSession, devices: Collection[uuid.UUID], start: dt.datetime
) -> dict[tuple[uuid.UUID, uuid.UUID | None], list[Any]]:
    """Runs that brought nothing for their tick: that were not done, or perhaps so late that the next one was due."""
    table = models.RunReport
    if not devices:
        return {}
    if session.get_bind().dialect.name == "postgresql":
        late = sa.extract("epoch", table.ended) - sa.extract("epoch", table.tick) >= _SHORTEST
    else:
        microseconds = sa.type_coerce(table.ended, sa.BigInteger) - sa.type_coerce(table.tick, sa.BigInteger)
        late = microseconds >= _SHORTEST * 1_000_000
    rows = await session.execute(
        select(*_RUN)
        .where(
            table.device.in_(devices),
            table.ended >= start,
            table.tick.is_not(None),
            sa.or_(table.outcome != reports.DONE, late),
        )
        .order_by(table.ended.desc())
        .limit(_RUNS)
    )
    return _grouped(((row.device, row.task), row) for row in rows)


async def _staged(
    session: AsyncSession, places: Mapping[uuid.UUID, Place], start: dt.datetime, end: dt.datetime
) -> dict[tuple[uuid.UUID, str], list[Any]]:
    table = models.StagedReading
    named = {place.name: device for device, place in places.items()}
    rows = await session.execute(
        select(
            table.device, table.meter_device_name, table.series_name, table.timestamp, table.reason, table.created_at
        ).where(
            table.timestamp >= start,
            table.timestamp < end,
            sa.or_(among(session, table.device, places), among(session, table.meter_device_name, named)),
        )
    )
    found: list[tuple[Any, Any]] = []
    for row in rows:
        device = row.device if row.device is not None else named[row.meter_device_name]
        found.append(((device, row.series_name), row))
    return _grouped(found)


async def _lost(
    session: AsyncSession, devices: Collection[uuid.UUID], start: dt.datetime, end: dt.datetime
) -> dict[tuple[uuid.UUID, str], list[models.LossRecord]]:
    table = models.LossRecord
    rows = await session.scalars(
        select(table).where(among(session, table.device, devices), table.start < end, table.end >= start)
    )
    return _grouped(((row.device, row.series), row) for row in rows)
