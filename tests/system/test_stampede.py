"""A fleet comes back at once: the short form of the bench ``stampede``; how quickly is judged by the bench alone."""

from benchmarks.loaded_hub import POSTGRESQL
from benchmarks.stampede import MOST_GROWTH, run


def test_nothing_is_lost_or_doubled_when_a_fleet_comes_back() -> None:
    for figures in run(agents=30, backlog=60, relays=2, database=POSTGRESQL, feed_seconds=2.0):
        assert (figures.missing, figures.doubled, figures.wrong) == (0, 0, 0), figures
        assert figures.relay_growth <= MOST_GROWTH, figures
        assert not figures.failures, figures
        assert figures.readings >= 30 * 60
