"""Windows become commands: once the gateway has delivered what it had, and only what is missing still.

A window is ready when its time has come, nobody holds it or its gateway, its gateway is online and has delivered what
it had when the gap was noticed, its meter has no other command of a backfill, and its line fewer than ``PER_LINE``.
"""

import datetime as dt
import uuid
from collections import Counter
from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import command_events
from hub.backfill_archives import Meter, meters_of
from hub.backfill_plans import has_delivered
from hub.backfill_rows import (
    CANCELLED,
    DONE,
    FETCHING,
    ROWS_PER_TURN,
    WAITING,
    Lacking,
    end,
    in_state,
    lacking,
    log,
    states_of,
)
from hub.dispatch import BACKFILL, PENDING
from hub.models import Backfill, Command, Gateway, MeterDevice, NetworkInterface
from hub.notices import Notice, tell
from protocol.commands import FINAL_STATES

TTL_SECONDS = 12 * 3600
"""How long a command may wait for its line to have nothing else to do."""

PER_LINE = 2
"""Commands under way on one line: the next one is there when one ends, and few are lost with a gateway."""


LOOKED_AT = 1000
"""Windows among which those of one turn are chosen."""


async def call_back(session: AsyncSession, now: dt.datetime) -> None:
    """Ask for the end of the commands that are under way on gateways which somebody has paused meanwhile."""
    fetching = (
        sa.select(Backfill.command)
        .join(Gateway, Gateway.id == Backfill.gateway)
        .where(*in_state(FETCHING), Gateway.backfill_paused, Backfill.command.is_not(None))
    )
    called_back = await session.scalars(
        sa.update(Command)
        .where(Command.id.in_(fetching), Command.state.not_in(FINAL_STATES), Command.cancel_requested.is_(False))
        .values(cancel_requested=True, updated_at=now)
        .returning(Command.id)
        .execution_options(synchronize_session=False)
    )
    if called_back.all():
        await tell(session, Notice.COMMANDS)


async def send(session: AsyncSession, now: dt.datetime) -> int:
    """Have windows fetched whose time has come; return how many commands that is."""
    lines = await _under_way(session)
    found = await session.execute(
        sa.select(Backfill)
        .where(Backfill.id.in_(await _candidates(session, lines, now)))
        .order_by(*_FIRST_COME)
        .with_for_update(of=Backfill, skip_locked=True)
    )
    waiting = [row for row in found.scalars() if row.state == WAITING]
    if not waiting:
        return 0
    meters = await meters_of(session, {row.meter_device for row in waiting}, now)
    gateways = await states_of(session, {row.gateway for row in waiting})
    ready: list[tuple[Backfill, Meter]] = []
    for row in waiting:
        meter = meters.get(row.meter_device)
        if meter is None or meter.gateway != row.gateway:
            _move(row, meter, now)
        elif has_delivered(gateways[row.gateway], row.noticed_at):
            ready.append((row, meter))
    known = await lacking(session, [row for row, _ in ready], now)
    sent: list[tuple[Backfill, Command]] = []
    for row, meter in ready:
        if lines.get(meter.line, 0) < PER_LINE and _is_to_be_fetched(row, meter, known, now):
            lines[meter.line] = lines.get(meter.line, 0) + 1
            sent.append((row, _command(row, meter, now)))
    session.add_all(command for _, command in sent)
    # A row can only name a command that is there.
    await session.flush()
    await command_events.record(session, [command_events.told(command, PENDING, "", now) for _, command in sent])
    if sent:
        await tell(session, Notice.COMMANDS)
    for row, command in sent:
        row.state, row.command, row.updated_at = FETCHING, command.id, now
        log.info(
            "backfill_sent", backfill=str(row.id), meter=command.meter, archive=row.archive, command=str(command.id)
        )
    await session.flush()
    return len(sent)


_FIRST_COME = (Backfill.priority.desc(), Backfill.next_at, Backfill.start.desc(), Backfill.id)


async def _candidates(session: AsyncSession, lines: Mapping[uuid.UUID, int], now: dt.datetime) -> list[uuid.UUID]:
    """Return windows that may be sent now, of each meter one, and of each line as many as it takes.

    Those of meters that were moved to another gateway, or to none, are among them, whatever has become of the old one.

    Windows of lines that are full, and of meters that have a command, are left out: so a crowd of them that was asked
    for at once stands before others for a turn at most.
    """
    fetching = (
        sa.select(MeterDevice.network_interface)
        .join(Backfill, Backfill.meter_device == MeterDevice.id)
        .where(*in_state(FETCHING), MeterDevice.network_interface.is_not(None))
    )
    full = fetching.group_by(MeterDevice.network_interface).having(sa.func.count() >= PER_LINE)
    # As hub.backfill_plans.has_delivered, which has the last word.
    delivered = sa.and_(
        Gateway.online,
        Gateway.backfill_paused.is_(False),
        Gateway.last_seen > Backfill.noticed_at,
        sa.or_(Gateway.depth == 0, Gateway.oldest.is_(None), Gateway.oldest > Backfill.noticed_at),
    )
    rows = await session.execute(
        sa.select(Backfill.id, Backfill.meter_device, MeterDevice.network_interface)
        .join(Gateway, Gateway.id == Backfill.gateway)
        .join(MeterDevice, MeterDevice.id == Backfill.meter_device)
        .outerjoin(NetworkInterface, NetworkInterface.id == MeterDevice.network_interface)
        .where(
            *in_state(WAITING),
            Backfill.paused.is_(False),
            Backfill.next_at <= now,
            Backfill.meter_device.not_in(sa.select(Backfill.meter_device).where(*in_state(FETCHING))),
            sa.or_(MeterDevice.network_interface.is_(None), MeterDevice.network_interface.not_in(full)),
            sa.or_(delivered, NetworkInterface.gateway.is_distinct_from(Backfill.gateway)),
        )
        .order_by(*_FIRST_COME)
        .limit(LOOKED_AT)
    )
    taken = Counter(lines)
    meters: set[uuid.UUID] = set()
    found = []
    for key, meter, line in rows:
        if meter in meters or (line is not None and taken[line] >= PER_LINE):
            continue
        meters.add(meter)
        if line is not None:
            taken[line] += 1
        found.append(key)
        if len(found) == ROWS_PER_TURN:
            break
    return found


def _is_to_be_fetched(row: Backfill, meter: Meter, known: Lacking, now: dt.datetime) -> bool:
    """Make a window as narrow as what is missing still; False when nothing is, or nobody knows yet."""
    left = known.within(row)
    if left is None:
        return False
    left = [span for span in left if meter.since is None or span.end >= meter.since]
    if not left:
        end(row, DONE, _why_nothing(row, meter, known, now), now)
        return False
    start = min(span.start for span in left)
    row.start, row.end = max(start, meter.since or start), max(span.end for span in left)
    return True


def _why_nothing(row: Backfill, meter: Meter, known: Lacking, now: dt.datetime) -> str:
    """Say why nothing of a window is to be fetched any more."""
    if not known.expects(row, now):
        return f"nothing is expected of archive {row.archive} in that time any more"
    if meter.since is not None and row.start < meter.since:
        return f"the meter that had it was replaced on {meter.since:%Y-%m-%dT%H:%M:%SZ}"
    return "everything has arrived by itself"


def _move(row: Backfill, meter: Meter | None, now: dt.datetime) -> None:
    """Follow a meter to another gateway; end what nobody can read any more."""
    if meter is None:
        end(row, CANCELLED, "no gateway polls the meter any more", now)
    else:
        row.gateway, row.noticed_at, row.updated_at = meter.gateway, now, now


async def _under_way(session: AsyncSession) -> dict[uuid.UUID, int]:
    """Return how many commands of backfills each line has."""
    rows = await session.execute(
        sa.select(MeterDevice.network_interface, sa.func.count())
        .join(Backfill, Backfill.meter_device == MeterDevice.id)
        .where(*in_state(FETCHING), MeterDevice.network_interface.is_not(None))
        .group_by(MeterDevice.network_interface)
    )
    return {line: count for line, count in rows if line is not None}


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
