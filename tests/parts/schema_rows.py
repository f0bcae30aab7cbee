"""A row in every table of whatever schema a database has, made from the database's own catalogue; and all rows read.

Nothing here knows the models: these are of the newest schema only.
"""

import datetime as dt
import decimal
import re
import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.engine.interfaces import ReflectedColumn

MONTH_OR_DEFAULT = re.compile(r"readings_(\d{4}_\d{2}|default)")
"""Partitions: their rows are those of readings."""

NOT_OURS = {"alembic_version", "hub_state", "sqlite_sequence"}
"""Alembic's, and what the runner itself writes with each step."""

WHEN = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)

_HEX = 32
_VALUES: dict[type[sa.types.TypeEngine[Any]], object] = {
    sa.JSON: ["staff"],
    sa.Boolean: True,
    sa.DateTime: WHEN,
    sa.Integer: 7,
    sa.Float: 0.5,
    sa.Numeric: decimal.Decimal("7.50"),
    sa.LargeBinary: b"\x07" * 32,
}
"""What no default is, by type."""

Columns = dict[str, list[ReflectedColumn]]
Rows = dict[str, list[dict[str, Any]]]


def columns_of(connection: Connection) -> Columns:
    """Return the columns of every table, by table."""
    found = sa.inspect(connection).get_multi_columns()
    return {
        table: columns
        for (_, table), columns in found.items()
        if table not in NOT_OURS and not MONTH_OR_DEFAULT.fullmatch(table)
    }


def rows_of(connection: Connection, columns: Columns) -> Rows:
    """Return all rows of these columns."""
    found: Rows = {}
    for table, described in columns.items():
        names = sorted(column["name"] for column in described)
        picked: list[Any] = [sa.column(name) for name in names]
        chosen = sa.select(*picked).select_from(sa.table(table))
        found[table] = sorted(({**row} for row in connection.execute(chosen).mappings()), key=str)
    return found


def fill(connection: Connection, before: Columns) -> Columns:
    """Give every table that has no row one, and every column that was not there before a value; return all columns."""
    columns = columns_of(connection)
    references = {
        (table, key["constrained_columns"][0]): (key["referred_table"], key["referred_columns"][0])
        for (_, table), keys in sa.inspect(connection).get_multi_foreign_keys().items()
        for key in keys
    }
    for table in _in_order(columns, references):
        described = {column["name"]: column for column in columns[table]}
        known = {column["name"] for column in before.get(table, [])}
        values = {
            name: _referred(connection, references[table, name])
            if (table, name) in references
            else _value(column["type"], connection.dialect.name, f"{table}.{name}")
            for name, column in described.items()
            if not (name in {"id", "number"} and isinstance(column["type"], sa.Integer))
        }
        target = sa.table(table, *(sa.column(name, column["type"]) for name, column in described.items()))
        if not connection.scalar(sa.select(sa.func.count()).select_from(target)):
            connection.execute(sa.insert(target).values(values))
        elif known and (new := {name: value for name, value in values.items() if name not in known}):
            connection.execute(sa.update(target).values(new))
    return columns


def _in_order(columns: Columns, references: dict[tuple[str, str], tuple[str, str]]) -> list[str]:
    """Return the tables, those that others refer to first."""
    needs = {table: {to for (of, _), (to, _) in references.items() if of == table and to != table} for table in columns}
    ordered: list[str] = []
    while len(ordered) < len(columns):
        ready = [table for table in columns if table not in ordered and needs[table] <= set(ordered)]
        assert ready, "tables refer to each other in a circle"
        ordered += ready
    return ordered


def _referred(connection: Connection, place: tuple[str, str]) -> object:
    table, column = place
    return connection.scalar(sa.select(sa.column(column)).select_from(sa.table(table)).limit(1))


def _value(kind: sa.types.TypeEngine[Any], dialect: str, seed: str) -> object:
    """Return a value that no default is, the same for the same place."""
    if isinstance(kind, sa.Uuid) or (isinstance(kind, sa.CHAR) and kind.length == _HEX):
        made = uuid.uuid5(uuid.NAMESPACE_OID, seed)
        return made if dialect == "postgresql" else made.hex
    if isinstance(kind, sa.String):
        return seed[: kind.length or 100]
    if isinstance(kind, sa.BigInteger) and dialect == "sqlite":
        # It may be an instant there.
        return int(WHEN.timestamp()) * 1_000_000
    return next(value for types, value in _VALUES.items() if isinstance(kind, types))
