"""Request bodies: JSON becomes a struct, and every field that is wrong is named in one answer.

A body's struct says what may be sent; fields that the answer has but the body has not are read-only: they are
accepted and ignored, so that a client may send back what it got. Anything else unknown is refused by name. Numbers
become decimals from their own text, never through a float. Texts are one line without control characters, unless
``free_text`` names them: those may have several lines.
"""

import datetime as dt
import decimal
import functools
import re
import types
import typing
import unicodedata
import uuid
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
from litestar.dto import AbstractDTO
from litestar.typing import FieldDefinition

from hub.access import Access
from hub.problems import Unreadable, Wrong, WrongField
from protocol.wire import ContractError

T = TypeVar("T", bound=msgspec.Struct)

_LARGEST_LIST = 10_000
_LINES = "\n\r\t"
_DECIMAL = re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *")
_OWNER = "organization"


class Body(msgspec.Struct, kw_only=True):
    """What a client may send.

    ``read_only`` of a subclass names the fields of the answer that it may send in vain, ``free_text`` the texts that
    may have lines and tabs. ``sender_owns`` is false where ``organization`` does not say whose the object is.
    """

    read_only: typing.ClassVar[frozenset[str]] = frozenset()
    sender_owns: typing.ClassVar[bool] = True
    free_text: typing.ClassVar[frozenset[str]] = frozenset({"description", "unit_description", "content"})


class Partial(Body, kw_only=True):
    """What a PATCH may send: any field may be left out."""


@functools.cache
def partial(kind: type[Body]) -> type[Body]:
    """Return the struct of a PATCH: the same fields, each of which may be left out."""
    derived: Any = msgspec.defstruct(
        f"Partial{kind.__name__}",
        [(field.name, field.type | msgspec.UnsetType, msgspec.UNSET) for field in msgspec.structs.fields(kind)],
        bases=(Partial,),
        namespace={"read_only": kind.read_only, "free_text": kind.free_text},
        kw_only=True,
    )
    kind_of_patch: type[Body] = derived
    return kind_of_patch


def given(body: Body) -> dict[str, Any]:
    """Return the fields that a body has; those that a PATCH left out are not among them."""
    return {name: value for name in body.__struct_fields__ if (value := getattr(body, name)) is not msgspec.UNSET}


@functools.cache
def _decoders(kind: type[msgspec.Struct]) -> dict[str, tuple[msgspec.json.Decoder[Any], bool]]:
    return {field.name: (msgspec.json.Decoder(field.type), field.required) for field in msgspec.structs.fields(kind)}


def _explain(error: msgspec.ValidationError, field: str) -> WrongField:
    text, _, path = str(error).partition(" - at `$")
    return WrongField(field + path.rstrip("`"), text)


def _refuse_controls(text: str, allowed: str) -> None:
    if text.isprintable():
        return
    for character in text:
        if unicodedata.category(character) == "Cc" and character not in allowed:
            raise ContractError(f"the control character U+{ord(character):04X} is not allowed in it")


def _refuse_odd_decimal(raw: bytes) -> None:
    # Python takes "1_0" for a number, and digits of any script; a client that sends these means something else.
    if raw.lstrip().startswith(b'"') and not _DECIMAL.fullmatch(msgspec.json.decode(raw, type=str)):
        raise ContractError("is not a decimal number")


def _read_field(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Any], allowed: str) -> Any:  # noqa: ANN401 - any field's value
    """Return a field's value as it can be stored; a text has no control characters but those that are ``allowed``."""
    value = _storable(decoder.decode(raw))
    if isinstance(value, str):
        _refuse_controls(value, allowed)
    elif isinstance(value, decimal.Decimal):
        _refuse_odd_decimal(bytes(raw))
    return value


_STORABLE = frozenset({uuid.UUID, int, float, bool})
"""Types whose values databases can hold as they are."""


def _storable(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value as databases can hold it: instants in UTC, texts without the character NUL."""
    if isinstance(value, str) and "\0" in value:
        raise ContractError("the character NUL cannot be stored")
    if isinstance(value, dt.datetime):
        try:
            return value.astimezone(dt.UTC)
        except OverflowError:
            raise ContractError(f"{value.isoformat()} does not exist in UTC") from None
    if isinstance(value, dict):
        return {_storable(key): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        # Of a thousand ids nothing is to be looked at.
        return value if {*map(type, value)} <= _STORABLE else [_storable(inner) for inner in value]
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _storable(getattr(value, name))
    return value


def read_struct(raw: Mapping[str, msgspec.Raw], kind: type[T], prefix: str = "") -> tuple[T | None, list[WrongField]]:
    """Build the struct from an object's fields; return it, or None with everything that is wrong."""
    decoders = _decoders(kind)
    read_only: frozenset[str] = getattr(kind, "read_only", frozenset())
    values: dict[str, Any] = {}
    free_text: frozenset[str] = getattr(kind, "free_text", frozenset())
    errors = [
        WrongField(prefix + name, "there is no such field")
        for name in raw
        if name not in decoders and name not in read_only
    ]
    for name, (decoder, required) in decoders.items():
        if name in raw:
            try:
                values[name] = _read_field(raw[name], decoder, _LINES if name in free_text else "")
            except msgspec.ValidationError as error:
                errors.append(_explain(error, prefix + name))
            except RecursionError:
                errors.append(WrongField(prefix + name, "is nested too deeply"))
            except ContractError as error:
                errors.append(WrongField(prefix + name, str(error)))
        elif required:
            errors.append(WrongField(prefix + name, "this field is required"))
    if errors:
        return None, errors
    try:
        return kind(**values), []
    except ContractError as error:
        return None, [WrongField(prefix.rstrip(".") or "body", str(error))]


def read_body(data: bytes, kind: Any, organization: uuid.UUID | None = None) -> Any:  # noqa: ANN401 - whatever the handler's annotation says
    """Decode a body as a struct, a list of structs, or either.

    ``organization`` is the only one that there is for the sender: a body without one means it.

    Raises:
        Unreadable: when it is not JSON.
        Wrong: naming every wrong field; in a list with its position, such as ``3.value``.
    """
    options = get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)
    single: type[msgspec.Struct] | None = next(
        (option for option in options if isinstance(option, type) and get_origin(option) is None), None
    )
    listed: Any = next((get_args(option)[0] for option in options if get_origin(option) is list), None)
    try:
        # Of texts msgspec looks only at those that it makes: all else would be found out too late to be told as this.
        data.decode()
        document = msgspec.json.decode(data, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
    except msgspec.ValidationError:
        raise Wrong(
            WrongField("body", "a JSON object is expected" if listed is None else "give one or a list")
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"the body is not JSON: {error}") from error
    if isinstance(document, dict):
        if single is None:
            raise Wrong(WrongField("body", "a list is expected"))
        struct, errors = read_struct(_with(organization, document, single), single)
        errors = errors if struct is None else _foreign(organization, struct)
        if errors:
            raise Wrong(*errors)
        return struct
    if listed is None:
        raise Wrong(WrongField("body", "a JSON object is expected, not a list"))
    return _read_list(document, listed, organization)


def _with(
    organization: uuid.UUID | None, fields: dict[str, msgspec.Raw], kind: type[msgspec.Struct]
) -> dict[str, msgspec.Raw]:
    """Say whose an object is, where that is not said and can be no other's; a PATCH says what changes."""
    told = fields.get(_OWNER)
    if organization is None or _OWNER not in kind.__struct_fields__ or not getattr(kind, "sender_owns", True):
        return fields
    if told is None and issubclass(kind, Partial):
        return fields
    if told is None or bytes(told).strip() == b"null":
        return {**fields, _OWNER: msgspec.Raw(msgspec.json.encode(organization))}
    return fields


def _foreign(organization: uuid.UUID | None, struct: msgspec.Struct, prefix: str = "") -> list[WrongField]:
    """Refuse another organization in the same words as one that does not exist."""
    told = getattr(struct, _OWNER, msgspec.UNSET)
    if (
        organization is None
        or told is msgspec.UNSET
        or told == organization
        or not getattr(struct, "sender_owns", True)
    ):
        return []
    return [WrongField(prefix + _OWNER, f"there is no organization {told}")]


def _read_list(document: list[msgspec.Raw], kind: type[T], organization: uuid.UUID | None) -> list[T]:
    if len(document) > _LARGEST_LIST:
        raise Wrong(WrongField("body", f"has {len(document)} items; at most {_LARGEST_LIST} are taken at once"))
    structs: list[T] = []
    errors: list[WrongField] = []
    for position, item in enumerate(document):
        try:
            fields = msgspec.json.decode(item, type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            errors.append(WrongField(str(position), "a JSON object is expected"))
            continue
        struct, found = read_struct(_with(organization, fields, kind), kind, f"{position}.")
        errors += found if struct is None else _foreign(organization, struct, f"{position}.")
        if struct is not None:
            structs.append(struct)
    if errors:
        raise Wrong(*errors)
    return structs


class StrictBody(AbstractDTO[Any]):
    """Ties ``read_body`` to a handler's ``data`` parameter; its annotation says what is expected."""

    def decode_bytes(self, value: bytes) -> Any:  # noqa: ANN401 - what the annotation says
        """Decode as the handler's annotation says."""
        field = self.asgi_connection.route_handler.parsed_data_field
        if field is None:
            raise TypeError("StrictBody is for handlers with a data parameter")
        access = self.asgi_connection.scope.get("auth")
        return read_body(value, field.annotation, access.organization if isinstance(access, Access) else None)

    def decode_builtins(self, value: dict[str, Any]) -> Any:  # noqa: ANN401, ARG002 - as decode_bytes
        """Refuse forms."""
        raise Unreadable("the body is a form; JSON is expected")

    @classmethod
    def create_for_field_definition(cls, *_args: Any, **_kwargs: Any) -> None:  # noqa: ANN401 - nothing to prepare
        """Do nothing: the annotation is enough."""

    @classmethod
    def create_openapi_schema(cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any) -> Any:  # noqa: ANN401, ARG003 - Litestar's own
        """Describe the body by the annotation."""
        return schema_creator.for_field_definition(field_definition)

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Any:  # noqa: ANN401, ARG003 - abstract, not used here
        """Yield nothing: no transfer model is made."""
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:  # noqa: ARG003 - abstract, not used here
        """Say no: no transfer model is made."""
        return False
