"""Bits of slots against a set of numbers."""

import itertools
import uuid

from hypothesis import given
from hypothesis import strategies as st

from hub.expectations import Expecting
from hub.ledger_chunks import LONG_SLOTS, SHORT_SLOTS, Bits, chunks_of, cut
from protocol.rasters import Raster

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


@given(SIZES, WINDOWS, SLOTS)
def test_a_range_of_slots_is_its_slots(size: int, window: tuple[int, int], others: list[int]) -> None:
    run = range(window[0], window[1] + 1)
    at_once, one_by_one = Bits(size), Bits(size)
    for bits, slots in ((at_once, run), (one_by_one, list(run))):
        bits.add(others)
        bits.add(slots)
    assert at_once.chunks == one_by_one.chunks
    assert set(chunks_of(size, run)) == set(chunks_of(size, list(run)))


_STEPS = st.sampled_from([3600, 3600, 3600, 3600, 1800, 7200, 1])


@given(st.integers(0, 7200), st.lists(_STEPS, max_size=12), st.integers(0, 12), st.none() | st.integers(0, 12))
def test_slots_of_many_readings_are_those_of_each(first: int, steps: list[int], since: int, until: int | None) -> None:
    timestamps = [1_000_000 * at for at in itertools.accumulate(steps, initial=first - first % 1800)]
    owner = uuid.UUID(int=1)
    one = Expecting(1, owner, owner, 1, Raster("hour", 1800), False, "config", 3, since, until, False)  # noqa: FBT003 - a row
    each = [slot for timestamp in timestamps if (slot := one.slot(timestamp)) is not None]
    assert list(one.slots(timestamps)) == each
    assert list(one.slots([])) == []


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
