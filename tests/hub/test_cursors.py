"""Cursors: a long list is walked whole, along an index, whatever comes and goes meanwhile."""

import base64
import datetime as dt
import decimal
import itertools
import json
import uuid
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from litestar.testing import RequestFactory
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.cursors import keyset_of, read_cursor
from hub.database import writing
from hub.problems import Wrong
from tests.parts.databases import database_url, engine
from tests.parts.heard import Heard
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

READINGS = "/v1/metering/meter-readings"
AUDIT = "/v1/audit"
HOUR = dt.timedelta(hours=1)


async def push(rest: Rest, fleet: Fleet, times: list[dt.datetime], value: str = "1") -> None:
    """Store readings of the fleet's meter."""
    rows = [
        {"meter": "Heating plant", "series": "2:300", "timestamp": one.isoformat(), "value": value}
        | {"organization": fleet.organization}
        for one in times
    ]
    await rest.call("POST", "/v1/metering/new-meter-readings", rows, 201)


async def walk(rest: Rest, path: str, limit: int = 3) -> list[dict[str, Any]]:
    """Follow the links from an empty cursor to the end; the header says the same as the body."""
    found = []
    mark = "&" if "?" in path else "?"
    link: str | None = f"{path}{mark}limit={limit}&cursor="
    while link:
        answer = await rest.client.get(link)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert set(page) == {"next", "previous", "results"}
        link = page["next"]
        assert answer.headers.get("link") == (f'<{link}>; rel="next"' if link else None)
        assert len(page["results"]) == limit or not link
        found += page["results"]
    return found


async def test_a_walk_finds_all_in_their_order_by_meter_by_time_and_backwards(rest: Rest) -> None:
    fleet, start = await create_fleet(rest), rest.clock.now() - 30 * HOUR
    times = [start + number * HOUR for number in range(10)]
    await push(rest, fleet, times)
    whole = (await rest.get(f"{READINGS}?limit=1000"))["results"]
    assert await walk(rest, READINGS) == whole
    assert await walk(rest, f"{READINGS}?meter_device={fleet.meter}&series={fleet.series}", 5) == whole
    assert (
        await walk(rest, f"{READINGS}?meter_device={fleet.meter}&start_time={quote(times[4].isoformat())}") == whole[4:]
    )
    assert await walk(rest, f"{READINGS}?ordering=-timestamp") == whole[::-1]
    assert await walk(rest, f"{READINGS}?series={uuid.UUID(int=1)}") == []
    log = (await rest.get(f"{AUDIT}?limit=1000"))["results"]
    assert await walk(rest, AUDIT, 1000) == log
    assert await walk(rest, AUDIT, 4) == log
    for path in ("/v1/metering/meter-devices", "/v1/runs", "/v1/commands", "/v1/metering/staged-meter-readings"):
        assert await walk(rest, path) == (await rest.get(path))["results"]


async def test_what_comes_and_goes_meanwhile_makes_nothing_else_appear_twice_or_not_at_all(rest: Rest) -> None:
    fleet, start = await create_fleet(rest), rest.clock.now() - 100 * HOUR
    held = [start + number * HOUR for number in range(12)]
    await push(rest, fleet, held)
    between = itertools.count()
    for query in ("", f"?meter_device={fleet.meter}", "?ordering=-timestamp"):
        before = {row["id"] for row in (await rest.get(f"{READINGS}?limit=1000"))["results"]}
        found: list[int] = []
        link: str | None = f"{READINGS}{query or '?'}{'&' if query else ''}limit=3&cursor="
        while link:
            page = (await rest.client.get(link)).json()
            found += [row["id"] for row in page["results"]]
            link = page["next"]
            # Before where the walk is, at it and after it; and what the next page would begin after goes.
            at = dt.datetime.fromisoformat(page["results"][-1]["timestamp"])
            shift = dt.timedelta(seconds=next(between) + 1)
            await push(rest, fleet, [start - HOUR + shift, at + shift, at - shift, start + 50 * HOUR + shift])
            gone = page["results"][-1]["id"]
            await rest.call("DELETE", f"{READINGS}/{gone}", status=204)
            if len(found) > 60:
                break
        assert len(found) == len(set(found))
        assert before <= set(found) or len(found) > 60


async def test_a_cursor_is_of_its_list_its_filters_and_its_order(rest: Rest) -> None:
    fleet, start = await create_fleet(rest), rest.clock.now() - 30 * HOUR
    await push(rest, fleet, [start + number * HOUR for number in range(3)])
    page = await rest.get(f"{READINGS}?limit=1&cursor=")
    cursor = page["next"].partition("cursor=")[2]
    assert len((await rest.get(f"{READINGS}?limit=1000&cursor={cursor}"))["results"]) == 2
    refused = [
        f"{READINGS}?meter_device={fleet.meter}&cursor={cursor}",
        f"{READINGS}?ordering=timestamp&start_time=2026-01-01T00:00:00Z&cursor={cursor}",
        f"{READINGS}?ordering=-timestamp&cursor={cursor}",
        f"{AUDIT}?cursor={cursor}",
        f"{READINGS}?cursor=0",
        f"{READINGS}?cursor={'A' * 1000}",
        "/v1/commands?ordering=ended_at&cursor=",
        "/v1/metering/device-periods?cursor=",
    ]
    name, *_ = json.loads(base64.urlsafe_b64decode(cursor + "=="))
    for values in (
        [],
        ["2026-01-01T00:00:00", 1],
        ["2026-01-01T00:00:00Z", "1"],
        ["2026-01-01T00:00:00Z", 2**70],
        [1, 2],
    ):
        told = base64.urlsafe_b64encode(json.dumps([name, *values]).encode()).decode()
        refused.append(f"{READINGS}?cursor={quote(told)}")
    for path in refused:
        problem = await rest.get(path, 422)
        assert [error["field"] for error in problem["errors"]] == ["cursor"], path
    assert await rest.wrong_fields("GET", f"{READINGS}?offset=1&cursor=", None) == {"offset"}


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_whatever_is_sent_for_a_cursor_is_refused_by_its_name(text: str) -> None:
    keyset = keyset_of([models.Reading.timestamp, models.Reading.id])
    assert keyset is not None
    request = RequestFactory().get("/list", query_params={"cursor": text})
    if text:
        with pytest.raises(Wrong, match="cursor"):
            read_cursor(request, keyset)


async def test_a_page_anywhere_reads_an_index_and_sorts_nothing(rest: Rest, engine: AsyncEngine) -> None:
    """With rows of one instant, and so many that a database takes an index where there is one."""
    fleet = await create_fleet(rest)
    await _fill(engine, fleet, 4000)
    heard = Heard(engine)
    paths = (
        READINGS,
        f"{READINGS}?meter_device={fleet.meter}",
        f"{READINGS}?meter_device={fleet.meter}&series={fleet.series}",
        AUDIT,
        f"{AUDIT}?organization={fleet.organization}",
        "/v1/metering/staged-meter-readings",
    )
    for path in paths:
        page = await rest.get(f"{path}{'&' if '?' in path else '?'}limit=100&cursor=")
        page = await rest.get(page["next"])
        assert len(page["results"]) == 100
        said = [one for one in await heard.taken() if one[0].lstrip().startswith("SELECT") and "LIMIT" in one[0]]
        statement, parameters = said[-1]
        # What tells the unit and the versions of one row is asked of that row only, if at all.
        plan = (await _explained(engine, statement, parameters)).partition("SubPlan")[0]
        assert "OFFSET" not in statement.partition("LIMIT")[2] or parameters[-1] == 0
        assert "Sort" not in plan, f"{path}: {plan}"
        assert "TEMP B-TREE" not in plan, f"{path}: {plan}"
        assert "Seq Scan" not in plan, f"{path}: {plan}"
        assert "index" in plan.lower() or "PRIMARY KEY" in plan, f"{path}: {plan}"


async def _explained(engine: AsyncEngine, statement: str, parameters: Any) -> str:  # noqa: ANN401 - the driver's
    word = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql(f"{word} {statement}", parameters)
        return "\n".join(str(row[-1]) for row in rows)


async def _fill(engine: AsyncEngine, fleet: Fleet, count: int) -> None:
    """Write so many readings, staged readings and audit entries, a hundred of each instant."""
    own = {name: uuid.UUID(getattr(fleet, name)) for name in ("organization", "series")}
    start = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    dated = {"created_at": start, "updated_at": start}
    async with writing(engine) as session:
        meters = [
            models.MeterDevice(name=f"m{number}", organization=own["organization"], protocol="lis-200", **dated)
            for number in range(100)
        ]
        session.add_all(meters)
        await session.flush()
        keys = [meter.id for meter in meters[1:]] + [uuid.UUID(fleet.meter)]
        common = {**own, "value": decimal.Decimal(1), "collected": start, "created_at": start, "unit": "m3"}
        rows = [
            {**common, "meter_device": meter, "timestamp": start + number * HOUR}
            for number in range(count // 100)
            for meter in keys
        ]
        rows += [
            {**common, "meter_device": keys[-1], "timestamp": start + (number + 0.5) * HOUR} for number in range(3000)
        ]
        await session.execute(sa.insert(models.Reading), rows)
        entry = {"actor_kind": "cli", "actor_name": "x", "via": "x", "action": "x", "kind": "x"}
        times = [start + (number // 100) * HOUR for number in range(count)]
        told = [{**entry, "at": at, "organization": own["organization"]} for at in times]
        await session.execute(sa.insert(models.AuditEntry), told)
        waiting = {"meter_device_name": "m", "series_name": "s", "value": decimal.Decimal(1), **dated}
        waiting |= {"collected": start}
        staged = [{**waiting, "timestamp": at, "identity": uuid.uuid4().bytes} for at in times]
        await session.execute(sa.insert(models.StagedReading), staged)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(sa.text("ANALYZE"))
