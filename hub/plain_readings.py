"""Readings that are just what they should be, column by column: nearly all that gateways bring are.

A batch is *plain* when each of its rows names its meter by UUID, was collected at a time, has ordinary text and an
ordinary decimal, and may become a reading now. Such rows go from their bytes into the columns of one INSERT: no object,
no comparison and no sorting for each here. What is not so goes row by row (``hub.ingest``), and so does what the INSERT
finds there already: this is only the quick way to where that one leads as well, and decides nothing by itself.

``hub.judging`` says where a series of a meter belongs. Instants are microseconds since 1970 here.
"""

import asyncio
import datetime as dt
import itertools
import math
import re
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from hub import array_texts, late_commits, ledger_pending, sqlite_rows, sqlite_trips, unjudged
from hub.columns import to_microseconds
from hub.judging import FUTURE, OLDEST, Directory, Series
from protocol.wire import Instant, MeterName, SeriesName, Word

_Key = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class _Row(msgspec.Struct, array_like=True, gc=False):
    """A row as ``protocol.readings.NewMeterReading`` has it, narrower: what does not fit here is not plain."""

    meter: MeterName
    series: SeriesName
    timestamp: Instant
    value: str
    unit: Word
    device: _Key
    collected: Instant
    provenance: Word
    clock_offset: float | None = None
    run: _Key | None = None


class _Body(msgspec.Struct, array_like=True):
    name: msgspec.Raw
    rows: list[_Row]


_decoder = msgspec.msgpack.Decoder(_Body)

# At most 38 digits and 18 places, as they are written back: no leading zero, no exponent.
_is_plain_decimal = re.compile(r"-?(?:0|[1-9][0-9]{0,19})(?:\.[0-9]{1,18})?").fullmatch

_EARLIEST, _LATEST = 0, 2**53
"""Between these a number of microseconds is an instant, and a float holds it exactly."""


class Plain(msgspec.Struct):
    """The rows of a batch, in columns."""

    devices: list[bytes]
    series: list[str]
    timestamps: list[int]
    values: list[str]
    units: list[str]
    provenances: list[str]
    collected: list[int]
    clock_offsets: list[float | None]


def meters_of(batches: Iterable[Plain]) -> set[bytes]:
    """Return the meters that have readings in these batches."""
    devices: set[bytes] = set()
    for one in batches:
        devices.update(one.devices)
    return devices


def read_plain(body: bytes) -> Plain | None:
    """Take a batch's body apart; None when it is not plain, for whatever reason."""
    try:
        rows = _decoder.decode(body).rows
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    plain = Plain([], [], [], [], [], [], [], [])
    last = last_collected = None
    at = collected_at = 0
    for row in rows:
        # Those of one archive row, and of one session, are equal.
        if row.timestamp != last:
            last = row.timestamp
            at = to_microseconds(last)
        if row.collected != last_collected:
            last_collected = row.collected
            collected_at = to_microseconds(last_collected)
        if (
            not _is_plain_decimal(row.value)
            or not _EARLIEST <= collected_at < _LATEST
            or (row.clock_offset is not None and not math.isfinite(row.clock_offset))
            or "\0" in row.meter
            or "\0" in row.unit
            or "\0" in row.provenance
        ):
            return None
        plain.devices.append(row.device)
        plain.series.append(row.series)
        plain.timestamps.append(at)
        plain.values.append(row.value)
        plain.units.append(row.unit)
        plain.provenances.append(row.provenance)
        plain.collected.append(collected_at)
        plain.clock_offsets.append(row.clock_offset)
    return plain


_UNPAUSED = 250
"""Rows until whoever else waits for this process has a turn: half a millisecond."""

_Told = dict[int, tuple[Series, list[int]]]
"""By the place's own number (its object's) where readings are new, and their timestamps."""


class Columns:
    """Plain batches of a transaction, one after another, as the INSERT takes them.

    What needs no transaction can be done before it: ``add``, and ``make_notes``.
    """

    def __init__(self, now: dt.datetime) -> None:
        self.places: list[Series] = []
        self.timestamps: list[int] = []
        self._values: list[str] = []
        self._units: list[str] = []
        self._provenances: list[str] = []
        self._collected: list[int] = []
        self._clock_offsets: list[float | None] = []
        self._counts: list[int] = []
        """How many rows each batch has."""
        self._batches: list[int | None] = []
        self._values_of_rows: list[Any] | None = None
        """On SQLite the values of all rows, one row after another, but for their batches."""
        self._notes: tuple[bytes, bytes] | None = None
        self._noted = False
        """Whether they are written."""
        self._now = now
        self._first = to_microseconds(OLDEST)
        self._last = to_microseconds(now + FUTURE)

    def add(self, plain: Plain, directory: Directory, gateway: uuid.UUID) -> bool:
        """Take a batch of a gateway; False, with nothing taken, when one of its rows may not be a reading now."""
        if not self._first <= min(plain.timestamps) <= max(plain.timestamps) <= self._last:
            return False
        places: list[Series] = []
        device, table = b"", None
        for of_device, series in zip(plain.devices, plain.series, strict=True):
            if of_device != device:
                device, table = of_device, directory.table(gateway, of_device)
            place = table.get(series) if table is not None else None
            if place is None:
                return False
            places.append(place)
        self.places += places
        self.timestamps += plain.timestamps
        self._values += plain.values
        self._units += plain.units
        self._provenances += plain.provenances
        self._collected += plain.collected
        self._clock_offsets += plain.clock_offsets
        self._counts.append(len(places))
        return True

    async def make_notes(self) -> None:
        """Make what is noted for the clerks when everything is new, and on SQLite is written of meters and series."""
        told: _Told = {}
        values: list[Any] = []
        for start in range(0, len(self.places), _UNPAUSED):
            await asyncio.sleep(0)
            some = slice(start, min(start + _UNPAUSED, len(self.places)))
            self._tell(told, range(some.start, some.stop))
            self._write_values(values, some)
        self._notes = self._pack(told)
        self._values_of_rows = values

    def _write_values(self, values: list[Any], some: slice) -> None:
        """Add the values of these rows in the forms of their column types on SQLite, each without its batch."""
        places = self.places[some]
        created = to_microseconds(self._now)
        columns = (
            [place.organization.hex for place in places],
            [place.device.hex for place in places],
            [place.series.hex for place in places],
            self.timestamps[some],
            self._values[some],
            self._units[some],
            self._provenances[some],
            self._collected[some],
            self._clock_offsets[some],
            [None] * len(places),
            [created] * len(places),
        )
        values += itertools.chain.from_iterable(zip(*columns, strict=True))

    async def insert(self, session: AsyncSession, batches: Sequence[int | None]) -> list[int]:
        """Insert what is new, in the caller's transaction, and note it for the clerks.

        Args:
            session: In whose transaction.
            batches: The rows of the batches that were added.

        Returns:
            The positions of rows that were there before, or come twice here: for these nothing is done.
        """
        if not self.places:
            return []
        self._batches = list(itertools.chain.from_iterable(map(itertools.repeat, batches, self._counts)))
        postgresql = session.get_bind().dialect.name == "postgresql"
        left = await (self._insert_postgresql if postgresql else self._insert_sqlite)(session)
        if self._noted:
            return left
        everything = range(len(self.places))
        if left or self._notes is None:
            told: _Told = {}
            self._tell(told, sorted(set(everything) - set(left)) if left else everything)
            self._notes = self._pack(told)
        of_ledger, of_judge = self._notes
        await ledger_pending.note_packed(session, of_ledger)
        await unjudged.note_packed(session, of_judge)
        return left

    def _tell(self, told: _Told, positions: Iterable[int]) -> None:
        """Collect what is noted of the rows at these positions."""
        for position in positions:
            place = self.places[position]
            here = id(place)
            if here in told:
                told[here][1].append(self.timestamps[position])
            else:
                told[here] = (place, [self.timestamps[position]])

    @staticmethod
    def _pack(told: _Told) -> tuple[bytes, bytes]:
        """Return the notes for ledger and judge."""
        ordered = sorted(
            (place.device.bytes, place.series.bytes, sorted(instants)) for place, instants in told.values()
        )
        return ledger_pending.pack_series(ordered), unjudged.pack_series(ordered)

    async def _insert_postgresql(self, session: AsyncSession) -> list[int]:
        count = len(self.places)
        values: dict[str, Any] = {
            "organization": [place.organization for place in self.places],
            "device": [place.device for place in self.places],
            "series": [place.series for place in self.places],
            "timestamp": self.timestamps,
            "value": array_texts.of_words(self._values),
            "unit": array_texts.of_texts(self._units),
            "provenance": array_texts.of_texts(self._provenances),
            "collected": self._collected,
            "clock_offset": self._clock_offsets,
            "batch": self._batches,
        }
        inserted, ids = (await session.execute(_PG_INSERT, values | {"now": self._now, "count": count})).one()
        if inserted == count:
            return []
        keys = {name: values[name] for name in ("device", "series", "timestamp")}
        oldest, newest = min(self.timestamps), max(self.timestamps)
        found = await session.execute(_PG_WRITTEN, keys | {"ids": ids or [], "oldest": oldest, "newest": newest})
        return self._not_of(set(found.scalars()))

    async def _insert_sqlite(self, session: AsyncSession) -> list[int]:
        values = self._values_of_rows
        if values is None:
            values = []
            self._write_values(values, slice(0, len(self.places)))
        values[_SQLITE_BATCH::_SQLITE_WIDTH] = self._batches
        newest = 0

        def write(cursor: sqlite3.Cursor) -> int:
            nonlocal newest
            # This transaction is the only one that writes.
            (newest,) = cursor.execute(_SQLITE_NEWEST).fetchone()
            written = sqlite_rows.write(cursor, _SQLITE_INSERT, values, _SQLITE_WIDTH)
            if written == len(self.places) and self._notes is not None:
                for statement, packed in zip(_SQLITE_NOTES, self._notes, strict=True):
                    cursor.execute(statement, (packed,))
                self._noted = True
            return written

        connection = await session.connection()
        result = await sqlite_trips.together(connection, sqlite_rows.texts_of(_SQLITE_INSERT)[1], write)
        if result.rowcount == len(self.places):
            return []
        found = await connection.exec_driver_sql(_SQLITE_WRITTEN, (newest,))
        written = {tuple(row) for row in found}
        keys = zip(values[1::_SQLITE_WIDTH], values[2::_SQLITE_WIDTH], self.timestamps, strict=True)
        return self._not_of({position for position, key in enumerate(keys) if key in written})

    def _not_of(self, written: set[int]) -> list[int]:
        """Return all positions but these; of rows with one key here, the first is the one that was written."""
        seen: set[tuple[int, int]] = set()
        left = []
        for position, (place, at) in enumerate(zip(self.places, self.timestamps, strict=True)):
            key = (id(place), at)
            if position not in written or key in seen:
                left.append(position)
            seen.add(key)
        return left


# The keys in one order, as everywhere (``hub.versions``); of equal ones the first that came. A list of ids is only made
# where it is needed.
_PG_INSERT = text(f"""
    WITH mark AS MATERIALIZED ({late_commits.MARK_READINGS}),
    written AS (
        INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected,
                              clock_offset, batch, version_count, created_at)
        SELECT n.organization, n.device, n.series, timestamptz 'epoch' + n.at * interval '1 microsecond',
            n.value, n.unit, n.provenance, timestamptz 'epoch' + n.collected * interval '1 microsecond',
            n.clock_offset, n.batch, 1, CAST(:now AS timestamptz)
        FROM mark, unnest(CAST(:organization AS uuid[]), CAST(:device AS uuid[]), CAST(:series AS uuid[]),
                    CAST(:timestamp AS bigint[]), CAST(CAST(:value AS text) AS numeric[]),
                    CAST(CAST(:unit AS text) AS text[]), CAST(CAST(:provenance AS text) AS text[]),
                    CAST(:collected AS bigint[]), CAST(:clock_offset AS float8[]),
                    CAST(:batch AS bigint[])) WITH ORDINALITY
            AS n(organization, device, series, at, value, unit, provenance, collected, clock_offset, batch, position)
        ORDER BY n.device, n.series, n.at, n.position
        ON CONFLICT (meter_device, series, timestamp) DO NOTHING
        RETURNING id
    )
    SELECT count(*), CASE WHEN count(*) < CAST(:count AS bigint) THEN array_agg(id) END FROM written
""")  # noqa: S608 - our own text
_PG_WRITTEN = text("""
    SELECT n.position - 1
    FROM unnest(CAST(:device AS uuid[]), CAST(:series AS uuid[]), CAST(:timestamp AS bigint[]))
        WITH ORDINALITY AS n(device, series, at, position)
    JOIN readings r ON r.meter_device = n.device AND r.series = n.series
        AND r.timestamp = timestamptz 'epoch' + n.at * interval '1 microsecond'
    WHERE r.id = ANY(CAST(:ids AS bigint[]))
        AND r.timestamp BETWEEN timestamptz 'epoch' + CAST(:oldest AS bigint) * interval '1 microsecond'
            AND timestamptz 'epoch' + CAST(:newest AS bigint) * interval '1 microsecond'
""")

_SQLITE_NOTES = ledger_pending.SQLITE_NOTE, unjudged.SQLITE_NOTE
_SQLITE_NEWEST = "SELECT coalesce(max(id), 0) FROM readings"
_SQLITE_INSERT = """
    INSERT INTO readings (organization, meter_device, series, timestamp, value, unit, provenance, collected,
                          clock_offset, batch, version_count, created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?){} ON CONFLICT DO NOTHING
"""
_SQLITE_WIDTH, _SQLITE_BATCH = 11, 9
"""How many values a row has there, and the place of its batch among them."""
_SQLITE_WRITTEN = "SELECT meter_device, series, timestamp FROM readings WHERE id > ?"
