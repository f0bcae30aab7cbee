"""An hour of ordinary life at ten times a normal gateway's load: memory, file descriptors and files stay flat.

One real agent reads 128 simulated meters (and one that is silent) on 32 throttled lines of 9600 Bd, in real time, with
the hub (REST and a relay on PostgreSQL) and Mosquitto as processes. The broker is restarted empty now and then, the
plan is edited, and commands are given. Every few seconds is noted what every process holds: resident memory, file
descriptors, threads, processor time, the sizes of store and logs. At the end nothing may be missing, double or wrong,
nothing may have grown, and the agent must be below 45 MiB of memory and 30 % of one core. Exit status 0 only then.
"""

import argparse
import contextlib
import dataclasses
import datetime as dt
import json
import pathlib
import random
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks import chaos_judge as judges
from benchmarks.chaos_site import UNREACHABLE
from benchmarks.soak_samples import Course, Sample, course_of, growth_of, look
from benchmarks.soak_site import (
    DAY_ARCHIVE,
    FIRST,
    INTERVAL_ARCHIVE,
    MOMENTARY,
    ON_DEMAND,
    SECOND,
    SPAN,
    SoakSite,
    soak_site,
)
from deploy.demo.expected import instant, read_truth
from deploy.demo.story import last_tick

NORMAL_READINGS = 10 * (2 * 4 + 8 * 4)
"""Readings an hour of a normal gateway: ten meters, two values a quarter, four archive rows of eight series."""
NORMAL_RUNS = 10 * (2 * 4 + 1) + 1
"""Runs an hour: two values a quarter, one archive read, and one command for all."""

SAMPLE_SECONDS = 10.0
BROKER_SECONDS, EDIT_SECONDS, COMMAND_SECONDS = 600.0, 300.0, 60.0
BROKER_AWAY = 3.0
CLOSE_SECONDS = 120.0
COMMAND_TTL = 300
QUARTERLY = ("momentary", "extra", "archive")
SLACK = dt.timedelta(seconds=3)
JUDGED = ("agent", "rest", "relay")
LEAST_MINUTES = 20.0
"""In a shorter run memory still warms up: its growth is shown, and not judged."""

_KEPT = ("readings", "reports")
"""The tables of the agent's store whose rows are kept for a week after their receipt."""

MOST_AGENT_MIB = 45.0
MOST_AGENT_CPU = 0.30
MOST_GROWTH_MIB = 2.0
MOST_DESCRIPTORS = {"agent": 0, "rest": 4, "relay": 4}
"""How many more may be open: the hub's pool of database connections (at most 20) opens one more when requests cross."""

MOST_STORE_BYTES_PER_ROW = 1024
MOST_LOG_BYTES_PER_HOUR = 4 * 1024 * 1024


def main(arguments: Sequence[str]) -> int:
    """Run the soak and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--lines", type=int, default=32, help="how many lines, four meters on each (default: 32)")
    parser.add_argument("--seed", type=int, default=1, help="which meters commands and edits choose (default: 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    parser.add_argument("--keep", metavar="DIR", type=pathlib.Path, help="keep logs, store, truth and samples in DIR")
    options = parser.parse_args(arguments)
    # A short run has a whole period's work in a part of its time, so that all of it happens.
    spread = int(min(900, max(10, options.minutes * 60 / 2)))
    with soak_site(options.lines, spread, options.keep) as site:
        soak = Soak(site, options.minutes * 60, spread, options.seed, loud=not options.json)
        result = soak.run()
    print(json.dumps(result) if options.json else told(result), flush=True)
    return 0 if result["kept"] else 1


class Soak:
    """One run."""

    def __init__(self, site: SoakSite, seconds: float, spread: int, seed: int, *, loud: bool) -> None:
        self._site = site
        self._seconds = seconds
        self._spread = dt.timedelta(seconds=spread)
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._loud = loud
        # A short run has as many events as a long one would in its time, and one of each at least.
        self._every = {
            "broker": min(BROKER_SECONDS, seconds / 2.5),
            "edit": min(EDIT_SECONDS, seconds / 4),
            "command": min(COMMAND_SECONDS, seconds / 6),
        }
        self._samples: list[Sample] = []
        self._begun = 0.0
        self._edits = 0
        self._broker_restarts = 0
        self._commanded: list[judges.Span] = []
        self._posted: set[str] = set()
        self._unanswered = 0
        self._over = threading.Event()

    def run(self) -> dict[str, Any]:
        """Let time pass, note what everything holds, and judge."""
        site = self._site
        self._say(f"{site.lines} lines, {len(site.devices)} meters and a silent one")
        site.clock.wait_until(FIRST, site.tend)
        self._begun = time.monotonic()
        commands = threading.Thread(target=self._command, name="commands")
        life = threading.Thread(target=self._live, name="life")
        commands.start()
        life.start()
        try:
            self._watch()
        finally:
            self._over.set()
            commands.join()
            life.join()
        # The newest tick with all that was due after it.
        last = last_tick(site.clock.now() - self._spread)
        kept_rows, bytes_per_row = self._store()
        self._close(last)
        figures, silent_runs = self._judge(last)
        return self._result(figures, silent_runs, kept_rows, bytes_per_row)

    # --- life ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        step = min(SAMPLE_SECONDS, self._seconds / 20)
        with self._site.folder.joinpath("samples.jsonl").open("w", encoding="utf-8") as file:
            due = self._begun
            while due <= self._begun + self._seconds:
                while time.monotonic() < due:
                    self._site.tend()
                    time.sleep(0.1)
                sample = self._sample()
                self._samples.append(sample)
                file.write(json.dumps(dataclasses.asdict(sample)) + "\n")
                file.flush()
                agent = sample.processes.get("agent")
                if agent is not None and len(self._samples) % 30 == 0:
                    self._say(f"agent: {agent.rss_mib} MiB, {agent.descriptors} descriptors")
                due += step

    def _sample(self) -> Sample:
        site = self._site
        held = {name: one for name, pids in site.pids().items() if (one := look(pids)) is not None}
        files = {path.name: path.stat().st_size for path in site.folder.glob("*.log")}
        for path in site.agent_folder.iterdir():
            files[f"agent/{path.name}"] = path.stat().st_size
        return Sample(round(time.monotonic() - self._begun, 1), held, files)

    def _live(self) -> None:
        """Restart the broker and edit the plan now and then."""
        due = {what: self._begun + seconds for what, seconds in self._every.items() if what != "command"}
        while not self._over.wait(0.2):
            for what, when in list(due.items()):
                if time.monotonic() >= when:
                    due[what] = when + self._every[what]
                    (self._restart_broker if what == "broker" else self._edit)()

    def _restart_broker(self) -> None:
        self._site.broker.kill()
        time.sleep(BROKER_AWAY)
        self._site.broker.start()
        self._broker_restarts += 1

    def _edit(self) -> None:
        """Rename a meter, or change what a task asks for without changing what it must bring."""
        # An edit that gets no answer shows in the hub's log; the hour goes on.
        with contextlib.suppress(*UNREACHABLE):
            self._edit_something()

    def _edit_something(self) -> None:
        hub, site = self._site.hub, self._site
        self._edits += 1
        if self._edits % 2:
            serial = self._random.choice(sorted(site.devices))
            hub.patch(f"/v1/metering/meter-devices/{site.devices[serial]}", name=f"Meter {serial} {self._edits}")
        else:
            task = self._random.choice(site.tasks["archive"])
            kwargs = {"offset_seconds": SPAN + self._edits, "archive_number": INTERVAL_ARCHIVE, "control_position": 3}
            hub.patch(f"/v1/metering/amr-tasks/{task}", task_kwargs=kwargs)

    def _command(self) -> None:
        """Ask a meter for a value, and wait for the answer."""
        hub, clock = self._site.hub, self._site.clock
        while not self._over.wait(self._every["command"]):
            serial = self._random.choice(sorted(self._site.devices))
            start = clock.now() - SLACK
            try:
                answer = hub.post(
                    "/v1/metering/amr-tasks/invoke",
                    meter_device=self._site.devices[serial],
                    meter_execution_type="generic_lis200",
                    task_call="read_single_value",
                    task_kwargs={"address": ON_DEMAND},
                    run_offset_seconds=0,
                    ttl_seconds=COMMAND_TTL,
                )
                self._posted.add(str(answer["command"]))
                done = hub.get(f"/v1/commands/{answer['command']}", wait=60)
                end = clock.now() + SLACK if done["state"] in judges.FINAL else None
            except UNREACHABLE:
                self._unanswered += 1
                end = None
            self._commanded.append(judges.Span(serial, start, end))

    # --- the end -------------------------------------------------------------------------------------------------

    def _store(self) -> tuple[int, float]:
        """Return how many rows the agent's store keeps, and how many bytes it has for each."""
        files = self._samples[-1].files
        size = sum(bytes_ for name, bytes_ in files.items() if name.startswith("agent/agent.db"))
        address = f"file:{self._site.agent_folder / 'agent.db'}?mode=ro"
        base = sqlite3.connect(address, uri=True)
        try:
            rows = sum(int(base.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in _KEPT)  # noqa: S608
        finally:
            base.close()
        return rows, round(size / max(1, rows), 1)

    def _close(self, last: dt.datetime) -> None:
        """Wait until the runs of the last tick are over, switch the tasks off, and wait until all has arrived."""
        until = time.monotonic() + CLOSE_SECONDS
        while not self._ran(last) and time.monotonic() < until:
            time.sleep(1.0)
            self._site.tend()
        for task in (id_ for ids in self._site.tasks.values() for id_ in ids):
            self._site.hub.patch(f"/v1/metering/amr-tasks/{task}", is_active=False)
        until = time.monotonic() + CLOSE_SECONDS
        calm = 0
        while calm < 3 and time.monotonic() < until:  # noqa: PLR2004 - three looks, a second apart
            time.sleep(1.0)
            self._site.tend()
            calm = calm + 1 if self._site.settled() and self._commands_ended() else 0

    def _ran(self, tick: dt.datetime) -> bool:
        """Whether the hub knows a run of every quarterly task on every meter for that tick."""
        try:
            runs = list(self._site.hub.all("/v1/runs/", start_time=tick.isoformat()))
        except UNREACHABLE:
            return False
        known = {
            (run["task"], run["meter_device"])
            for run in runs
            if run["tick"] is not None and instant(run["tick"]) == tick and run["meter_device"] != self._site.silent
        }
        kinds = {id_: kind for kind, ids in self._site.tasks.items() for id_ in ids}
        return sum(kinds[task] in QUARTERLY for task, _ in known) >= len(QUARTERLY) * len(self._site.devices)

    def _commands_ended(self) -> bool:
        return all(row["state"] in judges.FINAL for row in self._site.hub.all("/v1/commands/"))

    def _judge(self, last: dt.datetime) -> tuple[judges.Figures, int]:
        """Compare what the hub has with the truth; return the figures and how many runs the silent meter has."""
        site = self._site
        kinds = {id_: kind for kind, ids in site.tasks.items() for id_ in ids}
        series = {id_: name for name, id_ in site.series.items()}
        serials = {id_: serial for serial, id_ in site.devices.items()}
        runs = list(site.hub.all("/v1/runs/"))
        silent = [run for run in runs if run["meter_device"] == site.silent]
        evidence = judges.Evidence(
            truth=read_truth(sorted(site.folder.glob("truth-*.jsonl"))),
            readings=[
                {**row, "meter": serials[row["meter_device"]], "series": series[row["series"]]}
                for row in site.hub.all("/v1/metering/meter-readings")
            ],
            runs=[
                {**run, "task": run["task"] and kinds[run["task"]]} for run in runs if run["meter_device"] in serials
            ],
            commands=list(site.hub.all("/v1/commands/")),
            losses=list(site.hub.all("/v1/loss-records/")),
            staged=list(site.hub.all("/v1/metering/staged-meter-readings")),
            problems=[f"the gateway has a problem: {problem}" for problem in site.state()["problems"] or ()],
        )
        course = judges.Course(
            first=FIRST,
            last=last,
            archive_from=FIRST - dt.timedelta(seconds=SPAN) + dt.timedelta(minutes=30),
            devices=site.devices,
            tasks={kind: kind for kind in site.tasks},
            addresses={"momentary": MOMENTARY, "extra": SECOND, "command": ON_DEMAND},
            extra=[judges.Span(serial, FIRST - SLACK, last + dt.timedelta(hours=1)) for serial in site.devices],
            commanded=self._commanded,
            posted=self._posted,
            archives=(INTERVAL_ARCHIVE, DAY_ARCHIVE),
        )
        figures = judges.judge(course, evidence)
        for run in silent:
            if run["outcome"] == "done" or not run["cause"]:
                figures.unexplained += 1
                figures.complain(f"the silent meter has a run: {run}")
        return figures, len(silent)

    def _result(
        self, figures: judges.Figures, silent_runs: int, kept_rows: int, bytes_per_row: float
    ) -> dict[str, Any]:
        hours = self._seconds / 3600
        courses = {
            name: course
            for name in sorted({name for sample in self._samples for name in sample.processes})
            if (course := course_of(name, self._samples)) is not None
        }
        logs = {
            name: round(growth_of(name, self._samples)[2])
            for name in self._samples[-1].files
            if name in {f"{one}.log" for one in JUDGED}
        }
        done = figures.runs.get("done", 0)
        problems = [] if figures.kept else ["something is missing, double, wrong or unexplained"]
        problems += [f"{one.name} ended by itself with status {one.status}" for one in self._site.ended]
        problems += _grown(courses, long=self._seconds >= LEAST_MINUTES * 60)
        if bytes_per_row > MOST_STORE_BYTES_PER_ROW and kept_rows > 10_000:  # noqa: PLR2004 - else mostly empty pages
            problems.append(f"the store has {bytes_per_row} bytes for each row that it keeps")
        problems += [
            f"{name} grows by {size} bytes an hour" for name, size in logs.items() if size > MOST_LOG_BYTES_PER_HOUR
        ]
        return {
            "minutes": round(self._seconds / 60, 2),
            "lines": self._site.lines,
            "meters": len(self._site.devices),
            "runs_per_hour": round(done / hours),
            "readings_per_hour": round(figures.stored / hours),
            "times_normal_readings": round(figures.stored / hours / NORMAL_READINGS, 1),
            "times_normal_runs": round(done / hours / NORMAL_RUNS, 1),
            "broker_restarts": self._broker_restarts,
            "plan_edits": self._edits,
            "runs_of_the_silent_meter": silent_runs,
            **dataclasses.asdict(figures),
            "commands_unanswered": self._unanswered,
            "agent_rss_mib": courses["agent"].rss_mib,
            "agent_cpu_share": courses["agent"].cpu_share,
            "processes": {name: dataclasses.asdict(course) for name, course in courses.items()},
            "store_rows": kept_rows,
            "store_bytes_per_row": bytes_per_row,
            "files": {
                name: dict(
                    zip(("at_half", "at_end", "per_hour"), map(round, growth_of(name, self._samples)), strict=True)
                )
                for name in sorted(self._samples[-1].files)
            },
            "ended_by_themselves": dict(Counter(f"{one.name} ({one.status})" for one in self._site.ended)),
            "problems": problems,
            "kept": not problems,
        }

    def _say(self, text: str) -> None:
        if self._loud:
            print(f"{self._site.clock.now():%H:%M:%S}  {text}", flush=True)


def _grown(courses: dict[str, Course], *, long: bool) -> list[str]:
    """Say what has grown, or is too large."""
    problems = []
    for name in JUDGED:
        course = courses[name]
        if long and course.rss_growth_mib > MOST_GROWTH_MIB:
            problems.append(f"{name}: memory has grown by {course.rss_growth_mib} MiB")
        if course.descriptors_growth > MOST_DESCRIPTORS[name]:
            problems.append(f"{name}: {course.descriptors_growth} more file descriptors are open")
        if long and course.threads_growth > 0:
            problems.append(f"{name}: there are {course.threads_growth} more threads")
    if courses["agent"].rss_mib > MOST_AGENT_MIB:
        problems.append(f"agent: {courses['agent'].rss_mib} MiB are resident, more than {MOST_AGENT_MIB:g}")
    if courses["agent"].cpu_share > MOST_AGENT_CPU:
        problems.append(f"agent: it takes {courses['agent'].cpu_share:.0%} of a core, more than {MOST_AGENT_CPU:.0%}")
    return problems


def told(result: dict[str, Any]) -> str:
    """Put the figures in words."""
    lines = [
        "",
        f"{result['minutes']:g} minutes, {result['lines']} lines, {result['meters']} meters; in an hour:",
        f"  {result['readings_per_hour']} readings, {result['times_normal_readings']:g} times what is normal",
        f"  {result['runs_per_hour']} runs, {result['times_normal_runs']:g} times what is normal",
        f"{result['broker_restarts']} restarts of the broker, {result['plan_edits']} edits of the plan",
        f"{result['commands']} commands, {result['runs_of_the_silent_meter']} runs of the silent meter",
        "",
        "process     MiB  highest  growth  MiB/h   fds  growth  threads  growth  of a core",
    ]
    lines += [
        f"{name:9} {one['rss_mib']:5.1f} {one['rss_highest_mib']:8.1f} {one['rss_growth_mib']:+7.2f} "
        f"{one['rss_slope_mib_per_hour']:+6.2f} {one['descriptors']:5} {one['descriptors_growth']:+7} "
        f"{one['threads']:8} {one['threads_growth']:+7} {one['cpu_share']:10.1%}"
        for name, one in sorted(result["processes"].items())
    ]
    lines += ["", "file                     at half       at end   bytes an hour"]
    lines += [
        f"{name:20} {one['at_half']:11} {one['at_end']:12} {one['per_hour']:15}"
        for name, one in result["files"].items()
    ]
    lines += [
        f"the store keeps {result['store_rows']} rows with {result['store_bytes_per_row']} bytes each",
        "",
        f"expected {result['expected']}, stored {result['stored']}, declared lost {result['lost']}",
    ]
    judged = ("missing", "duplicates", "wrong", "commands_run_twice", "commands_without_end", "unexplained")
    lines += [f"  {result[name]:5}  {name}" for name in judged]
    lines += [f"  {example}" for example in result["examples"]]
    lines += ["", *(result["problems"] or ["flat, and nothing missing, double or wrong"])]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
