"""Commands as server-sent events: every state once and in order, whoever writes it and however one comes anew."""

import asyncio
import contextlib
import datetime as dt
import itertools
import json
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import command_events, command_streams, command_updates, command_watch, dispatch
from hub.command_watch import Event, Gaps
from hub.database import create_engine, writing
from hub.models import Command, CommandEvent
from hub.tokens import create_token
from protocol import commands as states
from protocol.commands import CommandUpdate
from tests.parts.databases import ONLY_POSTGRESQL, database_url, engine
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

INVOKE = "/v1/metering/amr-tasks/invoke"
_sequence = itertools.count(1)
AT = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have SQLite's watch look often, as where nobody tells: here others write, which no hub on SQLite has."""
    monkeypatch.setattr(command_watch, "LIVE_TICK_SECONDS", command_watch.TICK_SECONDS)


@contextlib.asynccontextmanager
async def another_process(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Return an engine of its own, as a relay beside ``serve`` has."""
    engine = create_engine(database_url)
    try:
        yield engine
    finally:
        await engine.dispose()


async def order(rest: Rest, fleet: Fleet) -> str:
    """Have a command made; return its id."""
    body = {
        "meter_device": fleet.meter,
        "meter_execution_type": "generic_lis200",
        "task_call": "read_single_value",
        "task_kwargs": {"address": "2:300"},
    }
    return str((await rest.post(INVOKE, **body))["command"])


async def step(engine: AsyncEngine, rest: Rest, command: str, state: str, cause: str = "") -> None:
    """Have a command come into a state, as a gateway says."""
    async with writing(engine) as session:
        row = await session.get_one(Command, uuid.UUID(command))
        update = CommandUpdate(uuid.uuid4(), row.id, state, rest.clock.now(), 1, next(_sequence), cause=cause)
        await command_updates.apply_updates(session, row.gateway, row.organization, [(0, update)], rest.clock.now())


async def follow(rest: Rest, path: str, last: int | None = None, status: int = 200) -> list[tuple[int, Any]]:
    """Read a stream to its end; return numbers and data of its events."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    answer = await rest.client.get(path, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    if status != 200:
        return []
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    return events_in(answer.text)


def events_in(text: str) -> list[tuple[int, Any]]:
    """Read what was sent, as the standard says."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append((int(fields["id"]), json.loads(fields["data"])))
    return found


async def test_a_command_is_told_from_its_beginning_to_its_end(rest: Rest, database_url: str) -> None:
    fleet = await create_fleet(rest)
    rest.settle(stream_seconds=30)
    command, other = await order(rest, fleet), await order(rest, fleet)
    path = f"/v1/commands/{command}/events"
    following = asyncio.create_task(follow(rest, path))
    await asyncio.sleep(0.3)
    async with another_process(database_url) as relay:
        await step(relay, rest, command, states.ACCEPTED)
        await step(relay, rest, other, states.DONE)
        await step(relay, rest, command, states.RUNNING)
        await step(relay, rest, command, states.FAILED, "no answer")
    told = await asyncio.wait_for(following, 20)
    assert [data["state"] for _, data in told] == ["pending", "accepted", "running", "failed"]
    assert [data["final"] for _, data in told] == [False, False, False, True]
    assert {data["command"] for _, data in told} == {command}
    assert (told[-1][1]["cause"], told[-1][1]["gateway"]) == ("no answer", fleet.gateway)

    # From anywhere in it the rest comes, and nothing twice; who has had the end is told not to come again.
    for position in range(len(told) - 1):
        assert await follow(rest, path, told[position][0]) == told[position + 1 :]
    assert await follow(rest, path) == told
    await follow(rest, path, told[-1][0], 204)


async def test_what_the_hub_does_to_a_command_is_told_as_well(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    rest.settle(stream_seconds=30)
    command = await order(rest, fleet)
    rest.clock.advance(minutes=6)
    async with writing(rest.hub.engine) as session:
        assert await dispatch.end_overdue(session, rest.clock.now()) == 1
    told = await follow(rest, f"/v1/commands/{command}/events")
    assert [data["state"] for _, data in told] == ["pending", "expired"]
    assert "not online" in told[-1][1]["cause"]


async def test_a_command_of_which_nothing_is_told_any_more_is_told_as_it_stands(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    rest.settle(stream_seconds=30)
    command = await order(rest, fleet)
    await step(rest.hub.engine, rest, command, states.DONE)
    await order(rest, fleet)
    rest.clock.advance(days=31)
    async with writing(rest.hub.engine) as session:
        assert await command_events.forget(session, rest.clock.now()) == 2, "all but the newest"
    told = await follow(rest, f"/v1/commands/{command}/events")
    assert [(data["state"], data["final"]) for _, data in told] == [("done", True)]
    await follow(rest, "/v1/commands/events", 0, 409)


async def test_all_commands_are_told_to_those_who_may_see_them(rest: Rest) -> None:
    mine, theirs = await create_fleet(rest, "mine"), await create_fleet(rest, "theirs")
    rest.settle(stream_seconds=1.5)
    own, other = await order(rest, mine), await order(rest, theirs)
    async with writing(rest.hub.engine) as session:
        organization = uuid.UUID(mine.organization)
        key = await create_token(session, "own", rest.clock.now(), organization=organization, scopes=["read"])
    paths = [
        "/v1/commands/events",
        f"/v1/commands/events?gateway={theirs.gateway}",
        f"/v1/commands/events?meter_device={mine.meter}&state=done",
    ]
    everything, filtered, done = (asyncio.create_task(follow(rest, path)) for path in paths)
    await asyncio.sleep(0.4)
    bound = asyncio.create_task(rest.client.get(paths[0], headers={"Authorization": f"Token {key}"}))
    resumed = asyncio.create_task(follow(rest, paths[0], 0))
    await asyncio.sleep(0.3)
    for command in (own, other):
        await step(rest.hub.engine, rest, command, states.ACCEPTED)
        await step(rest.hub.engine, rest, command, states.DONE)
    of = [(data["command"], data["state"]) for _, data in await everything]
    assert of == [(own, "accepted"), (own, "done"), (other, "accepted"), (other, "done")], "from now on"
    assert [data["command"] for _, data in await filtered] == [other, other]
    assert [(data["command"], data["state"]) for _, data in await done] == [(own, "done")]
    assert [data["command"] for _, data in events_in((await bound).text)] == [own, own]
    assert [data["state"] for _, data in await resumed][:2] == ["pending", "pending"]
    forbidden = await rest.client.get(f"/v1/commands/{other}/events", headers={"Authorization": f"Token {key}"})
    assert forbidden.status_code == 404


async def test_streams_are_bounded_and_wrong_ones_refused(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    command = await order(rest, fleet)
    rest.settle(stream_seconds=30, streams_each=2)
    path = f"/v1/commands/{command}/events"
    following = [asyncio.create_task(follow(rest, path)) for _ in range(2)]
    await asyncio.sleep(0.3)
    refused = await rest.client.get(path)
    assert (refused.status_code, "retry-after" in refused.headers) == (429, True)
    await step(rest.hub.engine, rest, command, states.DONE)
    await asyncio.gather(*following)
    assert len(await follow(rest, path)) == 2, "a place that was left is free"

    for header in ("x", "-1", "1.5"):
        answer = await rest.client.get(path, headers={"Last-Event-ID": header})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Last-Event-ID")
    await follow(rest, path, 10**6, 409)
    await rest.get(f"{path}?colour=red", 422)
    await rest.get("/v1/commands/events?state=x", 422)
    await rest.get("/v1/commands/events?gateway=x", 422)
    await rest.get(f"/v1/commands/{uuid.uuid4()}/events", 404)


async def test_silence_is_broken_and_a_process_that_ends_ends_its_streams(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_streams, "HEARTBEAT_SECONDS", 0.2)
    fleet = await create_fleet(rest)
    command = await order(rest, fleet)
    rest.settle(stream_seconds=30)
    following = asyncio.create_task(rest.client.get(f"/v1/commands/{command}/events"))
    await asyncio.sleep(0.7)
    rest.hub.stopping.set()
    text = (await asyncio.wait_for(following, 5)).text
    assert text.startswith("retry: ")
    assert text.count(": waiting") >= 2


@ONLY_POSTGRESQL
async def test_a_number_that_comes_late_is_waited_for(rest: Rest, database_url: str) -> None:
    """On PostgreSQL transactions commit in another order than their numbers were given in."""
    fleet = await create_fleet(rest)
    first, second, third = [await order(rest, fleet) for _ in range(3)]
    rest.settle(stream_seconds=2)
    following = asyncio.create_task(follow(rest, "/v1/commands/events"))
    await asyncio.sleep(0.3)
    async with another_process(database_url) as one, another_process(database_url) as other:
        async with writing(one) as session:
            row = await session.get_one(Command, uuid.UUID(first))
            await command_events.record(session, [command_events.told(row, "running", "late", rest.clock.now())])
            await step(other, rest, second, states.ACCEPTED)
            await asyncio.sleep(0.5)
        with contextlib.suppress(ZeroDivisionError):
            async with writing(one) as session:
                await command_events.record(session, [command_events.told(row, "done", "undone", rest.clock.now())])
                await step(other, rest, third, states.ACCEPTED)
                raise ZeroDivisionError
    told = await following
    assert [(data["command"], data["state"]) for _, data in told] == [
        (first, "running"),
        (second, "accepted"),
        (third, "accepted"),
    ]


async def test_a_reader_who_comes_again_and_again_misses_nothing_and_has_nothing_twice(
    rest: Rest, database_url: str
) -> None:
    fleet = await create_fleet(rest)
    rows = [await order(rest, fleet) for _ in range(3)]
    chance = random.Random(4)  # noqa: S311 - no secret
    written = asyncio.Event()

    async def write(engine: AsyncEngine, number: int) -> None:
        for turn in range(25):
            with contextlib.suppress(ZeroDivisionError):
                async with writing(engine) as session:
                    row = await session.get_one(Command, uuid.UUID(rows[number]))
                    events = [
                        command_events.told(row, "running", f"{number} {turn} {part}", rest.clock.now())
                        for part in range(chance.randrange(1, 4))
                    ]
                    await command_events.record(session, events)
                    await asyncio.sleep(chance.random() * 0.03)
                    if chance.random() < 0.2:
                        raise ZeroDivisionError

    async def read() -> list[tuple[int, Any]]:
        rest.settle(stream_seconds=0.15)
        told: list[tuple[int, Any]] = []
        while True:
            over = written.is_set()
            found = await follow(rest, "/v1/commands/events", told[-1][0] if told else 0)
            told += found
            if over and not found:
                return told

    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(another_process(database_url)) for _ in rows]
        reading_on = asyncio.create_task(read())
        await asyncio.gather(*(write(engine, number) for number, engine in enumerate(engines)))
        written.set()
        told = await reading_on
    async with writing(rest.hub.engine) as session:
        statement = sa.select(CommandEvent.number, CommandEvent.cause).order_by(CommandEvent.number)
        there = [(number, cause) for number, cause in await session.execute(statement)]
    assert [(number, data["cause"]) for number, data in told] == there


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_gaps_close_when_nobody_can_fill_them(kept: list[bool], chance: random.Random) -> None:
    """Transactions of one number each end in any order; those that are kept are told, in order, each once."""
    nothing = uuid.UUID(int=0)
    live = {str(number): number for number in range(1, len(kept) + 1)}
    visible: set[int] = set()
    told: list[int] = []
    gaps, high = Gaps(), 0

    def look() -> list[Event]:
        found = sorted(number for number in visible if number > high)
        return [Event(number, nothing, nothing, nothing, None, None, "running", "", AT) for number in found]

    def end_one() -> None:
        if live and chance.random() < 0.5:
            number = live.pop(chance.choice(sorted(live)))
            if kept[number - 1]:
                visible.add(number)

    while live or look():
        end_one()
        found = look()
        end_one()
        count = gaps.told(high, found)
        if count < len(found) and gaps.are_final(high, found, count, frozenset(live)):
            end_one()
            found = look()
            count = gaps.closed(high, found)
        if count:
            high = found[count - 1].number
            told += [event.number for event in found[:count]]
    assert told == [number for number, stays in enumerate(kept, 1) if stays]
