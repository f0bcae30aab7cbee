"""The newest reading of each series of many meters, wherever in time it lies."""

import datetime as dt
import decimal
import uuid

import pytest

from hub import latest_readings, versions
from hub.database import writing
from hub.scopes import READ_READINGS
from hub.tokens import create_token
from tests.parts.databases import BOTH, engine, url_of_walks
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

LATEST = "/v1/metering/readings/latest"


async def store(rest: Rest, fleet: Fleet, *days_ago: int) -> None:
    rows = [
        versions.Arrival(
            organization=uuid.UUID(fleet.organization),
            device=uuid.UUID(fleet.meter),
            series=uuid.UUID(fleet.series),
            timestamp=rest.clock.now() - dt.timedelta(days=days),
            value=decimal.Decimal(days),
            collected=rest.clock.now(),
            unit="m3",
        )
        for days in days_ago
    ]
    async with writing(rest.hub.engine) as session:
        await versions.store(session, rows, rest.clock.now())


@pytest.mark.parametrize("database_url", BOTH, indirect=True)
async def test_the_newest_of_each_series_is_found_in_these_months_and_in_old_ones(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of hundreds of meters, which two connections look up.
    monkeypatch.setattr(latest_readings, "APART", 4)
    fresh, silent, empty = [await create_fleet(rest, name) for name in ("fresh", "silent", "empty")]
    await store(rest, fresh, 800, 2, 1, 3)
    await store(rest, silent, 900, 700, 800)
    meters = [silent.meter, fresh.meter, empty.meter, str(uuid.uuid4()), fresh.meter]
    answer = await rest.call("POST", LATEST, {"meter_devices": meters})
    assert [(one["meter_device"], one["value"]) for one in answer["results"]] == [
        (silent.meter, "700"),
        (fresh.meter, "1"),
    ]
    by_address = await rest.get(f"{LATEST}?meter_device={','.join(meters)}")
    assert by_address == answer
    named = await rest.call("POST", LATEST, {"meter_devices": meters, "series": [fresh.series]})
    assert named["results"] == answer["results"][1:]
    assert (await rest.get(f"{LATEST}?meter_device={fresh.meter}&series={silent.series}"))["results"] == []
    one = answer["results"][1]
    assert await rest.get(f"/v1/metering/meter-readings/{one['id']}") == one
    # Others do not see it, nor that there is something to see.
    async with writing(rest.hub.engine) as session:
        own = uuid.UUID(silent.organization)
        key = await create_token(session, "own", rest.clock.now(), scopes=[READ_READINGS], organization=own)
    rest.client.headers["Authorization"] = f"Token {key}"
    for order in (meters, meters[::-1]):
        assert (await rest.call("POST", LATEST, {"meter_devices": order}))["results"] == answer["results"][:1]


async def test_what_is_asked_is_bounded(rest: Rest) -> None:
    many = [str(uuid.UUID(int=number)) for number in range(1001)]
    assert await rest.wrong_fields("POST", LATEST, {"meter_devices": many}) == {"meter_devices"}
    assert await rest.wrong_fields("POST", LATEST, {"meter_devices": many[:1], "series": many}) == {"series"}
    assert (await rest.call("POST", LATEST, {"meter_devices": many[:1000]}))["results"] == []
    assert await rest.wrong_fields("POST", LATEST, {"meter_devices": ["x"]}) == {"meter_devices[0]"}
    for query in ("", f"?meter_device={','.join(many[:101])}", "?meter_device=x", "?meter_device=x&limit=1"):
        await rest.call("GET", f"{LATEST}{query}", status=422)
