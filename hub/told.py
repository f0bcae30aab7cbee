"""Rows as the JSON of an answer, made by PostgreSQL: text by text, so that Python only joins it.

A page of readings has ten thousand values. Made so, each reading costs 0.6 us of this process; as columns it cost 10:
three instants alone are 4.6 us in PostgreSQL's driver. The database takes 3 us more for it than for the columns.

Rules.
- The text is what ``msgspec`` makes of the answer's struct, byte by byte: instants in UTC with six digits after the
  point or none, decimals with all their digits. Only a float outside of 0.0001 to 1e15 may be another text of the same
  number. Tests hold both against each other.
- One call of ``concat`` makes a row: with an operator between each two parts the text would be copied from step to
  step, 7 us for a reading.
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


def text(column: str) -> str:
    """Return the SQL of a text's JSON; many of the texts are words of ``_PLAIN``."""
    words = ", ".join(f"'{one}'" for one in _PLAIN)
    return f"CASE WHEN {column} IN ({words}) THEN concat('\"', {column}, '\"') ELSE {any_text(column)} END"


def any_text(column: str) -> str:
    """Return the SQL of a text's JSON; null stays NULL."""
    return f"CAST(to_json(CAST({column} AS text)) AS text)"


def instant(column: str) -> str:
    """Return the SQL of an instant's JSON."""
    utc = f"{column} AT TIME ZONE 'UTC'"
    # Whole seconds, which nearly all are that meters say, cost half of others so.
    whole = f"concat(rtrim(CAST(to_json({utc}) AS text), '\"'), 'Z\"')"
    parts = f"""to_char({utc}, '"\\""YYYY-MM-DD"T"HH24:MI:SS.US"Z\\""')"""
    return f"CASE WHEN CAST({column} AS timestamptz(0)) = {column} THEN {whole} ELSE {parts} END"


def quoted(column: str) -> str:
    """Return the SQL of the JSON of an id, or a decimal, which is text there."""
    return f"concat('\"', {column}, '\"')"


def or_null(column: str, told: str) -> str:
    """Return the SQL of the JSON of what may be NULL."""
    return f"CASE WHEN {column} IS NULL THEN 'null' ELSE {told} END"


def number(column: str) -> str:
    """Return the SQL of a float's JSON, null if it is NULL."""
    told = f"CAST({column} AS text)"
    whole = f"{told} NOT LIKE '%.%' AND {told} NOT LIKE '%e%'"
    return or_null(column, f"concat({told}, CASE WHEN {whole} THEN '.0' END)")


def object_of(fields: Sequence[tuple[str, str]], *more: str) -> str:
    """Return the SQL of an object: its fields' names with the SQL of their JSON, and of more fields or NULL."""
    parts = [f"""'{"," if place else "{"}"{name}":', {told}""" for place, (name, told) in enumerate(fields)]
    return f"""concat({", ".join([*parts, *more, "'}'"])})"""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """How rows of a table are told.

    Attributes:
        names: The columns that it takes.
        sql: The JSON of a row, by what the row is called.
        place: A struct of what lists are walked along, which is read from the JSON.
    """

    names: Sequence[str]
    sql: Callable[[str], str]
    place: type[msgspec.Struct]

    def column(self, row: str) -> sa.ColumnElement[str]:
        """Return what is selected of rows that are called so."""
        return sa.literal_column(self.sql(row), sa.Text())

    def chosen(self, rows: sa.Select[Any], order: Sequence[Any], *more: str) -> sa.Select[Any]:
        """Select the JSON of rows, of which these columns are selected at least, and more of their columns before it.

        Of a part of the statement: else it would be planned, and made ready, for each month anew.
        """
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
