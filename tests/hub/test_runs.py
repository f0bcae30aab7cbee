"""The history of runs: by kind, by how long they took, and without a sort however many there are."""

import datetime as dt
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models, runs
from hub.database import writing
from hub.ingest import store_deliveries
from protocol.reports import COMMS, RunReport
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import database_url, engine
from tests.parts.estates import GatewayVoice
from tests.parts.rest import Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]


async def test_runs_by_kind_and_by_how_long_they_took(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    meter, now = uuid.UUID(fleet.meter), rest.clock.now()

    def run(outcome: str, seconds: float | None, **more: Any) -> RunReport:  # noqa: ANN401 - fields of the report
        started = None if seconds is None else now - dt.timedelta(seconds=seconds)
        return RunReport(uuid.uuid4(), meter, outcome, started, now, tick=now, **more)

    reports = [
        run("done", 1.25, readings=7, line_bytes=512),
        run("failed", 9, cause="no answer", kind=COMMS),
        run("failed", 3, cause="an agent that does not say"),
        run("missed", None),
        run("wrong_meter", 2),
    ]
    voice = GatewayVoice("gw-utility")
    await store_deliveries(rest.hub.engine, [voice.rows(Channel.REPORT, [encode(one) for one in reports])], now, 10)

    async def kinds(query: str) -> list[str]:
        found = (await rest.get(f"/v1/runs?{query}"))["results"]
        return sorted(row["kind"] for row in found)

    assert await kinds("") == ["comms", "done", "failed", "missed", "wrong_meter"]
    for kind in ("done", "comms", "failed", "missed", "wrong_meter"):
        assert await kinds(f"kind={kind}") == [kind]
    assert await kinds("kind=nonsense") == []
    assert await kinds("outcome=failed") == ["comms", "failed"]
    assert await kinds("longer_than=2") == ["comms", "failed"]
    assert await kinds("longer_than=2&kind=comms") == ["comms"]
    assert await rest.get("/v1/runs?longer_than=x", 422)
    (done,) = (await rest.get("/v1/runs?kind=done"))["results"]
    assert (done["duration_seconds"], done["readings"], done["line_bytes"]) == (1.25, 7, 512)
    (missed,) = (await rest.get("/v1/runs?kind=missed"))["results"]
    assert missed["duration_seconds"] is None


@pytest.mark.parametrize(
    "query",
    [{}, {"gateway": "x"}, {"meter_device": "x"}, {"task": "x"}, {"outcome": "failed"}, {"kind": "comms"}],
    ids=lambda query: ",".join(query) or "all",
)
async def test_no_page_of_runs_sorts_the_table(engine: AsyncEngine, query: dict[str, str]) -> None:
    """The first page of each list comes in the order of an index, however many rows there are."""
    conditions = [
        runs.RESOURCE.filters[name](name, str(uuid.UUID(int=1)) if text == "x" else text)
        for name, text in query.items()
    ]
    order = [*runs.RESOURCE.order, models.RunReport.id]
    statement = sa.select(models.RunReport.id).where(*conditions).order_by(*order).limit(100)
    async with writing(engine) as session:
        if engine.dialect.name == "sqlite":
            plan = await _explain(session, statement, "EXPLAIN QUERY PLAN ")
            assert "USING INDEX" in plan or "USING COVERING INDEX" in plan, plan
            assert "TEMP B-TREE FOR ORDER BY" not in plan, plan
        else:
            # As with many rows: an empty table is read at once, whatever there is.
            await session.execute(sa.text("SET LOCAL enable_seqscan = off"))
            await session.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
            plan = await _explain(session, statement, "EXPLAIN ")
            assert "Index" in plan, plan
            assert "Sort" not in plan.replace("Incremental Sort", "").replace("Sort Key", ""), plan


async def _explain(session: Any, statement: sa.Select[Any], word: str) -> str:  # noqa: ANN401 - a session
    literal = statement.compile(dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True})
    return "\n".join(str(row) for row in (await session.execute(sa.text(word + str(literal)))).all())
