"""Readings, staged readings and events as staff and pushing meters send and see them."""

from typing import Any

from tests.parts.databases import database_url, engine
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

READINGS = "/v1/metering/meter-readings"
PUSH = "/v1/metering/new-meter-readings"
STAGED = "/v1/metering/staged-meter-readings"


def of(fleet: Fleet, **changes: object) -> dict[str, Any]:
    """Return a reading as staff sends it."""
    return {
        "organization": fleet.organization,
        "meter_device": fleet.meter,
        "series": fleet.series,
        "timestamp": "2026-03-02T06:00:00Z",
        "value": "12.50",
        **changes,
    }


async def test_another_value_is_a_version_and_the_last_one_counts(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    first = await rest.call("POST", READINGS, of(fleet), 201)
    assert (first["value"], first["provenance"], first["unit"]) == ("12.50", "staff", "m3")
    assert "versions" not in first
    rest.clock.advance(minutes=1)
    same = await rest.call("POST", READINGS, of(fleet), 201)
    assert (same["id"], same["version_count"]) == (first["id"], 1)
    rest.clock.advance(minutes=1)
    second = await rest.call("POST", READINGS, of(fleet, value="13.75"), 201)
    assert (second["id"], second["value"]) == (first["id"], "13.75")
    assert [version["value"] for version in second["versions"]] == ["12.50", "13.75"]
    assert (await rest.get(READINGS))["count"] == 1
    await rest.call("DELETE", f"{READINGS}/{first['id']}", status=204)
    await rest.get(f"{READINGS}/{first['id']}", 404)
    again = await rest.call("POST", READINGS, of(fleet, value="1"), 201)
    assert again["version_count"] == 1
    assert again["id"] > first["id"], "ids are never given again"


async def test_a_value_that_was_pushed_and_another_that_somebody_gave_both_say_which_way_they_came(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    pushed = {"meter": "Heating plant", "series": "2:300", "timestamp": "2026-03-02T06:00:00Z", "value": "12.50"}
    await rest.call("POST", PUSH, pushed, 201)
    rest.clock.advance(minutes=1)
    corrected = await rest.call("POST", READINGS, of(fleet, value="13.75"), 201)
    assert (corrected["value"], corrected["provenance"]) == ("13.75", "staff")
    assert [(one["value"], one["provenance"], one["gateway"]) for one in corrected["versions"]] == [
        ("12.50", "push", None),
        ("13.75", "staff", None),
    ]
    rest.clock.advance(minutes=1)
    await rest.call("POST", PUSH, pushed, 201)
    [shown] = (await rest.get(READINGS))["results"]
    assert (shown["value"], shown["provenance"]) == ("12.50", "push"), "what was collected last counts"


async def test_numbers_stay_exact(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    values = (
        ('"0.100000000000000005"', "0.100000000000000005"),
        ("1234567890123456789.123456789", "1234567890123456789.123456789"),
        ('"-0.00"', "0.00"),
        ("1e3", "1000"),
    )
    for hour, (given, expected) in enumerate(values):
        body = of(fleet, timestamp=f"2026-03-02T{hour:02}:00:00Z", value="VALUE")
        content = str(body).replace("'", '"').replace('"VALUE"', given)
        answer = await rest.client.post(READINGS, content=content)
        assert answer.status_code == 201, answer.text
        stored = (await rest.get(f"{READINGS}/{answer.json()['id']}"))["value"]
        assert stored.lstrip("-") == expected


async def test_readings_that_cannot_be(rest: Rest) -> None:
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    strange = await rest.post(
        "/v1/metering/meter-reading-series", organization=fleet.organization, name="4:300", unit="m3"
    )
    for changes, field in (
        ({"value": "NaN"}, "value"),
        ({"value": "Infinity"}, "value"),
        ({"value": "1E+400000"}, "value"),
        ({"value": "1" * 39}, "value"),
        ({"value": "12,5"}, "value"),
        ({"value": None}, "value"),
        ({"value": True}, "value"),
        ({"timestamp": "2026-03-02T06:00:00"}, "timestamp"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"series": strange["id"]}, "series"),
        ({"series": other.series}, "series"),
        ({"meter_device": other.meter}, "meter_device"),
    ):
        assert await rest.wrong_fields("POST", READINGS, of(fleet, **changes)) == {field}, changes
    assert (await rest.get(READINGS))["count"] == 0


async def test_lists_of_readings(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    for hour in (3, 1, 2):
        await rest.call("POST", READINGS, of(fleet, timestamp=f"2026-03-02T{hour:02}:00:00Z", value=str(hour)), 201)

    async def values(query: str) -> list[str]:
        return [row["value"] for row in (await rest.get(f"{READINGS}?{query}"))["results"]]

    assert await values(f"meter_device={fleet.meter}&series={fleet.series}") == ["1", "2", "3"]
    assert await values("ordering=-timestamp") == ["3", "2", "1"]
    assert await values("start_time=2026-03-02T02:00:00Z&end_time=2026-03-02T02:00:00Z") == ["2"]
    assert await values("start_time=2026-03-02T03:00:00+01:00") == ["2", "3"]
    assert await values("start_time=2026-03-02T03:00:00%2B01:00") == ["2", "3"]
    assert await values(f"meter_device={fleet.line}") == []
    for query in ("start_time=2026-03-02", "start_time=x", "meter_device=1", "ordering=value", "start=2026"):
        await rest.get(f"{READINGS}?{query}", 422)


async def test_a_meter_with_readings_is_not_deleted_by_accident(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    await rest.call("POST", READINGS, of(fleet), 201)
    rest.clock.advance(seconds=1)
    await rest.call("POST", READINGS, of(fleet, value="13"), 201)
    path = f"/v1/metering/meter-devices/{fleet.meter}"
    assert "1 readings" in (await rest.call("DELETE", path, status=409))["detail"]
    await rest.call("DELETE", f"{path}?with_readings=true", status=204)
    assert (await rest.get(READINGS))["count"] == 0


def pushed(meter: str, hour: int = 6, **changes: object) -> dict[str, object]:
    """Return a reading as a pushing meter sends it."""
    timestamp = f"2026-03-02T{hour:02}:00:00Z"
    return {"meter": meter, "series": "2:300", "timestamp": timestamp, "value": f"{hour}.50", **changes}


async def test_pushed_readings_of_a_meter_that_comes_later(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    answer = await rest.call("POST", PUSH, [pushed("Late", hour) for hour in range(3)], 201)
    assert [row["outcome"] for row in answer] == ["staged"] * 3
    await rest.call("POST", PUSH, pushed("Late", 0), 201)
    staged = await rest.get(f"{STAGED}?meter_device_name=Late")
    assert {row["reason"] for row in staged["results"]} == {"unknown_meter"}
    await rest.post(
        "/v1/metering/meter-devices",
        organization=fleet.organization,
        name="Late",
        protocol="lis-200",
        type=fleet.type,
    )
    assert (await rest.get(STAGED))["count"] == 0
    readings = (await rest.get(READINGS))["results"]
    assert [row["value"] for row in readings] == ["0.50", "1.50", "2.50"]
    one = await rest.call("POST", PUSH, pushed("Late", 3), 201)
    assert one == {"meter": "Late", "series": "2:300", "timestamp": "2026-03-02T03:00:00Z", "value": "3.50"} | {
        "outcome": "stored"
    }
    assert (await rest.call("POST", PUSH, pushed("Late", 3), 201))["outcome"] == "duplicate"
    assert (await rest.call("POST", PUSH, pushed("Late", 3, value="4"), 201))["outcome"] == "revision"


async def test_pushed_lists_are_taken_whole_or_not_at_all(rest: Rest) -> None:
    await create_fleet(rest)
    good = pushed("Heating plant")
    for bad, field in (
        ({**good, "series": "9:999"}, "series"),
        ({**good, "value": "NaN"}, "value"),
        ({**good, "timestamp": "1999-12-31T00:00:00Z"}, "timestamp"),
        ({**good, "timestamp": "2036-12-31T00:00:00Z"}, "timestamp"),
        ({**good, "colour": "red"}, "colour"),
    ):
        assert await rest.wrong_fields("POST", PUSH, [good, bad]) == {f"1.{field}"}
        assert await rest.wrong_fields("POST", PUSH, bad) == {field}
    assert await rest.wrong_fields("POST", PUSH, [good, 7]) == {"1"}
    assert (await rest.get(READINGS))["count"] == 0
    assert await rest.call("POST", PUSH, [], 201) == []


async def test_a_name_that_several_have_needs_the_organization(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    await create_fleet(rest, "other")
    assert (await rest.call("POST", PUSH, pushed("Heating plant"), 201))["outcome"] == "staged"
    named = pushed("Heating plant", organization=fleet.organization)
    assert (await rest.call("POST", PUSH, named, 201))["outcome"] == "stored"


async def test_staff_corrects_staged_readings(rest: Rest) -> None:
    await create_fleet(rest)
    await rest.call("POST", PUSH, pushed("Heating plnat"), 201)
    row = (await rest.get(STAGED))["results"][0]
    path = f"{STAGED}/{row['id']}"
    assert (await rest.patch(path, series_name="2:300"))["reason"] == "unknown_meter"
    assert await rest.wrong_fields("PATCH", path, {"value": "Infinity"}) == {"value"}
    assert (await rest.patch(path, meter_device_name="Heating plant"))["reason"] == "acceptable"
    await rest.post("/v1/metering/meter-devices", name="Other", protocol="lis-200")
    assert (await rest.get(STAGED))["count"] == 0, "any commit of a meter sweeps"
    assert (await rest.get(READINGS))["count"] == 1


async def test_staged_readings_can_be_purged(rest: Rest) -> None:
    body = {"meter_device_name": "X", "series_name": "2:300", "timestamp": "2026-03-02T06:00:00Z", "value": "1.0"}
    made = await rest.call("POST", STAGED, body, 201)
    assert made["value"] == "1.0"
    await rest.call("POST", STAGED, body, 409)
    await rest.call("DELETE", f"{STAGED}/{made['id']}", status=204)
    assert (await rest.get(STAGED))["count"] == 0


async def test_events(rest: Rest) -> None:
    fleet, other = await create_fleet(rest), await create_fleet(rest, "other")
    path = "/v1/metering/meter-system-events"
    body = {
        "organization": fleet.organization,
        "meter_device": fleet.meter,
        "timestamp": "2026-03-02T06:00:00Z",
        "title": "door",
        "content": "The door was open",
    }
    made = await rest.call("POST", path, body, 201)
    assert isinstance(made["id"], int)
    assert (await rest.get(f"{path}?meter_device={fleet.meter}&start_time=2026-03-02T06:00:00Z"))["count"] == 1
    assert (await rest.get(f"{path}?end_time=2026-03-02T05:59:59Z"))["count"] == 0
    assert await rest.wrong_fields("POST", path, {**body, "meter_device": other.meter}) == {"meter_device"}
    assert await rest.wrong_fields("POST", path, {**body, "title": "x" * 51, "content": ""}) == {"title", "content"}
    await rest.call("PATCH", f"{path}/{made['id']}", {"title": "x"}, 405)
    await rest.call("DELETE", f"{path}/{made['id']}", status=204)


async def test_values_are_plain_digits(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    of_meter = {"organization": fleet.organization, "meter_device": fleet.meter, "series": fleet.series}
    at = "2026-03-02T06:00:00Z"
    shown = []
    small, large = "0." + "0" * 17 + "1", "1" + "0" * 18
    for sent, plain in (("0.0000001", "0.0000001"), ("1E-18", small), ("1E+5", "100000"), (1e18, large)):
        rest.clock.advance(minutes=1)
        made = await rest.post("/v1/metering/meter-readings", **of_meter, timestamp=at, value=sent)
        assert made["value"] == plain
        shown.append(plain)
        found = await rest.get(f"/v1/metering/meter-readings/{made['id']}")
        assert found["value"] == plain
        if len(shown) > 1:
            assert [version["value"] for version in found["versions"]] == shown
        body = {"meter": "Heating plant", "series": "2:300", "timestamp": at, "value": sent}
        assert (await rest.post("/v1/metering/new-meter-readings", **body))["value"] == plain
        body = {"meter_device_name": "Late", "series_name": "2:300", "timestamp": at, "value": sent}
        staged = await rest.post("/v1/metering/staged-meter-readings", **body)
        assert (await rest.get(f"/v1/metering/staged-meter-readings/{staged['id']}"))["value"] == plain
        series = f"/v1/metering/meter-reading-series/{fleet.series}"
        assert (await rest.patch(series, si_multiplier=sent))["si_multiplier"] == plain
        assert (await rest.get(series))["si_multiplier"] == plain
