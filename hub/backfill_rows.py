"""A backfill's row: its states, how it is made, tried again and ended, and what is known of its window.

Rules: everything happens in the caller's transaction. Who changes a row has locked it (``FOR UPDATE``), so that relays
and operators do not overwrite each other.

States: ``waiting`` -> ``fetching`` -> ``settling`` -> ``done``; from each of them back to ``waiting`` (tried again,
paused, resumed), or to ``gave_up`` or ``cancelled``. An operator's ``paused`` is a mark beside the state.
"""

import dataclasses
import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence

import prometheus_client
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from hub import ledger
from hub.backfill_archives import Meter
from hub.backfill_plans import GatewayState, Window, next_try
from hub.expectations import Expecting, expectations_of
from hub.ledger import MissingSpan
from hub.models import Backfill, Gateway

WAITING, FETCHING, SETTLING = "waiting", "fetching", "settling"
DONE, GAVE_UP, CANCELLED = "done", "gave_up", "cancelled"
OPEN_STATES = (WAITING, FETCHING, SETTLING)
AUTO, OPERATOR = "auto", "operator"
OPERATORS_FIRST = 10
"""Priority of what an operator asks for, above what the hub finds by itself (0)."""

ROWS_PER_TURN = 100
PILED_UP = dt.timedelta(minutes=10)
"""A gateway whose oldest undelivered row is older than this is still delivering a backlog."""

log = structlog.get_logger("hub.backfilling")
_ended = prometheus_client.Counter("metergate_backfills_ended", "Backfills that have ended, by state", ["state"])


def in_state(state: str) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the condition for an open state, as the index of what is open has it: most rows have ended long ago."""
    return Backfill.state == state, Backfill.ended_at.is_(None)


def add(
    session: AsyncSession,
    planned: Iterable[Window],
    meters: Mapping[uuid.UUID, Meter],
    now: dt.datetime,
    *,
    origin: str,
    request: uuid.UUID | None = None,
) -> list[Backfill]:
    """Note windows."""
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


def wait_again(row: Backfill, now: dt.datetime, next_at: dt.datetime | None = None) -> None:
    """Have it wait for its turn, which comes at once unless ``next_at`` says otherwise; forget its command."""
    row.state, row.command = WAITING, None
    row.next_at = next_at or now
    row.noticed_at = row.updated_at = now


def retry(row: Backfill, cause: str, now: dt.datetime) -> None:
    """Try again later, or never."""
    row.tries += 1
    again = next_try(row.tries, now)
    if again is None:
        end(row, GAVE_UP, f"after {row.tries} tries, the last of which ended {cause}", now)
        return
    wait_again(row, now, again)
    row.evidence = cause
    log.info("backfill_again", backfill=str(row.id), tries=row.tries, next_at=again.isoformat(), cause=cause)


def end(row: Backfill, state: str, evidence: str, now: dt.datetime) -> None:
    """End it: done, given up or cancelled."""
    row.state, row.evidence = state, evidence
    row.ended_at = row.updated_at = now
    _ended.labels(state).inc()
    log.info("backfill_ended", backfill=str(row.id), state=state, cause=evidence)


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


@dataclasses.dataclass(frozen=True, slots=True)
class Lacking:
    """What is expected of some meters, by meter and archive, and what of it is missing, to be cut to windows."""

    expecting: Mapping[tuple[uuid.UUID, int], Sequence[Expecting]]
    spans: Mapping[tuple[uuid.UUID, int], Sequence[MissingSpan]]

    def within(self, row: Backfill) -> list[MissingSpan] | None:
        """Return what is missing within a window, and comes from its archive; None while that is not known."""
        key = row.meter_device, row.archive
        expecting = self.expecting.get(key, ())
        if any(one.rebuilding for one in expecting):
            return None
        rasters = {one.id: one.raster for one in expecting}
        found = []
        for span in self.spans.get(key, ()):
            raster = rasters[span.expectation]
            first = raster.first_slot_at_or_after(max(span.start, row.start))
            last = raster.slot_at_or_before(min(span.end, row.end))
            if first <= last:
                start, finish = raster.instant_of(first), raster.instant_of(last)
                found.append(dataclasses.replace(span, start=start, end=finish, count=last - first + 1))
        return found

    def expects(self, row: Backfill, now: dt.datetime) -> bool:
        """Whether anything is expected of a window's archive in its time."""
        after = row.end + _MOMENT
        expecting = self.expecting.get((row.meter_device, row.archive), ())
        windows = (one.window(row.start, after, now) for one in expecting)
        return any(first <= last for first, last in windows)


async def lacking(session: AsyncSession, rows: Sequence[Backfill], now: dt.datetime) -> Lacking:
    """Look up what is missing in these windows, all at once."""
    devices = {row.meter_device for row in rows}
    spans: dict[tuple[uuid.UUID, int], list[MissingSpan]] = {}
    expecting: dict[tuple[uuid.UUID, int], list[Expecting]] = {}
    if not rows:
        return Lacking(expecting, spans)
    start, after = min(row.start for row in rows), max(row.end for row in rows) + _MOMENT
    for span in await ledger.missing_spans(session, devices, start, after, now):
        if span.archive is not None:
            spans.setdefault((span.device, span.archive), []).append(span)
    for one in await expectations_of(session, devices):
        if one.archive is not None:
            expecting.setdefault((one.device, one.archive), []).append(one)
    return Lacking(expecting, spans)


_MOMENT = dt.timedelta(microseconds=1)
