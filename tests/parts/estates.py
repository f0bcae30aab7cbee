"""A small estate in a database (organization, gateway, line, series, config, meters), and its gateway's words."""

import dataclasses
import datetime as dt
import decimal
import uuid

from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.database import writing
from hub.ingest import Delivery
from protocol.envelopes import SigningKey
from protocol.readings import NewMeterReading, batch_of, name_properties
from protocol.topics import Channel, topic_for
from protocol.wire import encode

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)


@dataclasses.dataclass(slots=True)
class Estate:
    """What was made, by id."""

    organization: uuid.UUID
    gateway: uuid.UUID
    gateway_id: str
    line: uuid.UUID
    config: uuid.UUID
    type: uuid.UUID
    series: dict[str, uuid.UUID]
    meters: dict[str, uuid.UUID]


def _dated() -> dict[str, dt.datetime]:
    return {"created_at": NOW, "updated_at": NOW}


async def make_estate(
    engine: AsyncEngine,
    *,
    gateway_id: str = "gw-1",
    meters: tuple[str, ...] = ("M1", "M2"),
    series: tuple[str, ...] = ("2:300", "7:310/3"),
) -> Estate:
    """Make the estate; names carry the gateway's id, so that several estates live in one database."""
    async with writing(engine) as session:
        organization = models.Organization(name=f"org of {gateway_id}", **_dated())
        session.add(organization)
        await session.flush()
        owner = organization.id
        gateway = models.Gateway(gateway_id=gateway_id, organization=owner, **_dated())
        config = models.MeterDeviceConfig(organization=owner, name="config", timezone="Europe/Berlin", **_dated())
        names = [
            models.ReadingSeries(organization=owner, name=name, unit="m3", si_multiplier=decimal.Decimal(1), **_dated())
            for name in series
        ]
        session.add_all([gateway, config, *names])
        await session.flush()
        for one in names:
            await session.execute(models.config_series.insert().values(config=config.id, series=one.id))
        kind = models.MeterDeviceType(
            organization=owner,
            name="EK280",
            manufacturer="Elster",
            manufacturer_model="EK280",
            config=config.id,
            **_dated(),
        )
        line = models.NetworkInterface(
            organization=owner, gateway=gateway.id, serial_port="/dev/ttyS0", name="line", **_dated()
        )
        session.add_all([kind, line])
        await session.flush()
        devices = {name: new_meter(name, owner, kind.id, line.id) for name in meters}
        session.add_all(devices.values())
        await session.flush()
        return Estate(
            organization=owner,
            gateway=gateway.id,
            gateway_id=gateway_id,
            line=line.id,
            config=config.id,
            type=kind.id,
            series={one.name: one.id for one in names},
            meters={name: device.id for name, device in devices.items()},
        )


def new_meter(name: str, organization: uuid.UUID, kind: uuid.UUID, line: uuid.UUID | None) -> models.MeterDevice:
    """Return a meter that is not in the database yet."""
    return models.MeterDevice(
        name=name, organization=organization, type=kind, network_interface=line, protocol="lis-200", **_dated()
    )


class GatewayVoice:
    """Says what an agent would say: signed batches of rows with sequences of its own."""

    def __init__(self, gateway_id: str = "gw-1") -> None:
        self.gateway_id = gateway_id
        self.key = SigningKey.generate()
        self.store = uuid.uuid4().bytes
        self.next = {Channel.READINGS: 1, Channel.REPORT: 1}

    def rows(self, channel: Channel, rows: list[bytes]) -> Delivery:
        """Return the delivery of a new batch of encoded rows."""
        batch = batch_of(self.store, self.next[channel], rows)
        self.next[channel] += len(rows)
        topic = topic_for(self.gateway_id, channel)
        return Delivery(topic, self.key.seal(topic, encode(batch)), tuple(name_properties(batch.name)), NOW)

    def readings(self, *readings: NewMeterReading) -> Delivery:
        """Return the delivery of a new batch of readings."""
        return self.rows(Channel.READINGS, [encode(reading) for reading in readings])


def reading(
    device: uuid.UUID | None,
    value: str,
    *,
    meter: str = "M1",
    series: str = "2:300",
    at: int = 0,
    collected: int = 0,
) -> NewMeterReading:
    """Return a reading; ``at`` and ``collected`` are minutes from the estate's yesterday."""
    start = NOW - dt.timedelta(days=1)
    return NewMeterReading(
        meter=meter,
        series=series,
        timestamp=start + dt.timedelta(minutes=at),
        value=decimal.Decimal(value),
        unit="m3",
        device=device,
        collected=start + dt.timedelta(minutes=collected),
    )
