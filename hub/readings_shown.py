"""What a reading is in an answer, and how many of them are made at once: from columns, without an object for each row.

A list of a month has thousands of them: what is done for each is done here, and nothing else. Values and ids leave the
database as the text that the answer has, and a row is an answer's reading as it comes, by position.
"""

import datetime as dt
import decimal
import itertools
import operator
import uuid
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from hub.bodies import Body
from hub.columns import ExactDecimal
from hub.database import reading
from hub.many import batched
from hub.models import Batch, ReadingSeries, ReadingVersion
from hub.models import Reading as Row
from hub.validation import names_of
from protocol.wire import Instant

_SOME = 300


class _AsText(FunctionElement[str]):
    """A value, or an id, as the text that JSON has of it."""

    inherit_cache = True
    type = sa.Text()


@compiles(_AsText)
def _cast(element: _AsText, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own interface
    return f"CAST({compiler.process(element.clauses, **options)} AS TEXT)"


@compiles(_AsText, "sqlite")
def _read(element: _AsText, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ANN401 - SQLAlchemy's own interface
    text = compiler.process(element.clauses, **options)
    (column,) = element.clauses
    if not isinstance(column.type, sa.Uuid):
        return text
    # There an id is its 32 digits.
    parts = [f"substr({text}, {first}, {count})" for first, count in ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))]
    return " || '-' || ".join(parts)


def as_told(column: Any) -> Any:  # noqa: ANN401 - a mapped or plain column
    """Return what is selected of a column for answers, under its own name.

    In JSON a decimal is text; its own text would be 1E-7, which not every client takes for a number, and the
    database's has all digits.
    """
    if isinstance(column.type, sa.Uuid | ExactDecimal):
        return _AsText(column).label(column.key)
    return column


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


NAMES = tuple(name for name in MeterReadings.__struct_fields__ if name != "versions")
"""The columns that are shown, in the order of the answer."""

COLUMNS: tuple[Any, ...] = tuple(as_told(getattr(Row, name)) for name in NAMES)
"""What is selected of readings that are to be shown, in this order."""

_of_object = operator.attrgetter(*NAMES)
_VALUE = NAMES.index("value")

_Told: Any = msgspec.defstruct(
    "_Told", [*((name, Any) for name in NAMES), ("versions", Any, msgspec.UNSET)], gc=False
)  # fmt: skip
"""``MeterReadings``, made by position."""

Key = tuple[uuid.UUID, uuid.UUID, dt.datetime]


async def shown(session: AsyncSession, rows: Sequence[Any]) -> list[MeterReadings]:
    """Make the answer's readings of rows: tuples of ``COLUMNS``, or objects, with at most two queries for all."""
    if rows and isinstance(rows[0], Row):
        rows = [_of_object(row) for row in rows]
        rows = [(*row[:_VALUE], format(row[_VALUE], "f"), *row[_VALUE + 1 :]) for row in rows]
    made, silent, several = _made(rows)
    await _complete(session, silent, several)
    return cast("list[MeterReadings]", made)


async def shown_by(engine: AsyncEngine, rows: Sequence[Any]) -> list[MeterReadings]:
    """As ``shown``, with a session for what rows do not say themselves, if they do not."""
    made, silent, several = _made(rows)
    if silent or several:
        async with reading(engine) as session:
            await _complete(session, silent, several)
    return cast("list[MeterReadings]", made)


def _made(rows: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the answer's readings; those of them that have no unit, and those that have several versions."""
    made: list[Any] = [*itertools.starmap(_Told, rows)]
    silent: list[Any] = []
    several: list[Any] = []
    for one in made:
        one.flags = names_of(one.flags) if one.flags else []
        if not one.unit:
            silent.append(one)
        if one.version_count > 1:
            several.append(one)
    return made, silent, several


async def _complete(session: AsyncSession, silent: Sequence[Any], several: Sequence[Any]) -> None:
    if silent:
        # A pushed reading has no unit of its own: it is in that of its series.
        wanted = {_id(one.series) for one in silent}
        statement = sa.select(ReadingSeries.id, ReadingSeries.unit).where(ReadingSeries.id.in_(wanted))
        units = {row.id: row.unit for row in await session.execute(statement)}
        for one in silent:
            one.unit = units.get(_id(one.series), "")
    if several:
        versions = await _versions(session, [_key(one) for one in several])
        for one in several:
            if found := versions.get(_key(one)):
                one.versions = found


def _id(told: Any) -> uuid.UUID:  # noqa: ANN401 - text, or an object's id
    return told if isinstance(told, uuid.UUID) else uuid.UUID(told)


def _key(told: Any) -> Key:  # noqa: ANN401 - made by position
    return _id(told.meter_device), _id(told.series), told.timestamp


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
