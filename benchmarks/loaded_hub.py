"""A hub to put under load: Mosquitto, a database, relay and REST as processes of their own, and gateways with meters.

On PostgreSQL the REST process and each relay are processes of their own; on SQLite one is all (``metergate-hub run``).
Everything is real and on real time; nothing here imports ``hub``.
"""

import contextlib
import dataclasses
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

from benchmarks.mosquitto import Mosquitto, free_port, mosquitto
from benchmarks.postgres import Postgres, postgres
from deploy.demo.hub_client import HubClient, RestError
from deploy.demo.processes import Process, Stage

POSTGRESQL, SQLITE = "postgresql", "sqlite"
SERIES = ("2:300", "2:302", "4:300", "4:302", "7:310/3", "6:310_1/3", "8:310/3", "5:310/3")
PATIENCE = 120.0
_MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class LoadedGateway:
    """A gateway that the hub knows: its id in topics, its id in REST, and the ids of its meters."""

    name: str
    id: str
    meters: tuple[str, ...]


class LoadedHub:
    """The hub's processes and what a bench asks of them."""

    def __init__(
        self, stage: Stage, broker: Mosquitto, database: str, relays: int = 1, server: Postgres | None = None
    ) -> None:
        self.stage = stage
        self.broker = broker
        self.server = server
        self._port = free_port()
        token = stage.run(["metergate-hub", "token", "create", "bench", "--database", database])
        self.hub = HubClient(f"http://127.0.0.1:{self._port}", token.strip().splitlines()[-1])
        place = ["--broker", broker.url, "--data", str(stage.folder)]
        rest = ["--port", str(self._port), *place]
        if database.startswith("sqlite"):
            self.relays = [stage.start("hub", ["metergate-hub", "run", *rest], hello=True)]
        else:
            stage.start("rest", ["metergate-hub", "serve", *rest, "--database", database], hello=True)
            self._relay = ["metergate-hub", "relay", *place, "--database", database, "--metrics-port", "0"]
            self.relays = [self.start_relay(number) for number in range(relays)]
        self.relay = self.relays[0]
        self._make_basics()

    def start_relay(self, number: int) -> Process:
        """Start a relay; only on PostgreSQL there can be more than one."""
        return self.stage.start(f"relay-{number}", self._relay, hello=True)

    def _make_basics(self) -> None:
        post = self.hub.post
        self.organization = str(post("/v1/organizations/", name="Utility")["id"])
        series = [
            post("/v1/metering/meter-reading-series", organization=self.organization, name=name, unit="m3")["id"]
            for name in SERIES
        ]
        config = post(
            "/v1/metering/meter-device-configs",
            organization=self.organization,
            name="EK280",
            series=series,
            timezone="Europe/Berlin",
        )
        kind = post(
            "/v1/metering/meter-device-types",
            organization=self.organization,
            name="EK280",
            manufacturer="Elster",
            manufacturer_model="EK280",
            config=config["id"],
        )
        self._kind = str(kind["id"])

    def add_gateway(self, name: str, meters: int, endpoint: str = "socket://127.0.0.1:1") -> LoadedGateway:
        """Create a gateway with a line and meters; their addresses on the line are 1, 2, and so on."""
        post = self.hub.post
        gateway = post("/v1/gateways/", organization=self.organization, gateway_id=name, name=name)
        line = post(
            "/v1/metering/network-interfaces",
            organization=self.organization,
            gateway=gateway["id"],
            name=f"line of {name}",
            serial_port=endpoint,
        )
        ids = [
            post(
                "/v1/metering/meter-devices",
                organization=self.organization,
                name=f"{name} {number}",
                protocol="lis-200",
                iec62056_21_address=str(number),
                type=self._kind,
                network_interface=line["id"],
            )["id"]
            for number in range(1, meters + 1)
        ]
        return LoadedGateway(name, str(gateway["id"]), tuple(map(str, ids)))

    def count(self) -> int:
        """Return how many readings the hub has."""
        return self.hub.count("/v1/metering/meter-readings")

    def start_child(self, module: str, *arguments: str) -> Process:
        """Start a module of this folder as a process, and wait for its first line."""
        return self.stage.start(
            module, [pathlib.Path(sys.executable).name, "-m", f"benchmarks.{module}", *arguments], hello=True
        )


def memory(process: Process) -> float:
    """Return the memory of a process that is resident now, in MiB."""
    status = pathlib.Path(f"/proc/{process.popen.pid}/statm").read_text(encoding="ascii")
    return int(status.split()[1]) * 4096 / _MIB


def processor(pid: int, *, ended: bool = False) -> float:
    """Return the seconds of processor time of a process (proc(5), stat); ``ended``: and of its children that ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    ticks = list(map(int, text.rpartition(")")[2].split()[11:15]))
    return sum(ticks if ended else ticks[:2]) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Calls something again and again in a thread of its own for the length of a block, and keeps what it returned."""

    def __init__(self, look: Callable[[], float | None], pause: float) -> None:
        self.figures: list[float] = []
        self.failures: list[str] = []
        self._look = look
        self._pause = pause
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End after the call that is under way."""
        self._ended.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        while not self._ended.wait(self._pause):
            try:
                figure = self._look()
            except (RestError, OSError, urllib.error.URLError, ValueError) as error:
                self.failures.append(str(error))
                continue
            if figure is not None:
                self.figures.append(figure)

    def quantile(self, share: float) -> float:
        """Return the figure below which this share of all lies; 0 without any."""
        return quantile(self.figures, share)

    @property
    def median(self) -> float:
        """The figure in the middle; 0 without any."""
        return statistics.median(self.figures) if self.figures else 0.0


def quantile(figures: Sequence[float], share: float) -> float:
    """Return the figure below which this share of all lies; 0 without any."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def timed(call: Callable[[], Any]) -> float:
    """Return how many seconds a call takes."""
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


@contextlib.contextmanager
def loaded_hub(database: str, relays: int = 1, settings: Mapping[str, str] | None = None) -> Iterator[LoadedHub]:
    """Open a hub on ``postgresql`` or ``sqlite`` with an empty database; everything is ended afterwards.

    Only on PostgreSQL there can be more than one relay, and ``settings`` of the server.
    """
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metergate-load-")))
        url, server = f"sqlite:///{folder}/hub.db", None
        if database == POSTGRESQL:
            server = stack.enter_context(postgres(folder / "postgres", settings=settings))
            url = server.url()
        broker = stack.enter_context(mosquitto())
        stage = stack.enter_context(Stage(folder, {"METERGATE_ENVIRONMENT": "benchmark"}))
        yield LoadedHub(stage, broker, url, relays, server)
