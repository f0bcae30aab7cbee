"""What happens when a fleet comes back at once after an outage, each gateway with a backlog.

Real stores, senders and uplinks, many in one process, each with its own key and its own connection; a real Mosquitto,
relays and a REST process on PostgreSQL. All connect in the same instant. While they drain, operators' requests are sent
to REST all the while. Two cases, one after the other with the same gateways:

- *the fleet comes back*: each gateway has a backlog, and nothing else happens. The best ten seconds of it are what the
  database takes.
- *twice the load*: the same once more, and from when all are connected the gateways together store more than twice as
  many readings a second as the database takes, for fifteen seconds. So that it is the database that is the limit, and
  not the processors that it shares with the bench, it runs a quarter of the time only, in turns of 20 ms (all its
  processes are stopped and let go on; REST waits for it as well). The hub cannot keep up: the relays' memory must stay
  bounded, the gateways' windows must shrink, and everything must be there in the end. What is offered and what is taken
  is measured in the same seconds. When it was less than twice, or at less than 90 % of the looks deliveries waited in a
  relay for the database, the case was not what it is called, and fails.

Before, every gateway connects once and gets its plan, as it had before the outage, and REST is asked while nothing
happens, for comparison. Relays run at a lower priority than REST (nice 5), as operators should have it where both
share processors. The processes of the uplinks run at a still lower one (nice 7) and wait longer for the broker's
answers, because they stand for as many other machines, and their stores lie in memory, because a thousand gateways
have a thousand disks. What must be in the hub is computed from what each store was given, and compared with what REST
lists, reading by reading.

``ratio`` is the 99th percentile of REST over its limit. Exit status 0: every reading is in the hub exactly once, less
than 5 % of the batches were sent again, REST answers within 250 ms (99th percentile), and no relay's memory grew by
more than its bound; in both cases; and the load was twice. The time until all have drained is printed. SIGTERM ends the
bench with all its processes. What it is doing is told on the error output.
"""

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import re
import resource
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from benchmarks._children import READY_SECONDS, Child
from benchmarks._stampede_estate import make_gateways
from benchmarks._stampede_figures import MOST_GROWTH, WANTED_RESENT, WANTED_REST, Figures
from benchmarks._stampede_fleet import Course, compare, fleet_of
from benchmarks._stampede_narrow import Narrow
from benchmarks.loaded_hub import (
    PATIENCE,
    POSTGRESQL,
    SQLITE,
    LoadedGateway,
    LoadedHub,
    Watch,
    loaded_hub,
    processor,
    quantile,
    timed,
)
from deploy.demo.processes import Process

NARROW = 0.25
"""The share of the time in which the database runs under load: the rest of the processors is enough to load it."""

FEED_TIMES = 1.2
"""So many times what the database took while it ran all the time are stored, more than twice what it takes now."""

FEED_SECONDS = 15.0
WARM = 2
"""The first requests of each kind are not counted: their statements are prepared with them."""

IDLE_SECONDS = 6.0
RELAY_NICE = 5
"""People wait for REST, gateways for the relays: as docs/operations.md has it where they share processors."""

ASK_EVERY = 0.05
LOOK = 0.5
LEAST_RATE = 200.0
"""A hub that takes fewer readings a second than this is given up."""

_MIB = 1024 * 1024


def run(agents: int, backlog: int, relays: int, database: str, feed_seconds: float = FEED_SECONDS) -> list[Figures]:
    """Measure both cases on one hub."""
    _raise_file_limit()
    with loaded_hub(database, relays) as loaded:
        if database == POSTGRESQL:
            for relay in loaded.relays:
                os.setpriority(os.PRIO_PROCESS, relay.popen.pid, RELAY_NICE)
        _say(f"{agents} gateways are made")
        gateways = make_gateways(loaded, agents)
        _say("their stores are made")
        with fleet_of(loaded, gateways) as fleet:
            bench = _Bench(loaded, gateways, fleet, backlog)
            bench.meet()
            plain = bench.case("the fleet comes back", 0.0, 0.0, 1.0)
            rate = FEED_TIMES * plain.best_rate
            return [plain, bench.case("twice the load", rate, feed_seconds, NARROW)]


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def _raise_file_limit() -> None:
    """Allow as many open files as the system lets us: each gateway has a socket and a store."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Bench:
    """One hub and one fleet."""

    def __init__(
        self, loaded: LoadedHub, gateways: Sequence[LoadedGateway], fleet: Sequence[Child], backlog: int
    ) -> None:
        self._loaded = loaded
        self._gateways = gateways
        self._fleet = fleet
        self._backlog = backlog
        self._idle_p99 = 0.0

    def meet(self) -> None:
        """Let every gateway connect once, as before the outage; then ask REST while nothing happens."""
        _say("they connect once and get their plans")
        for one in self._fleet:
            one.order(do="meet")
        for one in self._fleet:
            if not one.wait("did", READY_SECONDS):
                raise RuntimeError("not all gateways got their plans in time")
        _say("REST is asked while nothing happens")
        asked = itertools.cycle(requests := self._requests())
        for _ in range(WARM * len(requests)):
            next(asked)[1]()
        with Watch(lambda: timed(next(asked)[1]), ASK_EVERY) as rest:
            time.sleep(IDLE_SECONDS)
        self._idle_p99 = rest.quantile(0.99)

    def case(self, name: str, rate: float, seconds: float, share: float) -> Figures:
        """Fill the stores, let all return at once, wait until they have drained, and compare.

        While they drain so many readings a second are stored for so long, and the database runs that share of the time.
        """
        relays = self._loaded.relays
        _say(f"{name}: the stores are filled")
        for one in self._fleet:
            one.order(do="fill", rows=self._backlog)
        for one in self._fleet:
            one.wait("did", READY_SECONDS)
        for one in self._fleet:
            one.order(do="return", rate=rate / len(self._fleet), seconds=seconds)
        for one in self._fleet:
            one.wait("ready", READY_SECONDS)
        for relay in relays:
            # Begin a new peak of resident memory (proc(5), clear_refs).
            pathlib.Path(f"/proc/{relay.popen.pid}/clear_refs").write_text("5", encoding="ascii")
        resident = [_peak(relay) for relay in relays]
        dropped = _sum(relays, "metergate_relay_dropped_total")
        patience = PATIENCE + (len(self._gateways) * self._backlog * 2 + rate * seconds) / LEAST_RATE
        narrow = Narrow(self._loaded.server, share)
        asked = itertools.cycle(self._requests())
        kinds: dict[str, list[float]] = {}

        def ask() -> float:
            kind, call = next(asked)
            took = timed(call)
            kinds.setdefault(kind, []).append(took)
            return took

        looks: list[tuple[float, float]] = []

        def look() -> float:
            looks.append((time.monotonic(), _sum(relays, "metergate_relay_queued_bytes") / _MIB))
            return looks[-1][1]

        _say(f"{name}: they return")
        busy = self._busy()
        begun = time.monotonic()
        with narrow, Watch(ask, ASK_EVERY) as rest, Watch(look, LOOK) as queue:
            for one in self._fleet:
                one.say(do="go")
            late = [one for one in self._fleet if not one.wait("did", max(1.0, begun + patience - time.monotonic()))]
            for one in late:
                one.say(do="give up")
                one.wait("did", PATIENCE)
        busy = {kind: seconds - busy[kind] for kind, seconds in self._busy().items()}
        _say(f"{name}: what the hub has is compared")
        course = Course.of([one.told for one in self._fleet])
        growth = max(_peak(relay) - before for relay, before in zip(relays, resident, strict=True))
        given = {name: count for one in self._fleet for name, count in one.told[-1]["given"].items()}
        found = compare(self._loaded, self._gateways, given)
        fed = [waits > 0 for at, waits in looks if course.fed[0] <= at <= course.fed[1]]
        figures = Figures(
            case=name,
            agents=len(self._gateways),
            relays=len(relays),
            readings=course.taken,
            seconds=course.seconds,
            rate=course.taken / course.seconds,
            best_rate=course.best_rate,
            database_share=narrow.share,
            wanted_rate=rate,
            offered_rate=course.offered_rate,
            taken_rate=course.taken_rate,
            waiting_share=sum(fed) / max(1, len(fed)),
            rest_requests=len(rest.figures),
            rest_median=rest.median,
            rest_p99=rest.quantile(0.99),
            rest_latest=max(rest.figures, default=0.0),
            rest_kinds={kind: quantile(took, 0.99) for kind, took in kinds.items()},
            rest_idle_p99=self._idle_p99,
            ratio=rest.quantile(0.99) / WANTED_REST,
            batches=course.sent,
            resent=course.resent,
            resent_share=course.resent / max(1, course.sent),
            connections=course.connections,
            relay_memory=max(_peak(relay) for relay in relays),
            relay_growth=growth,
            relay_queue=max(queue.figures, default=0.0),
            relay_dropped=int(_sum(relays, "metergate_relay_dropped_total") - dropped),
            window_most=course.window_most,
            window_fed=course.window_fed,
            missing=found.missing,
            doubled=found.doubled,
            wrong=found.wrong,
            processor=busy,
            failures=(*("a process of uplinks did not drain in time" for _ in late), *rest.failures[:5]),
        )
        _say("\n".join(figures.lines()))
        return figures

    def _requests(self) -> list[tuple[str, Callable[[], object]]]:
        """Return what operators do: look at lists and single resources, and now and then change something."""
        hub, gateway = self._loaded.hub, self._gateways[-1]
        path = f"/v1/gateways/{gateway.id}"
        numbers = itertools.count()
        meter = gateway.meters[0]
        return [
            ("list of gateways", lambda: hub.get("/v1/gateways/", limit=50)),
            ("gateway", lambda: hub.get(path)),
            ("readings of a meter", lambda: hub.get("/v1/metering/meter-readings", limit=50, meter_device=meter)),
            ("list of meters", lambda: hub.get("/v1/metering/meter-devices", limit=50)),
            ("list of runs", lambda: hub.get("/v1/runs/", limit=50)),
            ("change of a gateway", lambda: hub.patch(path, name=f"renamed {next(numbers)}")),
        ]

    def _busy(self) -> dict[str, float]:
        """Return the processor time that each kind of process has taken so far, in seconds."""
        of = {process.name: processor(process.popen.pid) for process in self._loaded.stage.processes}
        relays = sum(took for name, took in of.items() if name.startswith("relay"))
        server = self._loaded.server
        return {
            "relays": relays,
            "rest": sum(of.values()) - relays,
            "database": sum(processor(pid, ended=pid == server.processes()[0]) for pid in server.processes())
            if server is not None
            else 0.0,
            "uplinks": sum(processor(one.pid) for one in self._fleet),
        }


def _peak(process: Process) -> float:
    """Return the most memory of a process that was resident since its peak was reset, in MiB."""
    status = pathlib.Path(f"/proc/{process.popen.pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def _sum(relays: Sequence[Process], name: str) -> float:
    """Return what the relays show under this name, together; 0 on SQLite, where the hub is asked otherwise."""
    total = 0.0
    for relay in relays:
        if "metrics" in relay.hello:
            with urllib.request.urlopen(relay.hello["metrics"], timeout=10) as page:  # noqa: S310 - our own relay's
                total += sum(
                    float(value) for value in re.findall(rf"^{name} (\S+)$", page.read().decode(), re.MULTILINE)
                )
    return total


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """Leave all blocks, which ends all processes."""
    raise SystemExit(128 + signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures; exit status 1 when a goal does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks stampede", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--agents", type=int, default=1000, help="gateways (1000)")
    parser.add_argument("--readings", type=int, default=100, help="backlog of each gateway (100)")
    parser.add_argument("--relays", type=int, default=1, help="relays that share the work (1); only on postgresql")
    parser.add_argument("--database", choices=(POSTGRESQL, SQLITE), default=POSTGRESQL, help="(postgresql)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    if min(options.agents, options.readings, options.relays) < 1:
        parser.error("--agents, --readings and --relays must be at least 1")
    if options.database == SQLITE and options.relays > 1:
        parser.error("on sqlite one process is all: --relays must be 1")
    signal.signal(signal.SIGTERM, _end)
    found = run(options.agents, options.readings, options.relays, options.database)
    good = all(figures.good for figures in found)
    if options.json:
        wanted = {"rest_p99": WANTED_REST, "resent_share": WANTED_RESENT, "relay_growth": MOST_GROWTH}
        rows = [{**dataclasses.asdict(figures), "times": figures.times, "good": figures.good} for figures in found]
        print(json.dumps({"benchmark": "stampede", "wanted": wanted, "good": good, "figures": rows}))
    else:
        for figures in found:
            print("\n".join(["", *figures.lines()]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
