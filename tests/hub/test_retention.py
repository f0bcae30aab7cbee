"""Retention: what is too old goes, of whose it is; the ledger takes it for no gap; a preview says it before."""

import datetime as dt
import uuid

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import retention_sweep
from hub.database import reading, writing
from hub.expectations import expectations_of
from hub.ledger import catch_up, differences, rebuild_all
from hub.ledger_chunks import size_of
from hub.ledger_sums import wrong_sums
from hub.models import LedgerChunk, ReadingVersion
from hub.retention_sweep import Days, sweep
from tests.parts.databases import database_url, engine
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

PATH = "/v1/retention-policies"
READINGS = "/v1/metering/meter-readings"
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slices of few rows."""
    monkeypatch.setattr(retention_sweep, "ROWS", 7)


async def expect_hours(rest: Rest, fleet: Fleet, since: dt.datetime) -> None:
    """Have a value expected each hour."""
    told = [{"series": "2:300", "interval": "hour", "archive": 3}]
    await rest.patch(f"/v1/metering/meter-device-configs/{fleet.config}", expectations=told)
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", commissioned=since.isoformat())


async def push(rest: Rest, fleet: Fleet, start: dt.datetime, end: dt.datetime, step: dt.timedelta = HOUR) -> int:
    """Store a reading for each step from start to before end."""
    times = [start + number * step for number in range((end - start) // step)]
    rows = [
        {"meter": "Heating plant", "series": "2:300", "timestamp": one.isoformat(), "value": "1"}
        | {"organization": fleet.organization}
        for one in times
    ]
    await rest.call("POST", "/v1/metering/new-meter-readings", rows, 201)
    return len(rows)


async def count_of(rest: Rest, path: str, query: str = "") -> int:
    """How many there are."""
    return int((await rest.get(f"{path}?limit=1{query}"))["count"])


async def missing(rest: Rest, engine: AsyncEngine, fleet: Fleet) -> tuple[int, int]:
    """How many slots are expected in the last 60 days, and how many of these are missing, by the ledger."""
    now = rest.clock.now()
    await catch_up(engine, now)
    await rebuild_all(engine)
    async with writing(engine) as session:
        (one,) = await expectations_of(session, [uuid.UUID(fleet.meter)])
        assert await differences(session, one) is None
        assert await wrong_sums(session, one.raster_id, size_of(one.raster.interval)) == []
    first, last = one.window(now - 60 * DAY, now, now)
    async with reading(engine) as session:
        chunks = (await session.scalars(select(LedgerChunk.bits))).all()
    return last - first + 1, last - first + 1 - sum(int.from_bytes(bits, "little").bit_count() for bits in chunks)


async def test_old_readings_go_and_are_no_gaps(rest: Rest, engine: AsyncEngine) -> None:
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    now = rest.clock.now()
    begin = now - 20 * DAY
    await expect_hours(rest, fleet, begin)
    stored = await push(rest, fleet, begin, now - 2 * HOUR)
    await push(rest, other, begin, begin + 5 * HOUR)
    # One of the old ones has two values.
    rest.clock.advance(seconds=1)
    await rest.post(
        READINGS,
        organization=fleet.organization,
        meter_device=fleet.meter,
        series=fleet.series,
        timestamp=(begin + HOUR).isoformat(),
        value="2",
    )
    assert (await missing(rest, engine, fleet))[1] == 480 - stored + 1
    policy = await rest.post(PATH, organization=fleet.organization, readings_days=10)
    boundary = (now - 10 * DAY).replace(hour=0)
    (told,) = await rest.get(f"{PATH}/preview?organization={fleet.organization}")
    older = int((boundary - begin) / HOUR)
    assert told["readings"] == {
        "days": 10,
        "before": "2026-02-20T00:00:00Z",
        "count": older,
        "oldest": "2026-02-10T12:00:00Z",
    }
    assert (await sweep(engine, rest.clock.now()))["readings"] == older
    query = f"&meter_device={fleet.meter}"
    assert await count_of(rest, READINGS, query) == stored - older
    assert await count_of(rest, READINGS, f"{query}&end_time=2026-02-19T23:59:59Z") == 0
    assert await count_of(rest, READINGS, f"&meter_device={other.meter}") == 5
    async with reading(engine) as session:
        assert await session.scalar(select(func.count()).select_from(ReadingVersion)) == 0
    expected, lacking = await missing(rest, engine, fleet)
    assert lacking == 480 - stored + 1
    assert expected == stored - older + lacking
    # An edit makes expectations again, and they begin where readings do.
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", commissioned=(begin - DAY).isoformat())
    assert await missing(rest, engine, fleet) == (expected, lacking)
    # What goes stays gone, and is not expected when the policy ends.
    assert (await sweep(engine, rest.clock.now()))["readings"] == 0
    await rest.call("DELETE", f"{PATH}/{policy['id']}", status=204)
    assert (await sweep(engine, rest.clock.now()))["readings"] == 0
    assert await missing(rest, engine, fleet) == (expected, lacking)


async def test_the_boundary_moves_by_the_day_and_takes_late_ones_along(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    now = rest.clock.now()
    await expect_hours(rest, fleet, now - 5 * DAY)
    await push(rest, fleet, now - 5 * DAY, now)
    await rest.post(PATH, readings_days=3)
    assert (await sweep(engine, now))["readings"] == 36
    await push(rest, fleet, now - 5 * DAY, now - 5 * DAY + 2 * HOUR)
    assert (await sweep(engine, now))["readings"] == 0
    assert (await missing(rest, engine, fleet))[1] == 0
    rest.clock.advance(days=1)
    assert (await sweep(engine, rest.clock.now()))["readings"] == 26
    assert await count_of(rest, READINGS) == 60
    await missing(rest, engine, fleet)


async def test_events_and_staged_readings_go_by_their_own_days(rest: Rest, engine: AsyncEngine) -> None:
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    for one in (fleet, other):
        for days in (1, 40):
            await rest.post(
                "/v1/metering/meter-system-events",
                organization=one.organization,
                meter_device=one.meter,
                timestamp=(rest.clock.now() - days * DAY).isoformat(),
                title="door",
                content="open",
            )
    staged = "/v1/metering/staged-meter-readings"
    body = {"meter_device_name": "late", "series_name": "2:300", "timestamp": "2020-01-01T00:00:00Z", "value": "1"}
    await rest.post(staged, **body)
    await rest.post(staged, **body, organization=fleet.organization)
    rest.clock.advance(days=8)
    await rest.post(staged, **body | {"value": "2"})
    await rest.post(PATH, events_days=30, staged_days=7)
    await rest.post(PATH, organization=other.organization)
    going = {one["organization"]: one for one in await rest.get(f"{PATH}/preview")}
    assert going[None]["staged"]["count"] == 1
    assert going[fleet.organization]["staged"]["count"] == 1
    assert going[fleet.organization]["events"]["count"] == 1
    assert going[other.organization]["events"] == {"days": None, "before": None, "count": 0, "oldest": None}
    assert await sweep(engine, rest.clock.now()) == {"readings": 0, "events": 1, "staged": 2, "audit": 0}
    assert await count_of(rest, staged) == 1
    events = "/v1/metering/meter-system-events"
    assert await count_of(rest, events, f"&meter_device={fleet.meter}") == 1
    assert await count_of(rest, events, f"&meter_device={other.meter}") == 2


async def test_a_preview_by_other_days_deletes_nothing(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    now = rest.clock.now()
    count = await push(rest, fleet, now - 3 * DAY, now)
    (nobody, told) = await rest.get(f"{PATH}/preview?readings_days=1")
    assert (nobody["organization"], nobody["readings"]["count"]) == (None, 0)
    assert (told["name"], told["readings"]["count"], told["events"]["days"]) == ("utility", 36, None)
    assert await sweep(engine, now) == {"readings": 0, "events": 0, "staged": 0, "audit": 0}
    assert await count_of(rest, READINGS) == count
    for query in ("readings_days=0", "readings_days=x", "organization=x", "colour=red"):
        problem = await rest.get(f"{PATH}/preview?{query}", 422)
        assert problem["errors"][0]["field"] == query.partition("=")[0]
    unknown = await rest.get(f"{PATH}/preview?organization=00000000-0000-4000-8000-000000000000", 422)
    assert unknown["errors"][0]["field"] == "organization"


async def test_there_is_one_policy_of_each(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    first = await rest.post(PATH, readings_days=400)
    await rest.call("POST", PATH, {"readings_days": 300}, 409)
    await rest.post(PATH, organization=fleet.organization)
    await rest.call("POST", PATH, {"organization": fleet.organization}, 409)
    for days in (0, -1, 36_501, "7"):
        assert await rest.wrong_fields("PATCH", f"{PATH}/{first['id']}", {"events_days": days}) == {"events_days"}
    moved = {"organization": fleet.organization}
    assert await rest.wrong_fields("PATCH", f"{PATH}/{first['id']}", moved) == {"organization"}
    assert (await rest.patch(f"{PATH}/{first['id']}", events_days=7))["events_days"] == 7


def test_a_boundary_is_the_beginning_of_a_day() -> None:
    now = dt.datetime(2026, 3, 2, 12, 34, 56, tzinfo=dt.UTC)
    assert Days(readings_days=2).boundary("readings", now) == dt.datetime(2026, 2, 28, tzinfo=dt.UTC)
    assert Days(readings_days=2).boundary("events", now) is None
