"""Closing gaps: finds what is missing, has it fetched when that makes sense, and settles what the meter has answered.

Every relay runs it; one plans at a time (``_turn``), each turn is bounded, and all that it knows stands in the table
``backfills``, so that a restart goes on where the last one ended. What is decided is in ``hub.backfill_plans``.

Theory of operation. A gap that no task will fill any more becomes a window in state ``waiting``. It is fetched only if
it is still there when the gateway has delivered everything that it had when the gap was noticed: so rows that wait in
an outbox are not read again. The window then becomes a command for the background (origin ``backfill``); when that has
ended, and the gateway has delivered what it had by then, the window is *settled*: what is stored is stored, what the
meter was asked for and did not have is lost for good, with its words. What failed is tried again, less and less often.
"""

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import prometheus_client
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import ledger
from hub.backfill_archives import Meter, archives_of, meters_of
from hub.backfill_plans import GatewayState, Kept, Window, has_delivered, has_delivered_result, next_try, windows
from hub.clocks import Clock
from hub.database import reading, writing
from hub.dispatch import BACKFILL, PENDING
from hub.ledger import MissingSpan
from hub.models import (
    Backfill,
    Command,
    Expectation,
    Gateway,
    MeterDevice,
    NetworkInterface,
    ReadingSeries,
    RunReport,
    StagedReading,
)
from protocol import commands
from protocol.reports import DONE as RUN_DONE

WAITING, FETCHING, SETTLING = "waiting", "fetching", "settling"
DONE, GAVE_UP, CANCELLED = "done", "gave_up", "cancelled"
OPEN_STATES = (WAITING, FETCHING, SETTLING)
AUTO, OPERATOR = "auto", "operator"
OPERATORS_FIRST = 10
"""Priority of what an operator asks for, above what the hub finds by itself (0)."""

HORIZON = dt.timedelta(days=400)
"""How far back the hub looks by itself: further than the archives of hours of any meter that it knows."""

TTL_SECONDS = 12 * 3600
"""How long a command may wait for its line to have nothing else to do."""

PER_LINE = 2
"""Commands under way on one line: the next one is there when one ends, and few are lost with a gateway."""

METERS_PER_TURN, ROWS_PER_TURN = 50, 100
PASS_SECONDS = 30.0
"""Real seconds between two looks at all meters, at least; so much less as the clock is faster."""
TURN_SECONDS = 1.0

ASKED_AGAIN = dt.timedelta(days=1)
"""After this what was given up is tried anew, if a read of that meter has succeeded since."""

HARDLY_OVER = dt.timedelta(hours=1)
"""How old a slot must be for a meter's answer to say that it does not have it: meters' clocks are off."""

KEPT_FOR = dt.timedelta(days=90)
"""How long backfills that are done are remembered."""

_LOCK = 0x6D626663
"""PostgreSQL advisory lock: one process plans at a time."""

_log = structlog.get_logger(__name__)
_ended = prometheus_client.Counter("metergate_backfills_ended", "Backfills that have ended, by state", ["state"])


@asynccontextmanager
async def _turn(engine: AsyncEngine) -> AsyncIterator[AsyncSession | None]:
    """Open the transaction of who plans now; None while another one does. On SQLite a writer is the only one."""
    async with writing(engine) as session:
        if engine.dialect.name != "postgresql":
            yield session
            return
        mine = await session.scalar(sa.text(f"SELECT pg_try_advisory_xact_lock({_LOCK})"))
        yield session if mine else None


class Filler:
    """Closes gaps, turn by turn; remembers only how far its look at all meters has come."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine, self._clock = engine, clock
        self._after: uuid.UUID | None = None
        self._next_pass = clock.monotonic()

    async def keep_on(self) -> None:
        """Close gaps for ever."""
        while True:
            await self.turn()
            await asyncio.sleep(TURN_SECONDS)

    async def turn(self) -> None:
        """Follow what is under way, and look at some meters more."""
        now = self._clock.now()
        due, meters = await self._due(now), await self._next_meters()
        if not due and not meters:
            return
        await ledger.catch_up(self._engine, now)
        async with _turn(self._engine) as session:
            if session is not None:
                await follow(session, now)
                await conclude(session, now)
                await send(session, now)
        if meters:
            async with _turn(self._engine) as session:
                if session is not None:
                    await notice(session, meters, now)
                    await _forget(session, now)

    async def _due(self, now: dt.datetime) -> bool:
        """Whether there is anything under way, or to be sent."""
        async with reading(self._engine) as session:
            found = await session.execute(
                sa.select(Backfill.id)
                .where(
                    Backfill.ended_at.is_(None),
                    sa.or_(Backfill.state != WAITING, sa.and_(Backfill.paused.is_(False), Backfill.next_at <= now)),
                )
                .limit(1)
            )
            return found.first() is not None

    async def _next_meters(self) -> list[uuid.UUID]:
        """Return the next meters to look at: of gateways that are online, with an archive that can be asked."""
        if self._after is None and self._clock.monotonic() < self._next_pass:
            return []
        async with reading(self._engine) as session:
            statement = (
                sa.select(MeterDevice.id)
                .join(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
                .join(Gateway, Gateway.id == NetworkInterface.gateway)
                .where(
                    Gateway.online,
                    sa.exists().where(Expectation.device == MeterDevice.id, Expectation.archive.is_not(None)),
                )
                .order_by(MeterDevice.id)
                .limit(METERS_PER_TURN)
            )
            if self._after is not None:
                statement = statement.where(MeterDevice.id > self._after)
            found = list((await session.execute(statement)).scalars())
        self._after = found[-1] if len(found) == METERS_PER_TURN else None
        if self._after is None:
            self._next_pass = self._clock.monotonic() + max(TURN_SECONDS, PASS_SECONDS / self._clock.rate)
        return found


# Gaps become windows


async def notice(session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime) -> int:
    """Note the gaps of these meters that nobody cares for yet; return how many windows that is."""
    meters = await meters_of(session, devices, now)
    spans = await ledger.missing_spans(session, sorted(meters), now - HORIZON, now, now)
    archives = archives_of(meters, spans, auto=True)
    gateways = await states_of(session, {meter.gateway for meter in meters.values()})
    kept = await _kept(session, devices, now)
    # Looked at, once its last life sign says that nothing has piled up: else most of it is on its way.
    settled = {
        key: state
        for key, state in gateways.items()
        if state.delivered is not None and now - state.delivered < PILED_UP
    }
    found = windows(archives, settled, kept)
    add(session, found, meters, now, origin=AUTO)
    await session.flush()
    if found:
        _log.info("gaps_noticed", windows=len(found), meters=len({window.device for window in found}))
    return len(found)


PILED_UP = dt.timedelta(minutes=10)
"""A gateway whose oldest undelivered row is older than this is still delivering a backlog."""


def add(
    session: AsyncSession,
    planned: Iterable[Window],
    meters: dict[uuid.UUID, Meter],
    now: dt.datetime,
    *,
    origin: str,
    request: uuid.UUID | None = None,
) -> list[Backfill]:
    """Note windows, in the caller's transaction."""
    rows = [
        Backfill(
            id=uuid.uuid4(),
            organization=meters[window.device].organization,
            gateway=meters[window.device].gateway,
            meter_device=window.device,
            archive=window.archive,
            start=window.start,
            end=window.end,
            state=WAITING,
            priority=OPERATORS_FIRST if origin == OPERATOR else 0,
            origin=origin,
            request=request,
            next_at=now,
            noticed_at=now,
            cost_seconds=window.cost_seconds,
            created_at=now,
            updated_at=now,
        )
        for window in planned
    ]
    session.add_all(rows)
    return rows


async def states_of(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, GatewayState]:
    """Return how these gateways stand, by their last life signs."""
    rows = await session.execute(
        sa.select(
            Gateway.id,
            Gateway.online,
            Gateway.store_id,
            Gateway.depth,
            Gateway.oldest,
            Gateway.last_seen,
            Gateway.said_at,
        ).where(Gateway.id.in_(gateways))
    )
    found = {}
    for row in rows:
        delivered, oldest = row.last_seen, None
        if row.depth and delivered is not None:
            oldest = row.oldest or delivered - PILED_UP
            delivered = min(delivered, oldest)
        there = row.online and row.store_id is not None
        found[row.id] = GatewayState(there, delivered, row.said_at, oldest)
    return found


async def _kept(
    session: AsyncSession, devices: Collection[uuid.UUID], now: dt.datetime
) -> dict[tuple[uuid.UUID, int], list[Kept]]:
    """Return what is cared for, or is not to be: what was given up counts until its meter was heard again."""
    rows = await session.execute(
        sa.select(Backfill).where(
            Backfill.meter_device.in_(devices),
            sa.or_(Backfill.ended_at.is_(None), Backfill.state.in_((GAVE_UP, CANCELLED))),
        )
    )
    found: dict[tuple[uuid.UUID, int], list[Kept]] = {}
    for row in rows.scalars():
        if row.state == GAVE_UP and row.ended_at is not None and now - row.ended_at > ASKED_AGAIN:
            heard = await session.execute(
                sa.select(RunReport.id)
                .where(
                    RunReport.device == row.meter_device,
                    RunReport.ended > row.ended_at,
                    RunReport.outcome == RUN_DONE,
                )
                .limit(1)
            )
            if heard.first() is not None:
                continue
        found.setdefault((row.meter_device, row.archive), []).append(Kept(row.start, row.end))
    return found


# Windows become commands


async def send(session: AsyncSession, now: dt.datetime) -> int:
    """Have windows fetched whose time has come; return how many commands that is."""
    rows = (
        await session.execute(
            sa.select(Backfill)
            .join(Gateway, Gateway.id == Backfill.gateway)
            .where(Backfill.state == WAITING, Backfill.paused.is_(False), Backfill.next_at <= now, Gateway.online)
            .order_by(Backfill.priority.desc(), Backfill.next_at, Backfill.start.desc(), Backfill.id)
            .limit(ROWS_PER_TURN)
            .with_for_update(of=Backfill, skip_locked=True)
        )
    ).scalars()
    waiting = list(rows)
    gateways = await states_of(session, {row.gateway for row in waiting})
    ready = [row for row in waiting if has_delivered(gateways[row.gateway], row.noticed_at)]
    if not ready:
        return 0
    meters = await meters_of(session, {row.meter_device for row in ready}, now)
    lines, busy = await _under_way(session)
    sent = 0
    for row in ready:
        meter = meters.get(row.meter_device)
        if meter is None or meter.gateway != row.gateway:
            _move(row, meter, now)
            continue
        if lines.get(meter.line, 0) >= PER_LINE or meter.id in busy:
            continue
        left = await _missing(session, row, now)
        if left is None:
            continue
        if not left:
            _end(row, DONE, "everything has arrived by itself", now)
            continue
        row.start, row.end = min(span.start for span in left), max(span.end for span in left)
        session.add(command := _command(row, meter, now))
        await session.flush()
        row.state, row.command, row.updated_at = FETCHING, command.id, now
        lines[meter.line] = lines.get(meter.line, 0) + 1
        busy.add(meter.id)
        sent += 1
        _log.info("backfill_sent", backfill=str(row.id), meter=meter.name, archive=row.archive, command=str(command.id))
    await session.flush()
    return sent


def _move(row: Backfill, meter: Meter | None, now: dt.datetime) -> None:
    """Follow a meter to another gateway; end what nobody can read any more."""
    if meter is None:
        _end(row, CANCELLED, "no gateway polls the meter any more", now)
    else:
        row.gateway, row.noticed_at, row.updated_at = meter.gateway, now, now


async def _under_way(session: AsyncSession) -> tuple[dict[uuid.UUID, int], set[uuid.UUID]]:
    """Return how many commands of backfills each line has, and which meters have one."""
    rows = await session.execute(
        sa.select(MeterDevice.network_interface, MeterDevice.id)
        .join(Backfill, Backfill.meter_device == MeterDevice.id)
        .where(Backfill.state == FETCHING)
    )
    lines: dict[uuid.UUID, int] = {}
    meters = set()
    for line, meter in rows:
        meters.add(meter)
        if line is not None:
            lines[line] = lines.get(line, 0) + 1
    return lines, meters


def _command(row: Backfill, meter: Meter, now: dt.datetime) -> Command:
    return Command(
        id=uuid.uuid4(),
        organization=row.organization,
        gateway=row.gateway,
        meter_device=meter.id,
        meter=meter.name,
        context="generic_lis200",
        call="read_archive_by_date",
        kwargs={
            "start_date": row.start.isoformat().replace("+00:00", "Z"),
            "end_date": row.end.isoformat().replace("+00:00", "Z"),
            "archive_number": row.archive,
            "control_position": meter.positions.get(row.archive, meter.position),
        },
        ttl_seconds=TTL_SECONDS,
        state=PENDING,
        origin=BACKFILL,
        expires_at=now + dt.timedelta(seconds=TTL_SECONDS),
        created_at=now,
        updated_at=now,
    )


async def _missing(session: AsyncSession, row: Backfill, now: dt.datetime) -> list[MissingSpan] | None:
    """Return what is missing within a window, and comes from its archive; None while that is not known."""
    rebuilding = sa.select(Expectation.id).where(
        Expectation.device == row.meter_device, Expectation.archive == row.archive, Expectation.rebuilding
    )
    if (await session.execute(rebuilding.limit(1))).first() is not None:
        return None
    after = row.end + dt.timedelta(microseconds=1)
    spans = await ledger.missing_spans(session, [row.meter_device], row.start, after, now)
    return [span for span in spans if span.archive == row.archive]


# What has become of them


async def follow(session: AsyncSession, now: dt.datetime) -> int:
    """Note which commands have ended; return how many."""
    rows = (
        await session.execute(
            sa.select(Backfill)
            .outerjoin(Command, Command.id == Backfill.command)
            .where(
                Backfill.state == FETCHING,
                sa.or_(Command.id.is_(None), Command.state.in_(commands.FINAL_STATES)),
            )
            .order_by(Backfill.id)
            .limit(ROWS_PER_TURN)
            .with_for_update(of=Backfill, skip_locked=True)
        )
    ).scalars()
    ended = 0
    for row in rows:
        row.state, row.noticed_at, row.updated_at = SETTLING, now, now
        ended += 1
    await session.flush()
    return ended


async def conclude(session: AsyncSession, now: dt.datetime) -> int:
    """Settle what has ended, once the gateway has delivered what came of it; return how many windows."""
    found = (
        await session.execute(
            sa.select(Backfill, Command)
            .outerjoin(Command, Command.id == Backfill.command)
            .where(Backfill.state == SETTLING)
            .order_by(Backfill.noticed_at, Backfill.id)
            .limit(ROWS_PER_TURN)
            .with_for_update(of=Backfill, skip_locked=True)
        )
    ).all()
    gateways = await states_of(session, {row.gateway for row, _ in found})
    concluded = 0
    for row, command in found:
        ended = command.ended_at if command is not None else None
        if has_delivered_result(gateways[row.gateway], ended or row.noticed_at):
            concluded += await _conclude(session, row, command, now)
    await session.flush()
    return concluded


async def _conclude(session: AsyncSession, row: Backfill, command: Command | None, now: dt.datetime) -> bool:
    left = await _missing(session, row, now)
    if left is None:
        return False
    young = 0
    if command is not None and command.state == commands.DONE:
        # What was hardly over when the meter was asked may not have been in its archive yet.
        old = [span for span in left if span.start < (command.ended_at or now) - HARDLY_OVER]
        young, left = len(left) - len(old), old
    slots = sum(span.count for span in left)
    if not left:
        _end(row, DONE, "all else was hardly over when the meter was asked" if young else "everything is stored", now)
    elif command is not None and command.state == commands.DONE:
        staged = await _staged(session, row, {span.series for span in left})
        if staged:
            _end(row, GAVE_UP, f"{slots} slots were read, and wait as staged readings: {staged}", now)
        else:
            evidence = _words(row, command)
            await _lose(session, row, left, evidence, asked=command.ended_at or now, now=now)
            _end(row, DONE, f"{slots} slots are lost for good: {evidence}", now)
    elif command is not None and command.state == commands.CANCELLED:
        if row.paused:
            row.state, row.command = WAITING, None
            row.noticed_at = row.next_at = row.updated_at = now
        else:
            _end(row, CANCELLED, command.cause, now)
    else:
        _retry(row, "its command is gone" if command is None else f"{command.state}: {command.cause}", now)
    return True


async def _lose(
    session: AsyncSession,
    row: Backfill,
    left: Sequence[MissingSpan],
    evidence: str,
    *,
    asked: dt.datetime,
    now: dt.datetime,
) -> None:
    for span in left:
        await ledger.settle(
            session,
            span.device,
            span.series,
            span.start,
            min(span.end, asked - HARDLY_OVER),
            evidence=evidence,
            now=now,
            command=row.command,
        )


def _words(row: Backfill, command: Command) -> str:
    """Say what the meter answered when it was asked for the window."""
    answer = command.result.get("answer") or f"{command.result.get('rows', 0)} rows, and none of these"
    when = command.ended_at or command.updated_at
    span = f"from {row.start:%Y-%m-%dT%H:%M:%SZ} to {row.end:%Y-%m-%dT%H:%M:%SZ}"
    return f"archive {row.archive} was asked {span} on {when:%Y-%m-%dT%H:%M:%SZ}; the meter answered: {answer}"


def _retry(row: Backfill, cause: str, now: dt.datetime) -> None:
    """Try again later, or never."""
    row.tries += 1
    again = next_try(row.tries, now)
    if again is None:
        _end(row, GAVE_UP, f"after {row.tries} tries, the last of which ended {cause}", now)
        return
    row.state, row.command, row.evidence = WAITING, None, cause
    row.next_at, row.noticed_at, row.updated_at = again, now, now
    _log.info("backfill_again", backfill=str(row.id), tries=row.tries, next_at=again.isoformat(), cause=cause)


def _end(row: Backfill, state: str, evidence: str, now: dt.datetime) -> None:
    row.state, row.evidence = state, evidence
    row.ended_at = row.updated_at = now
    _ended.labels(state).inc()
    _log.info("backfill_ended", backfill=str(row.id), state=state, cause=evidence)


async def _staged(session: AsyncSession, row: Backfill, series: Collection[uuid.UUID]) -> str:
    """Return why readings of the window and these series wait; empty when none does."""
    names = sa.select(ReadingSeries.name).where(ReadingSeries.id.in_(series))
    condition: Any = sa.and_(
        StagedReading.device == row.meter_device,
        StagedReading.series_name.in_(names),
        StagedReading.timestamp >= row.start,
        StagedReading.timestamp <= row.end,
    )
    return await session.scalar(sa.select(StagedReading.reason).where(condition).limit(1)) or ""


async def _forget(session: AsyncSession, now: dt.datetime) -> None:
    """Delete what was done long ago."""
    await session.execute(
        sa.delete(Backfill)
        .where(Backfill.state == DONE, Backfill.ended_at < now - KEPT_FOR)
        .execution_options(synchronize_session=False)
    )
