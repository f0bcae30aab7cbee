"""The keeper of deadlines: begins periods, looks at those that run, closes those that are over, counts what is late.

Every relay runs it; one at a time has the turn, and all that it knows stands in the database. A period is closed soon
after its deadline; what was stored in time is found by when readings were stored first, so a relay that comes late
comes to the same figures. Reasons are found out when a period is closed, for they are never stored by slot.

Rules: no transaction is open while much is counted; what a look found out is written, with the events that it makes,
only while the period is still open.
"""

import datetime as dt
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import sqlalchemy as sa
import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import webhooks
from hub.clocks import Clock
from hub.commits import commits_of, look_seconds
from hub.database import reading, writing
from hub.deadlines_counted import EXPLAINED, count, selection_of, zones_of
from hub.deadlines_periods import PAST, Alert, Period, is_below, open_slots, period_of, raster_of
from hub.deadlines_seen import GATEWAY, GROUP, names_of, note, outlook_of, parts_of, period_now, row_of
from hub.deadlines_tallies import Tally
from hub.deadlines_told import BELOW, MET, MISSED, OVER, RECOVERED, RUNNING, is_met, result_of, tell, worst
from hub.ledger import catch_up
from hub.models import Deadline, DeadlinePart, DeadlinePeriod
from protocol.wire import ContractError

TURN_SECONDS = 1.0
LOOK_SECONDS = 30.0
"""Real seconds between two looks at a period that runs."""

EXPLAINED_AT_A_LOOK = 500
"""Expectations that such a look finds out about why they lack some: it is taken often, beside ingestion."""

COUNT_SECONDS = 300.0
"""Real seconds between two counts of what came late to a period that is over."""

BEGUN_PER_TURN, CLOSED_PER_TURN, COUNTED_PER_TURN = 200, 20, 10

REBUILT_WITHIN, POSTPONED_SECONDS = dt.timedelta(hours=1), 10.0
"""So long a period waits to be closed for series that are being made anew, and how often it looks."""

TOLD_WITHIN = dt.timedelta(days=1)
"""A result that is older when it is found out is told nobody any more: it stands in the results."""

LATE_FOR = dt.timedelta(days=60)
"""How long late values are counted; then the result is final."""

KEPT_FOR, HOURS_KEPT_FOR, NOTIFICATIONS_KEPT_FOR = dt.timedelta(days=1100), dt.timedelta(days=90), dt.timedelta(days=90)
"""How long results are kept, those of hours, and what became of events."""

_FORGET_SECONDS = 600.0
_NEVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LOCK = 0x6D646C6E
"""PostgreSQL advisory lock: one process keeps deadlines at a time."""

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def _turn(engine: AsyncEngine) -> AsyncIterator[bool]:
    """Hold the turn, if nobody else has it. SQLite has one process only; its file's lock is not held for this."""
    if engine.dialect.name != "postgresql":
        yield True
        return
    async with engine.connect() as connection, connection.begin():
        yield bool(await connection.scalar(sa.text(f"SELECT pg_try_advisory_xact_lock({_LOCK})")))


class Keeper:
    """Keeps deadlines, turn by turn."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock
        self._next_forget = clock.monotonic()
        self._begun: dict[uuid.UUID, dt.datetime] = {}
        """When the periods were noted last that have begun, by deadline."""
        self._postponed: dict[uuid.UUID, float] = {}
        """Periods whose series are being made anew, and when to look at them again."""

    async def keep_on(self) -> None:
        """Keep deadlines for ever."""
        commits = commits_of(self._engine)
        while True:
            seen = commits.count
            if not await self.turn():
                at_most = look_seconds(self._engine, self._clock)
                await commits.after(seen, at_most=at_most, pause=TURN_SECONDS)

    async def turn(self) -> bool:
        """Do what is due, a bounded part of it; return whether there is more to do at once."""
        now = self._clock.now()
        if self._clock.monotonic() >= self._next_forget:
            self._next_forget = self._clock.monotonic() + _FORGET_SECONDS
            await forget(self._engine, now)
        async with reading(self._engine) as session:
            active = select(Deadline).where(Deadline.is_active).order_by(Deadline.id)
            deadlines = (await session.scalars(active)).all()
        if not deadlines:
            return False
        async with _turn(self._engine) as mine:
            if not mine:
                return False
            return await self._do(deadlines, now)

    async def _do(self, deadlines: Sequence[Deadline], now: dt.datetime) -> bool:
        more = False
        pause = dt.timedelta(seconds=LOOK_SECONDS * self._clock.rate)
        for deadline in deadlines:
            if abs(now - self._begun.get(deadline.id, _NEVER)) < pause:
                continue
            self._begun[deadline.id] = now
            try:
                if await self._begin(deadline, now):
                    more = True
                    del self._begun[deadline.id]
            except ContractError as error:
                _log.warning("deadline_not_kept", deadline=str(deadline.id), cause=str(error))
        by_id = {deadline.id: deadline for deadline in deadlines}
        closing, looking, counting = await self._due(list(by_id), now)
        if closing or looking or counting:
            await catch_up(self._engine, now)
        waited = [row for row in closing if self._clock.monotonic() >= self._postponed.get(row.id, 0)]
        closed = [await self._close(by_id[row.deadline], row, now) for row in waited]
        for row in looking:
            await self._look(by_id[row.deadline], row, now)
        for row in counting:
            await self._count_late(by_id[row.deadline], row, now)
        return more or sum(closed) == CLOSED_PER_TURN

    async def _due(
        self, deadlines: Sequence[uuid.UUID], now: dt.datetime
    ) -> tuple[Sequence[DeadlinePeriod], Sequence[DeadlinePeriod], Sequence[DeadlinePeriod]]:
        """Return the periods to be closed, to be looked at, and whose late values are to be counted."""
        row = DeadlinePeriod
        seen = now - dt.timedelta(seconds=LOOK_SECONDS * self._clock.rate)
        counted = now - dt.timedelta(seconds=COUNT_SECONDS * self._clock.rate)
        mine = row.deadline.in_(deadlines)
        is_open = (mine, row.closed_at.is_(None))
        async with reading(self._engine) as session:
            closing = await session.scalars(
                select(row).where(*is_open, row.due_at <= now).order_by(row.due_at.desc()).limit(CLOSED_PER_TURN)
            )
            looking = await session.scalars(
                select(row)
                .where(*is_open, row.due_at > now, sa.or_(row.seen_at.is_(None), row.seen_at <= seen))
                .order_by(row.due_at)
            )
            counting = await session.scalars(
                select(row)
                .where(mine, row.counted_at.is_not(None), row.counted_at <= counted)
                .order_by(row.counted_at)
                .limit(COUNTED_PER_TURN)
            )
            return closing.all(), looking.all(), counting.all()

    async def _begin(self, deadline: Deadline, now: dt.datetime) -> bool:
        """Note the periods that have begun since the last look; return whether there are more to be noted."""
        async with reading(self._engine) as session:
            zones = await zones_of(session, await selection_of(session, deadline))
            newest = await session.execute(
                select(DeadlinePeriod.zone, sa.func.max(DeadlinePeriod.slot).label("slot"))
                .where(DeadlinePeriod.deadline == deadline.id)
                .group_by(DeadlinePeriod.zone)
            )
            noted = {row.zone: row.slot for row in newest}
        begun: list[Period] = []
        for zone in zones:
            raster = raster_of(deadline.interval, deadline.anchor_seconds, zone)
            current = open_slots(raster, deadline.within_seconds, now)
            first = noted.get(zone, current.start - PAST - 1) + 1
            slots = range(first, current.stop)[: max(0, BEGUN_PER_TURN - len(begun))]
            begun += [period_of(raster, slot, deadline.within_seconds) for slot in slots]
        if not begun:
            return False
        async with writing(self._engine) as session:
            # It may have been deleted meanwhile.
            if await session.get(Deadline, deadline.id, with_for_update={"key_share": True, "read": True}) is not None:
                session.add_all(row_of(deadline, period) for period in begun)
        return len(begun) >= BEGUN_PER_TURN

    # Looks

    async def _look(self, deadline: Deadline, row: DeadlinePeriod, now: dt.datetime) -> None:
        """Note how a period stands that runs, and tell it when the projection is below the target, or no longer."""
        period = period_now(deadline, row)
        async with reading(self._engine) as session:
            of = await selection_of(session, deadline)
            counted = await count(session, of, period, now, reasons=EXPLAINED_AT_A_LOOK)
            outlook = await outlook_of(session, row, counted)
            names = await names_of(session, GATEWAY, counted.gateways)
        async with writing(self._engine) as session:
            held = await _open_row(session, row)
            if held is None:
                return
            note(held, deadline, counted, outlook, now)
            below = is_below(held.projected, held.expected, held.target_percent)
            patience = dt.timedelta(seconds=deadline.patience_seconds)
            before = held.alerted
            alert = Alert(before, held.turned_at).step(below=below, now=now, patience=patience)
            held.alerted, held.turned_at = alert.told, alert.turned_at
            if alert.told != before:
                kind = BELOW if alert.told else RECOVERED
                parts = worst(parts_of(GATEWAY, deadline, counted, outlook, names))
                tell(session, deadline, held, kind, result_of(held, RUNNING, parts), now)
                _log.info("deadline_turned", deadline=str(deadline.id), event_type=kind, projected=held.projected)

    async def _close(self, deadline: Deadline, row: DeadlinePeriod, now: dt.datetime) -> bool:
        """Note what a period came to, with its parts, and tell it; return whether it is closed now."""
        period = period_now(deadline, row)
        if period.due_at > now:
            # It was edited: there is time again.
            async with writing(self._engine) as session:
                held = await _open_row(session, row)
                if held is not None:
                    held.due_at, held.seen_at = period.due_at, None
            return False
        async with reading(self._engine) as session:
            of = await selection_of(session, deadline)
            counted = await count(session, of, period, now, groups=True, reasons=EXPLAINED, late=True)
            if counted.rebuilding and now - period.due_at < REBUILT_WITHIN:
                self._postponed[row.id] = self._clock.monotonic() + POSTPONED_SECONDS
                return False
            by_group = counted.by_group()
            names = {
                GATEWAY: await names_of(session, GATEWAY, counted.gateways),
                GROUP: await names_of(session, GROUP, by_group),
            }
        self._postponed.pop(row.id, None)
        async with writing(self._engine) as session:
            held = await _open_row(session, row)
            if held is None:
                return False
            note(held, deadline, counted, None, now)
            held.closed_at = now
            held.counted_at = now if held.stored + held.late < held.expected else None
            for kind, tallies in ((GATEWAY, counted.gateways), (GROUP, by_group)):
                session.add_all(_part_row(held, kind, key, names[kind], tally) for key, tally in tallies.items())
            if now - held.due_at <= TOLD_WITHIN and held.due_at > deadline.created_at and held.expected:
                kind = MET if is_met(held) else MISSED
                parts = worst(parts_of(GATEWAY, deadline, counted, None, names[GATEWAY]))
                tell(session, deadline, held, kind, result_of(held, OVER, parts), now)
            _log.info(
                "deadline_closed",
                deadline=str(deadline.id),
                due_at=held.due_at.isoformat(),
                expected=held.expected,
                stored=held.stored,
            )
            return True

    async def _count_late(self, deadline: Deadline, row: DeadlinePeriod, now: dt.datetime) -> None:
        """Count what came after the deadline; it only rises, so that readings which age out do not take it back."""
        async with reading(self._engine) as session:
            of = await selection_of(session, deadline)
            counted = await count(session, of, _period_then(row), now, groups=True)
        found = {GATEWAY: counted.gateways, GROUP: counted.by_group()}
        async with writing(self._engine) as session:
            held = await session.get(DeadlinePeriod, row.id, with_for_update=True)
            if held is None:
                return
            parts = await session.scalars(select(DeadlinePart).where(DeadlinePart.period == held.id))
            for part in parts:
                tally = found[part.kind].get(part.key)
                if tally is not None:
                    part.late = _late(part, tally)
            held.late = _late(held, counted.total)
            final = held.stored + held.late >= held.expected or now - held.due_at > LATE_FOR
            held.counted_at = None if final else now


def _late(held: DeadlinePeriod | DeadlinePart, tally: Tally) -> int:
    return max(held.late, min(tally.stored, held.expected) - held.stored)


def _part_row(
    row: DeadlinePeriod, kind: str, key: uuid.UUID | None, names: Mapping[uuid.UUID, str], tally: Tally
) -> DeadlinePart:
    return DeadlinePart(
        period=row.id,
        kind=kind,
        key=key,
        name=names.get(key, "") if key is not None else "",
        expected=tally.expected,
        stored=tally.stored,
        late=tally.late,
        reasons=tally.lacking(),
    )


def _period_then(row: DeadlinePeriod) -> Period:
    return Period(row.zone, row.slot, row.start, row.end, row.due_at)


async def _open_row(session: AsyncSession, row: DeadlinePeriod) -> DeadlinePeriod | None:
    """Return the row as it is now, locked; None when it is closed or gone."""
    held = await session.get(DeadlinePeriod, row.id, with_for_update=True)
    return held if held is not None and held.closed_at is None else None


async def forget(engine: AsyncEngine, now: dt.datetime) -> None:
    """Delete results, and events that have ended, when they are old."""
    hourly = select(Deadline.id).where(Deadline.interval == "hour")
    old = sa.or_(
        DeadlinePeriod.end < now - KEPT_FOR,
        sa.and_(DeadlinePeriod.end < now - HOURS_KEPT_FOR, DeadlinePeriod.deadline.in_(hourly)),
    )
    async with reading(engine) as session:
        ids = list(await session.scalars(select(DeadlinePeriod.id).where(old).limit(1000)))
    if ids:
        async with writing(engine) as session:
            await session.execute(
                sa.delete(DeadlinePeriod).where(DeadlinePeriod.id.in_(ids)).execution_options(synchronize_session=False)
            )
    await webhooks.forget(engine, now - NOTIFICATIONS_KEPT_FOR)
