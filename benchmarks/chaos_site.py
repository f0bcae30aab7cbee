"""The site of the chaos bench: three gateways with two meters each, two relays, REST, PostgreSQL and Mosquitto.

Every process stands behind gates of its own, so that any two can be parted; one line is a serial server on TCP.
``tend`` does what a service supervisor does: what should run and has ended by itself is started again, and noted.
Nothing here imports ``agent`` or ``hub``.
"""

import contextlib
import dataclasses
import datetime as dt
import http.client
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.chaos_judge import newest_tick
from benchmarks.gates import Gate, gate
from benchmarks.mosquitto import Mosquitto, free_port, mosquitto
from benchmarks.postgres import Postgres, postgres
from deploy.demo.hub_client import HubClient, RestError
from deploy.demo.processes import Process, Stage
from deploy.demo.story import ShownClock

START = dt.datetime(2026, 3, 2, 5, 50, tzinfo=dt.UTC)
RATE = 150.0
"""A quarter of an hour passes in six seconds."""

QUARTER = dt.timedelta(minutes=15)
SPAN = 14_400
ZONE = "Europe/Berlin"
SERIES = {
    "2:300": "m3",
    "2:302": "m3",
    "4:300": "m3",
    "4:302": "m3",
    "7:310/3": "bar",
    "6:310_1/3": "°C",
    "8:310/3": "1",
    "5:310/3": "1",
    "7:310": "bar",
    "6:310_1": "°C",
}
GATEWAYS = {"north": ("4011220", "4011221"), "south": ("4011330", "4011331"), "west": ("4011440", "4011441")}
"""Serial numbers of the meters on the line of each gateway; their addresses there are 1 and 2."""

ON_TCP = "west"
"""The gateway whose line is a serial server on TCP; the others have a serial port of their own."""

MOMENTARY, EXTRA, ON_DEMAND = "7:310", "6:310_1", "4:302"
"""What the task that always runs, the task that edits take out and put back, and commands read."""

RESTART_SECONDS = 1.0
DISK_MEGABYTES = {"agent": 24, "hub": 400}
UNREACHABLE = (OSError, RestError, ValueError, http.client.HTTPException)
"""What a request to the hub may raise while faults are at work (a half answer is a ValueError)."""


@dataclasses.dataclass(eq=False)
class Unit:
    """One process that should be there: how it is started, and whether it is wanted right now."""

    name: str
    command: list[str]
    process: Process | None = None
    wanted: bool = True
    stopped: bool = False
    ended_at: float | None = None

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.popen.poll() is None

    def kill(self) -> bool:
        """SIGKILL it and do not want it until ``wanted`` is set again; return whether it was alive."""
        was_alive = self.alive
        self.wanted = False
        if self.process is not None:
            self.process.popen.kill()
            self.process.popen.wait()
        return was_alive

    def end(self) -> None:
        """SIGTERM it, wait, and do not want it until ``wanted`` is set again."""
        self.wanted = False
        if self.process is not None:
            self.process.end()

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; return whether it was alive."""
        if self.process is None or not self.alive:
            return False
        self.process.popen.send_signal(number)
        return True


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that ended without having been told to."""

    name: str
    status: int
    during: tuple[str, ...]


class ChaosSite:
    """Everything that runs, with the ids of what the hub was told."""

    def __init__(self, stage: Stage, clock: ShownClock, broker: Mosquitto, database: Postgres) -> None:
        self.stage = stage
        self.clock = clock
        self.broker = broker
        self.database = database
        self.folder = stage.folder
        self.port = free_port()
        self.line_port = free_port()
        self.units: dict[str, Unit] = {}
        self.gates: dict[str, Gate] = {}
        self.disks: dict[str, pathlib.Path] = {}
        """Small file systems of their own, where they could be mounted."""
        self.organization = ""
        self.gateways: dict[str, str] = {}
        self.devices: dict[str, str] = {}
        """Serial number to id."""
        self.series: dict[str, str] = {}
        self.tasks: dict[str, str] = {}
        self.group = ""
        self.config = ""
        self.ended: list[Ended] = []
        self.hub: HubClient

    # --- setting up ----------------------------------------------------------------------------------------------

    def open(self, gates: contextlib.ExitStack) -> None:
        """Start everything and tell the hub about it."""
        for name in ("relay-1", "relay-2", *(f"agent-{gateway}" for gateway in GATEWAYS)):
            self.gates[f"{name} to broker"] = gates.enter_context(gate(self.broker.port))
        for name in ("relay-1", "relay-2", "rest"):
            self.gates[f"{name} to database"] = gates.enter_context(gate(self.database.port))
        self.gates["people to rest"] = gates.enter_context(gate(self.port))
        self.gates[f"agent-{ON_TCP} to line"] = gates.enter_context(gate(self.line_port))
        self.stage.run(["metergate-hub", "migrate", "--database", self.database.url()])
        token = self.stage.run(["metergate-hub", "token", "create", "chaos", "--database", self.database.url()])
        self.hub = HubClient(f"http://127.0.0.1:{self.gates['people to rest'].port}", token.strip().splitlines()[-1])
        serve = ["metergate-hub", "serve", "--port", str(self.port), "--data", str(self.folder)]
        self._add("rest", [*serve, "--database", self.database.url(self.gates["rest to database"].port)])
        for relay in ("relay-1", "relay-2"):
            broker, base = self.gates[f"{relay} to broker"], self.gates[f"{relay} to database"]
            command = ["metergate-hub", "relay", "--broker", broker.url, "--data", str(self.folder)]
            self._add(relay, [*command, "--database", self.database.url(base.port)])
        for gateway, serials in GATEWAYS.items():
            self._add(f"line-{gateway}", self._simulator(gateway, serials))
        for name in self.units:
            self.start(name)
        until = time.monotonic() + 180
        while not self._reachable():
            if time.monotonic() > until:
                raise RuntimeError(f"the hub did not answer within 180 s; its logs are in {self.folder}")
            time.sleep(0.2)
        self._tell_the_hub()
        for gateway in GATEWAYS:
            folder = self.agent_folder(gateway)
            folder.mkdir(exist_ok=True)
            settings = self.folder / f"agent-{gateway}.toml"
            url = self.gates[f"agent-{gateway} to broker"].url
            settings.write_text(
                f'gateway = "{gateway}"\nbroker = "{url}"\ndata = "{folder}"\n'
                "[timing]\nresend_max = 10.0\nreconnect_max = 5.0\n",
                encoding="utf-8",
            )
            self._add(f"agent-{gateway}", ["metergate-agent", "run", "--config", str(settings)])
            self.start(f"agent-{gateway}")

    def _add(self, name: str, command: list[str]) -> None:
        self.units[name] = Unit(name, command)

    def _simulator(self, gateway: str, serials: tuple[str, ...]) -> list[str]:
        meters = [part for i, serial in enumerate(serials, start=1) for part in ("--meter", f"{i}:{serial}:EK280")]
        listen = (
            (f"tcp:127.0.0.1:{self.line_port}",) if gateway == ON_TCP else ("pty", "--link", str(self.link(gateway)))
        )
        return [
            *("metergate-agent", "simulate", "--listen", *listen, *meters),
            *("--seed", "5", "--interval", "15", "--history", "2", "--timezone", ZONE),
            *("--truth", str(self.truth(gateway))),
        ]

    def agent_folder(self, gateway: str) -> pathlib.Path:
        """Return where an agent keeps its store."""
        return self.disks.get(gateway, self.folder / f"agent-{gateway}")

    def link(self, gateway: str) -> pathlib.Path:
        """Return the path of a gateway's serial port, which stays when the port goes and comes back."""
        return self.folder / f"port-{gateway}"

    def truth(self, gateway: str) -> pathlib.Path:
        """Return where the simulator of a gateway's line writes the truth."""
        return self.folder / f"truth-{gateway}.jsonl"

    def _reachable(self) -> bool:
        try:
            self.hub.get("/v1/organizations/")
        except UNREACHABLE:
            return False
        return True

    def _tell_the_hub(self) -> None:
        post = self.hub.post
        owner = self.organization = str(post("/v1/organizations/", name="Utility")["id"])
        for name, unit in SERIES.items():
            row = post("/v1/metering/meter-reading-series", organization=owner, name=name, unit=unit)
            self.series[name] = str(row["id"])
        allowed = list(self.series.values())
        config = post(
            "/v1/metering/meter-device-configs", organization=owner, name="EK280", series=allowed, timezone=ZONE
        )
        self.config = str(config["id"])
        kind = post(
            "/v1/metering/meter-device-types",
            organization=owner,
            name="EK280",
            manufacturer="Elster",
            manufacturer_model="EK280",
            config=self.config,
        )
        span = {"offset_seconds": SPAN, "archive_number": 3, "control_position": 3}
        self._create_task("archive", "read_archive_by_offset_seconds", **span)
        self._create_task("momentary", "read_single_value", address=MOMENTARY)
        self._create_task("extra", "read_single_value", address=EXTRA)
        group = post("/v1/metering/amr-task-groups/", organization=owner, name="Group", tasks=[self.tasks["momentary"]])
        self.group = str(group["id"])
        for gateway, serials in GATEWAYS.items():
            row = post("/v1/gateways/", organization=owner, gateway_id=gateway, name=gateway)
            self.gateways[gateway] = str(row["id"])
            line = post(
                "/v1/metering/network-interfaces",
                organization=owner,
                gateway=row["id"],
                name=f"line {gateway}",
                **self._place(gateway),
            )
            for address, serial in enumerate(serials, start=1):
                device = post(
                    "/v1/metering/meter-devices",
                    organization=owner,
                    name=f"Meter {serial}",
                    protocol="lis-200",
                    iec62056_21_address=str(address),
                    manufacturer_serial=serial,
                    type=kind["id"],
                    network_interface=line["id"],
                    task_groups=[self.group],
                    meter_tasks=[self.tasks["archive"]],
                )
                self.devices[serial] = str(device["id"])

    def _place(self, gateway: str) -> dict[str, object]:
        """Say where the agent finds a line."""
        if gateway == ON_TCP:
            return {"static_ip_address": "127.0.0.1", "port": self.gates[f"agent-{ON_TCP} to line"].port}
        return {"serial_port": str(self.link(gateway))}

    def _create_task(self, name: str, call: str, **kwargs: object) -> None:
        task = self.hub.post(
            "/v1/metering/amr-tasks/",
            organization=self.organization,
            name=name,
            schedule="quarterly",
            run_offset_seconds=10,
            meter_execution_type="generic_lis200",
            task_call=call,
            task_kwargs=kwargs,
        )
        self.tasks[name] = str(task["id"])

    # --- processes -----------------------------------------------------------------------------------------------

    def start(self, name: str, clock: str = "") -> None:
        """Start a unit, with another clock (the text of ``METERGATE_CLOCK``) if one is given."""
        unit = self.units[name]
        unit.wanted = True
        unit.ended_at = None
        shared = self.stage.environment["METERGATE_CLOCK"]
        self.stage.environment["METERGATE_CLOCK"] = clock or shared
        try:
            unit.process = self.stage.start(name, unit.command, hello=False)
        finally:
            self.stage.environment["METERGATE_CLOCK"] = shared

    def tend(self, faults: tuple[str, ...] = ()) -> None:
        """Start again what ended by itself a second ago, as a service supervisor does."""
        now = time.monotonic()
        for unit in self.units.values():
            if not unit.wanted or unit.alive or unit.process is None:
                continue
            if unit.ended_at is None:
                unit.ended_at = now
                self.ended.append(Ended(unit.name, unit.process.popen.returncode, faults))
            elif now - unit.ended_at > RESTART_SECONDS:
                self.start(unit.name)

    def wait(self, seconds: float, faults: tuple[str, ...] = ()) -> None:
        """Let real time pass, tending the processes."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.tend(faults)
            time.sleep(min(0.2, left))

    # --- looking -------------------------------------------------------------------------------------------------

    def states(self) -> list[dict[str, Any]]:
        """Return what the hub says of the gateways."""
        return list(self.hub.all("/v1/gateways/"))

    def settled(self) -> bool:
        """Whether every gateway is online, runs its newest plan, and has nothing left to send."""
        try:
            return all(
                state["online"] and state["applied_revision"] == state["desired_revision"] and not state["depth"]
                for state in self.states()
            )
        except UNREACHABLE:
            return False

    def waiting(self) -> int:
        """Return how many readings wait in the agents' stores for a receipt."""
        count = 0
        for gateway in GATEWAYS:
            # A store that cannot be opened right now has readings all the same: none are counted.
            with contextlib.suppress(sqlite3.Error):
                base = sqlite3.connect(f"file:{self.agent_folder(gateway) / 'agent.db'}?mode=ro", uri=True, timeout=1)
                with contextlib.closing(base):
                    row = base.execute("SELECT count(*) FROM readings WHERE receipted_at IS NULL").fetchone()
                    count += int(row[0])
        return count

    def newest_archive_tick(self, received_since: dt.datetime) -> dt.datetime | None:
        """Return the newest tick whose archive read was done on every meter; see ``newest_tick``."""
        since = (received_since - dt.timedelta(hours=3)).isoformat()
        try:
            runs = list(self.hub.all("/v1/runs/", task=self.tasks["archive"], outcome="done", start_time=since))
        except UNREACHABLE:
            return None
        return newest_tick(runs, self.devices.values(), received_since)


@contextlib.contextmanager
def small_disk(folder: pathlib.Path, megabytes: int) -> Iterator[bool]:
    """Make ``folder`` a file system of that size for the block; false where that is not permitted (it takes root)."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(folder)]
    mounted = os.getuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


@contextlib.contextmanager
def chaos_site(keep: pathlib.Path | None = None, rate: float = RATE) -> Iterator[ChaosSite]:
    """Open a site; everything is ended afterwards. With ``keep``, logs and truth stay there."""
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="metergate-chaos-"))
        folder = keep or pathlib.Path(temporary)
        if keep is not None:
            # The truth of an earlier run would be taken for this one's.
            shutil.rmtree(keep, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        disks = {}
        for name in ("hub", *GATEWAYS):
            disk = pathlib.Path(temporary) / f"disk-{name}"
            if stack.enter_context(small_disk(disk, DISK_MEGABYTES["hub" if name == "hub" else "agent"])):
                disks[name] = disk
        database = stack.enter_context(postgres(pathlib.Path(temporary) / "disk-hub"))
        broker = stack.enter_context(mosquitto())
        clock = ShownClock(START, rate)
        environment = {**clock.environment(), "METERGATE_ENVIRONMENT": "benchmark"}
        gates = stack.enter_context(contextlib.ExitStack())
        stage = stack.enter_context(Stage(folder, environment))
        opened = ChaosSite(stage, clock, broker, database)
        opened.disks = disks
        try:
            opened.open(gates)
            yield opened
        finally:
            for unit in opened.units.values():
                # A process that is stopped cannot end.
                unit.signal(signal.SIGCONT)
