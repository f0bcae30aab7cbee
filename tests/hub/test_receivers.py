"""Receivers through REST: what is wrong is named, the plan says it, readings are the meter's, what is none is seen."""

import uuid

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models, plans, undecodable_pushes
from hub.database import reading as looking
from hub.database import writing
from hub.ingest import store_deliveries
from protocol import reports
from protocol.plans import PushMeter, SeriesMapping, read_plan
from protocol.plans import Receiver as PlanReceiver
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import engine, url_of_walks
from tests.parts.estates import NOW, GatewayVoice
from tests.parts.estates import reading as new_reading
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]


async def receiver_of(rest: Rest, fleet: Fleet, **more: object) -> dict[str, object]:
    """What a client would send, with a meter that is only pushed."""
    meter = await rest.post(
        "/v1/metering/meter-devices",
        organization=fleet.organization,
        name="House 7",
        protocol="iec62056-21",
        manufacturer_serial="K8EG004046395507",
        type=fleet.type,
        timezone="Europe/Amsterdam",
    )
    return {
        "organization": fleet.organization,
        "gateway": fleet.gateway,
        "name": "p1",
        "receiver": "dsmr_p1",
        "endpoint": "socket://10.0.0.7:8023",
        "receiver_kwargs": {"raster": "hour"},
        "meter_devices": [meter["id"]],
    } | more


async def plan_of(engine: AsyncEngine, gateway: str) -> tuple[int, list[object]]:
    async with looking(engine) as session:
        rendered = await plans.render(session, uuid.UUID(gateway))
    assert rendered is not None
    plan = read_plan(rendered.body)
    assert plan.problems == []
    return plan.revision, [*plan.receivers.values()]


async def test_a_receiver_goes_into_its_gateways_plan_and_out_again(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    body = await receiver_of(rest, fleet)
    before, none = await plan_of(engine, fleet.gateway)
    made = await rest.post("/v1/receivers", **body)
    assert made["identity_field"] == "manufacturer_serial"
    revision, (planned,) = await plan_of(engine, fleet.gateway)
    assert (none, revision) == ([], before + 1)
    (meter,) = made["meter_devices"]
    assert planned == PlanReceiver(
        uuid.UUID(made["id"]),
        "p1",
        "dsmr_p1",
        "socket://10.0.0.7:8023",
        {"raster": "hour"},
        [PushMeter(uuid.UUID(meter), "House 7", "K8EG004046395507", "Europe/Amsterdam")],
    )
    # What it says of its meters follows them, also through the config of their type.
    await rest.patch(f"/v1/metering/meter-devices/{meter}", manufacturer_serial="E 17")
    mapping = {"archive": 0, "source": "1-0:1.8.1", "series": "2:300"}
    await rest.patch(f"/v1/metering/meter-device-configs/{fleet.config}", mappings=[mapping])
    revision, (planned,) = await plan_of(engine, fleet.gateway)
    assert revision == before + 3
    assert isinstance(planned, PlanReceiver)
    assert planned.meters[0].identity == "E 17"
    assert planned.meters[0].mappings == [SeriesMapping(0, "1-0:1.8.1", "2:300")]
    await rest.patch(f"/v1/receivers/{made['id']}", is_active=False)
    assert await plan_of(engine, fleet.gateway) == (before + 4, [])
    await rest.call("DELETE", f"/v1/gateways/{fleet.gateway}", status=409)
    await rest.call("DELETE", f"/v1/receivers/{made['id']}", status=204)
    assert (await rest.get("/v1/receivers"))["count"] == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"receiver": "telepathy"}, "receiver"),
        ({"endpoint": "udp://0.0.0.0:1"}, "endpoint"),
        ({"endpoint": "somewhere"}, "endpoint"),
        ({"receiver_kwargs": {"rastr": "hour"}}, "receiver_kwargs.rastr"),
        ({"receiver_kwargs": {"raster": 15}}, "receiver_kwargs.raster"),
        ({"meter_devices": [str(uuid.uuid4())]}, "meter_devices"),
    ],
)
async def test_what_is_wrong_is_named(rest: Rest, change: dict[str, object], field: str) -> None:
    body = await receiver_of(rest, await create_fleet(rest))
    assert await rest.wrong_fields("POST", "/v1/receivers", body | change) == {field}


async def test_each_of_several_meters_needs_what_payloads_call_it(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    body = await receiver_of(rest, fleet)
    assert isinstance(body["meter_devices"], list)
    both = body | {"meter_devices": [*body["meter_devices"], fleet.meter]}
    assert await rest.wrong_fields("POST", "/v1/receivers", both) == {"meter_devices"}
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", manufacturer_serial="K8EG004046395507")
    assert await rest.wrong_fields("POST", "/v1/receivers", both) == {"meter_devices"}
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", manufacturer_serial="4711")
    assert len((await rest.post("/v1/receivers", **both))["meter_devices"]) == 2


async def test_what_a_gateway_pushes_for_its_receivers_meter_is_a_reading(rest: Rest, engine: AsyncEngine) -> None:
    """The meter is on no line: it is the gateway's through the receiver, and stays so for a backlog."""
    fleet = await create_fleet(rest)
    body = await receiver_of(rest, fleet)
    made = await rest.post("/v1/receivers", **body)
    device = uuid.UUID(made["meter_devices"][0])
    voice = GatewayVoice("gw-utility")
    await store_deliveries(engine, [voice.readings(new_reading(device, "1.5", meter="House 7"))], NOW, 10)
    await rest.call("DELETE", f"/v1/receivers/{made['id']}", status=204)
    later = voice.readings(new_reading(device, "2.5", meter="House 7", at=15))
    await store_deliveries(engine, [later], NOW, 10)
    found = await rest.get(f"/v1/metering/meter-readings?meter_device={device}")
    assert [row["value"] for row in found["results"]] == ["1.5", "2.5"]


async def test_what_could_not_be_taken_is_seen_with_its_bytes_and_bounded(
    rest: Rest, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = await create_fleet(rest)
    receiver = uuid.uuid4()
    told = [
        reports.UndecodablePush(
            uuid.uuid4(), receiver, "p1", rest.clock.now(), "damaged on the way", b"/ISK5\xff", 812, "10.0.0.7", count=n
        )
        for n in (1, 2, 3)
    ]
    voice = GatewayVoice("gw-utility")
    delivery = voice.rows(Channel.REPORT, [encode(one) for one in told])
    again = voice.rows(Channel.REPORT, [encode(one) for one in told])
    await store_deliveries(engine, [delivery, again], rest.clock.now(), 10)
    found = await rest.get(f"/v1/undecodable-pushes?receiver={receiver}&gateway={fleet.gateway}")
    assert found["count"] == 3
    assert {(row["payload"], row["text"], row["cause"], row["size"]) for row in found["results"]} == {
        ("2f49534b35ff", "/ISK5\\xff", "damaged on the way", 812)
    }
    monkeypatch.setattr(undecodable_pushes, "MOST_KEPT", 2)
    async with writing(engine) as session:
        assert await undecodable_pushes.forget_oldest(session) == 1
    async with looking(engine) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(models.UndecodablePush)) == 2
    left = (await rest.get("/v1/undecodable-pushes"))["results"]
    await rest.call("DELETE", f"/v1/undecodable-pushes/{left[0]['id']}", status=204)
    assert (await rest.get("/v1/undecodable-pushes"))["count"] == 1
