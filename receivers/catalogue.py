"""Every receiver that a plan may name, and the one check of what it is asked for.

The hub answers 422 with what ``check_receiver`` says, the agent leaves a receiver out with the same sentence. A
receiver is listed here and nowhere else. Modules are imported when they are first named: what a gateway never
receives it never loads.
"""

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

import msgspec

from receivers.endpoints import parse_endpoint
from receivers.receiver import Receiver, ReceiverError

__all__ = ["NAMES", "Receiver", "ReceiverError", "check_receiver", "find_receiver", "kwargs_from_text"]

NAMES: tuple[str, ...] = ("amr_um", "dlms_push", "dsmr_p1", "iec62056_push")
"""The receivers by name: each is the module ``receivers.NAME`` with its ``RECEIVER``."""


def find_receiver(name: str) -> Receiver:
    """The receiver of that name.

    Raises:
        ReceiverError: naming ``receiver``, with what there is.
    """
    if name not in NAMES:
        raise ReceiverError("receiver", f"{name[:50]!r} is no known receiver; expected {', '.join(NAMES)}")
    found: Receiver = importlib.import_module(f"receivers.{name}").RECEIVER
    return found


def check_receiver(name: str, endpoint: str, kwargs: Mapping[str, Any] | None) -> msgspec.Struct:
    """The typed kwargs of a receiver at an endpoint; None stands for none at all.

    Raises:
        ReceiverError: naming what is wrong, missing or unknown (``receiver_kwargs.raster``), and what is expected.
    """
    receiver = find_receiver(name)
    way = parse_endpoint(endpoint).way
    if way.transport not in receiver.transports:
        expected = " or ".join(sorted(transport.value for transport in receiver.transports))
        raise ReceiverError("endpoint", f"{endpoint!r} is no endpoint for {name}, which takes {expected}")
    return _checked(receiver, kwargs or {}, strict=True)


def kwargs_from_text(name: str, texts: Mapping[str, str]) -> msgspec.Struct:
    """The typed kwargs of a receiver from the ``key=value`` texts of a command line.

    A list has commas between, ``null`` stands for none.

    Raises:
        ReceiverError: as ``check_receiver``.
    """
    return _checked(find_receiver(name), texts, strict=False)


def _checked(receiver: Receiver, kwargs: Mapping[str, Any], *, strict: bool) -> msgspec.Struct:
    fields = {field.name: field for field in msgspec.structs.fields(receiver.kwargs)}
    values = {}
    for key, given in kwargs.items():
        field = fields.get(key)
        if field is None:
            takes = f"takes {', '.join(fields)}" if fields else "takes no kwargs"
            raise ReceiverError(f"receiver_kwargs.{key}", f"unknown; {receiver.name} {takes}")
        try:
            value = given if strict else _from_text(given, field.type)
            values[key] = msgspec.convert(value, field.type, strict=strict)
        except msgspec.ValidationError as error:
            raise ReceiverError(f"receiver_kwargs.{key}", f"{error}; expected {_expected(field.type)}") from error
    missing = [key for key, field in fields.items() if field.required and key not in kwargs]
    if missing:
        raise ReceiverError(f"receiver_kwargs.{missing[0]}", f"missing; expected {_expected(fields[missing[0]].type)}")
    try:
        return receiver.kwargs(**values)
    except ValueError as error:
        raise ReceiverError("receiver_kwargs", str(error)) from error


def _from_text(text: str, kind: object) -> Any:  # noqa: ANN401 - what msgspec converts
    if text == "null" and _may_be(kind, type(None)):
        return None
    return text.split(",") if _has_list(kind) else text


def _may_be(kind: object, wanted: type) -> bool:
    return kind is wanted or any(_may_be(part, wanted) for part in get_args(kind))


def _has_list(kind: object) -> bool:
    return get_origin(kind) is list or any(_has_list(part) for part in get_args(kind))


def _expected(kind: object) -> str:
    if get_origin(kind) is Annotated:
        for extra in get_args(kind)[1:]:
            if isinstance(extra, msgspec.Meta) and extra.description:
                return extra.description
    return str(kind)
