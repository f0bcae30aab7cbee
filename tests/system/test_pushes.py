"""A meter that pushes, through a whole site of real processes: every slot once, through faults, kills and strangers."""

import collections
import datetime as dt
import json
import pathlib

import pytest

from tests.parts.databases import database_url
from tests.parts.site import site

__all__ = ["database_url"]

ROOT = pathlib.Path(__file__).parents[2]
RATE = 450.0
"""A quarter of an hour passes in two seconds."""
SERIES = ("1-0:1.8.1", "1-0:1.8.2", "24.2.1")


def slot(instant: dt.datetime) -> dt.datetime:
    return instant.replace(minute=instant.minute // 15 * 15, second=0, microsecond=0)


def test_what_is_pushed_arrives_once_a_slot_and_what_is_damaged_is_seen(
    database_url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    truth = tmp_path / "pushed.jsonl"
    with site(database_url, tmp_path, rate=RATE) as opened:
        push = opened.stage.start(
            "push",
            [
                *("metergate-agent", "push", "dsmr_p1", "serve:127.0.0.1:0", "--every", "30", "--truth", str(truth)),
                *("--double", "0.1", "--noise", "0.1", "--loss", "0.1", "--restart", "100"),
            ],
            hello=True,
        )
        opened.create_basics()
        series = {
            name: opened.hub.post(
                "/v1/metering/meter-reading-series", organization=opened.organization, name=name, unit="-"
            )["id"]
            for name in SERIES
        }
        config = opened.hub.post(
            "/v1/metering/meter-device-configs",
            organization=opened.organization,
            name="P1",
            series=list(series.values()),
            timezone="Europe/Amsterdam",
        )
        kind = opened.hub.post(
            "/v1/metering/meter-device-types",
            organization=opened.organization,
            name="P1",
            manufacturer="S",
            manufacturer_model="P1",
            config=config["id"],
        )
        meters = {
            serial: opened.hub.post(
                "/v1/metering/meter-devices",
                organization=opened.organization,
                name=name,
                protocol="iec62056-21",
                manufacturer_serial=serial,
                type=kind["id"],
            )["id"]
            for serial, name in (("E0017", "House 7"), ("G0017", "House 7 gas"))
        }
        opened.create_gateway("gw-1", "/dev/null")
        receiver = opened.hub.post(
            "/v1/receivers",
            organization=opened.organization,
            gateway=opened.gateways["gw-1"],
            name="p1",
            receiver="dsmr_p1",
            endpoint=push.hello["place"],
            meter_devices=list(meters.values()),
        )
        opened.start_agent("gw-1")
        opened.wait_readings(4)
        opened.kill_agent("gw-1")
        opened.start_agent("gw-1")
        opened.wait_readings(9)
        opened.wait_for("a telegram was damaged", lambda: opened.count("/v1/undecodable-pushes") > 0)
        opened.hub.patch(f"/v1/receivers/{receiver['id']}", is_active=False)
        opened.wait_settled()
        readings = list(opened.hub.all("/v1/metering/meter-readings"))
        undecodable = list(opened.hub.all("/v1/undecodable-pushes", receiver=receiver["id"]))
        assert opened.count("/v1/metering/staged-meter-readings") == 0
        push.end()

    said = {
        (meters[row["meter"]], series[row["series"]], dt.datetime.fromisoformat(row["timestamp"])): row["value"]
        for row in map(json.loads, truth.read_text().splitlines())
    }
    slots: collections.Counter[tuple[str, str, dt.datetime]] = collections.Counter()
    for row in readings:
        at = dt.datetime.fromisoformat(row["timestamp"])
        assert said[row["meter_device"], row["series"], at] == row["value"]
        slots[row["meter_device"], row["series"], slot(at)] += 1
    assert set(slots.values()) == {1}
    # What a meter says while its gateway is down nobody hears; all else is there.
    assert len({at for device, _, at in slots if device == meters["E0017"]}) >= 3
    assert {device for device, _, _ in slots} == set(meters.values())
    assert undecodable
    assert {"damaged" in row["cause"] or "cut" in row["cause"] for row in undecodable} == {True}
