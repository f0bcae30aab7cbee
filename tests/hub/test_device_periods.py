"""A replaced meter on both databases: periods with first and last indexes, and consumption that is never negative."""

from typing import Any

import httpx

from hub.flagging import judge_some
from tests.parts.databases import ON_SQLITE, database_url, engine
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

READINGS = "/v1/metering/meter-readings"
PERIODS = "/v1/metering/device-periods"


async def read(rest: Rest, fleet: Fleet, hour: int, value: str) -> None:
    """Store the index of an hour of the clock's day."""
    body = {
        "organization": fleet.organization,
        "meter_device": fleet.meter,
        "series": fleet.series,
        "timestamp": f"2026-03-02T{hour:02}:00:00Z",
        "value": value,
    }
    await rest.call("POST", READINGS, body, 201)


async def consumption(rest: Rest, fleet: Fleet, first: int = 0, last: int = 23) -> Any:  # noqa: ANN401 - JSON
    query = httpx.QueryParams(
        meter_device=fleet.meter,
        series=fleet.series,
        start_time=f"2026-03-02T{first:02}:00:00Z",
        end_time=f"2026-03-02T{last:02}:00:00Z",
    )
    return await rest.get(f"{PERIODS}/consumption?{query}")


async def flagged(rest: Rest) -> list[tuple[str, list[str]]]:
    while await judge_some(rest.hub.engine):
        pass
    return [(row["value"], row["flags"]) for row in (await rest.get(f"{READINGS}?flag=any"))["results"]]


async def replaced_meter(rest: Rest) -> Fleet:
    """A counter that is read from 8 to 15 o'clock; at 11:30 its meter is replaced, which is entered at 12:00."""
    fleet = await create_fleet(rest)
    limits = [{"series": "2:300", "monotonic": True, "max_per_hour": 100}]
    await rest.patch(f"/v1/metering/meter-device-configs/{fleet.config}", limits=limits)
    meter = f"/v1/metering/meter-devices/{fleet.meter}"
    await rest.patch(meter, manufacturer_serial="OLD")
    assert (await rest.get(PERIODS))["count"] == 0, "a number that becomes known replaces nothing"
    for hour, value in ((8, "9000"), (9, "9010"), (10, "9025.5")):
        await read(rest, fleet, hour, value)
    await rest.patch(meter, manufacturer_serial="NEW")
    await rest.patch(meter, manufacturer_serial="NEW", name="renamed")
    for hour, value in ((12, "1"), (13, "4"), (15, "10.25")):
        await read(rest, fleet, hour, value)
    return fleet


async def test_a_replaced_meter_has_a_period_of_its_own(rest: Rest) -> None:
    fleet = await replaced_meter(rest)
    old, new = (await rest.get(f"{PERIODS}?meter_device={fleet.meter}"))["results"]
    assert (old["serial"], old["since"], old["until"]) == ("OLD", None, "2026-03-02T12:00:00Z")
    assert (new["serial"], new["since"], new["until"]) == ("NEW", "2026-03-02T12:00:00Z", None)
    assert [(one["first"], one["last"]) for one in old["indexes"]] == [("9000", "9025.5")]
    assert [(one["first"], one["last"]) for one in new["indexes"]] == [("1", "10.25")]
    assert new["indexes"][0]["last_timestamp"] == "2026-03-02T15:00:00Z"
    # Neither "not monotonic" nor "outside limits": another meter's index is nothing to compare with.
    assert await flagged(rest) == [("1", ["meter_replaced"])]


@ON_SQLITE
async def test_consumption_is_that_of_both_meters(rest: Rest) -> None:
    fleet = await replaced_meter(rest)
    whole = await consumption(rest, fleet)
    assert (whole["consumption"], whole["reason"], whole["unit"]) == ("34.75", "", "m3")
    assert [(part["serial"], part["consumption"]) for part in whole["parts"]] == [("OLD", "25.5"), ("NEW", "9.25")]
    assert (await consumption(rest, fleet, 9, 13))["consumption"] == "18.5"
    assert (await consumption(rest, fleet, 13, 14))["consumption"] == "0", "an index counts until the next one"
    nothing = await consumption(rest, fleet, 0, 7)
    assert (nothing["consumption"], nothing["reason"]) == (None, "there are no readings in this time")


async def test_the_begin_of_a_period_can_be_put_right(rest: Rest) -> None:
    fleet = await replaced_meter(rest)
    await read(rest, fleet, 11, "0.5")
    assert await flagged(rest) == [("0.5", ["not_monotonic", "outside_limits"]), ("1", ["meter_replaced"])]
    wrong = await consumption(rest, fleet)
    assert wrong["consumption"] is None
    assert wrong["reason"] == "an index is below an earlier one of the same meter"
    new = (await rest.get(PERIODS))["results"][1]
    answer = await rest.patch(f"{PERIODS}/{new['id']}", since="2026-03-02T10:30:00Z")
    assert answer["indexes"][0]["first"] == "0.5"
    assert [row["until"] for row in (await rest.get(PERIODS))["results"]] == ["2026-03-02T10:30:00Z", None]
    assert await flagged(rest) == [("0.5", ["meter_replaced"])]
    assert (await consumption(rest, fleet))["consumption"] == "35.25"


async def test_begins_that_cannot_be(rest: Rest) -> None:
    fleet = await replaced_meter(rest)
    rest.clock.advance(hours=4)
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", manufacturer_serial="NEWEST")
    first, second, third = (f"{PERIODS}/{row['id']}" for row in (await rest.get(PERIODS))["results"])
    for path, since in (
        (first, "2026-03-02T10:30:00Z"),
        (second, None),
        (second, "2026-03-02T16:00:00Z"),
        (third, "2026-03-02T12:00:00Z"),
    ):
        assert await rest.wrong_fields("PATCH", path, {"since": since}) == {"since"}, (path, since)
    await rest.patch(third, since="2026-03-02T14:00:00Z")
    assert [row["serial"] for row in (await rest.get(PERIODS))["results"]] == ["OLD", "NEW", "NEWEST"]
    for query in ("", "?series=1", f"?meter_device={fleet.meter}&series={fleet.series}&start_time=x&end_time=y"):
        await rest.get(f"{PERIODS}/consumption{query}", 422)
