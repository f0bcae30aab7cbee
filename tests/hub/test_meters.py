"""Meters, lines, types, configs, gateways and callers: what is particular about each."""

from typing import Any

from protocol.envelopes import SigningKey, fingerprint
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]


async def test_meters_that_cannot_be(rest: Rest) -> None:
    changes: dict[str, Any]
    for changes, field in (
        ({"protocol": "telepathy"}, "protocol"),
        ({"iec62056_21_address": "123456789"}, "iec62056_21_address"),
        ({"disconnector_status": 3}, "disconnector_status"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/passwd"}, "timezone"),
        ({"current_transformer_ratio": 2**40}, "current_transformer_ratio"),
        ({"dlms_system_title": "x" * 17}, "dlms_system_title"),
        ({"has_disconnector": "yes"}, "has_disconnector"),
        ({"name": ""}, "name"),
    ):
        body = {"name": "A", "protocol": "lis-200", **changes}
        assert await rest.wrong_fields("POST", "/v1/metering/meter-devices", body) == {field}


async def test_interfaces_that_cannot_be(rest: Rest) -> None:
    organization = (await rest.post("/v1/organizations/", name="o"))["id"]
    changes: dict[str, Any]
    for changes, field in (
        ({"static_ip_address": "256.1.1.1"}, "static_ip_address"),
        ({"port": -1}, "port"),
        ({"port": 65536}, "port"),
        ({"parity": "odd"}, "parity"),
        ({"rate": 10}, "rate"),
        ({"serial_port": "/dev/ttyS0", "fqdn": "x"}, "serial_port"),
        ({"sim": "00000000-0000-0000-0000-000000000001"}, "sim"),
    ):
        body = {"organization": organization, **changes}
        assert await rest.wrong_fields("POST", "/v1/metering/network-interfaces", body) == {field}


async def test_what_would_break_a_telegram_or_an_address_is_no_address(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    meter, line = f"/v1/metering/meter-devices/{fleet.meter}", f"/v1/metering/network-interfaces/{fleet.line}"
    for address in ("1\r\n", "!", "1!2", "ä", "\x7f"):
        assert await rest.wrong_fields("PATCH", meter, {"iec62056_21_address": address}) == {"iec62056_21_address"}
    for fine in ("1", "00000001", "12345678", "A b", "", None):
        assert (await rest.patch(meter, iec62056_21_address=fine))["iec62056_21_address"] == fine
    for host in ("a b", "a:1", "a/b", "x@y", "a\n"):
        body = {"serial_port": None, "fqdn": host, "port": 1}
        assert await rest.wrong_fields("PATCH", line, body) == {"fqdn"}
    assert await rest.wrong_fields("PATCH", line, {"serial_port": "/dev/tty\n"}) == {"serial_port"}
    for host in ("meter-7.example", "meter.example.", "zähler.example", "localhost"):
        assert (await rest.patch(line, serial_port=None, fqdn=host, port=1))["host"] == host


async def test_an_interface_prefers_its_name_to_its_address(rest: Rest) -> None:
    organization = (await rest.post("/v1/organizations/", name="o"))["id"]
    path = "/v1/metering/network-interfaces"
    made = await rest.post(path, organization=organization, static_ip_address="192.0.2.7", port=4001)
    assert made["host"] == "192.0.2.7"
    assert (made["is_blocked"], made["block_time"]) == (False, None)
    assert (await rest.patch(f"{path}/{made['id']}", fqdn="meter.example"))["host"] == "meter.example"


async def test_configs_know_the_zones_of_the_world_only(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/metering/meter-device-configs/{fleet.config}"
    for zone in ("Europe/Berlin", "America/Argentina/Ushuaia", "UTC"):
        assert (await rest.patch(path, timezone=zone))["timezone"] == zone
    for zone in ("", "Berlin", "+01:00", "/etc/localtime"):
        assert await rest.wrong_fields("PATCH", path, {"timezone": zone}) == {"timezone"}
    assert (await rest.get(path))["series_info"] == "2:300 (m3)"


async def test_mappings_lead_to_series_of_the_config(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/metering/meter-device-configs/{fleet.config}"
    mapping = {"archive": 3, "source": "2:300", "series": "2:300"}
    assert (await rest.patch(path, mappings=[mapping]))["mappings"] == [mapping]
    assert (await rest.patch(path, name="EK"))["mappings"] == [mapping]
    strange = {**mapping, "series": "7-0:13.83.0"}
    assert await rest.wrong_fields("PATCH", path, {"mappings": [strange]}) == {"mappings.0.series"}
    assert await rest.wrong_fields("PATCH", path, {"mappings": [mapping, mapping]}) == {"mappings.1"}
    assert await rest.wrong_fields("PATCH", path, {"mappings": [{"archive": 3}]}) == {"mappings[0]"}


async def test_gateway_ids_must_stand_in_topics(rest: Rest) -> None:
    organization = (await rest.post("/v1/organizations/", name="o"))["id"]
    for gateway_id in ("", "hub", "North", "a/b", "a+", "#", "x" * 64, "-a"):
        body = {"organization": organization, "gateway_id": gateway_id}
        assert await rest.wrong_fields("POST", "/v1/gateways", body) == {"gateway_id"}


async def test_a_gateway_keeps_its_id(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/gateways/{fleet.gateway}"
    assert await rest.wrong_fields("PATCH", path, {"gateway_id": "other"}) == {"gateway_id"}
    assert (await rest.patch(path, name="North"))["gateway_id"] == "gw-utility"
    assert (await rest.call("POST", f"{path}/forget-key"))["key_fingerprint"] is None


async def test_callers(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    key = SigningKey.generate().public
    before = (await rest.get(f"/v1/gateways/{fleet.gateway}"))["desired_revision"]
    body = {
        "organization": fleet.organization,
        "gateway": fleet.gateway,
        "name": "field-laptop",
        "public_key": key.hex(),
        "allowed": ["generic_lis200.read_single_value"],
    }
    made = await rest.call("POST", "/v1/callers/", body, 201)
    assert made["key_fingerprint"] == fingerprint(key)
    assert made["public_key"] == key.hex()
    path = f"/v1/callers/{made['id']}"
    assert (await rest.patch(path, expires="2027-01-01T00:00:00Z"))["public_key"] == key.hex()
    assert (await rest.get(f"/v1/gateways/{fleet.gateway}"))["desired_revision"] == before + 2
    for changes, field in (
        ({"name": "A b"}, "name"),
        ({"public_key": "abc"}, "public_key"),
        ({"allowed": ["generic_lis200.explode"]}, "allowed.0"),
        ({"expires": "2027-01-01T00:00:00"}, "expires"),
    ):
        assert await rest.wrong_fields("PATCH", path, changes) == {field}
    await rest.call("POST", "/v1/callers/", body, 409)
    await rest.call("DELETE", path, status=204)
    assert (await rest.get(f"/v1/gateways/{fleet.gateway}"))["desired_revision"] == before + 3


async def test_meters_of_a_gateway_are_those_on_its_lines_and_those_that_push_to_it(rest: Rest) -> None:
    mine, other = await create_fleet(rest, "mine"), await create_fleet(rest, "other")
    owner = {"organization": mine.organization}
    pushing = await rest.post("/v1/metering/meter-devices", **owner, name="P1", protocol="iec62056-21")
    receiver = {"gateway": mine.gateway, "name": "p1", "receiver": "dsmr_p1", "endpoint": "/dev/ttyUSB0"}
    await rest.post("/v1/receivers", **owner, **receiver, meter_devices=[pushing["id"]])

    async def found(query: str) -> set[str]:
        return {row["id"] for row in (await rest.get(f"/v1/metering/meter-devices?{query}"))["results"]}

    assert await found(f"gateway={mine.gateway}") == {mine.meter, pushing["id"]}
    assert await found(f"network_interface={mine.line}") == {mine.meter}
    assert await found(f"organization={other.organization}") == {other.meter}
    assert await found(f"gateway={other.gateway}&organization={mine.organization}") == set()
    assert await rest.wrong_fields("GET", "/v1/metering/meter-devices?gateway=gw-mine", None) == {"gateway"}
    for path in ("/v1/metering/amr-tasks", "/v1/metering/amr-task-groups"):
        name = (await rest.get(path))["results"][0]["name"]
        rows = (await rest.get(f"{path}?name={name}&organization={mine.organization}"))["results"]
        assert [row["organization"] for row in rows] == [mine.organization]
    assert [row["id"] for row in (await rest.get("/v1/organizations?name=mine"))["results"]] == [mine.organization]
