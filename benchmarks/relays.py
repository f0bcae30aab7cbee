"""Any number of relays on one database and one broker: throughput, what the end of one costs, what is published twice.

One PostgreSQL, one Mosquitto, one REST process and real relays, all as processes of their own; two hundred gateways
whose batches were signed beforehand, sent by the agent's own window (``_relays_publishers``). Four parts:

- *throughput* of one, two and three relays, in the order 1 2 3 3 2 1, so that a table that grows is no advantage for
  anybody; ratios to one. The readings' month is made before, because to move them into it is work of its own. What each
  process used of a processor, and what the database's sessions waited for, say what limits. On a machine with as many
  processors as these processes keep busy more relays cannot be faster: then the ratio says that they are no hindrance.
- *footprint*: what a reading takes on the wire, on disk and in the write-ahead log, and what life signs of gateways
  that run their plan take of each relay and of the database.
- *publishing*: a thousand edits, each of which changes one gateway's plan, and a command to each gateway, with two
  relays that have nothing else to do; a subscriber counts how often each revision and each command was published, and
  sees when a command leaves the hub.
- *takeover*: two relays under load, one of them is killed (SIGKILL), and once more with another one that is asked to
  end (SIGTERM). Time until everything that was on its way to a relay at that moment has its receipt from the other.
  Afterwards every row of the database is compared with what was sent.

Exit status 0: rows are right, row by row; more relays are not slower than one; what a relay leaves is taken over within
ten seconds; less than one edit in a hundred and no command is published twice; a command leaves the hub within 50 ms
of its request (95 of 100); no deadlock in the database's log.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import httpx

from benchmarks._children import READY_SECONDS, Child
from benchmarks._relays_database import LOOK, SETTINGS, Sessions, Sizes, compare, has_late, read_log, sizes
from benchmarks._relays_figures import (
    MOST_DOUBLED,
    MOST_TAKEN_OVER,
    WANTED_RATIO,
    Figures,
    Footprint,
    Published,
    Takeover,
    Throughput,
    limit_of,
)
from benchmarks._stampede_estate import make_gateways
from benchmarks.loaded_hub import PATIENCE, POSTGRESQL, LoadedGateway, LoadedHub, loaded_hub, processor
from deploy.demo.processes import Process

LEAST_RATE = 200.0
"""Readings a second below which a hub is given up."""

QUIET = 3.0
"""Seconds in which what is still on its way arrives: what is published twice comes within them."""

PUBLISHED_SECONDS = 30.0
"""How long the last edit, or command, may take to be published; on a loaded machine it takes some of them."""

BETWEEN_COMMANDS = 0.1
"""Seconds: an operator's pace. What a command waits for is not the work for the one before."""

SIGNS = 10
"""Life signs of each gateway."""

KILLED, STOPPED = "killed", "stopped"
_SIGNALS = {KILLED: signal.SIGKILL, STOPPED: signal.SIGTERM}


def run(
    gateways: int, readings: int, rows: int, edits: int, relays: Sequence[int], ended: Sequence[str] = (KILLED, STOPPED)
) -> Figures:
    """Measure.

    Args:
        gateways: So many.
        readings: Of one round, all gateways together.
        rows: Of a batch.
        edits: Whose plans are counted.
        relays: How many relays the rounds have whose throughput is measured.
        ended: The ways in which one of two relays is ended.
    """
    with loaded_hub(POSTGRESQL, 1, SETTINGS) as loaded:
        _say(f"{gateways} gateways are made")
        made = make_gateways(loaded, gateways)
        names = [f"{one.name}={one.meters[0]}" for one in made]
        log = loaded.stage.folder / "publishers.log"
        publishers = Child("_relays_publishers", [loaded.broker.url, *names], log)
        try:
            publishers.wait_until_ready()
            bench = _Bench(loaded, made, publishers, max(1, readings // gateways), rows)
            return bench.run(edits, relays, ended)
        finally:
            publishers.end()


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


@dataclasses.dataclass
class _Round:
    """One round: how long it took, and the seconds of processor time of each part."""

    seconds: float
    resent: int
    busy: Counter[str]
    waits: Counter[str]
    looks: int


class _Bench:
    """One hub and its gateways."""

    def __init__(
        self, loaded: LoadedHub, gateways: Sequence[LoadedGateway], publishers: Child, readings: int, rows: int
    ) -> None:
        self._loaded = loaded
        self._gateways = gateways
        self._publishers = publishers
        self._readings = readings
        self._rows = rows
        self._relays = {0: loaded.relay}
        self._started = 1
        self._sent = self._batches = self._bytes = 0
        self._most: dict[str, int] = {}
        if loaded.server is None:
            raise RuntimeError("relays share a PostgreSQL only")
        self._server = loaded.server

    def run(self, edits: int, relays: Sequence[int], ended: Sequence[str]) -> Figures:
        """Do all of it."""
        self._order(do="meet")
        throughput, footprint = self._measure(relays) if relays else ([], None)
        published = self._published(edits)
        _say("\n".join(published.lines()))
        takeovers = [self._takeover(how) for how in ended]
        found = read_log(self._server.log)
        return Figures(
            throughput,
            footprint,
            takeovers,
            published,
            self._most,
            found.deadlocks,
            found.waits,
            found.waited_for,
            found.deadlocked,
        )

    def _order(self, **order: object) -> dict[str, object]:
        self._publishers.order(**order)
        self._publishers.wait("did", READY_SECONDS)
        return self._publishers.told[-1]

    def _have(self, count: int) -> None:
        """Have so many relays."""
        for number in list(self._relays)[count:]:
            self._relays.pop(number).end()
        while len(self._relays) < count:
            self._relays[self._started] = self._loaded.start_relay(self._started)
            self._started += 1
        # What a relay does when it starts is not what is measured.
        time.sleep(QUIET)

    def _prepare(self) -> int:
        told = self._order(do="prepare", readings=self._readings, rows=self._rows)
        self._sent += self._readings
        batches = int(str(told["batches"]))
        self._batches += batches
        self._bytes += int(str(told["bytes"]))
        return batches

    def _wait_for_all(self) -> dict[str, object]:
        readings = self._readings * len(self._gateways)
        if not self._publishers.wait("did", PATIENCE + readings / LEAST_RATE):
            raise RuntimeError(f"not all batches had a receipt in time; see the logs in {self._loaded.stage.folder}")
        return self._publishers.told[-1]

    def _measure(self, relays: Sequence[int]) -> tuple[list[Throughput], Footprint]:
        self._make_month()
        before = sizes(self._server.url())
        throughput = self._throughput(relays)
        for one in throughput:
            _say("\n".join(one.lines()))
        footprint = self._footprint(before)
        _say("\n".join(footprint.lines()))
        return throughput, footprint

    def _make_month(self) -> None:
        """Have the month of the readings made: rows that wait for it are moved, which is not what is measured."""
        readings, self._readings = self._readings, self._rows
        self._prepare()
        self._publishers.order(do="go")
        self._wait_for_all()
        self._readings = readings
        # A relay looks for such rows when it starts.
        self._have(0)
        self._have(1)
        until = time.monotonic() + PATIENCE
        while has_late(self._server.url()) and time.monotonic() < until:
            time.sleep(QUIET)

    # Throughput

    def _throughput(self, relays: Sequence[int]) -> list[Throughput]:
        rounds: dict[int, list[_Round]] = {}
        for count in (*relays, *reversed(relays)):
            self._have(count)
            self._prepare()
            _say(f"{count} relay(s): {self._readings * len(self._gateways):,} readings")
            rounds.setdefault(count, []).append(self._round())
        found: list[Throughput] = []
        for count, mine in rounds.items():
            seconds = sum(one.seconds for one in mine)
            readings = len(mine) * self._readings * len(self._gateways)
            busy = {name: spent / seconds for name, spent in sum((one.busy for one in mine), Counter()).items()}
            looks = sum(one.looks for one in mine)
            waits = {
                name: seen / max(1, looks) for name, seen in sum((one.waits for one in mine), Counter()).most_common(6)
            }
            rate = readings / seconds
            own = sum(share for name, share in busy.items() if name.startswith("relay"))
            found.append(
                Throughput(
                    relays=count,
                    readings=readings,
                    seconds=seconds,
                    rate=rate,
                    ratio=rate / found[0].rate if found else 1.0,
                    resent=sum(one.resent for one in mine),
                    processor=busy,
                    microseconds=own / rate * 1e6,
                    waits=waits,
                    limit=limit_of(busy, os.cpu_count() or 1, waits),
                )
            )
        return found

    def _round(self) -> _Round:
        before = self._busy()
        with Sessions(self._server.url()) as sessions:
            self._publishers.order(do="go")
            told = self._wait_for_all()
        busy = self._busy()
        busy.subtract(before)
        key = f"{len(self._relays)} relay(s) and REST"
        self._most[key] = max(sessions.most, self._most.get(key, 0))
        return _Round(
            float(str(told["seconds"])), int(str(told["resent"])), busy, Counter(sessions.waits), sessions.looks
        )

    def _busy(self) -> "Counter[str]":
        """Return the seconds of processor time of each part so far; the relays that run now are numbered from 1."""
        first, *others = self._server.processes()
        spent = {"database": processor(first, ended=True) + sum(processor(pid) for pid in others)}
        spent["broker"] = sum(processor(pid) for pid in self._loaded.broker.processes())
        spent["publishers"] = processor(self._publishers.pid)
        spent["rest"] = sum(processor(one.popen.pid) for one in self._loaded.stage.processes if one.name == "rest")
        relays = enumerate(self._relays.values(), start=1)
        return Counter({**{f"relay {number}": processor(one.popen.pid) for number, one in relays}, **spent})

    def _footprint(self, before: Sizes) -> Footprint:
        """Measure what the readings so far take, and what life signs do, with two relays."""
        after = sizes(self._server.url())
        readings = max(1, after.rows - before.rows)
        self._have(2)
        idle = self._busy()
        time.sleep(QUIET)
        begun = self._busy()
        for _ in range(SIGNS):
            self._order(do="meet")
            time.sleep(QUIET / SIGNS)
        time.sleep(QUIET)
        ended = self._busy()
        signs = SIGNS * len(self._gateways)

        def spent(name: str) -> float:
            # What it does anyway, in twice the time.
            return max(0.0, (ended[name] - begun[name] - 2 * (begun[name] - idle[name])) / signs * 1e6)

        return Footprint(
            on_the_wire=self._bytes / max(1, self._sent * len(self._gateways)),
            on_disk=(after.readings - before.readings) / readings,
            of_batches=(after.batches - before.batches) / readings,
            written=(after.written - before.written) / readings,
            sign_microseconds=(spent("relay 1") + spent("relay 2")) / 2,
            sign_database_microseconds=spent("database") / 2,
        )

    # One relay ends

    def _takeover(self, how: str) -> Takeover:
        self._have(2)
        batches = self._prepare()
        _say(f"two relays, one of them is {how}")
        self._publishers.order(do="go")
        until = time.monotonic() + PATIENCE
        while int(self._last().get("receipted", 0)) < batches // 3 and time.monotonic() < until:
            time.sleep(0.01)
        number, victim = next(iter(self._relays.items()))
        del self._relays[number]
        victim.popen.send_signal(_SIGNALS[how])
        self._publishers.say(do="mark")
        told = self._wait_for_all()
        _end(victim)
        _say("the database is compared with what was sent")
        found = compare(self._server.url(), self._gateways, self._sent, self._batches)
        takeover = Takeover(
            how=how,
            readings=found.rows,
            taken_over=float(str(told["taken_over"] or 0.0)),
            silence=float(str(told["longest_silence"])),
            batches=batches,
            resent=int(str(told["resent"])),
            repeated=int(str(told["repeated"])),
            missing=found.missing,
            doubled=found.doubled,
            wrong=found.wrong,
        )
        _say("\n".join(takeover.lines()))
        return takeover

    def _last(self) -> dict[str, int]:
        told = self._publishers.told
        return told[-1] if told else {}

    # Plans and commands

    def _published(self, edits: int) -> Published:
        self._have(2)
        self._order(do="listen")
        hub = self._loaded.hub
        _say(f"{edits} edits")
        for number in range(edits):
            meter = self._gateways[number % len(self._gateways)].meters[0]
            hub.patch(f"/v1/metering/meter-devices/{meter}", iec62056_21_address=str(2 + number))
        edited = self._gateways[:edits]
        wanted = {one.name: int(hub.get(f"/v1/gateways/{one.id}")["desired_revision"]) for one in edited}

        def lacking(told: Mapping[str, object]) -> list[str]:
            latest = told["latest"]
            return [
                name
                for name, revision in wanted.items()
                if not isinstance(latest, dict) or latest.get(name) != revision
            ]

        plans = self._heard(lambda told: not lacking(told))
        _say(f"{len(self._gateways)} commands")
        asked = dict(self._invoke_all())
        commands = self._heard(lambda told: sum(_counted(told["commands"]).values()) >= len(self._gateways))
        seen = commands["left"]
        left = [1000 * (seen[one] - at) for one, at in asked.items() if one in seen] if isinstance(seen, dict) else []
        return Published(
            edits,
            _counted(plans["plans"]),
            len(lacking(plans)),
            len(self._gateways),
            _counted(commands["commands"]),
            left,
        )

    def _invoke_all(self) -> Iterator[tuple[str, float]]:
        """Ask for a value of each gateway, on one connection, as an operator's program would; ids and moments."""
        hub = self._loaded.hub
        with httpx.Client(base_url=hub.url, headers=hub.headers, timeout=PATIENCE) as client:
            for gateway in self._gateways:
                time.sleep(BETWEEN_COMMANDS)
                body = {
                    "meter_device": gateway.meters[0],
                    "meter_execution_type": "generic_lis200",
                    "task_call": "read_single_value",
                    "task_kwargs": {"address": "2:300"},
                }
                at = time.monotonic()
                answer = client.post("/v1/metering/amr-tasks/invoke", json=body).raise_for_status()
                yield str(answer.json()["command"]), at

    def _heard(self, whole: Callable[[Mapping[str, object]], bool]) -> Mapping[str, object]:
        """Return what was published since they were told to listen, when all of it was, and what comes twice has."""
        until = time.monotonic() + PUBLISHED_SECONDS
        while not whole(self._order(do="heard")) and time.monotonic() < until:
            time.sleep(LOOK)
        time.sleep(QUIET)
        told = self._order(do="heard")
        self._order(do="listen")
        return told


def _counted(told: object) -> dict[int, int]:
    return {int(times): int(count) for times, count in told.items()} if isinstance(told, dict) else {}


def _end(process: Process) -> None:
    """Wait for a process that was told to end."""
    process.popen.wait(PATIENCE)
    if process.popen.stdout is not None:
        process.popen.stdout.close()


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures; exit status 1 when a goal does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks relays", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gateways", type=int, default=200, help="(200)")
    parser.add_argument("--readings", type=int, default=160_000, help="readings of one round (160000)")
    parser.add_argument("--rows", type=int, default=100, help="readings of a batch (100)")
    parser.add_argument("--edits", type=int, default=1000, help="(1000)")
    parser.add_argument("--relays", type=int, default=3, help="the most relays (3)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    if min(options.gateways, options.readings, options.rows, options.edits, options.relays) < 1:
        parser.error("all figures must be at least 1")
    counts = range(1, options.relays + 1)
    figures = run(options.gateways, options.readings, options.rows, options.edits, counts)
    good = not figures.missed
    if options.json:
        wanted = {"ratio": WANTED_RATIO, "taken_over": MOST_TAKEN_OVER, "doubled": MOST_DOUBLED}
        told = {**dataclasses.asdict(figures), "missed": figures.missed}
        print(json.dumps({"benchmark": "relays", "wanted": wanted, "good": good, "figures": told}))
    else:
        print("\n".join(["", *figures.lines()]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
