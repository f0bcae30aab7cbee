"""Runs (additive, ``/v1/runs``): what the gateways executed, for which tick, and how it ended. Read only.

The newest come first. ``tick`` is the due time without the offset, null for a run on demand; ``cause`` says why an
outcome is not ``done``, and ``kind`` what kind that is: of a failed run what its gateway says (``comms``, ``device``,
``parse``, ``partial``, ``gateway``; ``failed`` where it says nothing), else the outcome again. Ticks that were missed
one after the other are one row: ``count`` of them, from ``since`` to ``tick``.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Float, and_, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from hub.models import Gateway
from hub.models import RunReport as Row
from hub.paging import is_uuid, parse_number, since, until
from hub.resource_routes import router_of
from hub.resources import LOOK, Resource, Values
from protocol.reports import CANCELLED, DONE, FAILED, INTERRUPTED, MISSED, REFUSED, WRONG_METER

_OUTCOMES = frozenset({DONE, FAILED, MISSED, WRONG_METER, REFUSED, CANCELLED, INTERRUPTED})
_LONGEST_SECONDS = 366 * 86_400


class Run(msgspec.Struct, kw_only=True):
    """One execution of one task or command on one meter."""

    id: uuid.UUID
    gateway: uuid.UUID
    meter_device: uuid.UUID
    task: uuid.UUID | None
    command: uuid.UUID | None
    tick: dt.datetime | None
    outcome: str
    cause: str
    started: dt.datetime | None
    ended: dt.datetime
    readings: int
    line_bytes: int
    since: dt.datetime | None
    count: int
    received_at: dt.datetime
    kind: str
    duration_seconds: float | None


def kind_of(outcome: str, told: str) -> str:
    """Return the kind of a run's outcome; ``told`` is what the gateway says of a failure, if it does."""
    return told if outcome == FAILED and told else outcome


def _of_kind(_name: str, text: str) -> ColumnElement[bool]:
    """Filter by kind; the two sides of ``kind_of``, as its index has them."""
    if text == FAILED:
        return and_(Row.outcome == FAILED, _NOT_DONE, Row.kind == "")
    if text in _OUTCOMES:
        return _of_outcome(_name, text)
    return and_(Row.outcome == FAILED, Row.kind == text, Row.kind != literal_column("''"))


def _of_outcome(_name: str, text: str) -> ColumnElement[bool]:
    return Row.outcome == text if text == DONE else and_(Row.outcome == text, _NOT_DONE)


_NOT_DONE = Row.outcome != literal_column("'done'")
"""Said by the letter: so a database knows that an index of what is not done has all that is looked for."""


class _Seconds(FunctionElement[float]):
    """The seconds from one instant to another."""

    type = Float()
    inherit_cache = True


@compiles(_Seconds, "sqlite")
def _on_sqlite(element: Any, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own
    first, last = (compiler.process(clause, **options) for clause in element.clauses)
    # As hub.columns.UtcDateTime stores them.
    return f"(({last} - {first}) / 1000000.0)"


@compiles(_Seconds, "postgresql")
def _on_postgresql(element: Any, compiler: Any, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own
    first, last = (compiler.process(clause, **options) for clause in element.clauses)
    return f"EXTRACT(EPOCH FROM ({last} - {first}))"


def _longer_than(name: str, text: str) -> ColumnElement[bool]:
    return _Seconds(Row.started, Row.ended) > parse_number(name, text, 0, _LONGEST_SECONDS)


async def _derived(_session: AsyncSession, rows: Sequence[Row]) -> list[Values]:
    return [
        {
            "meter_device": row.device,
            "kind": kind_of(row.outcome, row.kind),
            "duration_seconds": (row.ended - row.started).total_seconds() if row.started is not None else None,
        }
        for row in rows
    ]


RESOURCE = Resource(
    noun="run",
    path="/v1/runs",
    model=Row,
    out=Run,
    operations=LOOK,
    filters={
        "gateway": is_uuid(Row.gateway),
        "meter_device": is_uuid(Row.device),
        "task": is_uuid(Row.task),
        "command": is_uuid(Row.command),
        "outcome": _of_outcome,
        "kind": _of_kind,
        "longer_than": _longer_than,
        "start_time": since(Row.ended),
        "end_time": until(Row.ended),
    },
    more=_derived,
    owned=lambda organization: Row.gateway.in_(select(Gateway.id).where(Gateway.organization == organization)),
    order=(Row.ended.desc(),),
    orderings={"ended": Row.ended, "started": Row.started, "tick": Row.tick},
)

router = router_of(RESOURCE)
