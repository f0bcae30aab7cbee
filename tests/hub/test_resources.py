"""What every resource does alike: shapes, paging, changes, deletion, and how it says no."""

import uuid
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.parts.databases import database_url, engine
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

PUBLISHED = {
    "/v1/organizations/": "id name is_active members created_at updated_at",
    "/v1/metering/amr-task-groups/": "id name organization description tasks tasks_info created_at updated_at",
    "/v1/metering/amr-tasks/": (
        "id organization name description is_active schedule run_offset_seconds meter_execution_type task_call "
        "task_kwargs created_at updated_at"
    ),
    "/v1/metering/meter-device-configs": "id organization name series series_info timezone created_at updated_at",
    "/v1/metering/meter-device-types": (
        "id organization name description manufacturer manufacturer_model config created_at updated_at"
    ),
    "/v1/metering/meter-devices": (
        "id organization name external_system_reference manufacturer_serial protocol iec62056_21_address "
        "dlms_logical_device_name dlms_system_title type task_groups meter_tasks network_interface "
        "network_interface_info has_current_transformer current_transformer_ratio has_voltage_transformer "
        "voltage_transformer_ratio has_disconnector disconnector_status created_at updated_at"
    ),
    "/v1/metering/meter-reading-series": (
        "id organization name description unit unit_description si_multiplier affected_by_ct_ratio "
        "affected_by_vt_ratio created_at updated_at"
    ),
    "/v1/metering/meter-readings": "id organization meter_device series timestamp value created_at",
    "/v1/metering/meter-system-events": ("id organization meter_device timestamp title content created_at updated_at"),
    "/v1/metering/network-interfaces": (
        "id organization static_ip_address host fqdn port sim can_block is_blocked block_time created_at updated_at"
    ),
    "/v1/metering/staged-meter-readings": ("id meter_device_name series_name timestamp value created_at updated_at"),
}
NULLABLE = (
    "task_kwargs config organization external_system_reference manufacturer_serial iec62056_21_address "
    "dlms_logical_device_name dlms_system_title type network_interface disconnector_status unit_description "
    "static_ip_address fqdn port sim host block_time network_interface_info"
)
WRITABLE = [path for path in PUBLISHED if path != "/v1/metering/meter-readings"]


async def one_of_each(rest: Rest) -> tuple[Fleet, dict[str, Any]]:
    """Create at least one object of each published resource; return one answer of each."""
    fleet = await create_fleet(rest)
    await rest.post(
        "/v1/metering/meter-readings",
        organization=fleet.organization,
        meter_device=fleet.meter,
        series=fleet.series,
        timestamp="2026-03-02T07:00:00+01:00",
        value="12.50",
    )
    await rest.post(
        "/v1/metering/meter-system-events",
        organization=fleet.organization,
        meter_device=fleet.meter,
        timestamp="2026-03-02T06:00:00Z",
        title="door",
        content="The door was open",
    )
    await rest.post(
        "/v1/metering/staged-meter-readings",
        meter_device_name="Late",
        series_name="2:300",
        timestamp="2026-03-02T06:00:00Z",
        value="1.0",
    )
    return fleet, {path: (await rest.get(path))["results"][0] for path in PUBLISHED}


async def test_every_resource_has_the_published_fields(rest: Rest) -> None:
    _, answers = await one_of_each(rest)
    for path, fields in PUBLISHED.items():
        assert set(fields.split()) <= set(answers[path]), path
        for field in set(fields.split()) - set(NULLABLE.split()):
            assert answers[path][field] is not None, f"{path} {field}"
    assert answers["/v1/metering/meter-readings"]["value"] == "12.50"
    assert answers["/v1/metering/meter-readings"]["timestamp"] == "2026-03-02T06:00:00Z"
    assert isinstance(answers["/v1/metering/meter-readings"]["id"], int)
    assert answers["/v1/metering/meter-reading-series"]["si_multiplier"] == "1"
    assert answers["/v1/metering/network-interfaces"]["host"] is None


async def test_slashes_at_the_end_do_not_matter(rest: Rest) -> None:
    _, answers = await one_of_each(rest)
    for path, answer in answers.items():
        bare = path.rstrip("/")
        for form in (bare, f"{bare}/"):
            assert (await rest.get(form))["count"] == 1
        for form in (f"{bare}/{answer['id']}", f"{bare}/{answer['id']}/"):
            assert (await rest.get(form))["id"] == answer["id"]


async def test_what_is_not_there_is_404(rest: Rest) -> None:
    for path in PUBLISHED:
        integers = "readings" in path or "events" in path
        for unknown in ("999999", "x") if integers else (str(uuid.uuid4()), "x"):
            problem = await rest.get(f"{path.rstrip('/')}/{unknown}", 404)
            assert problem["detail"]
    assert (await rest.call("POST", "/v1/nowhere", {}, 404))["status"] == 404
    await rest.call("PUT", "/v1/organizations/", {}, 405)


async def test_what_was_read_can_be_put_back(rest: Rest) -> None:
    _, answers = await one_of_each(rest)
    for path in WRITABLE:
        if path.endswith("events"):
            continue
        answer = answers[path]
        rest.clock.advance(minutes=1)
        again = await rest.call("PUT", f"{path.rstrip('/')}/{answer['id']}", answer)
        assert again == answer, "nothing changed, not even updated_at"


async def test_wrong_fields_are_all_named(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    found = await rest.wrong_fields(
        "POST",
        "/v1/metering/meter-devices",
        {
            "organization": fleet.organization,
            "name": "x" * 51,
            "protocol": 7,
            "iec62056_21_address": "123456789",
            "type": "no uuid",
            "task_groups": [1],
            "colour": "red",
        },
    )
    assert found == {"name", "protocol", "iec62056_21_address", "type", "task_groups[0]", "colour"}
    found = await rest.wrong_fields("POST", "/v1/metering/meter-devices", {})
    assert found == {"name", "protocol"}
    assert await rest.wrong_fields("PATCH", f"/v1/metering/meter-devices/{fleet.meter}", {"name": None}) == {"name"}


async def test_what_is_no_json_is_400(rest: Rest) -> None:
    for body in (b"", b"{", b"\xff", b'{"name": "x"', b"[" * 10_000, b'{"name": NaN}'):
        answer = await rest.client.post("/v1/organizations/", content=body)
        assert answer.status_code == 400, body[:20]
        assert answer.headers["content-type"] == "application/problem+json"


async def test_json_that_is_no_object_is_422(rest: Rest) -> None:
    for body in (b"[]", b"1", b'"x"', b"null"):
        assert (await rest.client.post("/v1/organizations/", content=body)).status_code == 422, body


async def test_a_body_that_is_too_large_is_413(rest: Rest) -> None:
    answer = await rest.client.post("/v1/organizations/", content=b" " * (9 * 1024 * 1024))
    assert answer.status_code == 413


async def test_patch_changes_what_it_says_and_put_replaces(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/metering/amr-task-groups/{fleet.group}"
    assert (await rest.patch(path, description="all of them"))["tasks"] == [fleet.task]
    assert (await rest.get(path))["description"] == "all of them"
    replaced = await rest.call("PUT", path, {"organization": fleet.organization, "name": "new"})
    assert (replaced["name"], replaced["description"], replaced["tasks"]) == ("new", "", [])
    assert await rest.wrong_fields("PUT", path, {"name": "x"}) == {"organization"}


async def test_lists_are_paged(rest: Rest) -> None:
    for number in range(25):
        rest.clock.advance(seconds=1)
        await rest.post("/v1/organizations/", name=f"o{number:02}")
    page = await rest.get("/v1/organizations/?limit=10")
    assert (page["count"], page["previous"]) == (25, None)
    assert page["next"] == "http://hub/v1/organizations?limit=10&offset=10"
    names = [row["name"] for row in page["results"]]
    while page["next"]:
        page = await rest.get(page["next"].removeprefix("http://hub"))
        names += [row["name"] for row in page["results"]]
    assert names == [f"o{number:02}" for number in range(25)]
    assert page["previous"] == "http://hub/v1/organizations?limit=10&offset=10"
    assert (await rest.get("/v1/organizations/?offset=100"))["results"] == []
    for query in ("limit=0", "limit=x", "limit=-1", "offset=-1", "offset=1e3", "colour=red", "limit=%C2%B2"):
        assert (await rest.get(f"/v1/organizations/?{query}", 422))["errors"][0]["field"] == query.split("=")[0]


async def test_filters(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", manufacturer_serial="4011220")
    for query, count in (("name=Heating%20plant", 1), ("name=heating", 0), ("manufacturer_serial=4011220", 1)):
        assert (await rest.get(f"/v1/metering/meter-devices?{query}"))["count"] == count
    assert (await rest.get("/v1/metering/meter-reading-series?name=2:300&unit=m3"))["count"] == 1
    assert (await rest.get("/v1/metering/meter-reading-series?unit=kWh"))["count"] == 0
    assert (await rest.get("/v1/gateways?online=false"))["count"] == 1


async def test_things_of_other_organizations_cannot_be_used(rest: Rest) -> None:
    mine, other = await create_fleet(rest, "mine"), await create_fleet(rest, "other")
    meter = f"/v1/metering/meter-devices/{mine.meter}"
    for field, value in (
        ("type", other.type),
        ("network_interface", other.line),
        ("task_groups", [other.group]),
        ("meter_tasks", [mine.task, other.task]),
        ("meter_tasks", [str(uuid.uuid4())]),
        ("organization", other.organization),
        ("organization", str(uuid.uuid4())),
    ):
        assert await rest.wrong_fields("PATCH", meter, {field: value}) == {field}, field
    for path, field, value in (
        (f"/v1/metering/amr-task-groups/{mine.group}", "tasks", [other.task]),
        (f"/v1/metering/meter-device-configs/{mine.config}", "series", [other.series]),
        (f"/v1/metering/meter-device-types/{mine.type}", "config", other.config),
        (f"/v1/metering/network-interfaces/{mine.line}", "gateway", other.gateway),
    ):
        assert await rest.wrong_fields("PATCH", path, {field: value}) == {field}


async def test_lists_of_ids_have_each_once(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    body = {"tasks": [fleet.task, fleet.task]}
    assert await rest.wrong_fields("PATCH", f"/v1/metering/amr-task-groups/{fleet.group}", body) == {"tasks"}


async def test_what_is_used_is_not_deleted(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    for path, user in (
        (f"/v1/organizations/{fleet.organization}", "gateways"),
        (f"/v1/gateways/{fleet.gateway}", "network interfaces"),
        (f"/v1/metering/network-interfaces/{fleet.line}", "meter devices"),
        (f"/v1/metering/meter-device-types/{fleet.type}", "meter devices"),
        (f"/v1/metering/meter-device-configs/{fleet.config}", "meter device types"),
        (f"/v1/metering/meter-reading-series/{fleet.series}", "meter device configs"),
    ):
        assert user in (await rest.call("DELETE", path, status=409))["detail"]
    for path in (
        f"/v1/metering/amr-tasks/{fleet.task}",
        f"/v1/metering/amr-task-groups/{fleet.group}",
        f"/v1/metering/meter-devices/{fleet.meter}",
        f"/v1/metering/meter-device-types/{fleet.type}",
        f"/v1/metering/meter-device-configs/{fleet.config}",
        f"/v1/metering/meter-reading-series/{fleet.series}",
        f"/v1/metering/network-interfaces/{fleet.line}",
        f"/v1/gateways/{fleet.gateway}",
        f"/v1/organizations/{fleet.organization}",
    ):
        await rest.call("DELETE", path, status=204)
        await rest.get(path, 404)


async def test_names_are_unique_where_they_name(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    other = await create_fleet(rest, "other")
    body = {"organization": fleet.organization, "name": "Heating plant", "protocol": "lis-200"}
    assert "name" in (await rest.call("POST", "/v1/metering/meter-devices", body, 409))["detail"]
    await rest.call("POST", "/v1/metering/meter-devices", {"name": "A", "protocol": "lis-200"}, 201)
    await rest.call("POST", "/v1/metering/meter-devices", {"name": "A", "protocol": "lis-200"}, 409)
    await rest.call("POST", "/v1/metering/meter-devices", {**body, "name": "A"}, 201)
    await rest.call("PATCH", f"/v1/metering/meter-devices/{fleet.meter}", {"name": "A"}, 409)
    gateway = {"organization": other.organization, "gateway_id": "gw-utility"}
    await rest.call("POST", "/v1/gateways", gateway, 409)


async def test_no_input_is_too_strange_for_an_answer(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    meters = "/v1/metering/meter-devices"
    for name in (rb"a\u0000b", rb"\ud800"):
        answer = await rest.client.post(meters, content=b'{"name": "' + name + b'", "protocol": "lis-200"}')
        assert answer.status_code in {400, 422}
    kwargs = {"address": "2:300", "x": {"y": ["\0"]}}
    assert "task_kwargs" in await rest.wrong_fields(
        "PATCH", f"/v1/metering/amr-tasks/{fleet.task}", {"task_kwargs": kwargs}
    )
    assert (await rest.get(f"{meters}?name=a%00b", 422))["errors"]
    for row_id in (2**63, 10**30, -1, 0):
        await rest.get(f"/v1/metering/meter-readings/{row_id}", 404)
        await rest.call("DELETE", f"/v1/metering/meter-readings/{row_id}", status=404)
    body = {
        "organization": fleet.organization,
        "meter_device": fleet.meter,
        "series": fleet.series,
        "timestamp": "0001-01-01T00:00:00+14:00",
        "value": "1",
    }
    for path in ("/v1/metering/meter-readings", "/v1/metering/meter-system-events"):
        assert "timestamp" in await rest.wrong_fields("POST", path, body)
    await rest.get("/v1/metering/meter-readings?start_time=0001-01-01T00:00:00%2B14:00", 422)
    deep = "[" * 100_000 + "]" * 100_000
    answer = await rest.client.patch(f"/v1/metering/amr-tasks/{fleet.task}", content=f'{{"task_kwargs": {deep}}}')
    assert answer.status_code in {400, 422}


async def test_a_new_name_is_few_statements_and_concerns_no_plan(rest: Rest, engine: AsyncEngine) -> None:
    """Each statement waits for a busy database once more; and who renames a gateway need not wait for other edits."""
    fleet = await create_fleet(rest)
    path = f"/v1/gateways/{fleet.gateway}"
    revision = (await rest.get(path))["desired_revision"]
    said: list[str] = []

    def hear(*arguments: object) -> None:
        said.append(str(arguments[2]))

    event.listen(engine.sync_engine, "before_cursor_execute", hear)
    try:
        renamed = await rest.patch(path, name="renamed")
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", hear)
    assert (renamed["name"], renamed["desired_revision"]) == ("renamed", revision)
    # Who asks; the row; the change and its note; what the answer shows beside the row, keys that a receiver lacks too.
    assert len([text for text in said if not text.startswith("BEGIN")]) <= 7, said
