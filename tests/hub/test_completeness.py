"""Completeness over REST: totals, spans with their reasons from real rows, strips."""

import datetime as dt
import decimal
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models, totals
from hub.database import reading, writing
from hub.expectations import mark
from hub.ledger import keep_some, settle
from hub.ledger_chunks import LONG_SLOTS, SHORT_SLOTS, parts
from hub.reasons import REASONS, STATES
from tests.hub.test_ledger import BEGIN, END, HOUR, SERIES, arrival, expect, put, work_off
from tests.parts.databases import ON_SQLITE, database_url, engine
from tests.parts.estates import Estate, make_estate
from tests.parts.rest import Rest, rest

__all__ = ["database_url", "engine", "rest"]

LATER = END + 3 * HOUR
"""When it is asked: every run of the day had its time."""

RANGE = f"start={BEGIN:%Y-%m-%dT%H:%M:%SZ}&end={END:%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
async def estate(engine: AsyncEngine, rest: Rest) -> Estate:
    """Return an estate whose first meter lacks the hours 10 and 11, with a task that reads its archive daily."""
    rest.clock.shown = LATER
    made = await make_estate(engine)
    async with writing(engine) as session:
        await session.execute(sa.update(models.Gateway).values(online=True, last_seen=LATER))
    task = await rest.post(
        "/v1/metering/amr-tasks",
        organization=str(made.organization),
        name="archive",
        schedule="daily",
        run_offset_seconds=600,
        meter_execution_type="generic_lis200",
        task_call="read_archive_since_last",
        task_kwargs={"archive_number": 3},
    )
    await rest.patch(f"/v1/metering/meter-devices/{made.meters['M1']}", meter_tasks=[task["id"]])
    await expect(engine, made, {"series": SERIES, "interval": "hour"}, commissioned=BEGIN)
    async with writing(engine) as session:
        await session.execute(
            sa.update(models.MeterDevice)
            .where(models.MeterDevice.id == made.meters["M2"])
            .values(decommissioned=BEGIN - HOUR, commissioned=BEGIN - HOUR)
        )
        await mark(session, models.MeterDevice, made.meters["M2"])
    await work_off(engine, LATER)
    await put(engine, *(arrival(made, BEGIN + hour * HOUR) for hour in range(24) if hour not in {10, 11}))
    return made


async def spans(rest: Rest, estate: Estate, series: str = SERIES) -> list[dict[str, Any]]:
    path = f"/v1/completeness/slots?meter_device={estate.meters['M1']}&series={estate.series[series]}&{RANGE}"
    (found,) = await rest.get(path)
    return [one for one in found["spans"] if one["state"] != "stored"]


async def gap(rest: Rest, estate: Estate) -> tuple[str, str, str]:
    """Return state, reason and evidence of the two hours, and see that the totals agree."""
    (one,) = await spans(rest, estate)
    assert (one["start"], one["end"], one["count"]) == (_text(BEGIN + 10 * HOUR), _text(BEGIN + 11 * HOUR), 2)
    found = await rest.get(f"/v1/completeness?meter_device={estate.meters['M1']}&{RANGE}")
    assert (found["expected"], found["stored"], found["unexplained"]) == (24, 22, 0)
    assert found[one["state"]] == 2
    assert found["missing_by_reason"] == ({one["reason"]: 2} if one["state"] == "missing" else {})
    return one["state"], one["reason"], one["evidence"]


def _text(instant: dt.datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"


async def report(
    engine: AsyncEngine, estate: Estate, outcome: str, cause: str = "", ended: dt.datetime = LATER
) -> None:
    async with writing(engine) as session:
        task = await session.scalar(sa.select(models.AmrTask.id))
        session.add(
            models.RunReport(
                id=uuid.uuid4(), gateway=estate.gateway, device=estate.meters["M1"], task=task, tick=END,
                outcome=outcome, cause=cause, started=ended, ended=ended, readings=22, received_at=LATER,
            )
        )  # fmt: skip


async def gateway_is(engine: AsyncEngine, **values: object) -> None:
    async with writing(engine) as session:
        await session.execute(sa.update(models.Gateway).values(**values))


@ON_SQLITE
@pytest.mark.parametrize(
    ("outcome", "cause", "reason"),
    [
        ("done", "", "not_in_archive"),
        ("failed", "M1 on /dev/ttyS0 gave no answer within 2 s", "meter_silent"),
        ("failed", "line /dev/ttyS0: it cannot be opened", "line"),
        ("failed", "M1 on /dev/ttyS0: the meter refused with #0018: locked", "refused"),
        ("failed", "M1 on /dev/ttyS0: the meter refused with #0103: archive or range empty", "not_in_archive"),
        ("refused", "M1: the call is unknown to this gateway", "refused"),
        ("wrong_meter", "M1 on /dev/ttyS0 has the serial number 7, not 8", "wrong_meter"),
        ("missed", "its line was busy until the run of 2026-11-21T00:00:00Z took its place", "line"),
        ("missed", "policy skip: 900 s late", "skipped"),
        ("interrupted", "the agent was ended while it ran", "interrupted"),
        ("cancelled", "cancelled while it was executed", "cancelled"),
    ],
)
async def test_the_last_run_says_why(
    engine: AsyncEngine, rest: Rest, estate: Estate, outcome: str, cause: str, reason: str
) -> None:
    await report(engine, estate, outcome, cause)
    state, why, evidence = await gap(rest, estate)
    assert (state, why) == ("missing", reason)
    assert cause in evidence


async def test_what_a_run_has_brought_and_the_gateway_not_yet_sent_is_on_the_gateway(
    engine: AsyncEngine, rest: Rest, estate: Estate
) -> None:
    await report(engine, estate, "done", ended=LATER - HOUR)
    await gateway_is(engine, depth=40, oldest=LATER - HOUR)
    assert (await gap(rest, estate))[:2] == ("on_gateway", "")
    await gateway_is(engine, depth=0, oldest=None)
    assert (await gap(rest, estate))[:2] == ("missing", "not_in_archive")


@ON_SQLITE
async def test_a_run_that_is_still_to_come_will_bring_it(rest: Rest, estate: Estate) -> None:
    # The run after midnight has its offset and a while to wait for its line.
    rest.clock.shown = END + dt.timedelta(minutes=20)
    assert (await gap(rest, estate))[:2] == ("due", "")
    rest.clock.shown = END + dt.timedelta(minutes=26)
    assert (await gap(rest, estate))[:2] == ("missing", "not_brought")


async def test_a_gateway_that_is_away_or_doubts_its_clock_brings_nothing(
    engine: AsyncEngine, rest: Rest, estate: Estate
) -> None:
    await gateway_is(engine, online=False, last_seen=BEGIN + 9 * HOUR)
    state, why, evidence = await gap(rest, estate)
    assert (state, why) == ("missing", "gateway_offline")
    assert "2026-11-20T09:00:00Z" in evidence
    assert (await spans(rest, estate))[0]["since"] == _text(BEGIN + 9 * HOUR)
    await gateway_is(engine, online=True, clock_believed=False, status="the clock is 3 days ahead")
    assert await gap(rest, estate) == ("missing", "clock_not_believed", "the clock is 3 days ahead")


async def test_without_a_line_of_a_gateway_nobody_can_read_it(rest: Rest, estate: Estate) -> None:
    await rest.patch(f"/v1/metering/network-interfaces/{estate.line}", gateway=None)
    assert (await gap(rest, estate))[:2] == ("missing", "no_gateway")
    await rest.patch(f"/v1/metering/meter-devices/{estate.meters['M1']}", meter_tasks=[])
    assert (await gap(rest, estate))[:2] == ("missing", "not_brought")


async def test_an_open_command_fetches_it(engine: AsyncEngine, rest: Rest, estate: Estate) -> None:
    command = {
        "meter_device": str(estate.meters["M1"]),
        "meter_execution_type": "generic_lis200",
        "task_call": "read_archive_by_date",
        "task_kwargs": {
            "archive_number": 3,
            "control_position": 3,
            "start_date": _text(BEGIN + 9 * HOUR),
            "end_date": _text(BEGIN + 11 * HOUR),
        },
    }
    made = await rest.call("POST", "/v1/metering/amr-tasks/invoke", command, 201)
    state, _, evidence = await gap(rest, estate)
    assert state == "being_fetched"
    assert made["command"] in evidence
    async with writing(engine) as session:
        await session.execute(sa.update(models.Command).values(state="failed"))
    assert (await gap(rest, estate))[0] == "missing"


@ON_SQLITE
async def test_what_is_settled_is_lost_with_its_evidence_until_it_comes_after_all(
    engine: AsyncEngine, rest: Rest, estate: Estate
) -> None:
    async with writing(engine) as session:
        window = BEGIN + 9 * HOUR, BEGIN + 11 * HOUR
        await settle(session, estate.meters["M1"], estate.series[SERIES], *window, evidence="#0103", now=LATER)
    assert await gap(rest, estate) == ("unrecoverable", "", "#0103")
    await put(engine, arrival(estate, BEGIN + 10 * HOUR), arrival(estate, BEGIN + 11 * HOUR))
    assert await spans(rest, estate) == []


async def test_what_is_staged_or_was_given_up_says_so(engine: AsyncEngine, rest: Rest, estate: Estate) -> None:
    async with writing(engine) as session:
        session.add(
            models.StagedReading(
                identity=b"1", meter_device_name="M1", series_name=SERIES, timestamp=BEGIN + 10 * HOUR,
                value=decimal.Decimal(0),
                device=estate.meters["M1"], reason="not_this_gateway", collected=LATER, created_at=LATER,
                updated_at=LATER,
            )
        )  # fmt: skip
        session.add(
            models.LossRecord(
                id=uuid.uuid4(), gateway=estate.gateway, device=estate.meters["M1"], meter="M1", series=SERIES,
                start=BEGIN + 11 * HOUR, end=BEGIN + 11 * HOUR, count=1, reason="disk full", received_at=LATER,
            )
        )  # fmt: skip
    found = [(one["reason"], one["evidence"], one["count"]) for one in await spans(rest, estate)]
    assert found == [("staged", "not_this_gateway", 1), ("lost_on_gateway", "disk full", 1)]


async def test_what_validation_rejects_does_not_count(engine: AsyncEngine, rest: Rest, estate: Estate) -> None:
    limits = [{"series": SERIES, "max": "0.5", "reject": True}]
    await rest.patch(f"/v1/metering/meter-device-configs/{estate.config}", limits=limits)
    async with writing(engine) as session:
        at = models.Reading.timestamp == BEGIN + 5 * HOUR
        await session.execute(sa.update(models.Reading).where(at).values(flags=1))
    rejected, gap_after = await spans(rest, estate)
    assert (rejected["reason"], rejected["count"], rejected["start"]) == ("rejected", 1, _text(BEGIN + 5 * HOUR))
    assert rejected["evidence"]
    assert gap_after["count"] == 2
    found = await rest.get(f"/v1/completeness?organization={estate.organization}&{RANGE}")
    assert (found["stored"], found["missing_by_reason"]["rejected"]) == (21, 1)


async def test_a_momentary_value_has_the_reason_of_its_own_run(engine: AsyncEngine, rest: Rest, estate: Estate) -> None:
    rest.clock.shown = BEGIN + dt.timedelta(minutes=1)
    made = await rest.post(
        "/v1/metering/amr-tasks",
        organization=str(estate.organization),
        name="volume",
        schedule="hourly",
        meter_execution_type="generic_lis200",
        task_call="read_single_value",
        task_kwargs={"address": "2:300"},
    )
    await rest.patch(f"/v1/metering/meter-devices/{estate.meters['M1']}", meter_tasks=[made["id"]])
    await work_off(engine, rest.clock.now())
    rest.clock.shown = LATER
    hours = [hour for hour in range(1, 24) if hour not in {3, 7, 8, 9, 12}]
    late = dt.timedelta(seconds=12)
    await put(engine, *(arrival(estate, BEGIN + hour * HOUR + late, series="2:300") for hour in hours))
    async with writing(engine) as session:
        for tick, since, outcome, cause in (
            (3, None, "failed", "M1 on /dev/ttyS0 gave no answer within 2 s"),
            (9, 7, "missed", "only the latest is run"),
            (12, None, "done", ""),
        ):
            session.add(
                models.RunReport(
                    id=uuid.uuid4(), gateway=estate.gateway, device=estate.meters["M1"], task=uuid.UUID(made["id"]),
                    tick=BEGIN + tick * HOUR, since=None if since is None else BEGIN + since * HOUR, outcome=outcome,
                    cause=cause, ended=BEGIN + (tick + 1) * HOUR, received_at=LATER,
                )
            )  # fmt: skip
    found = [(one["state"], one["reason"], one["count"]) for one in await spans(rest, estate, "2:300")]
    # Nobody can read what was shown then.
    assert found == [
        ("unrecoverable", "meter_silent", 1),
        ("unrecoverable", "skipped", 3),
        # It ended when the next one was due, whose value that is.
        ("unrecoverable", "line", 1),
    ]


async def test_totals_are_those_of_the_scope(engine: AsyncEngine, rest: Rest, estate: Estate) -> None:
    other = await make_estate(engine, gateway_id="gw-2", meters=("X",))
    await expect(engine, other, {"series": SERIES, "interval": "hour"})
    await work_off(engine, LATER)
    group = await rest.post("/v1/metering/amr-task-groups", organization=str(estate.organization), name="all")
    await rest.patch(f"/v1/metering/meter-devices/{estate.meters['M1']}", task_groups=[group["id"]])
    for name, row, expected in (
        ("organization", estate.organization, 24),
        ("organization", other.organization, 24),
        ("gateway", estate.gateway, 24),
        ("gateway", other.gateway, 24),
        ("group", group["id"], 24),
        ("meter_device", other.meters["X"], 24),
    ):
        found = await rest.get(f"/v1/completeness?{name}={row}&{RANGE}")
        lacks = 24 if row in {other.organization, other.gateway, other.meters["X"]} else 2
        assert (found["expected"], found["stored"]) == (expected, 24 - lacks), name
        assert sum(found[state] for state in STATES) == lacks
        assert set(found["missing_by_reason"]) <= set(REASONS)
    everything = await rest.get(f"/v1/completeness?{RANGE}")
    assert (everything["expected"], everything["stored"]) == (48, 22)
    assert everything["percent"] == pytest.approx(45.8333)
    bare = await rest.get(f"/v1/completeness?{RANGE}&reasons=false")
    assert (bare["missing"], bare["unexplained"]) == (0, 26)


async def test_a_window_may_begin_and_end_anywhere(rest: Rest, estate: Estate) -> None:
    for first, last in ((0, 1), (3, 9), (9, 12), (10, 11), (1, 23), (7, 24)):
        start, end = _text(BEGIN + first * HOUR), _text(BEGIN + last * HOUR)
        found = await rest.get(f"/v1/completeness?organization={estate.organization}&start={start}&end={end}")
        lacking = len({10, 11} & set(range(first, last)))
        assert (found["expected"], found["expected"] - found["stored"]) == (last - first, lacking)


@pytest.mark.parametrize("size", [SHORT_SLOTS, LONG_SLOTS])
def test_the_masks_of_a_window_cover_it(size: int) -> None:
    for first, last in ((0, 0), (1, 6), (0, 7), (1, 7), (3, 12), (8, 15), (0, size - 1), (5, size + 9), (-3, 3)):
        for counted, part in zip(
            totals.parts_of([totals.Window(1, size, first, last)]), parts(size, first, last), strict=True
        ):
            covered = set(range(8 * counted.byte, 8 * (counted.byte + counted.bytes)))
            for byte, mask in counted.masks:
                covered |= {8 * byte + bit for bit in range(8) if mask >> bit & 1}
            assert covered == set(range(part.low, part.low + part.slots))


async def test_a_strip_has_each_day_of_each_series(rest: Rest, estate: Estate) -> None:
    found = await rest.get(f"/v1/completeness/strip?gateway={estate.gateway}&end={_text(END)}")
    strip = next(one for one in found["results"] if one["meter"] == "M1")
    assert (strip["series_name"], len(strip["days"])) == (SERIES, 28)
    # Days where the meter stands: Berlin's begin at 23:00 UTC.
    assert [(one["day"], one["expected"], one["stored"], one["states"]) for one in strip["days"][-2:]] == [
        ("2026-11-20", 23, 21, {"missing": 2}),
        ("2026-11-21", 1, 1, {}),
    ]
    assert strip["days"][0]["expected"] == 0
    one = await rest.get(f"/v1/completeness/strip?meter_device={estate.meters['M1']}&days=3")
    assert [len(strip["days"]) for strip in one["results"]] == [3]


@ON_SQLITE
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?start=yesterday", "start"),
        ("?start=2026-11-20T00:00:00Z&end=2026-11-19T00:00:00Z", "end"),
        ("?organisation=x", "organisation"),
        ("?reasons=maybe", "reasons"),
        ("?gateway=1", "gateway"),
        ("/slots", "meter_device"),
        ("/strip", "meter_device"),
        ("/strip?days=0&gateway=x", "days"),
    ],
)
async def test_a_wrong_question_is_refused_by_name(rest: Rest, query: str, field: str) -> None:
    assert field in await rest.wrong_fields("GET", f"/v1/completeness{query}", None)


@ON_SQLITE
async def test_only_one_scope_is_taken_and_it_must_be_there(rest: Rest) -> None:
    some = uuid.uuid4()
    assert await rest.wrong_fields("GET", f"/v1/completeness?gateway={some}&group={some}", None) == {"group"}
    await rest.get(f"/v1/completeness?gateway={some}", 404)


@ON_SQLITE
async def test_a_config_says_only_what_can_be_expected(rest: Rest, estate: Estate) -> None:
    path = f"/v1/metering/meter-device-configs/{estate.config}"
    good = {"series": SERIES, "interval": "hour"}
    assert await rest.wrong_fields("PATCH", path, {"expectations": [good, good]}) == {"expectations.1.series"}
    bad = [{"series": "x", "interval": "hour"}, good | {"interval": "fortnight"}]
    assert await rest.wrong_fields("PATCH", path, {"expectations": bad}) == {
        "expectations.0.series",
        "expectations.1.interval",
    }
    shown = await rest.patch(path, expectations=[good | {"anchor_seconds": 60}])
    assert shown["expectations"] == [{"series": SERIES, "interval": "hour", "anchor_seconds": 60, "archive": None}]


async def test_an_edit_is_known_at_once_and_says_that_it_is_being_rebuilt(
    engine: AsyncEngine, rest: Rest, estate: Estate
) -> None:
    path = f"/v1/metering/meter-device-configs/{estate.config}"
    await rest.patch(path, expectations=[{"series": SERIES, "interval": "half_hour"}])
    async with reading(engine) as session:
        marks = await session.scalar(sa.select(sa.func.count()).select_from(models.ExpectationMark))
    assert marks == 2
    found = await rest.get(f"/v1/completeness?meter_device={estate.meters['M1']}&{RANGE}")
    assert (found["expected"], found["stored"], found["rebuilding"]) == (48, 22, 0)
    assert not await keep_some(engine, LATER)
