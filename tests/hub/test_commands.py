"""Direct invocation through REST: what is asked is judged at once, and can be followed to its end."""

import asyncio
import itertools
import uuid
from typing import Any

from sqlalchemy import func, select

from hub import command_updates, idempotency
from hub.command_watch import watch_of
from hub.database import reading, writing
from hub.models import Command, IdempotencyKey
from hub.notices import Notice, notices_of
from hub.tokens import create_token
from protocol.commands import CommandUpdate
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

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


_sequence = itertools.count(1)


async def end(rest: Rest, command: str, state: str) -> None:
    """Have a command come into a state, as a gateway says."""
    async with writing(rest.hub.engine) as session:
        row = await session.get_one(Command, uuid.UUID(command))
        update = CommandUpdate(uuid.uuid4(), row.id, state, rest.clock.now(), 1, next(_sequence))
        await command_updates.apply_updates(session, row.gateway, row.organization, [(0, update)], rest.clock.now())


async def test_an_invocation_echoes_and_can_be_followed(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    told = notices_of(rest.hub.engine).heard(Notice.COMMANDS)
    answer = await rest.call("POST", INVOKE, asked(fleet), 201)
    # On PostgreSQL it is the listener that hears (tests/hub/test_notices.py).
    assert told.is_set() == notices_of(rest.hub.engine).live, "the relay looks at once"
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


async def test_many_who_wait_cost_one_query_for_each_look(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    command = (await rest.call("POST", INVOKE, asked(fleet), 201))["command"]
    watch = watch_of(rest.hub)
    waiting = [asyncio.create_task(rest.get(f"/v1/commands/{command}?wait=30")) for _ in range(50)]
    async with watch.follow(rest.hub, lambda _event: False):
        async with asyncio.timeout(20):
            while len(watch._feeds) < 51:  # noqa: ASYNC110 - the watch has no event for it
                await asyncio.sleep(0.05)
        looks, begun = watch.looks, asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)
        assert watch.looks - looks <= (asyncio.get_running_loop().time() - begun) / 0.1 + 1
        await end(rest, command, "failed")
        assert {found["state"] for found in await asyncio.gather(*waiting)} == {"failed"}
    assert watch._task is None, "nobody waits, so nobody looks"


async def test_a_priority_is_kept_and_bounded(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    answer = await rest.call("POST", INVOKE, asked(fleet, priority=9), 201)
    assert answer["priority"] == (await rest.get(answer["command_url"]))["priority"] == 9
    for priority in (-1, 10):
        assert await rest.wrong_fields("POST", INVOKE, asked(fleet, priority=priority)) == {"priority"}


async def invoke(rest: Rest, body: object, key: str, status: int = 201) -> dict[str, Any]:
    """Invoke with a key."""
    answer = await rest.client.post(INVOKE, json=body, headers={"Idempotency-Key": key})
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def test_a_request_that_comes_again_with_its_key_makes_no_other_command(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    first = await invoke(rest, asked(fleet), "k-1")
    await end(rest, first["command"], "done")
    rest.clock.advance(hours=1)
    assert await invoke(rest, dict(reversed(asked(fleet).items())), "k-1") == first, "the same answer, however written"
    refused = await invoke(rest, asked(fleet, ttl_seconds=60), "k-1", 422)
    assert [error["field"] for error in refused["errors"]] == ["Idempotency-Key"]
    assert (await invoke(rest, asked(fleet), "k-2"))["command"] != first["command"]
    assert (await rest.get("/v1/commands"))["count"] == 2

    # A request that failed has taken no key, and another sender's keys are another's.
    await invoke(rest, asked(fleet, meter_device=str(uuid.uuid4())), "k-3", 404)
    await invoke(rest, asked(fleet), "k-3")
    async with writing(rest.hub.engine) as session:
        token = await create_token(session, "other", rest.clock.now())
    rest.client.headers["Authorization"] = f"Token {token}"
    assert (await invoke(rest, asked(fleet), "k-1"))["command"] != first["command"]

    for text in ("", "x" * 256, "\t"):
        answer = await rest.client.post(INVOKE, json=asked(fleet), headers={"Idempotency-Key": text})
        assert answer.status_code == 422, text
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_a_key_counts_for_a_day(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    first = await invoke(rest, asked(fleet), "k")
    rest.clock.advance(hours=24)
    second = await invoke(rest, asked(fleet, ttl_seconds=60), "k")
    assert second["command"] != first["command"]
    async with writing(rest.hub.engine) as session:
        rest.clock.advance(hours=23)
        await idempotency.forget(session, rest.clock.now())
        assert await session.scalar(select(func.count()).select_from(IdempotencyKey)) == 1
        rest.clock.advance(hours=1)
        await idempotency.forget(session, rest.clock.now())
        assert await session.scalar(select(func.count()).select_from(IdempotencyKey)) == 0


async def test_doubles_that_come_at_once_are_one(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    answers = await asyncio.gather(*(invoke(rest, asked(fleet), "k") for _ in range(8)))
    assert len({answer["command"] for answer in answers}) == 1
    async with reading(rest.hub.engine) as session:
        assert await session.scalar(select(func.count()).select_from(Command)) == 1
