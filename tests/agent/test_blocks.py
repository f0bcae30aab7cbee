"""How long blocks are: bounded by time, shorter where bytes are damaged, long again when they are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.blocks import CLEAN_BLOCKS, Blocks


@given(st.sampled_from((300, 2400, 9600, 19200, 115200)), st.integers(0, 400), st.integers(0, 40) | st.none())
def test_a_block_is_never_longer_than_its_time_unless_it_is_one_row(
    rate: int, length: int, columns: int | None
) -> None:
    rows = Blocks(row_length=length).rows(3, rate, columns)
    assert 1 <= rows <= 999
    if length and rows > 1:
        assert (rows * length + 3) * 10 / rate <= 3


@pytest.mark.parametrize(("repeats", "part"), [(0, 1), (1, 1), (2, 2), (3, 2)])
def test_a_block_that_came_after_many_repeats_halves_what_follows(repeats: int, part: int) -> None:
    blocks = Blocks()
    assert blocks.came(repeats) == (part > 1)
    assert blocks.part == part


def test_blocks_grow_again_after_a_run_of_clean_ones() -> None:
    blocks = Blocks(row_length=160)
    long = blocks.rows(3, 9600, None)
    blocks.lost()
    assert blocks.rows(3, 9600, None) <= long // 4
    asked_anew = [blocks.came(0) for _ in range(5 * CLEAN_BLOCKS)]
    assert asked_anew.count(True) == 2
    assert blocks.rows(3, 9600, None) == long


def test_one_repeat_ends_a_run_of_clean_blocks() -> None:
    blocks = Blocks(part=4)
    assert not any(blocks.came(0) for _ in range(CLEAN_BLOCKS - 1))
    assert not blocks.came(1)
    assert not any(blocks.came(0) for _ in range(CLEAN_BLOCKS - 1))
    assert blocks.came(0)
    assert blocks.part == 2


def test_the_length_of_rows_is_learned_from_the_longest() -> None:
    blocks = Blocks()
    assert blocks.characters(10) == 0
    blocks.seen(1598, 10)
    assert blocks.characters(10) == 1600
    blocks.seen(1000, 10)
    assert blocks.characters(10) == 1600
