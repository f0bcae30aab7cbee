"""What becomes of work that the database fails: it is tried again, and what is bad keeps nothing else waiting."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg
import prometheus_client
import structlog
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from hub.database import UNREACHABLE, is_out_of_strength

RETRY_SECONDS = (0.2, 15.0)
"""Shortest and longest pause before the broker, or the database, is tried again."""

DATABASE_ERRORS = (SQLAlchemyError, *UNREACHABLE, asyncpg.PostgresError)
"""What a database that is away or refuses raises; asyncpg's own when connecting fails."""

_CROSSED = frozenset({"40P01", "40001", "55P03"})
"""What PostgreSQL says when two transactions wait for each other, cannot both be, or one was refused a lock."""

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)
_failures = prometheus_client.Counter("metergate_relay_database_failures", "Steps that the database failed", ["doing"])


async def for_ever(what: str, step: Callable[[], Awaitable[None]]) -> None:
    """Repeat a step; when the database fails it pauses and goes on, because gateways keep what has no receipt."""
    pause = RETRY_SECONDS[0]
    while True:
        try:
            await step()
            pause = RETRY_SECONDS[0]
        except DATABASE_ERRORS as error:
            _failures.labels(what).inc()
            _log.error("database_failed", doing=what, cause=first_line(error), pause_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS[1])


async def all_or_each(
    group: Sequence[_T], work: Callable[[Sequence[_T]], Awaitable[None]], refused: Callable[[_T, str], None]
) -> None:
    """Do the work for all of a group; where the database cannot take that, for each one by itself.

    One that it cannot take must not keep the others waiting; what is told of it is up to ``refused``.

    Raises:
        DBAPIError: when the database is away, cannot work now, or another transaction was in the way: nobody's fault,
            and worth another try.
    """
    try:
        await work(group)
    except DBAPIError as error:
        if _is_away(error):
            raise
        _log.warning("group_failed", size=len(group), cause=first_line(error))
    else:
        return
    for one in group:
        try:
            await work([one])
        except DBAPIError as error:
            if _is_away(error):
                raise
            refused(one, first_line(error))


def _is_away(error: DBAPIError) -> bool:
    if isinstance(error, InterfaceError) and isinstance(getattr(error.orig, "__cause__", None), ValueError):
        # The driver calls a value that it cannot send an error of its interface; tried again it is no better.
        return False
    if getattr(error.orig, "sqlstate", None) in _CROSSED:
        # By itself it may cross somebody again: it is nothing that the database cannot take.
        return True
    return isinstance(error, (OperationalError, InterfaceError)) or is_out_of_strength(error)


def first_line(error: Exception) -> str:
    """Return what happened in one line: a database's error repeats statement and values after it."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:500]
