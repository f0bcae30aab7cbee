"""Expectations: which series of which meter should have a value when. Rows that follow from the configuration.

Rules:
- An edit marks the meters whose expectations it may change (``mark``), in its own transaction; a clerk makes these
  meters' expectations again (``recompute``) within seconds. Only clerks write expectations, one at a time.
- What a config or an archive says holds from the day on which the meter was commissioned: another raster makes that
  series' chunks anew, for all the time. What a task reads by itself is expected from when it was to be read first:
  nobody can read yesterday's momentary value.
- What is expected no longer ends; what was expected until then stays.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy import Row, Table, select
from sqlalchemy.ext.asyncio import AsyncSession

from hub.among import among
from hub.columns import to_microseconds
from hub.expected_series import FROM_TASK, Expected, Polled, Setup, expected_of
from hub.many import batched
from hub.models import (
    AmrTask,
    AmrTaskGroup,
    Expectation,
    ExpectationMark,
    LedgerChunk,
    LedgerRaster,
    MeterDevice,
    MeterDeviceConfig,
    MeterDeviceType,
    ReadingSeries,
    ReadingsKept,
    config_series,
    device_groups,
    device_tasks,
    group_tasks,
)
from protocol.rasters import SECONDS, Raster
from protocol.wire import ContractError

MARKS = 500
"""Marks per turn: the meters of one transaction."""

_CHUNK = 5000
"""Ids per IN list: SQLite takes 32,766 parameters in a statement."""

_log = structlog.get_logger(__name__)
_chunks = cast("Table", LedgerChunk.__table__)


class Expecting(msgspec.Struct, frozen=True, gc=False):
    """An expectation as the ledger works with it. ``until`` is None while it has no end; both slots are in it."""

    # A struct, because a turn of the clerk makes one for each series that had readings.

    id: int
    device: uuid.UUID
    series: uuid.UUID
    raster_id: int
    raster: Raster
    momentary: bool
    origin: str
    archive: int | None
    since: int
    until: int | None
    rebuilding: bool

    def slot(self, microseconds: int) -> int | None:
        """Return the slot that a reading with this timestamp (after 1970) fills; None when it fills none."""
        if self.momentary:
            found: int | None = self.raster.slot_at_or_before(_EPOCH + dt.timedelta(microseconds=microseconds))
        else:
            found = self.raster.slot_of_microseconds(microseconds)
        if found is None or found < self.since or (self.until is not None and found > self.until):
            return None
        return found

    def slots(self, timestamps: Sequence[int]) -> Sequence[int]:
        """Return the slots that readings with these timestamps (microseconds after 1970) fill."""
        step = 1_000_000 * SECONDS.get(self.raster.interval, 0)
        if not step or self.momentary:
            return [slot for timestamp in timestamps if (slot := self.slot(timestamp)) is not None]
        # The same, for the most frequent rasters and thousands of readings at once.
        anchor, since = 1_000_000 * self.raster.anchor_seconds, self.since
        until = self.until if self.until is not None else _NEVER
        if len(timestamps) == 1:
            slot, rest = divmod(timestamps[0] - anchor, step)
            return [slot] if not rest and since <= slot <= until else []
        if timestamps and not (timestamps[0] - anchor) % step:
            first, end = timestamps[0], timestamps[-1] + 1
            # What was read from an archive follows on one another: no arithmetic for each row of it.
            if timestamps == list(range(first, end, step)):
                slot = (first - anchor) // step
                return range(max(slot, since), min(slot + len(timestamps) - 1, until) + 1)
        found = [divmod(timestamp - anchor, step) for timestamp in timestamps]
        return [slot for slot, rest in found if not rest and since <= slot <= until]

    def slot_at(self, timestamp: dt.datetime) -> int | None:
        """Return the slot that a reading with this timestamp fills; None when it fills none."""
        return self.slot(to_microseconds(timestamp))

    def window(self, start: dt.datetime, end: dt.datetime, now: dt.datetime) -> tuple[int, int]:
        """Return the first and last slot that were expected within [start, end) and until now; none if first > last."""
        first, last = slots_within(self.raster, start, end, now)
        return max(first, self.since), last if self.until is None else min(last, self.until)


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NEVER = 2**62


def slots_within(raster: Raster, start: dt.datetime, end: dt.datetime, now: dt.datetime) -> tuple[int, int]:
    """Return the first and last slot of a raster within [start, end) and until now; none if first > last."""
    first = raster.first_slot_at_or_after(start)
    return first, min(raster.first_slot_at_or_after(end) - 1, raster.slot_at_or_before(now))


async def expectations_of(
    session: AsyncSession, devices: Collection[uuid.UUID], *, lock: bool = False
) -> list[Expecting]:
    """Return what is expected of these meters, in order of ids; ``lock`` keeps it from being deleted meanwhile."""
    return await _read(session, Expectation.device, sorted(devices), lock=lock)


async def expectations_by_id(session: AsyncSession, ids: Collection[int]) -> list[Expecting]:
    """Return these expectations, in order of ids."""
    return await _read(session, Expectation.id, sorted(ids))


async def expected_devices(session: AsyncSession) -> list[uuid.UUID]:
    """Return the meters of which something is expected, in order."""
    return list((await session.execute(select(Expectation.device).distinct().order_by(Expectation.device))).scalars())


async def _read(session: AsyncSession, column: Any, values: Sequence[Any], *, lock: bool = False) -> list[Expecting]:  # noqa: ANN401 - a mapped column
    statement = select(
        Expectation.id,
        Expectation.device,
        Expectation.series,
        Expectation.raster,
        LedgerRaster.interval,
        LedgerRaster.anchor_seconds,
        LedgerRaster.zone,
        LedgerRaster.momentary,
        Expectation.origin,
        Expectation.archive,
        Expectation.since_slot,
        Expectation.until_slot,
        Expectation.rebuilding,
    ).join(LedgerRaster, LedgerRaster.id == Expectation.raster)
    if lock:
        statement = statement.with_for_update(key_share=True, read=True, of=Expectation)
    rasters: dict[int, Raster] = {}
    found = []
    for some in batched(values, _CHUNK):
        for row in await session.execute(statement.where(among(session, column, some)).order_by(Expectation.id)):
            id_, device, series, raster_id, interval, anchor_seconds, zone, *rest = row
            raster = rasters.get(raster_id)
            if raster is None:
                raster = rasters[raster_id] = Raster(interval, anchor_seconds, zone)
            found.append(Expecting(id_, device, series, raster_id, raster, *rest))
    return found


# Marks


async def mark(session: AsyncSession, model: type[Any], row: uuid.UUID) -> None:
    """Mark, in the caller's transaction, the meters whose expectations hang on this row of ``model``.

    Call it after what was edited is flushed, and before what is deleted goes. Other models concern nobody.
    """
    devices = _concerned(model, row)
    if devices is not None:
        connection = await session.connection()
        await connection.execute(sa.insert(ExpectationMark).from_select(["device"], devices))


async def mark_devices(session: AsyncSession, devices: Iterable[uuid.UUID]) -> None:
    """Mark these meters, as ``mark`` does."""
    rows = [{"device": device} for device in devices]
    if rows:
        connection = await session.connection()
        await connection.execute(sa.insert(ExpectationMark), rows)


def _concerned(model: type[Any], row: uuid.UUID) -> sa.Select[Any] | None:
    meters = select(MeterDevice.id)
    groups = select(device_groups.c.device)
    types = select(MeterDeviceType.id)
    configs = select(config_series.c.config).where(config_series.c.series == row)
    tasks = select(group_tasks.c.group).where(group_tasks.c.task == row)
    own = select(device_tasks.c.device).where(device_tasks.c.task == row)
    concerned = {
        MeterDevice: MeterDevice.id == row,
        MeterDeviceType: MeterDevice.type == row,
        MeterDeviceConfig: MeterDevice.type.in_(types.where(MeterDeviceType.config == row)),
        ReadingSeries: MeterDevice.type.in_(types.where(MeterDeviceType.config.in_(configs))),
        AmrTaskGroup: MeterDevice.id.in_(groups.where(device_groups.c.group == row)),
        AmrTask: sa.or_(MeterDevice.id.in_(own), MeterDevice.id.in_(groups.where(device_groups.c.group.in_(tasks)))),
    }.get(model)
    return None if concerned is None else meters.where(concerned)


async def recompute(session: AsyncSession, now: dt.datetime) -> int:
    """Make the expectations of marked meters again; return how many marks went. The caller has the ledger's turn."""
    oldest = select(ExpectationMark.id, ExpectationMark.device).order_by(ExpectationMark.id).limit(MARKS)
    marks = (await session.execute(oldest)).all()
    if not marks:
        return 0
    devices = sorted({one.device for one in marks})
    # Before anything of theirs is written, so that who deletes a meter and we never wait for each other in a ring.
    locked = await session.execute(
        select(MeterDevice.id)
        .where(among(session, MeterDevice.id, devices))
        .order_by(MeterDevice.id)
        .with_for_update(read=True, key_share=True)
    )
    there = list(locked.scalars())
    setups = await _setups(session, there)
    held: dict[uuid.UUID, list[Expecting]] = {}
    for one in await expectations_of(session, there):
        held.setdefault(one.device, []).append(one)
    rasters = await _Rasters.read(session)
    new: list[dict[str, Any]] = []
    for device in there:
        meter = setups[device]
        if meter.expected is not None:
            new += await _write(session, meter, meter.expected, held.get(device, []), rasters, now)
    if new:
        # All at once, and as rows: an object for each would take ten times as long.
        await (await session.connection()).execute(sa.insert(Expectation), new)
    await session.execute(
        sa.delete(ExpectationMark)
        .where(among(session, ExpectationMark.id, [one.id for one in marks]))
        .execution_options(synchronize_session=False)
    )
    return len(marks)


@dataclasses.dataclass(slots=True)
class _Meter:
    id: uuid.UUID
    organization: uuid.UUID | None
    commissioned: dt.datetime
    decommissioned: dt.datetime | None
    series: dict[str, uuid.UUID]
    expected: dict[str, Expected] | None
    """None where that cannot be said: what was expected stays."""


class _Setups:
    """What is expected of meters that are set up alike, found out once for all of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], dict[str, Expected] | None] = {}

    def expected(
        self, meter: uuid.UUID, zone: str, config: Row[Any] | None, series: Collection[str], tasks: Sequence[AmrTask]
    ) -> dict[str, Expected] | None:
        alike = (zone, None if config is None else config.id, *(task.id for task in tasks))
        if alike not in self._known:
            setup = Setup(
                zone=zone,
                series=frozenset(series),
                mappings=config.mappings if config is not None else (),
                expectations=config.expectations if config is not None else (),
                tasks=[polled_of(task) for task in tasks],
            )
            try:
                self._known[alike] = expected_of(setup)
            except ContractError as error:
                # A zone that this machine's database does not have any more, say.
                _log.warning("expectations_not_made", meter=str(meter), cause=str(error))
                self._known[alike] = None
        return self._known[alike]


_METERS = select(
    MeterDevice.id,
    MeterDevice.organization,
    MeterDevice.timezone,
    MeterDevice.commissioned,
    MeterDevice.decommissioned,
    MeterDevice.created_at,
    MeterDeviceType.config,
).outerjoin(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)


async def _setups(session: AsyncSession, devices: Sequence[uuid.UUID]) -> dict[uuid.UUID, _Meter]:
    tasks = await tasks_of(session, devices)
    rows = (await session.execute(_METERS.where(among(session, MeterDevice.id, devices)))).all()
    named = {row.config for row in rows if row.config is not None}
    found_configs = await session.execute(
        select(
            MeterDeviceConfig.id,
            MeterDeviceConfig.organization,
            MeterDeviceConfig.timezone,
            MeterDeviceConfig.mappings,
            MeterDeviceConfig.expectations,
        ).where(among(session, MeterDeviceConfig.id, named))
    )
    configs = {row.id: row for row in found_configs}
    names: dict[uuid.UUID, dict[str, uuid.UUID]] = {}
    found = await session.execute(
        select(config_series.c.config, ReadingSeries.name, ReadingSeries.id)
        .join(ReadingSeries, ReadingSeries.id == config_series.c.series)
        .where(among(session, config_series.c.config, named))
        .order_by(ReadingSeries.id)
    )
    for config, name, series in found:
        names.setdefault(config, {}).setdefault(name, series)
    kept = {row.organization: row.since for row in await session.scalars(select(ReadingsKept))}
    setups = _Setups()
    meters = {}
    for device in rows:
        config = configs.get(device.config)
        series_of = names.get(device.config, {})
        zone = device.timezone or (config.timezone if config is not None else "UTC")
        owner = device.organization or (config.organization if config is not None else None)
        begun = device.commissioned or device.created_at
        meters[device.id] = _Meter(
            device.id,
            owner,
            # What retention has deleted is not expected again.
            max(begun, kept[owner]) if owner in kept else begun,
            device.decommissioned,
            series_of,
            setups.expected(device.id, zone, config, series_of, tasks.get(device.id, [])),
        )
    return meters


async def tasks_of(session: AsyncSession, devices: Collection[uuid.UUID]) -> dict[uuid.UUID, list[AmrTask]]:
    """Return the active tasks of these meters, own and in groups, each once for a meter."""
    found: dict[uuid.UUID, list[AmrTask]] = {}
    for some in batched(sorted(devices), _CHUNK):
        own = select(device_tasks.c.device, device_tasks.c.task).where(among(session, device_tasks.c.device, some))
        grouped = (
            select(device_groups.c.device, group_tasks.c.task)
            .join(group_tasks, group_tasks.c.group == device_groups.c.group)
            .where(among(session, device_groups.c.device, some))
        )
        pairs = own.union(grouped).subquery()
        statement = select(pairs.c.device, AmrTask).join(AmrTask, AmrTask.id == pairs.c.task)
        for device, task in await session.execute(statement.where(AmrTask.is_active).order_by(AmrTask.id)):
            found.setdefault(device, []).append(task)
    return found


def polled_of(task: AmrTask) -> Polled:
    """Return what a task says about what is expected."""
    return Polled(
        task.meter_execution_type, task.task_call, task.task_kwargs or {}, task.schedule, task.run_offset_seconds
    )


class _Rasters:
    """The rasters that there are, by what they are; others are made."""

    def __init__(self) -> None:
        self._ids: dict[tuple[uuid.UUID | None, Raster, bool], int] = {}

    @classmethod
    async def read(cls, session: AsyncSession) -> "_Rasters":
        rasters = cls()
        for row in (await session.execute(select(LedgerRaster))).scalars():
            raster = Raster(row.interval, row.anchor_seconds, row.zone)
            rasters._ids[row.organization, raster, row.momentary] = row.id
        return rasters

    async def id_of(self, session: AsyncSession, organization: uuid.UUID | None, wanted: Expected) -> int:
        key = (organization, wanted.raster, wanted.momentary)
        if key not in self._ids:
            row = LedgerRaster(
                organization=organization,
                interval=wanted.raster.interval,
                anchor_seconds=wanted.raster.anchor_seconds,
                zone=wanted.raster.zone,
                momentary=wanted.momentary,
            )
            session.add(row)
            await session.flush()
            self._ids[key] = row.id
        return self._ids[key]


async def _write(
    session: AsyncSession,
    meter: _Meter,
    expected: Mapping[str, Expected],
    held: Sequence[Expecting],
    rasters: _Rasters,
    now: dt.datetime,
) -> list[dict[str, Any]]:
    """Bring a meter's rows to what is wanted; return those that are to be inserted."""
    by_series: dict[uuid.UUID, list[Expecting]] = {}
    for one in held:
        by_series.setdefault(one.series, []).append(one)
    wanted = {meter.series[name]: one for name, one in expected.items()}
    new = []
    for series in sorted(by_series.keys() | wanted.keys()):
        row = await _write_series(session, meter, series, wanted.get(series), by_series.get(series, []), rasters, now)
        if row is not None:
            new.append(row)
    return new


async def _write_series(
    session: AsyncSession,
    meter: _Meter,
    series: uuid.UUID,
    wanted: Expected | None,
    held: Sequence[Expecting],
    rasters: _Rasters,
    now: dt.datetime,
) -> dict[str, Any] | None:
    """Bring one series' rows to what is wanted; rows that are so already are not touched, a new one is returned."""
    end = meter.decommissioned
    if wanted is None:
        for one in held:
            await _end(session, one, min(now, end) if end else now)
        return None
    raster_id = await rasters.id_of(session, meter.organization, wanted)
    until = wanted.raster.slot_at_or_before(end) if end else None
    since = wanted.raster.first_slot_at_or_after(meter.commissioned)
    values = {"raster": raster_id, "origin": wanted.origin, "archive": wanted.archive, "until_slot": until}
    if wanted.origin == FROM_TASK:
        kept = next((one for one in held if one.until is None and one.raster_id == raster_id), None)
        since = max(since, wanted.raster.slot_at_or_before(now) + 1) if kept is None else max(since, kept.since)
        for one in held:
            if one is not kept:
                await _end(session, one, min(now, end) if end else now)
    else:
        kept = held[-1] if held else None
        if len(held) > 1:
            await session.execute(
                sa.delete(Expectation)
                .where(Expectation.id.in_([one.id for one in held[:-1]]))
                .execution_options(synchronize_session=False)
            )
    if until is not None and until < since and kept is None:
        return None
    values["since_slot"] = since
    if kept is None:
        return {"device": meter.id, "series": series, "rebuilding": True} | values
    await _change(session, kept, values)
    return None


async def _end(session: AsyncSession, one: Expecting, at: dt.datetime) -> None:
    until = one.raster.slot_at_or_before(at)
    if until < one.since:
        await session.execute(
            sa.delete(Expectation).where(Expectation.id == one.id).execution_options(synchronize_session=False)
        )
    elif one.until is None or until < one.until:
        await _change(session, one, {"until_slot": until})


async def _change(session: AsyncSession, one: Expecting, values: dict[str, Any]) -> None:
    now_so = {
        "raster": one.raster_id,
        "origin": one.origin,
        "archive": one.archive,
        "since_slot": one.since,
        "until_slot": one.until,
    }
    changed = {name: value for name, value in values.items() if value != now_so[name]}
    if not changed:
        return
    if changed.keys() & {"raster", "since_slot", "until_slot"}:
        changed["rebuilding"] = True
    if "raster" in changed:
        await session.execute(_chunks.delete().where(_chunks.c.expectation == one.id))
    await session.execute(
        sa.update(Expectation)
        .where(Expectation.id == one.id)
        .values(**changed)
        .execution_options(synchronize_session=False)
    )
