"""A hub is brought to a newer version while its gateways go on: what they notice of it.

The code of an earlier commit of this repository (``--from``, by default the one before the newest migration) makes a
database and runs REST and a relay on it, as processes of their own, with a real Mosquitto; today's code then does what
docs/upgrading.md says. Simulated gateways send signed batches all the time, with the agent's own window, and readings
and versions of years before are there. In this order:

- *before*: the old relay alone.
- *migrated*: today's ``metergate-hub migrate`` while it ingests; where a step needs the hub's processes to be ended,
  the bench says so and ends.
- *old on new*: the old relay on the new schema.
- *both*: today's relay beside it.
- *new*: the old one was told to end.
- *index online*: a sample migration adds an index to readings, as migrations do it now; today's relay is ended and
  started again on the database that is ahead of it then.
- *index plainly*: the same index as ``CREATE INDEX`` makes it, for comparison.

A pause is the longest time in which no gateway had any receipt. ``ratio`` is the longest pause of all phases but the
last, over its limit. Exit status 0: nothing is missing, doubled or wrong, row by row, and no pause is longer than that.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence

from benchmarks._children import READY_SECONDS, Child
from benchmarks._stampede_estate import make_gateways
from benchmarks._upgrade_database import Found, add_index_online, add_index_plainly, compare, fill
from benchmarks.loaded_hub import LoadedHub
from benchmarks.mosquitto import mosquitto
from benchmarks.postgres import postgres
from deploy.demo.processes import Process, Stage, program
from hub.logs import set_up_logs

MOST_PAUSE = 2.0
"""Seconds: a lock is waited for 0.8 s at most, and what waited has to be stored then."""

MIGRATE_SECONDS = 900.0
QUIET = 2.0
"""Seconds of each phase that belong to no work."""

_ROOT = pathlib.Path(__file__).parents[1]
_PLAINLY = "index plainly"


@dataclasses.dataclass
class Phase:
    """What the gateways noticed of one phase: seconds."""

    name: str
    seconds: float
    pause: float
    wait: float


@dataclasses.dataclass
class Figures:
    """What the bench found."""

    commit: str
    schema: str
    head: str
    rows: int
    steps: list[str]
    phases: list[Phase]
    readings: int
    resent: int
    missing: int
    doubled: int
    wrong: int

    @property
    def ratio(self) -> float:
        """The longest pause over its limit, the plain way aside."""
        return max(one.pause for one in self.phases if one.name != _PLAINLY) / MOST_PAUSE

    @property
    def missed(self) -> list[str]:
        """What does not hold."""
        found = [f"{name}: {count}" for name in ("missing", "doubled", "wrong") if (count := getattr(self, name))]
        return found + ([f"a pause of {self.ratio * MOST_PAUSE:.2f} s"] if self.ratio > 1 else [])

    def lines(self) -> list[str]:
        """Return the figures for people."""
        return [
            f"from {self.commit[:12]} with schema {self.schema} to {self.head}; {self.rows:,} readings were there",
            *(f"  {step}" for step in self.steps),
            "",
            f"{'phase':<15}{'seconds':>9}{'longest pause':>15}{'longest wait of a batch':>25}",
            *(f"{one.name:<15}{one.seconds:>9.1f}{one.pause:>13.2f} s{one.wait:>23.2f} s" for one in self.phases),
            "",
            f"{self.readings:,} readings came meanwhile, {self.resent} batches were sent again",
            f"{self.missing} missing, {self.doubled} doubled, {self.wrong} wrong",
            f"ratio {self.ratio:.2f} of {MOST_PAUSE:g} s: {'; '.join(self.missed) or 'good'}",
        ]


class _Bench:
    """One hub of the earlier commit, and its gateways."""

    def __init__(self, loaded: LoadedHub, new: Stage, gateways: Child, database: str) -> None:
        self._loaded = loaded
        self._new = new
        self._gateways = gateways
        self._database = database
        self.phases: list[Phase] = []
        self.steps: list[str] = []

    def phase(self, name: str, work: Callable[[], object], seconds: float) -> None:
        """Do something while the gateways go on, and so many seconds more."""
        _say(name)
        begun, first = time.monotonic(), len(self._gateways.told)
        work()
        time.sleep(seconds)
        told = [line for line in self._gateways.told[first:] if "silence" in line and line["at"] >= begun]
        self.phases.append(
            Phase(
                name,
                time.monotonic() - begun,
                max((line["silence"] for line in told), default=time.monotonic() - begun),
                max((line["wait"] for line in told), default=time.monotonic() - begun),
            )
        )

    def migrate(self) -> None:
        """Let today's code migrate, and note what its steps took."""
        command = [program("metergate-hub"), "migrate", "--json", "--database", self._database]
        environment = self._new.environment
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=MIGRATE_SECONDS)
        for step in json.loads(done.stdout)["steps"]:
            self.steps.append(f"{step['revision']} {step['seconds']:.1f} s  {step['title']}")

    def start_relay(self, name: str) -> Process:
        """Start today's relay."""
        place = ["--broker", self._loaded.broker.url, "--data", str(self._loaded.stage.folder)]
        return self._new.start(name, ["metergate-hub", "relay", *place, "--database", self._database], hello=True)


def run(commit: str, gateways: int, rows: int, history: int, seconds: float) -> Figures:
    """Measure.

    Args:
        commit: Of the code that was before.
        gateways: So many; each sends a batch a second.
        rows: Of a batch.
        history: Readings that are there before.
        seconds: Of each phase, beside its work.
    """
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metergate-upgrade-")))
        folder.chmod(0o755)
        _extract(commit, folder / "code")
        server = stack.enter_context(postgres(folder / "postgres"))
        broker = stack.enter_context(mosquitto())
        environment = {"METERGATE_ENVIRONMENT": "benchmark"}
        old = stack.enter_context(Stage(folder, {**environment, "PYTHONPATH": str(folder / "code")}))
        new = stack.enter_context(Stage(folder, environment))
        loaded = LoadedHub(old, broker, server.url(), 1, server)
        _say(f"{gateways} gateways and {history:,} readings of before are made")
        before = loaded.add_gateway("history", 1).meters[0]
        made = make_gateways(loaded, gateways)
        filled = fill(server.url(), before, history) if history else 0
        outlook = json.loads(new.run(["metergate-hub", "migrate", "--dry-run", "--json", "--database", server.url()]))
        if not outlook["online"]:
            raise RuntimeError(f"a step between needs the hub's processes to be ended: {_stops(outlook)}")
        names = [f"{one.name}={one.meters[0]}" for one in made]
        child = Child("_upgrade_gateways", [broker.url, *names], folder / "gateways.log")
        stack.callback(child.end)
        child.wait_until_ready()
        child.order(do="flow", rows=rows, every=1.0)
        time.sleep(QUIET)
        bench = _Bench(loaded, new, child, server.url())
        bench.phase("before", lambda: None, seconds)
        bench.phase("migrated", bench.migrate, QUIET)
        bench.phase("old on new", lambda: None, seconds)
        bench.phase("both", lambda: bench.start_relay("relay-new"), seconds)
        bench.phase("new", loaded.relay.end, seconds)
        bench.phase("index online", lambda: add_index_online(server.url(), folder), QUIET)
        again = bench.start_relay("relay-again")
        new.processes[0].end()
        bench.phase(_PLAINLY, lambda: add_index_plainly(server.url()), QUIET)
        child.say(do="stop")
        if not child.wait("did", READY_SECONDS) or again.popen.poll() is not None:
            raise RuntimeError(f"not all batches had a receipt in time; see the logs in {folder}")
        told = child.told[-1]
        _say("the database is compared with what was sent")
        found = compare(server.url(), made, told["given"], told["batches"], before)
        return _figures(commit, outlook, filled, bench, told["resent"], found)


def _figures(commit: str, outlook: dict[str, str], filled: int, bench: _Bench, resent: int, found: Found) -> Figures:
    return Figures(
        commit, outlook["schema"], outlook["head"], filled, bench.steps, bench.phases, found.rows, resent, *found[1:]
    )


def _stops(outlook: dict[str, list[dict[str, str]]]) -> str:
    return "; ".join(f"{step['revision']}: {step['stop']}" for step in outlook["steps"] if step["stop"])


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"git {arguments[0]} failed: {said}; this bench needs a clone with its history")
    return done.stdout


def _extract(commit: str, folder: pathlib.Path) -> None:
    """Write the code of a commit into a folder."""
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as archive:
        archive.extractall(folder, filter="data")


def _before_newest() -> str:
    """Return the commit before the one that brought the newest migration."""
    found = _git("log", "-1", "--diff-filter=A", "--format=%H", "--", "hub/migrations/versions/*.py")
    return _git("rev-parse", f"{found.decode().strip()}^").decode().strip()


def main(arguments: Sequence[str]) -> int:
    """Run it and print the figures; exit status 1 when a goal does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks upgrade", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--from", dest="commit", help="the earlier commit (the one before the newest migration)")
    parser.add_argument("--gateways", type=int, default=40, help="each sends a batch a second (40)")
    parser.add_argument("--rows", type=int, default=20, help="readings of a batch (20)")
    parser.add_argument("--history", type=int, default=1_000_000, help="readings that are there before (1000000)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each phase beside its work (6)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    options = parser.parse_args(arguments)
    if min(options.gateways, options.rows, options.seconds) <= 0 or options.history < 0:
        parser.error("all figures must be above 0")
    commit = _git("rev-parse", "--verify", f"{options.commit or _before_newest()}^{{commit}}").decode().strip()
    set_up_logs()
    figures = run(commit, options.gateways, options.rows, options.history, options.seconds)
    if options.json:
        told = {**dataclasses.asdict(figures), "ratio": figures.ratio, "missed": figures.missed}
        print(
            json.dumps(
                {"benchmark": "upgrade", "wanted": {"pause": MOST_PAUSE}, "good": not figures.missed, "figures": told}
            )
        )
    else:
        print("\n".join(["", *figures.lines()]))
    return 1 if figures.missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
