"""Kwargs as a struct says them: what a task's call or a receiver is asked for, checked key by key.

A struct's fields, with the description in their ``msgspec.Meta``, are the documentation, the check, and the typed
argument. What is wrong is one error that names the key and says what is expected; ``contexts`` and ``receivers`` give
it their own name (``task_kwargs.address``, ``receiver_kwargs.raster``).
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

NONE = "null"
"""How a command line says that there is no value."""

K = TypeVar("K", bound=msgspec.Struct)


class KwargsError(ValueError):
    """A key that is wrong, missing or unknown; a struct's ``__post_init__`` raises it too. ``key`` names the key."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}: {text}" if key else text)
        self.key = key
        self.text = text

    def below(self, name: str) -> str:
        """The key as the field of a document has it: ``task_kwargs.address``."""
        return f"{name}.{self.key}" if self.key else name


def check_kwargs(kind: type[K], given: Mapping[str, Any], of: str) -> K:
    """The struct of what is given as JSON has it; ``of`` is what takes it, for people.

    Raises:
        KwargsError: naming the key that is wrong, missing or unknown, and what is expected.
    """
    return _checked(kind, given, of, strict=True)


def kwargs_of_texts(kind: type[K], texts: Mapping[str, str], of: str) -> K:
    """The struct of the ``key=value`` texts of a command line.

    A list is its parts with commas between, ``null`` stands for none.

    Raises:
        KwargsError: as ``check_kwargs``.
    """
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    return _checked(kind, {key: _value(text, types.get(key)) for key, text in texts.items()}, of, strict=False)


def listed(names: Iterable[str]) -> str:
    """Names as a message has them."""
    return ", ".join(names)


def _checked(kind: type[K], given: Mapping[str, Any], of: str, *, strict: bool) -> K:
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    for key in given:
        if key not in fields:
            raise KwargsError(key, f"unknown; {of} {f'takes {listed(fields)}' if fields else 'takes no kwargs'}")
    values = {}
    for key, field in fields.items():
        if key not in given:
            if field.required:
                raise KwargsError(key, f"missing; expected {_expected(field.type)}")
            continue
        try:
            values[key] = msgspec.convert(given[key], field.type, strict=strict, dec_hook=_made)
        except msgspec.ValidationError as error:
            raise KwargsError(key, f"{error}; expected {_expected(field.type)}") from error
    try:
        return kind(**values)
    except KwargsError:
        raise
    except ValueError as error:
        raise KwargsError("", str(error)) from error


def _value(text: str, kind: object) -> Any:  # noqa: ANN401 - what msgspec converts
    if text == NONE and _may_be(kind, type(None)):
        return None
    return text.split(",") if _may_be(kind, list) else text


def _may_be(kind: object, wanted: type) -> bool:
    """Whether a type, as annotated, is that one or may be it (``list[str] | None``); not what a list holds."""
    if kind is wanted or get_origin(kind) is wanted:
        return True
    return get_origin(kind) is not list and any(_may_be(part, wanted) for part in get_args(kind))


def _made(kind: type, value: object) -> object:
    """What msgspec does not know by itself: types made from one text, such as a date."""
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return kind(value)


def _expected(kind: object) -> str:
    if get_origin(kind) is Annotated:
        for extra in get_args(kind)[1:]:
            if isinstance(extra, msgspec.Meta) and extra.description:
                return extra.description
    return str(kind)
