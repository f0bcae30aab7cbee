"""On-demand commands: what is to be published, and that every one ends.

Theory of operation. REST writes a row in state ``pending``. A relay pins it to the gateway's present store, publishes
it (``sent``), and publishes it again whenever the gateway comes online and has not answered; the agent runs it once.
The gateway's updates set the state (``hub.command_updates``). The hub itself ends what can no longer end otherwise:
*expired* when its time is over and nothing was heard, *interrupted* when the gateway came back with another store (it
cannot know whether it ran the command), *cancelled* when it was never sent.
Those of a batch are sent from their turn on, and not too many to one gateway.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub import command_events, models
from hub.among import among
from hub.models import Gateway
from protocol import commands
from protocol.wire import MAX_BATCH_BYTES, ContractError, encode

PENDING = "pending"
"""Written by REST, not yet published."""

SENT = "sent"
"""Published; the gateway has not answered."""

STATES = {PENDING, SENT, commands.ACCEPTED, commands.RUNNING} | commands.FINAL_STATES
OPEN_STATES = (PENDING, SENT, commands.ACCEPTED, commands.RUNNING)
UNDER_WAY = (SENT, commands.ACCEPTED, commands.RUNNING)
"""What a gateway has, or will have in a moment."""

HUB = "hub"
"""Origin of a command that came through REST."""

BACKFILL = "backfill"
"""Origin of a command that fetches a gap: it goes out as one of the hub, for the background."""

OWN = (HUB, BACKFILL)
"""Origins of the hub's own commands; all others are callers' names, which are never one of these."""

SEND_AGAIN = dt.timedelta(seconds=15)
"""How long a gateway that is online may leave a command unanswered before it is published again: PUBACK is no proof."""

EXPIRY_GRACE = dt.timedelta(seconds=30)
"""How long after its expiry a command that was sent may still be answered: the answer travels, clocks differ."""

AT_ONCE = 500
"""Commands that are published by one claim."""

UNDER_WAY_PER_GATEWAY = 200
"""Commands of batches that one gateway has at once: an agent takes a thousand in all, and others come between."""

RUNNING_GRACE = dt.timedelta(hours=1)
"""How long after its expiry a command that was begun may still end."""

_Row = models.Command


@dataclasses.dataclass(frozen=True, slots=True)
class Outgoing:
    """One message for the channel ``command``: to whom, what, and how many seconds the broker may keep it."""

    gateway: str
    command: commands.Command
    expiry_seconds: int
    written: dt.datetime | None = None
    """When it was asked for, where it goes out for the first time and was to do so at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What a look at open commands has found."""

    to_send: bool
    """Something may be published to a gateway that is online."""
    overdue: bool
    """Something is to be ended by the hub."""
    waiting: bool
    """Some of a batch wait for their turn."""


async def claim_outgoing(
    session: AsyncSession, now: dt.datetime, *, gateways: Collection[uuid.UUID] = ()
) -> list[Outgoing]:
    """Take what is to be published to gateways that are online, pinned and marked as sent; commit, then publish.

    Without ``gateways``: commands and cancellations never published, or not answered for a while. With them (they came
    online just now): all that they have not answered.
    """
    unanswered = sa.and_(_Row.state == SENT, _Row.cancel_requested.is_(False))
    unpublished = sa.and_(_Row.state == PENDING, _Row.cancel_requested.is_(False))
    uncancelled = sa.and_(
        _Row.cancel_requested, _Row.state.in_(OPEN_STATES), _Row.published_at.is_not(None), _Row.origin.in_(OWN)
    )
    if not gateways:
        wanted = sa.or_(
            unpublished,
            sa.and_(unanswered, _Row.updated_at < now - SEND_AGAIN),
            sa.and_(uncancelled, _Row.cancel_published_at.is_(None)),
            sa.and_(uncancelled, _Row.updated_at < now - SEND_AGAIN),
        )
    else:
        wanted = sa.and_(_Row.gateway.in_(gateways), sa.or_(unpublished, unanswered, uncancelled))
    statement = (
        sa.select(_Row, Gateway.gateway_id, Gateway.store_id)
        .join(Gateway, Gateway.id == _Row.gateway)
        .where(
            _Row.state.in_(OPEN_STATES),
            wanted,
            sa.or_(_Row.state != PENDING, _its_turn(now)),
            Gateway.online,
            Gateway.store_id.is_not(None),
            _Row.expires_at > now,
            _Row.origin.in_(OWN),
        )
        .order_by(_Row.priority.desc(), _Row.created_at, _Row.id)
        .limit(AT_ONCE)
        # Another relay that looks at the same moment takes others, or none.
        .with_for_update(of=_Row, skip_locked=True)
    )
    outgoing: list[Outgoing] = []
    events: list[dict[str, Any]] = []
    rows = (await session.execute(statement)).all()
    room = await _room(session, {row.gateway for row, _, _ in rows if row.batch is not None})
    for row, gateway_id, store_id in rows:
        if row.batch is not None and row.state == PENDING:
            if room[row.gateway] <= 0:
                continue
            room[row.gateway] -= 1
        if row.store_id is None:
            row.store_id = store_id
        try:
            message = _message(row, gateway_id, now)
            size = len(encode(message))
        except ContractError as error:
            events.append(_fail(row, f"the command cannot be sent: {error}", now))
            continue
        if size > MAX_BATCH_BYTES:
            events.append(_fail(row, f"the command has {size} bytes; at most {MAX_BATCH_BYTES} can be sent", now))
            continue
        at_once = row.state == PENDING and row.batch is None and row.published_at is None
        if row.cancel_requested:
            row.cancel_published_at = now
        else:
            if row.state != SENT:
                events.append(command_events.told(row, SENT, "", now))
            row.published_at = row.published_at or now
            row.state = SENT
        row.updated_at = now
        left = max(1, int((row.expires_at - now).total_seconds()))
        outgoing.append(Outgoing(gateway_id, message, left, row.created_at if at_once and not gateways else None))
    await session.flush()
    await command_events.record(session, events)
    return outgoing


def _its_turn(now: dt.datetime) -> sa.ColumnElement[bool]:
    """Whether a pending command may be sent: those of a batch go one after the other, and not too many to a gateway."""
    under_way = (
        sa.select(_Row.gateway)
        .where(_Row.state.in_(UNDER_WAY), _Row.batch.is_not(None))
        .group_by(_Row.gateway)
        .having(sa.func.count() >= UNDER_WAY_PER_GATEWAY)
    )
    return sa.or_(_Row.batch.is_(None), sa.and_(_Row.send_after <= now, _Row.gateway.not_in(under_way)))


async def _room(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, int]:
    """Return how many more commands of batches each gateway may have."""
    room = dict.fromkeys(gateways, UNDER_WAY_PER_GATEWAY)
    if room:
        rows = await session.execute(
            sa.select(_Row.gateway, sa.func.count())
            .where(_Row.state.in_(UNDER_WAY), _Row.batch.is_not(None), _Row.gateway.in_(room))
            .group_by(_Row.gateway)
        )
        for gateway, count in rows:
            room[gateway] -= count
    return room


def _fail(row: models.Command, cause: str, now: dt.datetime) -> dict[str, Any]:
    row.state, row.cause = commands.FAILED, cause
    row.ended_at = row.updated_at = now
    return command_events.told(row, commands.FAILED, cause, now)


async def give_back(session: AsyncSession, outgoing: Sequence[Outgoing], now: dt.datetime) -> None:
    """Take back what could not be published, so that the next look finds it."""
    for one in outgoing:
        cancels = one.command.cancels
        update = sa.update(_Row).where(_Row.id == (cancels or one.command.id)).values(updated_at=now - 2 * SEND_AGAIN)
        if cancels is None:
            update = update.where(_Row.state == SENT)
        await session.execute(update.execution_options(synchronize_session=False))


async def look(session: AsyncSession, now: dt.datetime) -> Work:
    """Look at open commands: what of them is worth a writing transaction.

    It is asked several times a second, also while ten thousand commands wait for their turn: each reason is a question
    of its own, so that what is cheap to see of a row is looked at first.
    """
    online = sa.select(Gateway.id).where(Gateway.online)
    to_send = (
        (_Row.state == PENDING, _its_turn(now), _Row.gateway.in_(online)),
        (
            _Row.state.in_(OPEN_STATES),
            _Row.cancel_requested,
            _Row.cancel_published_at.is_(None),
            _Row.gateway.in_(online),
        ),
        (_Row.state == SENT, _Row.updated_at < now - SEND_AGAIN, _Row.gateway.in_(online)),
    )
    overdue = (
        (_Row.state == PENDING, _Row.cancel_requested),
        (_Row.state == PENDING, _Row.expires_at <= now),
        (_Row.state.in_((SENT, commands.ACCEPTED)), _Row.expires_at <= now - EXPIRY_GRACE),
        (_Row.state == commands.RUNNING, _Row.expires_at <= now - RUNNING_GRACE),
    )
    waiting = ((_Row.state == PENDING, _Row.batch.is_not(None)),)
    asked = [
        sa.or_(*(sa.select(_Row.id).where(*reason).exists() for reason in reasons))
        for reasons in (to_send, overdue, waiting)
    ]
    found = (await session.execute(sa.select(*asked))).one()
    return Work(to_send=bool(found[0]), overdue=bool(found[1]), waiting=bool(found[2]))


def _message(row: models.Command, gateway_id: str, now: dt.datetime) -> commands.Command:
    cancel = row.cancel_requested
    left = max(1, int((row.expires_at - now).total_seconds()))
    return commands.Command(
        id=uuid.uuid5(row.id, "cancel") if cancel else row.id,
        gateway=gateway_id,
        context=row.context,
        call=row.call,
        kwargs={} if cancel else row.kwargs or {},
        issued=now if cancel else row.created_at,
        ttl_seconds=min(left, row.ttl_seconds) if cancel else row.ttl_seconds,
        device=row.meter_device,
        meter=row.meter,
        delay_seconds=0 if cancel else row.delay_seconds,
        store=row.store_id,
        cancels=row.id if cancel else None,
        background=row.origin == BACKFILL and not cancel,
        priority=0 if cancel else row.priority,
    )


async def end_overdue(session: AsyncSession, now: dt.datetime) -> int:
    """End what cannot end otherwise: cancelled before it was sent, or out of time; return how many."""
    ended = 0
    for condition, state, cause in (
        (
            sa.and_(_Row.state == PENDING, _Row.cancel_requested, _Row.published_at.is_(None)),
            commands.CANCELLED,
            "cancelled before it was sent to the gateway",
        ),
        (
            sa.and_(_Row.state == PENDING, _Row.expires_at <= now),
            commands.EXPIRED,
            "the gateway was not online before the command expired",
        ),
        (
            sa.and_(_Row.state.in_((SENT, commands.ACCEPTED)), _Row.expires_at <= now - EXPIRY_GRACE),
            commands.EXPIRED,
            "the gateway did not report an end before the command expired",
        ),
        (
            sa.and_(_Row.state == commands.RUNNING, _Row.expires_at <= now - RUNNING_GRACE),
            commands.INTERRUPTED,
            "the gateway began the command and did not report its end",
        ),
    ):
        ended += await _end(session, condition, state, cause, now)
    return ended


async def with_open_commands(session: AsyncSession, gateways: Collection[uuid.UUID]) -> dict[uuid.UUID, set[bytes]]:
    """Return those of the gateways that have open commands, with the stores that these were sent to.

    Very few of a fleet that gives life signs have any.
    """
    condition = sa.and_(among(session, _Row.gateway, gateways), _Row.state.in_(OPEN_STATES))
    found: dict[uuid.UUID, set[bytes]] = {}
    for gateway, store in await session.execute(sa.select(_Row.gateway, _Row.store_id).where(condition).distinct()):
        stores = found.setdefault(gateway, set())
        if store is not None:
            stores.add(store)
    return found


async def interrupt_of_other_stores(session: AsyncSession, gateway: uuid.UUID, store: bytes, now: dt.datetime) -> int:
    """End what was sent to a store that the gateway no longer has: it cannot know whether that ran."""
    condition = sa.and_(
        _Row.gateway == gateway, _Row.state.in_(OPEN_STATES), _Row.store_id.is_not(None), _Row.store_id != store
    )
    cause = "the gateway lost its store after the command was sent: it may have run"
    return await _end(session, condition, commands.INTERRUPTED, cause, now)


async def _end(
    session: AsyncSession, condition: sa.ColumnElement[bool], state: str, cause: str, now: dt.datetime
) -> int:
    result = await session.execute(
        sa.update(_Row)
        .where(condition)
        .values(state=state, cause=cause, ended_at=now, updated_at=now)
        .returning(*command_events.SUBJECT)
        .execution_options(synchronize_session=False)
    )
    ended = [command_events.told(row, state, cause, now) for row in result]
    await command_events.record(session, ended)
    return len(ended)
