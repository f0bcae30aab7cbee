"""A replaced meter on both databases: periods with first and last indexes, and consumption that is never negative."""

import datetime as dt
import uuid
from typing import Any

import httpx
import sqlalchemy as sa

from hub.database import reading, writing
from hub.flagging import judge_some
from hub.models import AuditEntry, DevicePeriod, Gateway, MeterDevice, UnjudgedReadings
from hub.sheet_files import render
from hub.unjudged import devices_of
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


KINDS = ("first number", "another", "a third", "the same", "none", "another type", "refused")
"""What a sheet says of a meter's serial number, and of its type."""

ROWS = 504
"""More than are written together, and as many of each kind."""


async def import_meters(rest: Rest, rows: list[list[str]]) -> Any:  # noqa: ANN401 - JSON
    answer = await rest.client.post(
        "/v1/sheets/meters?organization=utility&on_error=skip",
        content=render(rows, ";"),
        headers={"Content-Type": "text/csv"},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_sheet_of_other_numbers_begins_the_periods_that_one_edit_each_would(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    await rest.post(
        "/v1/metering/meter-device-types",
        organization=fleet.organization,
        name="other",
        manufacturer="E",
        manufacturer_model="EK280",
        config=fleet.config,
    )
    kinds = {f"M{number:03}": KINDS[number % len(KINDS)] for number in range(ROWS)}
    begun, replaced = rest.clock.now(), rest.clock.now() + dt.timedelta(days=1)
    columns = ["name", "manufacturer_serial", "type", "gateway", "line", "protocol"]
    there = ["gw-utility", "/dev/ttyS0", "lis-200"]
    await import_meters(
        rest,
        [
            columns,
            *(
                [name, {"first number": "", "a third": f"{name}-0"}.get(kind, f"{name}-A"), "EK280", *there]
                for name, kind in kinds.items()
            ),
        ],
    )
    thirds = [[name, f"{name}-A"] for name, kind in kinds.items() if kind == "a third"]
    await import_meters(rest, [columns[:2], *thirds])
    async with writing(rest.hub.engine) as session:
        await session.execute(sa.delete(UnjudgedReadings))
        audited = await session.scalar(sa.select(sa.func.max(AuditEntry.id)))
        revision = await session.scalar(sa.select(Gateway.desired_revision))
    rest.clock.shown = replaced
    changed = {
        "first number": "A",
        "another": "B",
        "a third": "B",
        "the same": "A",
        "another type": "A",
        "refused": "B",
    }
    report = await import_meters(
        rest,
        [
            ["name", "manufacturer_serial", "type", "protocol"],
            *(
                [
                    name,
                    "" if kind == "none" else f"{name}-{changed.get(kind, 'B')}",
                    "other" if kind == "another type" else "EK280",
                    "smoke" if kind == "refused" else "lis-200",
                ]
                for name, kind in kinds.items()
            ),
        ],
    )
    each = ROWS // len(KINDS)
    assert (report["changed"], report["unchanged"], report["refused"]) == (5 * each, each, each)

    async with reading(rest.hub.engine) as session:
        periods: dict[uuid.UUID, set[Any]] = {}
        for one in await session.scalars(sa.select(DevicePeriod)):
            assert one.created_at == (begun if one.serial[-1] == "0" or (one.since or replaced) == begun else replaced)
            assert one.updated_at == (one.until or one.since)
            periods.setdefault(one.meter_device, set()).add((one.serial, one.since, one.until))
        notes = (await session.scalars(sa.select(UnjudgedReadings.spans))).all()
        noted = [
            (entry.action, uuid.UUID(entry.object_id), entry.before or {}, entry.after or {})
            for entry in await session.scalars(sa.select(AuditEntry).where(AuditEntry.id > audited))
        ]
        raised = await session.scalar(sa.select(Gateway.desired_revision))
        meters = {row.name: row.id for row in await session.execute(sa.select(MeterDevice.name, MeterDevice.id))}

    another, third, retyped = (
        [name for name, kind in kinds.items() if kind == wanted] for wanted in ("another", "a third", "another type")
    )
    assert periods == {
        **{meters[name]: {(f"{name}-A", None, replaced), (f"{name}-B", replaced, None)} for name in another},
        **{
            meters[name]: {
                (f"{name}-0", None, begun),
                (f"{name}-A", begun, replaced),
                (f"{name}-B", replaced, None),
            }
            for name in third
        },
    }
    assert set().union(*map(devices_of, notes)) == {meters[name] for name in (*another, *third, *retyped)}
    serials = {
        "first number": (None, "A"),
        "another": ("A", "B"),
        "a third": ("A", "B"),
        "none": ("A", None),
    }
    told = {
        meters[name]: tuple(end and f"{name}-{end}" for end in serials[kind])
        for name, kind in kinds.items()
        if kind in serials
    }
    assert {
        key: (before["manufacturer_serial"], after["manufacturer_serial"])
        for _, key, before, after in noted
        if "type" not in before
    } == told
    assert [key for _, key, before, _ in noted if "type" in before] == [meters[name] for name in retyped]
    assert {action for action, *_ in noted} == {"change"}
    assert raised == (revision or 0) + 1, "one edit, one revision"
