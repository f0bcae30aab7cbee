"""Rows as the JSON of an answer, made by PostgreSQL: text by text, so that Python only joins it.

A page of readings has ten thousand values. Made so, each reading costs 0.6 us of this process; as columns it cost 10:
three instants alone are 4.6 us in PostgreSQL's driver. The database takes 3 us more for it than for the columns.

Rules.
- The text is what ``msgspec`` makes of the answer's struct, byte by byte: instants in UTC with six digits after the
  point or none, decimals with all their digits. Only a float outside of 0.0001 to 1e15 may be another text of the same
  number. Tests hold both against each other.
- One call of ``concat`` makes a row, of as few parts as can be: with an operator between each two of them the text
  would be copied from step to step, 7 us for a reading.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.util import ClauseAdapter

_PLAIN: Final = (
    "meter", "gateway", "push", "staff",
    "m3", "m³", "m3/h", "m³/h", "kWh", "MWh", "Wh", "kvarh", "kW", "kvar", "W", "V", "A", "bar", "mbar", "°C", "%",
)  # fmt: skip
"""Texts that JSON has as they are. Others are escaped by the database, which takes half a microsecond each."""


Parts = tuple[str, ...]
"""SQL whose texts, one after the other, are the JSON of a column; literals of them are between simple quotes."""


def text(column: str) -> Parts:
    """Return a text's JSON; many of the texts are words of ``_PLAIN``."""
    words = ", ".join(f"'{one}'" for one in _PLAIN)
    return (f"CASE WHEN {column} IN ({words}) THEN concat('\"', {column}, '\"') ELSE {any_text(column)} END",)


def any_text(column: str) -> str:
    """Return the SQL of a text's JSON; null stays NULL."""
    return f"CAST(to_json(CAST({column} AS text)) AS text)"


def instant(column: str) -> Parts:
    """Return an instant's JSON."""
    utc = f"{column} AT TIME ZONE 'UTC'"
    # Whole seconds, which nearly all are that meters say, cost half of others so.
    whole = f"rtrim(CAST(to_json({utc}) AS text), '\"')"
    parts = f"""to_char({utc}, '"\\""YYYY-MM-DD"T"HH24:MI:SS.US')"""
    return f"CASE WHEN CAST({column} AS timestamptz(0)) = {column} THEN {whole} ELSE {parts} END", "'Z\"'"


def plain(column: str) -> Parts:
    """Return a whole number's JSON."""
    return (column,)


def quoted(column: str) -> Parts:
    """Return the JSON of an id, or of a decimal, which is text there."""
    return "'\"'", column, "'\"'"


def or_null(column: str, told: Parts) -> Parts:
    """Return the JSON of what may be NULL."""
    return (f"CASE WHEN {column} IS NULL THEN 'null' ELSE {_joined(told)} END",)


def number(column: str) -> Parts:
    """Return a float's JSON, null if it is NULL."""
    told = f"CAST({column} AS text)"
    whole = f"{told} NOT LIKE '%.%' AND {told} NOT LIKE '%e%'"
    return or_null(column, (told, f"CASE WHEN {whole} THEN '.0' END"))


def object_of(fields: Sequence[tuple[str, Parts]], *more: str) -> str:
    """Return the SQL of an object: its fields' names with their JSON, and of more fields or NULL."""
    parts = [part for name, told in fields for part in (f"""',"{name}":'""", *told)]
    parts[0] = parts[0].replace(",", "{", 1)
    return _joined((*parts, *more, "'}'"))


def _joined(parts: Sequence[str]) -> str:
    joined: list[str] = []
    for part in parts:
        if joined and part.startswith("'") and joined[-1].startswith("'"):
            joined[-1] = joined[-1][:-1] + part[1:]
        else:
            joined.append(part)
    return f"concat({', '.join(joined)})"


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """How rows of a table are told.

    Attributes:
        names: The columns that it takes.
        sql: The JSON of a row, by what the row is called.
        place: A struct of what lists are walked along, which is read from the JSON.
        key: What tells rows apart, if these are to be found first where they must be sorted: of 100,000 rows each
            would be taken with all its columns, for a page.
    """

    names: Sequence[str]
    sql: Callable[[str], str]
    place: type[msgspec.Struct]
    key: str = ""

    def column(self, row: str) -> sa.ColumnElement[str]:
        """Return what is selected of rows that are called so."""
        return sa.literal_column(self.sql(row), sa.Text())

    def chosen(self, rows: sa.Select[Any], order: Sequence[Any], *more: str) -> sa.Select[Any]:
        """Select the JSON of rows, of which these columns are selected at least, and more of their columns before it.

        Of a part of the statement: else it would be planned, and made ready, for each month anew.
        """
        if self.key and getattr(order[0], "key", "") != self.key:
            key = rows.selected_columns[self.key]
            rows = sa.select(*rows.selected_columns).where(
                key.in_(rows.with_only_columns(key).order_by(*order).correlate(None))
            )
        part = rows.order_by(*order).subquery("chosen")
        within = ClauseAdapter(part)
        told = sa.select(*(part.c[name] for name in more), self.column("chosen")).select_from(part)
        return told.order_by(*(within.traverse(_plain(one)) for one in order))

    def place_of(self, text: str) -> Any:  # noqa: ANN401 - has the columns' names
        """Return where a row stands in lists."""
        return msgspec.json.decode(text, type=self.place)


def _plain(one: Any) -> Any:  # noqa: ANN401 - a mapped or plain column, up or down
    return one.expression if isinstance(one, InstrumentedAttribute) else one


def listed(texts: Sequence[str]) -> Any:  # noqa: ANN401 - stands for a list of structs
    """Return rows' texts as the list in an answer."""
    return msgspec.Raw(f"[{','.join(texts)}]".encode())


def raw_list(parts: Sequence[bytes]) -> Any:  # noqa: ANN401 - stands for a list of structs
    """Return the list in an answer of parts of it, which the database put together; some may be empty."""
    return msgspec.Raw(b"[%b]" % b",".join(filter(None, parts)))
