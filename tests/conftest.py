"""The order of the tests: those of whole sites, which mostly wait, are spread among those that mostly compute.

Together at one end they would all wait at the same time, with the processors idle, and the last one would be waited
for alone. Modules stay whole: what their tests share is made once.
"""

import itertools
import pathlib
from collections.abc import Iterator

import hypothesis
import pytest

# Judged is what comes out, not how long it takes: on a busy machine the next test may have the processor.
hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("busy")

SITES = pathlib.Path(__file__).parent / "system"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of whole sites between the modules of the others, evenly."""
    sites = [item for item in items if item.path.parent == SITES]
    others = [item for item in items if item.path.parent != SITES]
    if sites and others:
        items[:] = spread(sites, others)


def spread(sites: list[pytest.Item], others: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield all, each site where its share of the others has gone by and a module ends."""
    every, gone, left = len(others) / len(sites), 0, iter(sites)
    put = 0
    for _, module in itertools.groupby(others, key=lambda item: item.path):
        tests = list(module)
        gone += len(tests)
        yield from tests
        due = int(gone / every) - put
        put += due
        yield from itertools.islice(left, due)
    yield from left
