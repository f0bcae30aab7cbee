"""Export of readings: everything, once, as it is stored; an export that breaks does not look like a short one."""

import csv
import datetime as dt
import decimal
import gzip
import io
import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import exports, models
from hub.database import writing
from hub.tokens import create_token
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

EXPORT = "/v1/metering/readings/export"
HOUR = dt.timedelta(hours=1)
VALUES = ("1.50", "-0.000000000000000001", "12345678901234567890.123456789012345678", "0", "1E+3")


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many slices of few readings."""
    monkeypatch.setattr(exports, "FIRST_ROWS", 2)
    monkeypatch.setattr(exports, "ROWS", 3)


async def push(rest: Rest, fleet: Fleet, count: int) -> list[dict[str, Any]]:
    """Store readings; return them as lists show them."""
    start = rest.clock.now() - 30 * HOUR
    rows = [
        {"meter": "Heating plant", "series": "2:300", "timestamp": (start + number * HOUR).isoformat()}
        | {"value": VALUES[number % len(VALUES)], "organization": fleet.organization}
        for number in range(count)
    ]
    await rest.call("POST", "/v1/metering/new-meter-readings", rows, 201)
    found = await rest.get(f"/v1/metering/meter-readings?limit=1000&meter_device={fleet.meter}")
    return list(found["results"])


async def export(rest: Rest, query: str = "", status: int = 200, /, **headers: str) -> Any:  # noqa: ANN401 - httpx's answer
    answer = await rest.client.get(f"{EXPORT}{query}", headers=headers)
    assert answer.status_code == status, answer.text
    return answer


async def test_all_readings_are_in_the_file_once_as_they_are_stored(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    stored = await push(rest, fleet, 11)
    answer = await export(rest)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="readings.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [(row["timestamp"], row["value"], row["unit"]) for row in rows] == [
        (one["timestamp"], one["value"], "m3") for one in stored
    ]
    assert {"meter": "Heating plant", "series_name": "2:300", "provenance": "push", "flags": ""}.items() <= rows[
        0
    ].items()
    assert rows[0]["timestamp"].endswith("Z")
    assert (rows[1]["value"], rows[2]["value"], rows[4]["value"]) == (VALUES[1], VALUES[2], "1000")
    for query, headers in (("?format=jsonl", {}), ("", {"Accept": "application/x-ndjson"})):
        answer = await export(rest, query, **headers)
        assert answer.headers["content-type"] == "application/jsonl"
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert [(one["timestamp"], one["value"]) for one in lines] == [
            (one["timestamp"], one["value"]) for one in stored
        ]
        assert list(lines[0]) == list(rows[0])


async def test_filters_hold_and_an_empty_file_has_its_head(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    stored = await push(rest, fleet, 8)
    since = stored[5]["timestamp"]
    query = f"?meter_device={fleet.meter}&series={fleet.series}&start_time={since}&format=jsonl"
    assert len((await export(rest, query)).text.splitlines()) == 3
    nothing = await export(rest, f"?meter_device={uuid.UUID(int=1)}")
    assert nothing.text == f"{','.join(exports.ExportedReading.__struct_fields__)}\r\n"
    assert (await export(rest, f"?series={uuid.UUID(int=1)}&format=jsonl")).text == ""
    for query, field in (("?format=xml", "format"), ("?limit=5", "limit"), ("?start_time=x", "start_time")):
        assert (await export(rest, query, 422)).json()["errors"][0]["field"] == field


async def test_it_is_packed_for_who_takes_it_and_each_slice_is_sent_at_once(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    await push(rest, fleet, 11)
    plain = await export(rest, "", 200, **{"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    refusing = await export(rest, "", 200, **{"Accept-Encoding": "gzip;q=0"})
    assert "content-encoding" not in refusing.headers
    async with rest.client.stream("GET", EXPORT, headers={"Accept-Encoding": "br, gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        packed = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert gzip.decompress(packed).decode() == plain.text


async def test_no_text_is_taken_for_a_formula(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    await rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", name='=HYPERLINK("http://x","y")')
    await rest.patch(f"/v1/metering/meter-reading-series/{fleet.series}", name="-2:300", unit="@m3")
    timestamp = rest.clock.now().isoformat()
    own = {"organization": fleet.organization, "meter_device": fleet.meter, "series": fleet.series}
    await rest.post("/v1/metering/meter-readings", **own, timestamp=timestamp, value="-1.5")
    (row,) = csv.DictReader(io.StringIO((await export(rest)).text, newline=""))
    assert row["meter"] == '\'=HYPERLINK("http://x","y")'
    assert (row["series_name"], row["unit"], row["value"]) == ("'-2:300", "'@m3", "-1.5")
    line = json.loads((await export(rest, "?format=jsonl")).text)
    assert (line["meter"], line["series_name"]) == ('=HYPERLINK("http://x","y")', "-2:300")


async def test_who_is_bound_to_an_organization_exports_its_readings(rest: Rest, engine: AsyncEngine) -> None:
    mine = await create_fleet(rest, "mine")
    stored = await push(rest, mine, 4)
    other = await create_fleet(rest, "other")
    async with writing(engine) as session:
        own = uuid.UUID(other.organization)
        key = await create_token(session, "x", rest.clock.now(), organization=own, scopes=["read-readings"])
    rest.client.headers["Authorization"] = f"Token {key}"
    assert (await export(rest, "?format=jsonl")).text == ""
    assert (await export(rest, f"?format=jsonl&meter_device={mine.meter}")).text == ""
    assert stored


async def test_only_some_exports_run_at_once_and_each_gives_its_place_back(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    await push(rest, fleet, 8)
    running = rest.hub.exports
    with running.one_more(), running.one_more(), running.one_more(), running.one_more():
        refused = await export(rest, "", 429)
        assert int(refused.headers["retry-after"]) > 0
    for _ in range(6):
        await export(rest)
    assert running.now == 0


async def test_an_export_that_breaks_does_not_end_like_a_whole_one(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server cuts the connection of an application that fails in its answer: nothing says that it has ended."""
    fleet = await create_fleet(rest)
    await push(rest, fleet, 11)
    whole = exports._Export.slice

    async def broken(self: Any, count: int) -> tuple[bytes, bool]:  # noqa: ANN401 - the export
        if self._place is not None:
            raise OperationalError("SELECT", {}, Exception("the disk is on fire"))
        return await whole(self, count)

    monkeypatch.setattr(exports._Export, "slice", broken)
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    app: Any = rest.client._transport
    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": EXPORT}
    scope |= {"raw_path": EXPORT.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1)}
    scope |= {"headers": [(b"authorization", rest.client.headers["Authorization"].encode())], "server": ("hub", 80)}
    with pytest.raises(Exception, match=r"."):
        await app.app({**scope, "asgi": {"version": "3.0"}}, receive, send)
    bodies = [one for one in sent if one["type"] == "http.response.body"]
    assert sent[0]["status"] == 200
    assert bodies
    assert all(one.get("more_body") for one in bodies), "nothing that ends the answer"
    assert rest.hub.exports.now == 0


async def test_readings_of_one_instant_are_in_it_once(rest: Rest, engine: AsyncEngine) -> None:
    """A slice may end among them."""
    fleet = await create_fleet(rest)
    now = rest.clock.now()
    dated = {"created_at": now, "updated_at": now}
    owner = uuid.UUID(fleet.organization)
    async with writing(engine) as session:
        meters = [models.MeterDevice(name=f"m{n}", organization=owner, protocol="lis-200", **dated) for n in range(10)]
        session.add_all(meters)
        await session.flush()
        common = {"organization": owner, "series": uuid.UUID(fleet.series), "timestamp": now, "created_at": now}
        rows = [{**common, "meter_device": one.id, "value": decimal.Decimal(1), "collected": now} for one in meters]
        await session.execute(sa.insert(models.Reading), rows)
    lines = [json.loads(line) for line in (await export(rest, "?format=jsonl")).text.splitlines()]
    assert sorted(line["meter"] for line in lines) == sorted(f"m{number}" for number in range(10))
