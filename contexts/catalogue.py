"""Every context and call that a task may name, and the one check of what a task asks.

The hub answers 422 with what ``check_call`` says, the agent refuses with the same sentence. A context is listed here
and nowhere else.
"""

import types
from collections.abc import Mapping
from typing import Any

import msgspec

from contexts import generic_iec6205621, generic_lis200
from contexts.calls import Call, CallError, Context
from protocol.kwargs import KwargsError, check_kwargs, kwargs_of_texts, listed

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
        raise CallError("meter_execution_type", f"{context!r} is no known context; expected {listed(CONTEXTS)}")
    found = known.calls.get(call)
    if found is None:
        raise CallError("task_call", f"{call!r} is no call of {context}; expected {listed(known.calls)}")
    return found


def check_call(context: str, call: str, kwargs: Mapping[str, Any] | None) -> msgspec.Struct:
    """The typed kwargs of a call; None stands for none at all.

    Raises:
        CallError: naming the key that is wrong, missing or unknown (``task_kwargs.address``), and what is expected.
    """
    found = find_call(context, call)
    try:
        return check_kwargs(found.kwargs, kwargs or {}, found.name)
    except KwargsError as error:
        raise CallError(error.below("task_kwargs"), error.text) from error


def kwargs_from_text(context: str, call: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Kwargs as JSON has them, from the ``key=value`` texts of a command line; checked like ``check_call`` does.

    A list is its parts with commas between, ``null`` stands for none.

    Raises:
        CallError: as ``check_call``.
    """
    found = find_call(context, call)
    try:
        checked = kwargs_of_texts(found.kwargs, texts, found.name)
    except KwargsError as error:
        raise CallError(error.below("task_kwargs"), error.text) from error
    given = {key: getattr(checked, key) for key in texts}
    return {key: value if isinstance(value, int) else _parts(texts[key], value) for key, value in given.items()}


def _parts(text: str, value: object) -> Any:  # noqa: ANN401 - as JSON has it
    if value is None:
        return None
    return text.split(",") if isinstance(value, list) else text
