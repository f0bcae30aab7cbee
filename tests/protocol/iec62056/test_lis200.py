"""LIS-200 texts: addresses, values, times, states, rows, archive commands."""

from datetime import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.iec62056 import Data, UnreadableValue, lis200
from protocol.iec62056.lis200 import Address, ArchiveRange, Value


@pytest.mark.parametrize(
    ("text", "core", "asked"),
    [
        ("1:0400.0", "1:400", "1:400.0"),
        ("1:400", "1:400", "1:400.0"),
        ("01:0181.0", "1:181", "1:181.0"),
        ("7-2:302.2", "2:302", "2:302.2"),
        ("6:310_1.0", "6:310_1", "6:310_1.0"),
        ("7-6:310_1.1", "6:310_1", "6:310_1.1"),
        ("0003:0A20", "3:A20", "3:A20.0"),
        ("5:1e9", "5:1E9", "5:1E9.0"),
        ("1:2400", "1:400", "1:400.2"),
        ("3:V.0", "3:V", "3:V.0"),
        ("3:V.A.0", "3:V", "3:V.A.0"),
        ("13:V", "13:V", "13:V.0"),
        (" 14:150.0 ", "14:150", "14:150.0"),
    ],
)
def test_addresses(text: str, core: str, asked: str) -> None:
    address = Address.parse(text)
    assert (address.core, str(address)) == (core, asked)
    assert Address.parse(asked).core == core


@pytest.mark.parametrize("text", ["", "400", "1:", ":400", "1:G00", "1:40000", "1:400.", "7-:1", "1:400(1)"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UnreadableValue, match="an address such as"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("asked", "echoed", "same"),
    [
        ("2:302.0", "7-2:302.2", True),
        ("1:400.0", "1:400.2", True),
        ("6:310_1.0", "7-6:310_1.1", True),
        ("01:0181.0", "1:181", True),
        ("3:171.0", "", True),
        ("2:302.0", "2:300.0", False),
        ("6:310_1.0", "6:310.0", False),
        ("2:302.0", "nonsense", False),
        ("2:302.0", "4:302.0", False),
    ],
)
def test_an_answer_belongs_to_the_object_that_was_asked_for(asked: str, echoed: str, *, same: bool) -> None:
    assert lis200.matches(asked, echoed) is same


@pytest.mark.parametrize(
    ("group", "text", "unit"),
    [
        ("20.16*{C", "20.16", "°C"),
        ("1.01805* bar", "1.01805", "bar"),
        ("3*m3|h", "3", "m3/h"),
        ("3*m3:h", "3", "m3/h"),
        ("3*m3/h", "3", "m3/h"),
        ("000144076.2083*m3", "000144076.2083", "m3"),
        ("4011220", "4011220", ""),
        ("***", "***", ""),
        ("5*\\xB0C", "5", "°C"),
        ("EK 270 \\\\", "EK 270 \\", ""),
    ],
)
def test_values_with_their_units(group: str, text: str, unit: str) -> None:
    assert lis200.parse_value(group) == Value(text, unit)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("20.16", "20.16"),
        ("000144076.2083", "144076.2083"),
        ("0.10", "0.10"),
        ("-3.", "-3"),
        ("+.5", "0.5"),
        (" 7 ", "7"),
        ("9" * 38, "9" * 38),
        ("0" * 60 + "1", "1"),
    ],
)
def test_numbers_are_exact(text: str, number: str) -> None:
    assert str(lis200.parse_decimal(text)) == number
    assert Value(text).number == Decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "sNaN", "Inf", "-Infinity", "1E+400000", "1e3", "", ".", "-", "--1", "1,5", "1_000", "1 2"),
        *("0x12", "20.16*{C", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 39, "0." + "1" * 19),
    ],
)
def test_what_is_no_number_is_named_and_refused(text: str) -> None:
    with pytest.raises(UnreadableValue) as caught:
        lis200.parse_decimal(text)
    assert caught.value.text == text
    assert repr(text) in str(caught.value)


def test_a_long_text_is_cut_in_the_message() -> None:
    with pytest.raises(UnreadableValue, match=r"xxx\.\.\.'") as caught:
        lis200.parse_decimal("x" * 10_000)
    assert len(str(caught.value)) < 200


def test_times_are_the_meters_own() -> None:
    moment = lis200.parse_datetime("2018-11-01,10:56:06")
    assert (moment, moment.tzinfo) == (datetime(2018, 11, 1, 10, 56, 6), None)  # noqa: DTZ001 - meter-local
    assert lis200.parse_datetime("2018-11-01, 10:56:06") == moment
    assert lis200.format_datetime(moment) == "2018-11-01,10:56:06"


@pytest.mark.parametrize(
    "text", ["2018-11-01 10:56:06", "2018-02-30,00:00:00", "2018-01-01,24:00:00", "", "0000-00-00,00:00:00", "2018"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UnreadableValue, match="date and time"):
        lis200.parse_datetime(text)


@given(st.datetimes(min_value=datetime(1, 1, 1)))  # noqa: DTZ001 - meter-local
def test_times_come_back_as_they_were(moment: datetime) -> None:
    assert lis200.parse_datetime(lis200.format_datetime(moment)) == moment.replace(microsecond=0)


@pytest.mark.parametrize(
    ("text", "messages"), [("0", ()), ("13;15", (13, 15)), ("14", (14,)), ("", ()), (" 1 ; 2", (1, 2))]
)
def test_status_lists(text: str, messages: tuple[int, ...]) -> None:
    assert lis200.parse_status(text) == messages


def test_status_lists_come_back_as_they_were() -> None:
    assert (lis200.format_status([]), lis200.format_status([13, 15])) == ("0", "13;15")


@pytest.mark.parametrize("text", ["x", "13,15", "-1", "1.5", "1234"])
def test_what_is_no_status_list(text: str) -> None:
    with pytest.raises(UnreadableValue, match="message numbers"):
        lis200.parse_status(text)


def test_event_codes() -> None:
    assert lis200.parse_event_code("0x8103") == 0x8103
    for text in ("8103", "0x", "0x12345", ""):
        with pytest.raises(UnreadableValue, match="event code"):
            lis200.parse_event_code(text)


def test_rows_of_a_block_and_of_several() -> None:
    assert lis200.parse_rows("(1)(a)  \r\n(2)()\r\n") == (("1", "a"), ("2", ""))
    assert lis200.parse_rows("") == ()
    assert lis200.parse_groups("1:400.2(2018)(b)") == ("2018", "b")
    assert lis200.join_blocks(["(1)(CRC Ok)", "(2)(CRC Ok)"]) == (("1", "CRC Ok"), ("2", "CRC Ok"))
    assert Data("(1)\r\n(2)").rows == (("1",), ("2",))
    assert (Data("2:300.2(7*m3)").address, Data("2:300.2(7*m3)").groups) == ("2:300.2", ("7*m3",))
    assert lis200.parse_rows("(1)\x00\xff(2)") == (("1", "2"),)


@pytest.mark.parametrize("text", ["(1)(2", "1)", "((1))", "(1)x(2)", "abc"])
def test_rows_whose_brackets_do_not_match(text: str) -> None:
    with pytest.raises(UnreadableValue, match="a row of groups"):
        lis200.parse_rows(text)


@pytest.mark.parametrize("text", ["", "(1)\r\n(2)"])
def test_an_answer_that_should_be_one_row(text: str) -> None:
    with pytest.raises(UnreadableValue, match="one row"):
        lis200.parse_groups(text)


GROUP = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="()"), max_size=12)


@given(st.lists(st.lists(GROUP, min_size=1, max_size=5), max_size=5))
def test_rows_come_back_as_they_were(rows: list[list[str]]) -> None:
    assert lis200.parse_rows(lis200.format_rows(rows)) == tuple(map(tuple, rows))


@given(st.text(st.characters(max_codepoint=255)))
def test_texts_come_back_as_they_were_and_fit_the_line(text: str) -> None:
    assert lis200.encode_text(text).isascii()
    assert lis200.decode_text(lis200.encode_text(text)) == text


def test_a_text_that_no_escape_can_name() -> None:
    with pytest.raises(UnreadableValue, match="ISO 8859-1"):
        lis200.encode_text("Газ")


def test_archive_commands() -> None:
    start, end = datetime(2024, 1, 15, 6), datetime(2024, 1, 15, 9)  # noqa: DTZ001 - meter-local
    assert lis200.archive_address(3) == "3:V.0"
    assert lis200.archive_address(3, lis200.ROW_COUNT) == "3:V.A.0"
    assert lis200.archive_argument() == ";;;"
    assert lis200.archive_argument(rows=10) == ";;;10"
    assert lis200.archive_argument(3, start, end, 10) == "3;2024-01-15,06:00:00;2024-01-15,09:00:00;10"
    assert lis200.archive_argument(2, 498) == "2;498;;"


def test_archive_arguments_as_the_meter_reads_them() -> None:
    assert ArchiveRange.parse("3;2024-01-15,06:00:00;;10") == ArchiveRange(3, "2024-01-15,06:00:00", "", 10)
    assert ArchiveRange.parse("1") == ArchiveRange.parse(";;;") == ArchiveRange()
    assert ArchiveRange.parse(";;") == ArchiveRange()
    for argument in (";;;;", "x;;;", ";;;y"):
        with pytest.raises(UnreadableValue, match="position;from;to;rows"):
            ArchiveRange.parse(argument)
