"""Flags on both databases: every one reaches REST, in whatever order readings come, and goes when its cause is gone."""

import asyncio
import datetime as dt
import decimal
import random
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models, unjudged, versions
from hub.database import reading as looking
from hub.database import writing
from hub.flagging import LONG_ROWS, judge_some, rejected_slots
from hub.validation import FLAGS, Limit, Point, judge, names_of
from tests.parts.databases import ON_SQLITE, database_url, engine
from tests.parts.estates import NOW, Estate, make_estate
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

READINGS = "/v1/metering/meter-readings"
CONFIGS = "/v1/metering/meter-device-configs"
START = NOW - dt.timedelta(days=60)


async def judged(engine: AsyncEngine) -> None:
    """Judge until nothing is left to be judged."""
    while await judge_some(engine):
        pass
    async with looking(engine) as session:
        assert (await session.execute(sa.select(models.UnjudgedReadings.id))).all() == []


async def limited(engine: AsyncEngine, estate: Estate, **rules: Any) -> Limit:  # noqa: ANN401 - what a limit takes
    """Give the estate's config a limit for its first series."""
    async with writing(engine) as session:
        limits = [{"series": "2:300", **rules}]
        await session.execute(sa.update(models.MeterDeviceConfig).values(limits=limits))
        await unjudged.note_devices(session, list(estate.meters.values()))
    return Limit(series="2:300", **rules)


def arrival(
    estate: Estate, at: dt.datetime, value: object, *, meter: str = "M1", collected: int = 0
) -> versions.Arrival:
    return versions.Arrival(
        organization=estate.organization,
        device=estate.meters[meter],
        series=estate.series["2:300"],
        timestamp=at,
        value=decimal.Decimal(str(value)),
        collected=NOW + dt.timedelta(minutes=collected),
    )


async def store(engine: AsyncEngine, *arrivals: versions.Arrival) -> None:
    async with writing(engine) as session:
        await versions.store(session, arrivals, NOW)


async def flags_of(engine: AsyncEngine, device: uuid.UUID) -> dict[dt.datetime, int]:
    async with looking(engine) as session:
        found = await session.execute(
            sa.select(models.Reading.timestamp, models.Reading.flags)
            .where(models.Reading.meter_device == device)
            .order_by(models.Reading.timestamp)
        )
        return {row.timestamp: row.flags for row in found}


def hours(count: float) -> dt.datetime:
    return START + dt.timedelta(hours=count)


# What an operator sees


async def stored_and_judged(rest: Rest, fleet: Fleet, *values: str) -> list[list[str]]:
    """Give the fleet's meter hourly values; return their flags."""
    for hour, value in enumerate(values):
        await rest.call(
            "POST",
            READINGS,
            {
                "organization": fleet.organization,
                "meter_device": fleet.meter,
                "series": fleet.series,
                "timestamp": f"2026-03-01T{hour:02}:00:00Z",
                "value": value,
            },
            201,
        )
    await judged(rest.hub.engine)
    return [row["flags"] for row in (await rest.get(READINGS))["results"]]


STEADY = [str(n) for n in range(13)]
EVERY_FLAG: list[tuple[dict[str, object], list[str], str]] = [
    ({"min": "1"}, ["1", "0"], "outside_limits"),
    ({"max": "10.5"}, ["10.5", "10.6"], "outside_limits"),
    ({"max_per_hour": "4"}, ["0", "4", "9"], "outside_limits"),
    ({"not_negative": True}, ["0", "-1"], "negative"),
    ({"monotonic": True}, ["5", "4"], "not_monotonic"),
    ({"stuck_hours": 2}, ["5", "5", "5"], "stuck"),
    ({"spike_factor": 10}, [*STEADY, "30"], "spike"),
]


@pytest.mark.parametrize(("rule", "values", "flag"), EVERY_FLAG, ids=[str(rule) for rule, _, _ in EVERY_FLAG])
async def test_every_flag_is_seen_and_found(rest: Rest, rule: dict[str, object], values: list[str], flag: str) -> None:
    fleet = await create_fleet(rest)
    config = f"{CONFIGS}/{fleet.config}"
    answer = await rest.patch(config, limits=[{"series": "2:300", **rule}])
    assert answer["limits"][0]["series"] == "2:300"
    assert await stored_and_judged(rest, fleet, *values) == [*([] for _ in values[1:]), [flag]]
    for asked in (flag, "any"):
        found = await rest.get(f"{READINGS}?flag={asked}&meter_device={fleet.meter}")
        assert [row["value"] for row in found["results"]] == values[-1:]
    others = set(FLAGS) - {flag}
    assert [(await rest.get(f"{READINGS}?flag={other}"))["count"] for other in sorted(others)] == [0] * len(others)
    # The limit goes, and the flag with it; the reading was there all the time.
    await rest.patch(config, limits=[])
    await judged(rest.hub.engine)
    assert (await rest.get(f"{READINGS}?flag=any"))["count"] == 0
    assert (await rest.get(READINGS))["count"] == len(values)


@ON_SQLITE
async def test_limits_that_cannot_be_are_refused_by_name(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    config = f"{CONFIGS}/{fleet.config}"
    for limits, fields in (
        ([{"series": "x"}], {"limits.0.series"}),
        ([{"series": "2:300"}, {"series": "2:300"}], {"limits.1.series"}),
        ([{"series": "2:300", "min": "2", "max": "1"}], {"limits.0.max"}),
        ([{"series": "2:300", "max_per_hour": "-1"}], {"limits.0.max_per_hour"}),
        ([{"series": "2:300", "min": "NaN"}], {"limits.0.min"}),
        ([{"series": "2:300", "stuck_hours": 0}], {"limits[0].stuck_hours"}),
        ([{"series": "2:300", "spike_factor": 1}], {"limits[0].spike_factor"}),
        ([{"series": "2:300", "mim": 1}], {"limits[0]"}),
    ):
        assert await rest.wrong_fields("PATCH", config, {"limits": limits}) == fields, limits
    await rest.get(f"{READINGS}?flag=odd", 422)


async def test_a_deleted_reading_is_no_longer_compared_with(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    await rest.patch(f"{CONFIGS}/{fleet.config}", limits=[{"series": "2:300", "monotonic": True}])
    assert await stored_and_judged(rest, fleet, "1", "99", "3") == [[], [], ["not_monotonic"]]
    wrong = (await rest.get(f"{READINGS}?ordering=-timestamp"))["results"][1]
    await rest.call("DELETE", f"{READINGS}/{wrong['id']}", status=204)
    await judged(rest.hub.engine)
    assert (await rest.get(f"{READINGS}?flag=any"))["count"] == 0


async def test_another_config_judges_anew(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    strict = await rest.post(
        CONFIGS,
        organization=fleet.organization,
        name="strict",
        series=[fleet.series],
        limits=[{"series": "2:300", "max": 2}],
    )
    assert await stored_and_judged(rest, fleet, "1", "3") == [[], []]
    await rest.patch(f"/v1/metering/meter-device-types/{fleet.type}", config=strict["id"])
    await judged(rest.hub.engine)
    assert [row["value"] for row in (await rest.get(f"{READINGS}?flag=outside_limits"))["results"]] == ["3"]
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", type=None)
    await judged(rest.hub.engine)
    assert (await rest.get(f"{READINGS}?flag=any"))["count"] == 0


# Whatever the order


async def test_flags_hang_on_no_order_of_arrival(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    rule = await limited(engine, estate, monotonic=True, max_per_hour=7, stuck_hours=9, spike_factor=3.0, min=3)
    for seed in range(2):
        chance = random.Random(seed)  # noqa: S311 - no secret
        value, at, truth = 0, START, []
        for _ in range(150):
            value += chance.choice([0, 0, 0, 1, 2, 3, 9, -1])
            at += dt.timedelta(minutes=chance.choice([15, 60, 60, 300, 3000]))
            truth.append((at, value))
        device = estate.meters["M1"]
        async with writing(engine) as session:
            await session.execute(sa.delete(models.ReadingVersion))
            await session.execute(sa.delete(models.Reading))
        # Some come with a wrong value first, and are revised; many come late; judges work in between, two at a time.
        words = [arrival(estate, at, value, collected=1) for at, value in truth]
        words += [arrival(estate, at, value + 50) for at, value in chance.sample(truth, 20)]
        chance.shuffle(words)
        while words:
            some = [words.pop() for _ in range(min(len(words), chance.randrange(1, 40)))]
            await asyncio.gather(store(engine, *some), judge_some(engine), judge_some(engine))
        await judged(engine)
        expected = judge([Point(at, decimal.Decimal(value)) for at, value in truth], rule, [])
        assert await flags_of(engine, device) == dict(zip([at for at, _ in truth], expected, strict=True))
        assert len({name for flags in expected for name in names_of(flags)}) >= 4, "a test of something"


async def test_a_long_history_is_judged_in_parts_and_ingestion_goes_on(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    count = 2 * LONG_ROWS + 10
    for first in range(0, count, 1000):
        some = [
            arrival(estate, hours(n / 60) - dt.timedelta(days=200), n % 100)
            for n in range(first, min(count, first + 1000))
        ]
        await store(engine, *some)
    await judged(engine)
    await limited(engine, estate, monotonic=True)
    turns = 0
    while await judge_some(engine):
        turns += 1
    assert turns >= 3
    flags = await flags_of(engine, estate.meters["M1"])
    assert sum(flag == FLAGS["not_monotonic"] for flag in flags.values()) == (count - 1) // 100


@ON_SQLITE
async def test_what_is_not_judged_costs_no_history(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await store(engine, *(arrival(estate, hours(n), -n, meter=meter) for n in range(5) for meter in estate.meters))
    assert await judge_some(engine) == 1
    assert await judge_some(engine) == 0
    assert set((await flags_of(engine, estate.meters["M1"])).values()) == {0}


# What the ledger asks


async def test_rejected_readings_are_those_whose_limit_says_so(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    key = (estate.meters["M1"], estate.series["2:300"])

    async def rejected(
        start: dt.datetime = START, end: dt.datetime = NOW, devices: list[uuid.UUID] | None = None
    ) -> object:
        async with looking(engine) as session:
            return await rejected_slots(session, start, end, devices)

    await store(engine, *(arrival(estate, hours(n), value) for n, value in enumerate([1, 5, 2, 9, 3])))
    await limited(engine, estate, monotonic=True)
    await judged(engine)
    assert await rejected() == {}
    await limited(engine, estate, monotonic=True, reject=True)
    await judged(engine)
    flag = FLAGS["not_monotonic"]
    assert await rejected() == {key: [(hours(2), flag), (hours(4), flag)]}
    assert await rejected(hours(2), hours(4)) == {key: [(hours(2), flag)]}
    assert await rejected(devices=[estate.meters["M2"]]) == {}
    assert await rejected(devices=[estate.meters["M1"]]) == {key: [(hours(2), flag), (hours(4), flag)]}
