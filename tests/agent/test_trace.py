"""A conversation in readable form: live chunk by chunk, and from a file."""

import pytest

from agent.capture import Heard, Note, Record, Said, Silent
from agent.trace import Trace, meaning, readable
from protocol.iec62056 import Data, Identification, Nak, OptionSelect, Prompt, Refusal, Request
from protocol.iec62056.characters import with_even_parity
from protocol.iec62056.telegrams import encode


def lines(*records: Record) -> list[str]:
    trace = Trace()
    return [line for record in records for line in trace.lines(record)] + list(trace.rest())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (encode(Request("4711")), "who is there at address 4711?"),
        (encode(Identification("Els", "6", "EK280", "\\2")), "EK280 of maker Els, offers 19200 Bd, knows HDLC"),
        (encode(OptionSelect("5")), "programming mode at 9600 Bd"),
        (encode(Prompt()), "programming mode is open; BCC ok"),
        (encode(Refusal(18)), "refused: no right to read: a lock must be open; BCC ok"),
        (encode(Data("(1)", last=False)), "more blocks follow; BCC ok"),
        (encode(Nak()), "damaged, once more"),
        (bytes(66), "wake-up, 66 NULs"),
        (b"NO CARRIER", "no telegram"),
    ],
)
def test_each_telegram_says_what_it_means(data: bytes, says: str) -> None:
    assert meaning(data) == says
    assert meaning(with_even_parity(data)) == says


def test_what_the_line_did_is_named() -> None:
    good = with_even_parity(encode(Data("(12)")))
    block = encode(Data("(12)"))
    assert f"BCC bad: 00, should be {block[-1]:02X}" in meaning(block[:-1] + b"\x00")
    assert "parity wrong in 1 bytes" in meaning(good[:2] + bytes((good[2] ^ 0x80,)) + good[3:])


def test_control_characters_have_names_and_runs_are_counted() -> None:
    assert readable(b"\x01B0\x03q") == "<SOH>B0<ETX>q"
    assert readable(bytes(66)) == "<NUL> x 66 "


def test_an_answer_in_chunks_is_one_line_and_rows_stand_below_each_other() -> None:
    answer = encode(Data("(1)(a)\r\n(2)(b)"))
    shown = lines(
        Note(0.0, "calling"),
        Said(0.1, 300, 0.2, encode(Request()).hex()),
        Heard(0.5, 9600, answer[:7].hex()),
        Heard(0.6, 9600, answer[7:].hex()),
        Silent(2.0, "no answer"),
    )
    assert [line.split()[1] for line in shown if line[:9].strip()] == ["--", "->", "<-", "!!"]
    assert any("the line changes to 9600 Bd" in line for line in shown)
    assert shown[3].endswith("<STX>(1)(a)<CR><LF>")
    assert shown[4].strip().startswith("(2)(b)<ETX>")


def test_noise_around_a_telegram_is_shown_apart() -> None:
    shown = lines(
        Heard(0.5, 300, (b"RING\r\n" + encode(Identification("Els", "6", "EK270"))).hex()), Heard(1, 300, "00")
    )
    assert ["no telegram" in line for line in shown] == [True, False, True]
