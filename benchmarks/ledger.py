"""What the ledger costs: ingestion with it against ingestion without, completeness of a fleet, bytes on disk.

Ingestion is the relay's own (``store_deliveries``, groups of batches, signatures checked), and *with* is until the last
note is folded: with the clerk beside it in the same process, as in a relay. Two loads, in turns: a backlog (batches of
one meter's archive rows) and fresh rows (one row of each series of many meters, the most chunks per row that there
can be). Without: the same, but nothing is noted and there is no clerk. Completeness is the REST operation, reasons and
all, over a fleet that was filled set by set: of each 1,000 meters one lacks five hours, one has been silent for ten
days, one lacks the last three hours.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import datetime as dt
import json
import logging
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks._hub_rows import opened
from benchmarks._ledger_estate import NOW, Fleet, archives, fill_fleet, fresh, make_estate
from benchmarks.postgres import postgres
from hub import ledger_pending
from hub.clerk import keep_ledger
from hub.clocks import Clock
from hub.completeness import total_of
from hub.database import migrate, reading, writing
from hub.ingest import Delivery, store_deliveries
from hub.ledger import catch_up, keep_some
from hub.ledger_chunks import size_of
from hub.ledger_sums import sweep
from hub.models import LedgerPending
from hub.totals import Scope

PARTS = INGESTION, COMPLETENESS = ("ingestion", "completeness")
DATABASES = ("sqlite", "postgresql")
LOADS = BACKLOG, FRESH = ("backlog", "fresh")

WANTED_RATIO = 0.9
WANTED_SECONDS = 0.2
"""On PostgreSQL: SQLite is for small sites, and its figure is only shown."""

GROUP = 20
"""Batches per transaction: what a relay takes together under load."""

THIRTY_DAYS = dt.timedelta(days=30)
ONE_SECOND = dt.timedelta(seconds=1)
_HOURS = 72
_TIMES = 9


@dataclasses.dataclass(frozen=True)
class Ingestion:
    """Readings per second on one database under one load, without the ledger and with it."""

    database: str
    load: str
    readings: int
    without: int
    with_ledger: int
    ratio: float


@dataclasses.dataclass(frozen=True)
class Question:
    """How long completeness of the fleet takes (median), and what its ledger takes on disk."""

    database: str
    devices: int
    seconds: float
    seconds_totals_only: float
    expected: int
    stored: int
    right: bool
    bytes_per_hourly_series_and_day: float
    bytes_per_daily_series_and_day: float
    bytes_per_device_and_day: float
    bytes_of_sums: int


@dataclasses.dataclass(frozen=True)
class Verdict:
    """All figures, and whether they are what is wanted."""

    ingestion: list[Ingestion]
    completeness: list[Question]

    @property
    def good(self) -> bool:
        """Whether everything holds."""
        return all(one.ratio >= WANTED_RATIO for one in self.ingestion) and all(
            one.right and (one.seconds <= WANTED_SECONDS or one.database == "sqlite") for one in self.completeness
        )


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status says whether all is as wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ledger", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--meters", type=int, default=100, help="meters whose readings come in a round (100)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds with and without, in turns (5)")
    parser.add_argument("--devices", type=int, default=100_000, help="meters of the fleet that is asked about (100000)")
    parser.add_argument("--part", choices=PARTS, help="only this part")
    parser.add_argument("--database", choices=DATABASES, help="only on this database")
    parser.add_argument("--load", choices=LOADS, help="only this load of ingestion")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    verdict = Verdict([], [])
    with tempfile.TemporaryDirectory(prefix="metergate-ledger-") as folder, contextlib.ExitStack() as servers:
        place = pathlib.Path(folder)
        for database in DATABASES if options.database is None else (options.database,):
            url = f"sqlite:///{place / 'hub.db'}"
            if database == "postgresql":
                url = servers.enter_context(postgres(place / "postgres", shared_buffers="128MB")).url()
            asyncio.run(_measure(options, url, verdict))
    sys.stdout.write(
        json.dumps(dataclasses.asdict(verdict) | {"good": verdict.good}) if options.json else _shown(verdict)
    )
    sys.stdout.write("\n")
    return 0 if verdict.good else 1


def _said(one: Ingestion) -> str:
    return (
        f"ingestion, {one.database}, {one.load}: {one.without:,} readings/s without the ledger, "
        f"{one.with_ledger:,} with it: {one.ratio:.3f} of it (wanted {WANTED_RATIO})"
    )


def _told(asked: Question) -> str:
    wanted = "" if asked.database == "sqlite" else f" (wanted {1000 * WANTED_SECONDS:.0f})"
    return (
        f"completeness, {asked.database}, of {asked.devices:,} meters over 30 days: {1000 * asked.seconds:.0f} ms with "
        f"reasons, {1000 * asked.seconds_totals_only:.0f} ms without{wanted}; "
        f"{asked.stored:,} of {asked.expected:,} slots are stored; {'as filled' if asked.right else 'NOT as filled'}; "
        f"on disk, indexes and all: {asked.bytes_per_hourly_series_and_day:.1f} bytes per hourly series and day, "
        f"{asked.bytes_per_daily_series_and_day:.1f} per daily series and day, "
        f"{asked.bytes_per_device_and_day:.1f} per meter (one of each) and day; {asked.bytes_of_sums:,} for sums"
    )


def _shown(verdict: Verdict) -> str:
    lines = [*map(_said, verdict.ingestion), *map(_told, verdict.completeness)]
    return "\n".join([*lines, "as wanted" if verdict.good else "NOT as wanted"])


async def _measure(options: argparse.Namespace, url: str, verdict: Verdict) -> None:
    """Measure what is asked for on one database; what is found is said at once on the error stream."""
    await migrate(url)
    async with opened(url) as engine:
        if options.part != COMPLETENESS:
            for load in LOADS if options.load is None else (options.load,):
                verdict.ingestion.append(await _ingestion(engine, load, options.meters, options.rounds))
                sys.stderr.write(f"{_said(verdict.ingestion[-1])}\n")
        if options.part != INGESTION:
            verdict.completeness.append(await _completeness(engine, options.devices))
            sys.stderr.write(f"{_told(verdict.completeness[-1])}\n")


async def _ingestion(engine: AsyncEngine, load: str, meters: int, rounds: int) -> Ingestion:
    rates: dict[bool, list[float]] = {True: [], False: []}
    readings = 0
    for turn in range(rounds + 1):
        # In turns, and each first as often as second: what grows or warms up hits both alike.
        for kept in (True, False) if turn % 2 else (False, True):
            rate, readings = await _round(engine, load, meters, kept=kept)
            if turn:
                rates[kept].append(rate)
    with_ledger, without = statistics.median(rates[True]), statistics.median(rates[False])
    # Of each round by itself: what the machine does besides lasts longer than a round.
    ratio = statistics.median(one / other for one, other in zip(rates[True], rates[False], strict=True))
    return Ingestion(engine.dialect.name, load, readings, int(without), int(with_ledger), round(ratio, 3))


async def _round(engine: AsyncEngine, load: str, meters: int, *, kept: bool) -> tuple[float, int]:
    estate = await make_estate(engine, meters)
    while await keep_some(engine, NOW):
        pass
    deliveries = list(archives(estate, _HOURS) if load == BACKLOG else fresh(estate, _HOURS, meters))
    readings = estate.sequence - 1
    begun = time.perf_counter()
    if kept:
        await _with_clerk(engine, deliveries)
    else:
        with _nothing_noted():
            await _store(engine, deliveries)
    return readings / (time.perf_counter() - begun), readings


async def _store(engine: AsyncEngine, deliveries: Sequence[Delivery]) -> None:
    for start in range(0, len(deliveries), GROUP):
        await store_deliveries(engine, deliveries[start : start + GROUP], NOW, 1000)


async def _with_clerk(engine: AsyncEngine, deliveries: Sequence[Delivery]) -> None:
    """Store beside a clerk, as a relay does, and wait until everything is folded."""
    clerk = asyncio.create_task(keep_ledger(engine, Clock()))
    try:
        await _store(engine, deliveries)
    finally:
        clerk.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await clerk
    await catch_up(engine, NOW)
    async with reading(engine) as session:
        left = await session.scalar(sa.select(sa.func.count()).select_from(LedgerPending))
    if left:
        raise RuntimeError(f"{left} notes were not folded")


@contextlib.contextmanager
def _nothing_noted() -> Iterator[None]:
    """Have ingestion as it would be without a ledger."""

    async def nothing(*_arguments: object, **_named: object) -> None:
        """Note nothing."""

    noting = ledger_pending.note
    ledger_pending.note = nothing
    try:
        yield
    finally:
        ledger_pending.note = noting


async def _completeness(engine: AsyncEngine, devices: int) -> Question:
    async with writing(engine) as session:
        # What came by ingestion before is not the fleet's; nor is what the trigger notes of it.
        for table in ("ledger_chunks", "ledger_pending", "ledger_sums"):
            await session.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 - our own text
    await _tidy(engine)
    fleet = await fill_fleet(engine, devices, 180, 1000, behind=True)
    async with writing(engine) as session:
        # As a clerk does now and then.
        await sweep(session, NOW)
    await _tidy(engine)
    seconds, bare = [], []
    found = None
    for _ in range(_TIMES):
        begun = time.perf_counter()
        found = await _ask(engine, fleet, reasons=True)
        seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        await _ask(engine, fleet, reasons=False)
        bare.append(time.perf_counter() - begun)
    expected, stored = found if found is not None else (0, 0)
    hourly, daily, sums = await _bytes(engine)
    return Question(
        engine.dialect.name,
        devices,
        round(statistics.median(seconds), 4),
        round(statistics.median(bare), 4),
        expected,
        stored,
        (expected, expected - stored) == (fleet.expected, fleet.missing),
        round(hourly, 2),
        round(daily, 2),
        round(hourly + daily, 2),
        sums,
    )


async def _tidy(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(sa.text("VACUUM FULL ANALYZE ledger_chunks"))
            await connection.execute(sa.text("VACUUM ANALYZE"))
        else:
            await connection.execute(sa.text("ANALYZE"))
            await connection.commit()


async def _ask(engine: AsyncEngine, fleet: Fleet, *, reasons: bool) -> tuple[int, int]:
    await catch_up(engine, NOW)
    async with reading(engine) as session:
        scope = Scope(organization=fleet.organization)
        found = await total_of(session, scope, NOW - THIRTY_DAYS, NOW + ONE_SECOND, NOW, reasons=reasons)
    if reasons and found.unexplained:
        raise RuntimeError(f"{found.unexplained} slots have no reason")
    return found.expected, found.stored


async def _bytes(engine: AsyncEngine) -> tuple[float, float, int]:
    """Return what a chunk of hours and one of gas days take by the days that they cover, and what all sums take.

    With its share of indexes and free space, by how long the rows are.
    """
    postgresql = engine.dialect.name == "postgresql"
    row = "pg_column_size(c.*)" if postgresql else "length(c.bits) + 20"
    async with reading(engine) as session:
        rows = await session.execute(
            sa.text(
                f"SELECT r.interval, count(*), sum({row}) FROM ledger_chunks c "  # noqa: S608 - our own text
                "JOIN ledger_rasters r ON r.id = c.raster GROUP BY r.interval"
            )
        )
        found = {interval: (count, float(size)) for interval, count, size in rows}
        if postgresql:
            total = "SELECT pg_total_relation_size('ledger_chunks')"
        else:
            total = "SELECT sum(pgsize) FROM dbstat WHERE name LIKE '%ledger_chunks%'"
        share = float(await session.scalar(sa.text(total)) or 0) / sum(size for _, size in found.values())
        sums = await session.scalar(sa.text("SELECT sum(length(planes)) FROM ledger_sums"))
    hourly, daily = [
        share * size / count / (size_of(interval) * days)
        for interval, days in (("hour", 1 / 24), ("gas_day", 1.0))
        for count, size in (found[interval],)
    ]
    return hourly, daily, int(sums or 0)
