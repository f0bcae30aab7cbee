"""Gaps close themselves, with real processes: what a meter still holds is fetched while its line has nothing to do."""

import datetime as dt
import pathlib

from deploy.demo.expected import instant
from tests.parts.site import RATE, START, Site, site

METER, SERIAL = "Heating plant", "4011220"
LACKING = dt.timedelta(hours=30)
"""So long ago the meter was commissioned; its archive reaches back a day."""


def one_meter_that_lacks_a_day(opened: Site) -> None:
    """A meter whose task reads the last quarters only, while its config expects all since it was commissioned."""
    endpoint = opened.start_line("one", f":{SERIAL}")
    opened.create_basics()
    expected = [{"series": "7:310/3", "interval": "quarter_hour", "archive": 3}]
    opened.hub.patch(f"/v1/metering/meter-device-configs/{opened.configs['EK280']}", expectations=expected)
    opened.create_gateway("gw-1", endpoint)
    opened.create_task(
        "newest", "read_archive_by_offset_seconds", offset_seconds=1800, archive_number=3, control_position=3
    )
    opened.create_meter(METER, SERIAL, "gw-1", "newest")
    opened.hub.patch(f"/v1/metering/meter-devices/{opened.devices[METER]}", commissioned=(START - LACKING).isoformat())
    opened.start_agent("gw-1")


def test_what_a_meter_holds_is_fetched_and_what_it_lost_is_told(tmp_path: pathlib.Path) -> None:
    with site(f"sqlite:///{tmp_path / 'hub.db'}", tmp_path) as opened:
        one_meter_that_lacks_a_day(opened)
        opened.wait_for("a gap is noticed", lambda: opened.count("/v1/backfills/") > 0)
        opened.wait_for(
            "all gaps are closed",
            lambda: opened.count("/v1/backfills/") == opened.count("/v1/backfills/", state="done"),
        )
        asked = {"start": (START - LACKING).isoformat(), "end": START.isoformat()}
        left = opened.hub.post("/v1/backfills/", **asked, meter_device=opened.devices[METER], dry_run=True)
        assert left["missing"] == 0, left
        of_series = {"series": opened.series["7:310/3"], "end_time": START.isoformat()}
        stored = list(opened.hub.all("/v1/metering/meter-readings", **of_series))
        evidence = "".join(row["evidence"] for row in opened.hub.all("/v1/backfills/"))
        # 24 hours are in the archive, the six before that are nowhere any more.
        assert 90 <= len(stored) <= 100, evidence
        assert "lost for good: archive 3 was asked" in evidence

        commands = list(opened.hub.all("/v1/commands/", origin="backfill"))
        assert commands
        assert {command["state"] for command in commands} == {"done"}
        runs = [run for run in opened.hub.all("/v1/runs/", outcome="done") if run["tick"] is not None]
        late = [(instant(run["started"]) - instant(run["tick"])).total_seconds() / RATE for run in runs]
        assert max(late) < 3.0, "schedules are never late for it"
