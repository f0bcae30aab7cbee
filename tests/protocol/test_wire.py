"""Bounds of single values, and that every wire struct comes back as it was."""

import datetime as dt
import decimal
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.commands import Command
from protocol.readings import NewMeterReading
from protocol.reports import RunReport
from protocol.wire import (
    MAX_TEXT,
    ContractError,
    checked_decimal,
    checked_instant,
    decode,
    encode,
    parse_decimal,
    plain,
)
from tests.protocol.strategies import exact_decimals, instants, struct_values, wire_structs

NOON = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
BASE: list[Any] = ["m-1", "2:300", NOON]


def raw(values: object) -> bytes:
    return msgspec.msgpack.encode(values)


@pytest.mark.parametrize("kind", wire_structs(), ids=lambda kind: kind.__name__)
def test_every_struct_comes_back_as_it_was(kind: type[msgspec.Struct]) -> None:
    @settings(max_examples=40)
    @given(struct_values(kind))
    def comes_back(message: msgspec.Struct) -> None:
        data = encode(message)
        assert decode(data, kind) == message
        assert encode(decode(data, kind)) == data

    comes_back()


@pytest.mark.parametrize("kind", wire_structs(), ids=lambda kind: kind.__name__)
def test_a_newer_peer_may_append_fields(kind: type[msgspec.Struct]) -> None:
    @settings(max_examples=15)
    @given(struct_values(kind), st.lists(st.none() | st.integers() | st.text() | st.lists(st.booleans()), max_size=3))
    def newer(message: msgspec.Struct, added: list[Any]) -> None:
        fields = msgspec.msgpack.decode(encode(message), type=list[msgspec.Raw])
        longer = raw([*fields, *(msgspec.Raw(raw(str(value))) for value in added)])
        assert decode(longer, kind) == message

    newer()


@pytest.mark.parametrize("kind", wire_structs(), ids=lambda kind: kind.__name__)
def test_an_older_peer_may_leave_out_the_fields_with_defaults(kind: type[msgspec.Struct]) -> None:
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    required = sum(field.required for field in info.fields) + (info.tag is not None)

    @settings(max_examples=15)
    @given(struct_values(kind))
    def older(message: msgspec.Struct) -> None:
        fields = msgspec.msgpack.decode(encode(message), type=list[msgspec.Raw])
        got = decode(raw(fields[:required]), kind)
        for field in info.fields:
            if field.required:
                assert getattr(got, field.name) == getattr(message, field.name)
        with pytest.raises(ContractError):
            decode(raw(fields[: required - 1]), kind)

    older()


@given(exact_decimals())
def test_a_value_keeps_every_digit(value: decimal.Decimal) -> None:
    reading = NewMeterReading("m", "s", NOON, value)
    back = decode(encode(reading), NewMeterReading).value
    assert back.as_tuple() == value.as_tuple()
    assert parse_decimal(str(value)).as_tuple() == value.as_tuple()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("NaN", "not a decimal number"),
        ("Infinity", "not a decimal number"),
        ("1E+400000", "exponent 400000"),
        ("1E+999999999999999999999", "out of bounds"),
        ("1E-19", "exponent -19"),
        ("1" * 39, "39 digits"),
        ("1" * 65, "65 characters"),
        ("", "not a decimal number"),
        ("1_0", "not a decimal number"),
        ("\N{ARABIC-INDIC DIGIT ONE}", "not a decimal number"),
        ("1.2.3", "not a decimal number"),
    ],
)
def test_text_that_is_no_value_is_named(text: str, sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        parse_decimal(text)


@pytest.mark.parametrize(("text", "value"), [(" 00012.30", "12.30"), ("-.5", "-0.5"), ("7.", "7"), ("+1e3", "1E+3")])
def test_the_texts_of_meters_and_people_are_values(text: str, value: str) -> None:
    assert parse_decimal(text) == decimal.Decimal(value)


@pytest.mark.parametrize("text", ["NaN", "sNaN", "-Infinity", "1E+19", "1E-19", "1" * 39, "NaN" + "1" * 5000])
def test_a_value_out_of_bounds_neither_leaves_nor_arrives(text: str) -> None:
    with pytest.raises(ContractError) as outgoing:
        checked_decimal(decimal.Decimal(text))
    with pytest.raises(ContractError):
        NewMeterReading("m", "s", NOON, decimal.Decimal(text))
    with pytest.raises(ContractError):
        decode(raw([*BASE, text]), NewMeterReading)
    assert len(str(outgoing.value)) < 200


@pytest.mark.parametrize("value", ["2026-11-22T12:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_time_without_offset_or_outside_the_calendar_is_refused(value: str) -> None:
    with pytest.raises(ContractError):
        checked_instant(dt.datetime.fromisoformat(value))
    with pytest.raises(ContractError):
        NewMeterReading("m", "s", dt.datetime.fromisoformat(value), decimal.Decimal(1))
    with pytest.raises(ContractError):
        decode(raw(["m", "s", value, "1"]), NewMeterReading)


def test_no_struct_can_be_made_with_a_naive_time() -> None:
    naive = dt.datetime(2026, 11, 22, 12)  # noqa: DTZ001 - the point of the test
    with pytest.raises(ContractError, match=r"ended: .* no offset"):
        RunReport(uuid.uuid4(), uuid.uuid4(), "done", None, naive)
    with pytest.raises(ContractError, match=r"kwargs: .* no offset"):
        Command(uuid.uuid4(), "gw", "generic_lis200", "read", {"start": [naive]}, NOON, 60)


@given(instants())
def test_an_instant_stays_the_same_instant(at: dt.datetime) -> None:
    assert decode(encode(NewMeterReading("m", "s", at, decimal.Decimal(1))), NewMeterReading).timestamp == at


@pytest.mark.parametrize(
    "row",
    [
        ["m\0", "s", NOON, "1"],
        ["m", "s\0", NOON, "1"],
        ["m", "s", NOON, "1", "m3\0"],
        ["m", "s", NOON, "1", "", None, None, "meter\0"],
        ["m", "s", NOON, "1", "", None, None, "meter", float("nan")],
        ["m", "s", NOON, "1", "", None, None, "meter", float("inf")],
        ["", "s", NOON, "1"],
        ["m" * 51, "s", NOON, "1"],
        ["m", "s" * 51, NOON, "1"],
        ["m", "s", NOON, "1", "u" * 101],
    ],
)
def test_a_reading_that_a_database_would_refuse_is_refused_here(row: list[Any]) -> None:
    with pytest.raises(ContractError):
        decode(raw(row), NewMeterReading)


@pytest.mark.parametrize("kwargs", [{"a": 2**64}, {"a": "\ud800"}, {"a": float("nan")}, {"a": ["x\0"]}, {"b\0": 1}])
def test_kwargs_that_cannot_travel_are_refused_with_a_sentence(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        encode(Command(uuid.uuid4(), "gw", "generic_lis200", "read", kwargs, NOON, 60))


def test_a_long_explanation_is_cut_and_not_the_report() -> None:
    report = RunReport(uuid.uuid4(), uuid.uuid4(), "failed", NOON, NOON, cause="x" * 100_000)
    assert len(report.cause) == MAX_TEXT
    assert decode(encode(report), RunReport) == report


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"no MessagePack"])
def test_garbage_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(ContractError, match="not MessagePack"):
        plain(data)
    with pytest.raises(ContractError, match="not a NewMeterReading"):
        decode(data, NewMeterReading)


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for kind in wire_structs():
        try:
            decode(data, kind)
        except ContractError:
            continue
