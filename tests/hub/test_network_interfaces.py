"""Network interfaces: where they lead, by name, address or SIM card, and that a blocked one is left alone."""

from typing import Any

from sqlalchemy import select

from hub.database import reading
from hub.models import Gateway
from hub.plan_contents import read_contents
from protocol.plans import Line
from protocol.wire import decode
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

LINES = "/v1/metering/network-interfaces"
CARDS = "/v1/metering/sim-cards"


async def make_card(rest: Rest, fleet: Fleet, **more: object) -> dict[str, Any]:
    """Make a SIM card of the fleet's organization."""
    made: dict[str, Any] = await rest.post(
        CARDS, organization=fleet.organization, iccid="89490200001234567890", imsi="262011234567890", **more
    )
    return made


async def endpoints(rest: Rest) -> list[str]:
    """The places that the gateway's plan names, of lines that meters are on or not."""
    async with reading(rest.hub.engine) as session:
        gateway = (await session.scalars(select(Gateway.id).where(Gateway.gateway_id == "gw-utility"))).one()
        lines = (await read_contents(session, [gateway]))[gateway].lines
    return [decode(line, Line).endpoint for line in lines]


async def test_a_host_is_the_name_then_the_address_then_the_card(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    card = await make_card(rest, fleet, ip_address="10.1.2.3")
    path = f"{LINES}/{fleet.line}"
    found = await rest.patch(path, serial_port=None, port=4000, sim=card["id"])
    assert found["host"] == "10.1.2.3"
    assert await endpoints(rest) == ["socket://10.1.2.3:4000"]
    assert (await rest.patch(path, static_ip_address="192.0.2.7"))["host"] == "192.0.2.7"
    assert (await rest.patch(path, fqdn="meter.example"))["host"] == "meter.example"
    assert await endpoints(rest) == ["socket://meter.example:4000"]
    assert (await rest.patch(path, static_ip_address=None, fqdn=""))["host"] == "10.1.2.3"
    meter = await rest.get(f"/v1/metering/meter-devices/{fleet.meter}")
    assert meter["network_interface_info"] == "10.1.2.3:4000"
    assert "network interfaces" in (await rest.call("DELETE", f"{CARDS}/{card['id']}", status=409))["detail"]


async def test_an_edit_of_a_card_reaches_the_gateway(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    card = await make_card(rest, fleet, ip_address="10.1.2.3")
    await rest.patch(f"{LINES}/{fleet.line}", serial_port=None, port=4000, sim=card["id"])
    gateway = f"/v1/gateways/{fleet.gateway}"
    before = (await rest.get(gateway))["desired_revision"]
    await rest.patch(f"{CARDS}/{card['id']}", phone_number="+49 170 1234567")
    assert (await rest.get(gateway))["desired_revision"] == before
    await rest.patch(f"{CARDS}/{card['id']}", ip_address="10.9.9.9")
    assert (await rest.get(gateway))["desired_revision"] == before + 1
    assert await endpoints(rest) == ["socket://10.9.9.9:4000"]


async def test_cards_are_known_by_their_number_once_in_an_organization(rest: Rest) -> None:
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    card = await make_card(rest, fleet)
    body = {"iccid": card["iccid"], "imsi": "1"}
    assert "iccid" in (await rest.call("POST", CARDS, {**body, "organization": fleet.organization}, 409))["detail"]
    await rest.call("POST", CARDS, {**body, "organization": other.organization}, 201)
    await rest.call("POST", CARDS, body, 201)
    await rest.call("POST", CARDS, body, 409)
    line = f"{LINES}/{other.line}"
    assert await rest.wrong_fields("PATCH", line, {"sim": card["id"]}) == {"sim"}
    for field, value in (
        ("ip_address", "10.1.2"),
        ("external_system_link", "javascript:alert(1)"),
        ("external_system_link", "https://"),
        ("external_system_link", "https://sims example/"),
    ):
        assert await rest.wrong_fields("PATCH", f"{CARDS}/{card['id']}", {field: value}) == {field}


async def test_nobody_talks_on_a_blocked_interface(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"{LINES}/{fleet.line}"
    call = {
        "meter_device": fleet.meter,
        "meter_execution_type": "generic_lis200",
        "task_call": "read_single_value",
        "task_kwargs": {"address": "2:300"},
    }
    assert "can_block" in (await rest.call("POST", f"{path}/block", status=409))["detail"]
    await rest.patch(path, can_block=True)
    revision = (await rest.get(f"/v1/gateways/{fleet.gateway}"))["desired_revision"]
    rest.clock.advance(minutes=1)
    blocked = await rest.call("POST", f"{path}/block")
    assert blocked["is_blocked"]
    assert blocked["block_time"] == "2026-03-02T12:01:00Z"
    rest.clock.advance(minutes=1)
    assert await rest.call("POST", f"{path}/block") == blocked
    assert await endpoints(rest) == []
    assert (await rest.get(f"/v1/gateways/{fleet.gateway}"))["desired_revision"] == revision + 1
    assert "blocked" in (await rest.call("POST", "/v1/metering/amr-tasks/invoke", call, 409))["detail"]
    meter = await rest.get(f"/v1/metering/meter-devices/{fleet.meter}")
    assert meter["network_interface_info"] == "/dev/ttyS0, blocked"
    # What a client says of it counts for nothing.
    assert (await rest.patch(path, is_blocked=False, block_time=None, name="line"))["is_blocked"]
    free = await rest.call("POST", f"{path}/unblock")
    assert (free["is_blocked"], free["block_time"]) == (False, None)
    assert await endpoints(rest) == ["/dev/ttyS0"]
    await rest.call("POST", "/v1/metering/amr-tasks/invoke", call, 201)


async def test_who_takes_the_right_to_block_away_unblocks(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"{LINES}/{fleet.line}"
    await rest.patch(path, can_block=True)
    await rest.call("POST", f"{path}/block")
    free = await rest.patch(path, can_block=False)
    assert (free["is_blocked"], free["block_time"]) == (False, None)
    assert await endpoints(rest) == ["/dev/ttyS0"]
