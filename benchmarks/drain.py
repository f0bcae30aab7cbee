"""How fast one agent makes up for an outage, beside what the relay takes from one agent that only sends.

The real agent, with a backlog in its store and two meters on a simulated line, is started against a real Mosquitto and
a real hub. While it drains it is given a reading every quarter of a second, and a command every two. The *peer* is a
bare publisher of prepared batches with a wide window, to the same hub in the same run: what it reaches is what the
relay and its database take. ``ratio`` is the agent's readings per second over the peer's.

A fresh reading's delay is from its commit in the agent's store to the commit of its receipt there; a command's is from
the POST to the answer that it has ended, and is also given by its legs: the POST's answer, the publishing by the relay,
the agent's word that it has it, the meter's answer, and the way of the result back to who waits for it.

Exit status 0: at least 5,000 readings a second and half of the peer's, no fresh reading and no command later than 5 s,
memory flat, and every reading in the hub exactly once; on each database.
"""

import argparse
import dataclasses
import datetime as dt
import json
import pathlib
import sqlite3
import statistics
import sys
import time
import uuid
from collections.abc import Sequence

from benchmarks.backlog import fill_store
from benchmarks.loaded_hub import (
    PATIENCE,
    POSTGRESQL,
    SQLITE,
    LoadedGateway,
    LoadedHub,
    Watch,
    loaded_hub,
    memory,
    timed,
)
from deploy.demo.processes import Process

WANTED_RATE = 5_000.0
WANTED_RATIO = 0.5
LATEST = 5.0
FLAT = 16.0
"""MiB by which the agent's memory may grow from the first tenth of the drain on."""

PEER_READINGS = 100_000
METERS = 10
"""Meters of each gateway; the first two of the agent's are on the simulated line."""
LOOK = 0.25
LEAST_RATE = 500.0
"""A drain slower than this many readings a second is given up."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """One drain; times in seconds, memory in MiB."""

    database: str
    readings: int
    seconds: float
    rate: float
    peer_rate: float
    ratio: float
    fresh_readings: int
    fresh_median: float
    fresh_latest: float
    commands: int
    command_median: float
    command_latest: float
    command_legs: dict[str, float]
    """Medians by leg, in order."""
    agent_memory: float
    agent_growth: float
    relay_memory: float
    missing: int
    doubled: int
    failures: tuple[str, ...]

    @property
    def missed(self) -> list[str]:
        """The goals that do not hold, each with its figure."""
        goals = {
            f"{self.rate:,.0f} readings a second, wanted {WANTED_RATE:,.0f}": self.rate >= WANTED_RATE,
            f"{self.ratio:.2f} of the peer, wanted {WANTED_RATIO}": self.ratio >= WANTED_RATIO,
            "no fresh reading was seen": self.fresh_readings > 0,
            "no command was seen": self.commands > 0,
            f"a fresh reading took {self.fresh_latest:.1f} s, wanted {LATEST:.0f}": self.fresh_latest <= LATEST,
            f"a command took {self.command_latest:.1f} s, wanted {LATEST:.0f}": self.command_latest <= LATEST,
            f"the agent grew by {self.agent_growth:.1f} MiB, wanted {FLAT:.0f}": self.agent_growth <= FLAT,
            f"{self.missing} readings are missing": not self.missing,
            f"{self.doubled} readings are doubled": not self.doubled,
            f"{len(self.failures)} commands failed": not self.failures,
        }
        return [text for text, holds in goals.items() if not holds]

    @property
    def good(self) -> bool:
        """Whether the goals hold."""
        return not self.missed


def run(database: str, readings: int) -> Figures:
    """Measure one database."""
    with loaded_hub(database) as loaded:
        line = loaded.stage.start(
            "line",
            ["metergate-agent", "simulate", "--listen", "tcp:127.0.0.1:0"]
            + [part for number in (1, 2) for part in ("--meter", f"{number}:1100000{number}:EK280")],
            hello=True,
        )
        peer = loaded.add_gateway("peer", METERS)
        gateway = loaded.add_gateway("drained", METERS, str(line.hello["endpoint"]))
        bare = min(readings, PEER_READINGS)
        peer_rate = _peer(loaded, peer, bare)
        settings = _agent_settings(loaded, gateway, readings)
        return _drain(loaded, gateway, settings, (readings, bare, peer_rate), database)


def _peer(loaded: LoadedHub, peer: LoadedGateway, readings: int) -> float:
    arguments = (loaded.broker.url, peer.name, str(readings), *peer.meters)
    return float(loaded.start_child("_drain_peer", *arguments).hello["rate"])


def _agent_settings(loaded: LoadedHub, gateway: LoadedGateway, readings: int) -> pathlib.Path:
    folder = loaded.stage.folder / "agent"
    folder.mkdir()
    path = folder / "agent.toml"
    text = (
        f'gateway = "{gateway.name}"\nbroker = "{loaded.broker.url}"\ndata = "{folder}"\nstore = "{folder}/agent.db"\n'
    )
    path.write_text(text, encoding="utf-8")
    fill_store(folder / "agent.db", gateway.name, [uuid.UUID(meter) for meter in gateway.meters], readings)
    return path


def _drain(
    loaded: LoadedHub,
    gateway: LoadedGateway,
    settings: pathlib.Path,
    before: tuple[int, int, float],
    database: str,
) -> Figures:
    readings, bare, peer_rate = before
    store = sqlite3.connect(f"file:{settings.parent}/agent.db?mode=ro", uri=True, isolation_level=None)
    agent = loaded.start_child("_drain_agent", str(settings), gateway.meters[2], "meter 3")
    legs: list[dict[str, float]] = []
    with (
        Watch(lambda: _command(loaded, gateway, legs), 2.0) as commands,
        Watch(lambda: memory(agent), LOOK) as resident,
    ):
        _wait(store, agent, readings)
        # Of this second nothing is counted but what the last fresh readings and the last command still need.
        time.sleep(1.0)
        peak = memory(loaded.relay)
    agent.end()
    (last,) = store.execute("SELECT max(receipted_at) FROM readings WHERE seq <= ?", (readings,)).fetchone()
    delays = sorted(
        delay
        for (delay,) in store.execute(
            "SELECT receipted_at - stored_at FROM readings WHERE seq > ? AND stored_at < ? AND receipted_at NOT NULL",
            (readings, last),
        )
    )
    (own,) = store.execute("SELECT count(*) FROM readings WHERE receipted_at NOT NULL").fetchone()
    (open_rows,) = store.execute(
        "SELECT count(*) FROM readings WHERE receipted_at IS NULL AND stored_at < ?", (last,)
    ).fetchone()
    store.close()
    there = loaded.count() - bare
    seconds = last - float(agent.hello["at"])
    tenth = max(1, len(resident.figures) // 10)
    return Figures(
        database=database,
        readings=readings,
        seconds=seconds,
        rate=readings / seconds,
        peer_rate=peer_rate,
        ratio=readings / seconds / peer_rate,
        fresh_readings=len(delays),
        fresh_median=delays[len(delays) // 2] if delays else 0.0,
        fresh_latest=LATEST * 2 if open_rows else (delays[-1] if delays else 0.0),
        commands=len(commands.figures),
        command_median=commands.median,
        command_latest=max(commands.figures, default=0.0),
        command_legs={leg: statistics.median(one[leg] for one in legs) for leg in (legs[0] if legs else ())},
        agent_memory=max(resident.figures, default=0.0),
        agent_growth=max(resident.figures[tenth:], default=0.0) - max(resident.figures[: tenth + 1], default=0.0),
        relay_memory=peak,
        missing=max(0, own - there),
        doubled=max(0, there - own),
        failures=tuple(commands.failures[:5]),
    )


def _command(loaded: LoadedHub, gateway: LoadedGateway, legs: list[dict[str, float]]) -> float | None:
    """Have a value read on demand; return how long that took, and note its legs."""

    def ask() -> None:
        begun = time.time()
        command = loaded.hub.post(
            "/v1/metering/amr-tasks/invoke",
            meter_device=gateway.meters[0],
            meter_execution_type="generic_lis200",
            task_call="read_single_value",
            task_kwargs={"address": "2:300"},
        )["command"]
        posted = time.time()
        ended = loaded.hub.get(f"/v1/commands/{command}", wait=60)
        seen = time.time()
        if ended["state"] != "done":
            raise ValueError(f"a command ended {ended['state']}: {ended['cause']}")
        accepted = next(_seconds(step["at"]) for step in ended["updates"] if step["state"] == "accepted")
        sent, done = _seconds(ended["published_at"]), _seconds(ended["ended_at"])
        # The relay may be quicker than the answer to the POST.
        legs.append(
            {
                "posted": posted - begun,
                "sent": max(0.0, sent - posted),
                "accepted": accepted - max(sent, posted),
                "done": done - accepted,
                "seen": seen - done,
            }
        )

    # A command before the agent was first heard waits for it: that is the outage's delay, not the drain's.
    return timed(ask) if loaded.hub.get(f"/v1/gateways/{gateway.id}")["online"] else None


def _seconds(instant: str) -> float:
    return dt.datetime.fromisoformat(instant).timestamp()


def _wait(store: sqlite3.Connection, agent: Process, readings: int) -> None:
    until = time.monotonic() + PATIENCE + readings / LEAST_RATE
    question = "SELECT 1 FROM readings WHERE receipted_at IS NULL AND seq <= ? ORDER BY seq LIMIT 1"
    while store.execute(question, (readings,)).fetchone():
        if agent.popen.poll() is not None:
            raise RuntimeError(f"the agent ended: {agent.log.read_text(errors='replace')[-2000:]}")
        if time.monotonic() > until:
            raise RuntimeError(f"not drained in time: {agent.log.read_text(errors='replace')[-2000:]}")
        time.sleep(LOOK)


def _print(figures: Figures) -> None:
    f = figures
    print(f"\n{f.database}: {f.readings:,} readings in {f.seconds:.1f} s")
    print(f"  agent {f.rate:,.0f}/s, peer that only sends {f.peer_rate:,.0f}/s: ratio {f.ratio:.2f}")
    print(f"  fresh readings: {f.fresh_readings}, median {f.fresh_median:.2f} s, latest {f.fresh_latest:.2f} s")
    print(f"  commands: {f.commands}, median {f.command_median:.2f} s, latest {f.command_latest:.2f} s")
    print("    of which, medians: " + ", ".join(f"{leg} {seconds:.2f} s" for leg, seconds in f.command_legs.items()))
    print(f"  memory: agent {f.agent_memory:.0f} MiB, grew by {f.agent_growth:.1f}; relay {f.relay_memory:.0f} MiB")
    print(f"  missing {f.missing}, doubled {f.doubled}" + "".join(f"\n  {text}" for text in f.failures))
    print("  the goals hold" if f.good else "\n".join(f"  A GOAL DOES NOT HOLD: {text}" for text in f.missed))


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures; exit status 1 when a goal does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks drain", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--readings", type=int, default=200_000, help="the backlog (200000; the full figure: 1000000)")
    parser.add_argument("--database", choices=(POSTGRESQL, SQLITE), help="only on this one; else on both")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    if options.readings < 1:
        parser.error("--readings must be at least 1")
    wanted = {"rate": WANTED_RATE, "ratio": WANTED_RATIO, "latest": LATEST, "growth": FLAT}
    databases = [options.database] if options.database else [POSTGRESQL, SQLITE]
    found = []
    for database in databases:
        found.append(run(database, options.readings))
        if not options.json:
            _print(found[-1])
    good = all(figures.good for figures in found)
    if options.json:
        rows = [{**dataclasses.asdict(figures), "good": figures.good, "missed": figures.missed} for figures in found]
        print(json.dumps({"benchmark": "drain", "wanted": wanted, "good": good, "figures": rows}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
