"""What one agent takes for many lines at once, beside what it takes for one: time, processor, memory.

A real hub, a real Mosquitto and the real agent; the simulator's process holds a meter on each of the lines, 9600 Bd on
pseudo-terminals, at most 8 bytes a write at the line's pace. Every 20 s all meters are due at once, and of each a day
(96 rows) is read again. First one gateway with one line does that, then one with all lines.

``ratio`` is the median round's time of all lines over the one line's: from the first bit of the first request to the
last bit of the last break, in the meters' own wire logs. ``cpu`` is the agent process's user and system time over wall
time while lines are busy, its deliveries to the hub included; ``rss`` what is resident in the end. Exit status 0: a
ratio of at most 1.1, less than 30 % of one core, less than 45 MiB, and every row in the hub.
"""

import argparse
import contextlib
import dataclasses
import datetime as dt
import itertools
import json
import os
import pathlib
import sqlite3
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks._lines_meters import FIRST_SERIAL, INTERVAL
from benchmarks.loaded_hub import SERIES, SQLITE, LoadedHub, Watch, loaded_hub
from deploy.demo.processes import Process

RATE = 9600
ROWS = 96
ROUND_SECONDS = 20.0
"""Real seconds between two rounds; one takes almost 17."""
QUARTER = dt.timedelta(minutes=15)
LEAD = 9.0
"""Real seconds from the start of an agent to its first round: it has its plan by then."""
ONE_LINE_ROUNDS = 2
LONGEST_RATIO, MOST_CPU, MOST_RSS = 1.1, 0.30, 45.0
LOOK = 0.1
PATIENCE = 120.0
"""Seconds more than planned: a machine that does much else lets the meters fall behind their lines."""
REQUEST = b"/?1!\r\n"
BREAK = b"\x01B0\x03q"


@dataclasses.dataclass(frozen=True)
class Usage:
    """What one agent took; ``rounds`` are seconds each, memory is in MiB, ``cpu`` a share of one core."""

    lines: int
    rounds: tuple[float, ...]
    cpu: float
    rss: float
    peak: float

    @property
    def seconds(self) -> float:
        """The median round."""
        return statistics.median(self.rounds)


@dataclasses.dataclass(frozen=True)
class Figures:
    """The bench's result."""

    one: Usage
    many: Usage
    ratio: float
    readings: int
    expected: int

    @property
    def good(self) -> bool:
        """Whether the goals hold."""
        return (
            self.ratio <= LONGEST_RATIO
            and self.many.cpu < MOST_CPU
            and self.many.rss < MOST_RSS
            and self.readings == self.expected
        )


def run(lines: int, rounds: int) -> Figures:
    """Measure one line, then many."""
    with loaded_hub(SQLITE) as loaded:
        end = dt.datetime.now(dt.UTC).replace(second=0, microsecond=0)
        end -= dt.timedelta(minutes=end.minute % INTERVAL) + QUARTER
        task = loaded.hub.post(
            "/v1/metering/amr-tasks/",
            organization=loaded.organization,
            name="a day",
            schedule="quarterly",
            run_offset_seconds=0,
            meter_execution_type="generic_lis200",
            task_call="read_archive_by_date",
            task_kwargs={
                "start_date": (end - (ROWS - 1) * QUARTER).isoformat(),
                "end_date": end.isoformat(),
                "archive_number": 3,
                "control_position": 3,
            },
        )
        one = _measure(loaded, "one", 1, min(rounds, ONE_LINE_ROUNDS), str(task["id"]))
        many = _measure(loaded, "many", lines, rounds, str(task["id"]))
        return Figures(one, many, many.seconds / one.seconds, loaded.count(), (lines + 1) * ROWS * len(SERIES))


def _measure(loaded: LoadedHub, name: str, lines: int, rounds: int, task: str) -> Usage:
    """Let an agent of its own read that many lines for a round that is not counted, then for the counted ones."""
    folder = loaded.stage.folder / name
    folder.mkdir()
    meters = loaded.start_child("_lines_meters", str(folder), str(lines), str(RATE))
    _make_gateway(loaded, name, meters.hello["endpoints"], task)
    with _agent(loaded, name, folder) as agent, Watch(lambda: _peek(agent), LOOK) as looks:
        samples: list[tuple[float, float]] = []
        until = time.monotonic() + LEAD + ROUND_SECONDS * (rounds + 1) + PATIENCE
        while len(spans := _rounds(folder, lines)) < rounds + 1:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(spans)} rounds of {rounds + 1} were finished by all {lines} lines in time")
            samples.append((time.monotonic(), _cpu_seconds(agent)))
            time.sleep(LOOK)
        samples.append((time.monotonic(), _cpu_seconds(agent)))
        resident = _peek(agent)
        # What the last round brought is delivered before the agent ends.
        _wait_delivered(folder)
    meters.end()
    counted = spans[1 : rounds + 1]
    busy = sum(end - start for start, end in counted)
    used = sum(_at(samples, end) - _at(samples, start) for start, end in counted)
    return Usage(lines, tuple(end - start for start, end in counted), used / busy, resident, max(looks.figures))


def _make_gateway(loaded: LoadedHub, name: str, endpoints: Sequence[str], task: str) -> None:
    """Create the gateway, and for each endpoint a line with its meter."""
    post = loaded.hub.post
    (kind,) = [row["id"] for row in loaded.hub.all("/v1/metering/meter-device-types")]
    gateway = post("/v1/gateways/", organization=loaded.organization, gateway_id=name, name=name)
    for number, endpoint in enumerate(endpoints):
        line = post(
            "/v1/metering/network-interfaces",
            organization=loaded.organization,
            gateway=gateway["id"],
            name=f"{name} {number}",
            serial_port=endpoint,
            rate=RATE,
            fixed_rate=True,
        )
        post(
            "/v1/metering/meter-devices",
            organization=loaded.organization,
            name=f"{name} {number}",
            protocol="lis-200",
            iec62056_21_address="1",
            manufacturer_serial=str(FIRST_SERIAL + number),
            type=kind,
            timezone="UTC",
            network_interface=line["id"],
            meter_tasks=[task],
        )


@contextlib.contextmanager
def _agent(loaded: LoadedHub, name: str, folder: pathlib.Path) -> Iterator[Process]:
    """Run the agent on a clock whose quarters of an hour last a round, the first of them beginning in a moment."""
    settings = folder / "agent.toml"
    settings.write_text(f'gateway = "{name}"\nbroker = "{loaded.broker.url}"\ndata = "{folder}"\n', encoding="utf-8")
    rate = QUARTER.total_seconds() / ROUND_SECONDS
    tick = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0) + dt.timedelta(hours=1)
    start = tick - dt.timedelta(seconds=LEAD * rate)
    loaded.stage.environment["METERGATE_CLOCK"] = f"{start.isoformat()}@{time.time()},{rate}"
    agent = loaded.stage.start(f"agent-{name}", ["metergate-agent", "run", "--config", str(settings)], hello=False)
    del loaded.stage.environment["METERGATE_CLOCK"]
    try:
        yield agent
    finally:
        agent.end()


def _rounds(folder: pathlib.Path, lines: int) -> list[tuple[float, float]]:
    """First bit and last bit of each round that all lines have finished."""
    sessions = [_sessions(folder / f"wire-{line}.log") for line in range(lines)]
    return [(min(start for start, _ in whole), max(end for _, end in whole)) for whole in zip(*sessions, strict=False)]


def _sessions(log: pathlib.Path) -> list[tuple[float, float]]:
    """First and last bit of each finished session of a line."""
    found: list[tuple[float, float]] = []
    begun = None
    heard = b""
    for text in log.read_text(encoding="ascii").splitlines() if log.exists() else ():
        if not text.endswith("}"):
            break  # is being written
        chunk: Mapping[str, Any] = json.loads(text)
        if chunk["dir"] == "tx":
            heard = b""
            continue
        heard += bytes(byte & 0x7F for byte in bytes.fromhex(chunk["hex"]))
        if heard.endswith(REQUEST) and begun is None:
            begun = chunk["start"]
        if heard.endswith(BREAK) and begun is not None:
            found.append((begun, chunk["end"]))
            begun = None
    return found


def _cpu_seconds(process: Process) -> float:
    """User and system time of a process so far."""
    fields = pathlib.Path(f"/proc/{process.popen.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peek(process: Process) -> float:
    """MiB of a process that are resident."""
    pages = int(pathlib.Path(f"/proc/{process.popen.pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def _at(samples: Sequence[tuple[float, float]], instant: float) -> float:
    """The processor time at an instant, on the straight line between the two samples around it."""
    for (before, used), (after, more) in itertools.pairwise(samples):
        if instant <= after:
            return used + (more - used) * max(0.0, instant - before) / (after - before)
    return samples[-1][1]


def _wait_delivered(folder: pathlib.Path) -> None:
    """Wait until the agent has the hub's receipt for every reading."""
    until = time.monotonic() + PATIENCE
    with contextlib.closing(sqlite3.connect(f"file:{folder}/agent.db?mode=ro", uri=True)) as store:
        while time.monotonic() < until:
            (waiting,) = store.execute("SELECT count(*) FROM readings WHERE receipted_at IS NULL").fetchone()
            if not waiting:
                return
            time.sleep(LOOK)


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures; exit status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks lines", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, default=32, help="lines of the second gateway (32)")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long all lines are read again and again (1)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    figures = run(max(1, options.lines), max(1, round(options.minutes * 60 / ROUND_SECONDS)))
    if options.json:
        print(json.dumps({"benchmark": "lines", "good": figures.good, **dataclasses.asdict(figures)}))
        return 0 if figures.good else 1
    print(f"{ROWS} rows of each meter at {RATE} Bd, every {ROUND_SECONDS:g} s\n")
    print(f"{'lines':>6}{'rounds':>8}{'median s':>10}{'cpu':>8}{'rss MiB':>9}{'peak MiB':>10}")
    for usage in (figures.one, figures.many):
        print(
            f"{usage.lines:>6}{len(usage.rounds):>8}{usage.seconds:>10.2f}{usage.cpu:>8.1%}"
            f"{usage.rss:>9.1f}{usage.peak:>10.1f}"
        )
    print(
        f"\nratio {figures.ratio:.3f} (at most {LONGEST_RATIO}); cpu below {MOST_CPU:.0%}, rss below {MOST_RSS:g} MiB; "
        f"{figures.readings} of {figures.expected} readings in the hub"
    )
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
