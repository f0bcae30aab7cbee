"""A database with a year of readings, filled set by set inside PostgreSQL: what ``benchmarks.query`` asks questions of.

Readings lie in the table as they come: each hour one of each series of each meter, meter after meter. So those of one
series are as far apart as they can be. A few meters have them each quarter of an hour.

A month is filled before it is attached: then its indices are made, and its foreign keys proved, at once. A month that
is there is not filled again, so a fill that was broken off goes on.
"""

import asyncio
import dataclasses
import datetime as dt
import decimal
import os
import pathlib
import sys
import time
import uuid

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from benchmarks._hub_rows import add_kind, opened
from benchmarks.postgres import postgres
from hub import models
from hub.database import migrate, reading, writing
from hub.months import Month, partitions
from hub.partitions import make_partitions

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
"""The newest readings are of this hour."""

SERIES = ("1:300", "1:302", "2:300", "2:302")
QUARTERLY = 20
"""Meters that have readings each quarter of an hour."""

ORGANIZATIONS = 2
METERS_OF_A_GATEWAY = 10
STAGED_NAMES = 2000
STAGED_OF_EACH = 100
STAGED_OF_ONE = 100_000
"""Staged readings of the one name that has very many."""

FILLING = {
    # What is filled is made in the same transaction: it is written and synced itself, and not twice.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "maintenance_work_mem": "512MB",
    "max_parallel_maintenance_workers": "0",
    "autovacuum": "off",
    "checkpoint_timeout": "30min",
}
MEASURING = {
    "max_wal_size": "1GB",
    # As on a disk without moving parts.
    "random_page_cost": "1.1",
    "effective_io_concurrency": "100",
}
_DATED = {"created_at": NOW - dt.timedelta(days=800), "updated_at": NOW - dt.timedelta(days=800)}
_PAUSE_SECONDS = 5.0

_METERS = """
    INSERT INTO meter_devices (id, organization, name, protocol, type, network_interface, has_current_transformer,
        current_transformer_ratio, has_voltage_transformer, voltage_transformer_ratio, has_disconnector, created_at,
        updated_at)
    SELECT gen_random_uuid(), CAST(:organization AS uuid), 'M' || n, 'lis-200', CAST(:kind AS uuid),
        (CAST(:lines AS uuid[]))[1 + n / CAST(:each AS int)], false, 1, false, 1, false, CAST(:at AS timestamptz),
        CAST(:at AS timestamptz)
    FROM generate_series(0, CAST(:meters AS int) - 1) n
"""
_ESTATE = """
    CREATE TABLE bench.estate AS
    SELECT row_number() OVER (ORDER BY substr(d.name, 2)::int, d.organization, s.name) AS number, d.organization,
        d.id AS device, s.id AS series, substr(d.name, 2)::int < CAST(:quarterly AS int) AS quarterly
    FROM meter_devices d JOIN meter_reading_series s ON s.organization = d.organization
"""
_FILL = """
    DO $$
    DECLARE at timestamptz;
    BEGIN
        FOR at IN SELECT generate_series('{since}'::timestamptz, '{until}'::timestamptz, '15 minutes') LOOP
            INSERT INTO {table} (id, organization, meter_device, series, timestamp, value, unit, provenance, collected,
                batch, version_count, created_at, flags)
            SELECT nextval('readings_id_seq'), organization, device, series, at,
                (extract(epoch from at)::bigint / 900 * 1731 % 9999991 + number * 97) * 0.0001, 'm3', 'meter',
                at + interval '30 seconds', {batch}, 1, at + interval '1 minute' + number * interval '8 ms', 0
            FROM bench.estate WHERE quarterly OR extract(minute from at) = 0 ORDER BY number;
        END LOOP;
    END $$
"""
_STAGED = """
    INSERT INTO staged_meter_readings (identity, organization, meter_device_name, series_name, timestamp, value, unit,
        gateway, reason, collected, provenance, created_at, updated_at)
    SELECT sha256((name || ' ' || n)::bytea), CAST(:organization AS uuid), name, '2:300',
        CAST(:now AS timestamptz) - n * interval '1 hour', n * 0.25, 'm3', CAST(:gateway AS uuid),
        'there is no meter of this name', CAST(:now AS timestamptz), 'meter', CAST(:now AS timestamptz) - n * interval
        '1 hour', CAST(:now AS timestamptz)
    FROM (SELECT 'unknown ' || number AS name,
              CASE number WHEN 0 THEN CAST(:many AS int) ELSE CAST(:few AS int) END AS count
          FROM generate_series(0, CAST(:names AS int)) number) AS names, generate_series(1, count) n
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How much there is to be: about so many readings in so many months, the last of them that of ``NOW``."""

    rows: int
    months: int

    @property
    def since(self) -> dt.datetime:
        """The first instant."""
        return Month.of(NOW).later(1 - self.months).start

    @property
    def meters(self) -> int:
        """How many meters that takes, of each organization."""
        hours = (NOW - self.since) // dt.timedelta(hours=1) + 1
        wanted = self.rows // (hours * len(SERIES)) - 3 * QUARTERLY * ORGANIZATIONS
        return max(2 * QUARTERLY, wanted // ORGANIZATIONS)


def fill(folder: pathlib.Path, plan: Plan, pause: pathlib.Path | None = None) -> None:
    """Fill a database in a folder, or go on with it; while the file ``pause`` is there no month is begun."""
    with postgres(folder, shared_buffers="256MB", settings=FILLING) as server:
        asyncio.run(_fill(server.url(), plan, pause))


async def _fill(url: str, plan: Plan, pause: pathlib.Path | None) -> None:
    await migrate(url)
    async with opened(url) as engine:
        if not await _is_begun(engine):
            await _begin(engine, plan)
        async with reading(engine) as session:
            there = {one.month for one in await partitions(session)}
        months = [Month.of(plan.since).later(step) for step in range(plan.months)]
        for month in months:
            if month in there:
                continue
            while pause is not None and os.path.exists(pause):  # noqa: ASYNC110, ASYNC240, PTH110 - a look, again and again
                await asyncio.sleep(_PAUSE_SECONDS)
            begun = time.monotonic()
            await _fill_month(engine, month)
            sys.stderr.write(f"{month.table} filled in {time.monotonic() - begun:.0f} s\n")
        await make_partitions(engine, NOW)
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(sa.text("VACUUM (FREEZE, ANALYZE)"))


async def _is_begun(engine: AsyncEngine) -> bool:
    async with reading(engine) as session:
        return await session.scalar(sa.text("SELECT to_regclass('bench.estate')")) is not None


async def _begin(engine: AsyncEngine, plan: Plan) -> None:
    """Make organizations with gateways and meters, and what is staged."""
    async with writing(engine) as session:
        await session.execute(sa.text("CREATE SCHEMA bench"))
        for number in range(ORGANIZATIONS):
            await _add_organization(session, number, plan.meters)
        await session.execute(sa.text(_ESTATE), {"quarterly": QUARTERLY})


async def _add_organization(session: AsyncSession, number: int, meters: int) -> None:
    owner = models.Organization(name=f"Utility {number}", **_DATED)
    session.add(owner)
    await session.flush()
    series = [
        models.ReadingSeries(organization=owner.id, name=name, unit="m3", si_multiplier=decimal.Decimal(1), **_DATED)
        for name in SERIES
    ]
    config = models.MeterDeviceConfig(organization=owner.id, name="EK280", timezone="Europe/Berlin", **_DATED)
    kind = await add_kind(session, config, series)
    gateways = [
        models.Gateway(gateway_id=f"gw-{number}-{one}", organization=owner.id, **_DATED)
        for one in range(meters // METERS_OF_A_GATEWAY + 1)
    ]
    session.add_all(gateways)
    await session.flush()
    lines = [
        models.NetworkInterface(
            organization=owner.id, gateway=one.id, serial_port="/dev/ttyS0", name="line", **_DATED
        )
        for one in gateways
    ]  # fmt: skip
    session.add_all(lines)
    await session.flush()
    await session.execute(
        sa.text(_METERS),
        {
            "organization": owner.id,
            "kind": kind,
            "lines": [one.id for one in lines],
            "each": METERS_OF_A_GATEWAY,
            "meters": meters,
            "at": _DATED["created_at"],
        },
    )
    if number == 0:
        values = {"organization": owner.id, "gateway": gateways[0].id, "now": NOW}
        values |= {"names": STAGED_NAMES, "few": STAGED_OF_EACH, "many": STAGED_OF_ONE}
        await session.execute(sa.text(_STAGED), values)


async def _fill_month(engine: AsyncEngine, month: Month) -> None:
    until = min(month.end - dt.timedelta(minutes=15), NOW)
    async with writing(engine) as session:
        gateway = (await session.scalars(sa.select(models.Gateway.id).limit(1))).one()
        batch = models.Batch(
            gateway=gateway, channel="readings", store=uuid.uuid4().bytes, first=1, last=1, digest=b"",
            received_at=until, stored_at=until, rows=1,
        )  # fmt: skip
        session.add(batch)
        await session.flush()
        for statement in (
            f"CREATE TABLE {month.table} (LIKE readings INCLUDING DEFAULTS INCLUDING CONSTRAINTS)",
            _FILL.format(since=month.start.isoformat(), until=until.isoformat(), table=month.table, batch=batch.id),
            f"ALTER TABLE readings ATTACH PARTITION {month.table} {month.bounds}",
        ):
            await session.execute(sa.text(statement))
