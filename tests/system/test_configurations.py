"""People rename meters, edit configurations and create meters late, while readings are under way."""

import pathlib
import time

from tests.parts.databases import ON_POSTGRESQL, ON_SQLITE, database_url
from tests.parts.site import EK_SERIES, site
from tests.system.test_kills import polling_site

__all__ = ["database_url"]


@ON_SQLITE
def test_two_meters_swap_names_while_the_gateway_holds_a_backlog(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        endpoint = opened.start_line("one", "1:4011220", "2:4011221")
        opened.create_basics()
        opened.create_gateway("gw-1", endpoint)
        opened.create_archive_task()
        opened.create_meter("A", "4011220", "gw-1", "archive", address="1")
        opened.create_meter("B", "4011221", "gw-1", "archive", address="2")
        opened.start_agent("gw-1")
        opened.wait_settled()
        begun = opened.clock.now()
        opened.wait_readings(0)
        opened.broker.kill()
        time.sleep(9)
        first, second = opened.devices["A"], opened.devices["B"]
        for device, name in ((first, "C"), (second, "A"), (first, "B")):
            opened.hub.patch(f"/v1/metering/meter-devices/{device}", name=name)
        opened.broker.start()
        # The truth is by serial number, the hub's devices by id: neither has moved.
        opened.finish(begun)


@ON_SQLITE
def test_series_taken_out_and_put_back(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        polling_site(opened)
        opened.wait_settled()
        begun = opened.clock.now()
        opened.wait_readings(0)
        config = f"/v1/metering/meter-device-configs/{opened.configs['EK280']}"
        opened.hub.patch(config, series=[id_ for name, id_ in opened.series.items() if name != "7:310/3"])
        staged = "/v1/metering/staged-meter-readings"
        opened.wait_for("staged readings", lambda: opened.count(staged) > 0)
        reasons = {row["reason"] for row in opened.hub.all(staged)}
        assert reasons == {"series_not_allowed"}
        opened.hub.patch(config, series=[opened.series[name] for name in EK_SERIES])
        opened.wait_for("nothing staged", lambda: opened.count(staged) == 0)
        opened.finish(begun, ("Heating plant", "2:300"))


@ON_POSTGRESQL
def test_meter_created_while_its_readings_arrive(database_url: str, tmp_path: pathlib.Path) -> None:
    with site(database_url, tmp_path) as opened:
        opened.create_basics()
        pushed = [
            {"meter": "Late", "series": "2:300", "timestamp": f"2026-03-02T{hour:02}:00:00Z", "value": f"{hour}.50"}
            for hour in range(24)
        ]
        opened.hub.call("POST", "/v1/metering/new-meter-readings", pushed[:12])
        assert opened.count("/v1/metering/staged-meter-readings") == 12
        opened.create_gateway("gw-1", "/dev/null")
        opened.create_meter("Late", "1", "gw-1")
        opened.hub.call("POST", "/v1/metering/new-meter-readings", pushed)
        opened.wait_for("nothing staged", lambda: opened.count("/v1/metering/staged-meter-readings") == 0)
        assert opened.count() == 24
        values = {row["value"] for row in opened.hub.all("/v1/metering/meter-readings")}
        assert values == {f"{hour}.50" for hour in range(24)}
