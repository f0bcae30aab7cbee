"""Deadlines over REST and in the keeper, on both databases: projected, closed, late, told; per gateway and group."""

import datetime as dt
import decimal
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.database import reading, writing
from hub.deadlines_kept import Keeper
from hub.expectations import mark
from hub.secrets_box import SealError, note_public_half, unseal
from hub.versions import Arrival, store
from hub.webhooks import secret_purpose
from protocol.envelopes import SigningKey
from tests.hub.test_ledger import work_off
from tests.parts.databases import ON_SQLITE, database_url, engine
from tests.parts.estates import Estate, make_estate, new_meter
from tests.parts.rest import Rest, rest

__all__ = ["database_url", "engine", "rest"]

HOUR = dt.timedelta(hours=1)
SERIES = "7:310/3"
BEGIN = dt.datetime(2026, 11, 20, 5, 0, tzinfo=dt.UTC)
"""06:00 in Berlin: where a gas day begins."""

END = BEGIN + 24 * HOUR
AFTER = BEGIN + dt.timedelta(seconds=1)
"""When the meters were commissioned: the value of 06:00 is the day's before."""

SECRET = "whsec_" + "c2VjcmV0" * 5


class Site:
    """Two meters with an hourly series on one gateway, and a hub that keeps deadlines."""

    def __init__(self, engine: AsyncEngine, rest: Rest, estate: Estate) -> None:
        self.engine, self.rest, self.estate = engine, rest, estate
        self.keeper = Keeper(engine, rest.clock)
        self.key = SigningKey.generate()

    async def make(self, **more: object) -> dict[str, Any]:
        """Make a deadline: the gas day, within an hour, 99.5 % unless said otherwise."""
        body = {
            "organization": str(self.estate.organization), "name": "gas day", "interval": "gas_day",
            "within_seconds": 3600, "target_percent": "99.5", "patience_seconds": 0,
        }  # fmt: skip
        made: dict[str, Any] = await self.rest.post("/v1/deadlines", **body | more)
        return made

    async def turn(self, at: dt.datetime | None = None) -> None:
        """Let the clock show an instant, and the keeper do all that is due."""
        if at is not None:
            self.rest.clock.shown = at
        while await self.keeper.turn():
            pass

    async def put(self, *at: dt.datetime, meter: str = "M1", stored: dt.datetime | None = None) -> None:
        """Have readings of these instants stored."""
        series = self.estate.series[SERIES]
        one = decimal.Decimal(1)
        arrivals = [
            Arrival(self.estate.organization, self.estate.meters[meter], series, when, one, when) for when in at
        ]
        async with writing(self.engine) as session:
            await store(session, arrivals, stored or self.rest.clock.shown)

    async def results(self, deadline: dict[str, Any], by: str = "", **query: dt.datetime) -> list[dict[str, Any]]:
        text = "".join(f"&{name}={at:%Y-%m-%dT%H:%M:%SZ}" for name, at in query.items())
        answer = await self.rest.get(f"/v1/deadlines/{deadline['id']}/results?{f'by={by}' if by else ''}{text}")
        found: list[dict[str, Any]] = answer["results"]
        return found

    async def result(self, deadline: dict[str, Any], by: str = "", start: dt.datetime = BEGIN) -> dict[str, Any]:
        """Return one period's result."""
        found = await self.results(deadline, by)
        (one,) = [one for one in found if one["start"] == f"{start:%Y-%m-%dT%H:%M:%SZ}"]
        return one

    async def events(self, deadline: dict[str, Any]) -> list[dict[str, Any]]:
        """Return all events, the oldest first."""
        found = (await self.rest.get(f"/v1/deadlines/{deadline['id']}/notifications"))["results"]
        return [one["event"] for one in sorted(found, key=lambda one: (one["created_at"], one["event"]["number"]))]

    async def gateway(self, **values: object) -> None:
        async with writing(self.engine) as session:
            await session.execute(sa.update(models.Gateway).values(**values))


@pytest.fixture
async def site(engine: AsyncEngine, rest: Rest) -> Site:
    rest.clock.shown = BEGIN
    estate = await make_estate(engine)
    made = Site(engine, rest, estate)
    async with writing(engine) as session:
        told = [{"series": SERIES, "interval": "hour", "anchor_seconds": None, "archive": 3}]
        await session.execute(sa.update(models.MeterDeviceConfig).values(expectations=told))
        await session.execute(sa.update(models.MeterDevice).values(commissioned=AFTER))
        await session.execute(sa.update(models.Gateway).values(online=True, last_seen=BEGIN))
        await mark(session, models.MeterDeviceConfig, estate.config)
        await note_public_half(session, made.key)
    await work_off(engine, BEGIN)
    return made


def hours(first: int, last: int) -> list[dt.datetime]:
    """The values that end the hours from a first to a last one of the gas day, 1 to 24."""
    return [BEGIN + hour * HOUR for hour in range(first, last + 1)]


@ON_SQLITE
async def test_a_period_that_runs_is_projected_by_what_is_there_and_what_will_come(site: Site) -> None:
    deadline = await site.make()
    site.rest.clock.shown = BEGIN + 12 * HOUR
    await site.put(*hours(1, 12))
    await site.put(*hours(1, 12), meter="M2")
    one = await site.result(deadline)
    assert (one["state"], one["met"]) == ("running", None)
    assert (one["end"], one["due_at"]) == ("2026-11-21T05:00:00Z", "2026-11-21T06:00:00Z")
    assert (one["expected"], one["stored"], one["late"], one["missing"]) == (48, 24, 0, 24)
    assert (one["projected"], one["possible"], one["projected_percent"]) == (48, 48, 100.0)
    assert one["missing_by_reason"] == {"due": 24}
    await site.gateway(online=False)
    one = await site.result(deadline)
    assert (one["projected"], one["possible"], one["projected_percent"]) == (24, 48, 50.0)


@ON_SQLITE
async def test_a_value_belongs_to_the_period_that_its_time_ends(site: Site) -> None:
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.MeterDevice).values(commissioned=BEGIN - HOUR))
        await mark(session, models.MeterDeviceConfig, site.estate.config)
    deadline = await site.make()
    # The value of 06:00 is the last one of the day before.
    await site.put(BEGIN, END)
    await site.turn(END - HOUR)
    assert (await site.result(deadline))["stored"] == 1
    assert (await site.result(deadline, start=BEGIN - 24 * HOUR))["stored"] == 1


async def test_a_period_that_is_over_is_kept_as_it_was_and_counts_what_comes_late(site: Site) -> None:
    deadline = await site.make()
    await site.put(*hours(1, 24))
    await site.put(*hours(1, 20), meter="M2")
    await site.gateway(online=False, last_seen=BEGIN)
    await site.turn(END)
    assert (await site.result(deadline))["state"] == "running"
    await site.turn(END + HOUR)
    one = await site.result(deadline)
    assert (one["state"], one["met"], one["percent"]) == ("over", False, 91.6666)
    assert (one["expected"], one["stored"], one["late"], one["missing"]) == (48, 44, 0, 4)
    assert one["missing_by_reason"] == {"gateway_offline": 4}
    await site.put(*hours(21, 23), meter="M2", stored=END + 5 * HOUR)
    await site.turn(END + 5 * HOUR)
    one = await site.result(deadline)
    assert (one["stored"], one["late"], one["missing"], one["met"]) == (44, 3, 1, False)
    # Whatever becomes of the readings, and of the deadline.
    await site.rest.patch(f"/v1/deadlines/{deadline['id']}", target_percent="50", within_seconds=10)
    async with writing(site.engine) as session:
        await session.execute(sa.delete(models.Reading))
        await session.execute(sa.delete(models.LedgerChunk))
    await site.turn(END + 30 * HOUR)
    assert await site.result(deadline) == one


async def test_a_relay_that_comes_late_finds_what_was_stored_in_time(site: Site) -> None:
    deadline = await site.make()
    await site.turn(BEGIN + HOUR)
    await site.put(*hours(1, 20), stored=END)
    await site.put(*hours(21, 22), stored=END + HOUR)
    await site.put(*hours(23, 24), stored=END + HOUR + dt.timedelta(seconds=1))
    await site.put(*hours(1, 24), meter="M2", stored=END + 2 * HOUR)
    # A revision is no later a reading than its first version.
    await site.put(BEGIN + HOUR, stored=END + 3 * HOUR)
    site.rest.clock.shown = END + 20 * HOUR
    one = await site.result(deadline)
    assert (one["state"], one["stored"], one["late"]) == ("closing", 22, 26)
    await site.turn(END + 20 * HOUR)
    one = await site.result(deadline)
    assert (one["state"], one["stored"], one["late"], one["missing"]) == ("over", 22, 26, 0)
    assert one["missing_by_reason"] == {}


async def test_parts_by_gateway_group_and_organization_add_up_running_and_over(site: Site) -> None:
    estate = site.estate
    async with writing(site.engine) as session:
        session.add(lonely := new_meter("M3", estate.organization, estate.type, None))
        lonely.commissioned = AFTER
        await session.flush()
        await mark(session, models.MeterDevice, lonely.id)
    estate.meters["M3"] = lonely.id
    await work_off(site.engine, BEGIN)
    group = await site.rest.post("/v1/metering/amr-task-groups", organization=str(estate.organization), name="industry")
    await site.rest.patch(f"/v1/metering/meter-devices/{estate.meters['M1']}", task_groups=[group["id"]])
    deadline = await site.make()
    await site.put(*hours(1, 24))
    await site.put(*hours(1, 12), meter="M2")
    for at, state in ((END, "running"), (END + HOUR, "over")):
        await site.turn(at)
        by = {}
        for kind in ("gateway", "group", "organization"):
            one = await site.result(deadline, kind)
            assert one["state"] == state
            by[kind] = {part["name"]: (part["expected"], part["stored"], part["missing"]) for part in one["parts"]}
            assert sum(part["expected"] for part in one["parts"]) == one["expected"] == 72
            assert sum(part["stored"] for part in one["parts"]) == one["stored"] == 36
        assert by["gateway"] == {"gw-1": (48, 36, 12), "": (24, 0, 24)}
        assert by["group"] == {"industry": (24, 24, 0), "": (48, 12, 36)}
        assert by["organization"] == {"org of gw-1": (72, 36, 36)}
    only = await site.make(name="industry only", task_group=group["id"])
    site.rest.clock.shown = END
    one = await site.result(only)
    assert (one["expected"], one["stored"]) == (24, 24)


async def test_only_the_series_that_it_names_count(site: Site) -> None:
    other = str(site.estate.series["2:300"])
    async with writing(site.engine) as session:
        told = [
            {"series": name, "interval": "hour", "anchor_seconds": None, "archive": 3} for name in (SERIES, "2:300")
        ]
        await session.execute(sa.update(models.MeterDeviceConfig).values(expectations=told))
        await mark(session, models.MeterDeviceConfig, site.estate.config)
    await work_off(site.engine, BEGIN)
    await site.put(*hours(1, 12))
    both = await site.make(name="both")
    one = await site.make(name="one", series=[other])
    site.rest.clock.shown = BEGIN + 12 * HOUR
    assert [(found["expected"], found["stored"]) for found in [await site.result(both)]] == [(96, 12)]
    assert [(found["expected"], found["stored"]) for found in [await site.result(one)]] == [(48, 0)]
    await site.turn(END + 2 * HOUR)
    assert [(found["expected"], found["stored"]) for found in [await site.result(both)]] == [(96, 12)]
    assert [(found["expected"], found["stored"]) for found in [await site.result(one)]] == [(48, 0)]


async def test_periods_before_the_deadline_was_made_are_worked_out_and_told_nobody(site: Site) -> None:
    await site.put(*hours(1, 24), stored=END)
    deadline = await site.make(webhook_url="https://receiver.example/", webhook_secret=SECRET)
    made = END + 30 * HOUR
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.Deadline).values(created_at=made))
    await site.turn(made)
    found = await site.results(deadline)
    assert [one["state"] for one in found] == ["over"] * 28 + ["running"]
    assert (await site.result(deadline))["stored"] == 24
    assert [event["type"] for event in await site.events(deadline)] == ["deadline.below"], "of the one that runs"


async def test_it_is_told_once_when_the_projection_falls_and_comes_back_and_how_it_ended(site: Site) -> None:
    deadline = await site.make(webhook_url="https://receiver.example/", webhook_secret=SECRET, patience_seconds=600)
    await site.put(*hours(1, 12))
    await site.put(*hours(1, 12), meter="M2")
    noon = BEGIN + 12 * HOUR
    minutes = [dt.timedelta(minutes=number) for number in range(60)]
    await site.turn(noon)
    await site.gateway(online=False)
    for minute in minutes[1:10]:
        await site.turn(noon + minute)
    assert await site.events(deadline) == []
    for minute in minutes[10:20]:
        await site.turn(noon + minute)
        # Another relay, or this one after a restart, knows what was told.
        site.keeper = Keeper(site.engine, site.rest.clock)
    (below,) = await site.events(deadline)
    assert (below["type"], below["number"], below["deadline"]["name"]) == ("deadline.below", 1, "gas day")
    assert (below["period"]["projected"], below["period"]["possible"], below["period"]["met"]) == (24, 48, None)
    assert [part["name"] for part in below["period"]["parts"]] == ["gw-1"]
    await site.gateway(online=True)
    for minute in minutes[20:40]:
        await site.turn(noon + minute)
    assert [event["type"] for event in await site.events(deadline)] == ["deadline.below", "deadline.recovered"]
    await site.put(*hours(13, 24))
    await site.put(*hours(13, 24), meter="M2")
    await site.turn(END + HOUR)
    await site.turn(END + HOUR + minutes[5])
    events = await site.events(deadline)
    assert [event["type"] for event in events] == ["deadline.below", "deadline.recovered", "deadline.met"]
    assert (events[-1]["period"]["stored"], events[-1]["period"]["met"]) == (48, True)
    assert len({event["id"] for event in events}) == 3


async def test_a_gateway_is_projected_as_it_usually_does(site: Site) -> None:
    deadline = await site.make()
    for day in range(3):
        kept = 24 if day == 1 else 18
        at = [when + 24 * day * HOUR for when in hours(1, kept)]
        await site.put(*at, stored=at[-1])
        await site.put(*at, meter="M2", stored=at[-1])
        await site.turn(BEGIN + 24 * (day + 1) * HOUR + HOUR)
    begin = BEGIN + 72 * HOUR
    await site.turn(begin + 2 * HOUR)
    one = await site.result(deadline, start=begin)
    # 75 % on its middle day; of two hours that are missing without a cause nothing will come.
    lacking = one["missing_by_reason"]
    assert one["projected"] == int(0.75 * lacking["due"]) < one["possible"] == 48


async def test_days_when_clocks_change_have_23_and_25_hours(site: Site) -> None:
    deadline = await site.make()
    async with writing(site.engine) as session:
        since = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
        await session.execute(sa.update(models.MeterDevice).values(commissioned=since))
        await mark(session, models.MeterDeviceConfig, site.estate.config)
    await work_off(site.engine, BEGIN)
    for noon, count in (
        (dt.datetime(2026, 3, 28, 12, tzinfo=dt.UTC), 23),
        (dt.datetime(2026, 10, 24, 12, tzinfo=dt.UTC), 25),
    ):
        site.rest.clock.shown = noon
        (*_, one) = await site.results(deadline)
        start, end = (dt.datetime.fromisoformat(one[name]) for name in ("start", "end"))
        assert (end - start, one["expected"], one["zone"]) == (count * HOUR, 2 * count, "Europe/Berlin")


async def test_meters_in_two_zones_have_periods_of_their_own(site: Site) -> None:
    await site.rest.patch(f"/v1/metering/meter-devices/{site.estate.meters['M2']}", timezone="Europe/Helsinki")
    await work_off(site.engine, BEGIN)
    deadline = await site.make()
    await site.turn(BEGIN + 12 * HOUR)
    found = [one for one in await site.results(deadline) if one["state"] == "running"]
    assert [(one["zone"], one["expected"]) for one in found] == [("Europe/Helsinki", 23), ("Europe/Berlin", 24)]
    hourly = await site.make(name="hourly", interval="hour", within_seconds=900)
    site.rest.clock.shown = BEGIN + 12 * HOUR + dt.timedelta(minutes=5)
    running = [one for one in await site.results(hourly) if one["state"] == "running"]
    assert [(one["zone"], one["expected"]) for one in running] == [("UTC", 2), ("UTC", 2)]


@ON_SQLITE
async def test_what_validation_rejects_does_not_count(site: Site) -> None:
    limits = [{"series": SERIES, "max": "5", "reject": True}]
    await site.rest.patch(f"/v1/metering/meter-device-configs/{site.estate.config}", limits=limits)
    await site.put(*hours(1, 24))
    async with writing(site.engine) as session:
        bad = sa.update(models.Reading).where(models.Reading.timestamp == BEGIN + 3 * HOUR)
        await session.execute(bad.values(flags=16))
    deadline = await site.make()
    await site.turn(END + HOUR)
    one = await site.result(deadline, "gateway")
    assert (one["stored"], one["missing_by_reason"]["rejected"]) == (23, 1)
    assert one["parts"][0]["stored"] == 23


async def test_secrets_are_sealed_and_never_shown(site: Site) -> None:
    deadline = await site.make(webhook_url="https://receiver.example/hook?x=1", webhook_secret=SECRET)
    assert deadline["has_webhook_secret"] is True
    assert "webhook_secret" not in deadline
    path = f"/v1/deadlines/{deadline['id']}"
    again = await site.rest.call("PUT", path, deadline)
    assert again == deadline, "what was got may be sent back; the secret stays"
    async with reading(site.engine) as session:
        sealed = await session.scalar(sa.select(models.Deadline.webhook_secret))
    assert sealed is not None
    assert SECRET.encode() not in sealed
    purpose = secret_purpose(uuid.UUID(deadline["id"]))
    assert unseal(site.key, sealed, purpose).decode() == SECRET
    for key, of in ((SigningKey.generate(), purpose), (site.key, "another")):
        with pytest.raises(SealError, match="give it again"):
            unseal(key, sealed, of)
    gone = await site.rest.patch(path, webhook_url=None)
    assert (gone["webhook_url"], gone["has_webhook_secret"]) == (None, False)


async def test_a_secret_that_cannot_be_sealed_yet_is_a_conflict(site: Site) -> None:
    async with writing(site.engine) as session:
        await session.execute(sa.delete(models.HubState))
    body = {
        "organization": str(site.estate.organization), "name": "x", "interval": "day", "within_seconds": 0,
        "target_percent": "99", "webhook_url": "https://receiver.example/", "webhook_secret": SECRET,
    }  # fmt: skip
    problem = await site.rest.call("POST", "/v1/deadlines", body, 409)
    assert "no relay has run" in problem["detail"]
    assert SECRET not in str(problem)


WRONG = [
    ("interval", "minute"),
    ("anchor_seconds", 90_000),
    ("within_seconds", -1),
    ("within_seconds", 864_001),
    ("patience_seconds", 86_401),
    ("target_percent", "0"),
    ("target_percent", "100.1"),
    ("target_percent", "99.99999"),
    ("target_percent", "NaN"),
    ("webhook_secret", "hunter2"),
    ("webhook_secret", "whsec_dG9vIHNob3J0"),
    ("webhook_secret", None),
    ("webhook_url", "http://receiver.example/"),
    ("webhook_url", "ftp://receiver.example/"),
    ("webhook_url", "https://user:secret@receiver.example/"),
    ("webhook_url", "https://127.0.0.1/"),
    ("webhook_url", "https://169.254.169.254/latest"),
    ("webhook_url", "https://[::ffff:10.0.0.1]/"),
    ("webhook_url", "https://[64:ff9b::a00:1]/"),
    ("webhook_url", "https://receiver.example/#x"),
    ("webhook_url", "https://receiver.example:99999/"),
    ("webhook_url", "https://receiver.example/\r\nX: y"),
    ("task_group", "00000000-0000-4000-8000-000000000000"),
    ("series", ["00000000-0000-4000-8000-000000000000"]),
]


async def test_what_is_wrong_is_named(site: Site) -> None:
    body = {
        "organization": str(site.estate.organization), "name": "x", "interval": "day", "within_seconds": 60,
        "target_percent": "99.5", "webhook_url": "https://receiver.example/", "webhook_secret": SECRET,
    }  # fmt: skip
    for field, value in WRONG:
        assert await site.rest.wrong_fields("POST", "/v1/deadlines", body | {field: value}) == {field}, value
    assert (await site.rest.get("/v1/deadlines"))["count"] == 0


async def test_names_are_taken_once_periods_stay_and_all_goes_with_the_deadline(site: Site) -> None:
    deadline = await site.make(webhook_url="https://receiver.example/", webhook_secret=SECRET)
    path = f"/v1/deadlines/{deadline['id']}"
    body = {name: deadline[name] for name in ("organization", "name", "interval", "within_seconds", "target_percent")}
    await site.rest.call("POST", "/v1/deadlines", body, 409)
    assert await site.rest.wrong_fields("PATCH", path, {"interval": "day"}) == {"interval"}
    await site.turn(END + HOUR)
    await site.rest.post(f"{path}/notifications")
    await site.rest.call("DELETE", path, status=204)
    async with reading(site.engine) as session:
        for model in (models.DeadlinePeriod, models.DeadlinePart, models.Notification):
            assert await session.scalar(sa.select(sa.func.count()).select_from(model)) == 0


async def test_a_group_or_series_that_a_deadline_needs_says_which_deadline_that_is(site: Site) -> None:
    owner = str(site.estate.organization)
    group = await site.rest.post("/v1/metering/amr-task-groups", organization=owner, name="industry")
    series = await site.rest.post("/v1/metering/meter-reading-series", organization=owner, name="extra", unit="m3")
    deadline = await site.make(name="Gas day", task_group=group["id"], series=[series["id"]])
    needed = [f"/v1/metering/amr-task-groups/{group['id']}", f"/v1/metering/meter-reading-series/{series['id']}"]
    for path in needed:
        problem = await site.rest.call("DELETE", path, status=409)
        assert problem["detail"].endswith("cannot be deleted: it is used by 1 deadlines (Gas day)")
    await site.rest.call("DELETE", f"/v1/deadlines/{deadline['id']}", status=204)
    for path in needed:
        await site.rest.call("DELETE", path, status=204)


@ON_SQLITE
async def test_a_question_about_too_much_or_nothing_is_refused(site: Site) -> None:
    deadline = await site.make()
    path = f"/v1/deadlines/{deadline['id']}/results"
    assert await site.rest.wrong_fields("GET", f"{path}?by=meter", None) == {"by"}
    assert await site.rest.wrong_fields("GET", f"{path}?start=2026-11-20T00:00:00Z&end=2026-11-19T00:00:00Z", None) == {
        "end"
    }
    await site.rest.get(f"/v1/deadlines/{uuid.uuid4()}/results", 404)
    await site.rest.get(f"/v1/deadlines/{uuid.uuid4()}/notifications", 404)
    await site.rest.call("POST", f"/v1/deadlines/{deadline['id']}/notifications", {}, 409)


async def test_figures_for_prometheus(site: Site) -> None:
    deadline = await site.make()
    await site.put(*hours(1, 24))
    await site.turn(END + HOUR)
    await site.turn(END + 2 * HOUR)
    text = (await site.rest.client.get("/metrics")).text
    labels = f'{{deadline="gas day",organization="{site.estate.organization}"}}'
    assert f"metergate_deadline_expected{labels} 48.0" in text
    assert f"metergate_deadline_target_ratio{labels} 0.995" in text
    assert f"metergate_deadline_result_ratio{labels} 0.5" in text
    assert "metergate_webhooks_gave_up 0.0" in text
    assert "org of" not in text, "the page is open to everybody"
    await site.rest.patch(f"/v1/deadlines/{deadline['id']}", is_active=False)
    assert "gas day" not in (await site.rest.client.get("/metrics")).text


async def test_old_results_go_and_are_not_worked_out_again(site: Site) -> None:
    deadline = await site.make(interval="hour", within_seconds=0)
    await site.turn(BEGIN + 3 * HOUR)
    number = len(await site.results(deadline))
    assert number == 29
    later = BEGIN + dt.timedelta(days=100)
    await site.rest.patch(f"/v1/deadlines/{deadline['id']}", is_active=False)
    site.rest.clock.shown = later
    await Keeper(site.engine, site.rest.clock).turn()
    assert await site.results(deadline, start=BEGIN - 100 * HOUR) == []
