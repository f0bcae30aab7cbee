"""Counts for Prometheus what a transaction did, when it is committed: what is undone is not counted."""

from collections import Counter
from collections.abc import Iterable

import prometheus_client
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

_KEY = "counted"


def count(session: AsyncSession, counter: prometheus_client.Counter, labels: Iterable[str]) -> None:
    """Have a counter with one label grow by one for each of these values, once the session's transaction is committed.

    The values are of a set that is known beforehand: what comes from outside is put into it by the caller.
    """
    inner = session.sync_session
    if _KEY not in inner.info:
        inner.info[_KEY] = {}
        sa.event.listen(inner, "after_commit", _add)
        sa.event.listen(inner, "after_rollback", _forget)
    inner.info[_KEY].setdefault(counter, Counter()).update(labels)


def _add(session: Session) -> None:
    for counter, found in session.info[_KEY].items():
        for label, number in found.items():
            counter.labels(label).inc(number)
    _forget(session)


def _forget(session: Session) -> None:
    session.info[_KEY].clear()
