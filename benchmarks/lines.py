"""What one agent takes for many lines at once, beside what it takes for one: time, processor, memory.

A real hub, a real Mosquitto and the real agent; the simulator's process holds the same meter on each of the lines,
9600 Bd on pseudo-terminals, at most 8 bytes a write at the line's pace. Every 25 s all meters are due at once, and of
each a day (96 rows) is read again. First one gateway with one line does that, then one with all lines.

``ratio`` is the median round's time of all lines over the one line's: from the first bit of the first request to the
last bit of the last break, in the meters' own wire logs. ``cpu`` is the agent process's user and system time over wall
time while lines are busy, its deliveries to the hub included; ``rss`` what is resident in the end, ``peak`` the most
that ever was. Exit status 0: a ratio of at most 1.1, less than 30 % of one core, less than 45 MiB in the end, every
round whole, every run done and every row in the hub.

Beside them stands what the machine had left: the shares of a core that the simulator's process and everybody else on
the machine took meanwhile, and by how many seconds of a round the simulator spoke later than its own lines could carry.
"""

import argparse
import collections
import contextlib
import dataclasses
import datetime as dt
import json
import math
import pathlib
import sqlite3
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

from benchmarks._lines_meters import INTERVAL, SERIAL
from benchmarks._lines_rounds import EARLY, Round, judge, sessions
from benchmarks._lines_usage import Sample, look, spent
from benchmarks.loaded_hub import SERIES, SQLITE, LoadedHub, Watch, loaded_hub, memory
from deploy.demo.processes import Process
from protocol.reports import DONE, RunReport, decode_report

QUARTER = dt.timedelta(minutes=15)
LONGEST_RATIO, MOST_CPU, MOST_RSS = 1.1, 0.30, 45.0
LOOK = 0.2
STORE = "agent.db"
PATIENCE = 120.0
"""Seconds that an agent may take to its first session, and to its last delivery."""
SHOWN = 3
"""Causes of runs that failed, and lines of a log, that are told at most."""


@dataclasses.dataclass(frozen=True)
class Course:
    """What is measured: so many rounds of a number of lines, beside rounds of one.

    Attributes:
        lines: Lines of the second gateway.
        rounds: Rounds that are counted of it; one goes before.
        one_line_rounds: Rounds that are counted of the first gateway.
        rows: Archive rows of each meter in a round.
        rate: Bd.
        seconds: Real seconds from one round to the next; at 9600 Bd 96 rows take almost 17.
        lead: Real seconds from the start of an agent to its first round: it mostly has its plan by then.
    """

    lines: int = 32
    rounds: int = 2
    one_line_rounds: int = 2
    rows: int = 96
    rate: int = 9600
    seconds: float = 25.0
    lead: float = 9.0


@dataclasses.dataclass(frozen=True)
class Usage:
    """What one agent took: ``rounds`` and ``late`` in seconds, memory in MiB, the others in shares of one core."""

    lines: int
    rounds: tuple[float, ...]
    late: float
    cpu: float
    simulator: float
    others: float
    rss: float
    peak: float
    troubles: tuple[str, ...]
    """Rounds that were not whole and runs that were not done, and why."""

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
        return not self.troubles and (
            self.ratio <= LONGEST_RATIO and self.many.cpu < MOST_CPU and self.many.rss < MOST_RSS
        )

    @property
    def troubles(self) -> tuple[str, ...]:
        """What keeps the other figures from meaning anything."""
        missing = f"{self.readings} readings in the hub instead of {self.expected}"
        return (*self.one.troubles, *self.many.troubles, *([missing] if self.readings != self.expected else []))


class NoRoundError(RuntimeError):
    """Nothing was measured; the text says why."""


def run(course: Course) -> Figures:
    """Measure one line, then many.

    Raises:
        NoRoundError: when no round of one of them was whole.
    """
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
                "start_date": (end - (course.rows - 1) * QUARTER).isoformat(),
                "end_date": end.isoformat(),
                "archive_number": 3,
                "control_position": 3,
            },
        )
        one = _measure(loaded, "one", dataclasses.replace(course, lines=1, rounds=course.one_line_rounds), task["id"])
        many = _measure(loaded, "many", course, task["id"])
        expected = (course.lines + 1) * course.rows * len(SERIES)
        return Figures(one, many, many.seconds / one.seconds, loaded.count(), expected)


def _measure(loaded: LoadedHub, name: str, course: Course, task: str) -> Usage:
    """Let an agent of its own read the lines for a round that is not counted, then for the counted ones."""
    folder = loaded.stage.folder / name
    folder.mkdir()
    meters = loaded.start_child("_lines_meters", str(folder), str(course.lines), str(course.rate))
    _make_gateway(loaded, name, meters.hello["endpoints"], task, course.rate)
    logs = [folder / f"wire-{line}.log" for line in range(course.lines)]
    samples: list[Sample] = []

    def watch() -> float:
        samples.append(look(agent, meters))
        return memory(agent)

    with _agent(loaded, name, folder, course) as (agent, first), Watch(watch, LOOK) as looks:
        begun = _await_first(logs, agent, meters, first, course.seconds)
        # The first round brings the columns too. The logs are read when all is over: that is work, and would disturb.
        ticks = [first + course.seconds * (begun + 1 + number) for number in range(course.rounds)]
        time.sleep(max(0.0, ticks[-1] + course.seconds - EARLY - time.monotonic()))
        found = [sessions(log) for log in logs]
        resident = memory(agent)
        # What the last round brought is delivered before the agent ends.
        _await_delivery(folder / STORE, agent)
    meters.end()
    judged = [judge(found, tick, course.seconds) for tick in ticks]
    rounds = [one for one in judged if isinstance(one, Round)]
    troubles = [*(one for one in judged if isinstance(one, str)), *_not_done(folder / STORE)]
    if not rounds:
        raise NoRoundError(f"{name}: no round was whole: {'; '.join(troubles)}; {_last_words(agent)}")
    used = [spent(samples, one.start, one.end) for one in rounds]
    busy = sum(one.seconds for one in rounds)
    agent_seconds, simulator_seconds, machine_seconds = (sum(column) for column in zip(*used, strict=True))
    return Usage(
        lines=course.lines,
        rounds=tuple(one.seconds for one in rounds),
        late=statistics.median(one.late for one in rounds),
        cpu=agent_seconds / busy,
        simulator=simulator_seconds / busy,
        others=(machine_seconds - agent_seconds - simulator_seconds) / busy,
        rss=resident,
        peak=max(looks.figures),
        troubles=tuple(troubles),
    )


def _make_gateway(loaded: LoadedHub, name: str, endpoints: Sequence[str], task: str, rate: int) -> None:
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
            rate=rate,
            fixed_rate=True,
        )
        post(
            "/v1/metering/meter-devices",
            organization=loaded.organization,
            name=f"{name} {number}",
            protocol="lis-200",
            iec62056_21_address="1",
            manufacturer_serial=str(SERIAL),
            type=kind,
            timezone="UTC",
            network_interface=line["id"],
            meter_tasks=[task],
        )


@contextlib.contextmanager
def _agent(loaded: LoadedHub, name: str, folder: pathlib.Path, course: Course) -> Iterator[tuple[Process, float]]:
    """Run the agent on a clock whose quarters of an hour last a round; and when (monotonic) the first one begins."""
    settings = folder / "agent.toml"
    settings.write_text(f'gateway = "{name}"\nbroker = "{loaded.broker.url}"\ndata = "{folder}"\n', encoding="utf-8")
    rate = QUARTER.total_seconds() / course.seconds
    tick = dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0) + dt.timedelta(hours=1)
    start = tick - dt.timedelta(seconds=course.lead * rate)
    loaded.stage.environment["METERGATE_CLOCK"] = f"{start.isoformat()}@{time.time()},{rate}"
    first = time.monotonic() + course.lead
    agent = loaded.stage.start(f"agent-{name}", ["metergate-agent", "run", "--config", str(settings)], hello=False)
    del loaded.stage.environment["METERGATE_CLOCK"]
    try:
        yield agent, first
    finally:
        agent.end()


def _await_first(logs: Sequence[pathlib.Path], agent: Process, meters: Process, first: float, seconds: float) -> int:
    """Wait until every line has been spoken on; return the number of the round in which that was."""
    while silent := [log.stem for log in logs if not log.exists() or not log.stat().st_size]:
        for process in (agent, meters):
            if process.popen.poll() is not None:
                raise NoRoundError(f"{process.name} has ended; {_last_words(process)}")
        if time.monotonic() > first + PATIENCE:
            raise NoRoundError(f"nothing was said on {len(silent)} of {len(logs)} lines; {_last_words(agent)}")
        time.sleep(LOOK)
    return math.floor((time.monotonic() + EARLY - first) / seconds)


def _await_delivery(store: pathlib.Path, agent: Process) -> None:
    """Wait until the agent has the hub's receipt for every reading."""
    until = time.monotonic() + PATIENCE
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        while True:
            (waiting,) = database.execute("SELECT count(*) FROM readings WHERE receipted_at IS NULL").fetchone()
            if not waiting:
                return
            if time.monotonic() > until:
                raise NoRoundError(f"{waiting} readings were not delivered in {PATIENCE:g} s; {_last_words(agent)}")
            time.sleep(LOOK)


def _not_done(store: pathlib.Path) -> list[str]:
    """Say of the runs that ended otherwise than done how many they were, by cause."""
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as database:
        rows = [decode_report(body) for (body,) in database.execute("SELECT body FROM reports")]
    causes = collections.Counter(
        f"{row.outcome}: {row.cause}" for row in rows if isinstance(row, RunReport) and row.outcome != DONE
    )
    return [f"{count} runs {cause}" for cause, count in causes.most_common(SHOWN)]


def _last_words(process: Process) -> str:
    lines = process.log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
    return f"the last of {process.log.name}: {' / '.join(lines) or 'nothing'}"


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures; exit status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks lines", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, default=32, help="lines of the second gateway (32)")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long all lines are read again and again (1)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    course = Course(lines=max(1, options.lines))
    course = dataclasses.replace(course, rounds=max(1, round(options.minutes * 60 / course.seconds)))
    try:
        figures = run(course)
    except NoRoundError as error:
        print(f"nothing was measured: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"benchmark": "lines", "good": figures.good, **dataclasses.asdict(figures)}))
        return 0 if figures.good else 1
    print(f"{course.rows} rows of each meter at {course.rate} Bd, every {course.seconds:g} s\n")
    print(
        f"{'lines':>6}{'rounds':>8}{'median s':>10}{'late s':>8}{'cpu':>8}{'rss MiB':>9}{'peak MiB':>10}"
        f"{'simulator':>11}{'others':>8}"
    )
    for usage in (figures.one, figures.many):
        print(
            f"{usage.lines:>6}{len(usage.rounds):>8}{usage.seconds:>10.2f}{usage.late:>8.2f}{usage.cpu:>8.1%}"
            f"{usage.rss:>9.1f}{usage.peak:>10.1f}{usage.simulator:>11.1%}{usage.others:>8.1%}"
        )
    print(
        f"\nratio {figures.ratio:.3f} (at most {LONGEST_RATIO}); cpu below {MOST_CPU:.0%}, "
        f"rss below {MOST_RSS:g} MiB; {figures.readings} of {figures.expected} readings in the hub"
    )
    for trouble in figures.troubles:
        print(f"does not hold: {trouble}")
    return 0 if figures.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
