"""The layout of a wire struct in the words of docs/contract.md, drawn from the struct itself."""

import datetime as dt
from typing import Any

import msgspec

_PLAIN: dict[type[msgspec.inspect.Type], str] = {
    msgspec.inspect.UUIDType: "uuid",
    msgspec.inspect.DateTimeType: "timestamp",
    msgspec.inspect.DecimalType: "decimal",
    msgspec.inspect.BoolType: "bool",
    msgspec.inspect.FloatType: "float",
    msgspec.inspect.NoneType: "nil",
    msgspec.inspect.DictType: "map",
    msgspec.inspect.RawType: "item",
}


def type_words(info: msgspec.inspect.Type) -> str:  # noqa: PLR0911 - one return per wire type
    """Say what stands on the wire for a field of this type."""
    match info:
        case msgspec.inspect.Metadata():
            return type_words(info.type)
        case msgspec.inspect.UnionType():
            return " or ".join(type_words(member) for member in info.types)
        case msgspec.inspect.ListType():
            return f"array of {type_words(info.item_type)}"
        case msgspec.inspect.StructType():
            return info.cls.__name__
        case msgspec.inspect.StrType():
            return "text" if info.max_length is None else f"text {info.min_length or 0}..{info.max_length}"
        case msgspec.inspect.BytesType():
            if info.max_length is None:
                return "bin"
            ends = sorted({info.min_length or 0, info.max_length})
            return "bin " + "..".join(str(end) for end in ends)
        case msgspec.inspect.IntType():
            if info.le is None:
                return "int"
            top = f"2^{info.le.bit_length()}-1" if info.le + 1 == 1 << info.le.bit_length() else str(info.le)
            return f"int {info.ge or 0}..{top}"
        case _:
            return _PLAIN[type(info)]


def _default(field: msgspec.inspect.Field) -> str:  # noqa: PLR0911 - one return per kind of default
    if field.required:
        return "-"
    value: Any = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    match value:
        case None:
            return "nil"
        case bool():
            return str(value).lower()
        case "" | b"":
            return "empty"
        case list() | dict():
            return "empty"
        case dt.datetime():
            return value.isoformat()
        case _:
            return str(value)


def layout_rows(kind: type[msgspec.Struct]) -> list[tuple[str, str, str, str]]:
    """Return position, field, type and default of each element of the array."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    rows = [] if info.tag is None else [("0", "tag", f'text "{info.tag}"', "-")]
    shift = len(rows)
    rows.extend(
        (str(position + shift), field.name, type_words(field.type), _default(field))
        for position, field in enumerate(info.fields)
    )
    return rows
