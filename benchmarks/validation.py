"""``python -m benchmarks validation``: what validation costs ingestion, and how fast readings are judged.

On SQLite and on PostgreSQL, in one process: transactions of readings are stored by turns with and without the note of
what is to be judged; the ratio of the medians is at least ``LEAST_RATIO``. Then all of them are judged by limits that
use every rule, and the flags are compared with those of the pure judge.
"""

import argparse
import asyncio
import datetime as dt
import decimal
import json
import pathlib
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks._hub_rows import add_kind, opened
from benchmarks.postgres import postgres
from hub import models, unjudged, versions
from hub.database import migrate, reading, writing
from hub.flagging import judge_some
from hub.validation import Limit, Point, judge

LEAST_RATIO = 0.9
LEAST_JUDGED = 2000
"""Readings a second when all are judged again, with every rule, while others use the machine."""

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
RULE = {"monotonic": True, "max_per_hour": "40", "stuck_hours": 24, "spike_factor": 8.0}


def main(arguments: Sequence[str]) -> int:
    """Run it; 0 when all bounds are kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks validation", description=__doc__)
    parser.add_argument("--devices", type=int, default=100, help="meters, one hourly series each (%(default)s)")
    parser.add_argument("--transactions", type=int, default=40, help="transactions to store, half of each kind")
    parser.add_argument("--rows", type=int, default=1000, help="readings of a transaction (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    figures = {}
    with tempfile.TemporaryDirectory(prefix="metergate-validation-") as folder:
        place = pathlib.Path(folder)
        figures["sqlite"] = asyncio.run(_measure(f"sqlite:///{place / 'hub.db'}", options))
        with postgres(place / "postgres") as server:
            figures["postgresql"] = asyncio.run(_measure(server.url(), options))
    kept = all(
        one["ratio"] >= LEAST_RATIO and one["judged_per_second"] >= LEAST_JUDGED and one["wrong_flags"] == 0
        for one in figures.values()
    )
    if options.json:
        sys.stdout.write(json.dumps({**figures, "kept": kept}) + "\n")
    else:
        for name, one in figures.items():
            sys.stdout.write(
                f"{name:11} stored {one['stored_per_second']:8.0f}/s with notes, "
                f"{one['without_per_second']:8.0f}/s without: ratio {one['ratio']:.3f} (at least {LEAST_RATIO}); "
                f"judged {one['judged_per_second']:8.0f}/s "
                f"(at least {LEAST_JUDGED}); {one['flagged']:.0f} flagged, {one['wrong_flags']:.0f} of them wrong\n"
            )
    return 0 if kept else 1


async def _measure(url: str, options: argparse.Namespace) -> dict[str, float]:
    await migrate(url)
    async with opened(url) as engine:
        devices, series, organization = await _estate(engine, options.devices)
        points: dict[uuid.UUID, list[Point]] = {device: [] for device in devices}
        seconds: dict[bool, list[float]] = {True: [], False: []}
        noting = unjudged.note
        try:
            for number in range(options.transactions):
                arrivals = _arrivals(points, series, organization, options.rows)
                noted = number % 2 == 0
                setattr(unjudged, "note", noting if noted else _no_note)  # noqa: B010 - for this figure alone
                begun = time.perf_counter()
                async with writing(engine) as session:
                    await versions.store(session, arrivals, NOW)
                seconds[noted].append(time.perf_counter() - begun)
        finally:
            setattr(unjudged, "note", noting)  # noqa: B010 - as above
        with_notes, without = (statistics.median(seconds[noted]) for noted in (True, False))
        async with writing(engine) as session:
            await session.execute(sa.delete(models.UnjudgedReadings))
            await unjudged.note_devices(session, devices)
        begun = time.perf_counter()
        while await judge_some(engine):
            pass
        took = time.perf_counter() - begun
        flagged, wrong = await _compare(engine, points)
    return {
        "stored_per_second": options.rows / with_notes,
        "without_per_second": options.rows / without,
        "ratio": without / with_notes,
        "judged_per_second": options.rows * options.transactions / took,
        "flagged": flagged,
        "wrong_flags": wrong,
    }


async def _no_note(*_arguments: object) -> None:
    """Note nothing."""


async def _estate(engine: AsyncEngine, count: int) -> tuple[list[uuid.UUID], uuid.UUID, uuid.UUID]:
    """Make meters of one config with a limit; return their ids, the series' and the organization's."""
    dated = {"created_at": NOW, "updated_at": NOW}
    async with writing(engine) as session:
        organization = models.Organization(name="bench", **dated)
        session.add(organization)
        await session.flush()
        series = models.ReadingSeries(
            organization=organization.id, name="2:300", unit="m3", si_multiplier=decimal.Decimal(1), **dated
        )
        config = models.MeterDeviceConfig(
            organization=organization.id, name="c", limits=[{"series": "2:300", **RULE}], **dated
        )
        kind = await add_kind(session, config, [series])
        meters = [
            models.MeterDevice(organization=organization.id, name=f"M{number}", protocol="lis-200", type=kind, **dated)
            for number in range(count)
        ]
        session.add_all(meters)
        await session.flush()
        return sorted(meter.id for meter in meters), series.id, organization.id


def _arrivals(
    points: dict[uuid.UUID, list[Point]], series: uuid.UUID, organization: uuid.UUID, rows: int
) -> list[versions.Arrival]:
    """Return the next readings of all meters: hourly counters that rest at night, and go wrong now and then."""
    arrivals = []
    for device, of_device in points.items():
        for _ in range(rows // len(points)):
            number = len(of_device)
            day, hour = divmod(number, 24)
            value = decimal.Decimal(day * 100 + max(0, hour - 8) * 6)
            if number % 97 == device.int % 97:
                value += 500
            at = NOW - dt.timedelta(days=200) + dt.timedelta(hours=number)
            of_device.append(Point(at, value))
            arrivals.append(versions.Arrival(organization, device, series, at, value, NOW))
    return arrivals


async def _compare(engine: AsyncEngine, points: dict[uuid.UUID, list[Point]]) -> tuple[int, int]:
    """Return how many readings have flags, and how many have others than the pure judge gives."""
    rule = Limit(
        series="2:300",
        monotonic=True,
        max_per_hour=decimal.Decimal(40),
        stuck_hours=24,
        spike_factor=8.0,
    )
    flagged = wrong = 0
    async with reading(engine) as session:
        for device, of_device in points.items():
            found = await session.scalars(
                sa.select(models.Reading.flags)
                .where(models.Reading.meter_device == device)
                .order_by(models.Reading.timestamp)
            )
            given = found.all()
            flagged += sum(flags != 0 for flags in given)
            expected = judge(of_device, rule, [])
            wrong += sum(one != other for one, other in zip(given, expected, strict=True))
    return flagged, wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
