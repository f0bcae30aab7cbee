"""What months of readings cost and bring on PostgreSQL: ingestion, questions, moving late readings, dropping a month.

Ingestion and questions are put to two databases of one server in turns: readings in partitions, as they are, and the
same rows, indexes and keys in one table. *Recent* are archive rows of a few days, all in one or two months;
*scattered* have a row of every month in each batch. Questions go through the hub's own engine, with what it keeps
prepared; what is told is the median.

Late readings are moved while the same ingestion goes on that was measured before without it; the longest that one
transaction took is told beside its median. A month is dropped, and one of as many rows is deleted by rows.
"""

import argparse
import asyncio
import dataclasses
import datetime as dt
import decimal
import json
import logging
import pathlib
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks._hub_rows import opened
from benchmarks._ledger_estate import NOW, SERIES, Estate, archives, make_estate
from benchmarks.postgres import postgres
from hub.database import migrate, reading, writing
from hub.ingest import Delivery, store_deliveries
from hub.late_readings import late_months
from hub.models import Organization
from hub.months import Month
from hub.partitions import make_partitions
from hub.retention_months import drop_months
from protocol.readings import NewMeterReading

WANTED_RATIO = 0.8
"""Of ingestion into one table. Of five rounds each ratio varies by some 0.1."""

WANTED_LONGEST = 1.0
"""Seconds that one transaction of ingestion may take while late readings are moved."""

GROUP = 10
_HOURS = 72
_TIMES = 80

_FILL = """
    INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected,
                          version_count, created_at)
    SELECT d.organization, d.id, s.id, t, 1, 'm3', 'meter', t, 1, t
    FROM generate_series(CAST(:since AS timestamptz), CAST(:until AS timestamptz), CAST(:every AS interval)) t,
        meter_devices d JOIN meter_reading_series s ON s.organization = d.organization AND s.name = '1:310/3'
    WHERE d.name = 'M0' OR :all
"""
_QUESTIONS = {
    "one series, one month": "SELECT timestamp, value FROM readings WHERE meter_device = :device AND series = :series "
    "AND timestamp >= :since AND timestamp < :until ORDER BY timestamp",
    "all series of a meter, one day": "SELECT timestamp, value FROM readings WHERE meter_device = :device "
    "AND timestamp >= :until AND timestamp < :tomorrow ORDER BY timestamp",
    "the latest of a series": "SELECT timestamp, value FROM readings WHERE meter_device = :device "
    "AND series = :series ORDER BY timestamp DESC LIMIT 1",
    "one by its id": "SELECT value FROM readings WHERE id = :id",
    "the flagged of a meter": "SELECT timestamp FROM readings WHERE meter_device = :device AND flags <> 0 "
    "ORDER BY timestamp DESC LIMIT 100",
}


@dataclasses.dataclass
class Found:
    """What was measured: rates in readings a second, times in milliseconds, with partitions and without."""

    months: int
    rows: int = 0
    ingestion: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    questions: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    move: dict[str, float] = dataclasses.field(default_factory=dict)
    drop: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether ingestion is not held up."""
        return all(parted / plain >= WANTED_RATIO for parted, plain in self.ingestion.values()) and (
            self.move.get("longest_ms", 0) <= WANTED_LONGEST * 1000
        )


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status says whether ingestion is not held up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks months", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--months", type=int, default=60, help="months that there are readings of (60)")
    parser.add_argument("--meters", type=int, default=20, help="meters (20)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of ingestion, in turns (5)")
    parser.add_argument("--late", type=int, default=200_000, help="late readings that are moved (200000)")
    parser.add_argument("--late-months", type=int, default=36, help="months that they are of (36)")
    parser.add_argument("--month", type=int, default=200_000, help="readings of the month that is dropped (200000)")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with (
        tempfile.TemporaryDirectory(prefix="metergate-months-") as folder,
        postgres(pathlib.Path(folder) / "postgres", shared_buffers="128MB") as server,
    ):
        found = asyncio.run(_measure(options, server.url()))
    sys.stdout.write(json.dumps(dataclasses.asdict(found) | {"good": found.good}) if options.json else _shown(found))
    sys.stdout.write("\n")
    return 0 if found.good else 1


def _shown(found: Found) -> str:
    lines = [f"{found.rows} readings in {found.months} months", "ingestion, readings a second: partitions, one table"]
    for load, (parted, plain) in found.ingestion.items():
        lines.append(f"  {load:32} {parted:8} {plain:8}  {parted / plain:.2f}")
    lines.append("questions, milliseconds: partitions, one table")
    for name, (more, less) in found.questions.items():
        lines.append(f"  {name:32} {more:8.2f} {less:8.2f}")
    move, drop = found.move, found.drop
    lines.append(
        f"late readings: {move['rows']:.0f} of {move['months']:.0f} months moved in {move['seconds']:.1f} s; a "
        f"transaction of ingestion took {move['median_ms']:.0f} ms beside it ({move['before_ms']:.0f} without), "
        f"{move['longest_ms']:.0f} ms the longest ({move['longest_before_ms']:.0f} without)"
    )
    lines.append(
        f"a month of {drop['rows']:.0f} readings: dropped in {drop['dropped_ms']:.0f} ms, deleted by rows in "
        f"{drop['deleted_ms']:.0f} ms"
    )
    return "\n".join(lines)


async def _measure(options: argparse.Namespace, url: str) -> Found:
    found = Found(options.months)
    other = url.rpartition("/")[0] + "/plain"
    await migrate(url)
    async with opened(url) as parted:
        await make_partitions(parted, NOW)
        async with writing(parted) as session:
            for step in range(1, options.months):
                month = Month.of(NOW).later(-step)
                await session.execute(sa.text(f"CREATE TABLE {month.table} PARTITION OF readings {month.bounds}"))
        await _autocommit(parted, "CREATE DATABASE plain")
        await migrate(other)
        async with opened(other) as plain:
            await _make_plain(plain)
            engines = (parted, plain)
            found.rows = max([await _fill(engine, options.months, options.meters) for engine in engines])
            for load in (_recent, _scattered):
                rates: tuple[list[float], list[float]] = ([], [])
                for turn in range(options.rounds + 1):
                    for which in (0, 1) if turn % 2 else (1, 0):
                        rate = await _round(engines[which], load, options)
                        rates[which].extend([rate] if turn else [])
                parts, one = (int(statistics.median(some)) for some in rates)
                found.ingestion[load.__name__.strip("_")] = parts, one
            asked = [await _questions(engine) for engine in engines]
            found.questions = {name: (asked[0][name], asked[1][name]) for name in _QUESTIONS}
        found.drop = await _drops(parted, options)
        found.move = await _moves(parted, options)
    return found


async def _autocommit(engine: AsyncEngine, *statements: str) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in statements:
            await connection.execute(sa.text(statement))


async def _make_plain(engine: AsyncEngine) -> None:
    """Have all readings in one table that has everything that the partitioned one has."""
    await _autocommit(
        engine,
        "CREATE TABLE one (LIKE readings INCLUDING ALL)",
        "ALTER TABLE one ADD FOREIGN KEY (organization) REFERENCES organizations (id), "
        "ADD FOREIGN KEY (meter_device) REFERENCES meter_devices (id), "
        "ADD FOREIGN KEY (series) REFERENCES meter_reading_series (id), "
        "ADD FOREIGN KEY (batch) REFERENCES batches (id)",
        "DROP TABLE readings",
        "ALTER TABLE one RENAME TO readings",
        "ALTER SEQUENCE one_id_seq RENAME TO readings_id_seq",
    )


async def _fill(engine: AsyncEngine, months: int, meters: int) -> int:
    await make_estate(engine, meters)
    values = {"since": Month.of(NOW).later(1 - months).start, "until": NOW, "every": dt.timedelta(hours=6), "all": True}
    async with writing(engine) as session:
        await session.execute(sa.text(_FILL), values)
    await _autocommit(engine, "VACUUM ANALYZE")
    async with reading(engine) as session:
        return await session.scalar(sa.text("SELECT count(*) FROM readings")) or 0


def _recent(estate: Estate, _months: int) -> list[Delivery]:
    return list(archives(estate, _HOURS))


def _scattered(estate: Estate, months: int) -> list[Delivery]:
    def row(meter: uuid.UUID, name: str, month: int) -> NewMeterReading:
        at = Month.of(NOW).later(-month).start
        return NewMeterReading("M", name, at, decimal.Decimal(month), "m3", meter, NOW)

    return [
        estate.batch([row(meter, name, month) for month in range(months) for name in SERIES]) for meter in estate.meters
    ]


async def _round(
    engine: AsyncEngine, load: Callable[[Estate, int], list[Delivery]], options: argparse.Namespace
) -> float:
    estate = await make_estate(engine, options.meters)
    deliveries = load(estate, options.months)
    begun = time.perf_counter()
    for start in range(0, len(deliveries), GROUP):
        await store_deliveries(engine, deliveries[start : start + GROUP], NOW, 1000)
    return (estate.sequence - 1) / (time.perf_counter() - begun)


async def _questions(engine: AsyncEngine) -> dict[str, float]:
    """Ask each question of many meters and instants; return the medians in milliseconds."""
    async with reading(engine) as session:
        found = await session.execute(
            sa.text(
                "SELECT id, meter_device AS device, series FROM readings WHERE timestamp < :now "
                "ORDER BY random() LIMIT :n"
            ),
            {"now": NOW, "n": _TIMES},
        )
        rows = found.mappings().all()
        times = {}
        for name, statement in _QUESTIONS.items():
            taken = []
            for number, row in enumerate(rows):
                since = Month.of(NOW).later(-1 - number % 48).start
                values = dict(row) | {"since": since, "until": Month.of(since).end}
                values["tomorrow"] = values["until"] + dt.timedelta(days=1)
                begun = time.perf_counter()
                (await session.execute(sa.text(statement), values)).all()
                taken.append(1000 * (time.perf_counter() - begun))
            times[name] = round(statistics.median(taken), 3)
    return times


async def _drops(engine: AsyncEngine, options: argparse.Namespace) -> dict[str, float]:
    """Fill two older months; drop one, and delete the other by rows, in slices as retention does."""
    oldest = Month.of(NOW).later(-1 - options.months)
    bounds = [{"start": month.start, "end": month.end} for month in (oldest, oldest.later(1))]
    every = (oldest.end - oldest.start) / options.month
    async with writing(engine) as session:
        organizations = (await session.scalars(sa.select(Organization.id))).all()
        meters = await session.scalar(sa.text("SELECT count(*) FROM meter_devices WHERE name = 'M0'")) or 1
        for month in (oldest, oldest.later(1)):
            await session.execute(sa.text(f"CREATE TABLE {month.table} PARTITION OF readings {month.bounds}"))
            values = {"since": month.start, "until": month.end - every, "every": every * meters, "all": False}
            await session.execute(sa.text(_FILL), values)
        count = "SELECT count(*) FROM readings WHERE timestamp >= :start AND timestamp < :end"
        dropped_rows, rows = [await session.scalar(sa.text(count), one) or 0 for one in bounds]
    await _autocommit(engine, f"VACUUM ANALYZE {oldest.table}", f"VACUUM ANALYZE {oldest.later(1).table}", "CHECKPOINT")
    begun = time.perf_counter()
    if (await drop_months(engine, dict.fromkeys(organizations, oldest.end), NOW)).readings != dropped_rows:
        raise RuntimeError(f"{oldest.table} was not dropped")
    dropped = time.perf_counter() - begun
    begun = time.perf_counter()
    some = "SELECT id FROM readings WHERE timestamp < :end ORDER BY timestamp LIMIT 2000"
    for _ in range(0, rows, 2000):
        async with writing(engine) as session:
            statement = f"DELETE FROM readings WHERE id IN ({some}) AND timestamp < :end"  # noqa: S608 - our own text
            await session.execute(sa.text(statement), {"end": bounds[1]["end"]})
    return {"rows": rows, "dropped_ms": 1000 * dropped, "deleted_ms": 1000 * (time.perf_counter() - begun)}


async def _moves(engine: AsyncEngine, options: argparse.Namespace) -> dict[str, float]:
    """Move readings of the years before those that there are, while others arrive."""
    oldest = Month.of(NOW).later(-2 - options.months)
    first = oldest.later(1 - options.late_months)
    meters = "SELECT count(*) FROM meter_devices WHERE name = 'M0'"
    async with writing(engine) as session:
        count = await session.scalar(sa.text(meters)) or 1
        every = (oldest.end - first.start) * count / options.late
        values = {"since": first.start, "until": oldest.end - every, "every": every, "all": False}
        await session.execute(sa.text(_FILL), values)
        rows = await session.scalar(sa.text("SELECT count(*) FROM readings_default")) or 0
        months = len(await late_months(session))
    ended = asyncio.Event()
    ended.set()
    before = await _arriving(engine, options, ended)
    ended.clear()
    arriving = asyncio.create_task(_arriving(engine, options, ended))
    begun = time.perf_counter()
    while True:
        await make_partitions(engine, NOW)
        async with reading(engine) as session:
            if not await session.scalar(sa.text("SELECT 1 FROM readings_default LIMIT 1")):
                break
    seconds = time.perf_counter() - begun
    ended.set()
    beside = await arriving
    return {
        "rows": rows,
        "months": months,
        "seconds": seconds,
        "before_ms": 1000 * statistics.median(before),
        "longest_before_ms": 1000 * max(before),
        "median_ms": 1000 * statistics.median(beside),
        "longest_ms": 1000 * max(beside),
    }


async def _arriving(engine: AsyncEngine, options: argparse.Namespace, ended: asyncio.Event) -> list[float]:
    """Store what gateways bring, new and late, until it is said, at least a round; return what each took."""
    taken: list[float] = []
    while not taken or not ended.is_set():
        estate = await make_estate(engine, options.meters)
        for delivery in _recent(estate, 0) + _scattered(estate, options.months + options.late_months):
            begun = time.perf_counter()
            await store_deliveries(engine, [delivery], NOW, 1000)
            taken.append(time.perf_counter() - begun)
    return taken
