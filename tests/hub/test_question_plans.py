"""What REST asks of readings is found by indexes on PostgreSQL: no question reads a month from end to end.

``python -m benchmarks query`` shows the same of millions of rows; here the planner may not read whole tables at all, so
what it does all the same has no index.
"""

import datetime as dt
import decimal
import uuid

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks._query_plans import nodes
from hub import direct_reads, paging, versions
from hub.database import writing
from hub.partitions import make_partitions
from tests.parts.databases import BOTH, engine, url_of_walks
from tests.parts.heard import Heard
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

LARGE = ("readings", "reading_versions", "staged_meter_readings", "batches")


async def store(rest: Rest, fleet: Fleet, count: int) -> None:
    now = rest.clock.now()
    rows = [
        versions.Arrival(
            uuid.UUID(fleet.organization),
            uuid.UUID(fleet.meter),
            uuid.UUID(fleet.series),
            now - number * dt.timedelta(hours=1),
            decimal.Decimal(number),
            now,
        )
        for number in range(count)
    ]
    async with writing(rest.hub.engine) as session:
        await versions.store(session, rows, now)


@pytest.mark.parametrize("database_url", BOTH[1:], indirect=True)
async def test_every_question_is_answered_by_indexes(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    now = rest.clock.now()
    await make_partitions(engine, now)
    await store(rest, fleet, 48)
    since = (now - dt.timedelta(days=1)).isoformat().replace("+", "%2B")
    lists = "/v1/metering/meter-readings"
    questions = (
        f"{lists}?meter_device={fleet.meter}&series={fleet.series}&start_time={since}",
        f"{lists}?meter_device={fleet.meter}&start_time={since}",
        f"{lists}?start_time={since}",
        f"{lists}?limit=3&cursor=",
        f"{lists}?meter_device={fleet.meter}&cursor=",
        f"/v1/metering/readings/received?received_since={since}",
        f"/v1/metering/readings/received?limit=3&meter_device={fleet.meter}",
        f"/v1/metering/readings/latest?meter_device={fleet.meter}",
        f"/v1/metering/readings/latest?meter_device={fleet.meter}&series={uuid.uuid4()}",
        f"/v1/metering/readings/export?start_time={since}",
        "/v1/metering/staged-meter-readings?meter_device_name=M1",
    )
    heard = Heard(engine)
    for question in questions:
        answer = await rest.client.get(question)
        assert answer.status_code == 200, answer.text
        statements = [one for one in await heard.taken() if "reading" in one[0] and "EXPLAIN" not in one[0]]
        assert statements
        async with engine.connect() as connection:
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            for text, values in statements:
                told = (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {text}", values)).scalar_one()
                whole = [one["Relation Name"] for one in nodes(told) if one["Node Type"] == "Seq Scan"]
                # A sequence is one row, and read as a table is.
                whole = [name for name in whole if not name.endswith("_seq")]
                assert not [name for name in whole if name.startswith(LARGE)], f"{question}: {text}"
        await heard.taken()


@pytest.mark.parametrize("database_url", BOTH[1:], indirect=True)
async def test_a_count_of_very_many_is_an_estimate_that_leads_to_the_end(
    rest: Rest, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(rest, await create_fleet(rest), 30)
    monkeypatch.setattr(paging, "_COUNTED", 5)
    monkeypatch.setattr(direct_reads, "_forms", {})
    exact = await rest.get("/v1/metering/meter-readings?limit=10")
    assert exact["count"] == 30
    assert "count_estimated" not in exact
    monkeypatch.setattr(paging, "_COUNTED_STILL", 5)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql("ANALYZE readings")
    page, found = await rest.get("/v1/metering/meter-readings?limit=10"), 0
    assert page["count_estimated"] is True
    while True:
        found += len(page["results"])
        assert page["count"] >= found
        if page["next"] is None:
            break
        page = await rest.get(page["next"].removeprefix("http://hub"))
    assert found == 30
