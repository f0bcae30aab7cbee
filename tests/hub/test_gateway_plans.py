"""Plans of gateways over REST, on both databases: what is kept, what it says, how two differ and why one waits."""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from hub import models, plans
from hub.database import reading as looking
from hub.database import writing
from hub.plans_kept import KEPT, Made, Published, keep, note_published
from hub.plans_shown import compare, read_document
from hub.reports import Told, store_reports
from protocol.plans import (
    CallerGrant,
    Device,
    Line,
    Problem,
    PushMeter,
    Receiver,
    SeriesMapping,
    Task,
    plan_digest,
    render_plan,
)
from protocol.reports import PlanApplied
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

AT = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)


async def publish(rest: Rest, fleet: Fleet) -> plans.Rendered:
    """Do what a relay does when it has published the desired plan."""
    gateway = uuid.UUID(fleet.gateway)
    async with writing(rest.hub.engine) as session:
        rendered = await plans.render(session, gateway)
        assert rendered is not None
        one = Published(gateway, rendered.revision, rendered.body, rendered.digest)
        await note_published(session, [one], rest.clock.now())
    return rendered


async def apply(
    rest: Rest, fleet: Fleet, plan: plans.Rendered, *problems: Problem, sequence: int = 0, at: dt.datetime | None = None
) -> None:
    """Store what an agent reports when it has applied a plan."""
    when = at or rest.clock.now()
    report = PlanApplied(
        uuid.uuid4(), plan.revision, plan.digest, when, 1, sequence or plan.revision, problems=list(problems)
    )
    async with writing(rest.hub.engine) as session:
        owner = uuid.UUID(fleet.organization)
        await store_reports(session, [Told(uuid.UUID(fleet.gateway), owner, [report])], rest.clock.now())


async def rename_task(rest: Rest, fleet: Fleet, name: str) -> None:
    await rest.patch(f"/v1/metering/amr-tasks/{fleet.task}", name=name)


async def test_each_revision_is_kept_with_who_made_it_and_when_it_ran(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/gateways/{fleet.gateway}/plans"
    published = await publish(rest, fleet)
    rest.clock.advance(seconds=10)
    await apply(rest, fleet, published, Problem("task", fleet.task, "volume: no such call"))
    applied_at = rest.clock.now()
    rest.clock.advance(seconds=10)
    await rename_task(rest, fleet, "flow")
    page = await rest.get(path)
    newest, ran = page["results"][:2]
    assert page["count"] == len(page["results"]) == newest["revision"]
    assert (newest["standing"], newest["published_at"], newest["problem_count"]) == (["desired"], None, None)
    assert newest["made_by"] == "token test"
    assert newest["made_via"] == f"PATCH /v1/metering/amr-tasks/{fleet.task}"
    assert (ran["standing"], ran["problem_count"]) == (["published", "applied"], 1)
    assert dt.datetime.fromisoformat(ran["applied_at"]) == applied_at
    assert ran["made_at"] == ran["published_at"] < ran["applied_at"] < newest["made_at"]
    assert ran["size"] == len(published.body)
    # What is told again, or with a clock that is wrong, changes nothing of that.
    rest.clock.advance(seconds=10)
    await publish(rest, fleet)
    await apply(rest, fleet, published, sequence=90, at=AT.replace(year=1970))
    again = (await rest.get(path))["results"][1]
    assert (again["applied_at"], again["published_at"], again["problem_count"]) == (
        ran["applied_at"],
        ran["published_at"],
        0,
    )


async def test_a_plan_is_read_by_number_or_word(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/gateways/{fleet.gateway}/plans"
    shown = await rest.get(f"{path}/desired")
    assert shown == await rest.get(f"{path}/{shown['revision']}")
    document = shown["document"]
    (device,), (task,), (line,) = document["devices"], document["tasks"], document["lines"]
    assert device["tasks"] == [{"id": fleet.task, "name": "volume"}]
    assert (device["line"], device["line_name"]) == (fleet.line, line["name"])
    assert (task["schedule"], task["kwargs"]) == ("quarterly", {"address": "2:300"})
    answer = await rest.client.get(f"{path}/desired")
    known = {"If-None-Match": answer.headers["etag"]}
    assert (await rest.client.get(f"{path}/desired", headers=known)).status_code == 304
    for unknown in ("applied", "published", "0", "77", "-1", "now", "9" * 30):
        await rest.get(f"{path}/{unknown}", status=404)
    await rest.get(f"/v1/gateways/{uuid.uuid4()}/plans", status=404)
    await rest.call("GET", f"{path}?limit=2", status=422)


async def test_old_revisions_go_but_for_those_in_use(rest: Rest) -> None:
    """The gateway has been away for many edits: what it runs is still known."""
    fleet = await create_fleet(rest)
    ran = await publish(rest, fleet)
    await apply(rest, fleet, ran)
    async with writing(rest.hub.engine) as session:
        for later in range(1, KEPT + 5):
            await keep(session, [Made(uuid.UUID(fleet.gateway), ran.revision + later, ran.body)], rest.clock.now())
    rows = (await rest.get(f"/v1/gateways/{fleet.gateway}/plans"))["results"]
    assert len(rows) == KEPT + 1
    assert [row["revision"] for row in rows[:KEPT]] == [ran.revision + later for later in range(KEPT + 4, 4, -1)]
    assert rows[-1]["revision"] == ran.revision


async def test_plans_from_before_they_were_kept_are_told_of(rest: Rest) -> None:
    """The desired one is rendered anew and kept when it is published; what went before is not known any more."""
    fleet = await create_fleet(rest)
    path = f"/v1/gateways/{fleet.gateway}/plans"
    before = await publish(rest, fleet)
    await apply(rest, fleet, before)
    async with writing(rest.hub.engine) as session:
        await session.execute(sa.delete(models.GatewayPlan))
    (row,) = (await rest.get(path))["results"]
    assert (row["revision"], row["made_by"], row["standing"]) == (
        before.revision,
        None,
        ["desired", "published", "applied"],
    )
    assert (await rest.get(f"{path}/desired"))["document"]["devices"]
    await rename_task(rest, fleet, "other")
    difference = await rest.get(f"{path}/diff")
    assert (difference["differences"], difference["before"]["kept"]) == (None, False)
    assert [one["reason"] for one in difference["reasons"]] == ["not_published", "never_seen"]
    await rest.get(f"{path}/diff?from={before.revision}", status=404)
    async with writing(rest.hub.engine) as session:
        await session.execute(sa.delete(models.GatewayPlan))
    await publish(rest, fleet)
    (kept,) = (await rest.get(path))["results"]
    assert kept["published_at"] is not None
    async with looking(rest.hub.engine) as session:
        assert await session.scalar(sa.select(models.GatewayPlan.revision)) == before.revision + 1


async def test_why_a_gateway_does_not_run_what_it_should(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"/v1/gateways/{fleet.gateway}/plans/diff"

    async def told(*reasons: str, **gateway: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - columns
        if gateway:
            async with writing(rest.hub.engine) as session:
                await session.execute(sa.update(models.Gateway).values(**gateway))
        found: list[dict[str, Any]] = (await rest.get(path))["reasons"]
        assert [one["reason"] for one in found] == list(reasons), found
        return found

    await told("not_published", "never_seen")
    plan = await publish(rest, fleet)
    await told("never_seen")
    seen = rest.clock.now()
    (away,) = await told("offline", last_seen=seen)
    assert dt.datetime.fromisoformat(away["since"]) == seen
    (waiting,) = await told("waiting", online=True, status="disk full")
    assert "disk full" in waiting["text"]
    await apply(rest, fleet, plan)
    assert (await rest.get(path))["in_step"]
    await told()
    await told("problems", applied_problems=[{"kind": "task", "item": fleet.task, "text": "no such call"}])
    shown = await rest.get(path)
    assert shown["problems"] == [{"kind": "task", "item": fleet.task, "name": "volume", "text": "no such call"}]
    await rename_task(rest, fleet, "flow")
    (task,) = (await rest.get(path))["differences"]
    assert (task["change"], task["problems"]) == ("changed", ["no such call"])
    assert task["fields"] == [{"field": "name", "before": "volume", "after": "flow", "added": None, "removed": None}]
    await told("ahead", "problems", applied_revision=99)
    await rest.get(f"{path}?from=soon", status=404)
    await rest.call("GET", f"{path}?since=1", status=422)


LINE = Line(uuid.UUID(int=1), "line", "/dev/ttyS0")
TASK = Task(uuid.UUID(int=2), "volume", "hourly", 0, "generic_lis200", "read_single_value", {"address": "2:300"})
DEVICE = Device(uuid.UUID(int=3), "meter", LINE.id, "UTC", tasks=[TASK.id])
CALLER = CallerGrant("scada", bytes(32), ["generic_lis200.*"])
PUSHED = PushMeter(DEVICE.id, "meter", "4711", "UTC", keys=b"sealed once")
RECEIVER = Receiver(uuid.UUID(int=4), "radio", "wmbus", "udp://0.0.0.0:1", {"key": "x"}, [PUSHED])
FULL: dict[str, list[Any]] = {
    "lines": [LINE],
    "devices": [DEVICE],
    "tasks": [TASK],
    "callers": [CALLER],
    "receivers": [RECEIVER],
}


def changes(after: dict[str, list[Any]], before: dict[str, list[Any]] = FULL) -> list[tuple[str, str, Sequence[str]]]:
    old, new = (read_document(render_plan("gw", 1, AT, **(FULL | one))) for one in (before, after))
    return [(one.kind, one.change, [field.field for field in one.fields]) for one in compare(old, new, [])]


def changed(item: Any, **fields: Any) -> Any:  # noqa: ANN401 - any item of a plan
    values = {name: getattr(item, name) for name in item.__struct_fields__} | fields
    return type(item)(**values)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({}, []),
        (
            {"tasks": [], "devices": [changed(DEVICE, tasks=[])]},
            [("device", "changed", ["tasks"]), ("task", "removed", [])],
        ),
        ({"callers": [changed(CALLER, name="other")]}, [("caller", "added", []), ("caller", "removed", [])]),
        ({"callers": [changed(CALLER, key=bytes(31) + b"1")]}, [("caller", "changed", ["key"])]),
        ({"lines": [changed(LINE, rate=9600)]}, [("line", "changed", ["rate"])]),
        ({"tasks": [changed(TASK, kwargs={"address": "2:301"})]}, [("task", "changed", ["kwargs.address"])]),
        (
            {"devices": [changed(DEVICE, mappings=[SeriesMapping(0, "2:300", "7-0:3.0.0")])]},
            [("device", "changed", ["mappings"])],
        ),
        (
            {"receivers": [changed(RECEIVER, meters=[changed(PUSHED, keys=b"sealed anew")])]},
            [("receiver", "changed", ["meters"])],
        ),
    ],
)
def test_what_differs_is_told_item_by_item_and_field_by_field(
    after: dict[str, list[Any]], expected: list[tuple[str, str, list[str]]]
) -> None:
    assert changes(after) == expected


def test_lists_say_what_only_one_side_has_and_nothing_sealed_is_shown() -> None:
    old = read_document(render_plan("gw", 1, AT, **FULL))
    more = changed(TASK, id=uuid.UUID(int=9), name="clock")
    body = render_plan("gw", 2, AT, **(FULL | {"tasks": [TASK, more], "devices": [changed(DEVICE, tasks=[more.id])]}))
    device = compare(old, read_document(body), [])[0]
    (field,) = device.fields
    assert [one["name"] for one in field.added or []] == ["clock"]
    assert [one["name"] for one in field.removed or []] == ["volume"]
    assert "sealed once" not in str(old)
    assert len(plan_digest(body)) == 16
