"""Tasks, groups and their way into the plans of gateways."""

import secrets
import uuid
from typing import Any

from contexts.catalogue import CONTEXTS
from hub.database import writing
from hub.models import MeterDevice
from protocol.schedules import OFFSET_LIMITS
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import TASK, Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

TASKS = "/v1/metering/amr-tasks/"


async def desired(rest: Rest, fleet: Fleet) -> int:
    """Return the revision that the fleet's gateway should run."""
    return int((await rest.get(f"/v1/gateways/{fleet.gateway}"))["desired_revision"])


async def test_run_offset_limits(rest: Rest) -> None:
    organization = (await rest.post("/v1/organizations/", name="o"))["id"]
    for schedule, limit in OFFSET_LIMITS.items():
        body = {**TASK, "organization": organization, "schedule": schedule}
        for offset in (0, limit):
            named = {**body, "name": f"{schedule} {offset}", "run_offset_seconds": offset}
            await rest.call("POST", TASKS, named, 201)
        for offset in (-1, limit + 1, 2**40):
            problem = await rest.call("POST", TASKS, {**body, "run_offset_seconds": offset}, 422)
            assert problem["errors"][0]["field"] == "run_offset_seconds"
            assert str(limit) in problem["detail"]


async def test_what_no_gateway_can_run_is_refused(rest: Rest) -> None:
    organization = (await rest.post("/v1/organizations/", name="o"))["id"]
    changes: dict[str, Any]
    for changes, field in (
        ({"schedule": "fortnightly"}, "schedule"),
        ({"meter_execution_type": "generic_magic"}, "meter_execution_type"),
        ({"task_call": "read_minds"}, "task_call"),
        ({"task_kwargs": {"adress": "2:300"}}, "task_kwargs.adress"),
        ({"task_kwargs": {}}, "task_kwargs.address"),
        ({"task_kwargs": None}, "task_kwargs.address"),
        ({"task_kwargs": {"address": 7}}, "task_kwargs.address"),
        ({"task_kwargs": []}, "task_kwargs"),
        ({"missed_policy": "sometimes"}, "missed_policy"),
    ):
        body = {**TASK, "organization": organization, **changes}
        assert field in await rest.wrong_fields("POST", TASKS, body), changes


async def test_a_context_that_is_still_to_come_is_kept_and_not_used(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    body = {
        **TASK,
        "organization": fleet.organization,
        "name": "corus",
        "meter_execution_type": "generic_corus_meter",
        "task_call": "read_load_profile",
        "task_kwargs": {"days": 3},
    }
    assert await rest.wrong_fields("POST", TASKS, body) == {"is_active"}
    task = await rest.call("POST", TASKS, {**body, "is_active": False}, 201)
    assert (task["task_call"], task["task_kwargs"]) == ("read_load_profile", {"days": 3})
    path = f"{TASKS}{task['id']}"
    assert await rest.wrong_fields("PATCH", path, {"is_active": True}) == {"is_active"}
    before = await desired(rest, fleet)
    await rest.patch(f"/v1/metering/amr-task-groups/{fleet.group}", tasks=[fleet.task, task["id"]])
    assert await desired(rest, fleet) == before
    call = {name: body[name] for name in ("meter_execution_type", "task_call", "task_kwargs")}
    invocation = {"meter_device": fleet.meter, **call}
    assert await rest.wrong_fields("POST", f"{TASKS}invoke", invocation) == {"meter_execution_type"}
    # Another context makes another task of it.
    changed = {name: TASK[name] for name in ("meter_execution_type", "task_call", "task_kwargs")}
    assert (await rest.patch(path, is_active=True, **changed))["is_active"]


async def test_kwargs_may_be_null_where_there_are_none(rest: Rest) -> None:
    organization = (await rest.post("/v1/organizations/", name="o"))["id"]
    body = {**TASK, "organization": organization, "task_call": "set_time", "task_kwargs": None}
    assert (await rest.call("POST", TASKS, body, 201))["task_kwargs"] == {}


async def test_every_call_of_the_catalogue_can_be_a_task_and_its_kwargs_are_judged(rest: Rest) -> None:
    organization = (await rest.post("/v1/organizations/", name="o"))["id"]
    given: dict[str, dict[str, Any]] = {
        "read_single_value": {"address": "2:300"},
        "read_archive_by_date": {"start_date": "2025-03-01", "archive_number": 3, "control_position": 3},
        "read_archive_by_offset_seconds": {"offset_seconds": 3600, "archive_number": 3, "control_position": 3},
        "read_archive_since_last": {"archive_number": 7, "offset_seconds": 86400},
        "read_events": {"archive_number": None},
        "read_values": {"addresses": ["2:300", "7:310"]},
        "read_identity": {},
        "set_time": {"allowed_drift_seconds": 2, "force": True},
    }
    assert set(given) == set(CONTEXTS["generic_lis200"].calls)
    for call, kwargs in given.items():
        body = {**TASK, "organization": organization, "name": call, "task_call": call, "task_kwargs": kwargs}
        assert (await rest.call("POST", TASKS, body, 201))["task_kwargs"] == kwargs
        wrong = {**body, "task_kwargs": {**kwargs, "colour": "red"}}
        assert "task_kwargs.colour" in await rest.wrong_fields("POST", TASKS, wrong), call


async def test_edits_raise_the_revision_only_when_they_change_the_plan(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    revision = await desired(rest, fleet)
    assert revision > 0
    changes: dict[str, Any]
    for path, changes in (
        (f"/v1/metering/amr-task-groups/{fleet.group}", {"description": "words"}),
        (f"/v1/metering/amr-tasks/{fleet.task}", {"description": "words"}),
        (f"/v1/metering/meter-devices/{fleet.meter}", {"external_system_reference": "B1"}),
        (f"/v1/metering/meter-devices/{fleet.meter}", {"task_groups": [fleet.group]}),
        (f"/v1/gateways/{fleet.gateway}", {"name": "North"}),
    ):
        await rest.patch(path, **changes)
        assert await desired(rest, fleet) == revision, path
    for path, changes in (
        (f"/v1/metering/amr-tasks/{fleet.task}", {"run_offset_seconds": 20}),
        (f"/v1/metering/amr-tasks/{fleet.task}", {"is_active": False}),
        (f"/v1/metering/amr-tasks/{fleet.task}", {"is_active": True}),
        (f"/v1/metering/amr-task-groups/{fleet.group}", {"tasks": []}),
        (f"/v1/metering/amr-task-groups/{fleet.group}", {"tasks": [fleet.task]}),
        (f"/v1/metering/meter-devices/{fleet.meter}", {"task_groups": []}),
        (f"/v1/metering/meter-devices/{fleet.meter}", {"meter_tasks": [fleet.task]}),
        (f"/v1/metering/meter-devices/{fleet.meter}", {"name": "Bakery"}),
        (f"/v1/metering/network-interfaces/{fleet.line}", {"serial_port": "/dev/ttyS1"}),
        (f"/v1/metering/meter-device-configs/{fleet.config}", {"timezone": "UTC"}),
        (f"/v1/metering/meter-device-configs/{fleet.config}", {"timezone": "Europe/Berlin"}),
        (f"/v1/metering/meter-device-types/{fleet.type}", {"config": None}),
    ):
        await rest.patch(path, **changes)
        revision += 1
        assert await desired(rest, fleet) == revision, (path, changes)
    await rest.call("DELETE", f"/v1/metering/amr-tasks/{fleet.task}", status=204)
    assert await desired(rest, fleet) == revision + 1
    assert (await rest.get(f"/v1/metering/amr-task-groups/{fleet.group}"))["tasks"] == []
    await rest.call("DELETE", f"/v1/metering/meter-devices/{fleet.meter}", status=204)
    assert await desired(rest, fleet) == revision + 2


async def test_a_meter_that_moves_leaves_one_plan_and_enters_another(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    gateway = (await rest.post("/v1/gateways/", organization=fleet.organization, gateway_id="gw-2"))["id"]
    line = (
        await rest.post(
            "/v1/metering/network-interfaces",
            organization=fleet.organization,
            gateway=gateway,
            fqdn="meter.example",
            port=4001,
        )
    )["id"]
    before = {row["id"]: row["desired_revision"] for row in (await rest.get("/v1/gateways"))["results"]}
    answer = await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", network_interface=line)
    assert answer["network_interface_info"] == "meter.example:4001"
    after = {row["id"]: row["desired_revision"] for row in (await rest.get("/v1/gateways"))["results"]}
    assert after == {row: revision + 1 for row, revision in before.items()}


async def test_groups_name_their_tasks_for_people(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    assert (await rest.get(f"/v1/metering/amr-task-groups/{fleet.group}"))["tasks_info"] == "volume (quarterly)"


async def test_a_plan_that_is_too_large_is_409_and_names_the_gateway(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    now = rest.clock.now()
    async with writing(rest.hub.engine) as session:
        session.add_all(
            MeterDevice(
                organization=uuid.UUID(fleet.organization),
                name=secrets.token_hex(25),
                protocol="lis-200",
                manufacturer_serial=secrets.token_hex(25),
                network_interface=uuid.UUID(fleet.line),
                created_at=now,
                updated_at=now,
            )
            for _ in range(4000)
        )
    path = f"/v1/metering/amr-tasks/{fleet.task}"
    revision = await desired(rest, fleet)
    problem = await rest.call("PATCH", path, {"run_offset_seconds": 20}, 409)
    assert "gw-utility" in problem["detail"]
    assert (await rest.get(path))["run_offset_seconds"] == 10
    assert await desired(rest, fleet) == revision
