"""Data messages: what stands in them, which register is meant, and when; and what is none."""

import contextlib
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.iec62056 import UnreadableValue
from protocol.iec62056.data_lines import (
    Obis,
    Register,
    Stamp,
    format_data_message,
    is_error,
    parse_data_message,
    parse_data_sets,
    parse_stamp,
    same_register,
)
from protocol.iec62056.lis200 import Value

PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="()!/*\\{|:")
TEXT = st.text(PRINTABLE, min_size=1, max_size=16).map(str.strip).filter(bool)
REGISTERS = st.builds(
    Register, TEXT, st.lists(st.builds(Value, TEXT, st.just("") | TEXT), min_size=1, max_size=3).map(tuple)
)


def test_a_readout_with_everything_that_may_be_in_it() -> None:
    text = (
        "0.0.0(12345678)\r\n"
        "1.8.0(00123.4*kWh)(2401010000)\r\n"
        "1-0:1.8.1*255(5*kWh)1-0:1.8.2*255(6*kWh)\r\n"
        "0-1:24.3.0(090212160000)(00)(60)\r\n(00000.000)\r\n"
        "0.9.5()\r\n"
        "!\r\n"
    )

    assert parse_data_message(text) == (
        Register("0.0.0", (Value("12345678"),)),
        Register("1.8.0", (Value("00123.4", "kWh"), Value("2401010000"))),
        Register("1-0:1.8.1*255", (Value("5", "kWh"),)),
        Register("1-0:1.8.2*255", (Value("6", "kWh"),)),
        Register("0-1:24.3.0", (Value("090212160000"), Value("00"), Value("60"), Value("00000.000"))),
        Register("0.9.5", (Value(""),)),
    )


@pytest.mark.parametrize("text", ["!\r\n", "!", "\r\n!\r\n", "!\r\n\r\n", "! \r\n\x00"])
def test_an_empty_readout_is_one(text: str) -> None:
    assert parse_data_message(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.8.0(1*kWh)\r\n",  # an end that noise has made
        "1.8.0(1*kWh)",
        "1.8.0(1*kWh)!\r\n",
        "1.8.0(1*kWh\r\n!\r\n",
        "1.8.0 1*kWh)\r\n!\r\n",
        "1.8.0(1*kWh)x\r\n!\r\n",
        "1.8.0((1*kWh))\r\n!\r\n",
        "(1*kWh)\r\n!\r\n",
        "1.8.0(1\x05*kWh)\r\n!\r\n",
        f"{'1' * 33}(1)\r\n!\r\n",
        f"1.8.0({'1' * 129})\r\n!\r\n",
        f"1.8.0(1*{'k' * 17})\r\n!\r\n",
        "1.8.0(1*kWh)\r\n!\r\n2.8.0(1*kWh)\r\n",
    ],
)
def test_what_is_no_data_message(text: str) -> None:
    with pytest.raises(UnreadableValue):
        parse_data_message(text)


@given(st.lists(REGISTERS, max_size=8).map(tuple))
def test_what_is_written_is_read(registers: tuple[Register, ...]) -> None:
    assert parse_data_message(format_data_message(registers)) == registers


@given(st.lists(REGISTERS, min_size=1, max_size=8).map(tuple), st.data())
def test_a_message_that_was_cut_is_never_taken_for_a_whole_one(
    registers: tuple[Register, ...], data: st.DataObject
) -> None:
    text = format_data_message(registers)
    cut = data.draw(st.integers(0, len(text.rstrip()) - 1))
    with pytest.raises(UnreadableValue):
        parse_data_message(text[:cut])


@given(st.text(st.characters(max_codepoint=0x7F), max_size=60))
def test_whatever_comes_is_read_or_refused(text: str) -> None:
    for read in (parse_data_message, parse_data_sets, parse_stamp, Obis.parse):
        with contextlib.suppress(UnreadableValue):
            read(text)


def test_an_answer_to_a_read_may_have_no_id() -> None:
    assert parse_data_sets("(00123.4*kWh)") == (Register("", (Value("00123.4", "kWh"),)),)
    assert parse_data_sets("1.8.0(00123.4*kWh)") == (Register("1.8.0", (Value("00123.4", "kWh"),)),)


@pytest.mark.parametrize(
    ("asked", "shown", "same"),
    [
        ("1.8.0", "1.8.0", True),
        ("1.8.0", "1-0:1.8.0*255", True),
        ("1-0:1.8.0", "1.8.0", True),
        ("1-0:1.8.0", "1-1:1.8.0", False),
        ("1-0:1.8.0", "2-0:1.8.0", False),
        ("1.8", "1.8.0", True),
        ("1.8.0", "01.08.00", True),
        ("1.8.0", "1.8.1", False),
        ("1.8.0", "1.8.0*01", False),
        ("1.8.0*01", "1.8.0*1", True),
        ("1.8.0*01", "1.8.0&01", True),
        ("1.8.0*01", "1.8.0*02", False),
        ("C.1.0", "0-0:C.1.0", True),
        ("1.8.0", "", True),
        ("temperature", "temperature", True),
        ("temperature", "1.8.0", False),
    ],
)
def test_the_register_that_is_meant(asked: str, shown: str, *, same: bool) -> None:
    assert same_register(asked, shown) is same


@pytest.mark.parametrize(
    ("text", "physical"),
    [("1.8.0", True), ("7-0:3.1.0", True), ("95.8.0", True), ("0.9.1", False), ("F.F", False), ("96.1.0", False)],
)
def test_what_is_measured(text: str, *, physical: bool) -> None:
    assert Obis.parse(text).physical is physical


@pytest.mark.parametrize(
    ("text", "stamp"),
    [
        ("2401312359", Stamp(datetime(2024, 1, 31, 23, 59))),  # noqa: DTZ001 - a meter's clock face
        ("240131235958", Stamp(datetime(2024, 1, 31, 23, 59, 58))),  # noqa: DTZ001 - as above
        ("240731235958S", Stamp(datetime(2024, 7, 31, 23, 59, 58), summer=True)),  # noqa: DTZ001 - as above
        ("240131235958W", Stamp(datetime(2024, 1, 31, 23, 59, 58), summer=False)),  # noqa: DTZ001 - as above
        ("12407312359", Stamp(datetime(2024, 7, 31, 23, 59), summer=True)),  # noqa: DTZ001 - as above
        ("0240131235958", Stamp(datetime(2024, 1, 31, 23, 59, 58), summer=False)),  # noqa: DTZ001 - as above
        ("2240131235958", Stamp(datetime(2024, 1, 31, 23, 59, 58), utc=True)),  # noqa: DTZ001 - as above
        ("24-01-31 23:59", Stamp(datetime(2024, 1, 31, 23, 59))),  # noqa: DTZ001 - as above
        ("2024-01-31,23:59:58", Stamp(datetime(2024, 1, 31, 23, 59, 58))),  # noqa: DTZ001 - as above
        ("2401312400", Stamp(datetime(2024, 2, 1))),  # noqa: DTZ001 - as above
    ],
)
def test_times(text: str, stamp: Stamp) -> None:
    assert parse_stamp(text) == stamp


@pytest.mark.parametrize("text", ["", "240131", "2413312359", "0002300000", "24-13-01 00:00", "12345.67", "2401312360"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UnreadableValue):
        parse_stamp(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [("ERROR", True), ("ER01", True), ("ERR 17", True), ("error", True), ("ERDGAS", False), ("17", False)],
)
def test_error_messages(text: str, *, error: bool) -> None:
    assert is_error(text) is error


def test_a_unit_that_seven_bits_cannot_say_is_sent_as_meters_send_it() -> None:
    sent = format_data_message(parse_data_message("6:310(21.5*{C)\r\n!"))
    assert sent == "6:310(21.5*{C)\r\n!\r\n"
    assert parse_data_message(sent)[0].groups[0].unit == "°C"
