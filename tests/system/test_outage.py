"""A gateway is off for a week: one read of each archive brings back what the meter holds, and every missed run is told.

Meters and hub go on meanwhile: they are moved a week ahead, with everything that the meters would have recorded.
"""

import datetime as dt
import pathlib
import time

from deploy.demo.expected import instant
from tests.parts.site import SPAN, Site, site

RATE = 60.0
WEEK = dt.timedelta(days=7)
QUARTER = dt.timedelta(minutes=15)


def show_meters(opened: Site) -> None:
    """Let the meters' clock follow the site's."""
    path = opened.folder / "clock-meters"
    fresh = path.with_suffix(".new")
    fresh.write_text(f"{opened.clock.start.isoformat()}@{opened.clock.anchor!r},{opened.clock.rate!r}")
    fresh.replace(path)


def a_week_later(opened: Site) -> None:
    """Move the clock of everything but agents by a week."""
    for process in opened.hub_processes:
        process.end()
    opened.clock.start += WEEK
    show_meters(opened)
    opened.stage.environment |= opened.clock.environment() | {"METERGATE_ENVIRONMENT": "test"}
    opened.start_hub()


def done_since(opened: Site, before: set[str]) -> int:
    """Return on how many tasks of meters a run has been done since then."""
    runs = [run for run in opened.hub.all("/v1/runs/", outcome="done") if run["id"] not in before]
    return len({(run["meter_device"], run["task"]) for run in runs})


def test_a_week_off_is_one_read_of_each_archive_and_a_row_for_what_was_missed(tmp_path: pathlib.Path) -> None:
    with site(f"sqlite:///{tmp_path / 'hub.db'}", tmp_path, rate=RATE) as opened:
        show_meters(opened)
        opened.stage.environment["METERGATE_CLOCK_FILE"] = str(opened.folder / "clock-meters")
        endpoint = opened.start_line("one", "1:4011220", "2:4011221")
        del opened.stage.environment["METERGATE_CLOCK_FILE"]
        opened.create_basics()
        opened.create_gateway("gw-1", endpoint)
        opened.create_archive_task()
        opened.create_task("volume", "read_single_value", address="2:300")
        opened.create_meter("Heating plant", "4011220", "gw-1", "archive", "volume", address="1")
        opened.create_meter("Bakery", "4011221", "gw-1", "archive", "volume", address="2")
        opened.start_agent("gw-1")
        opened.wait_settled()
        begun = opened.clock.now()
        opened.wait_readings(0)
        opened.wait_for("a run of each", lambda: opened.count("/v1/runs/", outcome="done") >= 4)
        opened.wait_settled()
        opened.end_agent("gw-1")
        before = {run["id"] for run in opened.hub.all("/v1/runs/")}
        a_week_later(opened)
        back = opened.clock.now()
        opened.start_agent("gw-1")
        opened.wait_for(
            "the week's runs",
            lambda: done_since(opened, before) >= 4,
        )
        opened.wait_settled()
        time.sleep(1)
        runs = [run for run in opened.hub.all("/v1/runs/") if run["id"] not in before]
        for device in opened.devices.values():
            for task, words in (("archive", "coalesced into the run of"), ("volume", "only the latest is run")):
                own = [run for run in runs if (run["meter_device"], run["task"]) == (device, opened.tasks[task])]
                others = [run for run in own if run["outcome"] == "missed"]
                missed = max(others, key=lambda run: run["count"])
                # Every tick of the week stands in the one row, up to the one that was run.
                span = instant(missed["tick"]) - instant(missed["since"])
                assert missed["count"] == span / QUARTER + 1
                assert missed["count"] in {670, 671, 672}
                assert words in missed["cause"]
                assert (instant(missed["tick"]) + QUARTER).strftime("%Y-%m-%dT%H:%M:%SZ") in missed["cause"]
                first = min((run for run in own if run["outcome"] == "done"), key=lambda run: instant(run["tick"]))
                # That run itself gives way to the next one where the line is busy for so long, and says so.
                named = instant(missed["tick"]) + QUARTER
                assert named <= back + QUARTER
                assert named in {instant(first["tick"]), *(instant(run["tick"]) for run in others)}
                if task == "archive":
                    # One read brought the week, at least each quarter of it in some series.
                    assert first["readings"] >= 672
        assert not [run for run in runs if run["outcome"] not in {"done", "missed"}]
        opened.since |= dict.fromkeys(opened.devices, begun + dt.timedelta(seconds=SPAN))
        opened.finish(begun)
