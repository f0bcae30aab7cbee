"""Commands on both databases: the order of updates, ends that the hub sets, invocations that it hears of last."""

import datetime as dt
import itertools
import uuid
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import command_updates, dispatch, models
from hub.database import reading as looking
from hub.database import writing
from hub.ingest import store_deliveries
from protocol import commands
from protocol.readings import NewMeterReading
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, Estate, GatewayVoice, make_estate, reading
from tests.parts.relays import command

__all__ = ["database_url", "engine"]

STORE = b"s" * 16
MINUTE = dt.timedelta(minutes=1)


async def add_command(engine: AsyncEngine, estate: Estate, **more: Any) -> uuid.UUID:  # noqa: ANN401 - fields of the row
    row = command(estate, NOW, **more)
    async with writing(engine) as session:
        session.add(row)
        await session.flush()
        return row.id


async def find(engine: AsyncEngine, key: uuid.UUID) -> models.Command:
    async with looking(engine) as session:
        return (await session.scalars(sa.select(models.Command).where(models.Command.id == key))).one()


async def come_online(engine: AsyncEngine, estate: Estate, store: bytes = STORE) -> None:
    async with writing(engine) as session:
        await session.execute(
            sa.update(models.Gateway).where(models.Gateway.id == estate.gateway).values(online=True, store_id=store)
        )


async def claim(engine: AsyncEngine, at: dt.datetime = NOW, gateway: uuid.UUID | None = None) -> list[Any]:
    async with writing(engine) as session:
        return await dispatch.claim_outgoing(session, at, gateways=() if gateway is None else [gateway])


def update(key: uuid.UUID, state: str, sequence: int, **more: Any) -> commands.CommandUpdate:  # noqa: ANN401 - as above
    return commands.CommandUpdate(uuid.uuid4(), key, state, NOW, session=1, sequence=sequence, **more)


async def apply(engine: AsyncEngine, estate: Estate, *updates: commands.CommandUpdate) -> dict[int, str]:
    async with writing(engine) as session:
        return await command_updates.apply_updates(
            session, estate.gateway, estate.organization, list(enumerate(updates)), NOW
        )


async def test_a_command_waits_for_its_gateway_and_is_pinned_to_its_store(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    key = await add_command(engine, estate)
    assert await claim(engine) == []
    await come_online(engine, estate)
    (outgoing,) = await claim(engine)
    assert (outgoing.gateway, outgoing.command.id, outgoing.expiry_seconds) == ("gw-1", key, 60)
    assert (outgoing.command.store, outgoing.command.issued, outgoing.command.ttl_seconds) == (STORE, NOW, 60)
    assert await claim(engine) == []
    assert len(await claim(engine, gateway=estate.gateway)) == 1
    assert len(await claim(engine, at=NOW + dispatch.SEND_AGAIN * 1.1)) == 1
    row = await find(engine, key)
    assert (row.state, row.store_id, row.published_at) == (dispatch.SENT, STORE, NOW)


async def test_what_could_not_be_published_is_found_again(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await add_command(engine, estate)
    await come_online(engine, estate)
    outgoing = await claim(engine)
    async with writing(engine) as session:
        await dispatch.give_back(session, outgoing, NOW)
    async with looking(engine) as session:
        assert (await dispatch.look(session, NOW)).to_send
    assert len(await claim(engine)) == 1
    async with looking(engine) as session:
        assert await dispatch.look(session, NOW) == dispatch.Work(to_send=False, overdue=False, waiting=False)


async def test_updates_end_alike_in_any_order_and_number(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    result = [reading(estate.meters["M1"], "12.50")]
    for order in itertools.permutations(range(3)):
        key = await add_command(engine, estate, state=dispatch.SENT)
        steps = [
            update(key, commands.ACCEPTED, 1),
            update(key, commands.RUNNING, 2),
            update(key, commands.DONE, 3, readings=result),
        ]
        for number in order:
            assert await apply(engine, estate, steps[number], steps[number]) == {}
        row = await find(engine, key)
        assert (row.state, row.ended_at, row.sequence) == (commands.DONE, NOW, 3)
        assert [(entry["value"], entry["series"]) for entry in row.readings] == [("12.50", "2:300")]
        async with looking(engine) as session:
            count = sa.select(sa.func.count()).select_from(models.CommandUpdate).filter_by(command=key)
            assert await session.scalar(count) == 3


async def test_a_lower_session_or_sequence_never_overwrites_a_higher_one(engine: AsyncEngine) -> None:
    """Sequences count on over restarts; the session is what the gateway raises with each."""
    estate = await make_estate(engine)
    for lower, higher in (((1, 8), (1, 9)), ((1, 9), (2, 1))):
        for states in (
            (commands.ACCEPTED, commands.RUNNING),
            (commands.RUNNING, commands.ACCEPTED),
            (commands.FAILED, commands.DONE),
        ):
            for order in ((0, 1), (1, 0), (0, 1, 0)):
                key = await add_command(engine, estate, state=dispatch.SENT)
                steps = [
                    msgspec.structs.replace(update(key, state, sequence), session=session, cause=state)
                    for state, (session, sequence) in zip(states, (lower, higher), strict=True)
                ]
                for number in order:
                    await apply(engine, estate, steps[number])
                row = await find(engine, key)
                assert (row.state, row.cause, (row.session, row.sequence)) == (states[1], states[1], higher)


async def test_the_hub_ends_what_nobody_else_ends(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    unsent = await add_command(engine, estate)
    sent = await add_command(engine, estate, state=dispatch.SENT)
    begun = await add_command(engine, estate, state=commands.RUNNING)
    expected: dict[uuid.UUID, str] = {}
    for at, changed in (
        (NOW, {}),
        (NOW + MINUTE, {unsent: commands.EXPIRED}),
        (NOW + MINUTE + dispatch.EXPIRY_GRACE, {sent: commands.EXPIRED}),
        (NOW + MINUTE + dispatch.RUNNING_GRACE, {begun: commands.INTERRUPTED}),
    ):
        async with looking(engine) as session:
            assert (await dispatch.look(session, at)).overdue == bool(changed)
        async with writing(engine) as session:
            assert await dispatch.end_overdue(session, at) == len(changed)
        expected |= changed
        for key, state in expected.items():
            row = await find(engine, key)
            assert row.state == state
            assert row.cause
            assert row.ended_at is not None
    # The gateway knows better, but only about an end.
    await apply(engine, estate, update(sent, commands.RUNNING, 1))
    assert (await find(engine, sent)).state == commands.EXPIRED
    await apply(engine, estate, update(sent, commands.DONE, 2))
    assert (await find(engine, sent)).state == commands.DONE


async def test_a_new_stores_refusal_does_not_hide_that_the_command_may_have_run(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await come_online(engine, estate)
    key = await add_command(engine, estate)
    await claim(engine)
    async with writing(engine) as session:
        assert await dispatch.interrupt_of_other_stores(session, estate.gateway, b"n" * 16, NOW) == 1
    await apply(engine, estate, update(key, commands.REFUSED, 1))
    assert (await find(engine, key)).state == commands.INTERRUPTED


async def test_a_direct_invocation_is_recorded_with_its_origin_and_readings(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    asked = commands.Command(
        uuid.uuid4(), "gw-1", "generic_lis200", "read_single_value", {"address": "2:300"}, NOW, 60, meter="M1"
    )
    found: list[NewMeterReading] = [reading(estate.meters["M1"], "7.0")]
    steps = [
        update(asked.id, commands.ACCEPTED, 1, origin="scada", command=asked),
        update(asked.id, commands.DONE, 2, origin="scada", command=asked, readings=found),
    ]
    report = voice.rows(Channel.REPORT, [encode(step) for step in steps])
    outcome = await store_deliveries(engine, [report, report, voice.readings(*found)], NOW, 10)
    assert len(outcome.receipts) == 2
    row = await find(engine, asked.id)
    assert (row.origin, row.state, row.meter, row.kwargs) == ("scada", "done", "M1", {"address": "2:300"})
    await come_online(engine, estate, voice.store)
    assert await claim(engine, gateway=estate.gateway) == []
    async with looking(engine) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(models.Reading)) == 1


async def test_updates_that_belong_to_nothing_are_set_aside(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    other = await make_estate(engine, gateway_id="gw-2")
    foreign = await add_command(engine, other, state=dispatch.SENT)
    known = await add_command(engine, estate, state=dispatch.SENT)
    left = await apply(
        engine,
        estate,
        update(uuid.uuid4(), commands.DONE, 1),
        update(foreign, commands.DONE, 1),
        update(known, "levitating", 1),
        update(known, commands.DONE, 2),
    )
    assert left == {0: "unknown_command", 1: "unknown_command", 2: "unknown_state"}
    assert (await find(engine, foreign)).state == dispatch.SENT
    assert (await find(engine, known)).state == commands.DONE


async def test_a_command_that_cannot_be_sent_ends_with_the_cause(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await come_online(engine, estate)
    endless = await add_command(engine, estate, kwargs={"address": "2:300", "more": "x" * 70_000})
    beyond = await add_command(engine, estate, kwargs={"address": 2**70})
    good = await add_command(engine, estate)
    assert [one.command.id for one in await claim(engine)] == [good]
    for key, words in ((endless, "at most 65536"), (beyond, "cannot be sent")):
        row = await find(engine, key)
        assert row.state == commands.FAILED
        assert words in row.cause
