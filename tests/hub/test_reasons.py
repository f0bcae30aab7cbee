"""What a slot's reason says of who cares for it: the backfill that waits, tries, is held, or has given it up."""

import sqlalchemy as sa

from hub import ledger, models
from hub.backfill_rows import CANCELLED, GAVE_UP, WAITING
from hub.database import reading as looking
from hub.database import writing
from hub.expectations import expectations_of
from hub.ledger import bits_of
from hub.reasons import Explained, explain
from hub.reasons_known import Lack
from protocol import commands
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW
from tests.parts.gaps import DAY_BEFORE, MINUTE, Site, at, site

__all__ = ["database_url", "engine", "site"]


async def reasons(site: Site) -> list[Explained]:
    """Return why what is missing of the meter's hours is."""
    await ledger.catch_up(site.engine, site.now)
    async with looking(site.engine) as session:
        expecting = await expectations_of(session, {site.meter})
        windows = {one.id: one.window(DAY_BEFORE, NOW, site.now) for one in expecting}
        bits = await bits_of(session, expecting, windows)
        lacks = [Lack(one, bits[one.id].missing(*windows[one.id])) for one in expecting]
        return [span for spans in (await explain(session, lacks, site.now)).values() for span in spans]


async def noticed(site: Site) -> models.Backfill:
    """Have the first two hours missing, and a backfill wait for its turn."""
    await site.store(*range(2, 13))
    await site.sign()
    [row] = await site.turn()
    assert row.state == WAITING
    return row


async def test_a_slot_is_being_fetched_from_when_a_backfill_waits_until_what_it_brought_is_here(site: Site) -> None:
    row = await noticed(site)
    [span] = await reasons(site)
    assert (span.state, span.reason, span.last - span.first) == ("being_fetched", "", 1)
    assert f"backfill {row.id} waits for its turn" in span.evidence
    await site.sign()
    [row] = await site.turn()
    [span] = await reasons(site)
    assert (span.state, span.evidence) == ("being_fetched", f"command {row.command} is pending")
    await site.ends(row, commands.DONE, rows=0, answer="#0103")
    await site.turn()
    [span] = await reasons(site)
    assert span.state == "being_fetched"
    assert "what it brought is on its way" in span.evidence
    await site.sign()
    await site.turn()
    [span] = await reasons(site)
    assert span.state == "unrecoverable"
    assert "#0103" in span.evidence


async def test_a_backfill_that_waits_for_a_gateway_does_not_hide_that_it_is_away(site: Site) -> None:
    row = await noticed(site)
    await site.sign(online=False)
    [span] = await reasons(site)
    assert (span.state, span.reason) == ("missing", "gateway_offline")
    assert span.evidence.endswith(f"; backfill {row.id} waits for it")


async def test_a_slot_whose_first_try_failed_says_why_and_when_it_is_tried_again(site: Site) -> None:
    await noticed(site)
    await site.sign()
    [row] = await site.turn()
    await site.ends(row, commands.FAILED, cause="the meter does not answer")
    await site.turn()
    await site.sign()
    [row] = await site.turn()
    [span] = await reasons(site)
    assert (span.state, span.reason) == ("missing", "meter_silent")
    again = f"is tried again at {row.next_at:%Y-%m-%dT%H:%M:%SZ} (try 2 of 8)"
    assert span.evidence == f"failed: the meter does not answer; backfill {row.id} {again}"


async def test_one_that_expired_had_no_line(site: Site) -> None:
    row = await noticed(site)
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.Backfill).values(tries=1, evidence="expired: 12 hours"))
    [span] = await reasons(site)
    assert (span.state, span.reason) == ("missing", "line")
    assert str(row.id) in span.evidence


async def test_one_that_is_held_or_was_given_up_says_so_beside_the_reason(site: Site) -> None:
    row = await noticed(site)
    async with writing(site.engine) as session:
        await session.execute(sa.update(models.Backfill).values(paused=True))
    [span] = await reasons(site)
    assert (span.state, span.reason) == ("missing", "not_brought")
    assert span.evidence.endswith(f"; backfill {row.id} is paused")
    async with writing(site.engine) as session:
        values = {"paused": False, "state": GAVE_UP, "ended_at": site.now, "evidence": "after 8 tries"}
        await session.execute(sa.update(models.Backfill).values(**values))
    [span] = await reasons(site)
    assert span.evidence.endswith(f"; backfill {row.id} gave up: after 8 tries")
    async with writing(site.engine) as session:
        values = {"state": CANCELLED, "evidence": "cancelled by an operator"}
        await session.execute(sa.update(models.Backfill).values(**values))
    [span] = await reasons(site)
    assert span.evidence.endswith(f"; backfill {row.id} was cancelled: cancelled by an operator")


async def test_what_an_earlier_meter_had_is_lost_for_good_and_comes_back_when_that_is_put_right(site: Site) -> None:
    await site.store(*range(4, 13))
    async with writing(site.engine) as session:
        dated = {"created_at": site.now, "updated_at": site.now}
        since = at(1) + MINUTE
        session.add(models.DevicePeriod(meter_device=site.meter, serial="1", since=None, until=since, **dated))
        session.add(models.DevicePeriod(meter_device=site.meter, serial="2", since=since, until=None, **dated))
    await site.sign()
    lost, missing = await reasons(site)
    assert (lost.state, lost.last - lost.first, missing.state) == ("unrecoverable", 1, "missing")
    assert lost.evidence.startswith("the meter that had it was replaced at 2026-11-21T13:01:00Z")
    async with writing(site.engine) as session:
        moved = sa.update(models.DevicePeriod).where(models.DevicePeriod.serial == "2").values(since=DAY_BEFORE)
        await session.execute(moved)
    [missing] = await reasons(site)
    assert (missing.state, missing.last - missing.first) == ("missing", 3)
