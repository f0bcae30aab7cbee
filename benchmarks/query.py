"""How long REST takes to answer from many readings: questions to a real ``metergate-hub serve`` on PostgreSQL.

The database is filled inside the server, a year of hourly readings in months, and may be kept: with ``--keep`` a second
call only measures. Each call asks for another meter, month or instant. *Warm*: the database's files are in the memory
of the machine, as those are that are in use, and its process has been at work: the first time that a process of
PostgreSQL uses a page of the shared buffers costs a page fault, 1,400 of them in an answer at first, none some hundred
answers later. *Cold*: the server was just started, and its files are on the disk only; that is told and has no goal,
because it is the disk's.

Of each question a call is looked at in the database's log: what the database took of it, and by which indexes. Reading
a large table from end to end is a failure. Beside the questions that have a goal there are larger ones that have none.
"""

import argparse
import asyncio
import dataclasses
import datetime as dt
import http.client
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import sqlalchemy as sa

from benchmarks import _query_fill as filling
from benchmarks._hub_rows import opened
from benchmarks._query_plans import Planned, plan_of, sent, size_of
from benchmarks.loaded_hub import memory, quantile
from benchmarks.mosquitto import free_port
from benchmarks.postgres import Postgres, postgres
from deploy.demo.processes import Process, Stage
from hub.database import migrate
from hub.months import Month

GOAL_MS = 20.0
"""Of each question, half of the calls and 95 of 100."""

FIRST_BYTE_MS = 100.0
GROWTH_MIB = 16.0
"""What an export may add to the memory of its process, from its first second on."""

EXPORTS = 10
COLD_CALLS = 10
_WARMING = 12
_AT_WORK = 250
"""Calls until a process of the database has used nearly every page of its buffers."""

_IDLE_SECONDS = 2.0
_MANY = 10_000_000
_BLOCK = 4 * 1024 * 1024
_READINGS = "/v1/metering/meter-readings"
_STAGED = "/v1/metering/staged-meter-readings"
_HOUR = dt.timedelta(hours=1)
_DAY = 24 * _HOUR


@dataclasses.dataclass(frozen=True)
class Asked:
    """One call: path with its query, and a body where it is asked by POST."""

    path: str
    body: bytes | None = None


@dataclasses.dataclass
class Answered:
    """What calls of one question took, in milliseconds."""

    goal: bool
    rows: int = 0
    p50: float = 0.0
    p95: float = 0.0
    cold_p50: float = 0.0
    cold_p95: float = 0.0
    database: float = 0.0
    statements: int = 0
    plans: list[Planned] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Found:
    """Everything that was measured."""

    readings: int
    months: int
    gibibytes: float
    questions: dict[str, Answered] = dataclasses.field(default_factory=dict)
    first_byte_p50: float = 0.0
    first_byte_p95: float = 0.0
    exported: int = 0
    rows_per_second: float = 0.0
    memory_before: float = 0.0
    memory_growth: float = 0.0

    @property
    def good(self) -> bool:
        """Whether all goals are met."""
        return (
            all(one.p50 < GOAL_MS and one.p95 < GOAL_MS for one in self.questions.values() if one.goal)
            and not any(plan.read_whole for one in self.questions.values() for plan in one.plans)
            and self.first_byte_p95 < FIRST_BYTE_MS
            and self.memory_growth < GROWTH_MIB
        )


@dataclasses.dataclass
class Estate:
    """What can be asked for: (meter, its series) of hourly and of quarterly meters; instants of receipt."""

    hourly: list[tuple[uuid.UUID, list[uuid.UUID]]]
    quarterly: list[tuple[uuid.UUID, list[uuid.UUID]]]
    months: list[Month]
    first: int
    last: int


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status says whether all goals are met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks query", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rows", type=int, default=1_000_000, help="readings, about (1000000)")
    parser.add_argument("--months", type=int, default=0, help="months that they are of (12 from 10 million on, else 3)")
    parser.add_argument("--calls", type=int, default=200, help="calls of each question (200)")
    parser.add_argument("--keep", type=pathlib.Path, help="folder that the database is kept in, and found again")
    parser.add_argument("--fill-only", action="store_true", help="only fill the folder of --keep")
    parser.add_argument("--pause", type=pathlib.Path, help="begin no month of the fill while there is this file")
    parser.add_argument("--export-seconds", type=float, default=20.0, help="an export is read so long (20)")
    options = parser.parse_args(arguments)
    plan = filling.Plan(options.rows, options.months or (12 if options.rows >= _MANY else 3))
    with tempfile.TemporaryDirectory(prefix="metergate-query-") as temporary:
        folder = options.keep.absolute() if options.keep else pathlib.Path(temporary)
        if not (folder / "filled").exists():
            filling.fill(folder / "db", plan, options.pause)
            (folder / "filled").write_text(f"{options.rows} {plan.months}\n")
        if options.fill_only:
            return 0
        found = _measure(folder, pathlib.Path(temporary), options)
    sys.stdout.write(json.dumps(dataclasses.asdict(found) | {"good": found.good}) if options.json else _shown(found))
    sys.stdout.write("\n")
    return 0 if found.good else 1


def _shown(found: Found) -> str:
    lines = [
        f"{found.readings} readings in {found.months} months, {found.gibibytes:.1f} GiB",
        f"{'milliseconds':44} {'rows':>6} {'p50':>7} {'p95':>7} {'cold p50':>9} {'cold p95':>9} {'database':>9}",
    ]
    for name, one in found.questions.items():
        verdict = ("good" if one.p50 < GOAL_MS and one.p95 < GOAL_MS else "MISSED") if one.goal else ""
        lines.append(
            f"{name:44} {one.rows:6} {one.p50:7.1f} {one.p95:7.1f} {one.cold_p50:9.1f} {one.cold_p95:9.1f} "
            f"{one.database:9.1f} {verdict}"
        )
    lines.append(
        f"export of a month: first byte {found.first_byte_p50:.0f} ms, p95 {found.first_byte_p95:.0f}; "
        f"{found.exported} readings read, {found.rows_per_second:.0f} a second; memory of serve "
        f"{found.memory_before:.0f} MiB, and at most {found.memory_growth:.1f} more"
    )
    for name, one in found.questions.items():
        for plan in one.plans:
            whole = f" READ WHOLE: {', '.join(plan.read_whole)}" if plan.read_whole else ""
            lines.append(f"plan of {name}: {', '.join(plan.indexes) or 'no index'}; {plan.months} months{whole}")
    return "\n".join(lines)


class _Client:
    """One who asks over one connection."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Token {token}", "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._used = time.monotonic()

    def ask(self, asked: Asked) -> Any:  # noqa: ANN401 - JSON
        """Return what is answered."""
        return json.loads(self._read(asked))

    def timed(self, asked: Asked) -> float:
        """Return the milliseconds until the answer was read."""
        begun = time.perf_counter()
        self._read(asked)
        return 1000 * (time.perf_counter() - begun)

    def _read(self, asked: Asked) -> bytes:
        if time.monotonic() - self._used > _IDLE_SECONDS:
            # The server ends a connection that nobody uses; it is made anew by the request.
            self._connection.close()
            self._connection.connect()
        self._used = time.monotonic()
        self._connection.request("POST" if asked.body else "GET", asked.path, asked.body, self._headers)
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{asked.path[:300]}: {answer.status} {data[:500]!r}")
        return data

    def stream(self, path: str) -> Generator[bytes]:
        """Yield what comes of a long answer, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise RuntimeError(f"{path}: {answer.status} {answer.read(500)!r}")
            while data := answer.read1(_BLOCK):
                yield data
        finally:
            connection.close()


def _measure(folder: pathlib.Path, temporary: pathlib.Path, options: argparse.Namespace) -> Found:
    temporary.chmod(0o755)
    files = folder / "db" / "data"
    with postgres(folder / "db", shared_buffers="1GB", settings=filling.MEASURING) as server:
        asyncio.run(migrate(server.url()))
        estate, found = asyncio.run(_look(server.url()))
        questions = _questions(estate)
        # The same every time, so that two runs can be compared.
        chance = random.Random(7)  # noqa: S311 - no secret
        cold = {name: [ask(chance) for _ in range(COLD_CALLS)] for name, (_, ask) in questions.items()}
    _put_away(files)
    with (
        postgres(folder / "db", shared_buffers="1GB", settings=filling.MEASURING) as server,
        Stage(
            temporary, {"METERGATE_ENVIRONMENT": "benchmark", "METERGATE_CLOCK": f"{filling.NOW.isoformat()},1"}
        ) as stage,
    ):
        client, serve = _serve(stage, server)
        for name, (goal, _) in questions.items():
            taken = [client.timed(one) for one in cold[name]]
            found.questions[name] = Answered(goal, cold_p50=statistics.median(taken), cold_p95=quantile(taken, 0.95))
        _fetch(files)
        _, first = next(iter(questions.values()))
        for _ in range(_AT_WORK):
            client.timed(first(chance))
        for name, (_, ask) in questions.items():
            one = found.questions[name]
            for _ in range(_WARMING):
                client.timed(ask(chance))
            taken = [client.timed(ask(chance)) for _ in range(options.calls)]
            one.p50, one.p95 = statistics.median(taken), quantile(taken, 0.95)
        _export(client, serve, estate, found, options.export_seconds)
        asyncio.run(_plans(server, client, questions, found, chance))
    return found


def _serve(stage: Stage, server: Postgres) -> tuple[_Client, Process]:
    port = free_port()
    token = stage.run(["metergate-hub", "token", "create", f"bench {uuid.uuid4().hex[:8]}", "--database", server.url()])
    command = ["metergate-hub", "serve", "--port", str(port), "--database", server.url(), "--data", str(stage.folder)]
    process = stage.start("serve", command, hello=True)
    return _Client(port, token.strip().splitlines()[-1]), process


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return [one for one in (folder / "base").rglob("*") if one.is_file()]


def _put_away(folder: pathlib.Path) -> None:
    """Have the files of a database on the disk only."""
    os.sync()
    for file in _files(folder):
        with file.open("rb") as opened_file:
            os.posix_fadvise(opened_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _fetch(folder: pathlib.Path) -> None:
    """Have them in memory: twice, because what was read once is the first to go."""
    for file in _files(folder) * 2:
        with file.open("rb", buffering=0) as opened_file:
            while opened_file.read(_BLOCK):
                pass


async def _look(url: str) -> tuple[Estate, Found]:
    async with opened(url) as engine, engine.connect() as connection:

        async def meters(quarterly: str) -> list[tuple[uuid.UUID, list[uuid.UUID]]]:
            rows = await connection.execute(
                sa.text(
                    "SELECT device, array_agg(series ORDER BY number) FROM bench.estate "  # noqa: S608 - our own text
                    f"WHERE {quarterly} GROUP BY device ORDER BY min(number)"
                )
            )
            return [(row[0], list(row[1])) for row in rows]

        ends = (await connection.execute(sa.text("SELECT min(id), max(id) FROM readings"))).one()
        sizes = await connection.execute(
            sa.text(
                "SELECT relname, reltuples, pg_database_size(current_database()) FROM pg_class "
                "JOIN pg_inherits ON inhrelid = oid WHERE inhparent = 'readings'::regclass AND reltuples > 0 ORDER BY 1"
            )
        )
        tables = sizes.all()
        months = [month for row in tables if (month := Month.named(row[0])) is not None]
        estate = Estate(await meters("NOT quarterly"), await meters("quarterly"), months, ends[0], ends[1])
        return estate, Found(round(sum(row[1] for row in tables)), len(months), tables[0][2] / 2**30)


_Question = Callable[[random.Random], Asked]


def _get(path: str, **query: object) -> Asked:
    told = {name: one.isoformat() if isinstance(one, dt.datetime) else one for name, one in query.items()}
    return Asked(f"{path}?{urlencode(told, quote_via=quote)}")


def _questions(estate: Estate) -> dict[str, tuple[bool, _Question]]:
    """Return the questions by name: whether there is a goal, and how to ask of something at random."""
    thousand = min(1000, len(estate.hourly))

    def month(meters: list[tuple[uuid.UUID, list[uuid.UUID]]]) -> _Question:
        def ask(chance: random.Random) -> Asked:
            (meter, series), one = chance.choice(meters), chance.choice(estate.months[:-1] or estate.months)
            until = one.end - dt.timedelta(seconds=1)
            return _get(
                _READINGS, meter_device=meter, series=chance.choice(series), start_time=one.start, end_time=until,
                limit=1000,
            )  # fmt: skip

        return ask

    def latest(chance: random.Random, *, all_series: bool) -> Asked:
        some = chance.sample(estate.hourly, thousand)
        told: dict[str, Any] = {"meter_devices": [str(meter) for meter, _ in some]}
        # Both organizations' series of one name.
        named = chance.randrange(len(filling.SERIES))
        told |= {} if all_series else {"series": sorted({str(series[named]) for _, series in some})}
        return Asked("/v1/metering/readings/latest", json.dumps(told).encode())

    def day(meters: list[tuple[uuid.UUID, list[uuid.UUID]]]) -> _Question:
        def ask(chance: random.Random) -> Asked:
            start = chance.choice(estate.months).start + chance.randrange(20) * _DAY
            until = start + _DAY - dt.timedelta(seconds=1)
            return _get(
                _READINGS, meter_device=chance.choice(meters)[0], start_time=start, end_time=until, limit=1000
            )  # fmt: skip

        return ask

    def received(chance: random.Random) -> Asked:
        start = estate.months[0].start
        at = start + dt.timedelta(seconds=chance.randrange(int((filling.NOW - start).total_seconds())))
        return _get("/v1/metering/readings/received", received_since=at)

    def received_of(chance: random.Random) -> Asked:
        query = received(chance).path
        return Asked(f"{query}&meter_device={chance.choice(estate.hourly)[0]}&limit=1000")

    return {
        "one series for a month": (True, month(estate.hourly)),
        f"latest of {thousand} meters, one series": (True, lambda chance: latest(chance, all_series=False)),
        "one day of all series of a meter": (True, day(estate.hourly)),
        "staged readings of a name": (
            True,
            lambda chance: _get(_STAGED, meter_device_name=f"unknown {chance.randrange(1, filling.STAGED_NAMES)}"),
        ),
        "readings received since a time": (True, received),
        "received since a time, of one meter": (True, received_of),
        "one quarterly series for a month, 1000 rows": (False, month(estate.quarterly)),
        "one day of a quarterly meter": (False, day(estate.quarterly)),
        f"latest of {thousand} meters, all series": (False, lambda chance: latest(chance, all_series=True)),
        "staged readings of a name that has 100,000": (
            False,
            lambda chance: _get(_STAGED, meter_device_name="unknown 0", offset=100 * chance.randrange(10)),
        ),
        "the list of all readings, its first page": (False, lambda _: _get(_READINGS, limit=100)),
    }


def _export(client: _Client, serve: Process, estate: Estate, found: Found, seconds: float) -> None:
    taken = []
    chance = random.Random(11)  # noqa: S311 - no secret
    for _ in range(EXPORTS):
        begun = time.perf_counter()
        stream = client.stream(_export_of(chance.choice(estate.months)))
        next(stream)
        taken.append(1000 * (time.perf_counter() - begun))
        stream.close()
        # Until the hub has noticed: only so many may be under way.
        time.sleep(0.3)
    found.first_byte_p50, found.first_byte_p95 = statistics.median(taken), quantile(taken, 0.95)
    begun, before, most = time.perf_counter(), 0.0, 0.0
    for data in client.stream(_export_of(estate.months[0])):
        found.exported += data.count(b"\n")
        now = memory(serve)
        if time.perf_counter() - begun < 1.0:
            before = now
        most = max(most, now - before) if before else 0.0
        if time.perf_counter() - begun > seconds:
            break
    found.rows_per_second = found.exported / (time.perf_counter() - begun)
    found.memory_before, found.memory_growth = before, most


def _export_of(month: Month) -> str:
    return _get("/v1/metering/readings/export", start_time=month.start, end_time=month.end - _HOUR / 60).path


async def _plans(
    server: Postgres,
    client: _Client,
    questions: dict[str, tuple[bool, _Question]],
    found: Found,
    chance: random.Random,
) -> None:
    """Have the statements of one call of each question logged, and explain them."""
    async with opened(server.url()) as engine, engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for name, (_, ask) in questions.items():
            await connection.exec_driver_sql("ALTER SYSTEM SET log_min_duration_statement = 0")
            await connection.exec_driver_sql("SELECT pg_reload_conf()")
            await asyncio.sleep(0.3)
            begun = size_of(server.log)
            answer = client.ask(ask(chance))
            await connection.exec_driver_sql("ALTER SYSTEM RESET log_min_duration_statement")
            await connection.exec_driver_sql("SELECT pg_reload_conf()")
            await asyncio.sleep(0.3)
            with server.log.open("rb") as log:
                log.seek(begun)
                statements = sent(log.read().decode(errors="replace"))
            ours = [one for one in statements if "pg_reload_conf" not in one.text and "ALTER SYSTEM" not in one.text]
            one = found.questions[name]
            one.rows = len(answer["results"])
            one.database, one.statements = round(sum(each.milliseconds for each in ours), 2), len(ours)
            # The first asks who it is that asks, and EXPLAIN is what a count is estimated by.
            explained = [each for each in ours if "reading" in each.text and not each.text.startswith("EXPLAIN")]
            one.plans = [await plan_of(connection, each) for each in explained]
