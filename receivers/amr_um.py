"""``amr_um``: readings as JSON in MQTT messages, for other people's devices and receivers; a gateway's push door.

A message is one object or a list of them, as ``POST /v1/metering/new-meter-readings`` takes them: ``meter``,
``series``, ``timestamp``, ``value``; here also ``unit`` and ``collected``. Rules:
- Strict: an unknown field, a naive time, a number that is none cost their reading, which is set aside with the cause.
- Exact: a value is text or a JSON number; either becomes ``Decimal`` from its digits, never a float.
- A meter is known by its name.
"""

import datetime as dt
import decimal
from collections.abc import Iterator
from typing import Annotated

import msgspec

from protocol.wire import ContractError, checked_decimal
from receivers.receiver import MAX_BUFFER, Arrival, Identity, Meters, Pushed, Receiver, Transport, Undecodable

MAX_READINGS = 1000
"""Readings in one message."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
Instant = Annotated[dt.datetime, msgspec.Meta(tz=True)]


class Kwargs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``amr_um`` needs to be told nothing."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One reading of a message."""

    meter: Name
    series: Name
    timestamp: Instant
    value: decimal.Decimal
    unit: Annotated[str, msgspec.Meta(max_length=10)] = ""
    collected: Instant | None = None


_DECODER = msgspec.json.Decoder(Message, strict=True)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class JsonIntake:
    """What all messages of one receiver share: nothing."""

    def __init__(self, _kwargs: Kwargs, _meters: Meters, _kept: bytes) -> None:
        self.superfluous = 0

    def connection(self) -> "JsonDecoder":
        """A decoder for one message."""
        return JsonDecoder()

    def kept(self) -> bytes:
        """Nothing."""
        return b""


class JsonDecoder:
    """Takes one message apart."""

    def receive(self, data: bytes, at: dt.datetime) -> list[Arrival]:
        """Judge the readings of a message."""
        return list(_judge(data, at))

    def end(self, at: dt.datetime) -> list[Arrival]:  # noqa: ARG002 - the seam's
        """Nothing is left: a message ends where it ends."""
        return []


def _judge(data: bytes, at: dt.datetime) -> Iterator[Arrival]:
    if len(data) > MAX_BUFFER:
        yield Undecodable(data, f"a message of {len(data)} bytes; at most {MAX_BUFFER} are taken", at)
        return
    try:
        items = _LIST.decode(data) if data.lstrip()[:1] == b"[" else [msgspec.Raw(data)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        yield Undecodable(data, f"it is no JSON: {error}", at)
        return
    if len(items) > MAX_READINGS:
        yield Undecodable(data, f"{len(items)} readings in a message; at most {MAX_READINGS} are taken", at)
        return
    for item in items:
        yield _reading(bytes(item), at)


def _reading(item: bytes, at: dt.datetime) -> Arrival:
    meter = ""
    try:
        message = _DECODER.decode(item)
        meter = message.meter
        return _pushed(message, at)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ContractError) as error:
        return Undecodable(item, str(error), at, meter)


def _pushed(message: Message, at: dt.datetime) -> Pushed:
    for name in ("meter", "series", "unit"):
        if not getattr(message, name).isprintable():
            raise ContractError(f"{name}: it has characters that cannot be printed")
    collected = _utc(message.collected) if message.collected is not None else None
    value = checked_decimal(message.value)
    return Pushed(message.meter, message.series, value, message.unit, _utc(message.timestamp), at, collected)


def _utc(instant: dt.datetime) -> dt.datetime:
    try:
        return instant.astimezone(dt.UTC)
    except OverflowError as error:
        raise ContractError(f"{instant.isoformat()} does not exist in UTC") from error


RECEIVER = Receiver(
    name="amr_um",
    description="Readings as JSON (NewMeterReading, one or a list) in messages on the gateway's broker connection",
    kwargs=Kwargs,
    open=JsonIntake,
    transports=frozenset({Transport.MESSAGE}),
    identity=Identity.NAME,
)
