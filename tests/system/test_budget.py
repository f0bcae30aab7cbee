"""A gateway whose disk budget is spent while the hub is away: what gives way, in which order, and that all is told.

The store is filled with momentary values as years without a hub would fill it; then a real agent runs on it.
"""

import datetime as dt
import pathlib
import uuid

from agent.budget import LEAST_BYTES
from agent.clocks import Clock
from agent.store import Store
from deploy.demo.expected import instant
from protocol.clock_settings import ClockSetting
from protocol.readings import FROM_GATEWAY, BatchName, NewMeterReading, rows_digest
from protocol.wire import encode, parse_decimal
from tests.parts.site import Site, site

MINUTE = dt.timedelta(minutes=1)
METER = "Heating plant"
LONG_NAME = METER.ljust(50, ".")
"""A meter's name of another time, which says nothing beside its UUID: fewer rows fill the store."""


def fill(opened: Site, first: dt.datetime) -> list[dt.datetime]:
    """Fill the agent's store beyond its budget, a value a minute, the first receipted; return when the others are."""
    clock = Clock(ClockSetting(opened.clock.start, opened.clock.anchor, opened.clock.rate))
    store = Store(opened.agent_folder("gw-1") / "agent.db", "gw-1", clock, LEAST_BYTES)
    waiting: list[dt.datetime] = []
    device, number = uuid.UUID(opened.devices[METER]), 0
    try:
        while store.budget.share() < 1.2:
            times = [first + (number + row) * MINUTE for row in range(1000)]
            bodies = [
                encode(NewMeterReading(LONG_NAME, "2:300", at, parse_decimal("1"), "m3", device, at, FROM_GATEWAY))
                for at in times
            ]
            with store.transaction():
                before = store.readings.last()
                store.readings.append(bodies)
                if number < 5000:
                    store.readings.accept(BatchName(store.id, before + 1, before + 1000, rows_digest(bodies)))
                else:
                    waiting += times
            number += 1000
    finally:
        store.close()
    return waiting


def archive_runs(opened: Site, outcome: str) -> list[dict[str, str]]:
    """Return the runs of the archive task that ended so."""
    return list(opened.hub.all("/v1/runs/", outcome=outcome, task=opened.tasks["archive"]))


def test_a_spent_budget_is_told_and_accounted_for_to_the_row(tmp_path: pathlib.Path) -> None:
    with site(f"sqlite:///{tmp_path / 'hub.db'}", tmp_path) as opened:
        endpoint = opened.start_line("one", ":4011220")
        opened.create_basics()
        opened.create_gateway("gw-1", endpoint)
        opened.create_archive_task()
        opened.create_meter(METER, "4011220", "gw-1", "archive")
        opened.start_agent("gw-1", f"outbox_bytes = {LEAST_BYTES}\n")
        opened.wait_settled()
        begun = opened.clock.now()
        opened.wait_readings(0)
        opened.wait_settled()
        opened.end_agent("gw-1")
        for process in opened.hub_processes:
            process.end()

        first = opened.clock.now().replace(second=0, microsecond=0) - dt.timedelta(days=365)
        momentary = fill(opened, first)
        spent = opened.clock.now()
        opened.start_agent("gw-1")
        config = str(opened.agent_folder("gw-1") / "agent.toml")
        outbox = ["metergate-agent", "outbox", "--config", config]
        opened.wait_for("reads stop", lambda: "archive_reads_stopped" in opened.agents["gw-1"].log.read_text())
        told: list[str] = []

        def is_told() -> bool:
            told.append(opened.stage.run(outbox))
            return "scheduled archive reads wait" in told[-1]

        opened.wait_for("reads stop, and people are told", is_told)
        # The receipted tail has gone, without a record.
        assert "kept for a restored hub" not in told[-1].split("report:")[0]
        opened.clock.wait_until(opened.clock.now() + dt.timedelta(minutes=16), lambda: None)

        opened.start_hub()
        opened.wait_settled()
        opened.wait_for(
            "archive reads again",
            lambda: any(instant(run["tick"]) > spent for run in archive_runs(opened, "done")),
        )
        opened.wait_settled()
        waited = [run for run in archive_runs(opened, "missed") if "disk budget" in run["cause"]]
        assert waited
        # Every momentary value is a reading or counted in a record, none is both, and nothing else was lost.
        # (An archive has rows of this series too: what went of those is asked for again, and judged below.)
        losses = [
            row
            for row in opened.hub.all("/v1/loss-records/")
            if row["series"] == "2:300" and "the meter is asked for them again" not in row["reason"]
        ]
        assert losses
        assert all("disk budget" in row["reason"] for row in losses)
        lost = sum(row["count"] for row in losses)
        ends = {"start_time": first.isoformat(), "end_time": momentary[-1].isoformat()}
        stored = opened.count(series=opened.series["2:300"], **ends)
        spans = [(instant(row["start"]), instant(row["end"])) for row in losses]
        assert lost == sum(any(start <= at <= end for start, end in spans) for at in momentary)
        assert stored + lost == len(momentary)
        # And what the archive reads left to the meter has been read.
        opened.stop_tasks()
        last = max(instant(run["tick"]) for run in archive_runs(opened, "done"))
        # The year before is judged above.
        figures = opened.judge(begun, last, start_time=(spent - dt.timedelta(days=2)).isoformat())
        assert figures.expected > 0
        assert (figures.missing, figures.duplicates, figures.wrong) == (0, 0, 0), figures
