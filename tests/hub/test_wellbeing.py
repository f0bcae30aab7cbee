"""What makes a process degraded or unavailable, check by check; and the door of a relay."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.database import create_engine, schemas
from hub.door import door
from hub.figures import FIGURES, Found
from hub.settings import Settings
from hub.state import Hub
from hub.wellbeing import CHECKS, DEGRADED, OK, UNAVAILABLE, Finding, judge, of_database, of_findings
from tests.parts.databases import database_url, engine

__all__ = ["database_url", "engine"]

POSTGRESQL, SQLITE = "postgresql://nobody@127.0.0.1:1/nothing", "sqlite:///nothing.db"
GIB = 1024.0**3


def judged(url: str, figures: dict[str, float] | None = None, **found: Any) -> dict[str, Finding]:  # noqa: ANN401 - fields of Found
    """Return what is said of a database in which all is well but this."""
    of_all = {**dict.fromkeys(FIGURES, 0.0), "database_disk_free_bytes": 100 * GIB, **(figures or {})}
    hub = Hub(Settings(url), create_engine(url), Clock())
    return {one.check: one for one in of_database(hub, Found(of_all, schema=schemas()[-1], **found))}


@pytest.mark.parametrize("url", [POSTGRESQL, SQLITE])
async def test_nothing_is_said_while_all_is_well(url: str) -> None:
    findings = judged(url)
    assert {one.status for one in findings.values()} == {OK}
    assert not any(one.reason for one in findings.values())


@pytest.mark.parametrize(
    ("url", "check", "status", "word", "figures", "found"),
    [
        (POSTGRESQL, "durability", DEGRADED, "fsync=off", {}, {"careless": ("fsync",)}),
        (POSTGRESQL, "durability", UNAVAILABLE, "standby", {}, {"standby": True}),
        (POSTGRESQL, "partitions", DEGRADED, "next month", {}, {"next_month": False, "lacking_seconds": 1000.0}),
        (POSTGRESQL, "partitions", DEGRADED, "readings_default", {}, {"default_seconds": 4000.0}),
        (POSTGRESQL, "clock", DEGRADED, "8 s behind", {}, {"clock_seconds": -8.0}),
        (SQLITE, "disk", DEGRADED, "100 MiB left", {"database_disk_free_bytes": 100.0 * 1024**2}, {}),
        (
            SQLITE,
            "disk",
            DEGRADED,
            "4096 are wanted",
            {"database_disk_free_bytes": 3 * GIB, "database_bytes": 8 * GIB},
            {},
        ),
        (SQLITE, "ledger", DEGRADED, "7 notes", {"ledger_behind_seconds": 700.0, "ledger_notes": 7.0}, {}),
        (SQLITE, "validation", DEGRADED, "no flags", {"unjudged_behind_seconds": 700.0}, {}),
        (SQLITE, "quarantine", DEGRADED, "fills: 9000 of 10000", {"quarantined": 9000.0}, {}),
        (SQLITE, "quarantine", DEGRADED, "is full", {"quarantined": 10000.0}, {}),
        (SQLITE, "staged", DEGRADED, "staged", {"staged_readings": 2e7}, {}),
    ],
)
async def test_what_is_wrong_is_said(
    url: str, check: str, status: str, word: str, figures: dict[str, float], found: dict[str, Any]
) -> None:
    finding = judged(url, figures, **found)[check]
    assert finding.status == status
    assert word in finding.reason


async def test_a_database_that_nobody_has_migrated_is_told_from_one_that_is_away(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    empty = create_engine(url)
    health = await judge(Hub(Settings(url), empty, Clock()))
    await empty.dispose()
    assert (health.status, health.checks["database"], health.checks["schema"]) == (UNAVAILABLE, OK, UNAVAILABLE)
    assert "metergate-hub migrate" in health.reasons[0]


def test_the_worst_is_the_status_and_its_reason_the_first() -> None:
    health = of_findings(
        [Finding("clock", DEGRADED, "late"), Finding("broker", UNAVAILABLE, "away"), Finding("database")]
    )
    assert (health.status, health.reasons) == (UNAVAILABLE, ["away", "late"])
    assert list(health.checks) == [check for check in CHECKS if check in health.checks]


async def test_a_relay_without_its_broker_is_not_ready_and_lives(engine: AsyncEngine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    hub = Hub(Settings(url), engine, Clock(), asyncio.Event(), relays_only=True)
    transport = httpx.ASGITransport(door(hub))
    async with httpx.AsyncClient(transport=transport, base_url="http://relay") as client:
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert answer.json()["checks"]["broker"] == "unavailable"
        assert (await client.get("/health/live")).json()["status"] == "live"
        page = await client.get("/metrics")
        assert page.headers["content-type"].startswith("text/plain")
        assert 'metergate_check_ok{check="broker"} 0.0' in page.text
        # The figures of the whole hub are told by processes with REST.
        assert "metergate_gateways " not in page.text
        assert (await client.get("/v1/gateways")).status_code == 404
        assert (await client.post("/health")).status_code == 405
        assert hub.relay_ready is not None
        hub.relay_ready.set()
        assert (await client.get("/health/")).json()["checks"]["broker"] == "ok"
    # The same in a process that has REST as well is no reason to send nobody there.
    beside = dataclasses.replace(hub, relay_ready=asyncio.Event(), relays_only=False)
    transport = httpx.ASGITransport(door(beside))
    async with httpx.AsyncClient(transport=transport, base_url="http://run") as client:
        assert (await client.get("/health")).json()["checks"]["broker"] == "degraded"
