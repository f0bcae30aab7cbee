"""Entity tags over REST, on both databases: every single object has one, and If-Match keeps what others edited."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from hub import models
from hub.database import writing
from tests.parts.databases import database_url, engine
from tests.parts.rest import TASK, Fleet, Rest, application, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

OBJECTS = {
    "/v1/organizations": "organization",
    "/v1/gateways": "gateway",
    "/v1/metering/network-interfaces": "line",
    "/v1/metering/meter-reading-series": "series",
    "/v1/metering/meter-device-configs": "config",
    "/v1/metering/meter-device-types": "type",
    "/v1/metering/amr-tasks": "task",
    "/v1/metering/amr-task-groups": "group",
    "/v1/metering/meter-devices": "meter",
}


async def ask(rest: Rest, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    return await rest.client.request(method, path, json=body, headers=sent)


async def tag(rest: Rest, path: str) -> str:
    answer = await ask(rest, "GET", path)
    assert answer.status_code == 200
    return answer.headers["etag"]


async def more_objects(rest: Rest, fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Make one of each resource that a fleet has none of; return bodies that change them."""
    mine = {"organization": fleet.organization}
    user = await rest.post("/v1/users", username="anna", password="correct horse battery")  # noqa: S106 - nobody's
    member = await rest.post("/v1/organizations/memberships", **mine, user=user["id"])
    deadline = {**mine, "interval": "day", "within_seconds": 3600, "target_percent": "99.50"}
    made = {
        "/v1/users": (user, {"is_active": False}),
        "/v1/organizations/memberships": (member, {"user": user["id"]}),
        "/v1/deadlines": (await rest.post("/v1/deadlines", **deadline, name="d", series=[fleet.series]), {"name": "e"}),
        "/v1/metering/sim-cards": (
            await rest.post("/v1/metering/sim-cards", **mine, iccid="8949", imsi="26201"),
            {"imsi": "26202"},
        ),
        "/v1/metering/staged-meter-readings": (
            await rest.post(
                "/v1/metering/staged-meter-readings",
                meter_device_name="late",
                series_name="2:300",
                timestamp="2026-03-01T00:00:00Z",
                value="1.50",
            ),
            {"value": "1.60"},
        ),
        "/v1/retention-policies": (await rest.post("/v1/retention-policies", **mine), {"readings_days": 9}),
    }
    return {f"{path}/{row['id']}": body for path, (row, body) in made.items()}


async def test_every_answer_of_one_object_has_the_tag_of_its_version(rest: Rest) -> None:
    """The clock stands still: it is the contents that make another tag."""
    fleet = await create_fleet(rest)
    paths = {f"{path}/{getattr(fleet, name)}": {"name": "renamed"} for path, name in OBJECTS.items()}
    for path, body in {**paths, **await more_objects(rest, fleet)}.items():
        before = await tag(rest, path)
        assert not before.startswith("W/"), path
        assert await tag(rest, path) == before, path
        same = await ask(rest, "PATCH", path, {})
        assert same.headers["etag"] == before, path
        changed = await ask(rest, "PATCH", path, body)
        assert changed.status_code == 200, changed.text
        now_is = await tag(rest, path)
        assert changed.headers["etag"] == now_is, path
        assert (now_is != before) == (changed.json() != same.json()), path
    created = await ask(rest, "POST", "/v1/metering/amr-tasks", TASK | {"organization": fleet.organization})
    assert created.headers["etag"] == await tag(rest, f"/v1/metering/amr-tasks/{created.json()['id']}")


async def test_who_has_a_version_is_not_sent_it_again(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/metering/meter-devices/{fleet.meter}"
    known = await tag(rest, path)
    for tags in (known, f'"other", {known}', f"W/{known}", "*"):
        answer = await ask(rest, "GET", path, If_None_Match=tags)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", known), tags
    for tags in ('"other"', known.strip('"'), ""):
        assert (await ask(rest, "GET", path, If_None_Match=tags)).status_code == 200, tags
    # Of what it is joined with, the answer shows something: then that is news.
    await rest.patch(f"/v1/metering/network-interfaces/{fleet.line}", serial_port="/dev/ttyS9")
    assert (await ask(rest, "GET", path, If_None_Match=known)).status_code == 200


async def test_only_the_version_that_was_seen_is_changed(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/metering/amr-task-groups/{fleet.group}"
    seen = await tag(rest, path)
    await rest.patch(path, tasks=[])
    latest = await tag(rest, path)
    body = {"organization": fleet.organization, "name": "mine"}
    for method in ("PUT", "PATCH", "DELETE"):
        for tags in (seen, f"W/{latest}", '"x"', "no tag", f'{seen}, W/{latest}, "x"'):
            answer = await ask(rest, method, path, body if method != "DELETE" else None, If_Match=tags)
            assert answer.status_code == 412, (method, tags)
            assert answer.headers["content-type"] == "application/problem+json"
            assert "AMR task group" in answer.json()["detail"]
    assert await tag(rest, path) == latest
    assert (await ask(rest, "PATCH", path, {"name": "a"}, If_Match=f"{seen}, {latest}")).status_code == 200
    assert (await ask(rest, "PATCH", path, {"name": "b"}, If_Match="*")).status_code == 200
    assert (await ask(rest, "PATCH", path, {"name": "c"})).status_code == 200
    await rest.call("PATCH", f"/v1/metering/meter-devices/{fleet.meter}", {"task_groups": []})
    assert (await ask(rest, "DELETE", path, If_Match=await tag(rest, path))).status_code == 204
    gone = await ask(rest, "DELETE", path, If_Match="*")
    assert gone.status_code == 404


async def test_several_lines_of_the_header_are_one_list(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/metering/amr-tasks/{fleet.task}"
    lines = [("If-Match", '"x"'), ("If-Match", await tag(rest, path))]
    answer = await rest.client.request("PATCH", path, json={"name": "a"}, headers=lines)
    assert answer.status_code == 200


async def test_what_a_gateway_tells_makes_no_edit_out_of_date(rest: Rest) -> None:
    """A life sign is news for who looks, and no reason to refuse an edit of the gateway's name."""
    fleet = await create_fleet(rest)
    path = f"/v1/gateways/{fleet.gateway}"
    seen = await tag(rest, path)
    async with writing(rest.hub.engine) as session:
        row = sa.update(models.Gateway).where(models.Gateway.id == uuid.UUID(fleet.gateway))
        await session.execute(row.values(online=True, depth=7, last_seen=rest.clock.now(), updated_at=rest.clock.now()))
    assert (await ask(rest, "GET", path, If_None_Match=seen)).status_code == 200
    assert (await ask(rest, "PATCH", path, {"name": "hill"}, If_Match=seen)).status_code == 200
    assert (await ask(rest, "PATCH", path, {"name": "dale"}, If_Match=seen)).status_code == 412
    assert (await ask(rest, "POST", f"{path}/forget-key", If_Match=seen)).status_code == 412


async def test_secrets_that_are_never_shown_make_another_version(rest: Rest) -> None:
    made = await rest.post("/v1/users", username="bob", password="correct horse battery")  # noqa: S106 - nobody's
    path = f"/v1/users/{made['id']}"
    seen = await tag(rest, path)
    await rest.patch(path, password="another horse battery")  # noqa: S106 - as above
    assert (await ask(rest, "PATCH", path, {"is_active": False}, If_Match=seen)).status_code == 412


async def test_of_those_who_saw_one_version_one_edits_it(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/metering/amr-tasks/{fleet.task}"
    seen = await tag(rest, path)
    answers = await asyncio.gather(*(ask(rest, "PATCH", path, {"name": f"n{at}"}, If_Match=seen) for at in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200, *[412] * 7]
    (winner,) = (answer.json()["name"] for answer in answers if answer.status_code == 200)
    assert (await rest.get(path))["name"] == winner


@pytest.mark.parametrize(
    ("method", "header", "status"), [("get", "If-None-Match", "304"), ("patch", "If-Match", "412")]
)
def test_the_document_tells_of_tags(method: str, header: str, status: str) -> None:
    paths: Any = application().openapi_schema.paths
    named = {path: item for path, item in paths.items() if path.endswith("/{row_id}") and getattr(item, method)}
    assert len(named) > 10
    for path, item in named.items():
        operation = getattr(item, method)
        assert header in {parameter.name for parameter in operation.parameters}, path
        assert status in operation.responses, path
        assert "ETag" in operation.responses["200"].headers, path
