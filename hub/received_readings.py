"""Readings in the order in which the hub receives them (additive, ``GET /v1/metering/readings/received``).

What somebody asks again and again who wants what is new, and nothing twice. Rules.
- A reading is told when its transaction has ended, whatever others do meanwhile (``hub.late_commits``), and is told
  again when its value has become another one: a revision, or one that was known and is current again.
- A cursor says how far its reader has come, for ever: it is worth nothing by itself, and never grows old. Deleted
  readings are told of by nobody.
- With filters many readings may have to be passed by; ``WINDOW`` numbers are looked at in one answer, so that it is
  quick. Then it has fewer readings than there may be, or none, and ``more`` says that there are others.
- An instant is looked for among the numbers, which rise with time but for clocks that differ and transactions that
  last. So what was received shortly before it (``MARGIN``) may be told as well.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import sqlalchemy as sa
from litestar import Router, get
from sqlalchemy.ext.asyncio import AsyncSession

from hub.access import access_of
from hub.columns import UtcDateTime
from hub.cursors import CURSOR, Keyset, read_cursor, write_cursor
from hub.database import reading
from hub.late_commits import Place, final, given
from hub.models import Reading, ReadingVersion
from hub.paging import is_uuid, parse_instant, query_of, window_of
from hub.problems import Conflict, wrong
from hub.readings import RESOURCE
from hub.readings_shown import COLUMNS, MeterReadings, shown
from hub.state import HubRequest, hub_of

SINCE: Final = "received_since"
FILTERS: Final = {
    "meter_device": is_uuid(Reading.meter_device),
    "series": is_uuid(Reading.series),
    "organization": is_uuid(Reading.organization),
}
PARAMETERS: Final = (SINCE, *FILTERS, "limit", CURSOR)
WINDOW = 10_000
"""Numbers that one answer looks at where there are filters."""

MARGIN = dt.timedelta(minutes=1)
"""By how much clocks of the hub's processes may differ, and transactions last, together."""

_BY_NUMBER = Keyset((sa.column("reading", sa.BigInteger()), sa.column("revision", sa.BigInteger())))

# Goes to the last number that was received before, in steps that are halved each time.
_BEFORE = sa.text("""
    WITH RECURSIVE search(place, step) AS (
        SELECT CAST(0 AS bigint), CAST(:step AS bigint)
        UNION ALL
        SELECT CASE WHEN (SELECT created_at FROM readings WHERE id >= place + step ORDER BY id LIMIT 1) < :since
               THEN place + step ELSE place END, step / 2
        FROM search WHERE step > 0
    ) SELECT place FROM search WHERE step = 0
""").bindparams(sa.bindparam("step", type_=sa.BigInteger()), sa.bindparam("since", type_=UtcDateTime()))


class ReceivedReadings(msgspec.Struct, kw_only=True):
    """What has come since; ``next`` is where to go on, at once while there is ``more``, else whenever one likes."""

    results: list[MeterReadings]
    more: bool
    cursor: str
    next: str


@get(
    "/received",
    summary="What is new: readings",
    description=f"Readings in the order in which they were received. Begin with {SINCE}, or with nothing for all; go "
    f"on with cursor. Filters: {', '.join(FILTERS)}.",
)
async def list_received(request: HubRequest) -> ReceivedReadings:
    """Answer the next readings that were received.

    Raises:
        Conflict: when the cursor is ahead of what this database has given.
    """
    query = query_of(request, PARAMETERS)
    limit = window_of(query).limit
    place = read_cursor(request, _BY_NUMBER) if CURSOR in query else None
    if place is not None and SINCE in query:
        raise wrong(SINCE, "a cursor says itself from where on")
    conditions = [make(name, query[name]) for name, make in FILTERS.items() if name in query]
    conditions += RESOURCE.only(access_of(request))
    async with reading(hub_of(request).engine) as session:
        last = await given(session)
        high = await final(session, last)
        if place is not None:
            begin = Place(*place)
            if begin.reading > last.reading or begin.revision > last.revision:
                raise Conflict(f"so many readings were never received: the database was put back; begin with {SINCE}")
        elif SINCE in query:
            begin = await _place_at(session, parse_instant(SINCE, query[SINCE]), high)
        else:
            begin = Place(0, high.revision)
        rows, end = await _read(session, begin, high, limit, conditions)
        results = await shown(session, rows)
    cursor = write_cursor(request, _BY_NUMBER, end)
    others = {name: text for name, text in request.query_params.items() if name != SINCE}
    link = request.url.with_replacements(query=urlencode({**others, "limit": str(limit), CURSOR: cursor}))
    more = end.reading < high.reading or end.revision < high.revision
    return ReceivedReadings(results=results, more=more, cursor=cursor, next=str(link))


async def _place_at(session: AsyncSession, since: dt.datetime, high: Place) -> Place:
    """Return the place before what was received since an instant; of revisions, those from now on are told."""
    values = {"step": 1 << high.reading.bit_length(), "since": since - MARGIN}
    return Place(await session.scalar(_BEFORE, values) or 0, high.revision)


async def _read(
    session: AsyncSession, begin: Place, high: Place, limit: int, conditions: Sequence[sa.ColumnElement[bool]]
) -> tuple[list[Any], Place]:
    """Return the next readings, at most so many, and how far that is: new ones first, then revisions."""
    rows: list[Any] = []
    number = begin.reading
    if number < high.reading:
        through = min(high.reading, number + WINDOW) if conditions else high.reading
        rows = [*(await (await session.connection()).execute(_new(number, through, limit, conditions))).all()]
        if len(rows) == limit:
            return rows, Place(rows[-1].id, begin.revision)
        number = through
        if not rows and number < high.reading:
            # Numbers that nothing has are passed by at once: repetitions take some, and old months are dropped.
            following = sa.select(Reading.id).where(Reading.id > number).order_by(Reading.id).limit(1)
            first = await session.scalar(following)
            number = min(high.reading, (first or high.reading + 1) - 1)
        if number < high.reading:
            return rows, Place(number, begin.revision)
    if begin.revision >= high.revision:
        return rows, Place(number, begin.revision)
    left = limit - len(rows)
    exact = session.get_bind().dialect.name == "postgresql"
    statement = _revised(begin.revision, high.revision, left, conditions, exact=exact)
    revised = (await (await session.connection()).execute(statement)).all()
    known = {row.id for row in rows}
    for row in revised:
        # Of a deleted reading, an older value, or one that the filters leave out, there is a number only.
        if row.id is not None and row.id not in known:
            known.add(row.id)
            rows.append(row[1:])
    return rows, Place(number, revised[-1].number if len(revised) == left else high.revision)


def _new(after: int, through: int, limit: int, conditions: Sequence[sa.ColumnElement[bool]]) -> sa.Select[Any]:
    # "Is true" keeps the database from looking for the filters first: all readings of a meter are too many.
    met = (one.is_(sa.true()) for one in conditions)
    return sa.select(*COLUMNS).where(Reading.id > after, Reading.id <= through, *met).order_by(Reading.id).limit(limit)


def _revised(
    after: int, through: int, limit: int, conditions: Sequence[sa.ColumnElement[bool]], *, exact: bool
) -> sa.Select[Any]:
    versions = (
        sa.select(
            ReadingVersion.id.label("number"),
            ReadingVersion.meter_device,
            ReadingVersion.series,
            ReadingVersion.timestamp,
            ReadingVersion.value,
        )
        .where(ReadingVersion.id > after, ReadingVersion.id <= through)
        .order_by(ReadingVersion.id)
        .limit(limit)
        .subquery()
    )
    same = sa.and_(
        Reading.meter_device == versions.c.meter_device,
        Reading.series == versions.c.series,
        Reading.timestamp == versions.c.timestamp,
        # The version that is current has the number that counts; its text may be another one where it is text.
        Reading.value == versions.c.value
        if exact
        else sa.cast(Reading.value, sa.Float) == sa.cast(versions.c.value, sa.Float),
        *conditions,
    )
    columns: list[Any] = [versions.c.number, *COLUMNS]
    return sa.select(*columns).join(Reading, same, isouter=True).order_by(versions.c.number)


router = Router("/v1/metering/readings", route_handlers=[list_received], tags=["reading"])
