"""How every message becomes MessagePack and back, and the bounds that hold for each value on the wire.

Structs are ``array_like``: fields are only ever appended, with defaults, so that an old peer ignores what it does
not know and a new peer fills in what an old one did not send. UUIDs travel as 16 bytes, decimals as text (exact),
datetimes as the MessagePack timestamp extension (-1), always aware.
"""

import datetime as dt
import decimal
import re
from typing import Annotated, Any, TypeVar

import msgspec

MAX_MESSAGE_BYTES = 256 * 1024
"""No message of any kind is larger than this (DESIGN section 4, Sizes)."""

MAX_BATCH_BYTES = 64 * 1024
"""No batch of readings or reports is larger than this."""

MAX_DECIMAL_DIGITS = 38
MAX_DECIMAL_EXPONENT = 18
MAX_DECIMAL_TEXT = 64

Instant = Annotated[dt.datetime, msgspec.Meta(tz=True)]
"""An aware datetime. A naive one is refused when decoding; ``encode`` refuses it too."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=150)]
SeriesName = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
MeterName = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
Text = Annotated[str, msgspec.Meta(max_length=2000)]
Digest = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
StoreId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

GATEWAY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder(uuid_format="bytes", decimal_format="string")


class ContractError(ValueError):
    """A value or message does not fit the contract; the text names what and why."""


def checked_decimal(value: decimal.Decimal) -> decimal.Decimal:
    """Return the value unchanged if it may travel: finite, at most 38 digits, exponent within +-18.

    Raises:
        ContractError: naming the bound that the value breaks.
    """
    if not value.is_finite():
        raise ContractError(f"value {value} is not a finite number")
    _, digits, exponent = value.as_tuple()
    if len(digits) > MAX_DECIMAL_DIGITS:
        raise ContractError(f"value has {len(digits)} digits; at most {MAX_DECIMAL_DIGITS} are allowed")
    # is_finite() above means that the exponent is a number, not 'n', 'N' or 'F'.
    if abs(int(exponent)) > MAX_DECIMAL_EXPONENT:
        raise ContractError(f"value has exponent {exponent}; it must lie within +-{MAX_DECIMAL_EXPONENT}")
    return value


def parse_decimal(text: str) -> decimal.Decimal:
    """Turn decimal text from a meter or a person into an exact value.

    Raises:
        ContractError: when the text is not a decimal number within the contract's bounds.
    """
    if len(text) > MAX_DECIMAL_TEXT:
        raise ContractError(f"value text has {len(text)} characters; at most {MAX_DECIMAL_TEXT} are allowed")
    try:
        value = decimal.Decimal(text)
    except decimal.InvalidOperation:
        raise ContractError(f"{text!r} is not a decimal number") from None
    return checked_decimal(value)


def checked_instant(value: dt.datetime) -> dt.datetime:
    """Return the value unchanged if it is aware.

    Raises:
        ContractError: when it is naive, because such a time means something else on every machine.
    """
    if value.tzinfo is None:
        raise ContractError(f"{value.isoformat()} has no offset from UTC")
    return value


def encode(message: msgspec.Struct | list[msgspec.Struct]) -> bytes:
    """Encode a contract struct as MessagePack."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview | msgspec.Raw, kind: type[T]) -> T:
    """Decode one message of the given struct.

    Raises:
        ContractError: when the bytes are not MessagePack or not that message; the text says what is wrong.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise ContractError(f"not a {kind.__name__}: {error}") from error


def plain(data: msgspec.Raw | bytes) -> Any:  # noqa: ANN401 - the plain objects of whatever was encoded
    """Decode without a schema, for people and quarantines.

    Raises:
        ContractError: when the bytes are not MessagePack.
    """
    try:
        return msgspec.msgpack.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ContractError(f"not MessagePack: {error}") from error
