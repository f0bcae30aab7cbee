"""The fleet of the bench ``stampede``: processes of many uplinks each, what they told, and what REST has of it."""

import contextlib
import datetime as dt
import decimal
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from benchmarks.backlog import rows_of
from benchmarks.loaded_hub import LoadedGateway, LoadedHub
from deploy.demo.processes import END_SECONDS
from protocol.readings import NewMeterReading
from protocol.wire import decode

PROCESSES = 2
READY_SECONDS = 600.0
BEST_SECONDS = 10.0
_SHARED_MEMORY = pathlib.Path("/dev/shm")  # noqa: S108 - a folder with a random name is made in it


class Uplinks:
    """One process of many uplinks, and what it told."""

    def __init__(self, folder: pathlib.Path, broker: str, gateways: Sequence[LoadedGateway], log: pathlib.Path) -> None:
        self.told: list[dict[str, Any]] = []
        self._log = log
        names = [f"{gateway.name}={gateway.meters[0]}" for gateway in gateways]
        with log.open("wb") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "benchmarks._stampede_uplinks", str(folder), broker, *names],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        for line in self._child.stdout or ():
            with self._news:
                self.told.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def order(self, **order: object) -> None:
        """Give an order; what was told before is forgotten."""
        self.told.clear()
        self.say(**order)

    def say(self, **order: object) -> None:
        """Send a line."""
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.write(json.dumps(order) + "\n")
                self._child.stdin.flush()

    def wait(self, key: str, seconds: float) -> bool:
        """Wait until a line with this key was told; False if none came in time.

        Raises:
            RuntimeError: when the process has ended.
        """
        with self._news:
            found = self._news.wait_for(lambda: self._ended or any(key in line for line in self.told), seconds)
            if self._ended:
                tail = self._log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"a process of uplinks ended; its log {self._log} ends:\n{tail}")
        return found

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    def wait_until_made(self) -> None:
        """Wait for its stores.

        Raises:
            RuntimeError: when they are not made in time, or the process has ended.
        """
        if not self.wait("ready", READY_SECONDS):
            raise RuntimeError("the stores of the uplinks were not made in time")

    def kill(self) -> None:
        """End the process at once."""
        self._child.kill()

    def end(self) -> None:
        """End the process, at once if it does not listen."""
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        try:
            self._child.wait(END_SECONDS * 4)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._thread.join(END_SECONDS)
        if self._child.stdout is not None:
            self._child.stdout.close()


@contextlib.contextmanager
def fleet_of(loaded: LoadedHub, gateways: Sequence[LoadedGateway]) -> Iterator[list[Uplinks]]:
    """Run the processes for the length of the block; their stores lie in memory where that is a folder."""
    with tempfile.TemporaryDirectory(dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None) as folder:
        fleet: list[Uplinks] = []
        try:
            for number in range(min(PROCESSES, len(gateways))):
                log = loaded.stage.folder / f"uplinks-{number}.log"
                part = gateways[number::PROCESSES]
                fleet.append(Uplinks(pathlib.Path(folder), loaded.broker.url, part, log))
            for one in fleet:
                one.wait_until_made()
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
        for body in rows_of([uuid.UUID(meter)], given[gateway.name]):
            reading = decode(body, NewMeterReading)
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
