"""The bench ``pushes``, short: a flood is thinned to one reading per slot, and those who are polled hardly notice."""

import pathlib
import statistics

from benchmarks.pushes import measure


async def test_a_flood_does_not_starve_polling(tmp_path: pathlib.Path) -> None:
    figures = await measure(3.0, 10_000, tmp_path)
    assert figures.telegrams > 1000
    assert figures.doubled == 0
    assert 3 <= figures.readings <= 9
    # The bench itself has the limit that holds on a quiet machine; this one holds on any.
    assert statistics.median(figures.flooded) < 2 * statistics.median(figures.alone) + 0.1
    assert len(figures.flooded) >= 3
