"""Direct invocation through REST: what is asked is judged at once, and can be followed to its end."""

import asyncio
import uuid
from typing import Any

from sqlalchemy import update

from hub.database import writing
from hub.models import Command
from tests.parts.databases import database_url, engine
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

INVOKE = "/v1/metering/amr-tasks/invoke"


def asked(fleet: Fleet, **changes: object) -> dict[str, Any]:
    """Return an invocation."""
    return {
        "meter_device": fleet.meter,
        "meter_execution_type": "generic_lis200",
        "task_call": "read_single_value",
        "task_kwargs": {"address": "2:300"},
        "run_offset_seconds": 0,
        **changes,
    }


async def end(rest: Rest, command: str, state: str) -> None:
    """End a command as a gateway would."""
    async with writing(rest.hub.engine) as session:
        await session.execute(
            update(Command).where(Command.id == uuid.UUID(command)).values(state=state, ended_at=rest.clock.now())
        )


async def test_an_invocation_echoes_and_can_be_followed(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    rest.hub.wake.clear()
    answer = await rest.call("POST", INVOKE, asked(fleet), 201)
    assert rest.hub.wake.is_set(), "the relay looks at once"
    assert asked(fleet).items() <= answer.items()
    assert answer["command_url"] == f"/v1/commands/{answer['command']}"
    assert answer["ttl_seconds"] == 300
    found = await rest.get(answer["command_url"])
    assert (found["state"], found["final"], found["origin"]) == ("pending", False, "hub")
    assert found["gateway"] == fleet.gateway
    assert (await rest.get("/v1/commands?state=pending"))["count"] == 1
    assert (await rest.get("/v1/metering/amr-tasks/"))["count"] == 1, "no task is saved"


async def test_waiting_ends_with_the_command_or_the_time(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    answer = await rest.call("POST", INVOKE, asked(fleet), 201)
    assert (await rest.get(f"{answer['command_url']}?wait=1"))["state"] == "pending"
    waiting = asyncio.create_task(rest.get(f"{answer['command_url']}?wait=30"))
    await asyncio.sleep(0.2)
    await end(rest, answer["command"], "done")
    assert (await asyncio.wait_for(waiting, 5))["state"] == "done"
    answer = await rest.call("POST", INVOKE, asked(fleet), 201)
    waiting = asyncio.create_task(rest.get(f"{answer['command_url']}?wait=30"))
    await asyncio.sleep(0.2)
    rest.hub.stopping.set()
    assert (await asyncio.wait_for(waiting, 5))["state"] == "pending", "a hub that ends answers as it stands"
    for wait in ("61", "-1", "x", "1.5"):
        await rest.get(f"{answer['command_url']}?wait={wait}", 422)
    await rest.get(f"/v1/commands/{uuid.uuid4()}?wait=5", 404)


async def test_invocations_that_cannot_be(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    for changes, field in (
        ({"task_kwargs": {"adress": "2:300"}}, "task_kwargs.adress"),
        ({"task_kwargs": {}}, "task_kwargs.address"),
        ({"task_call": "explode"}, "task_call"),
        ({"meter_execution_type": "x"}, "meter_execution_type"),
        ({"run_offset_seconds": -1}, "run_offset_seconds"),
        ({"run_offset_seconds": 604_801}, "run_offset_seconds"),
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"ttl_seconds": 604_801}, "ttl_seconds"),
        ({"run_offset_seconds": 60, "ttl_seconds": 60}, "ttl_seconds"),
        ({"meter_device": "x"}, "meter_device"),
        ({"colour": "red"}, "colour"),
    ):
        assert field in await rest.wrong_fields("POST", INVOKE, asked(fleet, **changes)), changes
    await rest.call("POST", INVOKE, asked(fleet, meter_device=str(uuid.uuid4())), 404)
    assert (await rest.get("/v1/commands"))["count"] == 0


async def test_a_delay_lengthens_the_life(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    answer = await rest.call("POST", INVOKE, asked(fleet, run_offset_seconds=3600), 201)
    assert answer["ttl_seconds"] == 3900
    assert (await rest.get(answer["command_url"]))["run_offset_seconds"] == 3600


async def test_a_meter_that_nobody_reads_is_409(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    line = f"/v1/metering/network-interfaces/{fleet.line}"
    await rest.patch(line, gateway=None)
    assert "gateway" in (await rest.call("POST", INVOKE, asked(fleet), 409))["detail"]
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", network_interface=None)
    assert "network interface" in (await rest.call("POST", INVOKE, asked(fleet), 409))["detail"]


async def test_cancelling(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    answer = await rest.call("POST", INVOKE, asked(fleet), 201)
    path = f"{answer['command_url']}/cancel"
    assert (await rest.call("POST", path))["cancel_requested"] is True
    assert (await rest.call("POST", path))["cancel_requested"] is True
    await end(rest, answer["command"], "cancelled")
    assert "cancelled" in (await rest.call("POST", path, status=409))["detail"]
    await rest.call("POST", f"/v1/commands/{uuid.uuid4()}/cancel", status=404)
