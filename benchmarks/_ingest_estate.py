"""The estate of the bench ``ingest``: gateways with ten meters of ten hourly series, five million rows, and batches.

Every id and key is made from a number, so that a database that was kept serves again. The rows that are there before
anything is measured are written set by set, in the order in which a fleet would have brought them; so are the
timestamps of what comes then: hour after hour, each a row of every series. All lie in one month.
"""

import asyncio
import contextlib
import datetime as dt
import decimal
import hashlib
import sqlite3
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from benchmarks._hub_rows import add_kind
from benchmarks._ingest_load import Packed
from hub import models
from hub.columns import to_microseconds
from hub.database import migrate, reading, writing
from hub.ledger_chunks import Bits, filling, size_of
from hub.ledger_sums import sum_anew
from hub.partitions import make_partitions
from protocol.envelopes import SigningKey
from protocol.rasters import Raster
from protocol.readings import NewMeterReading, batch_of, name_properties
from protocol.topics import Channel, topic_for
from protocol.wire import encode

BEGIN = dt.datetime(2026, 10, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
METERS = 10
"""Meters of a gateway."""
SERIES = tuple(f"{number}:310/3" for number in range(1, 11))
PER_HOUR = METERS * len(SERIES)
"""Readings that a gateway brings of each hour."""
UNIT = "m3"
ZONE = "Europe/Berlin"
_DATED = {"created_at": BEGIN, "updated_at": BEGIN}


class Row(NamedTuple):
    """A reading as the table has it, as far as it is not the same for all."""

    device: uuid.UUID
    series: uuid.UUID
    timestamp: dt.datetime
    value: decimal.Decimal
    collected: dt.datetime


class Estate:
    """So many gateways; ``hour`` is the next one of which nothing was brought."""

    def __init__(self, gateways: int, rows: int) -> None:
        self.names = [f"ingest-{number}" for number in range(gateways)]
        self.filled_hours = rows // (gateways * PER_HOUR)
        self.hour = self.filled_hours
        self.keys = [SigningKey(hashlib.sha256(name.encode()).digest()) for name in self.names]
        self._stores = [uuid.uuid4().bytes for _ in self.names]
        self._sequences = [1] * gateways
        self.organization = _id("organization")
        self.series = [_id(f"series {name}") for name in SERIES]

    @property
    def end(self) -> dt.datetime:
        """When what was filled ends: the first hour that is measured."""
        return BEGIN + self.filled_hours * HOUR

    def devices(self, gateway: int) -> list[uuid.UUID]:
        """Return the meters of a gateway."""
        return [_id(f"meter {gateway} {number}") for number in range(METERS)]

    def take(self, hours: int) -> range:
        """Return the next hours, of which nothing was brought yet."""
        self.hour += hours
        return range(self.hour - hours, self.hour)

    def rows(self, hours: range) -> Iterator[Row]:
        """Yield the rows of these hours as a fleet brings them: one gateway after another."""
        devices = [self.devices(gateway) for gateway in range(len(self.names))]
        for hour in hours:
            at = BEGIN + hour * HOUR
            for ones in devices:
                for device in ones:
                    for series in self.series:
                        yield Row(device, series, at, _value(hour), at + HOUR / 4)

    def deliveries(self, hours: range, size: int) -> Iterator[Packed]:
        """Yield these hours as signed batches of so many readings, the gateways in turns."""
        each = size // PER_HOUR if size > PER_HOUR else 1
        for start in range(hours.start, hours.stop, each):
            some = range(start, min(start + each, hours.stop))
            pending = [self._encoded(gateway, some) for gateway in range(len(self.names))]
            for first in range(0, len(pending[0]), size):
                for gateway, rows in enumerate(pending):
                    yield self._batch(gateway, rows[first : first + size])

    def _encoded(self, gateway: int, hours: range) -> list[bytes]:
        run = uuid.uuid4()
        found = []
        for hour in hours:
            at = BEGIN + hour * HOUR
            for number, device in enumerate(self.devices(gateway)):
                name = f"{self.names[gateway]} {number}"
                for series in SERIES:
                    row = NewMeterReading(
                        name, series, at, _value(hour), UNIT, device, at + HOUR / 4, clock_offset=0.5, run=run
                    )
                    found.append(encode(row))
        return found

    def _batch(self, gateway: int, rows: list[bytes]) -> Packed:
        topic = topic_for(self.names[gateway], Channel.READINGS)
        batch = batch_of(self._stores[gateway], self._sequences[gateway], rows)
        self._sequences[gateway] += len(rows)
        return Packed(
            self.names[gateway], self.keys[gateway].seal(topic, encode(batch)), tuple(name_properties(batch.name))
        )


def _id(text: str) -> uuid.UUID:
    return uuid.UUID(bytes=hashlib.md5(f"ingest {text}".encode(), usedforsecurity=False).digest())


def _value(hour: int) -> decimal.Decimal:
    return decimal.Decimal(hour * 1000 + 123456).scaleb(-3)


async def make_estate(engine: AsyncEngine, estate: Estate) -> None:
    """Make the schema and everything that is there before something is measured; takes minutes."""
    await migrate(engine.url.render_as_string(hide_password=False))
    await make_partitions(engine, BEGIN)
    async with writing(engine) as session:
        await _make(session, estate)
    if engine.dialect.name == "postgresql":
        await _fill_postgresql(engine, estate)
    else:
        await asyncio.to_thread(_fill_sqlite, str(engine.url.database), estate)
    await _tidy(engine)


async def _make(session: AsyncSession, estate: Estate) -> None:
    session.add(models.Organization(id=estate.organization, name="Utility", **_DATED))
    await session.flush()
    told = [{"series": name, "interval": "hour", "anchor_seconds": None, "archive": 3} for name in SERIES]
    config = models.MeterDeviceConfig(
        organization=estate.organization, name="EK280", timezone=ZONE, expectations=told, **_DATED
    )
    series = [
        models.ReadingSeries(
            id=one, organization=estate.organization, name=name, unit=UNIT, si_multiplier=decimal.Decimal(1), **_DATED
        )
        for one, name in zip(estate.series, SERIES, strict=True)
    ]
    kind = await add_kind(session, config, series)
    for number, name in enumerate(estate.names):
        gateway = models.Gateway(
            id=_id(f"gateway {number}"), gateway_id=name, organization=estate.organization,
            public_key=estate.keys[number].public, **_DATED,
        )  # fmt: skip
        session.add(gateway)
        await session.flush()
        line = models.NetworkInterface(
            organization=estate.organization, gateway=gateway.id, serial_port="/dev/ttyS0", name=name, **_DATED
        )
        session.add(line)
        await session.flush()
        session.add_all(
            models.MeterDevice(
                id=device, name=f"{name} {place}", organization=estate.organization, type=kind,
                network_interface=line.id, protocol="lis-200", **_DATED,
            )
            for place, device in enumerate(estate.devices(number))
        )  # fmt: skip
        await session.flush()
    await _expect(session, estate)


async def _expect(session: AsyncSession, estate: Estate) -> None:
    """Have every series expected hourly, and the ledger know of all that is filled, as clerks would in a long while."""
    raster = Raster("hour", 0, ZONE)
    row = models.LedgerRaster(
        organization=estate.organization, interval=raster.interval, anchor_seconds=0, zone=ZONE, momentary=False
    )
    session.add(row)
    await session.flush()
    since = raster.first_slot_at_or_after(BEGIN)
    await session.execute(
        sa.text(
            "INSERT INTO expectations (device, series, raster, origin, archive, since_slot, until_slot, rebuilding) "
            "SELECT d.id, s.id, :raster, 'config', 3, :since, NULL, false "
            "FROM meter_devices d CROSS JOIN meter_reading_series s"
        ).bindparams(sa.bindparam("raster", type_=sa.Integer()), sa.bindparam("since", type_=sa.BigInteger())),
        {"raster": row.id, "since": since},
    )
    size = size_of(raster.interval)
    bits = Bits(size)
    bits.add(range(since, raster.slot_at_or_before(estate.end - HOUR) + 1))
    statement = sa.text(
        "INSERT INTO ledger_chunks (expectation, chunk, raster, state, bits) "
        "SELECT id, :chunk, raster, :state, :bits FROM expectations"
    ).bindparams(
        sa.bindparam("chunk", type_=sa.Integer()),
        sa.bindparam("state", type_=sa.SmallInteger()),
        sa.bindparam("bits", type_=sa.LargeBinary()),
    )
    for chunk in sorted(bits.chunks):
        state = int(filling(bits.chunks[chunk], size, chunk, since, None))
        await session.execute(statement, {"chunk": chunk, "state": state, "bits": bits.dump(chunk)})
    await sum_anew(session, row.id, size)


_COLUMNS = (
    "organization, meter_device, series, timestamp, value, unit, provenance, collected, clock_offset, version_count, "
    "created_at, flags"
)
_PG_FILL = f"""
    INSERT INTO readings ({_COLUMNS})
    SELECT d.organization, d.id, s.id, h.at, (h.n * 1000 + 123456)::numeric / 1000, 'm3', 'meter',
        h.at + interval '15 minutes', 0.5, 1, h.at + interval '16 minutes', 0
    FROM (SELECT n, timestamptz '2026-10-01 00:00Z' + n * interval '1 hour' AS at
          FROM generate_series({{0}}, {{1}}) n) h
    CROSS JOIN meter_devices d CROSS JOIN meter_reading_series s
    ORDER BY h.n, d.network_interface, d.id, s.id
"""  # noqa: S608 - our own text
_SQLITE_FILL = f"""
    INSERT INTO readings ({_COLUMNS})
    WITH RECURSIVE h(n) AS (SELECT {{0}} UNION ALL SELECT n + 1 FROM h WHERE n < {{1}})
    SELECT d.organization, d.id, s.id, {{2}} + h.n * 3600000000, printf('%.3f', h.n + 123.456), 'm3', 'meter',
        {{2}} + h.n * 3600000000 + 900000000, 0.5, 1, {{2}} + h.n * 3600000000 + 960000000, 0
    FROM h CROSS JOIN meter_devices d CROSS JOIN meter_reading_series s
"""  # noqa: S608 - our own text
_HOURS_AT_ONCE = 25


async def _fill_postgresql(engine: AsyncEngine, estate: Estate) -> None:
    for first, last in _spans(estate):
        async with engine.begin() as connection:
            # No foreign key is looked up, row by row, for what is made from the tables that they point to.
            await connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            await connection.exec_driver_sql(_PG_FILL.format(first, last))


def _fill_sqlite(file: str, estate: Estate) -> None:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
        # As above, and the indexes in memory while they grow.
        for pragma in ("foreign_keys=OFF", "synchronous=OFF", "cache_size=-2000000"):
            connection.execute(f"PRAGMA {pragma}")
        for first, last in _spans(estate):
            connection.execute(_SQLITE_FILL.format(first, last, to_microseconds(BEGIN)))


def _spans(estate: Estate) -> Iterator[tuple[int, int]]:
    for first in range(0, estate.filled_hours, _HOURS_AT_ONCE):
        yield first, min(first + _HOURS_AT_ONCE, estate.filled_hours) - 1


async def _tidy(engine: AsyncEngine) -> None:
    """Leave the database as its own housekeeping would in a quiet hour."""
    async with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(sa.text("VACUUM ANALYZE"))
            await connection.execute(sa.text("CHECKPOINT"))
        else:
            await connection.execute(sa.text("ANALYZE"))
            await connection.commit()


async def waiting_notes(engine: AsyncEngine) -> int:
    """Return how many notes of readings wait for clerks."""
    async with reading(engine) as session:
        waiting = 0
        for model in (models.LedgerPending, models.UnjudgedReadings):
            waiting += await session.scalar(sa.select(sa.func.count()).select_from(model)) or 0
        return waiting


async def stored_since(engine: AsyncEngine, hours: range) -> int:
    """Return how many readings of these hours are committed."""
    async with reading(engine) as session:
        found = await session.scalar(
            sa.select(sa.func.count())
            .select_from(models.Reading)
            .where(models.Reading.timestamp >= BEGIN + hours.start * HOUR)
            .where(models.Reading.timestamp < BEGIN + hours.stop * HOUR)
        )
    return int(found or 0)
