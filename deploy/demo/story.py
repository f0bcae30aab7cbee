"""The course of the demo, step by step, and the figures at its end."""

import contextlib
import dataclasses
import datetime as dt
import json
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from deploy.demo import fleet as fleets
from deploy.demo.expected import instant
from deploy.demo.gaps import DUE, OPEN, QUARTER, STORED, Watch
from deploy.demo.hub_client import HubClient
from deploy.demo.processes import Process, Stage, StartError, program
from deploy.demo.screen import BAD, BOLD, DIM, GOOD, Screen, counted, listed
from protocol.topics import Channel, topic_for

HOUR = dt.timedelta(hours=1)
TICKS_BEFORE_EDIT = 2
TICKS_PER_TASK = 8
GAP_SECONDS = 120.0
"""Real seconds that the gap may take to close: an hour of shown time is waited before what was pushed is asked for."""

RETURN_SECONDS = 60.0
"""Real seconds that gateways may take to find a broker that is back."""

LOOK_SECONDS = 0.5
LABELS = {"volume": "volume", "extra": "temperature", "battery": "battery"}
"""What the tasks are called on the screen; the others read archives."""


class ShownClock:
    """The clock that all processes of the demo share: ``rate`` seconds pass in every real one."""

    def __init__(self, start: dt.datetime, rate: float) -> None:
        self.start = start
        self.anchor = time.time()
        self.rate = rate

    def now(self) -> dt.datetime:
        """Return the instant that every process of the demo takes for now."""
        return self.start + dt.timedelta(seconds=(time.time() - self.anchor) * self.rate)

    def environment(self) -> dict[str, str]:
        """Return the variables that set the clock of a process."""
        return {
            "METERGATE_CLOCK": f"{self.start.isoformat()}@{self.anchor!r},{self.rate!r}",
            "METERGATE_ENVIRONMENT": "demo",
        }

    def wait_until(self, when: dt.datetime, meanwhile: Callable[[], None]) -> None:
        """Let time pass, looking at what happens about twice a second."""
        while self.now() < when:
            meanwhile()
            time.sleep(max(0.0, min(0.5, (when - self.now()).total_seconds() / self.rate)))


def last_tick(at: dt.datetime, period: dt.timedelta = QUARTER) -> dt.datetime:
    """Return the quarter of an hour (or the hour) at or before the instant."""
    minutes = int(period / dt.timedelta(minutes=1))
    return at.replace(minute=at.minute // minutes * minutes, second=0, microsecond=0)


@dataclasses.dataclass
class Runs:
    """What the hub knows of runs: by (task, device) the ticks that were done."""

    seen: set[str] = dataclasses.field(default_factory=set)
    done: dict[tuple[str, str], set[dt.datetime]] = dataclasses.field(default_factory=lambda: defaultdict(set))
    started: dict[dt.datetime, list[dt.datetime]] = dataclasses.field(default_factory=lambda: defaultdict(list))


class Story:
    """One showing of the demo."""

    def __init__(self, stage: Stage, clock: ShownClock, screen: Screen) -> None:
        self.stage = stage
        self.clock = clock
        self.screen = screen
        self.runs = Runs()
        self.lines: dict[str, Process] = {}
        self.modem: Process
        self.hub: HubClient
        self.fleet: fleets.Fleet
        self.mqtt = ""
        self.token = ""
        self.names: dict[str, str] = {}
        self.readings = 0
        self.away = (clock.start, clock.start)
        self.cleared = clock.start
        self.first_tick = clock.start
        self.edit_tick = clock.start
        self.watch: Watch
        self.fetched: set[str] = set()
        self._shown: tuple[str, ...] = ()
        self._looked = 0.0

    # --- setting up -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the hub, the meters and the gateways, and tell the hub about them."""
        folder = self.stage.folder
        hub = self.stage.start(
            "hub",
            ["metergate-hub", "run", "--data", str(folder / "hub"), "--port", "0", "--mqtt-port", "0"],
            hello=True,
        )
        token = self.stage.run(["metergate-hub", "token", "create", "demo", "--data", str(folder / "hub")])
        self.token = token.strip().splitlines()[-1]
        self.hub = HubClient(hub.hello["rest"], self.token)
        self.mqtt = hub.hello["mqtt"]
        self.screen.say(f"hub       REST {hub.hello['rest']}, MQTT {self.mqtt}")
        self.lines = {gateway: self.start_line(gateway) for gateway in fleets.GATEWAYS}
        endpoints = {gateway: line.hello["endpoint"] for gateway, line in self.lines.items()}
        self.fleet = fleets.create_fleet(self.hub, endpoints)
        self.names = {id_: name for name, id_ in self.fleet.devices.items()}
        self.names |= {id_: LABELS.get(name, "archive") for name, id_ in self.fleet.tasks.items()}
        self.screen.say("hub       knows organization, series, meters, tasks and a task group, all told through REST")
        self.register_caller()
        for gateway in fleets.GATEWAYS:
            self.start_agent(gateway)
        self.screen.say(
            f"gateways  {listed(fleets.GATEWAYS)} start with nothing but their name and the broker's address"
        )
        self.start_modem()

    def start_line(self, gateway: str) -> Process:
        """Start the simulated meters of one gateway's line on a pseudo-terminal."""
        places = [place for place in fleets.METERS if place.gateway == gateway]
        meters = [part for place in places for part in ("--meter", f"{place.address}:{place.serial}:{place.model}")]
        process = self.stage.start(
            f"line-{gateway}",
            [
                *("metergate-agent", "simulate", "--listen", "pty", *meters, "--seed", "7", "--interval", "15"),
                *("--history", "2", "--timezone", fleets.ZONE, "--truth", str(self.truth(gateway))),
            ],
            hello=True,
        )
        what = listed([f"{place.name} ({place.model}, no. {place.serial})" for place in places])
        self.screen.say(f"line      {gateway} at {process.hello['endpoint']}: {what}")
        return process

    def truth(self, gateway: str) -> pathlib.Path:
        """Return where the simulator of a gateway's line writes the truth."""
        return self.stage.folder / f"truth-{gateway}.jsonl"

    def register_caller(self) -> None:
        """Make a key for direct invocation over MQTT and let the hub grant it one call on one gateway."""
        key = self.stage.folder / "caller.key"
        public = self.stage.run(["metergate-agent", "invoke", "--new-key", str(key)]).split()[-1]
        self.hub.post(
            "/v1/callers/",
            organization=self.fleet.organization,
            gateway=self.fleet.gateways["north"],
            name="field-laptop",
            public_key=public,
            allowed=["generic_lis200.read_single_value"],
        )

    def start_agent(self, gateway: str) -> None:
        """Write the settings of one gateway and start its agent."""
        folder = self.stage.folder / f"agent-{gateway}"
        folder.mkdir()
        settings = folder / "agent.toml"
        settings.write_text(f'gateway = "{gateway}"\nbroker = "{self.mqtt}"\ndata = "{folder}"\n', encoding="utf-8")
        self.stage.start(f"agent-{gateway}", ["metergate-agent", "run", "--config", str(settings)], hello=False)

    def start_modem(self) -> None:
        """Start what pushes for one meter: a device of somebody else's, which knows a topic and some JSON."""
        place = fleets.PUSHING
        host, _, port = self.mqtt.removeprefix("mqtt://").rpartition(":")
        topic = topic_for(place.gateway, Channel.PUSH, fleets.PUSH_DOOR)
        self.modem = self.stage.start(
            "modem",
            [
                *("python", "-m", "deploy.demo.modem", str(self.truth(place.gateway)), host, port, topic),
                *(place.name, place.serial, str(place.archive)),
            ],
            hello=True,
        )
        self.screen.say(f"modem     pushes what {place.name} counts, each quarter of an hour, and keeps nothing itself")

    def begin(self) -> None:
        """Settle from which quarter of an hour on everything is expected, and tell the hub of the meter that pushes."""
        # A second at least for the hub to have worked that out.
        self.first_tick = last_tick(self.clock.now() + dt.timedelta(seconds=self.clock.rate)) + QUARTER
        device = self.fleet.devices[fleets.PUSHING.name]
        self.hub.patch(f"/v1/metering/meter-devices/{device}", commissioned=self.first_tick.isoformat())
        self.watch = Watch(self.hub, device, self.fleet.pushed_series, self.first_tick)
        self.screen.say(
            f"gateways  {listed(fleets.GATEWAYS)} have their plan, and poll on their own from here on", style=BOLD
        )
        self.screen.say(
            f"hub       expects a value of {fleets.PUSHING.name} for every quarter of an hour from "
            f"{self.first_tick:%H:%M} on"
        )

    # --- watching ---------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Show what has happened since the last look: one line for all that ran on a meter for a tick."""
        lines: dict[tuple[str, str, bool], list[str]] = defaultdict(list)
        self.fetched = {row["id"] for row in self.hub.all("/v1/commands/", origin="backfill")}
        for run in self.hub.all("/v1/runs/", start_time=self.oldest_wanted()):
            if run["id"] in self.runs.seen:
                continue
            self.runs.seen.add(run["id"])
            started = instant(run["started"]) if run["started"] else None
            if run["tick"] is not None and run["outcome"] == "done" and started is not None:
                tick = instant(run["tick"])
                self.runs.done[run["task"], run["meter_device"]].add(tick)
                self.runs.started[tick].append(started)
            due = f"due {instant(run['tick']):%H:%M}" if run["tick"] else "on demand"
            kept = started is not None and self.away[0] < started < self.away[1]
            device = self.names.get(run["meter_device"], run["meter_device"])
            lines["backfill" if run["command"] in self.fetched else due, device, kept].append(self.told(run))
        for (due, device, kept), parts in sorted(lines.items()):
            late = "   (kept by the gateway while the broker was away)" if kept else ""
            self.screen.say(f"{due:<10} {device:<14} {', '.join(sorted(parts))}{late}")
        readings = self.hub.count("/v1/metering/meter-readings") if lines else self.readings
        if readings != self.readings:
            self.screen.say(f"{'':<10} {'':<14} = {counted(readings, 'reading')} in the hub", style=GOOD)
            self.readings = readings

    def told(self, run: dict[str, Any]) -> str:
        """Return what a run did, in a few words."""
        task = (
            "what was missing" if run["command"] in self.fetched else self.names.get(run["task"] or "", "single value")
        )
        if run["outcome"] == "done":
            return f"{task} +{run['readings']}"
        return f"{task} {run['outcome']}: {run['cause']}"

    def look_at_strip(self) -> None:
        """Show the strip of the meter that pushes whenever something else of it is there, or not, than before."""
        if time.monotonic() < self._looked + LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        self.watch.look()
        told = self.watch.told()
        odd = tuple(
            f"{at}{quarter.state}"
            for at, quarter in sorted(self.watch.quarters.items())
            if quarter.state not in {STORED, DUE}
        )
        if (told, *odd) != self._shown and (odd or self._shown):
            whole = not any(self.watch.those(state) for state in OPEN)
            self.screen.say(
                f"{'strip':<10} {fleets.PUSHING.name:<14} {self.watch.strip()}  {told}", style=GOOD if whole else BAD
            )
        self._shown = (told, *odd)

    def show_next_tick(self) -> None:
        """Look, and on a terminal say how long it is until something is due."""
        self.look()
        self.look_at_strip()
        due = last_tick(self.clock.now()) + QUARTER
        seconds = (due - self.clock.now()).total_seconds() / self.clock.rate
        self.wait_with_strip(f"next due at {due:%H:%M}, in {seconds:.0f} s")

    def wait_with_strip(self, text: str) -> None:
        """On a terminal: say what is awaited, and show the strip of the meter that pushes."""
        self.screen.wait(f"{text}   {fleets.PUSHING.name} {self.watch.strip()}")

    def oldest_wanted(self) -> str:
        """Return an instant before which no run is new: late reports come within an hour of shown time."""
        return (self.clock.now() - dt.timedelta(hours=3)).isoformat()

    def gateways_settled(self) -> bool:
        """Whether every gateway runs its newest plan and has nothing left to send."""
        return all(
            gateway["online"] and gateway["applied_revision"] == gateway["desired_revision"] and not gateway["depth"]
            for gateway in self.hub.all("/v1/gateways/")
        )

    def wait_settled(self, seconds: float) -> None:
        """Wait until the gateways have settled, looking meanwhile.

        Raises:
            StartError: when they do not settle in time.
        """
        until = time.monotonic() + seconds
        while not self.gateways_settled():
            if time.monotonic() > until:
                states = json.dumps(list(self.hub.all("/v1/gateways/")), indent=1)
                raise StartError(f"the gateways did not settle within {seconds:.0f} s: {states}")
            self.look()
            if self.first_tick > self.clock.start:
                self.look_at_strip()
            time.sleep(0.3)

    def ticks_done(self, task: str) -> int:
        """Return how many ticks this task has run at the meter where it ran least."""
        return min((len(ticks) for (id_, _), ticks in self.runs.done.items() if id_ == task), default=0)

    # --- the acts ---------------------------------------------------------------------------------------------

    def poll_for(self, ticks: int) -> None:
        """Let some quarters of an hour pass; end in the middle between two ticks."""
        until = last_tick(self.clock.now()) + ticks * QUARTER + QUARTER / 2
        self.clock.wait_until(until, self.show_next_tick)

    def lose_broker(self) -> None:
        """Kill the embedded broker, and again whenever it comes back, until two ticks have passed without it.

        After the first of them somebody clears the archive of the meter that pushes: what it had not said is gone.
        """
        self.screen.say("broker    killed (SIGKILL)", style=BAD)
        begun = self.clock.now()
        clear_at = last_tick(begun) + QUARTER * 3 / 2
        until = last_tick(begun) + QUARTER * 9 / 4
        pid_file = self.stage.folder / "hub" / "broker.pid"
        while self.clock.now() < until or not self.broker_answers():
            if self.clock.now() < until:
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int(pid_file.read_text(encoding="utf-8")), signal.SIGKILL)
            if self.cleared < begun and self.clock.now() >= clear_at:
                self.clear_archive()
            self.look_at_strip()
            self.wait_with_strip("no broker; the gateways poll on")
            time.sleep(0.1)
        self.screen.say("broker    is back, with nothing in it", style=BOLD)
        back = self.clock.now()
        patience = time.monotonic() + RETURN_SECONDS
        while not self.gateways_heard(back) and time.monotonic() < patience:
            self.look_at_strip()
            self.wait_with_strip("the gateways try the broker again")
            time.sleep(0.1)
        self.away = (begun, self.clock.now())
        self.screen.say(f"gateways  {listed(fleets.GATEWAYS)} are back, too, with all that they have kept", style=BOLD)

    def gateways_heard(self, since: dt.datetime) -> bool:
        """Whether the hub has heard every gateway since then."""
        seen = [gateway["last_seen"] for gateway in self.hub.all("/v1/gateways/")]
        return all(at is not None and instant(at) >= since for at in seen)

    def broker_answers(self) -> bool:
        """Whether the broker takes connections. The hub starts it anew, each time after a longer pause."""
        host, _, port = self.mqtt.removeprefix("mqtt://").rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=1.0):
                return True
        except OSError:
            return False

    def clear_archive(self) -> None:
        """Have the meter that pushes forget what its archive holds."""
        self.lines[fleets.PUSHING.gateway].popen.send_signal(signal.SIGUSR1)
        self.cleared = self.clock.now()
        what = f"somebody clears its archive: what it counted at {last_tick(self.cleared):%H:%M} is nowhere any more"
        self.screen.say(f"{'meter':<10} {fleets.PUSHING.name:<14} {what}", style=BAD)

    def close_gap(self) -> None:
        """Let time pass until the hub says of no quarter of an hour any more that it is missing."""
        until = time.monotonic() + GAP_SECONDS
        while not self.watch.is_whole() and time.monotonic() < until:
            self.show_next_tick()
            time.sleep(0.1)
        for at, evidence in self.watch.evidence():
            self.screen.say(f"lost      {at:%H:%M}: {evidence}", style=BAD)
        if self.watch.is_whole():
            self.screen.say("gap       closed, and no person had to do anything", style=GOOD)
        else:
            self.screen.say(f"gap       still open after {GAP_SECONDS:.0f} s", style=BAD)

    def edit_group(self) -> None:
        """Add a task to the group and wait until the gateway runs it."""
        tasks = [self.fleet.tasks["volume"], self.fleet.tasks["extra"]]
        self.hub.patch(f"/v1/metering/amr-task-groups/{self.fleet.group}", tasks=tasks)
        self.wait_settled(30)
        self.edit_tick = last_tick(self.clock.now()) + QUARTER
        self.screen.say(f"gateways  {listed(fleets.GATEWAYS)} have applied the edited plan", style=BOLD)

    def invoke_rest(self) -> float:
        """Read one value on demand through REST and return how many milliseconds that took."""
        begun = time.monotonic()
        command = self.hub.post(
            "/v1/metering/amr-tasks/invoke",
            meter_device=self.fleet.devices["Heating plant"],
            meter_execution_type="generic_lis200",
            task_call="read_single_value",
            task_kwargs={"address": "4:300"},
            run_offset_seconds=0,
            ttl_seconds=86400,
        )
        ended = self.hub.get(f"/v1/commands/{command['command']}", wait=30)
        taken = (time.monotonic() - begun) * 1000
        self.screen.say(f"REST      4:300 of Heating plant: {ended['state']} in {taken:.0f} ms", style=BOLD)
        if ended["state"] != "done":
            raise StartError(f"the command ended as {ended['state']}: {ended.get('cause')}")
        return taken

    def invoke_mqtt(self) -> float:
        """Read one value over MQTT, without the hub's help, and return the milliseconds it took."""
        begun = time.monotonic()
        answer = subprocess.run(
            [
                *(program("metergate-agent"), "invoke", "--broker", self.mqtt, "--caller", "field-laptop"),
                *("--key-file", str(self.stage.folder / "caller.key"), "north", "Heating plant", "generic_lis200"),
                *("read_single_value", "address=4:302", "--json"),
            ],
            env=self.stage.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        taken = (time.monotonic() - begun) * 1000
        if answer.returncode:
            raise StartError(f"the invocation over MQTT failed: {answer.stdout}{answer.stderr}")
        reading = json.loads(answer.stdout.splitlines()[0])
        what = f"{reading['series']} of {reading['meter']}: {reading['value']} {reading['unit']}"
        self.screen.say(f"MQTT      {what} in {taken:.0f} ms, a new process included", style=BOLD)
        return taken

    def close_schedules(self) -> dt.datetime:
        """Switch tasks and modem off, wait until everything has arrived, and return the last tick that ran."""
        until = last_tick(self.clock.now()) + QUARTER / 2
        self.clock.wait_until(until if until > self.clock.now() else until + QUARTER, self.look)
        last = self.watch.until = last_tick(self.clock.now())
        self.screen.say("hub       all tasks are switched off; what is under way arrives", style=DIM)
        self.modem.end()
        for task in self.fleet.tasks.values():
            self.hub.patch(f"/v1/metering/amr-tasks/{task}", is_active=False)
        self.wait_settled(40)
        time.sleep(1.0)
        self.wait_settled(40)
        self.look()
        return last
