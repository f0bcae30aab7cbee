"""No code of a lock is kept or shown, whatever the line does with it; what is kept can still be decoded."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.masking import Mask, masked
from protocol.iec62056 import Data, Password, ReadCommand, Refusal, WriteCommand
from protocol.iec62056.characters import block_check, has_even_parity, strip_parity, with_even_parity
from protocol.iec62056.telegrams import decode_block, encode

CODES = st.text("ABCXYZabcxyz!$%&/=?+#-;", min_size=4, max_size=16)
"""No digit of an address is among them, so that any of them that is shown is one of the code."""


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(code=CODES, lock=st.integers(1, 6), even=st.booleans(), login=st.booleans())
def test_a_code_that_is_said_becomes_stars_in_a_telegram_that_still_holds(
    code: str, lock: int, *, even: bool, login: bool
) -> None:
    event = Password.for_lock(lock, code) if login else WriteCommand(f"{lock}:171.0", code)
    data = encode(event)
    shown = Mask().said(with_even_parity(data) if even else data, event)
    assert len(shown) == len(data)
    assert has_even_parity(shown) or not even
    assert decode_block(strip_parity(shown)) == masked(event)
    assert code.encode() not in strip_parity(shown)


@given(
    code=CODES, even=st.booleans(), cuts=st.lists(st.integers(0, 60)), flips=st.lists(st.integers(0, 300), max_size=2)
)
def test_an_echo_of_a_code_shows_none_of_it_even_when_cut_and_damaged(
    code: str, cuts: list[int], flips: list[int], *, even: bool
) -> None:
    event = WriteCommand("3:171.0", code)
    plain = encode(event)
    data = with_even_parity(plain) if even else plain
    mask = Mask()
    shown = mask.said(data, event)
    echo = bytearray(data)
    for flip in flips:
        echo[flip // 8 % len(echo)] ^= 1 << flip % 8
    returned = b"".join(mask.heard(part) for part in split(bytes(echo), cuts))
    assert len(returned) == len(echo)
    if not flips:
        assert returned == shown
    letters = {character for character in code if character not in "W1R()"}
    at = plain.index(b"(") + 1
    kept = strip_parity(returned)[at : at + len(code)].decode()
    # What a flipped bit makes of a star may be a letter; the code's own are not to be seen.
    assert sum(shown == real for shown, real in zip(kept, code, strict=True) if real in letters) <= len(flips)
    refusal = with_even_parity(encode(Refusal(17))) if even else encode(Refusal(17))
    if not flips:
        assert mask.heard(refusal) == refusal


@pytest.mark.parametrize("text", ["7-3:171.2({})", "3:171({})", "({})", "0003:0171.0({})"])
@given(code=CODES.filter(lambda code: not code.startswith("#")), even=st.booleans(), cuts=st.lists(st.integers(0, 40)))
def test_a_code_that_a_meter_tells_becomes_stars(text: str, code: str, cuts: list[int], *, even: bool) -> None:
    event = ReadCommand("3:171.0")
    asked, told = encode(event), encode(Data(text.format(code)))
    if even:
        asked, told = with_even_parity(asked), with_even_parity(told)
    mask = Mask()
    assert mask.said(asked, event) == asked
    shown = strip_parity(b"".join(mask.heard(part) for part in split(told, cuts)))
    answer = decode_block(shown)
    assert isinstance(answer, Data)
    assert answer.groups == ("*" * len(code),)
    assert shown[-1] == block_check(shown[1:-1])


def test_everything_else_is_shown_as_it_is() -> None:
    mask = Mask()
    for event in (ReadCommand("2:300.0"), WriteCommand("1:400.0", "2024-01-15,06:30:00")):
        data = encode(event)
        assert mask.said(data, event) == data
        answer = encode(Data("7-2:300.2(12.5*m3)"))
        assert mask.heard(data + answer) == data + answer
