"""What is new is told once, to whoever goes on from the last answer, in whatever order transactions end."""

import base64
import datetime as dt
import decimal
import json
import random
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import received_readings, versions
from hub.database import writing
from hub.scopes import READ
from hub.tokens import create_token
from tests.parts.databases import BOTH, engine, url_of_walks
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

RECEIVED = "/v1/metering/readings/received"
HOUR = dt.timedelta(hours=1)


def arrival(fleet: Fleet, rest: Rest, number: int, value: int = 1, *, later: int = 0) -> versions.Arrival:
    at = rest.clock.now() - 100 * HOUR + number * HOUR
    return versions.Arrival(
        organization=uuid.UUID(fleet.organization),
        device=uuid.UUID(fleet.meter),
        series=uuid.UUID(fleet.series),
        timestamp=at,
        value=decimal.Decimal(value),
        collected=at + later * HOUR,
    )


async def store(rest: Rest, *arrivals: versions.Arrival) -> None:
    async with writing(rest.hub.engine) as session:
        await versions.store(session, arrivals, rest.clock.now())


class Reader:
    """One who goes on from the last answer until there is no more."""

    def __init__(self, rest: Rest, query: str = "", token: str = "") -> None:
        self.rest, self.address, self.answers = rest, f"{RECEIVED}?limit=3{query}", 0
        self.headers = {"Authorization": f"Token {token}"} if token else {}

    async def read(self) -> list[dict[str, Any]]:
        """Return what has come since the last time."""
        found: list[dict[str, Any]] = []
        while True:
            answer = await self.rest.client.get(self.address, headers=self.headers)
            assert answer.status_code == 200, answer.text
            self.answers += 1
            found += answer.json()["results"]
            self.address = answer.json()["next"]
            if not answer.json()["more"]:
                return found

    async def numbers(self) -> list[tuple[int, str]]:
        """Return hour and value of what has come."""
        start = self.rest.clock.now() - 100 * HOUR
        rows = await self.read()
        return [((dt.datetime.fromisoformat(one["timestamp"]) - start) // HOUR, one["value"]) for one in rows]


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
async def test_each_reading_is_told_once_and_again_when_its_value_changes(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    await store(rest, *(arrival(fleet, rest, number) for number in (5, 3, 4, 1)))
    reader, late = Reader(rest), Reader(rest, f"&received_since={(rest.clock.now() + HOUR).isoformat()}")
    assert sorted(await reader.numbers()) == [(1, "1"), (3, "1"), (4, "1"), (5, "1")]
    assert await reader.numbers() == [] == await late.numbers()
    # An archive is read again: what is there already is nothing new.
    await store(rest, *(arrival(fleet, rest, number) for number in (3, 4, 2)))
    assert await reader.numbers() == [(2, "1")] == await late.numbers()
    await store(rest, arrival(fleet, rest, 3, 7, later=1), arrival(fleet, rest, 6))
    for one in (reader, late):
        assert await one.numbers() == [(6, "1"), (3, "7")]
    # The old value, collected once more, is the current one again.
    await store(rest, arrival(fleet, rest, 3, 1, later=2))
    (again,) = await reader.read()
    assert (again["value"], again["version_count"], len(again["versions"])) == ("1", 2, 2)
    assert await late.numbers() == [(3, "1")]
    assert await reader.numbers() == []
    listed = (await rest.get("/v1/metering/meter-readings"))["results"]
    assert again in listed


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
async def test_filters_walk_past_what_is_not_wanted_in_bounded_answers(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received_readings, "WINDOW", 4)
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    reader = Reader(rest, f"&meter_device={other.meter}")
    async with writing(rest.hub.engine) as session:
        key = await create_token(
            session, "theirs", rest.clock.now(), scopes=[READ], organization=uuid.UUID(other.organization)
        )
    theirs = Reader(rest, token=key)
    for number in range(10):
        await store(rest, arrival(fleet, rest, number))
    await store(rest, arrival(other, rest, 20), arrival(other, rest, 21))
    for number in range(10, 15):
        await store(rest, arrival(fleet, rest, number))
    await store(rest, arrival(fleet, rest, 1, 2, later=1), arrival(other, rest, 20, 2, later=1))
    for one in (reader, theirs):
        assert await one.numbers() == [(20, "2"), (21, "1")]
        assert one.answers > 3
    assert await Reader(rest, f"&series={fleet.series}&organization={other.organization}").read() == []
    refused = await rest.client.get(f"{RECEIVED}?cursor=x")
    assert refused.json()["errors"][0]["field"] == "cursor"
    cursor = (await rest.get(RECEIVED))["cursor"]
    assert (await rest.get(f"{RECEIVED}?cursor={cursor}"))["results"] == []
    refused = await rest.client.get(f"{RECEIVED}?cursor={cursor}&meter_device={fleet.meter}")
    assert refused.status_code == 422
    # The newest is deleted, and is not counted on: nothing is skipped after it.
    newest = (await rest.get("/v1/metering/meter-readings?ordering=-created_at&limit=1"))["results"][0]
    await rest.call("DELETE", f"/v1/metering/meter-readings/{newest['id']}", status=204)
    assert (await rest.get(f"{RECEIVED}?cursor={cursor}"))["results"] == []
    # A place that this database has never come to.
    ahead = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_"))
    ahead[1] += 1000
    cursor = base64.urlsafe_b64encode(json.dumps(ahead).encode()).decode()
    assert (await rest.call("GET", f"{RECEIVED}?cursor={cursor.rstrip('=')}", status=409))["detail"]


async def test_an_instant_finds_what_was_received_since(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    instants = []
    for number in range(9):
        instants.append(rest.clock.now())
        row = arrival(fleet, rest, number)
        await store(rest, row)
        rest.clock.advance(minutes=10)
    for number, instant in enumerate(instants):
        answer = await rest.get(f"{RECEIVED}?limit=100&received_since={instant.isoformat().replace('+', '%2B')}")
        assert len(answer["results"]) == 9 - number
        assert answer["more"] is False
    assert (await rest.call("GET", f"{RECEIVED}?received_since=soon", status=422))["errors"][0]["field"]


@pytest.mark.parametrize("database_url", BOTH[1:], indirect=True)
async def test_an_instant_is_found_among_many_that_did_not_come_evenly(rest: Rest, engine: AsyncEngine) -> None:
    fleet, now = await create_fleet(rest), rest.clock.now()
    # Bursts of 700 in a minute each day, but hundreds of days in the beginning are one instant, and ten are missing.
    rows = """
        INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected,
            version_count, created_at, flags)
        SELECT CAST(:organization AS uuid), CAST(:meter AS uuid), CAST(:series AS uuid), at, 1, 'm3', 'meter', at, 1,
            greatest(at, CAST(:start AS timestamptz) + interval '3 days'), 0
        FROM (SELECT CAST(:start AS timestamptz) + (n / 700) * interval '1 day' + (n % 700) * interval '85 ms' AS at, n
              FROM generate_series(0, 9999) n WHERE n / 700 <> 7) AS these ORDER BY n
    """
    ids = {"organization": fleet.organization, "meter": fleet.meter, "series": fleet.series}
    start = now - dt.timedelta(days=20)
    async with writing(engine) as session:
        await session.execute(sa.text(rows), {**{name: uuid.UUID(one) for name, one in ids.items()}, "start": start})
        stored = (await session.execute(sa.text("SELECT id, created_at FROM readings ORDER BY id"))).all()
    chance = random.Random(5)  # noqa: S311 - no secret
    instants = [start + dt.timedelta(seconds=chance.uniform(-86400, 15.5 * 86400)) for _ in range(25)]
    instants += [chance.choice(stored)[1] + dt.timedelta(microseconds=step) for step in (-1, 0, 1) for _ in range(8)]
    for instant in instants:
        since = (instant + received_readings.MARGIN).isoformat().replace("+", "%2B")
        found = (await rest.get(f"{RECEIVED}?limit=1&received_since={since}"))["results"]
        assert [one["id"] for one in found] == [number for number, at in stored if at >= instant][:1]


@pytest.mark.parametrize("database_url", BOTH[1:], indirect=True)
async def test_what_commits_late_is_not_skipped(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    await store(rest, arrival(fleet, rest, 0))
    reader = Reader(rest)
    assert len(await reader.read()) == 1
    async with writing(engine) as slow:
        await versions.store(slow, [arrival(fleet, rest, 1), arrival(fleet, rest, 0, 5, later=1)], rest.clock.now())
        async with writing(engine) as quick:
            await versions.store(quick, [arrival(fleet, rest, 2)], rest.clock.now())
        # Committed, with a larger number than what is still to come.
        assert await reader.read() == []
    assert await reader.numbers() == [(1, "1"), (2, "1"), (0, "5")]
    async with engine.connect() as undone:
        await undone.begin()
        await undone.exec_driver_sql("SELECT nextval('readings_id_seq')")
    await store(rest, arrival(fleet, rest, 3))
    assert await reader.numbers() == [(3, "1")]
