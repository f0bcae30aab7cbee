"""Bits of slots against a set of numbers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hub.ledger_chunks import LONG_SLOTS, SHORT_SLOTS, Bits, cut

SIZES = st.sampled_from([SHORT_SLOTS, LONG_SLOTS])
SLOTS = st.lists(st.integers(-5000, 5000) | st.integers(2040, 2060), max_size=60)
WINDOWS = st.tuples(st.integers(-5000, 5000), st.integers(0, 5000)).map(lambda one: (one[0], one[0] + one[1]))


@given(SIZES, SLOTS, SLOTS, WINDOWS)
def test_bits_are_a_set_of_slots(size: int, added: list[int], dropped: list[int], window: tuple[int, int]) -> None:
    bits, real = Bits(size), set(added) - set(dropped)
    bits.add(added)
    bits.drop(dropped)
    first, last = window
    within = {slot for slot in real if first <= slot <= last}
    assert bits.count(first, last) == len(within)
    missing = bits.missing(first, last)
    assert {slot for begin, end in missing for slot in range(begin, end + 1)} == set(range(first, last + 1)) - within
    # Spans are apart from one another, so each is as long as it can be.
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(missing))


@given(SIZES, SLOTS)
def test_bits_come_back_from_what_is_stored(size: int, added: list[int]) -> None:
    bits, again = Bits(size), Bits(size)
    bits.add(added)
    for chunk in bits.chunks:
        assert len(bits.dump(chunk)) == size // 8
        again.load(chunk, bits.dump(chunk))
    assert again.chunks == bits.chunks


def test_a_window_that_ends_before_it_begins_has_nothing() -> None:
    bits = Bits(SHORT_SLOTS)
    assert (bits.count(5, 4), bits.missing(5, 4)) == (0, [])


def test_spans_are_cut_where_something_begins() -> None:
    assert cut([(0, 9), (20, 29)], [5, 0, 20, 25, 25, 99]) == [(0, 4), (5, 9), (20, 24), (25, 29)]
