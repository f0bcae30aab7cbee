"""How every message becomes MessagePack and back, and the bounds that hold for each value on the wire.

Structs are ``array_like``: fields are only ever appended, with defaults, so that an old peer ignores what it does
not know and a new peer fills in what an old one did not send. UUIDs travel as 16 bytes, decimals as text (exact),
datetimes as the MessagePack timestamp extension (-1), always aware.

The bounds exist so that a message which decodes can also be stored: no text holds NUL (PostgreSQL refuses it), no
integer leaves its column, no instant leaves the calendar in UTC, no number is NaN. What a database would refuse must
be refused here, where it costs one row, and not there, where it would cost the batch again and again.
"""

import datetime as dt
import decimal
import math
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

MAX_TEXT = 2000

Instant = Annotated[dt.datetime, msgspec.Meta(tz=True)]
"""An aware datetime. A naive one is refused when decoding, and by every ``Checked`` struct when it is made."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=150)]
SeriesName = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
MeterName = Annotated[str, msgspec.Meta(min_length=1, max_length=50)]
Word = Annotated[str, msgspec.Meta(max_length=100)]
"""A context, call, state, outcome, code or unit: text on the wire, never an enum, judged per item by who reads it."""
State = Annotated[str, msgspec.Meta(max_length=20)]
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
"""An explanation for people. A longer one is cut when the struct is made: a long error must not cost the report."""
Digest = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
StoreId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Sequence = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Revision = Annotated[int, msgspec.Meta(ge=0, le=2**62 - 1)]
"""Half of what a database holds: a hub that was put back must be able to lift its own above any agent's."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]

GATEWAY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

T = TypeVar("T")

_DECIMAL_TEXT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TEXT_FIELDS = frozenset({"cause", "text", "status", "reason"})

_encoder = msgspec.msgpack.Encoder(uuid_format="bytes", decimal_format="string")


class ContractError(ValueError):
    """A value or message does not fit the contract; the text names what and why."""


def checked_decimal(value: decimal.Decimal) -> decimal.Decimal:
    """Return the value unchanged if it may travel: finite, at most 38 digits, exponent within +-18.

    Raises:
        ContractError: naming the bound that the value breaks.
    """
    if not value.is_finite():
        # Not the value itself: a NaN may carry any number of digits.
        raise ContractError("value is NaN or infinite; only finite numbers are allowed")
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
    stripped = text.strip(" ")
    # decimal.Decimal is more generous: it takes "1_0", "NaN" and digits of any script.
    if not _DECIMAL_TEXT.fullmatch(stripped):
        raise ContractError(f"{text!r} is not a decimal number")
    try:
        value = decimal.Decimal(stripped)
    except decimal.InvalidOperation:
        raise ContractError(f"the exponent of {text!r} is out of bounds") from None
    return checked_decimal(value)


def checked_instant(value: dt.datetime) -> dt.datetime:
    """Return the value unchanged if it is aware and exists in UTC.

    Raises:
        ContractError: when it is naive, because such a time means something else on every machine, or when it lies
            before year 1 or after year 9999 in UTC.
    """
    if value.tzinfo is dt.UTC:
        return value  # what the decoder makes of a timestamp extension
    if value.utcoffset() is None:
        raise ContractError(f"{value.isoformat()} has no offset from UTC")
    try:
        value.astimezone(dt.UTC)
    except OverflowError:
        raise ContractError(f"{value.isoformat()} lies outside the years 1 to 9999 in UTC") from None
    return value


def check_plain(value: object, field: str) -> None:
    """Check text, numbers and instants, and what lists and dicts hold of them; other values pass.

    Raises:
        ContractError: naming the field with NUL in a text, a NaN or infinity, or a naive or impossible instant.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise ContractError(f"{field} contains the character NUL")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ContractError(f"{field} is NaN or infinite; only finite numbers are allowed")
    elif isinstance(value, dt.datetime):
        try:
            checked_instant(value)
        except ContractError as error:
            raise ContractError(f"{field}: {error}") from None
    elif isinstance(value, (list, dict)):
        for item in value if isinstance(value, list) else (*value, *value.values()):
            check_plain(item, field)


class Checked(msgspec.Struct, frozen=True, array_like=True):
    """Base of the wire structs: holds the bounds of plain values at construction and at decoding alike."""

    def __post_init__(self) -> None:
        """Cut what is only for people, refuse what a receiver could not keep."""
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if field in _TEXT_FIELDS and len(value) > MAX_TEXT:
                value = value[: MAX_TEXT - 1] + "\N{HORIZONTAL ELLIPSIS}"
                msgspec.structs.force_setattr(self, field, value)
            check_plain(value, field)


def encode(message: msgspec.Struct | list[msgspec.Struct]) -> bytes:
    """Encode a contract struct as MessagePack.

    Raises:
        ContractError: when a value (of kwargs, say) has no MessagePack form: an integer beyond 64 bits, a lone
            surrogate, a structure without end.
    """
    try:
        return _encoder.encode(message)
    except (OverflowError, UnicodeEncodeError, RecursionError) as error:
        raise ContractError(f"cannot be sent: {error}") from error


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
