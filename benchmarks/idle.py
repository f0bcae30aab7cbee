"""``idle``: what a hub costs while nothing happens: processor and statements of its processes, on both databases.

The limit is a peer measured in the same run: a bare web server of the same kind (uvicorn with an application that
answers nothing), which every process with a port is at least. A hub of three processes on PostgreSQL and one on SQLite
stand beside it for the same time, without a gateway.

Options: ``--seconds N`` (30), ``--most RATIO`` (a process may take so many times the bare server's processor),
``--statements N`` (a second, of each process), ``--json``. Exit status 1 when a process takes more.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence

from benchmarks.mosquitto import free_port, mosquitto
from benchmarks.postgres import postgres
from deploy.demo.processes import Process, Stage

SETTLE_SECONDS = 12.0
"""A process that has just started still looks at everything once."""

MOST_RATIO, MOST_STATEMENTS = 6.0, 6.0

_BARE = """\
import asyncio, json, socket, sys, uvicorn
async def application(scope, receive, send): ...
listener = socket.create_server(("127.0.0.1", 0))
print(json.dumps({"rest": "bare"}), flush=True)
asyncio.run(uvicorn.Server(uvicorn.Config(application, log_config=None, lifespan="off")).serve([listener]))
"""

Watched = dict[str, tuple[Process, str]]
"""Processes by name, each with the URL of its page for Prometheus, empty where it has none."""


@dataclasses.dataclass(frozen=True)
class Idle:
    """What a process took: processor in percent of a core, statements a second (None: it has no database)."""

    name: str
    percent: float
    statements: float | None


def processor(pid: int) -> float:
    """Return the seconds of processor that a process and its threads have taken."""
    tasks = pathlib.Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def statements(url: str) -> float:
    """Return how many statements a process has sent, as its page for Prometheus says."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - a process of ours
        lines = answer.read().decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("metergate_database_statements_total ")))


def watch(processes: Watched, seconds: float) -> list[Idle]:
    """Let processes stand for so long; return what each took."""
    time.sleep(SETTLE_SECONDS)

    def look() -> dict[str, tuple[float, float]]:
        # The page itself takes statements and processor: it is asked for outside of what is measured.
        sent = {name: statements(url) if url else 0.0 for name, (_, url) in processes.items()}
        return {name: (processor(process.popen.pid), sent[name]) for name, (process, _) in processes.items()}

    before, begun = look(), time.monotonic()
    time.sleep(seconds)
    took = {name: processor(process.popen.pid) - before[name][0] for name, (process, _) in processes.items()}
    lasted = time.monotonic() - begun
    after = look()
    # A look's own statements are counted in the next one only.
    own = {name: statements(url) - after[name][1] if url else 0.0 for name, (_, url) in processes.items()}
    return [
        Idle(
            name,
            100 * took[name] / lasted,
            max(0.0, after[name][1] - before[name][1] - own[name]) / lasted if url else None,
        )
        for name, (_, url) in processes.items()
    ]


@contextlib.contextmanager
def hubs(stage: Stage) -> Iterator[Watched]:
    """Start a bare server, a hub on SQLite, and one of two processes on PostgreSQL."""
    port, door = free_port(), free_port()
    found = {"bare server": (stage.start("bare", [pathlib.Path(sys.executable).name, "-c", _BARE], hello=True), "")}
    alone = ["metergate-hub", "run", "--port", str(port), "--mqtt-port", "0", "--data", str(stage.folder / "alone")]
    found["run, SQLite"] = (stage.start("run", alone, hello=True), f"http://127.0.0.1:{port}/metrics")
    with mosquitto() as broker, postgres(stage.folder / "postgres") as server, stage:
        place = ["--data", str(stage.folder / "many"), "--database", server.url()]
        stage.run(["metergate-hub", "migrate", "--database", server.url()])
        port = free_port()
        serve = ["metergate-hub", "serve", "--port", str(port), *place]
        found["serve, PostgreSQL"] = (stage.start("serve", serve, hello=True), f"http://127.0.0.1:{port}/metrics")
        relay = ["metergate-hub", "relay", "--metrics-port", str(door), "--broker", broker.url, *place]
        found["relay, PostgreSQL"] = (stage.start("relay", relay, hello=True), f"http://127.0.0.1:{door}/metrics")
        yield found


def main(arguments: Sequence[str]) -> int:
    """Measure, print, and say whether a process takes more than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--most", type=float, default=MOST_RATIO)
    parser.add_argument("--statements", type=float, default=MOST_STATEMENTS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="metergate-idle-") as folder:
        stage = Stage(pathlib.Path(folder), {})
        with hubs(stage) as processes:
            found = watch(processes, options.seconds)
    bare = max(found[0].percent, 0.01)
    good = all(
        one.percent / bare <= options.most and (one.statements or 0.0) <= options.statements for one in found[1:]
    )
    if options.json:
        told = [dataclasses.asdict(one) for one in found]
        print(json.dumps({"good": good, "load": os.getloadavg()[0], "found": told}))
    else:
        for one in found:
            sent = "" if one.statements is None else f", {one.statements:5.2f} statements/s"
            print(f"{one.name:20} {one.percent:6.3f} % of a core, {one.percent / bare:4.1f} of the bare server's{sent}")
        wanted = f"at most {options.most:g} times the bare server's, and {options.statements:g} statements/s"
        print(f"wanted: {wanted}: {'yes' if good else 'NO'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
