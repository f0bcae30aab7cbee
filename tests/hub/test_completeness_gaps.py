"""Which meters have gaps: the worst first, without what is still due, on either database."""

import datetime as dt
import decimal
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.completeness_gaps import most_lacking
from hub.database import reading, writing
from hub.ledger import catch_up, settle
from hub.totals import Scope
from hub.totals_counted import count
from hub.versions import Arrival
from tests.hub.test_ledger import BEGIN, END, HOUR, SERIES, expect, put, work_off
from tests.parts.databases import ON_SQLITE, database_url, engine
from tests.parts.estates import NOW, Estate, make_estate
from tests.parts.rest import Rest, rest

__all__ = ["database_url", "engine", "rest"]

LATER = END + 3 * HOUR
RANGE = f"start={BEGIN:%Y-%m-%dT%H:%M:%SZ}&end={END:%Y-%m-%dT%H:%M:%SZ}"
LACKS = {"M1": {10, 11}, "M2": set[int](), "M3": set(range(3, 12)), "M4": {5}}
"""The hours that meters lack."""


@pytest.fixture
async def estate(engine: AsyncEngine, rest: Rest) -> Estate:
    """Return an estate whose meters push each hour, and lack some hours of a day."""
    rest.clock.shown = LATER
    made = await make_estate(engine, meters=tuple(LACKS))
    async with writing(engine) as session:
        await session.execute(sa.update(models.Gateway).values(online=True, last_seen=LATER))
    await expect(engine, made, {"series": SERIES, "interval": "hour"}, commissioned=BEGIN)
    await work_off(engine, LATER)
    await put(engine, *(value(made, m, hour) for m, lacks in LACKS.items() for hour in range(24) if hour not in lacks))
    return made


def value(estate: Estate, meter: str, hour: int, series: str = SERIES) -> Arrival:
    at = BEGIN + hour * HOUR
    return Arrival(estate.organization, estate.meters[meter], estate.series[series], at, decimal.Decimal(1), NOW)


async def listed(rest: Rest, query: str = "") -> list[dict[str, Any]]:
    found = await rest.get(f"/v1/completeness/gaps?{RANGE}{query}")
    assert found["count"] == len(found["results"])
    assert found["unexplained"] == 0
    return list(found["results"])


def shown(instant: dt.datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"


@ON_SQLITE
async def test_the_worst_meter_stands_first_and_a_whole_one_nowhere(rest: Rest, estate: Estate) -> None:
    found = await listed(rest)
    assert [(one["meter"], one["missing"]) for one in found] == [("M3", 9), ("M1", 2), ("M4", 1)]
    worst = found[0]
    assert worst["meter_device"] == str(estate.meters["M3"])
    assert worst["gateway"] == str(estate.gateway)
    assert worst["missing_by_reason"] == {"not_brought": 9}
    assert (worst["start"], worst["end"]) == (shown(BEGIN + 3 * HOUR), shown(BEGIN + 11 * HOUR))
    assert worst["series"] == [
        {
            "series": str(estate.series[SERIES]), "series_name": SERIES, "slots": 9,
            "start": worst["start"], "end": worst["end"],
        }
    ]  # fmt: skip


@ON_SQLITE
async def test_pages_follow_one_another(rest: Rest, estate: Estate) -> None:
    path: str | None = f"/v1/completeness/gaps?{RANGE}&limit=2&organization={estate.organization}"
    meters = []
    while path is not None:
        page = await rest.get(path)
        assert page["count"] == 3
        meters += [one["meter"] for one in page["results"]]
        path = page["next"]
    assert meters == ["M3", "M1", "M4"]


async def test_what_is_due_is_no_gap(engine: AsyncEngine, rest: Rest, estate: Estate) -> None:
    # What is pushed may be late by an interval.
    rest.clock.shown = BEGIN + 11 * HOUR + dt.timedelta(minutes=30)
    found = await listed(rest)
    assert [(one["meter"], one["missing"]) for one in found] == [("M3", 8), ("M1", 1), ("M4", 1)]
    await put(engine, *(value(estate, "M3", hour) for hour in range(3, 11)))
    assert [one["meter"] for one in await listed(rest)] == ["M1", "M4"]


@ON_SQLITE
async def test_what_is_lost_for_good_stands_last_and_can_be_asked_for(
    engine: AsyncEngine, rest: Rest, estate: Estate
) -> None:
    async with writing(engine) as session:
        window = BEGIN + 3 * HOUR, BEGIN + 11 * HOUR
        await settle(session, estate.meters["M3"], estate.series[SERIES], *window, evidence="#0103", now=LATER)
    assert [(one["meter"], one["missing"], one["unrecoverable"]) for one in await listed(rest)] == [
        ("M1", 2, 0),
        ("M4", 1, 0),
        ("M3", 0, 9),
    ]
    assert [one["meter"] for one in await listed(rest, "&state=unrecoverable")] == ["M3"]
    assert [one["meter"] for one in await listed(rest, "&state=missing&reason=not_brought")] == ["M1", "M4"]
    assert await listed(rest, "&reason=meter_silent") == []


async def test_the_scope_is_whose_meters_are_looked_at(engine: AsyncEngine, rest: Rest, estate: Estate) -> None:
    other = await make_estate(engine, gateway_id="gw-2", meters=("X",))
    await expect(engine, other, {"series": SERIES, "interval": "hour"}, commissioned=BEGIN)
    await work_off(engine, LATER)
    group = await rest.post("/v1/metering/amr-task-groups", organization=str(estate.organization), name="some")
    await rest.patch(f"/v1/metering/meter-devices/{estate.meters['M4']}", task_groups=[group["id"]])
    for scope, meters in (
        (f"organization={estate.organization}", ["M3", "M1", "M4"]),
        (f"organization={other.organization}", ["X"]),
        (f"gateway={other.gateway}", ["X"]),
        (f"group={group['id']}", ["M4"]),
        (f"meter_device={estate.meters['M1']}", ["M1"]),
        ("limit=10", ["X", "M3", "M1", "M4"]),
    ):
        assert [one["meter"] for one in await listed(rest, f"&{scope}")] == meters, scope


async def test_what_validation_rejects_is_a_gap(engine: AsyncEngine, rest: Rest, estate: Estate) -> None:
    limits = [{"series": SERIES, "max": "0.5", "reject": True}]
    await rest.patch(f"/v1/metering/meter-device-configs/{estate.config}", limits=limits)
    async with writing(engine) as session:
        mine = models.Reading.meter_device == estate.meters["M2"], models.Reading.timestamp == BEGIN + 5 * HOUR
        await session.execute(sa.update(models.Reading).where(*mine).values(flags=1))
    (found,) = await listed(rest, "&reason=rejected")
    assert (found["meter"], found["missing_by_reason"]) == ("M2", {"rejected": 1})


async def test_only_those_that_lack_most_are_looked_into(engine: AsyncEngine, estate: Estate) -> None:
    await catch_up(engine, LATER)
    async with reading(engine) as session:
        for first, last in ((0, 24), (4, 12), (10, 11), (5, 6), (12, 24)):
            window = BEGIN + first * HOUR, BEGIN + last * HOUR
            worst = {name: len(lacks & set(range(first, last))) for name, lacks in LACKS.items()}
            totals = await count(session, Scope(), *window, LATER)
            ids, total, rasters = await most_lacking(session, Scope(), *window, LATER, 2)
            assert total == len(totals.lacking) == sum(lacks > 0 for lacks in worst.values())
            assert rasters == totals.rasters
            names = [await _meter_of(session, key, estate) for key in ids]
            assert [worst[name] for name in names] == sorted(filter(None, worst.values()), reverse=True)[:2]


async def _meter_of(session: Any, expectation: int, estate: Estate) -> str:  # noqa: ANN401 - a session
    device: uuid.UUID = await session.scalar(
        sa.select(models.Expectation.device).where(models.Expectation.id == expectation)
    )
    return next(name for name, key in estate.meters.items() if key == device)


@ON_SQLITE
@pytest.mark.parametrize(
    ("query", "field"),
    [("state=due", "state"), ("reason=bored", "reason"), ("limit=none", "limit"), ("colour=red", "colour")],
)
async def test_wrong_questions_are_answered_with_their_field(rest: Rest, query: str, field: str) -> None:
    problem = await rest.get(f"/v1/completeness/gaps?{query}", status=422)
    assert [error["field"] for error in problem["errors"]] == [field]
