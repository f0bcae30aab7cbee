"""``python -m deploy.demo [--once]``: hub, two gateways and three meters on this machine.

Without ``--once`` it goes on until Ctrl-C. With it, it tells the story once and prints one JSON object last; exit
status 0 only if every expected reading is in the hub exactly once, and every gap that a meter could fill has closed.
"""

import argparse
import datetime as dt
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import Any

from deploy.demo import fleet as fleets
from deploy.demo.expected import instant
from deploy.demo.gaps import LEGEND, QUARTER
from deploy.demo.gaps import figures as gap_figures
from deploy.demo.hub_client import RestError
from deploy.demo.processes import Stage, StartError, quiet_interrupt
from deploy.demo.screen import BAD, GOOD, Screen, counted
from deploy.demo.story import HOUR, TICKS_BEFORE_EDIT, TICKS_PER_TASK, ShownClock, Story, last_tick

START = dt.datetime(2026, 3, 2, 5, 58, tzinfo=dt.UTC)
RATE = 225.0
MIN_EXPECTED = 500


def main() -> int:
    """Run the demo and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="make demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="tell the story once, within two minutes, and end")
    parser.add_argument("--keep", metavar="DIR", type=pathlib.Path, help="keep databases, logs and truth in DIR")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="metergate-demo-") as temporary:
        folder = arguments.keep or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            parser.error(f"--keep {folder}: the folder is not empty")
        clock = ShownClock(START, RATE)
        screen = Screen(clock.now)
        with Stage(folder, clock.environment(), apart=True) as stage:
            try:
                return tell(Story(stage, clock, screen), once=arguments.once)
            except (StartError, RestError, subprocess.SubprocessError, OSError) as error:
                screen.clear()
                print(f"the demo failed: {error}", file=sys.stderr)
                return 1
            except (KeyboardInterrupt, Stopped):
                screen.clear()
                print("the demo was stopped; nothing was judged", file=sys.stderr)
                return 1 if arguments.once else 0
            finally:
                # Whoever is impatient must not leave processes behind.
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)


class Stopped(BaseException):
    """SIGTERM or SIGHUP came."""


def _stop(_number: int, _frame: object) -> None:
    raise Stopped


def tell(story: Story, *, once: bool) -> int:
    """Tell the story: polling, a lost broker, two calls on demand, an edit, and more polling."""
    screen = story.screen
    screen.chapter(
        "Metergate",
        "The whole of it on this machine: a hub, two gateways, three simulated gas meters on two serial lines. They "
        "speak with each other as they do in the field: LIS-200, MQTT, REST.\n"
        f"Their clock runs {RATE:.0f} times as fast: a quarter of an hour passes every "
        f"{QUARTER.total_seconds() / RATE:.0f} seconds. Times are UTC. Ctrl-C ends it.",
    )
    story.open()
    story.wait_settled(60)
    story.begin()
    screen.prose("Ask the hub yourself, from another terminal:")
    screen.to_copy(
        f"curl -sH 'Authorization: Token {story.token}' '{story.hub.url}/v1/metering/meter-readings?limit=3'"
    )

    screen.chapter(
        "Polling",
        "Each quarter of an hour the correctors' archives are read, and their volume. The first read of an archive "
        "brings the twelve hours before; from then on only what is new goes over the line. The Glass works are not "
        "asked: their modem pushes. Only what it does not say, the battery, is polled each hour.",
    )
    story.poll_for(TICKS_BEFORE_EDIT)
    screen.chapter("On demand", "One value, now: through the hub, and past it over MQTT as a field laptop would.")
    command_ms = story.invoke_rest()
    mqtt_ms = story.invoke_mqtt()
    screen.chapter(
        "An edit", "The correctors' task group gets one more task: the temperature. The hub sends new plans."
    )
    story.edit_group()
    story.poll_for(1)
    screen.chapter(
        "The broker dies",
        "It is killed again and again until some quarters of an hour have passed without it, and keeps nothing. The "
        "gateways poll on: a reading leaves a gateway's outbox only when the hub has signed for it. What the modem "
        f"pushes meanwhile nobody hears. The strip has its quarters of an hour:\n{LEGEND}",
    )
    story.lose_broker()
    story.wait_settled(60)
    screen.chapter(
        "The gap",
        "What was polled arrives. What was pushed is lost, but the meter has it in its archive, all but the quarter of "
        "an hour that was cleared. When a push is an hour late, the hub has it read while the line is idle.",
    )
    story.close_gap()
    while story.ticks_done(story.fleet.tasks["extra"]) < TICKS_PER_TASK:
        story.poll_for(1)
    if not once:
        with quiet_interrupt():
            screen.chapter("And so on", "The story is told; the meters go on until Ctrl-C, and then it is reckoned up.")
            while True:
                story.poll_for(1)
    screen.chapter(
        "The reckoning",
        "What the hub has is compared with what the simulated meters held and said, by a program that knows neither "
        "agent nor hub.",
    )
    return report(story, story.close_schedules(), {"command_ms": round(command_ms), "mqtt_command_ms": round(mqtt_ms)})


def report(story: Story, last: dt.datetime, timings: dict[str, int]) -> int:
    """Compare what arrived with what was there, and print the figures."""
    device = story.fleet.devices[fleets.PUSHING.name]
    gaps = gap_figures(story.hub, story.watch, device, story.first_tick, story.clock.rate)
    figures: dict[str, Any] = {**compared(story, last), **scheduled(story, last), **timings, **gaps}
    for example in figures.pop("examples"):
        story.screen.say(example)
    gone = figures.pop("gone")
    closed = figures["gaps_closed"] == figures["gaps_seen"] >= 1 and figures["unrecoverable"] == gone >= 1
    kept = not (figures["missing"] or figures["duplicates"] or figures["wrong"] or figures["staged"])
    shown = (
        figures["expected"] >= MIN_EXPECTED
        and figures["least_ticks_per_task"] >= TICKS_PER_TASK
        and figures["missed_runs"] == 0
        and figures["ticks_without_broker"] >= 1
        and figures["ticks_after_edit"] >= 1
    )
    story.screen.say(
        f"expected {figures['expected']} readings, stored {figures['stored']}: {figures['missing']} missing, "
        f"{figures['duplicates']} twice, {figures['wrong']} wrong, {figures['staged']} staged",
        style=GOOD if kept else BAD,
    )
    story.screen.say(
        f"{figures['scheduled_runs']} scheduled runs, {figures['missed_runs']} missed; "
        f"{counted(figures['ticks_without_broker'], 'tick')} without broker, "
        f"{figures['ticks_after_edit']} after the edit",
        style=GOOD if shown else BAD,
    )
    story.screen.say(
        f"{counted(figures['gaps_seen'], 'gap')} seen, {figures['gaps_closed']} closed, within "
        f"{figures['seconds_to_close']:.0f} s; {figures['unrecoverable']} lost for good, of {gone} that nobody has",
        style=GOOD if closed else BAD,
    )
    print(json.dumps(figures), flush=True)
    return 0 if kept and shown and closed else 1


def compared(story: Story, last: dt.datetime) -> dict[str, Any]:
    """Let the independent program compare the simulators' truth with the hub's readings."""
    folder = story.stage.folder
    first = story.first_tick - dt.timedelta(seconds=fleets.ARCHIVE_SPAN_SECONDS)
    plan = {
        "meters": {place.serial: place.name for place in fleets.METERS},
        "archives": [
            {"meter": place.name, "archive": place.archive, "start": start.isoformat(), "end": end.isoformat()}
            for place, start, end in [
                *((place, first, last) for place in fleets.POLLED),
                # What was pushed until the broker died, and what the archive has since it was cleared.
                (fleets.PUSHING, story.first_tick, story.away[0]),
                (fleets.PUSHING, story.cleared, last),
            ]
        ],
        "gone": [
            {
                "meter": fleets.PUSHING.name,
                "archive": fleets.PUSHING.archive,
                "start": story.away[0].isoformat(),
                "end": story.cleared.isoformat(),
            }
        ],
        "singles": [
            {"meter": place.name, "address": address} for place in fleets.POLLED for address in ("2:300", "6:310_1")
        ]
        + [{"meter": fleets.PUSHING.name, "address": fleets.PUSHING.single}]
        + [{"meter": "Heating plant", "address": address} for address in ("4:300", "4:302")],
    }
    series = {row["id"]: row["name"] for row in story.hub.all("/v1/metering/meter-reading-series")}
    meters = {id_: name for name, id_ in story.fleet.devices.items()}
    readings = []
    revisions = 0
    for row in story.hub.all("/v1/metering/meter-readings"):
        readings.append({**row, "meter": meters[row["meter_device"]], "series": series[row["series"]]})
        revisions += max(0, len(row.get("versions") or []) - 1)
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    (folder / "readings.json").write_text(json.dumps(readings), encoding="utf-8")
    truths = [str(story.truth(gateway)) for gateway in fleets.GATEWAYS]
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "deploy.demo.expected",
            str(folder / "plan.json"),
            str(folder / "readings.json"),
            *truths,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if not answer.stdout:
        raise StartError(f"the comparison failed: {answer.stderr}")
    staged = story.hub.count("/v1/metering/staged-meter-readings")
    return {**json.loads(answer.stdout), "revisions": revisions, "staged": staged}


def scheduled(story: Story, last: dt.datetime) -> dict[str, int]:
    """Count the runs, and the due runs (by the schedule alone) that did not take place."""
    due = [(f"archive {place.archive}/{place.time_position}", place, story.first_tick) for place in fleets.POLLED]
    due += [("volume", place, story.first_tick) for place in fleets.POLLED]
    due += [("extra", place, story.edit_tick) for place in fleets.POLLED]
    missed = 0
    least = sys.maxsize
    for task, place, first in due:
        done = story.runs.done[story.fleet.tasks[task], story.fleet.devices[place.name]]
        missed += len(ticks_between(first, last, QUARTER) - done)
        least = min(least, len(done))
    battery = story.runs.done[story.fleet.tasks["battery"], story.fleet.devices[fleets.PUSHING.name]]
    missed += len(ticks_between(story.first_tick, last, HOUR) - battery)
    away_from, away_until = story.away
    return {
        "scheduled_runs": sum(len(ticks) for ticks in story.runs.done.values()),
        "missed_runs": missed,
        "least_ticks_per_task": least,
        "ticks_without_broker": sum(
            any(away_from < instant(str(start)) < away_until for start in starts)
            for starts in story.runs.started.values()
        ),
        "ticks_after_edit": min(
            len(story.runs.done[story.fleet.tasks["extra"], story.fleet.devices[place.name]]) for place in fleets.POLLED
        ),
    }


def ticks_between(first: dt.datetime, last: dt.datetime, period: dt.timedelta) -> set[dt.datetime]:
    """Return the ticks of a schedule from the first to the last instant, both included."""
    tick = last_tick(first - dt.timedelta(microseconds=1), period) + period
    return {tick + i * period for i in range((last - tick) // period + 1)}


if __name__ == "__main__":
    sys.exit(main())
