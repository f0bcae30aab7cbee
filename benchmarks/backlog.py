"""The readings of a backlog: quarter-hourly rows of all series of some meters, oldest first, for store or batch."""

import datetime as dt
import decimal
import itertools
import pathlib
import uuid
from collections.abc import Iterator, Sequence

from agent.clocks import Clock
from agent.store import Store
from benchmarks.loaded_hub import SERIES
from protocol.readings import NewMeterReading
from protocol.wire import encode

ROWS_PER_RUN = 96 * len(SERIES)
_CHUNK = 20_000
EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
"""The first quarter of an hour: the same for every backlog, so that a longer one begins with a shorter one."""


def rows_of(meters: Sequence[uuid.UUID], readings: int, after: int = 0) -> Iterator[bytes]:
    """Yield so many encoded readings, but for the first ones up to ``after``; no key comes twice."""
    return map(encode, readings_of(meters, readings, after))


def readings_of(meters: Sequence[uuid.UUID], readings: int, after: int = 0) -> Iterator[NewMeterReading]:
    """Yield the same readings as they are before they are encoded."""
    periods = -(-readings // (len(meters) * len(SERIES)))
    number, run = 0, uuid.uuid4()
    for period in range(periods):
        at = EPOCH + dt.timedelta(minutes=15 * period)
        for position, meter in enumerate(meters, start=1):
            for series in SERIES:
                if number == readings:
                    return
                if number % ROWS_PER_RUN == 0:
                    run = uuid.uuid4()
                number += 1
                if number <= after:
                    continue
                value = decimal.Decimal(100_000_000 + number).scaleb(-4)
                collected = at + dt.timedelta(minutes=3)
                yield NewMeterReading(
                    f"meter {position}", series, at, value, "m3", meter, collected, "meter", -1.5, run
                )


def fill_store(path: pathlib.Path, gateway: str, meters: Sequence[uuid.UUID], readings: int) -> None:
    """Make an agent's store with that backlog."""
    store = Store(path, gateway, Clock())
    rows = rows_of(meters, readings)
    while chunk := list(itertools.islice(rows, _CHUNK)):
        with store.transaction():
            store.readings.append(chunk)
    store.close()
