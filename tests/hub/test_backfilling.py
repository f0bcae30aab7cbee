"""Gaps close themselves, on both databases: noticed, fetched when nothing is on its way, settled, tried again."""

import decimal
import itertools
import uuid

import pytest
import sqlalchemy as sa

from hub import dispatch, models
from hub.backfill_noticing import HORIZON
from hub.backfill_plans import MOST_TRIES
from hub.backfill_rows import CANCELLED, DONE, FETCHING, GAVE_UP, PILED_UP, SETTLING, WAITING
from hub.backfilling import KEPT_FOR, Filler
from hub.database import reading as looking
from hub.database import writing
from protocol import commands, reports
from tests.parts.databases import ON_SQLITE, database_url, engine
from tests.parts.estates import NOW
from tests.parts.gaps import HOUR, MINUTE, At, Site, at, site, window

__all__ = ["database_url", "engine", "site"]


@ON_SQLITE
async def test_a_gap_is_fetched_once_the_gateway_has_delivered_what_it_had_and_is_done_when_all_is_stored(
    site: Site,
) -> None:
    await site.store(0, 1, 2, 6, 7, 8, 9, 10, 11, 12)
    await site.sign()
    [row] = await site.turn()
    assert (row.state, row.start, row.end, row.origin) == (WAITING, at(3), at(5), "auto")
    await site.sign(depth=5, oldest=NOW)
    assert [row.state for row in await site.turn()] == [WAITING], "rows of it may wait in the outbox"
    await site.sign()
    [row] = await site.turn()
    assert row.state == FETCHING
    command = await site.command(row)
    assert (command.origin, command.call, command.state) == ("backfill", "read_archive_by_date", "pending")
    assert command.kwargs == {
        "start_date": "2026-11-21T15:00:00Z",
        "end_date": "2026-11-21T17:00:00Z",
        "archive_number": 3,
        "control_position": 3,
    }
    async with writing(site.engine) as session:
        [outgoing] = await dispatch.claim_outgoing(session, site.now)
    assert outgoing.command.background
    await site.ends(row, commands.DONE, rows=3)
    [row] = await site.turn()
    assert row.state == SETTLING, "what it brought may still be on its way"
    await site.store(3, 4, 5)
    await site.sign()
    [row] = await site.turn()
    assert (row.state, row.evidence) == (DONE, "everything is stored")
    assert row.ended_at is not None
    assert await site.missing() == []
    await site.sign()
    assert len(await site.turn()) == 1


@ON_SQLITE
async def test_what_the_meter_does_not_have_is_lost_for_good_with_its_words(site: Site) -> None:
    await site.store(*range(2, 13))
    await site.sign()
    await site.turn()
    await site.sign()
    [row] = await site.turn()
    await site.ends(row, commands.DONE, rows=0, answer="the meter refused with #0103: no such row")
    await site.turn()
    await site.sign()
    [row] = await site.turn()
    assert row.state == DONE
    assert "2 slots are lost for good" in row.evidence
    assert "#0103" in row.evidence
    assert await site.missing() == []
    async with looking(site.engine) as session:
        [settled] = (await session.scalars(sa.select(models.LedgerSettled))).all()
    assert (settled.start, settled.end, settled.command) == (at(0), at(1), row.command)
    await site.sign()
    assert len(await site.turn()) == 1, "it is not asked for again"


@ON_SQLITE
async def test_what_arrives_by_itself_is_not_fetched(site: Site) -> None:
    await site.store(*range(1, 13))
    await site.sign()
    await site.turn()
    await site.store(0)
    await site.sign()
    [row] = await site.turn()
    assert (row.state, row.command) == (DONE, None)
    assert row.evidence == "everything has arrived by itself"


@ON_SQLITE
async def test_a_gateway_that_is_away_or_catches_up_is_left_alone(site: Site) -> None:
    await site.store(*range(1, 13))
    await site.sign(online=False)
    assert await site.turn() == []
    await site.sign(depth=1000, oldest=NOW - 6 * HOUR)
    assert await site.turn() == []


async def test_what_fails_is_tried_again_less_and_less_often_and_given_up_in_the_end(site: Site) -> None:
    await site.store(*range(1, 13))
    await site.sign()
    [row] = await site.turn()
    pauses = []
    for _ in range(MOST_TRIES):
        await site.sign()
        [row] = await site.turn()
        assert row.state == FETCHING
        await site.ends(row, commands.FAILED, cause="the meter does not answer")
        await site.turn()
        await site.sign()
        [row] = await site.turn()
        if row.state == WAITING:
            pauses.append(row.next_at - site.now)
            await site.sign()
            assert [one.state for one in await site.turn()] == [WAITING]
            site.now = row.next_at
    assert row.state == GAVE_UP
    assert "the meter does not answer" in row.evidence
    assert all(after == 2 * before for before, after in itertools.pairwise(pauses))
    assert await site.missing() == [(at(0), at(0))], "it is not lost for good: nobody could ask"
    await site.sign()
    assert len(await site.turn()) == 1


@ON_SQLITE
@pytest.mark.parametrize(("series", "state"), [("2:300", GAVE_UP), ("another", DONE)])
async def test_what_waits_as_staged_readings_is_not_called_lost(site: Site, series: str, state: str) -> None:
    await site.store(*range(1, 13))
    await site.sign()
    await site.turn()
    await site.sign()
    [row] = await site.turn()
    async with writing(site.engine) as session:
        session.add(
            models.StagedReading(
                identity=b"1",
                meter_device_name="M1",
                series_name=series,
                timestamp=at(0),
                value=decimal.Decimal(1),
                device=site.meter,
                reason="timestamp_out_of_bounds",
                collected=site.now,
                created_at=site.now,
                updated_at=site.now,
            )
        )
    await site.ends(row, commands.DONE, rows=1)
    await site.turn()
    await site.sign()
    [row] = await site.turn()
    assert row.state == state
    assert ("timestamp_out_of_bounds" in row.evidence) == (state == GAVE_UP)
    assert bool(await site.missing()) == (state == GAVE_UP)


async def test_a_pause_survives_a_restart_and_a_resumed_one_goes_on(site: Site) -> None:
    await site.store(*range(1, 13))
    await site.sign()
    await site.turn()
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.Backfill).values(paused=True))
    for _ in range(3):
        await site.sign()
        [row] = await site.turn()
        assert row.state == WAITING
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.Backfill).values(paused=False))
    await site.sign()
    assert [row.state for row in await site.turn()] == [FETCHING]


async def test_two_relays_that_plan_at_once_make_each_window_once(site: Site) -> None:
    await site.store(*range(1, 13))
    await site.sign()
    fillers = [Filler(site.engine, At(site.now)) for _ in range(3)]
    for filler in fillers:
        await filler.turn()
    assert len(await site.rows()) == 1


async def test_a_meter_has_one_command_at_a_time_and_a_line_few(site: Site) -> None:
    await site.store(0, 1, 12)
    async with writing(site.engine) as session:
        # What is missing in two pieces, as after a request of an operator.
        for start, end in ((2, 5), (6, 11)):
            session.add(window(site, at(start), at(end)))
    await site.sign()
    rows = await site.turn()
    assert sorted(row.state for row in rows) == [FETCHING, WAITING]


async def read_by(site: Site, schedule: str, offset: int = 0) -> uuid.UUID:
    """Let a task read the meter's archive of hours; returns its id."""
    async with writing(site.engine) as session:
        task = models.AmrTask(
            organization=site.estate.organization,
            name=schedule,
            schedule=schedule,
            run_offset_seconds=offset,
            meter_execution_type="generic_lis200",
            task_call="read_archive_since_last",
            task_kwargs={"archive_number": 3},
            created_at=NOW,
            updated_at=NOW,
        )
        session.add(task)
        await session.flush()
        await session.execute(models.device_tasks.insert().values(device=site.meter, task=task.id))
        return task.id


@ON_SQLITE
async def test_slots_that_a_task_will_bring_are_no_gaps_yet(site: Site) -> None:
    await read_by(site, "daily", 3600)
    await site.store(0)
    await site.sign()
    # Noon: the last run was that of midnight, due at 01:00; it should have brought the hours until midnight.
    rows = await site.turn()
    assert [(row.start, row.end) for row in rows] == [(at(1), at(12))]
    assert PILED_UP > MINUTE


@ON_SQLITE
async def test_a_run_that_waits_for_its_turn_on_a_busy_line_brings_its_rows_itself(site: Site) -> None:
    task = await read_by(site, "hourly")
    await site.store(*range(6))
    site.now = at(11) + 30 * MINUTE
    await site.sign()

    async def ran(hour: int, outcome: str) -> None:
        async with writing(site.engine) as session:
            session.add(
                models.RunReport(
                    id=uuid.uuid4(),
                    gateway=site.estate.gateway,
                    device=site.meter,
                    task=task,
                    tick=at(hour),
                    outcome=outcome,
                    ended=site.now,
                    received_at=site.now,
                )
            )

    # Nobody has heard of the tenth hour's run; the eleventh's was missed, as the gateway was away.
    await ran(11, reports.MISSED)
    rows = await site.turn()
    assert [(row.start, row.end) for row in rows] == [(at(6), at(9))]
    await ran(11, reports.FAILED)
    rows = await site.turn()
    assert max(row.end for row in rows) == at(11)


async def test_what_has_ended_long_ago_is_forgotten_but_not_a_persons_word_while_it_counts(site: Site) -> None:
    await site.store(0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12)
    await site.sign()
    [gap] = await site.turn()
    long_ago, unseen = site.now - KEPT_FOR - HOUR, site.now - HORIZON - 2 * HOUR
    ended = [
        (DONE, long_ago, gap.start),
        (DONE, site.now - HOUR, gap.start),
        (GAVE_UP, long_ago, gap.start),
        (GAVE_UP, site.now - HOUR, gap.start - 9 * HOUR),
        (CANCELLED, long_ago, gap.start - 8 * HOUR),
        (CANCELLED, long_ago, unseen),
    ]
    async with writing(site.engine) as session:
        for state, at_, start in ended:
            session.add(
                models.Backfill(
                    organization=gap.organization, gateway=gap.gateway, meter_device=gap.meter_device,
                    archive=gap.archive, start=start, end=start + HOUR, state=state, next_at=at_, noticed_at=at_,
                    cost_seconds=0.0, created_at=at_, updated_at=at_, ended_at=at_,
                )
            )  # fmt: skip
    left = [(row.state, row.start) for row in await site.turn() if row.ended_at is not None]
    assert left == [(GAVE_UP, gap.start - 9 * HOUR), (CANCELLED, gap.start - 8 * HOUR), (DONE, gap.start)]
