"""Backfill when things happen meanwhile: relays die, operators change their minds, configs and meters change."""

import asyncio
import datetime as dt
import uuid

import sqlalchemy as sa

from hub import ledger, models
from hub.backfill_rows import CANCELLED, DONE, FETCHING, SETTLING, WAITING, wait_again
from hub.backfill_sending import LOOKED_AT, PER_LINE, send
from hub.backfilling import Filler
from hub.database import reading as looking
from hub.database import writing
from protocol import commands
from tests.parts.databases import ON_SQLITE, database_url, engine
from tests.parts.estates import NOW, new_meter
from tests.parts.gaps import DAY_BEFORE, HOUR, MINUTE, STORE, At, Site, at, site, window

__all__ = ["database_url", "engine", "site"]


async def fetching(site: Site) -> models.Backfill:
    """Have the first two hours missing, and their command under way."""
    await site.store(*range(2, 13))
    await site.sign()
    await site.turn()
    await site.sign()
    [row] = await site.turn()
    assert row.state == FETCHING
    return row


async def another_gateway(site: Site, *, online: bool = True) -> tuple[uuid.UUID, uuid.UUID]:
    """Add a gateway with a line; return both."""
    dated = {"created_at": NOW, "updated_at": NOW}
    async with writing(site.engine) as session:
        gateway = models.Gateway(
            gateway_id="gw-2",
            organization=site.estate.organization,
            online=online,
            store_id=STORE,
            depth=0,
            last_seen=site.now + MINUTE,
            said_at=site.now + MINUTE,
            **dated,
        )
        session.add(gateway)
        await session.flush()
        line = models.NetworkInterface(
            organization=site.estate.organization, gateway=gateway.id, serial_port="/dev/ttyS0", name="line 2", **dated
        )
        session.add(line)
        await session.flush()
        return gateway.id, line.id


async def replaced(site: Site, since: dt.datetime) -> None:
    """Put another meter in the place of the one that is there."""
    async with writing(site.engine) as session:
        dated = {"created_at": site.now, "updated_at": site.now}
        session.add(models.DevicePeriod(meter_device=site.meter, serial="1", since=None, until=since, **dated))
        session.add(models.DevicePeriod(meter_device=site.meter, serial="2", since=since, until=None, **dated))


async def test_relays_that_work_at_once_send_each_window_once(site: Site) -> None:
    await site.store(*range(2, 13))
    await site.sign()
    await site.turn()
    await site.sign()
    fillers = [Filler(site.engine, At(site.now)) for _ in range(4)]
    await asyncio.gather(*(filler.turn() for filler in fillers))
    async with looking(site.engine) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(models.Command)) == 1
    [row] = await site.rows()
    assert row.state == FETCHING


async def test_what_the_meter_has_of_a_window_is_stored_and_only_the_rest_is_lost(site: Site) -> None:
    row = await fetching(site)
    await site.store(1)
    await site.ends(row, commands.DONE, rows=1)
    await site.turn()
    await site.sign()
    [row] = await site.turn()
    assert (row.state, "1 slots are lost for good" in row.evidence) == (DONE, True)
    assert "1 rows, and none of these" in row.evidence
    async with looking(site.engine) as session:
        [settled] = (await session.scalars(sa.select(models.LedgerSettled))).all()
    assert (settled.start, settled.end) == (at(0), at(0))


@ON_SQLITE
async def test_what_failed_half_way_is_asked_for_what_is_left_only(site: Site) -> None:
    row = await fetching(site)
    await site.store(0)
    await site.ends(row, commands.FAILED, cause="the line broke")
    await site.turn()
    await site.sign()
    [row] = await site.turn()
    assert (row.state, row.tries) == (WAITING, 1)
    site.now = row.next_at
    await site.sign()
    [row] = await site.turn()
    assert (row.state, row.start, row.end) == (FETCHING, at(1), at(1))


async def test_one_that_was_cancelled_half_way_keeps_what_came_and_ends(site: Site) -> None:
    row = await fetching(site)
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.Backfill).values(state=CANCELLED, ended_at=site.now))
    await site.store(0)
    await site.ends(row, commands.CANCELLED, cause="cancelled while it was executed")
    for _ in range(2):
        await site.sign()
        assert [one.state for one in await site.turn()] == [CANCELLED]
    assert await site.missing() == [(at(1), at(1))]


async def test_one_that_was_resumed_before_its_command_was_called_back_goes_on(site: Site) -> None:
    row = await fetching(site)
    first = row.command
    async with writing(site.engine) as session:
        held = await session.get_one(models.Backfill, row.id)
        wait_again(held, site.now)
    await site.ends(row, commands.CANCELLED, cause="cancelled while it was executed")
    await site.sign()
    [row] = await site.turn()
    assert row.state == FETCHING
    assert row.command != first


@ON_SQLITE
async def test_what_is_not_expected_any_more_is_not_fetched(site: Site) -> None:
    await site.store(*range(2, 13))
    await site.sign()
    await site.turn()
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.MeterDevice).values(commissioned=at(6)))
        session.add(models.ExpectationMark(device=site.meter))
    await ledger.catch_up(site.engine, site.now)
    await site.sign()
    [row] = await site.turn()
    assert (row.state, row.evidence) == (DONE, "nothing is expected of archive 3 in that time any more")


async def test_another_archive_of_the_config_is_asked_for_what_waited_for_the_first(site: Site) -> None:
    await site.store(*range(2, 13))
    await site.sign()
    await site.turn()
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.Expectation).values(archive=7))
    await site.sign()
    rows = await site.turn()
    assert sorted((row.archive, row.state) for row in rows) == [(3, DONE), (7, WAITING)]


@ON_SQLITE
async def test_another_meter_is_not_asked_for_what_the_one_before_it_had(site: Site) -> None:
    await site.store(0, *range(6, 13))
    await replaced(site, at(3) + MINUTE)
    await site.sign()
    [row] = await site.turn()
    assert (row.start, row.end) == (at(4), at(5))


async def test_a_window_that_waited_while_the_meter_was_replaced_is_cut_or_ends(site: Site) -> None:
    await site.store(0, *range(6, 13))
    await site.sign()
    [row] = await site.turn()
    assert (row.start, row.end) == (at(1), at(5))
    await replaced(site, at(3) + MINUTE)
    await site.sign()
    [row] = await site.turn()
    command = await site.command(row)
    assert row.start > at(3)
    assert command.kwargs["end_date"] == "2026-11-21T17:00:00Z"
    assert command.kwargs["start_date"] == "2026-11-21T15:01:00Z"


@ON_SQLITE
async def test_a_window_of_the_meter_before_ends_with_the_reason(site: Site) -> None:
    await site.store(*range(2, 13))
    await site.sign()
    await site.turn()
    await replaced(site, at(3))
    await site.sign()
    [row] = await site.turn()
    assert (row.state, row.evidence) == (DONE, "the meter that had it was replaced on 2026-11-21T15:00:00Z")


async def test_a_meter_that_moves_to_another_gateway_is_asked_there(site: Site) -> None:
    row = await fetching(site)
    await site.ends(row, commands.EXPIRED)
    await site.turn()
    await site.sign(online=False)
    assert [one.state for one in await site.turn()] == [SETTLING]
    gateway, line = await another_gateway(site)
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.MeterDevice).values(network_interface=line))
    [row] = await site.turn()
    assert (row.state, "moved to another gateway" in row.evidence) == (WAITING, True)
    site.now = row.next_at + MINUTE
    [row] = await site.turn()
    assert (row.state, row.gateway) == (WAITING, gateway), "what the new one has is waited for first"
    site.now += MINUTE
    async with writing(site.engine) as session:
        signed = {"last_seen": site.now, "said_at": site.now}
        await session.execute(sa.update(models.Gateway).where(models.Gateway.id == gateway).values(**signed))
    site.now += MINUTE
    [row] = await site.turn()
    assert (row.state, row.gateway) == (FETCHING, gateway)


async def test_a_meter_on_no_gateway_any_more_is_not_waited_for(site: Site) -> None:
    await site.store(*range(2, 13))
    await site.sign()
    await site.turn()
    await site.sign(online=False)
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.MeterDevice).values(network_interface=None))
    [row] = await site.turn()
    assert (row.state, row.evidence) == (CANCELLED, "no gateway polls the meter any more")


async def test_a_crowd_on_one_line_does_not_stand_before_other_lines(site: Site) -> None:
    """Thousands of windows of one request, of a line that takes two at a time."""
    await site.store(0)
    gateway, line = await another_gateway(site)
    async with writing(site.engine) as session:
        other = new_meter("M9", site.estate.organization, site.estate.type, line)
        session.add(other)
        await session.flush()
        session.add(models.ExpectationMark(device=other.id))
        await session.execute(
            sa.update(models.MeterDevice)
            .where(models.MeterDevice.id == other.id)
            .values(commissioned=DAY_BEFORE, decommissioned=at(12))
        )
        for hour in range(1, 12):
            for _ in range(LOOKED_AT // 10):
                crowd = window(site, at(hour), at(hour))
                crowd.priority = 10
                session.add(crowd)
        lonely = window(site, at(1), at(2))
        lonely.meter_device, lonely.gateway = other.id, gateway
        session.add(lonely)
    await ledger.catch_up(site.engine, site.now)
    await site.sign()
    async with writing(site.engine) as session:
        assert [await send(session, site.now) for _ in range(2)] == [1, 1], "for a turn at most"
        sent = await session.scalars(sa.select(models.Backfill).where(models.Backfill.state == FETCHING))
        assert {row.meter_device for row in sent} == {site.meter, other.id}
        assert await send(session, site.now) == 0, "one command at a time per meter"
    assert PER_LINE > 1


async def test_a_crowd_that_waits_for_a_gateway_keeps_no_other_from_being_settled(site: Site) -> None:
    row = await fetching(site)
    await site.ends(row, commands.DONE, rows=0, answer="#0103")
    await site.turn()
    gateway, line = await another_gateway(site, online=False)
    async with writing(site.engine) as session:
        other = new_meter("M9", site.estate.organization, site.estate.type, line)
        session.add(other)
        await session.flush()
        for _ in range(150):
            crowd = window(site, at(1), at(2))
            crowd.meter_device, crowd.gateway, crowd.state = other.id, gateway, SETTLING
            session.add(crowd)
    await site.sign()
    await site.turn()
    rows = [one for one in await site.rows() if one.meter_device == site.meter]
    assert [one.state for one in rows] == [DONE]
    assert HOUR > MINUTE


async def test_a_gateway_that_is_paused_is_left_alone_until_it_goes_on(site: Site) -> None:
    row = await fetching(site)

    async def pause(*, paused: bool) -> None:
        async with writing(site.engine) as session:
            await session.execute(sa.update(models.Gateway).values(backfill_paused=paused))

    await pause(paused=True)
    await site.sign()
    await site.turn()
    assert (await site.command(row)).cancel_requested
    await site.ends(row, commands.CANCELLED, cause="cancelled while it was executed")
    for state in (SETTLING, WAITING, WAITING):
        [row] = await site.turn()
        assert row.state == state
        await site.sign()
    assert not row.paused
    await pause(paused=False)
    [row] = await site.turn()
    assert row.state == FETCHING
