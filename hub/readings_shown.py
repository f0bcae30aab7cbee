"""What a reading is in an answer, and how many of them are made at once: from columns, without an object for each row.

A list of a month has thousands of them: what is done for each is done here, and nothing else.
"""

import datetime as dt
import decimal
import operator
import uuid
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession

from hub.bodies import Body
from hub.many import batched
from hub.models import Batch, ReadingSeries, ReadingVersion
from hub.models import Reading as Row
from hub.validation import names_of
from protocol.wire import Instant

COLUMNS: tuple[Any, ...] = (
    Row.id,
    Row.organization,
    Row.meter_device,
    Row.series,
    Row.timestamp,
    Row.value,
    Row.created_at,
    Row.unit,
    Row.collected,
    Row.provenance,
    Row.clock_offset,
    Row.version_count,
    Row.flags,
)
"""What is selected of readings that are to be shown, in this order."""

NAMES = tuple(str(column.key) for column in COLUMNS)
_of_object = operator.attrgetter(*NAMES)
_SOME = 300


class MeterReadingsBody(Body, kw_only=True):
    """A reading as staff sends it."""

    read_only = frozenset(
        {
            "id",
            "created_at",
            "unit",
            "collected",
            "provenance",
            "clock_offset",
            "version_count",
            "versions",
            "flags",
        }
    )
    organization: uuid.UUID
    meter_device: uuid.UUID
    series: uuid.UUID
    timestamp: Instant
    value: decimal.Decimal


class Version(msgspec.Struct, kw_only=True):
    """One of several values that arrived for the same reading; ``provenance`` and ``gateway`` say which way it came."""

    value: str
    first_collected: dt.datetime
    collected: dt.datetime
    provenance: str
    gateway: uuid.UUID | None


class MeterReadings(MeterReadingsBody, kw_only=True):
    """A reading; all from ``unit`` on is additive. ``versions`` is there when there is more than one."""

    id: int
    created_at: dt.datetime
    unit: str
    collected: dt.datetime
    provenance: str
    clock_offset: float | None
    version_count: int
    flags: list[str]
    versions: list[Version] | msgspec.UnsetType = msgspec.UNSET


Key = tuple[uuid.UUID, uuid.UUID, dt.datetime]


async def shown(session: AsyncSession, rows: Sequence[Any]) -> list[MeterReadings]:
    """Make the answer's readings of rows: tuples of ``COLUMNS``, or objects, with at most two queries for all."""
    if rows and isinstance(rows[0], Row):
        rows = [_of_object(row) for row in rows]
    # A pushed reading has no unit of its own: it is in that of its series.
    silent = {row[3] for row in rows if not row[7]}
    units: dict[uuid.UUID, str] = {}
    if silent:
        statement = sa.select(ReadingSeries.id, ReadingSeries.unit).where(ReadingSeries.id.in_(silent))
        units = {row.id: row.unit for row in await session.execute(statement)}
    several = [(row[2], row[3], row[4]) for row in rows if row[11] > 1]
    versions = await _versions(session, several) if several else {}
    made = [
        MeterReadings(
            id=number,
            organization=organization,
            meter_device=meter,
            series=series,
            timestamp=timestamp,
            # In JSON a decimal is text; its own text would be 1E-7, which not every client takes for a number.
            value=cast("decimal.Decimal", format(value, "f")),
            created_at=created_at,
            unit=unit or units.get(series, ""),
            collected=collected,
            provenance=provenance,
            clock_offset=clock_offset,
            version_count=version_count,
            flags=names_of(flags) if flags else [],
        )
        for (
            number,
            organization,
            meter,
            series,
            timestamp,
            value,
            created_at,
            unit,
            collected,
            provenance,
            clock_offset,
            version_count,
            flags,
        ) in rows
    ]
    if versions:
        for one in made:
            if found := versions.get((one.meter_device, one.series, one.timestamp)):
                one.versions = found
    return made


async def _versions(session: AsyncSession, keys: Sequence[Key]) -> dict[Key, list[Version]]:
    found: dict[Key, list[Version]] = {}
    for some in batched(keys, _SOME):
        statement = (
            sa.select(ReadingVersion, Batch.gateway)
            .join(Batch, Batch.id == ReadingVersion.batch, isouter=True)
            .where(same_key(some))
            .order_by(ReadingVersion.collected, ReadingVersion.id)
        )
        for version, gateway in await session.execute(statement):
            found.setdefault((version.meter_device, version.series, version.timestamp), []).append(
                Version(
                    value=format(version.value, "f"),
                    first_collected=version.first_collected,
                    collected=version.collected,
                    provenance=version.provenance,
                    gateway=gateway,
                )
            )
    return found


def same_key(keys: Sequence[Key]) -> sa.ColumnElement[bool]:
    """Return the condition of the versions of readings with these keys."""
    return sa.tuple_(ReadingVersion.meter_device, ReadingVersion.series, ReadingVersion.timestamp).in_(keys)
