"""A whole site for system tests: real hub, relay, broker, database, agents and simulated meters, all as processes.

Every process runs on one settable clock, so that a quarter of an hour passes in a few seconds. What must have arrived
is computed by ``deploy.demo.expected``, which imports neither agent nor hub.
"""

import contextlib
import datetime as dt
import json
import os
import pathlib
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from deploy.demo.expected import ArchiveTask, Comparison, SingleTask, Truth, compare, read_truth
from deploy.demo.hub_client import HubClient
from deploy.demo.processes import Process, Stage
from deploy.demo.story import ShownClock
from tests.parts.databases import staff_token
from tests.parts.mosquitto import Mosquitto, free_port, mosquitto

START = dt.datetime(2026, 3, 2, 5, 50, tzinfo=dt.UTC)
RATE = 225.0
"""A quarter of an hour passes in four seconds."""
ZONE = "Europe/Berlin"
PATIENCE = 120.0
SPAN = 14_400
EK_SERIES = {
    "2:300": "m3",
    "2:302": "m3",
    "4:300": "m3",
    "4:302": "m3",
    "7:310/3": "bar",
    "6:310_1/3": "°C",
    "8:310/3": "1",
    "5:310/3": "1",
    "7:310": "bar",
}


class Site:
    """One hub with everything that belongs to it."""

    def __init__(self, stage: Stage, clock: ShownClock, broker: Mosquitto, database_url: str) -> None:
        self.stage = stage
        self.clock = clock
        self.broker = broker
        self.database_url = database_url
        self.folder = stage.folder
        self.port = free_port()
        self.hub_broker_url = broker.url
        self.agent_broker_url = broker.url
        self.hub_processes: list[Process] = []
        self.agents: dict[str, Process] = {}
        self.lines: dict[str, Process] = {}
        self.last_words: set[str] = set()
        self.devices: dict[str, str] = {}
        self.serials: dict[str, str] = {}
        self.gateways: dict[str, str] = {}
        self.interfaces: dict[str, str] = {}
        self.tasks: dict[str, str] = {}
        self.series: dict[str, str] = {}
        self.configs: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.since: dict[str, dt.datetime] = {}
        """When the polling of a meter began, where that was later than the test's own beginning."""
        self.organization = ""
        self.hub = HubClient(f"http://127.0.0.1:{self.port}", staff_token(database_url))

    # --- hub -----------------------------------------------------------------------------------------------------

    def start_hub(self) -> None:
        """Start the hub: one process on SQLite, a REST process and two relays on PostgreSQL."""
        # The fixture's SQLite file is hub.db in the test's folder: where `run` keeps it.
        broker = ["--broker", self.hub_broker_url, "--data", str(self.folder)]
        if self.database_url.startswith("sqlite"):
            command = ["metergate-hub", "run", "--port", str(self.port), *broker]
            self.hub_processes = [self.stage.start("hub", command, hello=True)]
            return
        database = ["--database", self.database_url]
        serve = ["metergate-hub", "serve", "--port", str(self.port), *broker, *database]
        self.hub_processes = [
            self.stage.start("hub-rest", serve, hello=True),
            *(
                self.stage.start(f"hub-relay-{i}", ["metergate-hub", "relay", *broker, *database], hello=True)
                for i in (1, 2)
            ),
        ]

    def signal_hub(self, number: signal.Signals) -> None:
        """Send every process of the hub a signal; after SIGKILL they are gone."""
        for process in self.hub_processes:
            process.popen.send_signal(number)
        if number == signal.SIGKILL:
            for process in self.hub_processes:
                process.popen.wait()

    # --- what the hub is told ------------------------------------------------------------------------------------

    def create_basics(self, *series: str) -> None:
        """Create the organization, the series, and one config and type that every meter shares."""
        self.create_organization()
        self.create_series(EK_SERIES)
        self.create_type("EK280", "Elster", series or EK_SERIES)

    def create_organization(self) -> None:
        """Create the organization that everything belongs to."""
        self.organization = str(self.hub.post("/v1/organizations/", name="Utility")["id"])

    def create_series(self, units: Mapping[str, str]) -> None:
        """Create series with their units."""
        for name, unit in units.items():
            row = self.hub.post(
                "/v1/metering/meter-reading-series", organization=self.organization, name=name, unit=unit
            )
            self.series[name] = str(row["id"])

    def create_type(
        self,
        name: str,
        manufacturer: str,
        series: Iterable[str],
        timezone: str = ZONE,
        *,
        model: str = "",
        **more: object,
    ) -> None:
        """Create a config with these series and what else it is told, and a type with it, of that model or name."""
        config = self.hub.post(
            "/v1/metering/meter-device-configs",
            organization=self.organization,
            name=name,
            series=[self.series[one] for one in series],
            timezone=timezone,
            **more,
        )
        self.configs[name] = str(config["id"])
        kind = self.hub.post(
            "/v1/metering/meter-device-types",
            organization=self.organization,
            name=name,
            manufacturer=manufacturer,
            manufacturer_model=model or name,
            config=config["id"],
        )
        self.types[name] = str(kind["id"])

    def create_gateway(self, gateway: str, endpoint: str) -> None:
        """Create a gateway with one line."""
        row = self.hub.post("/v1/gateways/", organization=self.organization, gateway_id=gateway, name=gateway)
        self.gateways[gateway] = str(row["id"])
        line = self.hub.post(
            "/v1/metering/network-interfaces",
            organization=self.organization,
            gateway=row["id"],
            name=f"line of {gateway}",
            serial_port=endpoint,
        )
        self.interfaces[gateway] = str(line["id"])

    def create_task(self, name: str, call: str, *, schedule: str = "quarterly", **kwargs: object) -> None:
        """Create a task."""
        task = self.hub.post(
            "/v1/metering/amr-tasks/",
            organization=self.organization,
            name=name,
            schedule=schedule,
            run_offset_seconds=10,
            meter_execution_type="generic_lis200",
            task_call=call,
            task_kwargs=kwargs,
        )
        self.tasks[name] = str(task["id"])

    def create_archive_task(self) -> None:
        """Create the task that most tests poll by: the interval archive of the last hours."""
        self.create_task(
            "archive", "read_archive_by_offset_seconds", offset_seconds=SPAN, archive_number=3, control_position=3
        )

    def create_meter(
        self, name: str, serial: str, gateway: str, *tasks: str, address: str = "", kind: str = "EK280"
    ) -> None:
        """Create a meter on a gateway's line, with tasks of its own."""
        device = self.hub.post(
            "/v1/metering/meter-devices",
            organization=self.organization,
            name=name,
            protocol="lis-200",
            iec62056_21_address=address or None,
            manufacturer_serial=serial,
            type=self.types[kind],
            network_interface=self.interfaces[gateway],
            meter_tasks=[self.tasks[task] for task in tasks],
        )
        self.devices[name] = str(device["id"])
        self.serials[serial] = name

    # --- gateways and lines ----------------------------------------------------------------------------------------

    def truth_path(self, line: str) -> pathlib.Path:
        """Return where the simulator of a line writes the truth."""
        return self.folder / f"truth-{line}.jsonl"

    def start_line(self, line: str, *meters: str, extra: tuple[str, ...] = ()) -> str:
        """Start simulated meters (``ADDRESS:SERIAL``) on a pseudo-terminal; return its endpoint."""
        specs = [part for meter in meters for part in ("--meter", f"{meter}:EK280")]
        command = [
            *("metergate-agent", "simulate", "--listen", "pty", *specs, "--seed", "5", "--interval", "15"),
            *("--history", "1", "--timezone", ZONE, "--truth", str(self.truth_path(line)), *extra),
        ]
        self.lines[line] = self.stage.start(f"line-{line}", command, hello=True)
        return str(self.lines[line].hello["endpoint"])

    def agent_folder(self, gateway: str) -> pathlib.Path:
        """Return where an agent keeps its settings, key and store."""
        return self.folder / f"agent-{gateway}"

    def start_agent(self, gateway: str, extra: str = "") -> None:
        """Start the agent of a gateway, with the settings of its first start if there are some."""
        folder = self.agent_folder(gateway)
        settings = folder / "agent.toml"
        if not settings.exists():
            folder.mkdir(exist_ok=True)
            settings.write_text(
                f'gateway = "{gateway}"\nbroker = "{self.agent_broker_url}"\ndata = "{folder}"\n{extra}',
                encoding="utf-8",
            )
        command = ["metergate-agent", "run", "--config", str(settings)]
        self.agents[gateway] = self.stage.start(f"agent-{gateway}", command, hello=False)

    def kill_agent(self, gateway: str) -> None:
        """SIGKILL; what a meter has said last by then, the agent may have died with, and will ask for once more."""
        self.agents[gateway].popen.kill()
        self.agents[gateway].popen.wait()
        for line in self.lines:
            said = [json.loads(text) for text in self.truth_path(line).read_text().splitlines()]
            self.last_words |= set([entry["value"] for entry in said if "single" in entry][-1:])

    def end_agent(self, gateway: str) -> None:
        """SIGTERM, and wait."""
        self.agents[gateway].end()

    # --- waiting and judging ----------------------------------------------------------------------------------------

    def wait_for(self, what: str, true: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Wait until something holds; fail with what was waited for and the ends of all logs."""
        begun = time.monotonic()
        while not true():
            waited = time.monotonic() - begun
            if waited > seconds:
                raise AssertionError(f"not within {seconds:.0f} s: {what}\n{self.logs()}")
            # What has not come at once takes seconds, and each look is a request or more to a hub that has work to do.
            time.sleep(0.1 if waited < 1 else 0.3)

    def logs(self) -> str:
        """Return the end of every process's log, for people."""
        parts = [f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in self.folder.glob("*.log")]
        return "\n".join(parts)

    def gateway(self, gateway: str) -> dict[str, Any]:
        """Return the hub's view of a gateway."""
        return dict(self.hub.get(f"/v1/gateways/{self.gateways[gateway]}"))

    def settled(self, *gateways: str) -> bool:
        """Whether these gateways (all if none is named) run their newest plan and have nothing left to send."""
        states = [self.gateway(name) for name in gateways or self.gateways]
        return all(
            state["online"] and state["applied_revision"] == state["desired_revision"] and not state["depth"]
            for state in states
        )

    def wait_settled(self, *gateways: str) -> None:
        """Wait until these gateways are settled."""
        self.wait_for(f"gateways {gateways or 'all'} settle", lambda: self.settled(*gateways))

    def count(self, path: str = "/v1/metering/meter-readings", **filters: object) -> int:
        """Return how many readings (or rows of another list) the hub has."""
        return self.hub.count(path, **filters)

    def wait_readings(self, more_than: int) -> int:
        """Wait until the hub has more readings than that; return how many."""
        self.wait_for(f"more than {more_than} readings", lambda: self.count() > more_than)
        return self.count()

    def stop_tasks(self) -> None:
        """Switch all tasks off and wait until everything has arrived."""
        for task in self.tasks.values():
            self.hub.patch(f"/v1/metering/amr-tasks/{task}", is_active=False)
        self.wait_settled()
        time.sleep(0.5)
        self.wait_settled()

    def judge(self, start: dt.datetime, end: dt.datetime, *singles: tuple[str, str], **filters: object) -> Comparison:
        """Compare the readings with the truth: archive rows of polls between the instants, and served single values.

        Filters leave out readings that the test judges by itself.
        """
        names = {id_: name for name, id_ in self.series.items()}
        meters = {id_: name for name, id_ in self.devices.items()}
        readings = [
            {**row, "meter": meters[row["meter_device"]], "series": names[row["series"]]}
            for row in self.hub.all("/v1/metering/meter-readings", **filters)
        ]
        truth = Truth(read_truth(self.folder.glob("truth-*.jsonl")), self.serials)
        tasks: list[ArchiveTask | SingleTask] = [
            ArchiveTask(name, 3, self.since.get(name, start) - dt.timedelta(seconds=SPAN), end) for name in self.devices
        ]
        return compare([*tasks, *(SingleTask(*single) for single in singles)], truth, readings)

    def finish(self, start: dt.datetime, *singles: tuple[str, str], staged: frozenset[str] = frozenset()) -> Comparison:
        """End the polling in the middle of a quarter of an hour and judge; nothing may be missing, double or wrong."""
        quarter = dt.timedelta(minutes=15)
        last = self.clock.now().replace(second=0, microsecond=0)
        last -= dt.timedelta(minutes=last.minute % 15)
        ran = last + quarter
        self.clock.wait_until(ran + quarter * 0.6, lambda: None)
        self.stop_tasks()
        figures = self.judge(start, ran, *singles)
        # A momentary value that a meter gave to an agent which died at that instant is told by the run's report.
        runs = self.hub.all("/v1/runs/")
        told = sum(run["count"] for run in runs if run["tick"] is not None and run["outcome"] != "done")
        asked_again = {
            value
            for text in figures.examples
            if text.startswith("missing single values")
            for value in re.findall(r"Decimal\('([^']*)'\): [1-9]", text)
        }
        figures.missing -= min(figures.missing_singles, told + len(asked_again & self.last_words))
        assert (figures.missing, figures.duplicates, figures.wrong) == (0, 0, 0), f"{figures}\n{self.logs()}"
        assert figures.expected > 0, self.logs()
        reasons = {row["reason"] for row in self.hub.all("/v1/metering/staged-meter-readings")}
        assert reasons <= staged, reasons
        return figures


@contextlib.contextmanager
def site(
    database_url: str, folder: pathlib.Path, *, rate: float = RATE, max_packet_size: int | None = None
) -> Iterator[Site]:
    """Open a site with a broker and a started hub; everything is ended afterwards."""
    clock = ShownClock(START, rate)
    environment = {**clock.environment(), "METERGATE_ENVIRONMENT": "test"}
    with mosquitto(max_packet_size=max_packet_size) as broker, Stage(folder, environment) as stage:
        opened = Site(stage, clock, broker, database_url)
        try:
            opened.start_hub()
            yield opened
        finally:
            for process in stage.processes:
                if process.popen.poll() is None:
                    # A process that a test has stopped cannot end.
                    os.kill(process.popen.pid, signal.SIGCONT)
