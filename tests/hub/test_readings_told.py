"""What PostgreSQL tells of readings is what is made of them here, byte by byte."""

import datetime as dt
import decimal
import random
import uuid
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models, versions
from hub.database import reading, writing
from hub.direct_reads import fetch
from hub.readings_shown import COLUMNS, NAMES, MeterReadings, shown
from hub.readings_told import told_of
from hub.staged_readings import RESOURCE as STAGED_RESOURCE
from hub.staged_readings import StagedMeterReading
from hub.validation import FLAGS, names_of
from tests.parts.databases import ONLY_POSTGRESQL, engine, url_of_walks
from tests.parts.rest import Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

ROWS = 1500
_TEXTS = [
    '"',
    "\\",
    "/",
    "\b",
    "\f",
    "\n",
    "\r",
    "\t",
    "\x01",
    "\x1f",
    "\x7f",
    "\u2028",
    "m³",
    "°C",
    "é",
    "\U0001f600",
    "m3",
    " ",
    "'",
]


def _texts(chance: random.Random) -> str:
    usual = chance.choice(("m3", "kWh", "bar", "meter", "push", "odd"))
    return usual if chance.random() < 0.3 else "".join(chance.choices(_TEXTS, k=chance.randrange(1, 5)))


def _instants(chance: random.Random) -> dt.datetime:
    at = dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=chance.randrange(60 * 366 * 86400))
    return at + dt.timedelta(
        microseconds=chance.choice((0, 0, 1, 10, 500_000, 123_000, 999_999, chance.randrange(10**6)))
    )


def _decimals(chance: random.Random) -> decimal.Decimal:
    digits = chance.randrange(1, 10 ** chance.randrange(1, 38))
    return decimal.Decimal(digits).scaleb(chance.randrange(-18, 19)) * chance.choice((1, -1))


def _floats(chance: random.Random) -> float | None:
    usual = chance.choice((None, 0.0, -0.0, 1.0, -3.0, 0.1, 86400.0, chance.uniform(-1e4, 1e4), 1e14, -1e-4))
    return (
        usual
        if chance.random() < 0.7
        else chance.choice((1, -1)) * chance.uniform(0.1, 1) * 10.0 ** chance.randrange(-3, 14)
    )


def _reading(chance: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {
        name: uuid.UUID(int=chance.getrandbits(128)) for name in ("organization", "meter_device", "series")
    }
    made |= {name: _instants(chance) for name in ("timestamp", "created_at", "collected")}
    made |= {"value": _decimals(chance), "unit": _texts(chance), "provenance": _texts(chance)}
    flags = chance.choice((0, chance.randrange(2 ** len(FLAGS))))
    return made | {"id": chance.randrange(2**63), "clock_offset": _floats(chance), "version_count": 1, "flags": flags}


@ONLY_POSTGRESQL
async def test_a_reading_is_told_as_it_is_shown(engine: AsyncEngine) -> None:
    chance = random.Random(20261123)  # noqa: S311 - no secret
    rows = [_reading(chance) for _ in range(ROWS)]
    kinds = models.Reading.__table__.c
    dialect = engine.dialect
    arrays = ", ".join(f"${place}::{kinds[name].type.compile(dialect)}[]" for place, name in enumerate(NAMES, 1))
    statement = f"SELECT {told_of('r')} FROM unnest({arrays}) AS r({', '.join(NAMES)})"  # noqa: S608 - our own names
    told = [row[0] for row in await fetch(engine, statement, *([row[name] for row in rows] for name in NAMES))]
    for text, row in zip(told, rows, strict=True):
        made = MeterReadings(**{**row, "flags": names_of(row["flags"])})
        expected = msgspec.json.encode(
            {**msgspec.structs.asdict(made), "value": format(row["value"], "f")} | {"versions": 0}
        )
        assert text.encode() == expected.replace(b',"versions":0', b"")


@ONLY_POSTGRESQL
async def test_lists_tell_units_of_series_flags_and_versions(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    now = rest.clock.now()
    meter, series = uuid.UUID(fleet.meter), uuid.UUID(fleet.series)

    def arrival(hours: int, value: str, unit: str, later: int = 0) -> versions.Arrival:
        at, collected = now - hours * dt.timedelta(hours=1), now + dt.timedelta(microseconds=later)
        return versions.Arrival(
            uuid.UUID(fleet.organization), meter, series, at, decimal.Decimal(value), collected, unit=unit
        )

    async with writing(engine) as session:
        batch = models.Batch(
            gateway=uuid.UUID(fleet.gateway), channel="readings", store=b"", first=1, last=1, digest=b"",
            received_at=now, stored_at=now, rows=1,
        )  # fmt: skip
        session.add(batch)
        await session.flush()
        await versions.store(
            session, [arrival(hours, "12.50", unit) for hours, unit in enumerate(("", "m3", 'a "b"'))], now
        )
        for later, value in enumerate(("13", "1E-7"), 1):
            await versions.store(session, [arrival(1, value, "m3", later)], now)
        await session.execute(
            sa.update(models.ReadingVersion)
            .where(models.ReadingVersion.value == decimal.Decimal(13))
            .values(batch=batch.id)
        )
        await session.execute(
            sa.update(models.Reading).where(models.Reading.unit == "").values(flags=1 | 8, clock_offset=2)
        )
    async with reading(engine) as session:
        chosen = sa.select(*COLUMNS).order_by(models.Reading.timestamp)
        expected = msgspec.json.decode(msgspec.json.encode(await shown(session, (await session.execute(chosen)).all())))
    found = (await rest.get("/v1/metering/meter-readings"))["results"]
    assert found == expected
    assert [len(one.get("versions", [])) for one in found] == [0, 3, 0]
    assert found[1]["versions"][1]["gateway"] == fleet.gateway
    assert (found[2]["unit"], found[2]["flags"], found[2]["clock_offset"]) == ("m3", ["negative", "spike"], 2.0)
    walked, address = [], f"/v1/metering/meter-readings?meter_device={fleet.meter}&limit=1&cursor="
    while address:
        page = await rest.get(address)
        walked += page["results"]
        address = (page["next"] or "").removeprefix("http://hub")
    assert walked == expected
    downwards = await rest.get("/v1/metering/meter-readings?ordering=-timestamp&limit=2")
    assert (downwards["count"], downwards["results"]) == (3, expected[:0:-1])
    assert (await rest.get("/v1/metering/meter-readings?flag=spike"))["results"] == expected[2:]


@ONLY_POSTGRESQL
async def test_a_staged_reading_is_told_as_it_is_shown(rest: Rest, engine: AsyncEngine) -> None:
    chance = random.Random(7)  # noqa: S311 - no secret
    fleet, now = await create_fleet(rest), rest.clock.now()
    async with writing(engine) as session:
        session.add_all(
            models.StagedReading(
                identity=bytes([number]), organization=chance.choice((None, uuid.UUID(fleet.organization))),
                meter_device_name=f"M {number}", series_name="2:300", timestamp=_instants(chance),
                value=_decimals(chance), unit=_texts(chance), device=chance.choice((None, uuid.uuid4())),
                reason=_texts(chance), gateway=chance.choice((None, uuid.UUID(fleet.gateway))),
                collected=_instants(chance),
                provenance=_texts(chance), clock_offset=_floats(chance), created_at=now,
                updated_at=_instants(chance),
            )
            for number in range(60)
        )  # fmt: skip
    async with reading(engine) as session:
        rows = (await session.scalars(sa.select(models.StagedReading).order_by(models.StagedReading.id))).all()
    names = StagedMeterReading.__struct_fields__
    expected = [{name: getattr(row, name) for name in names} | {"value": format(row.value, "f")} for row in rows]
    answer = await rest.client.get(f"{STAGED_RESOURCE.path}?ordering=created_at")
    assert answer.content.partition(b'"results":')[2] == msgspec.json.encode(expected) + b"}"
