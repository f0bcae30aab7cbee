"""What backfill has to know of meters: who polls them, how their archives are asked, what that costs, what is due.

A slot is *due*, and not yet a gap, until the run has passed that would have brought it: the first run of a task of its
archive after it. A run that nobody has heard of yet may still wait for its turn on a busy line, and would find its rows
read already: it is waited for, within ``RUN_WAITS``. Where no task reads the archive (the meter pushes), an hour is
waited for it.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.backfill_plans import Archive, Gap, row_seconds, session_seconds
from hub.expectations import expectations_of, tasks_of
from hub.ledger import MissingSpan
from hub.models import AmrTask, DevicePeriod, Gateway, MeterDevice, MeterDeviceType, NetworkInterface, RunReport
from protocol.rasters import Raster
from protocol.reports import DONE, MISSED
from protocol.schedules import tick_at_or_before

RUN_TAKES = dt.timedelta(minutes=15)
"""How long after it was due a run may still be on its way: its line was busy, its report travels."""

RUN_WAITS = dt.timedelta(hours=2)
"""How much longer it may wait for its turn, as after an outage of a line with many meters."""

PUSHED_LATE = dt.timedelta(hours=1)
"""How late a push may be."""

COSTS_OF = dt.timedelta(days=30)
"""Reads of so long ago say what a row costs."""

TIME_COLUMN, TIME_COLUMN_OF_TC = 3, 2
"""The position of the time column where no task says it: on EK and DL, and on TC. LIS-200 fact sheet 3.3."""


@dataclasses.dataclass(frozen=True, slots=True)
class Meter:
    """A meter that a gateway polls over LIS-200.

    ``since`` is when the present one was put there in place of another, which is asked for nothing before that.
    ``positions`` are the time columns of archives as its tasks name them, ``position`` that of others; ``due_after``
    says for each archive from when on slots are still due; ``intervals`` how far apart its rows are; ``rasters`` are
    those of its expectations, by id.
    """

    id: uuid.UUID
    name: str
    organization: uuid.UUID
    gateway: uuid.UUID
    line: uuid.UUID
    since: dt.datetime | None
    session_seconds: float
    row_seconds: float
    position: int
    positions: Mapping[int, int]
    due_after: Mapping[int, dt.datetime]
    intervals: Mapping[int, dt.timedelta]
    rasters: Mapping[int, Raster]


async def meters_of(session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime) -> dict[uuid.UUID, Meter]:
    """Return those of the meters that can be asked for archives, by id."""
    rows = (
        await session.execute(
            sa.select(
                MeterDevice.id,
                MeterDevice.name,
                Gateway.organization,
                NetworkInterface.gateway,
                NetworkInterface.id.label("line"),
                NetworkInterface.rate,
                NetworkInterface.fixed_rate,
                MeterDeviceType.manufacturer_model,
            )
            .join(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
            .join(Gateway, Gateway.id == NetworkInterface.gateway)
            .outerjoin(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
            .where(MeterDevice.id.in_(devices), MeterDevice.protocol == "lis-200")
        )
    ).all()
    there = [row.id for row in rows]
    tasks = await tasks_of(session, there)
    seen = await _costs(session, there, now)
    replaced = await replaced_since(session, there)
    heard = await _heard_of(session, there, now)
    intervals: dict[uuid.UUID, dict[int, dt.timedelta]] = {}
    columns: dict[uuid.UUID, int] = {}
    rasters: dict[uuid.UUID, dict[int, Raster]] = {}
    for one in await expectations_of(session, there):
        if one.archive is None:
            continue
        rasters.setdefault(one.device, {})[one.id] = one.raster
        columns[one.device] = columns.get(one.device, 0) + 1
        known = intervals.setdefault(one.device, {})
        step = dt.timedelta(seconds=one.raster.seconds)
        known[one.archive] = min(step, known.get(one.archive, step))
    found = {}
    for row in rows:
        moved, values = seen.get(row.id, (0, 0))
        archives = [task for task in tasks.get(row.id, ()) if _archive_of(task) is not None]
        found[row.id] = Meter(
            id=row.id,
            name=row.name,
            organization=row.organization,
            gateway=row.gateway,
            line=row.line,
            since=replaced.get(row.id),
            session_seconds=session_seconds(row.rate, fixed=row.fixed_rate),
            # A row has as many values as there are series.
            row_seconds=row_seconds(
                row.rate, fixed=row.fixed_rate, seen=(moved * columns.get(row.id, 1), values) if values else None
            ),
            position=TIME_COLUMN_OF_TC if (row.manufacturer_model or "").startswith("TC") else TIME_COLUMN,
            positions={
                number: position
                for task in archives
                if (number := _archive_of(task)) is not None
                and isinstance(position := (task.task_kwargs or {}).get("control_position"), int)
            },
            due_after={
                number: _due_after(
                    [(task, heard.get((row.id, task.id))) for task in archives if _archive_of(task) == number], now
                )
                for number in intervals.get(row.id, {})
            },
            intervals=intervals.get(row.id, {}),
            rasters=rasters.get(row.id, {}),
        )
    return found


def archives_of(meters: Mapping[uuid.UUID, Meter], spans: Iterable[MissingSpan], *, auto: bool) -> list[Archive]:
    """Return the archives that bring what is missing; with ``auto`` without what is still due."""
    gaps: dict[tuple[uuid.UUID, int], list[Gap]] = {}
    for span in spans:
        if span.archive is None or span.device not in meters:
            continue
        end = span.end
        if auto:
            end = min(end, meters[span.device].due_after.get(span.archive, end))
        start = max(span.start, meters[span.device].since or span.start)
        if start <= end:
            raster = meters[span.device].rasters[span.expectation]
            gaps.setdefault((span.device, span.archive), []).append(Gap(start, end, raster))
    found = []
    for (device, number), some in sorted(gaps.items(), key=lambda item: (item[0][0].int, item[0][1])):
        meter = meters[device]
        interval = meter.intervals.get(number, dt.timedelta(hours=1))
        found.append(Archive(device, number, meter.gateway, meter.session_seconds, meter.row_seconds, interval, some))
    return found


async def replaced_since(session: AsyncSession, devices: Collection[uuid.UUID]) -> dict[uuid.UUID, dt.datetime]:
    """Return when the present meters were put in place of others, of those that were (``hub.device_periods``)."""
    rows = await session.execute(
        sa.select(DevicePeriod.meter_device, DevicePeriod.since).where(
            DevicePeriod.meter_device.in_(devices), DevicePeriod.until.is_(None), DevicePeriod.since.is_not(None)
        )
    )
    return {device: since for device, since in rows if since is not None}


def _archive_of(task: AmrTask) -> int | None:
    """The archive that a task reads; None when it reads none."""
    number = (task.task_kwargs or {}).get("archive_number")
    return number if task.task_call.startswith("read_archive") and isinstance(number, int) else None


def _due_after(tasks: Iterable[tuple[AmrTask, dt.datetime | None]], now: dt.datetime) -> dt.datetime:
    """Return up to when slots should be here; each task comes with the newest tick of which a run is heard of."""
    passed = []
    for task, heard in tasks:
        latest = now - dt.timedelta(seconds=task.run_offset_seconds) - RUN_TAKES
        tick = tick_at_or_before(task.schedule, latest)
        if heard is None or heard < tick:
            waited_for = tick_at_or_before(task.schedule, latest - RUN_WAITS)
            tick = waited_for if heard is None else max(waited_for, heard)
        passed.append(tick)
    return max(passed, default=now - PUSHED_LATE)


async def _heard_of(
    session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime
) -> dict[tuple[uuid.UUID, uuid.UUID], dt.datetime]:
    """Return for meters and tasks the newest tick that was run of late, however it ended; a missed one was not run."""
    rows = await session.execute(
        sa.select(RunReport.device, RunReport.task, sa.func.max(RunReport.tick))
        .where(
            RunReport.device.in_(devices),
            RunReport.ended > now - RUN_TAKES - RUN_WAITS,
            RunReport.task.is_not(None),
            RunReport.tick.is_not(None),
            RunReport.outcome != MISSED,
        )
        .group_by(RunReport.device, RunReport.task)
    )
    return {(device, task): tick for device, task, tick in rows if task is not None and tick is not None}


async def _costs(
    session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime
) -> dict[uuid.UUID, tuple[int, int]]:
    """Return how many bytes the meters' reads moved of late, and how many readings they brought."""
    rows = await session.execute(
        sa.select(RunReport.device, sa.func.sum(RunReport.line_bytes), sa.func.sum(RunReport.readings))
        .where(
            RunReport.device.in_(devices),
            RunReport.ended > now - COSTS_OF,
            RunReport.outcome == DONE,
            # One value says what a session costs; only many say what a row does.
            RunReport.readings > _MANY,
        )
        .group_by(RunReport.device)
    )
    return {device: (int(moved), int(readings)) for device, moved, readings in rows}


_MANY = 20
