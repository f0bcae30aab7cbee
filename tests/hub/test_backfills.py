"""``/v1/backfills``: what a request would cost, following, pausing, resuming and cancelling it."""

import datetime as dt
import uuid
from typing import Any

import sqlalchemy as sa

from hub import models
from hub.backfill_rows import FETCHING, GAVE_UP, WAITING
from hub.database import reading, writing
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

HOUR = dt.timedelta(hours=1)


async def expecting(rest: Rest, fleet: Fleet, hours: int = 48) -> tuple[str, str]:
    """Let the meter be expected to have hours of archive 3 for so long; return the range."""
    begin = rest.clock.now() - hours * HOUR
    expected = [{"series": "2:300", "interval": "hour", "archive": 3}]
    await rest.patch(f"/v1/metering/meter-device-configs/{fleet.config}", expectations=expected)
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", commissioned=begin.isoformat())
    return begin.isoformat(), rest.clock.now().isoformat()


async def test_a_dry_run_says_what_it_costs_and_changes_nothing(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    start, end = await expecting(rest, fleet)
    asked = {"start": start, "end": end, "task_group": fleet.group, "dry_run": True}
    answer = await rest.post("/v1/backfills/", **asked)
    assert (answer["dry_run"], answer["request"], answer["backfills"]) == (True, None, [])
    assert (answer["meters"], answer["missing"], answer["without_archive"]) == (1, 48, 0)
    assert answer["windows"] == 1
    assert answer["gateways_away"] == [fleet.gateway]
    [cost] = answer["lines"]
    assert cost == {"network_interface": fleet.line, "minutes": answer["line_minutes"]}
    assert 0 < answer["line_minutes"] < 1
    assert (await rest.get("/v1/backfills/"))["count"] == 0


async def test_a_request_is_followed_paused_resumed_and_cancelled(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    start, end = await expecting(rest, fleet)
    asked = {"start": start, "end": end, "meter_device": fleet.meter}
    answer = await rest.post("/v1/backfills/", **asked)
    [made] = answer["backfills"]
    assert (made["state"], made["origin"], made["priority"], made["archive"]) == (WAITING, "operator", 10, 3)
    assert made["meter_device"] == fleet.meter
    again = await rest.post("/v1/backfills/", **asked)
    assert (again["windows"], again["in_hand"]) == (0, 1)

    key, request = made["id"], answer["request"]
    assert [row["id"] for row in (await rest.get(f"/v1/backfills/?request={request}"))["results"]] == [key]
    [paused] = await rest.call("POST", f"/v1/backfills/{request}/pause")
    assert paused["state"] == "paused"
    assert (await rest.get("/v1/backfills/?state=paused"))["count"] == 1
    assert (await rest.get("/v1/backfills/?state=waiting"))["count"] == 0
    await rest.call("POST", f"/v1/backfills/{key}/pause", status=409)
    [resumed] = await rest.call("POST", f"/v1/backfills/{key}/resume")
    assert resumed["state"] == WAITING
    [cancelled] = await rest.call("POST", f"/v1/backfills/{key}/cancel")
    assert (cancelled["state"], cancelled["evidence"]) == ("cancelled", "cancelled by an operator")
    assert cancelled["ended_at"] is not None
    await rest.call("POST", f"/v1/backfills/{key}/cancel", status=409)
    assert (await rest.get(f"/v1/backfills/{key}"))["state"] == "cancelled"
    assert (await rest.post("/v1/backfills/", **asked))["windows"] == 1


async def test_what_was_given_up_is_tried_anew_when_it_is_resumed(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    start, end = await expecting(rest, fleet)
    [made] = (await rest.post("/v1/backfills/", start=start, end=end, gateway=fleet.gateway))["backfills"]
    async with writing(rest.hub.engine) as session:
        values = {"state": GAVE_UP, "tries": 8, "ended_at": rest.clock.now()}
        await session.execute(sa.update(models.Backfill).values(**values))
    [resumed] = await rest.call("POST", f"/v1/backfills/{made['id']}/resume")
    assert (resumed["state"], resumed["tries"], resumed["ended_at"]) == (WAITING, 0, None)


async def test_pausing_calls_a_command_back_that_is_under_way(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    start, end = await expecting(rest, fleet)
    [made] = (await rest.post("/v1/backfills/", start=start, end=end, meter_device=fleet.meter))["backfills"]
    now = rest.clock.now()
    async with writing(rest.hub.engine) as session:
        command = models.Command(
            organization=uuid.UUID(fleet.organization),
            gateway=uuid.UUID(fleet.gateway),
            context="generic_lis200",
            call="read_archive_by_date",
            ttl_seconds=60,
            expires_at=now + HOUR,
            state="running",
            origin="backfill",
            created_at=now,
            updated_at=now,
        )
        session.add(command)
        await session.flush()
        await session.execute(sa.update(models.Backfill).values(state=FETCHING, command=command.id))
    [paused] = await rest.call("POST", f"/v1/backfills/{made['id']}/pause")
    assert paused["state"] == FETCHING, "until the gateway has said that it ended"
    async with reading(rest.hub.engine) as session:
        assert (await session.scalars(sa.select(models.Command.cancel_requested))).all() == [True]


async def test_what_is_asked_wrongly_is_named(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    start, end = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"

    async def wrong(**body: Any) -> set[str]:  # noqa: ANN401 - JSON
        return await rest.wrong_fields("POST", "/v1/backfills/", body)

    assert await wrong(start=start, end=end) == {"meter_device"}
    assert await wrong(start=start, end=end, gateway=fleet.gateway, meter_device=fleet.meter) == {"meter_device"}
    assert await wrong(start=end, end=start, gateway=fleet.gateway) == {"end"}
    assert await wrong(start="2000-01-01T00:00:00Z", end=end, gateway=fleet.gateway) == {"start"}
    assert await wrong(end=end, gateway=fleet.gateway) == {"start"}
    nobody = {"start": start, "end": end, "task_group": str(uuid.uuid4())}
    await rest.call("POST", "/v1/backfills/", nobody, 404)
    await rest.call("POST", f"/v1/backfills/{uuid.uuid4()}/pause", status=404)


async def test_no_caller_bears_the_name_of_the_hubs_own_commands(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    body = {"organization": fleet.organization, "gateway": fleet.gateway, "public_key": "0" * 64}
    for name in ("hub", "backfill"):
        assert await rest.wrong_fields("POST", "/v1/callers/", {**body, "name": name}) == {"name"}


async def test_what_waits_on_a_paused_gateway_is_shown_as_paused(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    start, end = await expecting(rest, fleet)
    [made] = (await rest.post("/v1/backfills/", start=start, end=end, gateway=fleet.gateway))["backfills"]
    assert made["state"] == WAITING
    gateway = await rest.patch(f"/v1/gateways/{fleet.gateway}", backfill_paused=True)
    assert gateway["backfill_paused"] is True
    assert (await rest.get(f"/v1/backfills/{made['id']}"))["state"] == "paused"
    assert (await rest.get("/v1/backfills/?state=paused"))["count"] == 1
    assert (await rest.get("/v1/backfills/?state=waiting"))["count"] == 0
    await rest.patch(f"/v1/gateways/{fleet.gateway}", backfill_paused=False)
    assert (await rest.get("/v1/backfills/?state=waiting"))["count"] == 1
