"""Readings and their versions: what arrives is merged so that any order and repetition of deliveries ends alike.

Theory of operation. For one key (meter, series, timestamp) the state is a set of distinct values, each with when it was
first and last collected, and which way it came that last time. A delivery (value, collected) joins that set: a new
value is added, a known one has its times widened. *Current* is the value collected last (of equal instants the greater
value). Joining is commutative, associative and idempotent, so neither order nor repetition matters, nor which of
several relays does it.

A reading with one value is one row in ``readings``; with more, ``reading_versions`` has all of them beside it.
Statements are set-based. Keys are taken in one order, so that relays which write the same keys wait for each other
and never form a ring; what changes an existing reading locks it first (SQLite has one writer anyway).
"""

import dataclasses
import datetime as dt
import decimal
import json
import uuid
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Table, bindparam, delete, insert, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from hub import late_commits, ledger_pending, unjudged
from hub.columns import to_microseconds
from hub.models import Reading, ReadingVersion

STORED = "stored"
DUPLICATE = "duplicate"
REVISION = "revision"

Key = tuple[int, int, dt.datetime]
"""Meter, series (the numbers of their UUIDs: these compare and hash fast, and order as in the database), timestamp."""

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
        return (self.device.int, self.series.int, self.timestamp)


@dataclasses.dataclass(slots=True)
class _Version:
    value: decimal.Decimal
    first: dt.datetime
    last: dt.datetime
    batch: int | None
    provenance: str
    row: int | None = None
    changed: bool = True


@dataclasses.dataclass(slots=True)
class _State:
    """One reading as the database has it, and what is joined to it."""

    id: int
    current: Arrival
    versions: dict[decimal.Decimal, _Version]
    dirty: bool = False
    was: decimal.Decimal = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.was = self.current.value

    def join(self, arrival: Arrival) -> str:
        """Join one delivery; return what it was."""
        version = self.versions.get(arrival.value)
        if version is None:
            outcome = REVISION
            version = _Version(arrival.value, arrival.collected, arrival.collected, arrival.batch, arrival.provenance)
            self.versions[arrival.value] = version
            self.dirty = True
        else:
            outcome = DUPLICATE
            if version.first <= arrival.collected <= version.last:
                return outcome
            if arrival.collected > version.last:
                version.provenance = arrival.provenance
            version.first = min(version.first, arrival.collected)
            version.last = max(version.last, arrival.collected)
            version.changed = self.dirty = True
        if (arrival.collected, arrival.value) >= (self.current.collected, self.current.value):
            self.current = arrival
        return outcome

    def renumber(self) -> list[int]:
        """Let a version that is current again be written anew; return the row that it has.

        Those who read on from the last number that they saw (``hub.received_readings``) are told of it by the new one.
        """
        version = self.versions[self.current.value]
        if version.row is None or self.current.value == self.was:
            return []
        row, version.row = version.row, None
        return [row]


async def store(session: AsyncSession, arrivals: Sequence[Arrival], now: dt.datetime) -> list[str]:
    """Join all arrivals to what is stored, in the caller's transaction; return for each what it was, in order."""
    if not arrivals:
        return []
    outcomes = [DUPLICATE] * len(arrivals)
    positions: dict[Key, list[int]] = {}
    for position, arrival in enumerate(arrivals):
        where = positions.setdefault(arrival.key, [])
        # What comes twice in one group counts as repeated at once.
        if not any(_same(arrivals[other], arrival) for other in where):
            where.append(position)
    keys = sorted(positions)
    firsts = [arrivals[positions[key][0]] for key in keys]
    postgresql = session.get_bind().dialect.name == "postgresql"
    new, other = await (_insert_postgresql if postgresql else _insert_sqlite)(session, firsts, now)
    for number in new:
        outcomes[positions[keys[number]][0]] = STORED
    touched = [keys[number] for number in sorted(new)]
    await ledger_pending.note(session, touched)
    # Left to be joined: first arrivals that are not plain repetitions, and whatever else came for the same key.
    left = {keys[number]: positions[keys[number]] for number in other}
    left |= {key: where[1:] for key, where in positions.items() if len(where) > 1 and key not in left}
    changed = await _join(session, arrivals, left, outcomes) if left else []
    await unjudged.note(session, unjudged.spans_of(sorted({*touched, *changed}) if changed else touched))
    return outcomes


async def held(session: AsyncSession, arrivals: Sequence[Arrival]) -> list[bool]:
    """Return for each arrival whether it is stored already, so that joining it would change nothing; nothing is."""
    if not arrivals:
        return []
    named = {arrival.key: arrival for arrival in arrivals}
    states = await _load(session, [named[key] for key in sorted(named)], lock=False)
    found = []
    for arrival in arrivals:
        state = states.get(arrival.key)
        version = state.versions.get(arrival.value) if state is not None else None
        found.append(version is not None and version.first <= arrival.collected <= version.last)
    return found


def _same(one: Arrival, other: Arrival) -> bool:
    return one.collected == other.collected and one.value == other.value


async def _join(
    session: AsyncSession, arrivals: Sequence[Arrival], left: dict[Key, list[int]], outcomes: list[str]
) -> list[Key]:
    """Join what is left to what is stored; return the keys of which something changed."""
    named = {key: arrivals[where[0]] for key, where in left.items()}
    states = await _load(session, [named[key] for key in sorted(left)], lock=False)
    for key, where in left.items():
        for position in where:
            outcomes[position] = states[key].join(arrivals[position])
    dirty = sorted(key for key, state in states.items() if state.dirty)
    if not dirty:
        return []
    if session.get_bind().dialect.name == "postgresql":
        # Looked at without a lock, so that plain repetitions write nothing; what changes is joined again under it.
        states = await _load(session, [named[key] for key in dirty], lock=True)
        for key in dirty:
            for position in left[key]:
                outcomes[position] = states[key].join(arrivals[position])
    dirty = [key for key in dirty if states[key].dirty]
    if dirty:
        await _write(session, [states[key] for key in dirty])
    return dirty


_PG_ARRIVALS = """
    unnest(CAST(:organization AS uuid[]), CAST(:device AS uuid[]), CAST(:series AS uuid[]),
           CAST(:timestamp AS timestamptz[]), CAST(:value AS numeric[]), CAST(:unit AS text[]),
           CAST(:provenance AS text[]), CAST(:collected AS timestamptz[]), CAST(:clock_offset AS float8[]),
           CAST(:batch AS bigint[]))
"""
_PG_INSERT = text(f"""
    WITH mark AS MATERIALIZED ({late_commits.MARK_READINGS})
    INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected,
                          clock_offset, batch, version_count, created_at)
    SELECT n.*, 1, CAST(:now AS timestamptz) FROM mark, {_PG_ARRIVALS} AS n
    ON CONFLICT (meter_device, series, timestamp) DO NOTHING
    RETURNING id
""")  # noqa: S608 - our own text
_PG_MATCH = text("""
    SELECT n.position - 1, r.id, r.version_count = 1 AND r.value = n.value
        AND n.collected BETWEEN coalesce(r.first_collected, r.collected) AND r.collected
    FROM unnest(CAST(:device AS uuid[]), CAST(:series AS uuid[]), CAST(:timestamp AS timestamptz[]),
                CAST(:value AS numeric[]), CAST(:collected AS timestamptz[]))
        WITH ORDINALITY AS n(device, series, at, value, collected, position)
    JOIN readings r ON r.meter_device = n.device AND r.series = n.series AND r.timestamp = n.at
    WHERE r.timestamp BETWEEN CAST(:oldest AS timestamptz) AND CAST(:newest AS timestamptz)
""")
_MATCHED = ("device", "series", "timestamp", "value", "collected")
_COLUMNS = ("organization", "device", "series", "timestamp", "value", "unit", "provenance", "collected")


async def _insert_postgresql(
    session: AsyncSession, arrivals: list[Arrival], now: dt.datetime
) -> tuple[list[int], list[int]]:
    """Insert the arrivals (distinct keys, in order) that are new.

    Returns:
        The positions of the new ones, and of those that are there and are not plain repetitions.
    """
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in arrivals] for name in (*_COLUMNS, "clock_offset", "batch")
    }
    inserted = set((await session.execute(_PG_INSERT, columns | {"now": now})).scalars())
    if len(inserted) == len(arrivals):
        return list(range(len(arrivals))), []
    matched: dict[str, Any] = {name: columns[name] for name in _MATCHED}
    matched |= {"oldest": min(columns["timestamp"]), "newest": max(columns["timestamp"])}
    new: list[int] = []
    other: list[int] = []
    for position, row_id, repeated in await session.execute(_PG_MATCH, matched):
        if row_id in inserted:
            new.append(position)
        elif not repeated:
            other.append(position)
    return new, other


# CROSS JOIN keeps SQLite from scanning the table and looking each row up in the arrivals. That the texts of two equal
# values differ is no repetition here; it is found to be one where values are compared as numbers.
_SQLITE_MATCH = """
    SELECT k.key, r.version_count = 1 AND r.value = json_extract(k.value, '$[3]')
        AND json_extract(k.value, '$[4]') BETWEEN coalesce(r.first_collected, r.collected) AND r.collected
    FROM json_each(?) k CROSS JOIN readings r
    ON r.meter_device = json_extract(k.value, '$[0]') AND r.series = json_extract(k.value, '$[1]')
    AND r.timestamp = json_extract(k.value, '$[2]')
"""
_SQLITE_INSERT = """
    INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected,
                          clock_offset, batch, version_count, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?)
"""


async def _insert_sqlite(
    session: AsyncSession, arrivals: list[Arrival], now: dt.datetime
) -> tuple[list[int], list[int]]:
    """Do the same on SQLite, where this transaction is the only one that writes; in its column types' own forms."""
    connection = await session.connection()
    forms = [
        (
            row.device.hex,
            row.series.hex,
            to_microseconds(row.timestamp),
            format(row.value, "f"),
            to_microseconds(row.collected),
        )
        for row in arrivals
    ]
    found: Sequence[Any] = (await connection.exec_driver_sql(_SQLITE_MATCH, (json.dumps(forms),))).all()
    there = {position for position, _ in found}
    new = [position for position in range(len(arrivals)) if position not in there]
    created = to_microseconds(now)
    rows = []
    for position in new:
        row, (device, series, timestamp, value, collected) = arrivals[position], forms[position]
        owner, rest = row.organization.hex, (row.clock_offset, row.batch, created)
        rows.append((owner, device, series, timestamp, value, row.unit, row.provenance, collected, *rest))
    if rows:
        await connection.exec_driver_sql(_SQLITE_INSERT, rows)
    return new, [position for position, repeated in found if not repeated]


def _key(row: Any) -> Key:  # noqa: ANN401 - a row of either table
    return (row.meter_device.int, row.series.int, row.timestamp)


_PG_KEYED = """
    SELECT {columns} FROM unnest(CAST(:device AS uuid[]), CAST(:series AS uuid[]), CAST(:timestamp AS timestamptz[]))
        AS k(device, series, at)
    JOIN {table} r ON r.meter_device = k.device AND r.series = k.series AND r.timestamp = k.at
    WHERE r.timestamp BETWEEN CAST(:oldest AS timestamptz) AND CAST(:newest AS timestamptz)
    ORDER BY r.meter_device, r.series, r.timestamp {lock}
"""
_SQLITE_KEYED = """
    SELECT {columns} FROM json_each(:keys) k CROSS JOIN {table} r
    ON r.meter_device = json_extract(k.value, '$[0]') AND r.series = json_extract(k.value, '$[1]')
    AND r.timestamp = json_extract(k.value, '$[2]')
"""


async def _keyed(session: AsyncSession, table: Table, named: list[Arrival], *, lock: bool) -> Sequence[Any]:
    """Read the table's rows with the arrivals' keys, in one order, on PostgreSQL locked if asked."""
    columns = ", ".join(f'r."{column.name}"' for column in table.c)
    if session.get_bind().dialect.name == "postgresql":
        timestamps = [row.timestamp for row in named]
        statement = _PG_KEYED.format(columns=columns, table=table.name, lock="FOR UPDATE OF r" if lock else "")
        values: dict[str, Any] = {
            "device": [row.device for row in named],
            "series": [row.series for row in named],
            "timestamp": timestamps,
            "oldest": min(timestamps),
            "newest": max(timestamps),
        }
    else:
        statement = _SQLITE_KEYED.format(columns=columns, table=table.name)
        keys = [(row.device.hex, row.series.hex, to_microseconds(row.timestamp)) for row in named]
        values = {"keys": json.dumps(keys)}
    result = await session.execute(text(statement).columns(*table.c), values)
    return result.all()


async def _load(session: AsyncSession, named: list[Arrival], *, lock: bool) -> dict[Key, _State]:
    states: dict[Key, _State] = {}
    several: list[Arrival] = []
    for row in await _keyed(session, _readings, named, lock=lock):
        current = Arrival(
            row.organization,
            row.meter_device,
            row.series,
            row.timestamp,
            row.value,
            row.collected,
            row.unit,
            row.provenance,
            row.clock_offset,
            row.batch,
        )
        state = states[_key(row)] = _State(row.id, current, {})
        if row.version_count > 1:
            several.append(current)
        else:
            first = row.first_collected or row.collected
            state.versions[row.value] = _Version(row.value, first, row.collected, row.batch, row.provenance)
    if several:
        for row in await _keyed(session, _versions, several, lock=False):
            version = _Version(
                row.value, row.first_collected, row.collected, row.batch, row.provenance, row.id, changed=False
            )
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
    .values(
        first_collected=bindparam("new_first"),
        collected=bindparam("new_last"),
        provenance=bindparam("new_provenance"),
    )
)


async def _write(session: AsyncSession, states: list[_State]) -> None:
    readings: list[dict[str, Any]] = []
    added: list[dict[str, Any]] = []
    widened: list[dict[str, Any]] = []
    replaced: list[int] = []
    for state in states:
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
        replaced += state.renumber()
        for one in state.versions.values():
            if one.row is None:
                added.append(
                    {
                        "meter_device": current.device,
                        "series": current.series,
                        "timestamp": current.timestamp,
                        "value": one.value,
                        "first_collected": one.first,
                        "collected": one.last,
                        "batch": one.batch,
                        "provenance": one.provenance,
                    }
                )
            elif one.changed:
                widened.append(
                    {
                        "of_id": one.row,
                        "new_first": one.first,
                        "new_last": one.last,
                        "new_provenance": one.provenance,
                    }
                )
    # Through the connection: an update by parameters is for the session an ORM affair that it does not know.
    connection = await session.connection()
    await connection.execute(_UPDATE_READING, readings)
    if replaced:
        await connection.execute(delete(_versions).where(_versions.c.id.in_(replaced)))
    if added:
        if connection.dialect.name == "postgresql":
            await connection.execute(text(late_commits.MARK_REVISIONS))
        await connection.execute(insert(_versions), added)
    if widened:
        await connection.execute(_UPDATE_VERSION, widened)
