"""Notes of what is to be judged: every key is in a span of its own series, and a note comes back as it was."""

import datetime as dt
import itertools
import uuid

from hypothesis import given
from hypothesis import strategies as st

from hub.unjudged import FIRST, LAST, Span, pack, spans_of, unpack

START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
KEYS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(2**127, 2**127 + 1),
        st.integers(0, 200).map(lambda hours: START + dt.timedelta(hours=hours)),
    ),
    unique=True,
).map(sorted)


@given(KEYS)
def test_spans_are_around_the_keys_and_around_little_else(keys: list[tuple[int, int, dt.datetime]]) -> None:
    spans = list(spans_of(keys))
    for device, series, timestamp in keys:
        holding = [
            span
            for span in spans
            if (span.device.int, span.series.int) == (device, series) and span.first <= timestamp <= span.last
        ]
        assert len(holding) == 1
    for span in spans:
        inside = [key[2] for key in keys if key[:2] == (span.device.int, span.series.int)]
        inside = [timestamp for timestamp in inside if span.first <= timestamp <= span.last]
        assert (inside[0], inside[-1]) == (span.first, span.last)
        gaps = [later - earlier for earlier, later in itertools.pairwise(inside)]
        assert max(gaps, default=dt.timedelta()) <= dt.timedelta(days=1)


def test_a_note_comes_back_as_it_was() -> None:
    spans = [Span(uuid.uuid4(), uuid.UUID(int=0), FIRST, LAST), Span(uuid.uuid4(), uuid.uuid4(), START, START)]
    assert unpack(pack(spans)) == spans
    assert pack([]) == b""
