"""A fleet comes back at once: the short form of the bench ``stampede``; how quickly is judged by the bench alone."""

from benchmarks._stampede_figures import MOST_GROWTH
from benchmarks.loaded_hub import POSTGRESQL
from benchmarks.stampede import run


def test_nothing_is_lost_or_doubled_when_a_fleet_comes_back() -> None:
    plain, loaded = run(agents=30, backlog=60, relays=2, database=POSTGRESQL, feed_seconds=2.0)
    for figures in (plain, loaded):
        assert (figures.missing, figures.doubled, figures.wrong) == (0, 0, 0), figures
        assert figures.relay_growth <= MOST_GROWTH, figures
        assert not figures.failures, figures
        assert figures.readings >= 30 * 60
        assert figures.lines()[0].startswith(figures.case)
    assert plain.database_share == 1
    assert loaded.database_share < 0.8, "the database was to be slowed"
    assert loaded.readings > plain.readings, "readings were to be stored meanwhile"
