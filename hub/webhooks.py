"""Webhooks: events of deadlines are sent until their receiver has taken them, or for some hours.

Every relay runs it. Rules:
- An event is a row of ``notifications``, made in the transaction that makes it true, so that no restart loses it; its
  id and body are the same at every try, so that a receiver can tell a repeated one.
- A relay takes an event by noting that it is at it, until when (``next_at``), and which try that is; nobody else takes
  it before. No lock is held while the network is waited for. A relay that dies leaves an event that is sent again.
- What is not taken (no 2xx) is tried again after a pause that doubles, and given up after ``MOST_TRIES``.
"""

import asyncio
import dataclasses
import datetime as dt
import random
import uuid
from collections.abc import Callable, Collection

import prometheus_client
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.commits import commits_of, look_seconds
from hub.database import reading, writing
from hub.keys import KeyFileError
from hub.models import Deadline, Notification
from hub.secrets_box import SealError
from hub.webhooks_http import LIMIT_SECONDS, CallError, post, read_target
from hub.webhooks_signed import headers_of

WAITING, SENDING = "waiting", "sending"
DELIVERED, GAVE_UP, CANCELLED = "delivered", "gave_up", "cancelled"
STATES = (WAITING, SENDING, DELIVERED, GAVE_UP, CANCELLED)

MOST_TRIES = 12
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 3600.0
"""Seconds before the second try, and at most: with pauses that double, the last is some five hours after the first."""

AT_ONCE = 10
TURN_SECONDS = 1.0
LEASE_SECONDS = 1.5 * LIMIT_SECONDS
"""Real seconds after which an event that a relay was at is taken by another one."""

GONE = 410
"""The status by which a receiver says that it wants no more of it."""

Unseal = Callable[[bytes, str], bytes]
"""Opens what was sealed for a purpose, or raises SealError."""

_LONGEST_ERROR = 500

_log = structlog.get_logger(__name__)
_tries = prometheus_client.Counter("metergate_webhook_tries", "Tries to deliver an event, by outcome", ["outcome"])
_ended = prometheus_client.Counter("metergate_webhooks_ended", "Events that have ended, by state", ["state"])


def secret_purpose(deadline: uuid.UUID) -> str:
    """Return what a deadline's secret is sealed for."""
    return f"webhook secret of deadline {deadline}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Taken:
    """An event that this relay is at, and which try it is."""

    event: uuid.UUID
    deadline: uuid.UUID
    type: str
    body: bytes
    tries: int
    url: str
    secret: bytes | None


class Sender:
    """Sends events, turn by turn; remembers nothing."""

    def __init__(self, engine: AsyncEngine, clock: Clock, unseal: Unseal, hosts: Collection[str]) -> None:
        self._engine, self._clock, self._unseal, self._hosts = engine, clock, unseal, hosts

    async def keep_on(self) -> None:
        """Send for ever."""
        commits = commits_of(self._engine)
        while True:
            seen = commits.count
            if not await self.turn():
                at_most = look_seconds(self._engine, self._clock)
                await commits.after(seen, at_most=at_most, pause=TURN_SECONDS)

    async def turn(self) -> int:
        """Send what is due, some at once; return how many were tried."""
        now = self._clock.now()
        async with reading(self._engine) as session:
            if (await session.execute(sa.select(Notification.id).where(*_due(now)).limit(1))).first() is None:
                return 0
        taken = await self._take(now)
        await asyncio.gather(*(self._try(one) for one in taken))
        return len(taken)

    async def _take(self, now: dt.datetime) -> list[_Taken]:
        found = []
        async with writing(self._engine) as session:
            rows = await session.execute(
                sa.select(Notification, Deadline.webhook_url, Deadline.webhook_secret)
                .join(Deadline, Deadline.id == Notification.deadline)
                .where(*_due(now))
                .order_by(Notification.next_at, Notification.id)
                .limit(AT_ONCE)
                .with_for_update(of=Notification, skip_locked=True)
            )
            for row, url, secret in rows:
                row.updated_at = now
                if url is None:
                    _end(row, CANCELLED, now)
                elif row.tries >= MOST_TRIES:
                    # Its relay died at the last try.
                    _end(row, GAVE_UP, now)
                else:
                    row.state, row.tries = SENDING, row.tries + 1
                    row.next_at = now + dt.timedelta(seconds=LEASE_SECONDS * self._clock.rate)
                    found.append(_Taken(row.id, row.deadline, row.type, row.body.encode(), row.tries, url, secret))
        return found

    async def _try(self, one: _Taken) -> None:
        status, error = None, ""
        try:
            status = await self._send(one)
        except (CallError, SealError, KeyFileError, ValueError) as caught:
            error = str(caught)[:_LONGEST_ERROR]
        now = self._clock.now()
        async with writing(self._engine) as session:
            row = await session.scalar(
                sa.select(Notification)
                .where(Notification.id == one.event, Notification.state == SENDING, Notification.tries == one.tries)
                .with_for_update()
            )
            if row is None:
                # It took longer than it may, and another relay is at it; or the deadline was deleted.
                return
            row.last_status, row.last_error, row.updated_at = status, error, now
            if status is not None and status // 100 == 2:  # noqa: PLR2004 - 2xx
                _end(row, DELIVERED, now)
            elif status == GONE or one.tries >= MOST_TRIES:
                _end(row, GAVE_UP, now)
            else:
                row.state, row.next_at = WAITING, now + pause_after(one.tries)
            _tries.labels("delivered" if row.state == DELIVERED else "failed").inc()
            if row.state != DELIVERED:
                _log.warning(
                    "webhook_failed",
                    deadline=str(one.deadline),
                    event_id=str(one.event),
                    status=status,
                    cause=error,
                    tries=one.tries,
                    state=row.state,
                )

    async def _send(self, one: _Taken) -> int:
        if one.secret is None:
            raise SealError("the deadline has no webhook secret: give it one")
        secret = self._unseal(one.secret, secret_purpose(one.deadline)).decode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "metergate-hub",
            **headers_of(secret, one.event, self._clock.now(), one.body),
        }
        return await post(read_target(one.url, self._hosts), headers, one.body, self._hosts)


def _due(now: dt.datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return Notification.ended_at.is_(None), Notification.next_at <= now


def _end(row: Notification, state: str, now: dt.datetime) -> None:
    row.state, row.ended_at = state, now
    _ended.labels(state).inc()
    if state == DELIVERED:
        _log.info("webhook_delivered", deadline=str(row.deadline), event_id=str(row.id), tries=row.tries)


def pause_after(tries: int) -> dt.timedelta:
    """Return how long the next try waits after so many, with jitter: receivers come back to many events at once."""
    seconds = min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
    return dt.timedelta(seconds=seconds * random.uniform(0.8, 1.0))  # noqa: S311 - no secret


async def forget(engine: AsyncEngine, before: dt.datetime) -> None:
    """Delete events that ended before then."""
    async with writing(engine) as session:
        await session.execute(
            sa.delete(Notification).where(Notification.ended_at < before).execution_options(synchronize_session=False)
        )
