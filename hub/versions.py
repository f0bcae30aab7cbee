"""Readings and their versions: what arrives is merged so that any order and repetition of deliveries ends alike.

Theory of operation. For one key (meter, series, timestamp) the state is a set of distinct values, each with when it was
first and last collected. A delivery (value, collected) joins that set: a new value is added, a known one has its
times widened. *Current* is the value collected last (of equal instants the greater value). Joining is commutative,
associative and idempotent, so neither order nor repetition matters, nor which of several relays does it.

A reading with one value is one row in ``readings``; with more, ``reading_versions`` has all of them beside it.
Statements are set-based. Keys are taken in one order, so that relays which write the same keys wait for each other
and never form a ring; what changes an existing reading locks it first (SQLite has one writer anyway).
"""

import dataclasses
import datetime as dt
import decimal
import json
import uuid
from collections.abc import Collection, Sequence
from typing import Any, cast

from sqlalchemy import Table, bindparam, insert, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from hub.columns import to_microseconds
from hub.models import Reading, ReadingVersion

STORED = "stored"
DUPLICATE = "duplicate"
REVISION = "revision"

Key = tuple[uuid.UUID, uuid.UUID, dt.datetime]

_readings = cast("Table", Reading.__table__)
_versions = cast("Table", ReadingVersion.__table__)


@dataclasses.dataclass(slots=True)
class Arrival:
    """One value that may become a reading: it belongs to a meter and a series that the meter may have."""

    organization: uuid.UUID
    device: uuid.UUID
    series: uuid.UUID
    timestamp: dt.datetime
    value: decimal.Decimal
    collected: dt.datetime
    unit: str = ""
    provenance: str = "meter"
    clock_offset: float | None = None
    batch: int | None = None

    @property
    def key(self) -> Key:
        """What makes it the same reading as another."""
        return (self.device, self.series, self.timestamp)


@dataclasses.dataclass(slots=True)
class _Version:
    value: decimal.Decimal
    first: dt.datetime
    last: dt.datetime
    batch: int | None
    row: int | None = None
    changed: bool = True


@dataclasses.dataclass(slots=True)
class _State:
    """One reading as the database has it, and what is joined to it."""

    id: int
    current: Arrival
    versions: dict[decimal.Decimal, _Version]
    dirty: bool = False

    def join(self, arrival: Arrival) -> str:
        """Join one delivery; return what it was."""
        version = self.versions.get(arrival.value)
        if version is None:
            outcome = REVISION
            version = _Version(arrival.value, arrival.collected, arrival.collected, arrival.batch)
            self.versions[arrival.value] = version
            self.dirty = True
        else:
            outcome = DUPLICATE
            if version.first <= arrival.collected <= version.last:
                return outcome
            version.first = min(version.first, arrival.collected)
            version.last = max(version.last, arrival.collected)
            version.changed = self.dirty = True
        if (arrival.collected, arrival.value) >= (self.current.collected, self.current.value):
            self.current = arrival
        return outcome


async def store(session: AsyncSession, arrivals: Sequence[Arrival], now: dt.datetime) -> list[str]:
    """Join all arrivals to what is stored, in the caller's transaction; return for each what it was, in order."""
    if not arrivals:
        return []
    positions: dict[Key, list[int]] = {}
    for position, arrival in enumerate(arrivals):
        positions.setdefault(arrival.key, []).append(position)
    keys = sorted(positions)
    new = await _insert_new(session, [arrivals[positions[key][0]] for key in keys], now)
    outcomes = [STORED] * len(arrivals)
    left = {key: where[1:] if key in new else where for key, where in positions.items()}
    left = {key: where for key, where in left.items() if where}
    if left:
        await _join(session, arrivals, left, outcomes)
    return outcomes


async def _join(
    session: AsyncSession, arrivals: Sequence[Arrival], left: dict[Key, list[int]], outcomes: list[str]
) -> None:
    states = await _load(session, sorted(left), lock=False)
    for key, where in left.items():
        for position in where:
            outcomes[position] = states[key].join(arrivals[position])
    dirty = sorted(key for key, state in states.items() if state.dirty)
    if not dirty:
        return
    if session.get_bind().dialect.name == "postgresql":
        # Looked at without a lock, so that plain repetitions write nothing; what changes is joined again under it.
        states = await _load(session, dirty, lock=True)
        for key in dirty:
            for position in left[key]:
                outcomes[position] = states[key].join(arrivals[position])
    await _write(session, [(key, states[key]) for key in dirty if states[key].dirty])


_PG_INSERT = text("""
    INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected,
                          clock_offset, batch, version_count, created_at)
    SELECT n.*, 1, CAST(:now AS timestamptz)
    FROM unnest(CAST(:organization AS uuid[]), CAST(:device AS uuid[]), CAST(:series AS uuid[]),
                CAST(:timestamp AS timestamptz[]), CAST(:value AS numeric[]), CAST(:unit AS text[]),
                CAST(:provenance AS text[]), CAST(:collected AS timestamptz[]), CAST(:clock_offset AS float8[]),
                CAST(:batch AS bigint[])) AS n
    ON CONFLICT (meter_device, series, timestamp) DO NOTHING
    RETURNING meter_device, series, timestamp
""")
_COLUMNS = (
    "organization",
    "device",
    "series",
    "timestamp",
    "value",
    "unit",
    "provenance",
    "collected",
    "clock_offset",
    "batch",
)


async def _insert_new(session: AsyncSession, arrivals: list[Arrival], now: dt.datetime) -> Collection[Key]:
    """Insert the arrivals (distinct keys, in order) whose key is not there yet; return the keys inserted."""
    if session.get_bind().dialect.name == "postgresql":
        columns: dict[str, Any] = {name: [getattr(row, name) for row in arrivals] for name in _COLUMNS}
        result = await session.execute(_PG_INSERT, columns | {"now": now})
        return {(device, series, timestamp) for device, series, timestamp in result}
    there = await _load_rows(session, [row.key for row in arrivals], lock=False)
    known = {_key(row) for row in there}
    new = [row for row in arrivals if row.key not in known]
    if new:
        await session.execute(
            insert(_readings),
            [
                {
                    "organization": row.organization,
                    "meter_device": row.device,
                    "series": row.series,
                    "timestamp": row.timestamp,
                    "value": row.value,
                    "unit": row.unit,
                    "provenance": row.provenance,
                    "collected": row.collected,
                    "first_collected": None,
                    "clock_offset": row.clock_offset,
                    "batch": row.batch,
                    "version_count": 1,
                    "created_at": now,
                }
                for row in new
            ],
        )
    return {row.key for row in new}


def _key(row: Any) -> Key:  # noqa: ANN401 - a row of either table
    return (row.meter_device, row.series, row.timestamp)


_PG_KEYED = """
    SELECT {columns} FROM unnest(CAST(:device AS uuid[]), CAST(:series AS uuid[]), CAST(:timestamp AS timestamptz[]))
        AS k(device, series, at)
    JOIN {table} r ON r.meter_device = k.device AND r.series = k.series AND r.timestamp = k.at
    WHERE r.timestamp BETWEEN CAST(:oldest AS timestamptz) AND CAST(:newest AS timestamptz)
    ORDER BY r.meter_device, r.series, r.timestamp {lock}
"""
# CROSS JOIN keeps SQLite from scanning the table and looking each row up in the keys.
_SQLITE_KEYED = """
    SELECT {columns} FROM json_each(:keys) k CROSS JOIN {table} r
    ON r.meter_device = json_extract(k.value, '$[0]') AND r.series = json_extract(k.value, '$[1]')
    AND r.timestamp = json_extract(k.value, '$[2]')
"""


async def _keyed(session: AsyncSession, table: Table, keys: list[Key], *, lock: bool) -> Sequence[Any]:
    """Read the table's rows of these keys, in one order, on PostgreSQL locked if asked."""
    columns = ", ".join(f'r."{column.name}"' for column in table.c)
    if session.get_bind().dialect.name == "postgresql":
        devices, series, timestamps = zip(*keys, strict=True)
        statement = _PG_KEYED.format(columns=columns, table=table.name, lock="FOR UPDATE OF r" if lock else "")
        values: dict[str, Any] = {
            "device": list(devices),
            "series": list(series),
            "timestamp": list(timestamps),
            "oldest": min(timestamps),
            "newest": max(timestamps),
        }
    else:
        statement = _SQLITE_KEYED.format(columns=columns, table=table.name)
        values = {"keys": json.dumps([(d.hex, s.hex, to_microseconds(t)) for d, s, t in keys])}
    result = await session.execute(text(statement).columns(*table.c), values)
    return result.all()


async def _load_rows(session: AsyncSession, keys: list[Key], *, lock: bool) -> Sequence[Any]:
    return await _keyed(session, _readings, keys, lock=lock)


async def _load(session: AsyncSession, keys: list[Key], *, lock: bool) -> dict[Key, _State]:
    states: dict[Key, _State] = {}
    several: list[Key] = []
    for row in await _load_rows(session, keys, lock=lock):
        key = _key(row)
        current = Arrival(
            row.organization,
            *key,
            row.value,
            row.collected,
            row.unit,
            row.provenance,
            row.clock_offset,
            row.batch,
        )
        states[key] = _State(row.id, current, {})
        if row.version_count > 1:
            several.append(key)
        else:
            first = row.first_collected or row.collected
            states[key].versions[row.value] = _Version(row.value, first, row.collected, row.batch)
    if several:
        for row in await _keyed(session, _versions, several, lock=False):
            version = _Version(row.value, row.first_collected, row.collected, row.batch, row.id, changed=False)
            states[_key(row)].versions[row.value] = version
    return states


_UPDATE_READING = (
    update(_readings)
    .where(_readings.c.id == bindparam("of_id"), _readings.c.timestamp == bindparam("of_timestamp"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "value",
                "unit",
                "provenance",
                "collected",
                "first_collected",
                "clock_offset",
                "batch",
                "version_count",
            )
        }
    )
)
_UPDATE_VERSION = (
    update(_versions)
    .where(_versions.c.id == bindparam("of_id"))
    .values(first_collected=bindparam("new_first"), collected=bindparam("new_last"))
)


async def _write(session: AsyncSession, states: list[tuple[Key, _State]]) -> None:
    readings: list[dict[str, Any]] = []
    added: list[dict[str, Any]] = []
    widened: list[dict[str, Any]] = []
    for key, state in states:
        current = state.current
        version = state.versions[current.value]
        readings.append(
            {
                "of_id": state.id,
                "of_timestamp": current.timestamp,
                "new_value": current.value,
                "new_unit": current.unit,
                "new_provenance": current.provenance,
                "new_collected": version.last,
                "new_first_collected": version.first if version.first < version.last else None,
                "new_clock_offset": current.clock_offset,
                "new_batch": current.batch,
                "new_version_count": len(state.versions),
            }
        )
        if len(state.versions) == 1:
            continue
        for one in state.versions.values():
            if one.row is None:
                added.append(
                    {
                        "meter_device": key[0],
                        "series": key[1],
                        "timestamp": key[2],
                        "value": one.value,
                        "first_collected": one.first,
                        "collected": one.last,
                        "batch": one.batch,
                    }
                )
            elif one.changed:
                widened.append({"of_id": one.row, "new_first": one.first, "new_last": one.last})
    # Through the connection: an update by parameters is for the session an ORM affair that it does not know.
    connection = await session.connection()
    await connection.execute(_UPDATE_READING, readings)
    if added:
        await connection.execute(insert(_versions), added)
    if widened:
        await connection.execute(_UPDATE_VERSION, widened)
