"""The site of the bench ``ondemand``: a hub, a broker, one gateway, and a throttled line with two meters, as processes.

On PostgreSQL the hub is ``serve`` and ``relay`` with a Mosquitto beside them; on SQLite it is ``run`` with its own
broker. The clock runs as fast as the real one, and begins a while before a quarter of an hour: then the archive of the
second meter is read, which takes minutes. Nothing here imports ``agent`` or ``hub``.
"""

import contextlib
import dataclasses
import datetime as dt
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from benchmarks.mosquitto import free_port, mosquitto
from benchmarks.postgres import postgres
from deploy.demo.processes import Stage, StartError
from deploy.demo.story import ShownClock

RATE = 9600
TICK = dt.datetime(2026, 3, 2, 6, 0, tzinfo=dt.UTC)
"""When the archive readout is due."""
PATIENCE = 120.0
GATEWAY = "bench"
ASKED, READ_OUT = "1", "2"
"""Addresses of the meter that is asked, and of the one whose archive is read meanwhile."""
SERIALS = {ASKED: "11000001", READ_OUT: "11000002"}
HISTORY_DAYS = 60
ZONE = "UTC"


@dataclasses.dataclass(frozen=True)
class Command:
    """One command through REST: seconds of ``time.time()`` at which it was asked for and answered, and the answer."""

    asked: float
    answered: float
    row: dict[str, Any]


class OnDemandSite:
    """A running site."""

    def __init__(self, stage: Stage, clock: ShownClock, client: httpx.Client, wire: pathlib.Path) -> None:
        self.clock = clock
        self.wire = wire
        self.meters: dict[str, str] = {}
        self._stage = stage
        self._client = client
        self._gateway = ""

    def open(self, endpoint: str, broker: str) -> None:
        """Tell the hub what there is, start the agent, and wait until it runs its plan."""
        wait_for("the hub answers", self._answers)
        self._tell_the_hub(endpoint)
        folder = self._stage.folder / "agent"
        folder.mkdir()
        settings = folder / "agent.toml"
        settings.write_text(f'gateway = "{GATEWAY}"\nbroker = "{broker}"\ndata = "{folder}"\n', encoding="utf-8")
        self._stage.start("agent", ["metergate-agent", "run", "--config", str(settings)], hello=False)
        wait_for("the gateway runs its plan", self.settled)

    def ask(self) -> Command:
        """Have a value read, and wait for it: two requests on one connection, as an operator's program makes them."""
        body = {
            "meter_device": self.meters[ASKED],
            "meter_execution_type": "generic_lis200",
            "task_call": "read_single_value",
            "task_kwargs": {"address": "2:300"},
        }
        asked = time.time()
        made = self._call("POST", "/v1/metering/amr-tasks/invoke", json=body)
        row = self._call("GET", f"{made['command_url']}?wait=30")
        answered = time.time()
        if row["state"] != "done":
            raise StartError(f"the command ended as {row['state']}: {row['cause']}")
        return Command(asked, answered, row)

    def settled(self) -> bool:
        """Whether the gateway runs its newest plan and has nothing left to send."""
        state = self._call("GET", f"/v1/gateways/{self._gateway}")
        return bool(state["online"] and state["applied_revision"] == state["desired_revision"] and not state["depth"])

    def real(self, shown: str) -> float:
        """Return when (``time.time()``) a moment of the site's clock was."""
        at = dt.datetime.fromisoformat(shown)
        return self.clock.anchor + (at - self.clock.start).total_seconds()

    def _answers(self) -> bool:
        try:
            self._call("GET", "/v1/organizations")
        except httpx.TransportError:
            return False
        return True

    def _call(self, method: str, path: str, **more: Any) -> Any:  # noqa: ANN401 - JSON
        answer = self._client.request(method, path, **more)
        if answer.is_error:
            raise StartError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def _post(self, path: str, **body: object) -> str:
        return str(self._call("POST", path, json=body)["id"])

    def _tell_the_hub(self, endpoint: str) -> None:
        owner = self._post("/v1/organizations", name="Utility")
        series = [
            self._post("/v1/metering/meter-reading-series", organization=owner, name=name, unit="m3")
            for name in ("2:300", "2:300/3")
        ]
        config = self._post(
            "/v1/metering/meter-device-configs", organization=owner, name="EK280", series=series, timezone=ZONE
        )
        kind = self._post(
            "/v1/metering/meter-device-types",
            organization=owner,
            name="EK280",
            manufacturer="Elster",
            manufacturer_model="EK280",
            config=config,
        )
        task = self._post(
            "/v1/metering/amr-tasks",
            organization=owner,
            name="archive",
            schedule="quarterly",
            run_offset_seconds=0,
            meter_execution_type="generic_lis200",
            task_call="read_archive_by_offset_seconds",
            task_kwargs={"offset_seconds": HISTORY_DAYS * 86_400, "archive_number": 3, "control_position": 3},
        )
        self._gateway = self._post("/v1/gateways", organization=owner, gateway_id=GATEWAY, name=GATEWAY)
        line = self._post(
            "/v1/metering/network-interfaces",
            organization=owner,
            gateway=self._gateway,
            name="line",
            serial_port=endpoint,
            rate=RATE,
            fixed_rate=True,
        )
        for address, serial in SERIALS.items():
            self.meters[address] = self._post(
                "/v1/metering/meter-devices",
                organization=owner,
                name=f"Meter {serial}",
                protocol="lis-200",
                iec62056_21_address=address,
                manufacturer_serial=serial,
                type=kind,
                network_interface=line,
                meter_tasks=[task] if address == READ_OUT else [],
            )


def wait_for(what: str, true: Callable[[], bool]) -> None:
    """Wait until something holds.

    Raises:
        StartError: when it does not within ``PATIENCE``.
    """
    until = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > until:
            raise StartError(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.1)


@contextlib.contextmanager
def site(folder: pathlib.Path, database: str, lead_seconds: float) -> Iterator[OnDemandSite]:
    """Run a site; ``lead_seconds`` after its begin the archive readout is due."""
    folder.mkdir(parents=True, exist_ok=True)
    clock = ShownClock(TICK - dt.timedelta(seconds=lead_seconds), 1.0)
    with contextlib.ExitStack() as stack:
        stage = Stage(folder, {**clock.environment(), "METERGATE_ENVIRONMENT": "benchmark"})
        wire = folder / "wire.jsonl"
        # Before the hub: it ends after it, as everything that is entered first.
        if database == "postgresql":
            server = stack.enter_context(postgres(folder / "postgres", shared_buffers="64MB"))
            broker = stack.enter_context(mosquitto()).url
        stack.enter_context(stage)
        port = free_port()
        data = ["--data", str(folder / "data")]
        if database == "postgresql":
            place = ["--database", server.url()]
            stage.run(["metergate-hub", "migrate", *place])
            token = stage.run(["metergate-hub", "token", "create", "bench", *place])
            stage.start("relay", ["metergate-hub", "relay", "--broker", broker, *data, *place], hello=True)
            stage.start("serve", ["metergate-hub", "serve", "--port", str(port), *data, *place], hello=True)
        else:
            stage.run(["metergate-hub", "migrate", *data])
            token = stage.run(["metergate-hub", "token", "create", "bench", *data])
            run = ["metergate-hub", "run", "--port", str(port), "--mqtt-port", "0", *data]
            broker = str(stage.start("hub", run, hello=True).hello["mqtt"])
        meters = [part for address, serial in SERIALS.items() for part in ("--meter", f"{address}:{serial}:EK280")]
        simulate = ["metergate-agent", "simulate", "--listen", "pty", *meters, "--throttle", "--fixed-rate"]
        simulate += ["--rate", str(RATE), "--offer", str(RATE), "--interval", "15", "--history", str(HISTORY_DAYS)]
        line = stage.start("line", [*simulate, "--timezone", ZONE, "--log", str(wire)], hello=True)
        headers = {"Authorization": f"Token {token.split()[-1]}"}
        client = stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, follow_redirects=True)
        )
        opened = OnDemandSite(stage, clock, client, wire)
        opened.open(str(line.hello["endpoint"]), broker)
        yield opened
