"""What the bench ``relays`` asks its PostgreSQL: every row against the truth, who waits for what, and its log."""

import asyncio
import pathlib
import re
import threading
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import asyncpg

from benchmarks.backlog import readings_of
from benchmarks.loaded_hub import LoadedGateway

LOOK = 0.1
SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "1GB", "log_lock_waits": "on"}
"""A PostgreSQL with some memory; a wait for a lock that takes longer than 1 s is written into its log.

That is after how long it looks for deadlocks, and as it is set everywhere: who makes partitions waits less than that
for a lock (``hub.months``), and would be ended as a deadlock, or end ingestion, if it looked any sooner.
"""

_READINGS = """
SELECT s.name, r.timestamp, r.value, r.collected, r.batch IS NOT NULL FROM readings r
JOIN meter_reading_series s ON s.id = r.series WHERE r.meter_device = $1
"""
_BESIDE = """
SELECT (SELECT count(*) FROM reading_versions), (SELECT count(*) FROM staged_meter_readings),
    (SELECT count(*) FROM quarantine), (SELECT count(*) FROM batches), (SELECT sum(rows) FROM batches)
"""
_AT = """
SELECT application_name, CASE WHEN state = 'active' THEN coalesce(wait_event_type || ' ' || wait_event, 'running') END
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


class Compared(NamedTuple):
    """The database against what was sent, row by row."""

    rows: int
    missing: int
    doubled: int
    wrong: int


def compare(url: str, gateways: Sequence[LoadedGateway], readings: int, batches: int) -> Compared:
    """Compare: each gateway has sent so many readings, all together in so many batches."""
    return asyncio.run(_compare(url, gateways, readings, batches))


async def _compare(url: str, gateways: Sequence[LoadedGateway], readings: int, batches: int) -> Compared:
    connection = await asyncpg.connect(url)
    rows = missing = doubled = wrong = 0
    try:
        for gateway in gateways:
            meter = uuid.UUID(gateway.meters[0])
            wanted = {
                (one.series, one.timestamp): (one.value, one.collected, True) for one in readings_of([meter], readings)
            }
            found = await connection.fetch(_READINGS, meter)
            there = Counter((row[0], row[1]) for row in found)
            rows += len(found)
            missing += len(wanted.keys() - there.keys())
            doubled += len(found) - len(there)
            wrong += sum(wanted.get((row[0], row[1])) != tuple(row)[2:] for row in found)
        versions, staged, quarantined, kept, counted = await connection.fetchrow(_BESIDE)
    finally:
        await connection.close()
    # A batch that came twice is one row of batches, and what it brought is counted once.
    doubled += versions + max(0, kept - batches)
    wrong += staged + quarantined + abs(batches - kept) + abs(int(counted or 0) - readings * len(gateways))
    return Compared(rows, missing, doubled, wrong)


class Sizes(NamedTuple):
    """What a database takes."""

    readings: int
    """Bytes of all readings with their indices."""
    batches: int
    rows: int
    written: int
    """Bytes of the write-ahead log so far: what a replica is sent."""


_SIZES = """
SELECT (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('readings') WHERE isleaf),
    pg_total_relation_size('batches'), (SELECT count(*) FROM readings), pg_current_wal_lsn() - '0/0'::pg_lsn
"""


def sizes(url: str) -> Sizes:
    """Measure what the database takes now."""
    return Sizes(*map(int, asyncio.run(_ask(url, _SIZES))))


def has_late(url: str) -> bool:
    """Whether readings still wait for their month to be made."""
    return bool(asyncio.run(_ask(url, "SELECT EXISTS (SELECT FROM readings_default)"))[0])


async def _ask(url: str, question: str) -> Sequence[Any]:
    connection = await asyncpg.connect(url)
    try:
        row: Sequence[Any] = await connection.fetchrow(question)
        return row
    finally:
        await connection.close()


class Sessions:
    """Looks at the database's sessions for the length of a block: what they wait for, and how many there are."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._look()), daemon=True)
        self._looks = 0
        self._waits: Counter[str] = Counter()
        self.most = 0
        """The most sessions at one look."""

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    @property
    def looks(self) -> int:
        """How often it has looked."""
        return self._looks

    @property
    def waits(self) -> Mapping[str, int]:
        """How many active sessions were seen, by what they waited for; ``running`` for nothing."""
        return self._waits

    async def _look(self) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            while not self._ended.is_set():
                found = await connection.fetch(_AT)
                self._looks += 1
                self.most = max(self.most, len(found))
                self._waits.update(row[1] for row in found if row[1] is not None)
                await asyncio.sleep(LOOK)
        finally:
            await connection.close()


class LogLines(NamedTuple):
    """What a database's log tells of locks."""

    deadlocks: int
    waits: int
    waited_for: list[str]
    """The kinds of locks that were waited for, and whose statement it was, with how often; most first."""
    deadlocked: list[str]
    """What the log says of each deadlock: who waited for whom, with which statements."""


def read_log(log: pathlib.Path) -> LogLines:
    """Read what the log tells of locks."""
    text = log.read_text(encoding="utf-8", errors="replace")
    kinds: Counter[str] = Counter()
    for found in re.finditer(r"still waiting for (\w+) on (\w+).*?STATEMENT:\s+(.*?)$", text, re.DOTALL | re.MULTILINE):
        kinds[f"{found[1]} on {found[2]}: {found[3].strip()[:100]}"] += 1
    return LogLines(
        text.count("deadlock detected"),
        text.count("still waiting for"),
        [f"{count} x {kind}" for kind, count in kinds.most_common(8)],
        [found[1] for found in re.finditer(r"(deadlock detected.*?)HINT:", text, re.DOTALL)],
    )
