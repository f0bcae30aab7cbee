"""What the bench ``upgrade`` does in its database: rows of before, an index each way, and the truth at the end."""

import asyncio
import pathlib
import shutil
import textwrap
import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import asyncpg

from benchmarks.backlog import readings_of
from benchmarks.loaded_hub import LoadedGateway
from hub.database import MIGRATIONS, create_engine, schemas
from hub.migrating import move

_FILL = """
INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected, version_count,
    created_at)
SELECT m.organization, m.id, s.id, date_trunc('month', now()) + n * interval '1 second', n, 'm3', 'meter', now(), 1,
    now()
FROM meter_devices m, generate_series(1, $1::int / 8) n, meter_reading_series s WHERE m.id = $2
"""
_VERSIONS = """
INSERT INTO reading_versions (meter_device, series, timestamp, value, first_collected, collected)
SELECT meter_device, series, timestamp, value, collected, collected FROM readings WHERE meter_device = $1
"""
_READINGS = """
SELECT s.name, r.timestamp, r.value, r.version_count FROM readings r
JOIN meter_reading_series s ON s.id = r.series WHERE r.meter_device = $1
"""
_BESIDE = """
SELECT (SELECT count(*) FROM reading_versions WHERE meter_device <> $1), (SELECT count(*) FROM staged_meter_readings),
    (SELECT count(*) FROM quarantine), (SELECT count(*) FROM batches)
"""
_SAMPLE = '''
    """An index that some version after this one adds: what the bench measures."""

    from hub import online_changes

    revision = "9001"
    down_revision = "{head}"
    branch_labels = None
    depends_on = None
    stop = ""


    def upgrade() -> None:
        online_changes.add_index("ix_readings_online", "readings", ["meter_device", "created_at"])


    def downgrade() -> None:
        online_changes.drop_index("ix_readings_online", "readings")
'''


class Found(NamedTuple):
    """The database against what was sent, row by row."""

    rows: int
    missing: int
    doubled: int
    wrong: int


async def _fill(url: str, meter: str, rows: int) -> int:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_FILL, rows, uuid.UUID(meter), timeout=1800)
        await connection.execute(_VERSIONS, uuid.UUID(meter), timeout=1800)
        await connection.execute("ANALYZE readings, reading_versions", timeout=600)
        return int(await connection.fetchval("SELECT count(*) FROM readings"))
    finally:
        await connection.close()


def fill(url: str, meter: str, rows: int) -> int:
    """Give a meter so many readings, each with a version; return how many there are."""
    return asyncio.run(_fill(url, meter, rows))


async def _plainly(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE INDEX ix_readings_plain ON readings (meter_device, created_at)", timeout=1800)
        await connection.execute("DROP INDEX ix_readings_plain")
    finally:
        await connection.close()


def add_index_plainly(url: str) -> None:
    """Add an index to readings as a migration does that nobody thought about, and take it away."""
    asyncio.run(_plainly(url))


async def _online(url: str, folder: pathlib.Path) -> None:
    scripts = folder / "migrations"
    shutil.copytree(MIGRATIONS, scripts)
    sample = textwrap.dedent(_SAMPLE).lstrip().format(head=schemas()[-1])
    (scripts / "versions" / "9001_sample.py").write_text(sample, encoding="utf-8")
    engine = create_engine(url)
    try:
        await move(engine, scripts=scripts)
    finally:
        await engine.dispose()


def add_index_online(url: str, folder: pathlib.Path) -> None:
    """Add the same index to readings by a migration after the last, and leave the database ahead of this version."""
    asyncio.run(_online(url, folder))


def compare(url: str, gateways: Sequence[LoadedGateway], given: Mapping[str, int], batches: int, filled: str) -> Found:
    """Compare what each gateway was given with the rows that there are."""
    return asyncio.run(_compare(url, gateways, given, batches, filled))


async def _compare(
    url: str, gateways: Sequence[LoadedGateway], given: Mapping[str, int], batches: int, filled: str
) -> Found:
    connection = await asyncpg.connect(url)
    rows = missing = doubled = wrong = 0
    try:
        for gateway in gateways:
            meter = uuid.UUID(gateway.meters[0])
            wanted = {(one.series, one.timestamp): one.value for one in readings_of([meter], given[gateway.name])}
            found = await connection.fetch(_READINGS, meter)
            there = {(name, timestamp): value for name, timestamp, value, _ in found}
            rows += len(found)
            missing += len(wanted.keys() - there.keys())
            doubled += len(found) - len(there) + sum(versions - 1 for *_, versions in found)
            wrong += sum(wanted.get(key) != value for key, value in there.items())
        versions, staged, quarantined, kept = await connection.fetchrow(_BESIDE, uuid.UUID(filled))
    finally:
        await connection.close()
    # A batch that came twice is one row of batches.
    return Found(rows, missing, doubled + versions + max(0, kept - batches), wrong + staged + quarantined)
