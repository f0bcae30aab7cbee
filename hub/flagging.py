"""The judge: reads what is to be judged by validation, and writes the flags. A task of the relay, after the commit.

Rules:
- Ingestion only notes which readings changed (``hub.unjudged``), so it never waits for a history to be read.
- One judge at a time works on a database (an advisory lock; on SQLite the one process): what it writes is never older
  than what another has written. What changes while it reads is noted, and judged in a later turn.
- A turn is of bounded size. Of long spans (limits that were edited, a meter that was replaced) it judges a part, and
  notes the rest again.
"""

import asyncio
import collections
import dataclasses
import datetime as dt
import json
import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from typing import Any, cast

import msgspec
import prometheus_client
import sqlalchemy as sa
from sqlalchemy import Table, bindparam
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub.among import among
from hub.columns import to_microseconds
from hub.commits import commits_of, look_seconds
from hub.database import reading, writing
from hub.models import (
    DevicePeriod,
    MeterDevice,
    MeterDeviceConfig,
    MeterDeviceType,
    Reading,
    ReadingSeries,
    UnjudgedReadings,
    config_series,
)
from hub.unjudged import EVERY_SERIES, LAST, Span, count_spans, devices_of, note, unpack
from hub.validation import REJECTING, STEPS, Limit, Point, judge, names_of

PAUSE_SECONDS = 0.5
"""Real seconds between two looks at least, while there is nothing to judge."""

NOTES = 100
"""How many notes a turn takes at most."""

SPANS = 300
SPANS_TAKEN = 2000
"""How many spans a turn judges at most, and after how many it takes no further note."""

LONG_SPANS = 16
LONG = dt.timedelta(days=40)
LONG_ROWS = 1000
"""Of a span longer than ``LONG`` a turn judges so many readings at most, and it judges few such spans."""

_LOCK = 0x6D617A66
"""PostgreSQL advisory lock: one judge at a time."""

_DEVICES = 5000
_readings = cast("Table", Reading.__table__)

_flagged = prometheus_client.Counter(
    "metergate_readings_flagged", "Readings that validation gave this flag, which they had not", ["flag"]
)


@dataclasses.dataclass(slots=True)
class Rules:
    """By what the readings of one device are judged."""

    limits: dict[uuid.UUID, Limit] = dataclasses.field(default_factory=dict)
    """By series."""
    replaced: list[dt.datetime] = dataclasses.field(default_factory=list)
    """When its meter was replaced, in order."""


@dataclasses.dataclass(slots=True)
class _Turn:
    """What was read in a turn: which notes it does away with, and what it writes."""

    notes: list[int] = dataclasses.field(default_factory=list)
    left: list[Span] = dataclasses.field(default_factory=list)
    changes: dict[tuple[int, int, dt.datetime], dict[str, Any]] = dataclasses.field(default_factory=dict)
    given: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


async def keep_judging(engine: AsyncEngine) -> None:
    """Judge for ever."""
    commits = commits_of(engine)
    while True:
        seen = commits.count
        begun = time.monotonic()
        if await judge_some(engine):
            # As long as the turn was: so ingestion has at least half of everything to itself.
            await asyncio.sleep(time.monotonic() - begun)
        else:
            await commits.after(seen, at_most=look_seconds(engine), pause=PAUSE_SECONDS)


async def judge_some(engine: AsyncEngine) -> int:
    """Do one turn; return how many notes it took: none when there was nothing to do, or another judge was at it."""
    if engine.dialect.name == "postgresql":
        async with reading(engine) as session:
            if (await session.execute(sa.select(UnjudgedReadings.id).limit(1))).first() is None:
                return 0
        async with writing(engine) as session:
            if not await session.scalar(sa.text(f"SELECT pg_try_advisory_xact_lock({_LOCK})")):
                return 0
            turn = await _read(session)
            await _write(session, turn)
    else:
        # Its one writer must not wait while histories are read.
        async with reading(engine) as session:
            turn = await _read(session)
        if turn.notes:
            async with writing(engine) as session:
                await _write(session, turn)
    for flag, count in turn.given.items():
        _flagged.labels(flag).inc(count)
    return len(turn.notes)


async def rules_of(session: AsyncSession, devices: Collection[uuid.UUID]) -> dict[uuid.UUID, Rules]:
    """Return by what the readings of these devices are judged; devices of which nothing is judged are left out."""
    rules: dict[uuid.UUID, Rules] = {}
    ordered = sorted(devices)
    for start in range(0, len(ordered), _DEVICES):
        some = ordered[start : start + _DEVICES]
        configs: dict[uuid.UUID, list[uuid.UUID]] = {}
        texts: dict[uuid.UUID, list[Any]] = {}
        found = await session.execute(
            sa.select(MeterDevice.id, MeterDeviceConfig.id, MeterDeviceConfig.limits)
            .join(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
            .join(MeterDeviceConfig, MeterDeviceConfig.id == MeterDeviceType.config)
            # Most have none: of those no row is to come.
            .where(among(session, MeterDevice.id, some), sa.cast(MeterDeviceConfig.limits, sa.Text) != "[]")
        )
        for device, config, limits in found:
            if limits:
                configs.setdefault(config, []).append(device)
                texts[config] = limits
        for config, limits in (await _limits(session, texts)).items():
            for device in configs[config]:
                rules.setdefault(device, Rules()).limits = limits
        periods = await session.execute(
            sa.select(DevicePeriod.meter_device, DevicePeriod.since)
            .where(among(session, DevicePeriod.meter_device, some), DevicePeriod.since.is_not(None))
            .order_by(DevicePeriod.since)
        )
        for device, since in periods:
            if since is not None:
                rules.setdefault(device, Rules()).replaced.append(since)
    return rules


async def _limits(session: AsyncSession, texts: dict[uuid.UUID, list[Any]]) -> dict[uuid.UUID, dict[uuid.UUID, Limit]]:
    """Return the limits of configs by the ids of their series."""
    limits: dict[uuid.UUID, dict[uuid.UUID, Limit]] = {config: {} for config in texts}
    named = {
        config: {limit.series: limit for limit in msgspec.convert(some, list[Limit])} for config, some in texts.items()
    }
    found = await session.execute(
        sa.select(config_series.c.config, ReadingSeries.id, ReadingSeries.name)
        .join(ReadingSeries, ReadingSeries.id == config_series.c.series)
        .where(among(session, config_series.c.config, texts))
    )
    for config, series, name in found:
        if name in named[config]:
            limits[config][series] = named[config][name]
    return limits


async def rejected_slots(
    session: AsyncSession,
    start: dt.datetime,
    end: dt.datetime,
    devices: Collection[uuid.UUID] | None = None,
) -> dict[tuple[uuid.UUID, uuid.UUID], list[tuple[dt.datetime, int]]]:
    """Return what counts as missing because validation rejects it: flagged readings whose limit says ``reject``.

    Args:
        session: only read with.
        start: the first timestamp.
        end: the first timestamp that no longer belongs to it.
        devices: all, unless given.

    Returns:
        By device and series the timestamps, in order, each with the reading's flags (``names_of`` says them).
    """
    configs = await session.execute(sa.select(MeterDeviceConfig.id, MeterDeviceConfig.limits))
    texts = {config: limits for config, limits in configs if any(limit.get("reject") for limit in limits)}
    limits = await _limits(session, texts) if texts else {}
    rejecting = {(config, series) for config, some in limits.items() for series, one in some.items() if one.reject}
    rejected: dict[tuple[uuid.UUID, uuid.UUID], list[tuple[dt.datetime, int]]] = {}
    if not rejecting:
        return rejected
    statement = (
        sa.select(Reading.meter_device, Reading.series, Reading.timestamp, Reading.flags, MeterDeviceType.config)
        .join(MeterDevice, MeterDevice.id == Reading.meter_device)
        .join(MeterDeviceType, MeterDeviceType.id == MeterDevice.type)
        .where(
            # The same words as the partial index has.
            sa.text("readings.flags <> 0"),
            Reading.flags.bitwise_and(REJECTING) != 0,
            Reading.timestamp >= start,
            Reading.timestamp < end,
            MeterDeviceType.config.in_({config for config, _ in rejecting}),
        )
        .order_by(Reading.timestamp)
    )
    ordered: Sequence[uuid.UUID | None] = [None] if devices is None else sorted(devices)
    for first in range(0, len(ordered), _DEVICES):
        some = ordered[first : first + _DEVICES]
        chosen = statement if devices is None else statement.where(Reading.meter_device.in_(some))
        for device, series, timestamp, flags, config in await session.execute(chosen):
            if (config, series) in rejecting:
                rejected.setdefault((device, series), []).append((timestamp, flags))
    return rejected


# A turn


async def _read(session: AsyncSession) -> _Turn:
    turn = _Turn()
    notes = await session.execute(
        sa.select(UnjudgedReadings.id, UnjudgedReadings.spans).order_by(UnjudgedReadings.id).limit(NOTES)
    )
    taken: list[bytes] = []
    count = 0
    for key, packed in notes:
        turn.notes.append(key)
        taken.append(packed)
        count += count_spans(packed)
        if count >= SPANS_TAKEN:
            break
    rules = await rules_of(session, set().union(*map(devices_of, taken)))
    # Of most meters nothing is judged: what is noted of them is not even taken apart.
    of_rules = [span for packed in taken for span in unpack(packed, rules)]
    single = [span for span in of_rules if span.series != EVERY_SERIES]
    every = [span for span in of_rules if span.series == EVERY_SERIES]
    for span in every[:LONG_SPANS]:
        single += await _of_each_series(session, span, rules.get(span.device, Rules()))
    turn.left += every[LONG_SPANS:]
    merged = _merged(span for span in single if _is_judged(span, rules))
    short = [span for span in merged if span.last - span.first <= LONG]
    long = [span for span in merged if span.last - span.first > LONG]
    chosen = short[:SPANS]
    turn.left += short[SPANS:] + long[LONG_SPANS:]
    for span in long[:LONG_SPANS]:
        cut = await _end_of_part(session, span)
        chosen.append(dataclasses.replace(span, last=cut))
        if cut < span.last:
            turn.left.append(dataclasses.replace(span, first=cut + _MICROSECOND))
    await _judge(session, chosen, rules, turn)
    return turn


def _is_judged(span: Span, rules: dict[uuid.UUID, Rules]) -> bool:
    """Whether there is anything to judge; what was judged by a rule that is gone loses its flags."""
    of_device = rules.get(span.device)
    if span.last == LAST:
        return True
    return of_device is not None and (span.series in of_device.limits or bool(of_device.replaced))


async def _of_each_series(session: AsyncSession, span: Span, rules: Rules) -> list[Span]:
    """Return a span for each series of the device that is judged, or that has flags."""
    flagged = await session.scalars(
        sa.select(Reading.series).where(Reading.meter_device == span.device, sa.text("readings.flags <> 0")).distinct()
    )
    series = set(flagged.all()) | set(rules.limits)
    if rules.replaced:
        allowed = await session.scalars(
            sa.select(config_series.c.series)
            .join(MeterDeviceType, MeterDeviceType.config == config_series.c.config)
            .join(MeterDevice, MeterDevice.type == MeterDeviceType.id)
            .where(MeterDevice.id == span.device)
        )
        series |= set(allowed.all())
    return [dataclasses.replace(span, series=one) for one in sorted(series)]


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order, those that touch put together."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.device, span.series, span.first)):
        last = merged[-1] if merged else None
        if (
            last is not None
            and (last.device, last.series) == (span.device, span.series)
            and span.first <= last.last + _TOUCHING
            # Parts of an archive that arrive one after the other stay parts.
            and max(last.last, span.last) - last.first <= max(LONG, last.last - last.first)
        ):
            merged[-1] = dataclasses.replace(last, last=max(last.last, span.last))
        else:
            merged.append(span)
    return merged


async def _end_of_part(session: AsyncSession, span: Span) -> dt.datetime:
    """Return where the part of a long span ends that this turn judges."""
    end = await session.scalar(
        sa.select(Reading.timestamp)
        .where(
            Reading.meter_device == span.device,
            Reading.series == span.series,
            Reading.timestamp.between(span.first, span.last),
        )
        .order_by(Reading.timestamp)
        .offset(LONG_ROWS - 1)
        .limit(1)
    )
    return end or span.last


async def _judge(session: AsyncSession, spans: Sequence[Span], rules: dict[uuid.UUID, Rules], turn: _Turn) -> None:
    # The history that a spike is compared with takes many readings before and after; most rules take one.
    steps: dict[int, list[Span]] = {}
    for span in spans:
        limit = _limit(span, rules)
        steps.setdefault(STEPS if limit is not None and limit.spike_factor is not None else 0, []).append(span)
    for count, some in steps.items():
        hours = [(limit.stuck_hours or 0) if (limit := _limit(span, rules)) is not None else 0 for span in some]
        of_span: dict[int, list[Any]] = {}
        for row in await _history(session, some, hours, count):
            of_span.setdefault(row.position, []).append(row)
        for position, rows in of_span.items():
            span = some[position]
            # Between two histories whoever else waits for this process has a turn.
            await asyncio.sleep(0)
            _compare(span, rows, _limit(span, rules), rules.get(span.device, Rules()).replaced, turn)


def _limit(span: Span, rules: dict[uuid.UUID, Rules]) -> Limit | None:
    of_device = rules.get(span.device)
    return of_device.limits.get(span.series) if of_device is not None else None


def _compare(span: Span, rows: list[Any], limit: Limit | None, replaced: Sequence[dt.datetime], turn: _Turn) -> None:
    """Judge the readings of a span; note which have other flags than they should."""
    rows.sort(key=lambda row: row.timestamp)
    judged = judge([Point(row.timestamp, row.value) for row in rows], limit, replaced)
    for row, flags in zip(rows, judged, strict=True):
        if row.timestamp >= span.first and row.flags != flags:
            place = (span.device.int, span.series.int, row.timestamp)
            turn.changes[place] = {"of_id": row.id, "of_timestamp": row.timestamp, "new_flags": flags}
            turn.given.update(names_of(flags & ~row.flags))


_MICROSECOND = dt.timedelta(microseconds=1)
_HOUR_MICROSECONDS = 3_600_000_000
_TOUCHING = dt.timedelta(hours=2)

_HISTORY_COLUMNS = (_readings.c.id, _readings.c.timestamp, _readings.c.value, _readings.c.flags)


async def _history(session: AsyncSession, spans: Sequence[Span], hours: Sequence[int], steps: int) -> Sequence[Any]:
    """Return the readings of the spans and around them, each with the position of its span."""
    if session.get_bind().dialect.name == "postgresql":
        statement = _PG_HISTORY.format(
            bounds=_BOUNDS.format(
                least="least",
                greatest="greatest",
                steps=steps,
                none_before="CAST('-infinity' AS timestamptz)",
                none_after="CAST('infinity' AS timestamptz)",
            )
        )
        values: dict[str, Any] = {
            "device": [span.device for span in spans],
            "series": [span.series for span in spans],
            "first": [span.first for span in spans],
            "last": [span.last for span in spans],
            "held": [dt.timedelta(hours=count) for count in hours],
        }
    else:
        statement = _SQLITE_HISTORY.format(
            bounds=_BOUNDS.format(least="min", greatest="max", steps=steps, none_before=-(2**63), none_after=2**63 - 1)
        )
        forms = [
            (
                span.device.hex,
                span.series.hex,
                to_microseconds(span.first),
                to_microseconds(span.last),
                count * _HOUR_MICROSECONDS,
            )
            for span, count in zip(spans, hours, strict=True)
        ]
        values = {"spans": json.dumps(forms)}
    typed = sa.text(statement).columns(sa.column("position", sa.Integer), *_HISTORY_COLUMNS)
    return (await session.execute(typed, values)).all()


_GIVE_FLAGS = (
    sa.update(_readings)
    .where(_readings.c.id == bindparam("of_id"), _readings.c.timestamp == bindparam("of_timestamp"))
    .values(flags=bindparam("new_flags"))
)


async def _write(session: AsyncSession, turn: _Turn) -> None:
    """Write the flags in the order in which ingestion takes its keys, and do away with the notes."""
    connection = await session.connection()
    if turn.changes:
        await connection.execute(_GIVE_FLAGS, [turn.changes[place] for place in sorted(turn.changes)])
    await note(session, turn.left)
    await session.execute(
        sa.delete(UnjudgedReadings)
        .where(among(session, UnjudgedReadings.id, turn.notes))
        .execution_options(synchronize_session=False)
    )


# Which readings say what flags the ones of a span have, and which have other flags because of them: before it the one
# before, as many as the history has, and those of the hours within which a value may be stuck; as many after it.
_BOUNDS = """
    SELECT s.position, s.device, s.series, {least}(
        coalesce((SELECT b.timestamp FROM readings b WHERE b.meter_device = s.device AND b.series = s.series
                  AND b.timestamp < s.first ORDER BY b.timestamp DESC LIMIT 1 OFFSET {steps}), {none_before}),
        coalesce((SELECT b.timestamp FROM readings b WHERE b.meter_device = s.device AND b.series = s.series
                  AND b.timestamp <= s.first - s.held ORDER BY b.timestamp DESC LIMIT 1), s.first - s.held)
    ) AS low, {greatest}(
        coalesce((SELECT a.timestamp FROM readings a WHERE a.meter_device = s.device AND a.series = s.series
                  AND a.timestamp > s.last ORDER BY a.timestamp LIMIT 1 OFFSET {steps}), {none_after}),
        coalesce((SELECT a.timestamp + s.held FROM readings a WHERE a.meter_device = s.device AND a.series = s.series
                  AND a.timestamp > s.last ORDER BY a.timestamp LIMIT 1), s.last)
    ) AS high
"""
_PG_HISTORY = """
    WITH spans AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:device AS uuid[]), CAST(:series AS uuid[]), CAST(:first AS timestamptz[]),
                             CAST(:last AS timestamptz[]), CAST(:held AS interval[]))
            WITH ORDINALITY AS s(device, series, first, last, held, position)
    ), bounds AS MATERIALIZED ({bounds} FROM spans s)
    SELECT n.position - 1 AS position, r.id, r.timestamp, r.value, r.flags
    FROM bounds n CROSS JOIN LATERAL (
        SELECT id, timestamp, value, flags FROM readings
        WHERE meter_device = n.device AND series = n.series AND timestamp BETWEEN n.low AND n.high OFFSET 0
    ) r
"""
_SQLITE_HISTORY = """
    WITH spans AS MATERIALIZED (
        SELECT key AS position, json_extract(value, '$[0]') AS device, json_extract(value, '$[1]') AS series,
            json_extract(value, '$[2]') AS first, json_extract(value, '$[3]') AS last,
            json_extract(value, '$[4]') AS held
        FROM json_each(:spans)
    ), bounds AS MATERIALIZED ({bounds} FROM spans s)
    SELECT n.position, r.id, r.timestamp, r.value, r.flags
    FROM bounds n CROSS JOIN readings r
    ON r.meter_device = n.device AND r.series = n.series AND r.timestamp BETWEEN n.low AND n.high
"""
