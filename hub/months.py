"""Months of readings on PostgreSQL: ``readings`` is range-partitioned by the month (UTC) of its timestamp.

A month's partition is the table ``readings_YYYY_MM``; what no month takes lies in ``readings_default`` until
``hub.late_readings`` moves it. ``hub.partitions`` makes months ahead of need, ``hub.retention_months`` drops old ones.

Rules:
- Where a table comes or goes, ``lock`` is taken first: readings itself too, because who had looked up the partitions
  before would miss the rows of those that changed meanwhile, or have them refused.
- No lock is waited for long: whoever asks after us waits behind us as long. It is ``LOCK_WAIT`` at first, and more
  after several refusals (``is_refused``), for transactions of ingestion that take longer than that; always less than
  the second after which PostgreSQL looks for deadlocks, so that never another is ended for our sake. An export or
  pg_dump may hold its lock for minutes: then it is tried again later.
"""

import dataclasses
import datetime as dt
import re
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

DEFAULT: Final = "readings_default"
LOCK_WAIT: Final = 0.25
LONGEST_WAIT: Final = 0.8
"""Seconds that a lock is waited for, at first and at last."""

PATIENCE: Final = 5
"""After how many refusals a lock is waited for twice as long."""

REFERENCES: Final = {
    "batch": "batches",
    "meter_device": "meter_devices",
    "series": "meter_reading_series",
    "organization": "organizations",
}
"""The foreign keys of readings, in the order in which ingestion takes the tables.

It writes batches, looks up meters and series, writes readings, and at last keys are checked: only then organizations.
"""

MOVING_LOCK: Final = 0x6D617274
"""PostgreSQL advisory lock: one process makes, fills or drops partitions at a time."""

_REFUSED = ("55P03", "40P01")
"""SQLSTATE: lock_not_available, deadlock_detected."""

_NAME = re.compile(r"readings_(\d{4})_(0[1-9]|1[0-2])")


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Month:
    """A month of a year, in UTC."""

    year: int
    number: int

    @classmethod
    def of(cls, instant: dt.datetime) -> "Month":
        """Return the month that an instant lies in."""
        utc = instant.astimezone(dt.UTC)
        return cls(utc.year, utc.month)

    @classmethod
    def named(cls, table: str) -> "Month | None":
        """Return the month of a partition; None when it is no month's."""
        found = _NAME.fullmatch(table)
        return cls(int(found[1]), int(found[2])) if found else None

    def later(self, months: int) -> "Month":
        """Return the month so many months later."""
        year, number = divmod(self.year * 12 + self.number - 1 + months, 12)
        return Month(year, number + 1)

    @property
    def table(self) -> str:
        """The name of its partition."""
        return f"readings_{self.year:04}_{self.number:02}"

    @property
    def start(self) -> dt.datetime:
        """Its first instant."""
        return dt.datetime(self.year, self.number, 1, tzinfo=dt.UTC)

    @property
    def end(self) -> dt.datetime:
        """The first instant after it."""
        return self.later(1).start

    @property
    def bounds(self) -> str:
        """What PostgreSQL calls it."""
        return f"FOR VALUES FROM ('{self.start.isoformat()}') TO ('{self.end.isoformat()}')"


@dataclasses.dataclass(frozen=True, slots=True)
class Partition:
    """A month's table: ``rows`` is the database's estimate, None when it has none yet; ``bytes`` with its indexes."""

    month: Month
    rows: int | None
    bytes: int


async def partitions(session: AsyncSession) -> list[Partition]:
    """Return the months that there are, oldest first."""
    rows = await session.execute(
        sa.text(
            "SELECT c.relname, c.reltuples, pg_total_relation_size(c.oid) FROM pg_inherits i "
            "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'readings'::regclass ORDER BY c.relname"
        )
    )
    found = []
    for name, tuples, size in rows:
        if (month := Month.named(name)) is not None:
            found.append(Partition(month, None if tuples < 0 else round(tuples), size))
    return found


async def is_table(session: AsyncSession, name: str) -> bool:
    """Whether there is a table, or anything else, of this name."""
    return await session.scalar(sa.text("SELECT to_regclass(:name)"), {"name": name}) is not None


async def take_turn(session: AsyncSession, refused: int = 0) -> bool:
    """Have this transaction be the one that changes partitions, and wait for no lock long; False when another is.

    ``refused`` is how often it was refused a lock before.
    """
    seconds = min(LOCK_WAIT * 2 ** (refused // PATIENCE), LONGEST_WAIT)
    await run(session, f"SET LOCAL lock_timeout = {int(1000 * seconds)}")
    return bool(await session.scalar(sa.text(f"SELECT pg_try_advisory_xact_lock({MOVING_LOCK})")))


async def lock(session: AsyncSession) -> None:
    """Keep everybody from readings, and from what they refer to, until this transaction ends."""
    *before, last = REFERENCES.values()
    await run(session, f"LOCK TABLE {', '.join(before)}, ONLY readings, {last} IN ACCESS EXCLUSIVE MODE")


async def lock_readings(session: AsyncSession) -> None:
    """Keep everybody from readings until this transaction ends: enough where only a partition goes."""
    await run(session, "LOCK TABLE ONLY readings IN ACCESS EXCLUSIVE MODE")


async def build(session: AsyncSession, table: str, month: Month | None = None) -> None:
    """Make a table that can be attached to readings at once, with all that their partitions have.

    With a month, a constraint proves that it has rows of that month only, so that nothing is read when it is attached.
    """
    # Foreign keys lock what they refer to; in the order of ingestion.
    await run(session, f"LOCK TABLE {', '.join(REFERENCES.values())} IN SHARE ROW EXCLUSIVE MODE")
    parts = [
        f"ADD CONSTRAINT fk_readings_{column} FOREIGN KEY ({column}) REFERENCES {other} (id)"
        for column, other in REFERENCES.items()
    ]
    if month is not None:
        start, end = month.start.isoformat(), month.end.isoformat()
        parts.append(f"ADD CONSTRAINT of_month CHECK (timestamp >= '{start}' AND timestamp < '{end}')")
    await run(
        session,
        f"CREATE TABLE {table} (LIKE readings INCLUDING DEFAULTS INCLUDING INDEXES INCLUDING CONSTRAINTS)",
        f"ALTER TABLE {table} {', '.join(parts)}",
    )


async def run(session: AsyncSession, *statements: str) -> None:
    """Execute statements of our own making."""
    for statement in statements:
        await session.execute(sa.text(statement))


def is_refused(error: DBAPIError) -> bool:
    """Whether a lock was not to be had: no fault of what was asked, the next attempt may do."""
    return getattr(error.orig, "sqlstate", None) in _REFUSED
