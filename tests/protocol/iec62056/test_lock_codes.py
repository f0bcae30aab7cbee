"""Codes of locks are hidden where a meter tells them, and nothing else is."""

import pytest

from protocol.iec62056.characters import strip_parity, with_even_parity
from protocol.iec62056.lock_codes import hidden, hidden_in_bytes, hidden_in_row, names_code


@pytest.mark.parametrize("address", ["4:171", "4:171.0", "0004:0171", "4:0171.0", "7-4:171.2", "3:171_1"])
def test_a_code_is_known_in_every_notation(address: str) -> None:
    assert names_code(address)


@pytest.mark.parametrize("address", ["4:170", "0004:0170", "1:400", "17:100", "nonsense", "", "5:V.0"])
def test_other_addresses_name_no_code(address: str) -> None:
    assert not names_code(address)


def test_a_row_of_an_audit_trail_hides_the_old_and_the_new_code_and_keeps_their_lengths() -> None:
    row = ["9", "1", "2024-01-15,06:00:00", "0003:0171", "00000000", "SECRET", "0", "CRC Ok"]
    assert hidden_in_row(row) == [*row[:4], "********", "******", "0", "CRC Ok"]
    other = ["9", "1", "2024-01-15,06:00:00", "0007:0311", "1.01325", "1.02", "0", "CRC Ok"]
    assert hidden_in_row(other) == other
    assert hidden_in_row(["0004:0171"]) == ["0004:0171"]


@pytest.mark.parametrize(
    "text",
    [
        "7-4:171.2(SECRET)",
        "4:171(SECRET",
        "(9)(1)(2024-01-15,06:00:00)(0003:0171)(SECRET)(SECRET)(0)(CRC Ok)\r\n(10)(2)(x)",
        "(9)(0003:0171(SECRET)(SECRET)(0)",
        "(9)0003:0171)(SECRET)(SECRET)(0)",
        "(9)(0003:0171)SECRET)(SECRET)(0)",
        "(9)(0003:0171)(SECRET(SECRET)(0)",
        "the meter sent '(9)(0004:0171)(SECR...' where one row was expected",
        "\x01P1\x02(3:SECRET)\x03x",
        "\x01W1\x024:171.0(SECRET)\x03x",
    ],
)
def test_no_code_stands_in_a_text_also_when_a_bracket_was_lost(text: str) -> None:
    said = hidden(text)
    assert "SECR" not in said
    assert len(said) == len(text)
    raw = with_even_parity(text.encode())
    assert strip_parity(hidden_in_bytes(raw)).decode() == said


@pytest.mark.parametrize(
    "text", ["4:171.0(#0018)", "whether it took the write to 4:171.0 is not known", "(17)(171)(0001:0400)(a)(b)", "P1"]
)
def test_everything_else_stays(text: str) -> None:
    assert hidden(text) == text
