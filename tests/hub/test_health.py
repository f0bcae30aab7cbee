"""Health, figures and the description of the interface."""

import dataclasses

from sqlalchemy import text

from hub.app import RESOURCES, create_app
from hub.clocks import Clock
from hub.database import create_engine, reading
from hub.settings import Settings
from hub.state import Hub
from hub.wellbeing import CHECKS, judge
from tests.parts.databases import ONLY_POSTGRESQL, database_url, drop_postgresql, engine, new_postgresql
from tests.parts.rest import Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]


async def test_a_hub_in_order_is_ready(rest: Rest) -> None:
    answer = await rest.get("/health")
    assert set(answer["checks"]) < set(CHECKS)
    wrong = {check for check, status in answer["checks"].items() if status != "ok"}
    if rest.hub.engine.dialect.name == "sqlite":
        assert (answer["status"], answer["reasons"], wrong) == ("ready", [], set())
    else:
        # The server of the tests does not write to its disk in time, and that is said.
        assert (answer["status"], wrong) == ("degraded", {"durability"})
        assert "fsync=off" in answer["reasons"][0]
    assert (await rest.get("/health/live"))["status"] == "live"


async def test_what_the_hub_lacks_is_said(rest: Rest) -> None:
    strict = dataclasses.replace(rest.hub, settings=Settings(rest.hub.settings.database, quarantine_rows=0))
    health = await judge(strict)
    assert health.status == "degraded"
    assert any("quarantine is full" in reason for reason in health.reasons)
    assert health.checks["quarantine"] == "degraded"


async def test_a_database_that_is_away_is_unavailable() -> None:
    engine = create_engine("postgresql://nobody@127.0.0.1:1/nothing")
    hub = Hub(Settings("postgresql://nobody@127.0.0.1:1/nothing"), engine, Clock())
    health = await judge(hub)
    assert health.status == "unavailable"
    await engine.dispose()


async def test_a_postgresql_that_does_not_wait_for_its_disk_is_said() -> None:
    name, url = await new_postgresql()
    careless = create_engine(url)
    async with careless.begin() as connection:
        await connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    # What is set for a database holds for connections made from now on.
    await careless.dispose()
    health = await judge(Hub(Settings(url), careless, Clock()))
    await careless.dispose()
    await drop_postgresql(name)
    assert health.status == "degraded"
    assert "synchronous_commit=off" in health.reasons[0]


async def test_requests_without_a_database_may_come_again(rest: Rest) -> None:
    away = create_engine("postgresql://nobody@127.0.0.1:1/nothing")
    rest.client._transport.app.state.hub = dataclasses.replace(rest.hub, engine=away)  # type: ignore[attr-defined]
    answer = await rest.client.get("/v1/gateways")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert "database" in answer.json()["detail"]
    # An alarm needs a page that says so; an orchestrator must not end a process because another one is away.
    assert 'metergate_check_ok{check="database"} 0.0' in (await rest.client.get("/metrics")).text
    assert (await rest.client.get("/health")).status_code == 503
    assert (await rest.client.get("/health/live")).status_code == 200
    await away.dispose()


@ONLY_POSTGRESQL
async def test_a_database_whose_disk_is_full_may_be_asked_again(rest: Rest) -> None:
    async with rest.hub.engine.begin() as connection:
        await connection.exec_driver_sql(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
            " 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
        )
        await connection.exec_driver_sql(
            "CREATE TRIGGER no_room BEFORE INSERT ON organizations EXECUTE FUNCTION no_room()"
        )
    answer = await rest.client.post("/v1/organizations", json={"name": "Utility"})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


async def test_figures_for_prometheus(rest: Rest) -> None:
    await create_fleet(rest)
    answer = await rest.client.get("/metrics")
    # Prometheus does not read an answer whose type names its charset twice.
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    text = answer.text
    assert "metergate_gateways 1.0" in text
    assert "metergate_gateways_out_of_step 1.0" in text
    assert "metergate_staged_readings 0.0" in text


async def test_every_route_is_described(rest: Rest) -> None:
    paths = (await rest.get("/schema/openapi.json"))["paths"]
    assert "/v1/metering/amr-tasks/invoke" in paths
    assert "/v1/metering/meter-devices/{row_id}" in paths
    body = paths["/v1/metering/meter-devices"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "MeterDeviceBody" in str(body)


async def test_reading_sessions_do_not_write(rest: Rest) -> None:
    async with reading(rest.hub.engine) as first, reading(rest.hub.engine) as second:
        assert first is not second
    assert RESOURCES
    assert create_app(rest.hub).state.hub is rest.hub
