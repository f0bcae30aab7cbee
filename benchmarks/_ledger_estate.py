"""Estates for the ledger's bench: meters with gateways that bring batches, and a large fleet filled set by set."""

import dataclasses
import datetime as dt
import decimal
import uuid
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import models
from hub.database import writing
from hub.expectations import mark, slots_within
from hub.ingest import Delivery
from hub.ledger_chunks import Bits, size_of
from protocol.envelopes import SigningKey
from protocol.rasters import Raster
from protocol.readings import NewMeterReading, batch_of, name_properties
from protocol.topics import Channel, topic_for
from protocol.wire import encode

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
ZONE = "Europe/Berlin"
SERIES = tuple(f"{number}:310/3" for number in range(1, 9))
HOUR = dt.timedelta(hours=1)
_DATED = {"created_at": NOW - dt.timedelta(days=400), "updated_at": NOW}


@dataclasses.dataclass(slots=True)
class Estate:
    """One gateway and its meters, all with hourly series that are expected."""

    gateway_id: str
    config: uuid.UUID
    meters: list[uuid.UUID]
    key: SigningKey
    store: bytes = dataclasses.field(default_factory=lambda: uuid.uuid4().bytes)
    sequence: int = 1

    def batch(self, rows: list[NewMeterReading]) -> Delivery:
        """Return the delivery of a new batch."""
        topic = topic_for(self.gateway_id, Channel.READINGS)
        batch = batch_of(self.store, self.sequence, [encode(row) for row in rows])
        self.sequence += len(rows)
        return Delivery(topic, self.key.seal(topic, encode(batch)), tuple(name_properties(batch.name)), NOW)


async def make_estate(engine: AsyncEngine, meters: int) -> Estate:
    """Make an estate of its own; a clerk has still to find out what is expected of it."""
    gateway_id = f"gw-{uuid.uuid4().hex}"
    async with writing(engine) as session:
        owner = models.Organization(name=gateway_id, **_DATED)
        session.add(owner)
        await session.flush()
        gateway = models.Gateway(gateway_id=gateway_id, organization=owner.id, **_DATED)
        told = [{"series": name, "interval": "hour", "anchor_seconds": None, "archive": 3} for name in SERIES]
        config = models.MeterDeviceConfig(
            organization=owner.id, name="EK280", timezone=ZONE, expectations=told, **_DATED
        )
        names = [
            models.ReadingSeries(
                organization=owner.id, name=name, unit="m3", si_multiplier=decimal.Decimal(1), **_DATED
            )
            for name in SERIES
        ]
        session.add_all([gateway, config, *names])
        await session.flush()
        await session.execute(
            sa.insert(models.config_series), [{"config": config.id, "series": one.id} for one in names]
        )
        kind = models.MeterDeviceType(
            organization=owner.id,
            name="EK280",
            manufacturer="E",
            manufacturer_model="EK280",
            config=config.id,
            **_DATED,
        )
        line = models.NetworkInterface(
            organization=owner.id, gateway=gateway.id, serial_port="/dev/ttyS0", name="line", **_DATED
        )
        session.add_all([kind, line])
        await session.flush()
        devices = [
            models.MeterDevice(
                name=f"M{number}", organization=owner.id, type=kind.id, network_interface=line.id, protocol="lis-200",
                **_DATED,
            )
            for number in range(meters)
        ]  # fmt: skip
        session.add_all(devices)
        await session.flush()
        await mark(session, models.MeterDeviceConfig, config.id)
        return Estate(gateway_id, config.id, [one.id for one in devices], SigningKey.generate())


def archives(estate: Estate, hours: int) -> Iterator[Delivery]:
    """Yield a backlog: of each meter a batch with so many archive rows of all its series."""
    for meter in estate.meters:
        yield estate.batch([_reading(meter, name, hour) for hour in range(hours) for name in SERIES])


def fresh(estate: Estate, hours: int, meters_per_batch: int) -> Iterator[Delivery]:
    """Yield what runs bring each hour: batches with one row of all series of each meter."""
    for hour in range(hours):
        for start in range(0, len(estate.meters), meters_per_batch):
            some = estate.meters[start : start + meters_per_batch]
            yield estate.batch([_reading(meter, name, hour) for meter in some for name in SERIES])


def _reading(meter: uuid.UUID, series: str, hour: int) -> NewMeterReading:
    at = NOW - dt.timedelta(days=30) + hour * HOUR
    return NewMeterReading("M", series, at, decimal.Decimal(hour), "m3", meter, at + HOUR / 4)


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet in the ledger: who it belongs to, and what must be found of its last 30 days."""

    organization: uuid.UUID
    expected: int
    missing: int


async def fill_fleet(engine: AsyncEngine, devices: int, days: int, short: int) -> Fleet:
    """Fill the ledger, set by set, with meters of one hourly and one daily series; every ``short``-th lacks 5 hours."""
    rasters = [Raster("hour", 0, ZONE), Raster("gas_day", 0, ZONE)]
    owner, config, kind, line = (uuid.uuid4() for _ in range(4))
    series = [uuid.uuid4(), uuid.uuid4()]
    async with writing(engine) as session:
        session.add(models.Organization(id=owner, name=f"fleet {owner}", **_DATED))
        await session.flush()
        gateway = models.Gateway(gateway_id=f"gw-{owner.hex}", organization=owner, online=True, **_DATED)
        session.add(gateway)
        session.add(models.MeterDeviceConfig(id=config, organization=owner, name="c", timezone=ZONE, **_DATED))
        for key, name in zip(series, ("7:310/3", "7:310/7"), strict=True):
            session.add(
                models.ReadingSeries(
                    id=key, organization=owner, name=name, unit="m3", si_multiplier=decimal.Decimal(1), **_DATED
                )
            )
        await session.flush()
        session.add(
            models.MeterDeviceType(
                id=kind, organization=owner, name="t", manufacturer="E", manufacturer_model="E", config=config, **_DATED
            )
        )
        session.add(
            models.NetworkInterface(
                id=line, organization=owner, gateway=gateway.id, serial_port="/dev/ttyS0", name="line", **_DATED
            )
        )
        await session.flush()
        await session.execute(
            sa.text(
                "INSERT INTO meter_devices (id, organization, name, protocol, type, network_interface, "
                "has_current_transformer, current_transformer_ratio, has_voltage_transformer, "
                "voltage_transformer_ratio, has_disconnector, created_at, updated_at) "
                "SELECT gen_random_uuid(), :owner, 'M' || n, 'lis-200', :kind, :line, false, 1, false, 1, false, "
                "CAST(:now AS timestamptz), CAST(:now AS timestamptz) FROM generate_series(1, :devices) n"
            ),
            {"owner": owner, "kind": kind, "line": line, "now": NOW, "devices": devices},
        )
        for raster, key in zip(rasters, series, strict=True):
            await _fill_series(session, owner, raster, key, NOW, days, short if raster.interval == "hour" else 0)
    first, last = zip(
        *(slots_within(raster, NOW - dt.timedelta(days=30), NOW + HOUR, NOW) for raster in rasters), strict=True
    )
    return Fleet(owner, devices * (sum(last) - sum(first) + len(rasters)), 5 * (devices // short))


async def _fill_series(
    session: AsyncSession,
    owner: uuid.UUID,
    raster: Raster,
    series: uuid.UUID,
    until: dt.datetime,
    days: int,
    short: int,
) -> None:
    size = size_of(raster.interval)
    row = models.LedgerRaster(
        organization=owner,
        interval=raster.interval,
        anchor_seconds=raster.anchor_seconds,
        zone=raster.zone,
        momentary=False,
    )
    session.add(row)
    await session.flush()
    since = raster.first_slot_at_or_after(until - dt.timedelta(days=days))
    last = raster.slot_at_or_before(until)
    await session.execute(
        sa.text(
            "INSERT INTO expectations (device, series, raster, origin, archive, since_slot, until_slot, rebuilding) "
            "SELECT id, :series, :raster, 'config', 3, :since, NULL, false FROM meter_devices "
            "WHERE organization = :owner"
        ),
        {"series": series, "raster": row.id, "since": since, "owner": owner},
    )
    whole, holed = Bits(size), Bits(size)
    whole.add(range(since, last + 1))
    holed.add(range(since, last + 1))
    holed.drop(range(last - 105, last - 100))
    for chunk in sorted(whole.chunks):
        await session.execute(
            sa.text(
                "INSERT INTO ledger_chunks (expectation, chunk, raster, bits) SELECT id, :chunk, raster, "
                "CASE WHEN CAST(:short AS integer) > 0 AND row_number() OVER (ORDER BY id) % greatest(:short, 1) = 0 "
                "THEN CAST(:holed AS bytea) ELSE CAST(:whole AS bytea) END FROM expectations WHERE raster = :raster"
            ),
            {
                "chunk": chunk,
                "short": short,
                "holed": holed.dump(chunk),
                "whole": whole.dump(chunk),
                "raster": row.id,
            },
        )
