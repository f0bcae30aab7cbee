"""The fleet of the bench ``stampede``: processes of many uplinks each, what they told, and what REST has of it."""

import contextlib
import datetime as dt
import decimal
import pathlib
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from benchmarks._children import Child
from benchmarks.backlog import readings_of
from benchmarks.loaded_hub import LoadedGateway, LoadedHub

PROCESSES = 2
BEST_SECONDS = 10.0
_SHARED_MEMORY = pathlib.Path("/dev/shm")  # noqa: S108 - a folder with a random name is made in it


@contextlib.contextmanager
def fleet_of(loaded: LoadedHub, gateways: Sequence[LoadedGateway]) -> Iterator[list[Child]]:
    """Run the processes for the length of the block; their stores lie in memory where that is a folder."""
    with tempfile.TemporaryDirectory(dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None) as folder:
        fleet: list[Child] = []
        try:
            for number in range(min(PROCESSES, len(gateways))):
                log = loaded.stage.folder / f"uplinks-{number}.log"
                names = [f"{gateway.name}={gateway.meters[0]}" for gateway in gateways[number::PROCESSES]]
                fleet.append(Child("_stampede_uplinks", [folder, loaded.broker.url, *names], log))
            for one in fleet:
                one.wait_until_ready()
            yield fleet
        except BaseException:
            # Nobody wants what they would still say.
            for one in fleet:
                one.kill()
            raise
        finally:
            for one in fleet:
                one.end()


class Comparison(NamedTuple):
    """What REST lists against what the stores were given."""

    expected: int
    missing: int
    doubled: int
    wrong: int


def compare(loaded: LoadedHub, gateways: Sequence[LoadedGateway], given: Mapping[str, int]) -> Comparison:
    """Compare every reading of these gateways' meters, by series, timestamp and value."""
    series = {row["id"]: row["name"] for row in loaded.hub.all("/v1/metering/meter-reading-series")}
    found = Comparison(0, 0, 0, 0)
    for gateway in gateways:
        meter = gateway.meters[0]
        wanted = {}
        for reading in readings_of([uuid.UUID(meter)], given[gateway.name]):
            wanted[reading.series, reading.timestamp] = reading.value
        there: Counter[tuple[str, dt.datetime]] = Counter()
        wrong = 0
        for row in loaded.hub.all("/v1/metering/meter-readings", meter_device=meter):
            key = (series[row["series"]], dt.datetime.fromisoformat(row["timestamp"]))
            there[key] += 1
            wrong += wanted.get(key) != decimal.Decimal(row["value"])
        found = Comparison(
            found.expected + len(wanted),
            found.missing + len(wanted.keys() - there.keys()),
            found.doubled + there.total() - len(there),
            found.wrong + wrong,
        )
    # What is staged is stored, but no reading.
    staged = loaded.hub.count("/v1/metering/staged-meter-readings")
    return found._replace(wrong=found.wrong + staged)


class Course(NamedTuple):
    """What the processes of uplinks told from second to second, put together; rates in readings a second.

    Lines that tell nothing of how things stand are passed over.
    """

    seconds: float
    taken: int
    best_rate: float
    """Of the best ten seconds."""
    offered_rate: float
    taken_rate: float
    """Both of the seconds in which new readings were stored; 0 where there were none."""
    fed: tuple[float, float]
    """From when to when (monotonic seconds) that was."""
    sent: int
    resent: int
    connections: int
    window_most: float
    window_fed: float
    """KiB that a gateway may have on its way without a receipt, on average: at most, and at the feeding's end."""

    @classmethod
    def of(cls, told: Sequence[Sequence[dict[str, Any]]]) -> Self:
        """Put lines together that were told in the same second."""
        told = [[line for line in lines if "at" in line] for lines in told]
        # What a process told last stays so while others go on.
        length = max(map(len, told))
        moments = list(zip(*([*lines, *[lines[-1]] * (length - len(lines))] for lines in told), strict=True))
        at = [max(line["at"] for line in moment) for moment in moments]
        stored, waiting, windows, online = (
            [sum(line[name] for line in moment) for moment in moments]
            for name in ("stored", "waiting", "windows", "online")
        )
        taken = [has - waits for has, waits in zip(stored, waiting, strict=True)]
        each = [window / 1024 / count if count else 0.0 for window, count in zip(windows, online, strict=True)]
        feeding = [i for i, moment in enumerate(moments) if all(line["feeding"] for line in moment)]
        since, until = (feeding[0], feeding[-1]) if feeding else (0, 0)
        fed = at[until] - at[since]
        sums = {name: sum(line[name] for line in moments[-1]) for name in ("sent", "resent", "connections")}
        begun = {name: sum(line[name] for line in moments[0]) for name in sums}
        return cls(
            seconds=at[-1] - at[0],
            taken=taken[-1] - taken[0],
            best_rate=_best(at, taken),
            offered_rate=(stored[until] - stored[since]) / fed if fed else 0.0,
            taken_rate=(taken[until] - taken[since]) / fed if fed else 0.0,
            fed=(at[since], at[until]),
            window_most=max(each),
            window_fed=each[until],
            **{name: sums[name] - begun[name] for name in sums},
        )


def _best(at: Sequence[float], taken: Sequence[int]) -> float:
    """Return the rate of the best ten seconds, or of all where it took less."""
    spans = [
        (taken[end] - taken[start]) / (at[end] - at[start])
        for start in range(len(at))
        for end in range(start + 1, len(at))
        if at[end] - at[start] >= min(BEST_SECONDS, at[-1] - at[0])
    ]
    return max(spans, default=0.0)
