"""A hub that looks after one meter's hours, a gap in them, and its gateway's words: what tests of backfill share."""

import datetime as dt
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import dispatch, ledger, models
from hub.backfill_rows import WAITING
from hub.backfilling import Filler
from hub.clocks import Clock
from hub.database import reading as looking
from hub.database import writing
from hub.ingest import store_deliveries
from protocol import commands
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, Estate, GatewayVoice, make_estate, reading

__all__ = ["database_url", "engine", "site"]

MINUTE, HOUR = dt.timedelta(minutes=1), dt.timedelta(hours=1)
DAY_BEFORE = NOW - dt.timedelta(days=1)
STORE = b"s" * 16


class Site:
    """A meter that should have hours of one series for a day, its gateway, and a hub that looks after it."""

    def __init__(self, engine: AsyncEngine, estate: Estate) -> None:
        self.engine, self.estate, self.now = engine, estate, NOW
        self.voice = GatewayVoice(estate.gateway_id)
        self.meter = estate.meters["M1"]

    async def store(self, *hours: int) -> None:
        """Have the readings of these hours after the beginning arrive."""
        rows = [reading(self.meter, "1.0", at=60 * hour) for hour in hours]
        await store_deliveries(self.engine, [self.voice.readings(*rows)], self.now, 100)

    async def sign(self, *, depth: int = 0, oldest: dt.datetime | None = None, online: bool = True) -> None:
        """Have a life sign come, a moment later."""
        self.now += MINUTE
        async with writing(self.engine) as session:
            await session.execute(
                sa.update(models.Gateway)
                .where(models.Gateway.id == self.estate.gateway)
                .values(online=online, store_id=STORE, depth=depth, oldest=oldest, last_seen=self.now, said_at=self.now)
            )
        self.now += MINUTE

    async def turn(self) -> list[models.Backfill]:
        """Have a new relay do one turn; return all backfills, in order of time."""
        clock = At(self.now)
        await Filler(self.engine, clock).turn()
        return await self.rows()

    async def rows(self) -> list[models.Backfill]:
        """Return all backfills, in order of time."""
        async with looking(self.engine) as session:
            return list((await session.scalars(sa.select(models.Backfill).order_by(models.Backfill.start))).all())

    async def command(self, row: models.Backfill) -> models.Command:
        """Return the command of a backfill."""
        async with looking(self.engine) as session:
            return (await session.scalars(sa.select(models.Command).where(models.Command.id == row.command))).one()

    async def ends(self, row: models.Backfill, state: str, cause: str = "", **result: Any) -> None:  # noqa: ANN401 - what calls bring
        """Have the gateway report the end of a backfill's command."""
        assert row.command is not None
        self.now += MINUTE
        async with writing(self.engine) as session:
            await session.execute(
                sa.update(models.Command)
                .where(models.Command.id == row.command)
                .values(state=dispatch.SENT, published_at=self.now)
            )
        update = commands.CommandUpdate(
            uuid.uuid4(), row.command, state, self.now, 9, self.voice.next[Channel.REPORT], cause=cause, result=result
        )
        await store_deliveries(self.engine, [self.voice.rows(Channel.REPORT, [encode(update)])], self.now, 100)

    async def missing(self) -> list[tuple[dt.datetime, dt.datetime]]:
        """Return what is neither stored nor lost for good."""
        await ledger.catch_up(self.engine, self.now)
        async with looking(self.engine) as session:
            spans = await ledger.missing_spans(session, [self.meter], DAY_BEFORE, NOW, self.now)
        return [(span.start, span.end) for span in spans]


class At(Clock):
    """A clock that stands."""

    def __init__(self, now: dt.datetime) -> None:
        super().__init__()
        self._shown = now

    def now(self) -> dt.datetime:
        return self._shown


@pytest.fixture
async def site(engine: AsyncEngine) -> Site:
    """Return the site: twelve hours are expected, none is there."""
    estate = await make_estate(engine, meters=("M1",), series=("2:300",))
    expected = [{"series": "2:300", "interval": "hour", "anchor_seconds": None, "archive": 3}]
    async with writing(engine) as session:
        await session.execute(sa.update(models.MeterDeviceConfig).values(expectations=expected))
        await session.execute(
            sa.update(models.MeterDevice).values(commissioned=DAY_BEFORE, decommissioned=DAY_BEFORE + 12 * HOUR)
        )
        session.add(models.ExpectationMark(device=estate.meters["M1"]))
    made = Site(engine, estate)
    await ledger.catch_up(engine, NOW)
    return made


def at(hour: int) -> dt.datetime:
    """Return an hour after the beginning."""
    return DAY_BEFORE + hour * HOUR


def window(site: Site, start: dt.datetime, end: dt.datetime) -> models.Backfill:
    """Return a window that waits, as after a request of an operator."""
    return models.Backfill(
        organization=site.estate.organization,
        gateway=site.estate.gateway,
        meter_device=site.meter,
        archive=3,
        start=start,
        end=end,
        state=WAITING,
        next_at=NOW,
        noticed_at=NOW,
        cost_seconds=1.0,
        created_at=NOW,
        updated_at=NOW,
    )
