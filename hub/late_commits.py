"""Numbers that readings get in the order in which they come, and what of them is final although commits come late.

On PostgreSQL a reading gets its ``id`` before its transaction commits, so a smaller one may become visible after a
larger one. Who reads on from the largest number that he has seen would never see it. Therefore a transaction takes,
before its first number and until its end, a shared lock whose key says how far numbers had come by then. Nobody ever
waits for it. Whoever reads looks first how far numbers have come, then at the locks: all numbers up to the smallest of
both are final, because who has a smaller one has ended, and who takes one now gets a larger one.

On SQLite there is one writer, and what is visible is final. There ids are never given again (``COUNTED``).
"""

import dataclasses
from typing import Final

import sqlalchemy as sa

from hub.direct_reads import Ask

_READINGS: Final = 0x6D637264
_REVISIONS: Final = 0x6D637276
"""PostgreSQL advisory locks with two keys: the first is one of these."""

_KEYS = 2**31
"""The second key is the number without its higher bits."""


def _reached(sequence: str) -> str:
    return f"SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END AS number FROM {sequence}"  # noqa: S608 - our own names


def _mark(name: int, sequence: str) -> str:
    key = f"CAST(number % {_KEYS} AS integer)"
    return (
        f"SELECT pg_advisory_xact_lock_shared({name}, {key}), set_config('enable_seqscan', 'off', true) "  # noqa: S608 - our own names
        f"FROM ({_reached(sequence)}) AS reached"
    )


MARK_READINGS: Final = _mark(_READINGS, "readings_id_seq")
"""What a transaction selects on PostgreSQL before it takes numbers of readings; one row.

It also keeps that transaction from reading tables from end to end. PostgreSQL plans once for each connection how it
looks up what a reading refers to, its batch above all. Of a young hub's few batches it reads all, and goes on so until
statistics are gathered again: of 20,000 batches, for each reading.
"""

MARK_REVISIONS: Final = _mark(_REVISIONS, "reading_versions_id_seq")
"""The same for numbers of versions."""

_NUMBERS = sa.text(
    f"SELECT (SELECT number FROM ({_reached('readings_id_seq')}) AS one), "  # noqa: S608 - our own names
    f"(SELECT number FROM ({_reached('reading_versions_id_seq')}) AS other)"
)
_MARKS = sa.text(f"""
    SELECT CAST(l.classid AS bigint), CAST(l.objid AS bigint)
    FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
        AND l.classid IN ({_READINGS}, {_REVISIONS})
""")  # noqa: S608 - our own names
_SQLITE = sa.text(
    "SELECT coalesce(max(CASE name WHEN 'readings' THEN seq END), 0), "
    "coalesce(max(CASE name WHEN 'reading_versions' THEN seq END), 0) FROM sqlite_sequence"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """How far somebody has read: up to which number of a reading, and up to which number of a version."""

    reading: int
    revision: int


async def given(ask: Ask, *, sqlite: bool) -> Place:
    """Return the last numbers that were given: no place is behind them, unless the database was put back."""
    statement = _SQLITE if sqlite else _NUMBERS
    return Place(*(await ask("given", [], lambda: statement))[0])


async def final(ask: Ask, last: Place, *, sqlite: bool) -> Place:
    """Return up to which numbers everything is there that will ever be; a statement after this one sees it.

    ``last`` is what ``given`` returned before: see above why in this order.
    """
    if sqlite:
        return last
    high = {_READINGS: last.reading, _REVISIONS: last.revision}
    for name, key in await ask("final", [], lambda: _MARKS):
        begun = high[name] - (high[name] - key) % _KEYS
        high[name] = min(high[name], begun)
    return Place(high[_READINGS], high[_REVISIONS])
