"""One call for many meters: a command each, refusals that say why, and one answer for how far it has come."""

import asyncio
import datetime as dt
import itertools
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from hub import calling, command_batches, command_updates, dispatch, models
from hub.database import reading, writing
from hub.models import Command, Gateway, MeterDevice, RunReport
from protocol import commands as states
from protocol.commands import CommandUpdate
from tests.hub.test_command_streams import events_in, follow
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

BATCHES = "/v1/command-batches"
CALL = {
    "meter_execution_type": "generic_lis200",
    "task_call": "read_single_value",
    "task_kwargs": {"address": "2:300"},
}
_sequence = itertools.count(1)


async def add_meters(rest: Rest, fleet: Fleet, count: int, prefix: str = "m", *, line: str | None = "") -> list[str]:
    """Put more meters into the fleet's group; ``line`` is theirs, the fleet's unless given."""
    owner = uuid.UUID(fleet.organization)
    network = uuid.UUID(line or fleet.line) if line is not None else None
    now = rest.clock.now()
    async with writing(rest.hub.engine) as session:
        rows = [
            MeterDevice(
                id=uuid.uuid4(),
                organization=owner,
                name=f"{prefix}-{number:05}",
                type=uuid.UUID(fleet.type),
                network_interface=network,
                protocol="lis-200",
                created_at=now,
                updated_at=now,
            )
            for number in range(count)
        ]
        session.add_all(rows)
        await session.flush()
        await session.execute(
            models.device_groups.insert(), [{"device": row.id, "group": uuid.UUID(fleet.group)} for row in rows]
        )
    return [str(row.id) for row in rows]


async def come_online(rest: Rest) -> None:
    """Have all gateways there."""
    async with writing(rest.hub.engine) as session:
        await session.execute(sa.update(Gateway).values(online=True, store_id=b"s" * 16))


async def commands_of(rest: Rest, batch: str) -> list[Command]:
    """Return the commands of a batch in the order of their turns."""
    async with reading(rest.hub.engine) as session:
        statement = sa.select(Command).where(Command.batch == uuid.UUID(batch)).order_by(Command.send_after)
        return list(await session.scalars(statement))


async def claim(rest: Rest) -> int:
    """Return how many commands a relay would send now."""
    async with reading(rest.hub.engine) as session:
        work = await dispatch.look(session, rest.clock.now())
    async with writing(rest.hub.engine) as session:
        claimed = len(await dispatch.claim_outgoing(session, rest.clock.now()))
    assert work.to_send or not claimed
    return claimed


async def end(rest: Rest, command: Command, state: str, cause: str = "", kind: str = "") -> None:
    """End a command as a gateway would, with the report of its run."""
    now = rest.clock.now()
    async with writing(rest.hub.engine) as session:
        session.add(
            RunReport(
                id=uuid.uuid4(),
                gateway=command.gateway,
                device=command.meter_device,
                command=command.id,
                outcome=state,
                kind=kind,
                cause=cause,
                ended=now,
                received_at=now,
            )
        )
        update = CommandUpdate(uuid.uuid4(), command.id, state, now, 1, next(_sequence), cause=cause)
        await command_updates.apply_updates(session, command.gateway, command.organization, [(0, update)], now)


async def test_a_group_is_asked_refused_followed_and_cancelled_as_one(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    rest.settle(stream_seconds=30)
    await add_meters(rest, fleet, 3)
    await add_meters(rest, fleet, 2, "unplugged", line=None)
    shut = await rest.post(
        "/v1/metering/network-interfaces",
        organization=fleet.organization,
        gateway=fleet.gateway,
        static_ip_address="10.0.0.7",
        port=4000,
        can_block=True,
    )
    await rest.call("POST", f"/v1/metering/network-interfaces/{shut['id']}/block")
    await add_meters(rest, fleet, 1, "shut", line=shut["id"])
    batch = await rest.post(BATCHES, task_group=fleet.group, **CALL, priority=3)
    path = f"{BATCHES}/{batch['id']}"
    assert (batch["meters"], batch["commands"], batch["refused"]) == (7, 4, 3)
    assert (batch["states"], batch["ended"], batch["final"]) == ({"pending": 4}, 0, False)
    assert [(cause["state"], cause["kind"], cause["count"]) for cause in batch["causes"]] == [
        ("refused", "no_interface", 2),
        ("refused", "blocked", 1),
    ]
    refusals = await rest.get(batch["refusals_url"])
    assert [row["meter"] for row in refusals["results"]] == ["shut-00000", "unplugged-00000", "unplugged-00001"]
    assert (await rest.get(f"{batch['refusals_url']}?reason=blocked"))["count"] == 1
    assert "has no network interface" in refusals["results"][1]["cause"]
    listed = await rest.get(batch["commands_url"])
    assert {(row["batch"], row["priority"]) for row in listed["results"]} == {(batch["id"], 3)}

    following = asyncio.create_task(follow(rest, f"{path}/events"))
    await asyncio.sleep(0.3)
    rows = await commands_of(rest, batch["id"])
    await end(rest, rows[0], states.DONE)
    await end(rest, rows[1], states.FAILED, "M1 on line 1 does not answer", "comms")
    await end(rest, rows[2], states.FAILED, "M2 on line 1 does not answer", "comms")
    found = await rest.get(path)
    assert (found["states"], found["ended"]) == ({"done": 1, "failed": 2, "pending": 1}, 3)
    assert [(cause["kind"], cause["count"], cause["cause"]) for cause in found["causes"]][:1] == [
        ("comms", 2, "M1 on line 1 does not answer")
    ]

    assert (await rest.call("POST", f"{path}/cancel"))["cancel_requested"] is True
    async with writing(rest.hub.engine) as session:
        assert await dispatch.end_overdue(session, rest.clock.now()) == 1, "it was not sent yet"
    told = await asyncio.wait_for(following, 20)
    assert told[0][1]["ended"] == 0
    assert (told[-1][1]["final"], told[-1][1]["states"]) == (True, {"cancelled": 1, "done": 1, "failed": 2})
    await follow(rest, f"{path}/events", told[-1][0], 204)
    await rest.call("POST", f"{path}/cancel", status=409)
    assert (await rest.get(f"{BATCHES}?task_group={fleet.group}"))["count"] == 1
    assert events_in("") == []


async def test_commands_of_a_batch_go_one_after_the_other_and_not_too_many_to_one_gateway(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "UNDER_WAY_PER_GATEWAY", 3)
    fleet = await create_fleet(rest)
    await add_meters(rest, fleet, 9)
    await come_online(rest)
    batch = await rest.post(BATCHES, gateway=fleet.gateway, **CALL, per_second=2, ttl_seconds=60)
    rows = await commands_of(rest, batch["id"])
    assert [row.send_after - rows[0].created_at for row in rows if row.send_after] == [
        dt.timedelta(seconds=number / 2) for number in range(10)
    ]
    assert batch["sent_until"] == "2026-03-02T12:00:04.500000Z"
    assert [row.ttl_seconds for row in rows] == [60, 61, 61, 62, 62, 63, 63, 64, 64, 65]
    assert await claim(rest) == 1
    assert await claim(rest) == 0
    rest.clock.advance(seconds=0.5)
    assert await claim(rest) == 1
    rest.clock.advance(seconds=10)
    assert await claim(rest) == 1, "the gateway has three"
    assert await claim(rest) == 0
    single = await rest.post("/v1/metering/amr-tasks/invoke", meter_device=fleet.meter, **CALL)
    assert await claim(rest) == 1, "what is asked for alone goes at once"
    assert single["state"] == "pending"
    for row in rows[:2]:
        await end(rest, row, states.DONE)
    assert await claim(rest) == 2


def test_meters_of_one_gateway_are_far_apart() -> None:
    gateways = [uuid.UUID(int=number) for number in (1, 1, 1, 2, 2, 3)]
    meters = [calling.Called(uuid.uuid4(), "", None, gateway, None) for gateway in gateways]
    assert [meter.gateway.int for meter in command_batches.in_turn(meters) if meter.gateway] == [1, 2, 3, 1, 2, 1]


async def test_batches_that_cannot_be(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    empty = await rest.post("/v1/metering/amr-task-groups/", organization=fleet.organization, name="empty", tasks=[])
    for changes, field in (
        ({}, "task_group"),
        ({"task_group": fleet.group, "gateway": fleet.gateway}, "task_group"),
        ({"task_group": fleet.group, "per_second": 0}, "per_second"),
        ({"task_group": fleet.group, "per_second": 1001}, "per_second"),
        ({"task_group": fleet.group, "priority": 10}, "priority"),
        ({"task_group": fleet.group, "task_kwargs": {}}, "task_kwargs.address"),
        ({"meter_devices": []}, "meter_devices"),
        ({"meter_devices": [fleet.meter, fleet.meter]}, "meter_devices"),
        ({"meter_devices": [fleet.meter, other.meter]}, "meter_devices"),
        ({"meter_devices": [fleet.meter, str(uuid.uuid4())]}, "meter_devices.1"),
    ):
        assert await rest.wrong_fields("POST", BATCHES, {**CALL, **changes}) == {field}, changes
    for name in ("task_group", "gateway"):
        await rest.call("POST", BATCHES, {**CALL, name: str(uuid.uuid4())}, 404)
    await rest.call("POST", BATCHES, {**CALL, "task_group": empty["id"]}, 409)
    await add_meters(rest, fleet, 2)
    monkeypatch.setattr(command_batches, "MOST_METERS", 2)
    await rest.call("POST", BATCHES, {**CALL, "task_group": fleet.group}, 409)
    assert (await rest.get("/v1/commands"))["count"] == (await rest.get(BATCHES))["count"] == 0


async def test_meters_by_their_ids_once_however_often_they_are_asked_for(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    meters = [fleet.meter, *await add_meters(rest, fleet, 3)]
    body: dict[str, Any] = {**CALL, "meter_devices": meters}
    answers = await asyncio.gather(
        *(rest.client.post(BATCHES, json=body, headers={"Idempotency-Key": "k"}) for _ in range(4))
    )
    assert {answer.status_code for answer in answers} == {201}, [answer.text for answer in answers]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert (await rest.get("/v1/commands"))["count"] == 4
    body["meter_devices"] = meters[:2]
    refused = await rest.client.post(BATCHES, json=body, headers={"Idempotency-Key": "k"})
    assert refused.status_code == 422
