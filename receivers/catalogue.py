"""Every receiver that a plan may name, and the one check of what it is asked for.

The hub answers 422 with what ``check_receiver`` says, the agent leaves a receiver out with the same sentence. A
receiver is listed here and nowhere else. Modules are imported when they are first named: what a gateway never
receives it never loads.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import msgspec

from protocol.kwargs import KwargsError, check_kwargs, kwargs_of_texts, listed
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
        raise ReceiverError("receiver", f"{name[:50]!r} is no known receiver; expected {listed(NAMES)}")
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
    try:
        return check_kwargs(receiver.kwargs, kwargs or {}, receiver.name)
    except KwargsError as error:
        raise ReceiverError(error.below("receiver_kwargs"), error.text) from error


def kwargs_from_text(name: str, texts: Mapping[str, str]) -> msgspec.Struct:
    """The typed kwargs of a receiver from the ``key=value`` texts of a command line.

    A list has commas between, ``null`` stands for none.

    Raises:
        ReceiverError: as ``check_receiver``.
    """
    try:
        return kwargs_of_texts(find_receiver(name).kwargs, texts, name)
    except KwargsError as error:
        raise ReceiverError(error.below("receiver_kwargs"), error.text) from error
