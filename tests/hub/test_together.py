"""Many who edit at once: everyone gets an answer, and what the last one meant is what gateways are to run."""

import asyncio

from sqlalchemy import select

from hub import plans
from hub.database import reading, writing
from hub.models import Gateway
from hub.plan_contents import read_contents
from tests.parts.databases import database_url, engine
from tests.parts.rest import TASK, Fleet, Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

ROUNDS = 15


async def statuses(rest: Rest, *requests: tuple[str, str, object]) -> list[int]:
    """Send requests at once; return their statuses."""
    answers = await asyncio.gather(*(rest.client.request(method, path, json=body) for method, path, body in requests))
    return [answer.status_code for answer in answers]


async def second_gateway(rest: Rest, fleet: Fleet) -> str:
    """Make another gateway of the fleet's organization."""
    made = await rest.post("/v1/gateways", organization=fleet.organization, gateway_id="gw-second")
    return str(made["id"])


async def test_a_line_moves_while_its_meters_do(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    gateways = [fleet.gateway, await second_gateway(rest, fleet)]
    meters = [fleet.meter]
    for number in range(3):
        body = {"organization": fleet.organization, "protocol": "lis-200", "network_interface": fleet.line}
        meters.append((await rest.post("/v1/metering/meter-devices", name=f"m{number}", **body))["id"])
    line = f"/v1/metering/network-interfaces/{fleet.line}"
    for turn in range(ROUNDS):
        moves: list[tuple[str, str, object]] = [("PATCH", line, {"gateway": gateways[turn % 2]})]
        for number, meter in enumerate(meters):
            place = (None, fleet.line)[(turn + number) % 2]
            moves.append(("PATCH", f"/v1/metering/meter-devices/{meter}", {"network_interface": place}))
        moves = moves[turn % 5 :] + moves[: turn % 5]
        assert set(await statuses(rest, *moves)) == {200}
    async with reading(rest.hub.engine) as session:
        for gateway in (await session.scalars(select(Gateway))).all():
            content = (await read_contents(session, [gateway.id]))[gateway.id]
            assert gateway.content_digest in {None, content.digest()}


async def test_a_task_goes_while_it_is_given_out(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    group = f"/v1/metering/amr-task-groups/{fleet.group}"
    meter = f"/v1/metering/meter-devices/{fleet.meter}"
    for turn in range(ROUNDS):
        body = TASK | {"organization": fleet.organization, "name": f"task {turn}"}
        task = (await rest.post("/v1/metering/amr-tasks", **body))["id"]
        given, own, deleted = await statuses(
            rest,
            ("PATCH", group, {"tasks": [task, fleet.task]}),
            ("PATCH", meter, {"meter_tasks": [task]}),
            ("DELETE", f"/v1/metering/amr-tasks/{task}", None),
        )
        assert {given, own} <= {200, 409, 422}
        assert deleted == 204


async def test_a_meter_goes_while_its_line_moves(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    gateways = [fleet.gateway, await second_gateway(rest, fleet)]
    for turn in range(ROUNDS):
        body = {"organization": fleet.organization, "protocol": "lis-200", "network_interface": fleet.line}
        meter = (await rest.post("/v1/metering/meter-devices", name="gone", **body))["id"]
        moved, deleted = await statuses(
            rest,
            ("PATCH", f"/v1/metering/network-interfaces/{fleet.line}", {"gateway": gateways[(turn + 1) % 2]}),
            ("DELETE", f"/v1/metering/meter-devices/{meter}", None),
        )
        assert (moved, deleted) == (200, 204)


async def test_a_meter_goes_while_its_readings_come(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    for _ in range(ROUNDS):
        body = {"organization": fleet.organization, "protocol": "lis-200", "type": fleet.type, "name": "gone"}
        body |= {"network_interface": fleet.line}
        meter = (await rest.post("/v1/metering/meter-devices", **body))["id"]
        reading_of = {"series": "2:300", "timestamp": "2026-03-02T06:00:00Z", "value": "1"}
        by_id = {**reading_of, "series": fleet.series, "meter_device": meter, "organization": fleet.organization}
        call = {"meter_device": meter, "meter_execution_type": "generic_lis200", "task_call": "set_time"}
        deleted, pushed, stored, invoked = await statuses(
            rest,
            ("DELETE", f"/v1/metering/meter-devices/{meter}?with_readings=true", None),
            ("POST", "/v1/metering/new-meter-readings", {**reading_of, "meter": "gone"}),
            ("POST", "/v1/metering/meter-readings", by_id),
            ("POST", "/v1/metering/amr-tasks/invoke", call),
        )
        assert pushed == 201
        assert stored in {201, 422}
        assert invoked in {201, 404}
        assert deleted in {204, 409}
        if deleted != 204:
            await rest.call("DELETE", f"/v1/metering/meter-devices/{meter}?with_readings=true", status=204)


async def test_many_editors_leave_room_for_those_who_look(rest: Rest) -> None:
    """More editors of plans than the process has connections wait for each other, and a reader does not for them."""
    fleet = await create_fleet(rest)
    meter = f"/v1/metering/meter-devices/{fleet.meter}"
    async with writing(rest.hub.engine) as session:
        # As another process that edits: all editors here wait until it has ended.
        await plans.one_at_a_time(session)
        editing = [asyncio.ensure_future(rest.patch(meter, name=f"editor {n}")) for n in range(30)]
        await asyncio.sleep(0.3)
        await asyncio.wait_for(rest.get(meter), 5)
        assert not any(edit.done() for edit in editing)
    names = {answer["name"] for answer in await asyncio.gather(*editing)}
    assert names == {f"editor {n}" for n in range(30)}
