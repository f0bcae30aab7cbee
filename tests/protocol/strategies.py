"""Hypothesis strategies for every wire struct, drawn from the structs' own annotations.

A field that is appended to a struct is therefore tested from the moment it exists.
"""

import datetime as dt
import decimal
import functools
import inspect
import types
from typing import Any

import msgspec
from hypothesis import strategies as st

from protocol import commands, envelopes, meter_keys, plans, readings, reports

_MODULES: tuple[types.ModuleType, ...] = (commands, envelopes, meter_keys, plans, readings, reports)


def wire_structs() -> list[type[msgspec.Struct]]:
    """Every struct that travels, in a stable order."""
    found = {
        item.__name__: item
        for module in _MODULES
        for item in vars(module).values()
        if inspect.isclass(item) and issubclass(item, msgspec.Struct) and item.__module__ == module.__name__
        if item.__struct_config__.array_like
    }
    return [found[name] for name in sorted(found)]


def instants() -> st.SearchStrategy[dt.datetime]:
    """Aware instants, in UTC and elsewhere."""
    zones = st.one_of(
        st.just(dt.UTC), st.integers(-14 * 60, 14 * 60).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))
    )
    return st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 12, 31), timezones=zones)  # noqa: DTZ001 - the zone is the third argument


def exact_decimals() -> st.SearchStrategy[decimal.Decimal]:
    """Every decimal that the contract allows, its exponent and trailing zeros included."""
    return st.builds(
        lambda sign, digits, exponent: decimal.Decimal((sign, tuple(digits), exponent)),
        st.integers(0, 1),
        st.lists(st.integers(0, 9), min_size=1, max_size=38),
        st.integers(-18, 18),
    )


def texts(shortest: int = 0, longest: int = 60) -> st.SearchStrategy[str]:
    """Text that every store keeps: no NUL, no lone surrogate."""
    alphabet = st.characters(exclude_characters="\0", codec="utf-8")
    return st.text(alphabet, min_size=shortest, max_size=min(longest, 60))


def plain_values() -> st.SearchStrategy[Any]:
    """What may stand in kwargs and results."""
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        texts(),
        st.floats(allow_nan=False, allow_infinity=False),
    )
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts(), inner, max_size=3), max_leaves=5
    )


def _by_field(owner: type[msgspec.Struct], field: str) -> st.SearchStrategy[Any] | None:
    """Fields whose own rules are narrower than their type."""
    match owner.__name__, field:
        case "Line", "parity":
            return st.sampled_from(plans.PARITIES)
        case "CallerGrant", "name":
            return st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
        case _:
            return None


def _by_type(info: msgspec.inspect.Type) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911, PLR0912 - one case per wire type
    match info:
        case msgspec.inspect.UUIDType():
            return st.uuids()
        case msgspec.inspect.DateTimeType():
            return instants()
        case msgspec.inspect.DecimalType():
            return exact_decimals()
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.NoneType():
            return st.none()
        case msgspec.inspect.FloatType():
            return st.floats(allow_nan=False, allow_infinity=False)
        case msgspec.inspect.IntType():
            low = info.ge if info.ge is not None else -(2**63)
            high = info.le if info.le is not None else 2**63 - 1
            return st.integers(low, high)
        case msgspec.inspect.StrType():
            return texts(info.min_length or 0, info.max_length or 60)
        case msgspec.inspect.BytesType():
            return st.binary(min_size=info.min_length or 0, max_size=info.max_length or 200)
        case msgspec.inspect.ListType(item_type=msgspec.inspect.RawType()):
            return st.lists(plain_values().map(lambda value: msgspec.Raw(msgspec.msgpack.encode(value))), max_size=3)
        case msgspec.inspect.ListType():
            return st.lists(_by_type(info.item_type), max_size=3)
        case msgspec.inspect.DictType():
            free = isinstance(info.value_type, msgspec.inspect.AnyType)
            return st.dictionaries(texts(), plain_values() if free else _by_type(info.value_type), max_size=3)
        case msgspec.inspect.UnionType():
            return st.one_of([_by_type(member) for member in info.types])
        case msgspec.inspect.StructType():
            return struct_values(info.cls)
        case msgspec.inspect.Metadata():
            return _by_type(info.type)
        case _:
            raise AssertionError(f"a wire struct has a field of the type {info}, which this page does not know")


@functools.cache
def struct_values(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Valid values of one wire struct; with the fields that have defaults sometimes left out."""
    if kind is readings.BatchName:
        return st.builds(
            lambda store, digest, ends: readings.BatchName(store, min(ends), max(ends), digest),
            st.binary(min_size=16, max_size=16),
            st.binary(min_size=16, max_size=16),
            st.tuples(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1)),
        )
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in info.fields:
        narrower = _by_field(kind, field.name)
        values = _by_type(field.type) if narrower is None else narrower
        (required if field.required else optional)[field.name] = values
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: kind(**given))
