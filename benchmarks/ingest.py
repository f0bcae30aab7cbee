"""Ingestion at the limit of its database: from MQTT to committed and receipted rows, against a bare loop of inserts.

A real Mosquitto and a real relay process, on a table of readings that holds five million rows already; 200 gateways
with ten meters of ten series each. Signed batches of 100 and of 500 readings, and of one, are published by a process
that made them into packets before, within windows as agents have them; the time runs from the first publish to the last
receipt, and what is committed then is counted. Everything that a relay does is done: signatures, pinned keys, judging,
versions, and the clerks of ledger and validation beside it. The peer is a loop that writes the same rows into the same
table with the same indexes and foreign keys, ``unnest ... on conflict do nothing`` at its best batch size (SQLite:
``executemany``). Relay and peer have the machine for themselves in turns.

Last, twice as many readings a second are published as the database takes, whatever is receipted: the relay's memory is
looked at all the while, and everything must be there in the end.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import _ingest_bare as bare
from benchmarks._hub_rows import opened
from benchmarks._ingest_estate import PER_HOUR, Estate, make_estate, stored_since, waiting_notes
from benchmarks._ingest_profile import shares
from benchmarks.loaded_hub import memory
from benchmarks.mosquitto import Mosquitto, mosquitto
from benchmarks.postgres import Postgres, postgres
from deploy.demo.processes import Stage, program
from hub.database import CHECKPOINT_PAGES, WRITERS_CACHE_KIB, migrate

DATABASES = POSTGRESQL, SQLITE = ("postgresql", "sqlite")
PARTS = BATCHES, SINGLE, MEMORY = ("batches", "single", "memory")
SIZES = (100, 500)

WANTED_RATIO = 0.9
WANTED_SINGLE = 3000
"""Batches of one reading a second and relay process."""
WANTED_GROWTH = 112.0
"""MiB: 48 that a relay declares to hold of messages, and the rows of a transaction."""

ROUNDS = {POSTGRESQL: 5, SQLITE: 11}
"""Rounds of SQLite are short, and differ by a half: a turn of the clerk falls into one or into the next."""

TUNED = (f"cache_size=-{WRITERS_CACHE_KIB}", f"wal_autocheckpoint={CHECKPOINT_PAGES}")
"""What the hub sets for itself on SQLite: with it the loop is quicker as well."""

GATEWAYS = 200
BUFFERS = {"shared_buffers": "512MB", "max_wal_size": "2GB", "min_wal_size": "512MB"}
MEMORY_SECONDS = 45.0
_MIB = 1024 * 1024
_TICK = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Round:
    """One round of the relay: readings a second to the last receipt, and microseconds of processor for each reading."""

    rate: float
    until_folded: float
    relay: float
    database: float
    broker: float
    load: float


@dataclasses.dataclass
class Figures:
    """What was measured on one database; rates are readings a second, medians."""

    database: str
    rows: int
    bare: int = 0
    bare_size: int = 0
    bare_database: float = 0.0
    """Microseconds of the database's processor for each row of the bare loop."""
    bare_two: int = 0
    """Of two such loops beside each other, on PostgreSQL: no goal, but what there is beyond one connection."""
    bare_tuned: int = 0
    """Of the loop with the hub's own settings, on SQLite: no goal, but what they bring."""
    batches: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    single: dict[str, float] = dataclasses.field(default_factory=dict)
    memory: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: dict[str, float] = dataclasses.field(default_factory=dict)
    """With ``--profile``: of the relay's processor time the part of each step, in percent."""

    @property
    def good(self) -> bool:
        """Whether everything that was measured is as wanted."""
        return (
            all(one["ratio"] >= WANTED_RATIO for one in self.batches.values())
            and (not self.single or self.single["rate"] >= WANTED_SINGLE)
            and (not self.memory or (self.memory["growth_mib"] <= WANTED_GROWTH and self.memory["all_there"]))
        )


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status says whether all is as wanted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks ingest", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--part", choices=PARTS, help="only this part")
    parser.add_argument("--database", choices=DATABASES, help="only on this database")
    parser.add_argument("--size", type=int, choices=SIZES, help="only batches of so many readings")
    parser.add_argument("--rounds", type=int, help="rounds of relay and loop, in turns (5, SQLite 11)")
    parser.add_argument("--readings", type=int, default=100_000, help="readings of a round (100000)")
    parser.add_argument("--singles", type=int, default=20_000, help="readings of a round with one in a batch (20000)")
    parser.add_argument("--seconds", type=float, default=MEMORY_SECONDS, help="of twice the load (45)")
    parser.add_argument("--rows", type=int, default=5_000_000, help="readings that are there before (5000000)")
    parser.add_argument("--keep", type=pathlib.Path, help="folder that keeps the filled databases for the next time")
    parser.add_argument("--profile", type=pathlib.Path, help="file for where the relay's processor time goes")
    options = parser.parse_args(arguments)
    found = []
    for database in DATABASES if options.database is None else (options.database,):
        told = argparse.Namespace(**vars(options) | {"rounds": options.rounds or ROUNDS[database]})
        with tempfile.TemporaryDirectory(prefix="metergate-ingest-") as folder:
            found.append(_on(database, told, pathlib.Path(folder)))
    good = all(one.good for one in found)
    if options.json:
        sys.stdout.write(json.dumps({"figures": [dataclasses.asdict(one) for one in found], "good": good}) + "\n")
    else:
        sys.stdout.write("\n".join([*map(_shown, found), "as wanted" if good else "NOT as wanted"]) + "\n")
    return 0 if good else 1


def _shown(one: Figures) -> str:
    lines = [f"{one.database}, {one.rows:,} readings there before"]
    if one.bare:
        lines.append(
            f"  bare loop: {one.bare:,} rows/s, at {one.bare_size:,} a batch, the best of those tried; database "
            f"{one.bare_database:.0f} us of processor for each"
            + (f"; two loops beside each other {one.bare_two:,}" if one.bare_two else "")
            + (f"; with the hub's own settings {one.bare_tuned:,}" if one.bare_tuned else "")
        )
    for size, figures in one.batches.items():
        lines.append(
            f"  batches of {size}: {figures['rate']:,.0f} readings/s, {figures['ratio']:.3f} of the bare loop (wanted "
            f"{WANTED_RATIO}; rounds {figures['lowest']:.3f} to {figures['highest']:.3f}); {_costs(figures)}"
        )
    if one.single:
        rate = one.single["rate"]
        lines.append(f"  batches of one: {rate:,.0f} readings/s (wanted {WANTED_SINGLE:,}); {_costs(one.single)}")
    if one.memory:
        lines.append(
            f"  twice the load: {one.memory['offered']:,.0f} readings/s offered, {one.memory['taken']:,.0f} taken; "
            f"relay {one.memory['before_mib']:.0f} MiB before, +{one.memory['growth_mib']:.0f} at most (wanted "
            f"{WANTED_GROWTH:.0f}); {one.memory['resent']:,} batches sent again; "
            f"{'everything' if one.memory['all_there'] else 'NOT everything'} is there\n    MiB second by second: "
            + " ".join(f"{mib:.0f}" for mib in one.memory["course_mib"])
        )
    lines += [f"  {share:5.1f} % of the relay's processor: {step}" for step, share in one.steps.items()]
    return "\n".join(lines)


def _costs(figures: dict[str, float]) -> str:
    return (
        f"{figures['until_folded']:,.0f}/s until the clerks were through; processor for each reading: relay "
        f"{figures['relay']:.0f} us, database {figures['database']:.0f}, broker {figures['broker']:.0f}, load "
        f"{figures['load']:.0f}"
    )


# The database, as it was filled


def _on(database: str, options: argparse.Namespace, folder: pathlib.Path) -> Figures:
    """Measure on one database: a copy of one that was filled before, if it is kept."""
    folder.chmod(0o755)
    kept = (options.keep or folder) / f"{database}-{options.rows}"
    if not (kept / "filled").exists():
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        begun = time.monotonic()
        _say(f"{database}: filling {options.rows:,} readings into {kept}")
        with _database(database, kept) as (url, _):
            asyncio.run(_fill(url, Estate(GATEWAYS, options.rows)))
        (kept / "filled").touch()
        _say(f"{database}: filled in {time.monotonic() - begun:.0f} s")
    place = folder / "now"
    shutil.copytree(kept, place, symlinks=True)
    if os.getuid() == 0 and database == POSTGRESQL:
        for path in (place, *place.rglob("*")):
            before = kept / path.relative_to(place)
            os.chown(path, before.stat().st_uid, before.stat().st_gid)
    with _database(database, place) as (url, server):
        return asyncio.run(_measured(database, options, place, url, server))


@contextlib.contextmanager
def _database(database: str, place: pathlib.Path) -> Any:  # noqa: ANN401 - an iterator of URL and server
    if database == SQLITE:
        yield f"sqlite:///{place / 'hub.db'}", None
        return
    with postgres(place / "postgres", "512MB", BUFFERS) as server:
        yield server.url(), server
        # In order, so that what is kept need not be recovered.
        server.end(signal.SIGINT)


async def _fill(url: str, estate: Estate) -> None:
    async with opened(url) as engine:
        await make_estate(engine, estate)


# What is measured


class Bench:
    """The processes of one measurement."""

    def __init__(self, database: str, options: argparse.Namespace, place: pathlib.Path, url: str) -> None:
        self.database = database
        self.options = options
        self.place = place
        self.url = url
        self.estate = Estate(GATEWAYS, options.rows)

    def start(self, stage: Stage, broker: Mosquitto, server: Postgres | None) -> None:
        """Start what takes part."""
        self.broker = broker
        self.server = server
        common = ["--broker", broker.url, "--data", str(self.place)]
        if server is None:
            command = ["metergate-hub", "run", "--port", "0", *common]
        else:
            command = ["metergate-hub", "relay", *common, "--database", self.url, "--metrics-port", "0"]
        if self.options.profile is not None:
            profile = ["python", "-m", "benchmarks._ingest_profile", str(self.options.profile.resolve())]
            command = [*profile, program("metergate-hub"), *command[1:]]
        self.relay = stage.start("relay", command, hello=True)

    async def bare(
        self, engine: AsyncEngine, size: int, hours: int, connections: int = 1, pragmas: Sequence[str] = ()
    ) -> tuple[float, float]:
        """Return the rows a second of the bare loop, and microseconds of the database's processor for each."""
        await self._quiet(engine)
        span = self.estate.take(hours)
        rows = list(self.estate.rows(span))
        async with engine.connect() as connection:
            batch = await connection.scalar(sa.text("SELECT max(id) FROM batches"))
        before = self._database()
        if self.server is not None:
            took = await bare.write_postgresql(self.url, self.estate.organization, rows, batch, size, connections)
        else:
            file = str(self.place / "hub.db")
            took = await bare.write_sqlite(file, self.estate.organization, rows, batch, size, pragmas)
        # The process that did it ends with the loop's connection, and is counted once the server has heard of its end.
        await asyncio.sleep(0.2)
        used = self._database() - before
        await self._check(engine, span, len(rows))
        return len(rows) / took, 1e6 * used / len(rows)

    async def relayed(self, engine: AsyncEngine, size: int, hours: int, rate: float = 0.0) -> tuple[Round, int]:
        """Let the relay store so many hours in batches of ``size``; return the figures and how many were sent again."""
        await self._quiet(engine)
        span = self.estate.take(hours)
        file = self.place / "load"
        file.write_bytes(msgspec.msgpack.encode(list(self.estate.deliveries(span, size))))
        count = hours * PER_HOUR * GATEWAYS
        arguments = [str(self.broker.port), str(file), "--window", str(max(2, 1000 // size) if size > 1 else 16)]
        if rate:
            arguments += ["--rate", str(rate / size)]
        load = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks._ingest_load", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        if load.stdin is None or load.stdout is None:
            raise RuntimeError("the load has no pipes")
        await load.stdout.readline()
        before = self._processor(load.pid)
        begun = time.perf_counter()
        load.stdin.write(b"go\n")
        told = json.loads(await load.stdout.readline() or b"{}")
        after = self._processor(load.pid)
        await load.wait()
        if not told:
            raise RuntimeError("the load ended before everything had its receipt; see the error output")
        await self._check(engine, span, count)
        await self._quiet(engine)
        folded = time.perf_counter() - begun
        used = [1e6 * (late - early) / count for early, late in zip(before, after, strict=True)]
        return Round(count / told["seconds"], count / folded, *used), told["resent"]

    def _processor(self, load: int) -> list[float]:
        """Return the seconds of processor that relay, database, broker and load have used."""
        relay, broker = _seconds(self.relay.popen.pid), sum(map(_seconds, self.broker.processes()))
        return [relay, self._database(), broker, _seconds(load)]

    def _database(self) -> float:
        """Return the seconds of processor of the server's processes, those that have ended included."""
        if self.server is None:
            return 0.0
        server, *others = self.server.processes()
        return _seconds(server, ended=True) + sum(map(_seconds, others))

    async def _quiet(self, engine: AsyncEngine) -> None:
        """Wait until the clerks have nothing to do."""
        until = time.monotonic() + 300
        while await waiting_notes(engine):
            if time.monotonic() > until:
                raise RuntimeError("the clerks do not come to an end")
            await asyncio.sleep(0.2)

    async def _check(self, engine: AsyncEngine, span: range, count: int) -> None:
        there = await stored_since(engine, span)
        if there != count:
            raise RuntimeError(f"{there} readings are committed, not {count}")


def _seconds(pid: int, *, ended: bool = False) -> float:
    """Return the seconds of processor that a process has used; with ``ended`` also its children that have ended."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11 : 15 if ended else 13])) / _TICK


async def _measured(
    database: str, options: argparse.Namespace, place: pathlib.Path, url: str, server: Postgres | None
) -> Figures:
    # What is kept may be of an earlier version.
    await migrate(url)
    bench = Bench(database, options, place, url)
    figures = Figures(database, options.rows)
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(mosquitto())
        stage = stack.enter_context(Stage(place, {"METERGATE_ENVIRONMENT": "benchmark"}))
        bench.start(stage, broker, server)
        async with opened(url) as engine:
            rate = 0.0
            if options.part in {None, BATCHES}:
                rate = await _batches(bench, engine, figures)
            if options.part in {None, SINGLE}:
                await _single(bench, engine, figures)
            if options.part in {None, MEMORY}:
                await _memory(bench, engine, figures, rate)
    if options.profile is not None:
        # The relay has ended.
        figures.steps = shares(options.profile)
    return figures


async def _batches(bench: Bench, engine: AsyncEngine, figures: Figures) -> float:
    """Measure batches against the bare loop, in turns; return the relay's rate with the largest, if it was measured."""
    hours = max(1, bench.options.readings // (GATEWAYS * PER_HOUR))
    sizes = SIZES if bench.options.size is None else (bench.options.size,)
    # Once unmeasured: what is prepared and cached then is so for both.
    for size in sizes:
        await bench.relayed(engine, size, hours)
    tried = {size: (await bench.bare(engine, size, max(1, hours // 2)))[0] for size in (*bare.SIZES, *bare.SIZES)}
    figures.bare_size = max(tried, key=lambda size: tried[size])
    loop: list[tuple[float, float]] = []
    tuned: list[float] = []
    rounds: dict[int, list[Round]] = {size: [] for size in sizes}
    for turn in range(bench.options.rounds):
        if turn % 2:
            loop.append(await bench.bare(engine, figures.bare_size, hours))
        for size in sizes:
            rounds[size].append((await bench.relayed(engine, size, hours))[0])
        if not turn % 2:
            loop.append(await bench.bare(engine, figures.bare_size, hours))
        if bench.server is None:
            tuned.append((await bench.bare(engine, figures.bare_size, hours, pragmas=TUNED))[0])
        _say(
            f"{bench.database}, round {turn + 1}: bare {loop[-1][0]:,.0f} rows/s; "
            + "; ".join(f"batches of {size} {ones[-1].rate:,.0f}" for size, ones in rounds.items())
        )
    if bench.server is not None:
        both = [(await bench.bare(engine, figures.bare_size, hours, 2))[0] for _ in range(bench.options.rounds)]
        figures.bare_two = int(statistics.median(both))
    elif tuned:
        figures.bare_tuned = int(statistics.median(tuned))
    figures.bare = int(statistics.median(rate for rate, _ in loop))
    figures.bare_database = round(statistics.median(used for _, used in loop), 1)
    for size, ones in rounds.items():
        middle = _middle(ones)
        ratios = [one.rate / peer for one, (peer, _) in zip(ones, loop, strict=True)]
        figures.batches[str(size)] = middle | {
            "ratio": round(statistics.median(ratios), 3),
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
        }
    return figures.batches[str(SIZES[-1])]["rate"] if sizes[-1] == SIZES[-1] else 0.0


def _middle(ones: Sequence[Round]) -> dict[str, float]:
    """Return the medians of the rounds' figures."""
    return {
        field.name: round(statistics.median(getattr(one, field.name) for one in ones), 1)
        for field in dataclasses.fields(Round)
    }


async def _single(bench: Bench, engine: AsyncEngine, figures: Figures) -> None:
    hours = max(1, bench.options.singles // (GATEWAYS * PER_HOUR))
    await bench.relayed(engine, 1, hours)
    rounds = [(await bench.relayed(engine, 1, hours))[0] for _ in range(bench.options.rounds)]
    figures.single = _middle(rounds)
    _say(f"{bench.database}, batches of one: {', '.join(f'{one.rate:,.0f}' for one in rounds)} readings/s")


async def _memory(bench: Bench, engine: AsyncEngine, figures: Figures, rate: float) -> None:
    hours = max(1, bench.options.readings // (GATEWAYS * PER_HOUR))
    if not rate:
        rate = (await bench.relayed(engine, SIZES[-1], hours))[0].rate
    course: list[float] = []
    ended = threading.Event()
    before = memory(bench.relay)

    def look() -> None:
        while not ended.wait(1.0):
            course.append(memory(bench.relay))

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    offered = 2 * rate
    many = max(1, round(offered * bench.options.seconds / (GATEWAYS * PER_HOUR)))
    try:
        got, resent = await bench.relayed(engine, SIZES[-1], many, offered)
    finally:
        ended.set()
        watching.join()
    figures.memory = {
        "offered": round(offered), "taken": round(got.rate), "before_mib": round(before, 1),
        "growth_mib": round(max(course) - before, 1), "resent": resent, "all_there": True,
        "course_mib": [round(mib, 1) for mib in course],
    }  # fmt: skip


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
