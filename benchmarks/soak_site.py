"""The site of the soak: one gateway with many throttled lines, one relay, REST, PostgreSQL and Mosquitto, as processes.

The clock runs as fast as the real one; it only begins a moment before a quarter of an hour, so that work is due at
once. What the hub is told is ten times (and more) what a normal gateway has, which is ten meters, each with two
momentary values every quarter of an hour, an hourly read of an archive of quarter-hourly rows, a daily read of the day
archive, and one command an hour for all. Nothing here imports ``agent`` or ``hub``.
"""

import contextlib
import datetime as dt
import json
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.chaos_site import RESTART_SECONDS, UNREACHABLE, Ended, Unit
from benchmarks.mosquitto import Mosquitto, free_port, mosquitto
from benchmarks.postgres import Postgres, postgres
from deploy.demo.expected import series_of
from deploy.demo.hub_client import HubClient
from deploy.demo.processes import Stage, StartError
from deploy.demo.story import ShownClock

FIRST = dt.datetime(2026, 3, 2, 6, 0, tzinfo=dt.UTC)
"""The first tick; the site must stand before it."""

LEAD_SECONDS = 12.0
LEAD_PER_LINE = 3.0
"""How long before the first tick the clock begins: what setting up takes."""

PATIENCE = 180.0
"""Seconds for a step of setting up; a machine with much else to do starts a Python process in half a minute."""

MORE_TIME = 5.0
GOES = 3
"""On a machine that was too busy for that it is tried again with so much more time."""

GATEWAY = "soak"
ZONE = "Europe/Berlin"
RATE = 9600
METERS_PER_LINE = 4
INTERVAL = 5
"""Minutes between two rows of an archive: three times what a normal meter has."""

SPAN = 7200
DAYS_SPAN = 172_800
INTERVAL_ARCHIVE, DAY_ARCHIVE = 3, 7
OFFSETS = 15
"""Each task is there as often, due at as many moments of its period, so that the load is even."""

SIMULATORS = 4
PERIOD = {"quarterly": 900, "hourly": 3600}
MOMENTARY, SECOND, ON_DEMAND = "7:310", "6:310_1", "4:302"
SILENT_ADDRESS = "9"
SILENT_SERIAL = "5999999"


def serial_of(line: int, address: int) -> str:
    """Return the serial number of the meter with that address on a line."""
    return str(5_000_000 + 100 * line + address)


class LateError(StartError):
    """The site did not stand before the first tick."""


class SoakSite:
    """Everything that runs, with the ids of what the hub was told."""

    def __init__(self, stage: Stage, clock: ShownClock, broker: Mosquitto, database: Postgres, lines: int) -> None:
        self.stage = stage
        self.clock = clock
        self.broker = broker
        self.database = database
        self.folder = stage.folder
        self.lines = lines
        self.port = free_port()
        self.units: dict[str, Unit] = {}
        self.ended: list[Ended] = []
        self.devices: dict[str, str] = {}
        """Serial number to id."""
        self.silent = ""
        """The id of the meter that never answers."""
        self.series: dict[str, str] = {}
        self.tasks: dict[str, list[str]] = {}
        """Kind of task to the ids of its variants."""
        self.hub: HubClient

    # --- setting up ----------------------------------------------------------------------------------------------

    def open(self, spread: int) -> None:
        """Start everything, with all that is due in a period within ``spread`` seconds after its tick."""
        database = ["--database", self.database.url()]
        self.stage.run(["metergate-hub", "migrate", *database])
        token = self.stage.run(["metergate-hub", "token", "create", "soak", *database])
        self.hub = HubClient(f"http://127.0.0.1:{self.port}", token.strip().splitlines()[-1])
        data = ["--data", str(self.folder)]
        self._start("rest", ["metergate-hub", "serve", "--port", str(self.port), *data, *database])
        self._start("relay", ["metergate-hub", "relay", "--broker", self.broker.url, *data, *database])
        endpoints = self._start_lines()
        self.wait_for("the hub answers", self._reachable)
        self._tell_the_hub(endpoints, spread)
        settings = self.agent_folder / "agent.toml"
        self.agent_folder.mkdir(exist_ok=True)
        settings.write_text(
            f'gateway = "{GATEWAY}"\nbroker = "{self.broker.url}"\ndata = "{self.agent_folder}"\n', encoding="utf-8"
        )
        self._start("agent", ["metergate-agent", "run", "--config", str(settings)])
        self.wait_for("the gateway runs its plan", self.settled)
        late = (self.clock.now() - FIRST).total_seconds()
        if late > 0:
            raise LateError(f"the site stood {late:.0f} s after the first tick: this machine is too slow or too busy")

    @property
    def agent_folder(self) -> pathlib.Path:
        """Where the agent keeps its settings, key and store."""
        return self.folder / "agent"

    def _start(self, name: str, command: list[str]) -> None:
        self.units[name] = Unit(name, command, self.stage.start(name, command, hello=False))

    def _start_lines(self) -> dict[int, str]:
        """Start the simulators, each with its part of the lines; return the endpoint of each line."""
        shares = [list(range(first, self.lines, SIMULATORS)) for first in range(min(SIMULATORS, self.lines))]
        for number, share in enumerate(shares):
            command = [sys.executable, "-m", "benchmarks._soak_lines", str(self.folder), str(METERS_PER_LINE)]
            self._start(f"lines-{number}", [*command, str(INTERVAL), *map(str, share)])
        endpoints: dict[int, str] = {}

        def announced() -> bool:
            for number in range(len(shares)):
                first, _, _ = (self.folder / f"lines-{number}.log").read_text(encoding="utf-8").partition("\n")
                if first.startswith("{"):
                    endpoints.update({int(line): path for line, path in json.loads(first)["lines"].items()})
            return len(endpoints) == self.lines

        self.wait_for("the simulated lines are there", announced)
        return endpoints

    def wait_for(self, what: str, true: Any, seconds: float = PATIENCE) -> None:  # noqa: ANN401 - a bound method or closure
        """Wait until something holds.

        Raises:
            StartError: when it does not within the time.
        """
        until = time.monotonic() + seconds
        while not true():
            if time.monotonic() > until:
                raise StartError(f"not within {seconds:.0f} s: {what}; the logs are in {self.folder}")
            time.sleep(0.1)

    def _reachable(self) -> bool:
        try:
            self.hub.get("/v1/organizations/")
        except UNREACHABLE:
            return False
        return True

    def _tell_the_hub(self, endpoints: dict[int, str], spread: int) -> None:
        post = self.hub.post
        owner = str(post("/v1/organizations/", name="Utility")["id"])
        for name, unit in self._series().items():
            row = post("/v1/metering/meter-reading-series", organization=owner, name=name, unit=unit)
            self.series[name] = str(row["id"])
        allowed = list(self.series.values())
        config = post(
            "/v1/metering/meter-device-configs", organization=owner, name="EK280", series=allowed, timezone=ZONE
        )
        kind = post(
            "/v1/metering/meter-device-types",
            organization=owner,
            name="EK280",
            manufacturer="Elster",
            manufacturer_model="EK280",
            config=config["id"],
        )
        groups = self._create_tasks(owner, spread)
        gateway = post("/v1/gateways/", organization=owner, gateway_id=GATEWAY, name=GATEWAY)
        number = 0
        for line, endpoint in sorted(endpoints.items()):
            interface = post(
                "/v1/metering/network-interfaces",
                organization=owner,
                gateway=gateway["id"],
                name=f"line {line}",
                serial_port=endpoint,
                rate=RATE,
                fixed_rate=True,
            )
            meters = {str(address): serial_of(line, address) for address in range(1, METERS_PER_LINE + 1)}
            if line == 0:
                meters[SILENT_ADDRESS] = SILENT_SERIAL
            for address, serial in meters.items():
                device = post(
                    "/v1/metering/meter-devices",
                    organization=owner,
                    name=f"Meter {serial}",
                    protocol="lis-200",
                    iec62056_21_address=address,
                    manufacturer_serial=serial,
                    type=kind["id"],
                    network_interface=interface["id"],
                    task_groups=[groups[number % OFFSETS]],
                )
                if serial == SILENT_SERIAL:
                    self.silent = str(device["id"])
                else:
                    self.devices[serial] = str(device["id"])
                number += 1

    def _series(self) -> dict[str, str]:
        """Name every series that the meters' archives have, and the momentary ones, with their units."""
        series = {MOMENTARY: "bar", SECOND: "°C"}
        for line in (self.folder / "truth-0.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            series |= {series_of(name, row["archive"]): row["units"][name] or "1" for name in row.get("values", ())}
        return series

    def _create_tasks(self, owner: str, spread: int) -> list[str]:
        """Create the tasks at all their offsets, and a group for each offset; return the groups."""
        interval = {"offset_seconds": SPAN, "archive_number": INTERVAL_ARCHIVE, "control_position": 3}
        days = {"offset_seconds": DAYS_SPAN, "archive_number": DAY_ARCHIVE, "control_position": 3}
        kinds: dict[str, tuple[str, str, float, dict[str, Any]]] = {
            "momentary": ("quarterly", "read_single_value", 0.0, {"address": MOMENTARY}),
            "extra": ("quarterly", "read_single_value", 0.33, {"address": SECOND}),
            "archive": ("quarterly", "read_archive_by_offset_seconds", 0.66, interval),
            "days": ("hourly", "read_archive_by_offset_seconds", 0.5, days),
        }
        groups = []
        for part in range(OFFSETS):
            ids = []
            for name, (schedule, call, shift, kwargs) in kinds.items():
                share = (part / OFFSETS + shift) % 1
                task = self.hub.post(
                    "/v1/metering/amr-tasks/",
                    organization=owner,
                    name=f"{name} {part}",
                    schedule=schedule,
                    run_offset_seconds=int(share * min(spread, PERIOD[schedule])),
                    meter_execution_type="generic_lis200",
                    task_call=call,
                    task_kwargs=kwargs,
                )
                self.tasks.setdefault(name, []).append(str(task["id"]))
                ids.append(str(task["id"]))
            row = self.hub.post("/v1/metering/amr-task-groups/", organization=owner, name=f"Group {part}", tasks=ids)
            groups.append(str(row["id"]))
        return groups

    # --- running -------------------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Start again what ended by itself a second ago, and note it."""
        now = time.monotonic()
        for unit in self.units.values():
            if unit.alive or unit.process is None:
                continue
            if unit.ended_at is None:
                unit.ended_at = now
                self.ended.append(Ended(unit.name, unit.process.popen.returncode, ()))
            elif now - unit.ended_at > RESTART_SECONDS:
                unit.process = self.stage.start(unit.name, unit.command, hello=False)
                unit.ended_at = None

    def pids(self) -> dict[str, list[int]]:
        """Return the process ids of everything that is alive now, by name."""
        found = {name: [unit.process.popen.pid] for name, unit in self.units.items() if unit.process and unit.alive}
        found["postgres"] = self.database.processes()
        found["broker"] = self.broker.processes()
        return found

    def state(self) -> dict[str, Any]:
        """Return what the hub says of the gateway."""
        return next(iter(self.hub.all("/v1/gateways/")))

    def settled(self) -> bool:
        """Whether the gateway is online, runs its newest plan, and has nothing left to send."""
        try:
            state = self.state()
        except UNREACHABLE:
            return False
        return bool(
            state["online"] and state["applied_revision"] == state["desired_revision"] > 0 and not state["depth"]
        )


@contextlib.contextmanager
def soak_site(lines: int, spread: int, keep: pathlib.Path | None = None) -> Iterator[SoakSite]:
    """Open a site; everything is ended afterwards. With ``keep``, logs, store and truth stay there.

    Raises:
        LateError: when it does not stand before the first tick, not even with much more time.
    """
    lead = LEAD_SECONDS + LEAD_PER_LINE * lines
    with contextlib.ExitStack() as stack:
        for _ in range(GOES - 1):
            try:
                opened = stack.enter_context(_site(lines, spread, lead, keep))
                break
            except LateError:
                lead *= MORE_TIME
        else:
            opened = stack.enter_context(_site(lines, spread, lead, keep))
        yield opened


@contextlib.contextmanager
def _site(lines: int, spread: int, lead: float, keep: pathlib.Path | None) -> Iterator[SoakSite]:
    with contextlib.ExitStack() as stack:
        temporary = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="metergate-soak-")))
        folder = keep or temporary
        if keep is not None:
            # What an earlier run has left would be taken for this one's.
            shutil.rmtree(keep, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        database = stack.enter_context(postgres(temporary / "postgres"))
        broker = stack.enter_context(mosquitto())
        clock = ShownClock(FIRST - dt.timedelta(seconds=lead), 1.0)
        environment = {**clock.environment(), "METERGATE_ENVIRONMENT": "benchmark"}
        opened = SoakSite(stack.enter_context(Stage(folder, environment)), clock, broker, database, lines)
        opened.open(spread)
        yield opened
