"""Readings as JSON that PostgreSQL makes (``hub.told``): byte by byte what ``hub.readings_shown`` makes of them.

Flags are told by their names, the unit is that of the series where a reading has none of its own, and versions are
there where there are several. Unlike there it is all one statement.
"""

import datetime as dt
import uuid
from typing import Final

import msgspec

from hub.readings_shown import NAMES
from hub.told import Parts, Told, any_text, instant, number, object_of, or_null, plain, quoted, text
from hub.validation import FLAGS

_VERSION: Final = object_of(
    [
        ("value", quoted("v.value")),
        ("first_collected", instant("v.first_collected")),
        ("collected", instant("v.collected")),
        ("provenance", text("v.provenance")),
        ("gateway", or_null("b.gateway", quoted("b.gateway"))),
    ]
)


def _flags(column: str) -> Parts:
    names = ", ".join(f"CASE WHEN {column} & {bit} <> 0 THEN '\"{name}\"' END" for name, bit in FLAGS.items())
    return (f"CASE {column} WHEN 0 THEN '[]' ELSE concat('[', concat_ws(',', {names}), ']') END",)


def told_of(table: str) -> str:
    """Return the SQL of a reading's JSON; ``table`` is what it is called in the statement, with all its columns."""
    unit = f"""CASE {table}.unit WHEN ''
        THEN coalesce((SELECT {any_text("s.unit")} FROM meter_reading_series s WHERE s.id = {table}.series), '""')
        ELSE {text(f"{table}.unit")[0]} END"""  # noqa: S608 - our own names
    versions = f"""CASE WHEN {table}.version_count > 1 THEN (
        SELECT concat(',"versions":[', string_agg({_VERSION}, ',' ORDER BY v.collected, v.id), ']')
        FROM reading_versions v LEFT JOIN batches b ON b.id = v.batch
        WHERE v.meter_device = {table}.meter_device AND v.series = {table}.series AND v.timestamp = {table}.timestamp
        HAVING count(*) > 0
    ) END"""  # noqa: S608 - our own names
    made = {
        **{name: quoted(f"{table}.{name}") for name in ("organization", "meter_device", "series", "value")},
        **{name: instant(f"{table}.{name}") for name in ("timestamp", "created_at", "collected")},
        **{name: plain(f"{table}.{name}") for name in ("id", "version_count")},
        "unit": (unit,),
        "provenance": text(f"{table}.provenance"),
        "clock_offset": number(f"{table}.clock_offset"),
        "flags": _flags(f"{table}.flags"),
    }
    return object_of([(name, made[name]) for name in NAMES], versions)


class _Place(msgspec.Struct):
    """What lists of readings are walked along."""

    id: int
    series: uuid.UUID
    timestamp: dt.datetime
    created_at: dt.datetime


TOLD: Final = Told(NAMES, told_of, _Place)
