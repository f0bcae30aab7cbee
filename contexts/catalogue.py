"""Every context and call that a task may name, and the one check of what a task asks.

The hub answers 422 with what ``check_call`` says, the agent refuses with the same sentence. A context is listed here
and nowhere else.
"""

import types
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

import msgspec

from contexts import generic_iec6205621, generic_lis200
from contexts.calls import Call, CallError, Context

__all__ = ["CONTEXTS", "Call", "CallError", "Context", "check_call", "find_call", "kwargs_from_text"]

CONTEXTS: Mapping[str, Context] = types.MappingProxyType(
    {context.name: context for context in (generic_lis200.CONTEXT, generic_iec6205621.CONTEXT)}
)
"""The contexts by name, as ``meter_execution_type`` names them."""


def find_call(context: str, call: str) -> Call:
    """The call of that name.

    Raises:
        CallError: naming ``meter_execution_type`` or ``task_call``, with what there is.
    """
    known = CONTEXTS.get(context)
    if known is None:
        raise CallError("meter_execution_type", f"{context!r} is no known context; expected {_listed(CONTEXTS)}")
    found = known.calls.get(call)
    if found is None:
        raise CallError("task_call", f"{call!r} is no call of {context}; expected {_listed(known.calls)}")
    return found


def check_call(context: str, call: str, kwargs: Mapping[str, Any] | None) -> msgspec.Struct:
    """The typed kwargs of a call; None stands for none at all.

    Raises:
        CallError: naming the key that is wrong, missing or unknown (``task_kwargs.address``), and what is expected.
    """
    return _checked(find_call(context, call), kwargs or {}, strict=True)


def kwargs_from_text(context: str, call: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Kwargs as JSON has them, from the ``key=value`` texts of a command line; checked like ``check_call`` does.

    A list is its parts with commas between, ``null`` stands for none.

    Raises:
        CallError: as ``check_call``.
    """
    checked = _checked(find_call(context, call), texts, strict=False)
    given = {key: getattr(checked, key) for key in texts}
    return {key: value if isinstance(value, int) else _parts(texts[key], value) for key, value in given.items()}


def _checked(call: Call, kwargs: Mapping[str, Any], *, strict: bool) -> msgspec.Struct:
    fields = {field.name: field for field in msgspec.structs.fields(call.kwargs)}
    for key in kwargs:
        if key not in fields:
            takes = f"takes {_listed(fields)}" if fields else "takes no kwargs"
            raise CallError(f"task_kwargs.{key}", f"unknown; {call.name} {takes}")
    values = {}
    for key, field in fields.items():
        if key not in kwargs:
            if field.required:
                raise CallError(f"task_kwargs.{key}", f"missing; expected {_expected(field.type)}")
            continue
        try:
            given = kwargs[key] if strict else _from_text(kwargs[key], field.type)
            values[key] = msgspec.convert(given, field.type, strict=strict, dec_hook=_decoded)
        except msgspec.ValidationError as error:
            raise CallError(f"task_kwargs.{key}", f"{error}; expected {_expected(field.type)}") from error
    return call.kwargs(**values)


def _from_text(text: str, kind: Any) -> Any:  # noqa: ANN401 - a type as annotated, and what msgspec converts
    return text.split(",") if text != "null" and _has_list(kind) else text


def _has_list(kind: object) -> bool:
    """Whether a type, as annotated, is a list or may be one (``list[str] | None``)."""
    return get_origin(kind) is list or any(_has_list(part) for part in get_args(kind))


def _parts(text: str, value: object) -> Any:  # noqa: ANN401 - as JSON has it
    if value is None:
        return None
    return text.split(",") if isinstance(value, list) else text


def _decoded(kind: type, value: object) -> object:
    """What msgspec does not know by itself: ``Date`` and other types made from one text."""
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return kind(value)


def _expected(kind: object) -> str:
    if get_origin(kind) is Annotated:
        for extra in get_args(kind)[1:]:
            if isinstance(extra, msgspec.Meta) and extra.description:
                return extra.description
    return str(kind)


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names)
