"""Telegrams as characters: the block check vectors of the LIS-200 fact sheet 6.2, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.iec62056 import (
    Ack,
    Break,
    DamagedTelegram,
    Data,
    Event,
    Identification,
    LocalProtocolError,
    Nak,
    OptionSelect,
    Password,
    Prompt,
    ReadBlocks,
    ReadCommand,
    Refusal,
    RemoteProtocolError,
    Request,
    State,
    WriteCommand,
)
from protocol.iec62056.characters import block_check, has_even_parity, strip_parity, with_even_parity
from protocol.iec62056.events import RATES_B
from protocol.iec62056.telegrams import decode_block, decode_line, encode
from tests.protocol.iec62056.conversations import EK280, Wire, telegrams

MEASURING = "3;2024-01-15,06:00:00;2024-01-15,09:00:00;10"
VECTORS: list[tuple[Event, int]] = [
    (ReadCommand("1:180.0"), 0x7E),
    (ReadCommand("2:190.0"), 0x7C),
    (ReadCommand("1:400.0"), 0x73),
    (ReadCommand("1:0400.0"), 0x43),
    (ReadCommand("2:300.0"), 0x77),
    (ReadCommand("2:302.0"), 0x75),
    (ReadCommand("6:310_1.0"), 0x1C),
    (ReadCommand("7:310.0"), 0x73),
    (ReadCommand("4:170.0"), 0x74),
    (ReadCommand("4:150.0"), 0x76),
    (WriteCommand("3:171.0", "00000000"), 0x46),
    (WriteCommand("4:171.0", "00000000"), 0x41),
    (WriteCommand("3:170.0", "0"), 0x77),
    (WriteCommand("4:170.0", "0"), 0x70),
    (WriteCommand("4:171.0", "0"), 0x71),
    (WriteCommand("1:0400.0", "2024-01-15,06:30:00"), 0x5F),
    (Password.for_lock(3, "00000000"), 0x68),
    (Password.for_lock(4, "00000000"), 0x6F),
    (ReadBlocks("3:V.0", ";;;10"), 0x1A),
    (ReadBlocks("3:V.0", MEASURING), 0x26),
    (ReadCommand("3:V.2"), 0x11),
    (ReadCommand("3:V.3"), 0x10),
    (ReadCommand("3:V.A.0", "3;;;"), 0x45),
    (ReadCommand("3:A32.0"), 0x05),
    (Refusal(18), 0x28),
    (Refusal(103), 0x23),
    (Refusal(4), 0x25),
    (Prompt("1234567"), 0x50),
    (Prompt(""), 0x60),
    (Break(), 0x71),
    (ReadCommand("3:V.A.0", "3;2024-01-15,06:00:00;;"), 0x6E),  # fact sheet 3.1
    (ReadCommand("3:V.4", ";;;"), 0x1D),  # fact sheet 3.2
    (Data("1:400.2(2018-11-01,10:56:06)"), 0x03),  # fact sheet 6.1: the value of ETX
    (Data("7-6:310_1.1(20.16*{C)"), 0x6E),
    (Data("3:171.0(0)"), 0x12),
    (ReadCommand("01:0181.0"), 0x7F),
]


@pytest.mark.parametrize(("event", "check"), VECTORS, ids=repr)
def test_block_check_vectors(event: Event, check: int) -> None:
    characters = encode(event)
    assert characters[-1] == check
    assert decode_block(characters) == event


def test_sign_off_of_the_fast_wake_up_has_the_known_check() -> None:
    assert block_check(b"B1\x03") == 0x70


@pytest.mark.parametrize(
    ("event", "characters"),
    [
        (Request(), b"/?!\r\n"),
        (Request("000000000000"), b"/?000000000000!\r\n"),
        (Identification("Els", "6", "EK270"), bytes.fromhex("2F456C7336454B3237300D0A")),
        (Identification("Els", "6", "EK280", "\\2"), b"/Els6\\2EK280\r\n"),
        (OptionSelect("5"), bytes.fromhex("063035310D0A")),
        (OptionSelect("6"), bytes.fromhex("063036310D0A")),
    ],
)
def test_lines(event: Event, characters: bytes) -> None:
    assert encode(event) == characters
    assert decode_line(characters) == event


@pytest.mark.parametrize("ident", ["EK 280", "FOURTEEN CHARS"])
def test_a_type_may_have_blanks_and_with_its_escape_sixteen_characters(ident: str) -> None:
    event = Identification("Els", "6", ident, "\\2")
    assert decode_line(encode(event)) == event
    with pytest.raises(LocalProtocolError):
        encode(Identification("Els", "6", "FIFTEEN CHARS..", "\\2"))


def test_rates_of_mode_b_and_reserved_characters() -> None:
    assert RATES_B == {"A": 600, "B": 1200, "C": 2400, "D": 4800, "E": 9600, "F": 19200}
    for rate_id in "789GHI":
        reserved = Identification("Els", rate_id, "X")
        assert (reserved.rate, reserved.rate_id in RATES_B) == (None, False)


def test_an_address_has_up_to_32_digits_letters_and_blanks() -> None:
    event = Request("Ab 9" * 8)
    assert decode_line(encode(event)) == event


@pytest.mark.parametrize("operand", ["1234567", "", "7654321"])
def test_nobody_uses_the_operand_of_the_prompt(operand: str) -> None:
    wire = Wire()
    wire.ask(Request())
    wire.answer(EK280)
    wire.ask(OptionSelect("5"))
    assert telegrams(wire.answer(Prompt(operand))) == [Prompt(operand)]
    assert wire.reader.state is State.PROMPTED
    assert Prompt().operand == "1234567"


def test_option_select_says_protocol_rate_and_mode_in_this_order() -> None:
    assert encode(OptionSelect("5", mode="1", protocol="0")) == b"\x06051\r\n"
    assert encode(OptionSelect("6", mode="0")) == b"\x06060\r\n"
    assert not OptionSelect("5", mode="0").programming
    assert not OptionSelect("2", mode="2", protocol="2").programming
    assert not OptionSelect("5", mode="6").programming


def test_an_escape_of_something_else_than_a_digit_is_part_of_the_type() -> None:
    assert decode_line(b"/Els6\\EK270\r\n") == Identification("Els", "6", "\\EK270")


def test_single_characters() -> None:
    assert (encode(Ack()), encode(Nak())) == (b"\x06", b"\x15")


@pytest.mark.parametrize(
    "event",
    [
        Request("x" * 33),
        Request("1;2"),
        Identification("Elster", "6", "EK270"),
        Identification("Els", "6", "A TYPE OF 17 CHAR"),
        Identification("Els", "6", "Gaszähler"),
        OptionSelect("66"),
        ReadCommand("1:400.0(1)"),
        ReadCommand("1:400\r\n"),
        ReadBlocks("3:V.0", "\x03"),
        WriteCommand("1:400", "ü"),
        Password("3:)("),
        Data("a\x02b"),
        Data("°C"),
        Refusal(10_000),
        Refusal(-1),
    ],
    ids=repr,
)
def test_what_cannot_be_said_is_our_error_and_is_not_repeated_in_it(event: Event) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        encode(event)
    assert "°C" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["R1", "R1\x02", "R1\x021:400", "R2\x021:400(1)", "W3\x021:400(1)", "XYZ", "", "P1\x023:secret", "B1"],
)
def test_commands_that_say_nothing(content: str) -> None:
    body = content.encode() + b"\x03"
    with pytest.raises(RemoteProtocolError) as caught:
        decode_block(b"\x01" + body + bytes([block_check(body)]))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("line", [b"/?!!\r\n", b"/E5\r\n", b"\x0605\r\n"])
def test_lines_that_say_nothing(line: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_line(line)


def test_nuls_and_ffs_between_groups_are_no_part_of_the_text_whether_the_check_counts_them_or_not() -> None:
    plain, filled = b"(1)(2)\r\n(3)\x03", b"(1)\x7f\x00(2)\x7f\r\n\x00(3)\x7f\x03"
    for check in (block_check(plain), block_check(filled)):
        assert decode_block(b"\x02" + filled + bytes([check])) == Data("(1)(2)\r\n(3)")


def test_an_ff_inside_a_group_is_text() -> None:
    body = b"(1\x7f2)\x03"
    assert decode_block(b"\x02" + body + bytes([block_check(body)])) == Data("(1\x7f2)")


def test_a_nul_inside_a_group_is_damage_that_neither_parity_nor_block_check_shows() -> None:
    body = b"(1\x002)\x03"
    with pytest.raises(DamagedTelegram, match="control character"):
        decode_block(b"\x02" + body + bytes([block_check(body)]))
    command = b"R1\x022:3\x0000.0(1)\x03"
    with pytest.raises(DamagedTelegram, match="control character"):
        decode_block(b"\x01" + command + bytes([block_check(command)]))


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="()"), max_size=40)


@given(TEXT, st.integers(0, 10_000), st.integers(0, 6))
def test_one_wrong_bit_is_always_found(text: str, position: int, bit: int) -> None:
    characters = bytearray(encode(Data(f"({text})")))
    position %= len(characters) - 1
    characters[position + 1] ^= 1 << bit
    if position + 1 == len(characters) - 2:  # the end itself: not the same telegram any more
        return
    with pytest.raises(DamagedTelegram):
        decode_block(bytes(characters))


@given(TEXT, TEXT)
def test_commands_come_back_as_they_were_said(address: str, value: str) -> None:
    for event in (
        ReadCommand(address, value),
        ReadBlocks(address, value),
        WriteCommand(address, value),
        Password(value),
        Prompt(value),
    ):
        assert decode_block(encode(event)) == event


@given(st.binary())
def test_parity_is_made_and_stripped(data: bytes) -> None:
    characters = strip_parity(data)
    raw = with_even_parity(characters)
    assert has_even_parity(raw)
    assert strip_parity(raw) == characters
