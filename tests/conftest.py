"""The order of the tests: those of whole sites, which mostly wait, are spread among those that mostly compute.

Together at one end they would all wait at the same time, with the processors idle, and the last one would be waited
for alone. So each worker begins with one of the longest. Modules stay whole: what their tests share is made once.
"""

import gc
import itertools
import pathlib
from collections.abc import Iterator

import hypothesis
import pytest

# Judged is what comes out, not how long it takes: on a busy machine the next test may have the processor.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

gc.set_threshold(20_000, 10, 10)
"""Objects made before cycles are looked for: with Python's 700 a fifth of collecting the tests goes into that."""

SITES = pathlib.Path(__file__).parent / "system"
LONGEST = (
    "test_soak",
    "test_chaos",
    "test_demo",
    "test_stampede",
    "test_outage",
    "test_kills",
    "test_stores",
    "test_mixed",
)
"""Those of the sites that take a minute or more, the longest first."""

EARLY = 0.75
"""All sites have begun when this part of the other tests has gone by."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each worker its share of the sites, the longest first, evenly among the modules of the others.

    pytest-xdist deals out the list in as many equal pieces as there are workers.
    """
    workers = int(getattr(config, "workerinput", {}).get("workercount", 1))
    sites = sorted((item for item in items if item.path.parent == SITES), key=length_of, reverse=True)
    others = [item for item in items if item.path.parent != SITES]
    if sites and others:
        cuts = [len(others) * worker // workers for worker in range(workers + 1)]
        items[:] = [
            item
            for worker in range(workers)
            for item in spread(sites[worker::workers], others[cuts[worker] : cuts[worker + 1]])
        ]


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what is there for as long as the tests run, all modules and tests, out of later searches for cycles."""
    gc.collect()
    gc.freeze()


def length_of(site: pytest.Item) -> int:
    """Return a rank by which the longest comes last."""
    stem = site.path.stem
    return len(LONGEST) - LONGEST.index(stem) if stem in LONGEST else 0


def spread(sites: list[pytest.Item], others: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield all: a site, its share of the others to the end of a module, the next site."""
    every, gone, put, left = EARLY * len(others) / max(1, len(sites)), 0, 0, iter(sites)
    for _, module in itertools.groupby(others, key=lambda item: item.path):
        due = min(len(sites), int(gone / every) + 1 if every else len(sites)) - put
        put += max(0, due)
        yield from itertools.islice(left, max(0, due))
        tests = list(module)
        gone += len(tests)
        yield from tests
    yield from left
