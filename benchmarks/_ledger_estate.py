"""Estates for the ledger's bench: meters with gateways that bring batches, and a large fleet filled set by set."""

import dataclasses
import datetime as dt
import decimal
import uuid
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from benchmarks._hub_rows import add_kind
from hub import models
from hub.columns import UtcDateTime
from hub.database import writing
from hub.expectations import mark, slots_within
from hub.ingest import Delivery
from hub.ledger_chunks import Bits, filling, size_of
from hub.ledger_sums import Sums, sum_anew
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
        session.add(gateway)
        await session.flush()
        kind = await add_kind(session, config, names)
        line = models.NetworkInterface(
            organization=owner.id, gateway=gateway.id, serial_port="/dev/ttyS0", name="line", **_DATED
        )
        session.add(line)
        await session.flush()
        devices = [
            models.MeterDevice(
                name=f"M{number}", organization=owner.id, type=kind, network_interface=line.id, protocol="lis-200",
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


async def fill_fleet(engine: AsyncEngine, devices: int, days: int, short: int, *, behind: bool = False) -> Fleet:
    """Fill the ledger, set by set, with meters of one hourly and one daily series; every ``short``-th lacks 5 hours.

    With ``behind`` as many others have been silent for ten days, and as many lack the last three hours.
    """
    rasters = [Raster("hour", 0, ZONE), Raster("gas_day", 0, ZONE)]
    async with writing(engine) as session:
        owner = models.Organization(name=f"fleet {uuid.uuid4()}", **_DATED)
        session.add(owner)
        await session.flush()
        gateway = models.Gateway(gateway_id=f"gw-{owner.id.hex}", organization=owner.id, online=True, **_DATED)
        series = [
            models.ReadingSeries(
                organization=owner.id, name=name, unit="m3", si_multiplier=decimal.Decimal(1), **_DATED
            )
            for name in ("7:310/3", "7:310/7")
        ]
        config = models.MeterDeviceConfig(organization=owner.id, name="c", timezone=ZONE, **_DATED)
        session.add(gateway)
        await session.flush()
        kind = await add_kind(session, config, series)
        line = models.NetworkInterface(
            organization=owner.id, gateway=gateway.id, serial_port="/dev/ttyS0", name="line", **_DATED
        )
        session.add(line)
        await session.flush()
        identity = "gen_random_uuid()" if engine.dialect.name == "postgresql" else "lower(hex(randomblob(16)))"
        await session.execute(
            _text(
                "INSERT INTO meter_devices (id, organization, name, protocol, type, network_interface, "  # noqa: S608 - our own text
                "has_current_transformer, current_transformer_ratio, has_voltage_transformer, "
                "voltage_transformer_ratio, has_disconnector, created_at, updated_at) "
                "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :devices) "
                f"SELECT {identity}, :owner, 'M' || n, 'lis-200', :kind, :line, false, 1, false, 1, false, :now, :now "
                "FROM n",
                owner=sa.Uuid(), kind=sa.Uuid(), line=sa.Uuid(), now=UtcDateTime(), devices=sa.Integer(),
            ),
            {"owner": owner.id, "kind": kind, "line": line.id, "now": NOW, "devices": devices},
        )  # fmt: skip
        missing = 0
        for raster, one in zip(rasters, series, strict=True):
            missing += await _fill_series(session, owner.id, raster, one.id, days, short, behind=behind)
    first, last = zip(
        *(slots_within(raster, NOW - dt.timedelta(days=30), NOW + HOUR, NOW) for raster in rasters), strict=True
    )
    return Fleet(owner.id, devices * (sum(last) - sum(first) + len(rasters)), missing * (devices // short))


def _text(statement: str, **types: sa.types.TypeEngine[Any]) -> sa.TextClause:
    """Return a statement whose parameters have these types: each database has its own form of them."""
    return sa.text(statement).bindparams(*(sa.bindparam(name, type_=type_) for name, type_ in types.items()))


async def _fill_series(
    session: AsyncSession,
    owner: uuid.UUID,
    raster: Raster,
    series: uuid.UUID,
    days: int,
    short: int,
    *,
    behind: bool,
) -> int:
    """Fill one series of all meters of this owner; return how many slots of each ``short`` meters are missing."""
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
    since, last = raster.first_slot_at_or_after(NOW - dt.timedelta(days=days)), raster.slot_at_or_before(NOW)
    await session.execute(
        _text(
            "INSERT INTO expectations (device, series, raster, origin, archive, since_slot, until_slot, rebuilding) "
            "SELECT id, :series, :raster, 'config', 3, :since, NULL, false FROM meter_devices "
            "WHERE organization = :owner",
            series=sa.Uuid(), raster=sa.Integer(), since=sa.BigInteger(), owner=sa.Uuid(),
        ),
        {"series": series, "raster": row.id, "since": since, "owner": owner},
    )  # fmt: skip
    hourly = raster.interval == "hour"
    lacking = [range(last - 105, last - 100) if hourly else range(0)]
    if behind:
        silent = raster.slot_at_or_before(NOW - dt.timedelta(days=10))
        lacking += [range(silent + 1, last + 1), range(last - 2, last + 1) if hourly else range(0)]
    kinds = [Bits(size) for _ in range(1 + len(lacking))]
    for bits, slots in zip(kinds, [range(0), *lacking], strict=True):
        bits.add(range(since, last + 1))
        bits.drop(slots)
    others = "".join(f"WHEN {number} THEN {{0}}{number + 1} " for number in range(len(lacking)))
    which = f"CASE row_number() OVER (ORDER BY id) % {short} {others}ELSE {{0}}0 END"
    statement = (
        "INSERT INTO ledger_chunks (expectation, chunk, raster, state, bits) "  # noqa: S608 - our own text
        f"SELECT id, :chunk, raster, {which.format(':state')}, {which.format(':bits')} "
        "FROM expectations WHERE raster = :raster"
    )
    numbers = range(len(kinds))
    types: dict[str, sa.types.TypeEngine[Any]] = {"chunk": sa.Integer(), "raster": sa.Integer()}
    types |= {f"bits{number}": sa.LargeBinary() for number in numbers}
    types |= {f"state{number}": sa.SmallInteger() for number in numbers}
    sums = Sums()
    for chunk in sorted(kinds[0].chunks):
        values: dict[str, Any] = {f"bits{number}": kinds[number].dump(chunk) for number in numbers}
        for number, bits in enumerate(kinds):
            values[f"state{number}"] = int(filling(bits.chunks[chunk], size, chunk, since, None))
        await session.execute(_text(statement, **types), values | {"chunk": chunk, "raster": row.id})
    await sum_anew(session, row.id, size)
    await sums.read_rasters(session, {row.id: size})
    for place in sums.found:
        sums.filled(place, 0)
    await sums.save(session)
    return sum(map(len, lacking))
