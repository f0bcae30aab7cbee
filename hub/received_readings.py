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

import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import sqlalchemy as sa
from litestar import Router, get

from hub.access import access_of
from hub.columns import UtcDateTime
from hub.cursors import CURSOR, Keyset, read_cursor, write_cursor
from hub.direct_reads import Ask, asking, literal_number, reads_directly
from hub.late_commits import Place, final, given
from hub.models import Reading, ReadingVersion
from hub.paging import is_uuid, parse_instant, query_of, window_of
from hub.problems import Conflict, wrong
from hub.readings import RESOURCE
from hub.readings_shown import COLUMNS, MeterReadings, shown_by
from hub.readings_told import TOLD
from hub.state import HubRequest, hub_of
from hub.told import listed

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
_BEFORE = """
    WITH RECURSIVE search(place, step) AS (
        SELECT CAST(0 AS bigint), CAST(:step AS bigint)
        UNION ALL
        SELECT CASE WHEN (SELECT created_at FROM readings WHERE id >= place + step ORDER BY id LIMIT 1) < :since
               THEN place + step ELSE place END, step / 2
        FROM search WHERE step > 0
    ) SELECT place FROM search WHERE step = 0
"""

# The same where each look is one into every month, a tenth of a millisecond: the number is between ``low`` and
# ``high``, and is looked for first where it is if readings come evenly, a hundredth beyond and before it; then halfway.
# The last hundreds are read one by one.
_BEFORE_IN_MONTHS = """
    WITH RECURSIVE search(low, low_at, high, high_at, turn) AS (
        SELECT CAST(0 AS bigint), (SELECT created_at FROM readings ORDER BY id LIMIT 1), CAST(:step AS bigint),
            (SELECT created_at FROM readings ORDER BY id DESC LIMIT 1), 0
        UNION ALL
        SELECT CASE WHEN at < :since THEN place ELSE low END, CASE WHEN at < :since THEN at ELSE low_at END,
            CASE WHEN at < :since THEN high ELSE place END,
            CASE WHEN at < :since THEN high_at ELSE coalesce(at, high_at) END, turn + 1
        FROM (
            SELECT likely.*, (SELECT created_at FROM readings WHERE id >= place ORDER BY id LIMIT 1) AS at FROM (
                SELECT search.*, low + greatest(1, least(high - low - 1,
                    CASE WHEN turn < 4 AND low_at < high_at THEN CAST((high - low) * (least(greatest(
                        extract(epoch FROM :since - low_at) / extract(epoch FROM high_at - low_at), 0), 1)
                        + CASE turn % 2 WHEN 0 THEN 0.01 ELSE -0.01 END) AS bigint) ELSE (high - low) / 2 END)) AS place
                FROM search WHERE high - low > 500 OFFSET 0
            ) AS likely OFFSET 0
        ) AS looked
    )
    SELECT coalesce((SELECT max(id) FROM readings WHERE id > low AND id < high AND created_at < :since), low)
    FROM search ORDER BY turn DESC LIMIT 1
"""


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
    engine = hub_of(request).engine
    sqlite = not reads_directly(engine)
    async with asking(engine) as ask:
        last = await given(ask, sqlite=sqlite)
        high = await final(ask, last, sqlite=sqlite)
        if place is not None:
            begin = Place(*place)
            if begin.reading > last.reading or begin.revision > last.revision:
                raise Conflict(f"so many readings were never received: the database was put back; begin with {SINCE}")
        elif SINCE in query:
            begin = await _place_at(ask, parse_instant(SINCE, query[SINCE]), high, sqlite=sqlite)
        else:
            begin = Place(0, high.revision)
        question = _Question(ask, limit, conditions, tuple(name for name in FILTERS if name in query), sqlite)
        rows, end = await question.read(begin, high)
    # Of rows there is the JSON, or what it is made of.
    results = await shown_by(engine, [row[1:] for row in rows]) if sqlite else listed([row[1] for row in rows])
    cursor = write_cursor(request, _BY_NUMBER, end)
    others = {name: text for name, text in request.query_params.items() if name != SINCE}
    link = request.url.with_replacements(query=urlencode({**others, "limit": str(limit), CURSOR: cursor}))
    more = end.reading < high.reading or end.revision < high.revision
    return ReceivedReadings(results=results, more=more, cursor=cursor, next=str(link))


async def _place_at(ask: Ask, since: dt.datetime, high: Place, *, sqlite: bool) -> Place:
    """Return the place before what was received since an instant; of revisions, those from now on are told."""
    values = (
        sa.bindparam("step", 1 << high.reading.bit_length(), type_=sa.BigInteger()),
        sa.bindparam("since", since - MARGIN, type_=UtcDateTime()),
    )
    search = _BEFORE if sqlite else _BEFORE_IN_MONTHS
    rows = await ask("received_before", values, lambda: sa.text(search).bindparams(*values))
    return Place(rows[0][0] or 0, high.revision)


@dataclasses.dataclass(frozen=True, slots=True)
class _Question:
    """What is wanted: at most ``limit`` readings that meet conditions, which are of the filters with these names."""

    ask: Ask
    limit: int
    conditions: Sequence[sa.ColumnElement[bool]]
    names: tuple[str, ...]
    sqlite: bool

    async def read(self, begin: Place, high: Place) -> tuple[list[Any], Place]:
        """Return the next readings, and how far that is: new ones first, then revisions. A row begins with its id."""
        rows: list[Any] = []
        number = begin.reading
        if number < high.reading:
            through = min(high.reading, number + WINDOW) if self.conditions else high.reading
            rows = [*await self._new(number, through)]
            if len(rows) == self.limit:
                return rows, Place(rows[-1][0], begin.revision)
            number = through
            if not rows and number < high.reading:
                # Numbers that nothing has are passed by at once: repetitions take some, and old months are dropped.
                first = await self._first_after(number)
                number = min(high.reading, (first or high.reading + 1) - 1)
            if number < high.reading:
                return rows, Place(number, begin.revision)
        if begin.revision >= high.revision:
            return rows, Place(number, begin.revision)
        left = self.limit - len(rows)
        revised = await self._revised(begin.revision, high.revision, left)
        known = {row[0] for row in rows}
        for row in revised:
            # Of a deleted reading, an older value, or one that the filters leave out, there is a number only.
            if row[1] is not None and row[1] not in known:
                known.add(row[1])
                rows.append(row[1:])
        return rows, Place(number, revised[-1][0] if len(revised) == left else high.revision)

    def _form(self, name: str, limit: int) -> tuple[Any, ...]:
        return name, limit, len(self.conditions), *self.names

    async def _new(self, after: int, through: int) -> Sequence[Any]:
        since, until, most = _number("after", after), _number("through", through), literal_number(self.limit)

        def make() -> sa.Select[Any]:
            # "Is true" keeps the database from looking for the filters first: all readings of a meter are too many.
            met = (one.is_(sa.true()) for one in self.conditions)
            columns = (getattr(Reading, name) for name in TOLD.names)
            shown = (Reading.id, *COLUMNS) if self.sqlite else columns
            chosen: sa.Select[Any] = sa.select(*shown).where(Reading.id > since, Reading.id <= until, *met).limit(most)
            return chosen.order_by(Reading.id) if self.sqlite else TOLD.chosen(chosen, [Reading.id], "id")

        return await self.ask(self._form("received_new", self.limit), [since, until, *self.conditions], make)

    async def _first_after(self, number: int) -> int | None:
        since = _number("after", number)
        following = sa.select(Reading.id).where(Reading.id > since).order_by(Reading.id).limit(literal_number(1))
        rows = await self.ask("received_following", [since], lambda: following)
        return rows[0][0] if rows else None

    async def _revised(self, after: int, through: int, limit: int) -> Sequence[Any]:
        since, until, most = _number("after", after), _number("through", through), _number("most", limit)

        def make() -> sa.Select[Any]:
            version = ReadingVersion
            columns = version.meter_device, version.series, version.timestamp, version.value
            chosen = sa.select(version.id.label("number"), *columns).where(version.id > since, version.id <= until)
            versions = chosen.order_by(version.id).limit(most).subquery()
            same = sa.and_(
                Reading.meter_device == versions.c.meter_device,
                Reading.series == versions.c.series,
                Reading.timestamp == versions.c.timestamp,
                # The version that is current has the number that counts; its text may be another one where it is text.
                sa.cast(Reading.value, sa.Float) == sa.cast(versions.c.value, sa.Float)
                if self.sqlite
                else Reading.value == versions.c.value,
                *self.conditions,
            )
            columns = COLUMNS if self.sqlite else (TOLD.column("readings"),)
            shown = sa.select(versions.c.number, Reading.id, *columns)
            return shown.join(Reading, same, isouter=True).order_by(versions.c.number)

        return await self.ask(self._form("received_revised", 0), [since, until, *self.conditions, most], make)


def _number(name: str, value: int) -> sa.BindParameter[int]:
    return sa.bindparam(name, value, type_=sa.BigInteger())


router = Router("/v1/metering/readings", route_handlers=[list_received], tags=["reading"])
