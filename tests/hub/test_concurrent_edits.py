"""Fifty clients edit the same objects of a running hub, on either database: no edit is lost that If-Match guards.

Forty read a number, add one and send it back with the tag that they saw: in the end it is as much higher as edits were
taken. Ten others edit the same estate without asking. What the gateway is to run is then what is configured.
"""

import asyncio
import dataclasses
import time
import uuid
from collections import Counter
from typing import Any

import httpx
import msgspec

from hub.database import create_engine, reading
from hub.plans import Rendered, render
from hub.plans_shown import read_document
from tests.parts.running_hub import RunningHub, Things, running

__all__ = ["running"]

CLIENTS, ROUNDS, HASTY, EDITS = 10, 2, 10, 3
"""Careful clients of each object and how often they try; careless ones and how often they edit."""


@dataclasses.dataclass
class Counted:
    """A field of an object that is read, raised by one and sent back."""

    path: str
    field: str
    start: int

    def read(self, shown: dict[str, Any]) -> int:
        """Return the number: a text's, where the field is one."""
        return int(shown[self.field] or 0)

    def body(self, number: int) -> dict[str, Any]:
        """Return the body that sets it."""
        return {self.field: str(number) if self.field == "description" else number}


Tries = list[tuple[int, int | None]]
"""Each status, and the number that was set."""


async def add_one(client: httpx.AsyncClient, counted: Counted, *, stubborn: bool) -> Tries:
    """Try some times, who is stubborn until it has worked once: the others give up some day."""
    found: Tries = []
    while len(found) < ROUNDS or (stubborn and not any(number for _, number in found)):
        seen = await client.get(counted.path)
        assert seen.status_code == 200, seen.text
        body = counted.body(counted.read(seen.json()) + 1)
        answer = await client.patch(counted.path, json=body, headers={"If-Match": seen.headers["etag"]})
        assert answer.status_code in {200, 412}, answer.text
        found.append((answer.status_code, counted.read(answer.json()) if answer.status_code == 200 else None))
    return found


async def edit_at_will(client: httpx.AsyncClient, number: int, things: Things, tasks: list[str]) -> list[int]:
    """Give the group other tasks, and the meter another serial number, whatever others did."""
    found = []
    body: dict[str, Any]
    for turn in range(EDITS):
        if number % 2:
            path, body = f"/v1/metering/amr-task-groups/{things.group}", {"tasks": tasks[: 1 + (number + turn) % 2]}
        else:
            path, body = f"/v1/metering/meter-devices/{things.meter}", {"manufacturer_serial": f"{number}-{turn}"}
        found.append((await client.patch(path, json=body)).status_code)
    return found


async def everybody(
    hub: RunningHub, things: Things, counters: list[Counted], tasks: list[str]
) -> tuple[list[list[Tries]], list[list[int]]]:
    """Let all clients loose at once; return what the careful were answered, by object, and what the others were."""
    headers = {"Authorization": f"Token {hub.token}"}
    limits = httpx.Limits(max_connections=CLIENTS * len(counters) + HASTY)
    async with httpx.AsyncClient(base_url=hub.url, headers=headers, timeout=60, limits=limits) as client:
        careful = [
            asyncio.gather(*(add_one(client, one, stubborn=not at) for at in range(CLIENTS))) for one in counters
        ]
        hasty = asyncio.gather(*(edit_at_will(client, number, things, tasks) for number in range(HASTY)))
        return list(await asyncio.gather(*careful)), list(await hasty)


def test_no_edit_is_lost_that_says_what_it_has_seen(running: RunningHub) -> None:
    things = Things(running)
    meter = running.ask("GET", f"/v1/metering/meter-devices/{things.meter}")
    interface = f"/v1/metering/network-interfaces/{things.line}"
    gateway = f"/v1/gateways/{running.ask('GET', interface)['gateway']}"
    tasks = [things.task, running.post("/v1/metering/amr-tasks", **things.task_body())["id"]]
    running.ask("PATCH", f"/v1/metering/meter-devices/{things.meter}", {"task_groups": [things.group]}, 200)
    counters = [
        Counted(f"/v1/metering/amr-tasks/{things.task}", "run_offset_seconds", 0),
        Counted(interface, "rate", 300),
        Counted(f"/v1/metering/meter-devices/{things.meter}", "current_transformer_ratio", 1),
        Counted(gateway, "description", 0),
    ]
    careful, hasty = asyncio.run(everybody(running, things, counters, tasks))
    assert Counter(status for one in hasty for status in one) == {200: HASTY * EDITS}
    for counted, answers in zip(counters, careful, strict=True):
        statuses = Counter(status for one in answers for status, _ in one)
        assert statuses[412], counted
        final = counted.read(running.ask("GET", counted.path))
        assert final == counted.start + statuses[200], counted
        # Each was told the number that was its own.
        told = sorted(number for one in answers for _, number in one if number is not None)
        assert told == list(range(counted.start + 1, final + 1)), counted

    tag = running.client.get(interface).headers["etag"]
    known = running.client.get(interface, headers={"If-None-Match": tag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)

    shown = running.ask("GET", f"{gateway}/plans/desired", status=200)
    document = shown["document"]
    (line,), (device,) = document["lines"], document["devices"]
    assert line["rate"] == running.ask("GET", interface)["rate"]
    now_is = running.ask("GET", f"/v1/metering/meter-devices/{things.meter}")
    assert (device["name"], device["serial"]) == (meter["name"], now_is["manufacturer_serial"])
    group = running.ask("GET", f"/v1/metering/amr-task-groups/{things.group}")
    assert {task["id"] for task in device["tasks"]} == set(group["tasks"])
    offsets = {task["id"]: task["run_offset_seconds"] for task in document["tasks"]}
    assert offsets == {
        task: running.ask("GET", f"/v1/metering/amr-tasks/{task}")["run_offset_seconds"] for task in group["tasks"]
    }
    rendered = asyncio.run(rendered_anew(running, uuid.UUID(gateway.rpartition("/")[2])))
    assert msgspec.to_builtins(read_document(rendered.body)) == document
    if running.database.startswith("sqlite"):
        wait_until_published(running, gateway, shown["revision"])


async def rendered_anew(hub: RunningHub, gateway: uuid.UUID) -> Rendered:
    """What a relay publishes: made of what is configured by now."""
    engine = create_engine(hub.database)
    try:
        async with reading(engine) as session:
            rendered = await render(session, gateway)
    finally:
        await engine.dispose()
    assert rendered is not None
    return rendered


def wait_until_published(hub: RunningHub, gateway: str, revision: int) -> None:
    """Wait until a relay has sent the last revision, and nothing newer is desired."""
    until = time.monotonic() + 30
    while hub.ask("GET", gateway)["published_revision"] < revision:
        assert time.monotonic() < until, f"revision {revision} was never published"
        time.sleep(0.1)
    assert hub.ask("GET", f"{gateway}/plans/published", status=200)["standing"] == ["desired", "published"]
