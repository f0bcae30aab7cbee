"""The site of the bench ``fleet``: PostgreSQL, Mosquitto, ``serve``, a relay that comes and goes, and all its voices.

With a folder that is kept, the database is filled once and used again; its gateways were never heard of then.
"""

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Self

import asyncpg

from benchmarks._children import Child
from benchmarks._fleet_estate import SERIES, Estate, Group, expect, forget_plans, make_estate
from benchmarks.loaded_hub import processor
from benchmarks.mosquitto import Mosquitto, free_port, mosquitto
from benchmarks.postgres import Postgres, postgres
from deploy.demo.hub_client import HubClient
from deploy.demo.processes import Process, Stage
from hub.connection import IN_FLIGHT, read_url
from mqtt.connection import Outgoing, connect
from protocol.envelopes import SigningKey

PATIENCE = 600.0
LOOK_EVERY = 0.1
LOOK_AT_LEAST = 1.0
LOOK_SHARE = 0.05
"""Of the time, what looking at all gateways should take at most: the database that is measured does it."""

SHARED_BUFFERS = "256MB"
_STANDING = """
SELECT count(*) FILTER (WHERE published_revision < desired_revision OR desired_revision = 0),
count(*) FILTER (WHERE NOT online OR applied_revision <> desired_revision OR applied_digest IS DISTINCT FROM
published_digest), coalesce(sum(desired_revision), 0) FROM gateways WHERE gateway_id LIKE 'gw-%'
"""
_BODIES = """
SELECT body FROM gateway_plans p JOIN gateways g ON g.id = p.gateway AND g.desired_revision = p.revision
"""


@dataclasses.dataclass(frozen=True)
class Standing:
    """How many gateways the broker has not the desired plan of, how many do not run it, and all desired revisions."""

    unpublished: int
    unapplied: int
    revisions: int


class Voices(Child):
    """The process that speaks for all gateways."""

    def __init__(self, broker: str, gateways: int, meters: int, series: int, log: pathlib.Path) -> None:
        super().__init__("_fleet_voices", [broker, str(gateways), str(meters), ",".join(SERIES[:series])], log)
        self.wait_until_ready()

    def do(self, what: str, **more: object) -> dict[str, Any]:
        """Give an order and wait until it is done; return what is told of it.

        Raises:
            RuntimeError: when that takes too long, or the process has ended.
        """
        with self.news:
            self.told = [line for line in self.told if "did" not in line]
        self.say(do=what, **more)
        if not self.wait("did", PATIENCE):
            raise RuntimeError(f"the process of all gateways does not answer; see {self.log}")
        return next(line for line in self.told if "did" in line)

    def begin_count(self) -> None:
        """Count plans from now on."""
        self.do("count")
        with self.news:
            self.told.clear()

    def wait_for_plans(self, count: int) -> float | None:
        """Wait until plans of so many gateways came since the count began; return when the last did, None if not."""
        with self.news:
            self.news.wait_for(lambda: self.ended or self._most("gateways") >= count, PATIENCE)
            if self._most("gateways") < count:
                return None
            return max(float(line["at"]) for line in self.told if "plans" in line)

    @property
    def plans(self) -> int:
        """How many plans have come since the count began."""
        with self.news:
            return self._most("plans")

    def _most(self, figure: str) -> int:
        return max((int(line[figure]) for line in self.told if figure in line), default=0)


class Looks:
    """Asks the database directly how things stand, because nothing else should be asked meanwhile."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._connection = self._loop.run_until_complete(asyncpg.connect(url))

    def standing(self) -> Standing:
        """How things stand now."""
        row = self._loop.run_until_complete(self._connection.fetchrow(_STANDING))
        return Standing(*map(int, row))

    def wait(self, since: float, *, applied: bool) -> float | None:
        """Wait until every desired plan is published (or ``applied`` too); return the seconds since then, or None."""
        while time.monotonic() - since < PATIENCE:
            asked = time.monotonic()
            now = self.standing()
            if not now.unpublished and not (applied and now.unapplied):
                return asked - since
            time.sleep(min(LOOK_AT_LEAST, max(LOOK_EVERY, (time.monotonic() - asked) / LOOK_SHARE)))
        return None

    def bodies(self) -> list[bytes]:
        """The plans that are desired now."""
        rows = self._loop.run_until_complete(self._connection.fetch(_BODIES))
        return [bytes(row["body"]) for row in rows]

    def close(self) -> None:
        """End the connection."""
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


class Site:
    """All that runs, and what the bench does to it."""

    def __init__(self, stage: Stage, server: Postgres, broker: Mosquitto, token: str) -> None:
        self.stage = stage
        self.server = server
        self.broker = broker
        self._place = ["--broker", broker.url, "--data", str(stage.folder), "--database", server.url()]
        port = free_port()
        self.rest = stage.start("rest", ["metergate-hub", "serve", "--port", str(port), *self._place], hello=True)
        self.hub = HubClient(f"http://127.0.0.1:{port}", token)
        self.relay: Process | None = None
        self._relays = 0

    def start_relay(self) -> Process:
        """Start a relay, of which there is none; it returns when that is connected and has its first work."""
        self._relays += 1
        command = ["metergate-hub", "relay", *self._place, "--metrics-port", "0"]
        self.relay = self.stage.start(f"relay-{self._relays}", command, hello=True)
        return self.relay

    def end_relay(self) -> None:
        """End the relay in order."""
        if self.relay is not None:
            self.relay.end()
            self.stage.processes.remove(self.relay)
            self.relay = None

    def spent(self) -> dict[str, float]:
        """Return the seconds of processor time that each part has taken so far; of the relay that runs now."""
        first, *others = self.server.processes()
        relay = self.relay
        return {
            "relay": processor(relay.popen.pid) if relay is not None else 0.0,
            "serve": processor(self.rest.popen.pid),
            "database": processor(first, ended=True) + sum(map(processor, others)),
            "broker": sum(map(processor, self.broker.processes())),
        }


async def publish_bare(broker: str, bodies: Sequence[bytes]) -> float:
    """Sign and publish plans as fast as one connection takes them, and nothing else; return the seconds that takes."""
    key = SigningKey.generate()
    topics = [f"bare/{number}" for number in range(len(bodies))]
    async with connect(read_url(broker), None, in_flight=IN_FLIGHT) as connection:
        slots = asyncio.Semaphore(IN_FLIGHT)

        async def publish(topic: str, payload: bytes) -> None:
            async with slots:
                await connection.publish(Outgoing(topic, payload, retain=True))

        begun = time.monotonic()
        await asyncio.gather(
            *(publish(topic, key.seal(topic, body)) for topic, body in zip(topics, bodies, strict=True))
        )
        seconds = time.monotonic() - begun
        # The broker should not keep them.
        await asyncio.gather(*(publish(topic, b"") for topic in topics))
    return seconds


def begin_peak(process: Process) -> None:
    """Begin a new peak of resident memory (proc(5), clear_refs)."""
    pathlib.Path(f"/proc/{process.popen.pid}/clear_refs").write_text("5", encoding="ascii")


def peak(process: Process) -> float:
    """Return the most memory that was resident since the peak began, in MiB."""
    status = pathlib.Path(f"/proc/{process.popen.pid}/status").read_text(encoding="ascii")
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


@dataclasses.dataclass
class Kept:
    """What is known of a database that was filled: its measures, the token, and what is edited."""

    gateways: int
    meters: int
    token: str
    estate: Estate

    @classmethod
    def read(cls, path: pathlib.Path) -> Self | None:
        """Read it, if it was ever written."""
        if not path.exists():
            return None
        known = json.loads(path.read_text(encoding="utf-8"))
        groups = (Group(**known["estate"][name]) for name in ("some", "all"))
        return cls(known["gateways"], known["meters"], known["token"], Estate(*groups))

    def write(self, path: pathlib.Path) -> None:
        """Write it, when all is filled."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


@contextlib.contextmanager
def fleet_site(keep: pathlib.Path | None, gateways: int, meters: int) -> Iterator[tuple[Site, Estate, float]]:
    """Open the site for the length of the block, with no relay yet; also what is edited, and how long filling took.

    Raises:
        ValueError: when the folder has a database of other measures.
    """
    with contextlib.ExitStack() as stack:
        if keep is None:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metergate-fleet-")))
        else:
            folder = keep.resolve()
            folder.mkdir(parents=True, exist_ok=True)
        notes = folder / "fleet.json"
        kept = Kept.read(notes)
        if kept is not None and (kept.gateways, kept.meters) != (gateways, meters):
            raise ValueError(f"{folder} has {kept.gateways} gateways with {kept.meters} meters each: give another one")
        server = stack.enter_context(postgres(folder / "postgres", SHARED_BUFFERS))
        # As docs/scaling.md has it: with Mosquitto's own 20 relays wait for the broker, the bare loop hardly does.
        broker = stack.enter_context(mosquitto(in_flight=IN_FLIGHT))
        stage = stack.enter_context(Stage(folder, {"METERGATE_ENVIRONMENT": "benchmark"}))
        stage.run(["metergate-hub", "migrate", "--database", server.url()])
        if kept is not None:
            token = kept.token
        else:
            name = f"bench {time.time():.0f}"
            made = stage.run(["metergate-hub", "token", "create", name, "--database", server.url()])
            token = made.strip().splitlines()[-1]
        site = Site(stage, server, broker, token)
        begun = time.monotonic()
        estate = kept.estate if kept is not None else make_estate(site.hub, server, gateways, meters)
        if kept is None:
            Kept(gateways, meters, token, estate).write(notes)
        forget_plans(server)
        asyncio.run(expect(server))
        yield site, estate, time.monotonic() - begun
