"""Cells of sheets: what stands in one and what the field of a body says are the same, both ways.

Rules. A cell becomes the JSON of its field and is judged as REST judges that (``hub.bodies``), so a sheet takes what a
body takes, no more and no less. An empty cell is null; where a field cannot be null, its default. A text that is empty
and a null are one and the same in a sheet. What spreadsheets make of numbers and times is refused in words that help.
"""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from hub.bodies import Body, partial, read_struct
from hub.problems import WrongField
from protocol.wire import ContractError

_NUMBER = re.compile(r"[+-]?[0-9]+")
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_DIGITS = 18
"""What is longer fits no field."""

_WORDS = {"true": b"true", "false": b"false"}


class Column(NamedTuple):
    """A column that is a field of a body. ``kind`` is text, number, boolean or time."""

    name: str
    kind: str
    nullable: bool
    default: Any


_KINDS: Mapping[Any, str] = {
    msgspec.inspect.StrType: "text",
    msgspec.inspect.IntType: "number",
    msgspec.inspect.BoolType: "boolean",
    msgspec.inspect.DateTimeType: "time",
}


def columns_of(body: type[Body], names: Sequence[str]) -> dict[str, Column]:
    """Return the columns for these fields of a body, by name."""
    fields = {field.name: field for field in msgspec.structs.fields(body)}
    found = {}
    for name in names:
        kind = msgspec.inspect.type_info(fields[name].type)
        options = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
        nullable = any(isinstance(one, msgspec.inspect.NoneType) for one in options)
        (plain,) = (one for one in options if not isinstance(one, msgspec.inspect.NoneType))
        while isinstance(plain, msgspec.inspect.Metadata):
            plain = plain.type
        found[name] = Column(name, _KINDS[type(plain)], nullable, fields[name].default)
    return found


def read_cells(
    body: type[Body], columns: Mapping[str, Column], cells: Mapping[str, str]
) -> tuple[Any, list[WrongField]]:
    """Return what the cells say as the struct of a PATCH of the body, or None with everything that is wrong."""
    raw, errors = {}, []
    for name, column in columns.items():
        if name in cells:
            try:
                raw[name] = msgspec.Raw(_json_of(column, cells[name]))
            except ContractError as error:
                errors.append(WrongField(name, str(error)))
    struct, more = read_struct(raw, partial(body))
    errors += more
    return (None, errors) if errors else (struct, [])


def _json_of(column: Column, cell: str) -> bytes:
    if not cell or (column.kind != "text" and not cell.strip()):
        if column.nullable:
            return b"null"
        if column.default is msgspec.NODEFAULT:
            raise ContractError("this cell must not be empty")
        return msgspec.json.encode(column.default)
    if column.kind in {"text", "time"}:
        return msgspec.json.encode(cell if column.kind == "text" else _instant(cell.strip()))
    word = cell.strip()
    if column.kind == "boolean":
        if word.lower() not in _WORDS:
            raise ContractError(f"{word[:50]!r} is neither true nor false")
        return _WORDS[word.lower()]
    if _COMMA.fullmatch(word):
        raise ContractError(f"{word[:50]!r} has a decimal comma: write numbers with a point, and here whole ones only")
    if not _NUMBER.fullmatch(word):
        raise ContractError(f"{word[:50]!r} is not a whole number, in digits alone")
    if len(word) > _DIGITS:
        raise ContractError(f"{word[:50]!r} is too large")
    return str(int(word)).encode()


def _instant(word: str) -> str:
    try:
        if dt.datetime.fromisoformat(word).tzinfo is not None:
            return word.replace(" ", "T", 1)
    except ValueError:
        pass
    raise ContractError(
        f"{word[:50]!r} is not a time with an offset, such as 2026-03-01T00:00:00Z or 2026-03-01T01:00:00+01:00; "
        "spreadsheets change times unless the column is text"
    )


def cell_of(value: Any) -> str:  # noqa: ANN401 - any field's value
    """Return what stands in the cell of a value."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime):
        return str(msgspec.to_builtins(value))
    return str(value)
