"""Figures for Prometheus: of the database over REST, and of a relay on a port of its own."""

import datetime as dt
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from hub.lifesigns import note_life_signs
from hub.signs_waiting import LifeSign
from protocol.envelopes import SigningKey
from protocol.reports import Online
from tests.parts.databases import database_url, drop_postgresql, engine, new_postgresql
from tests.parts.estates import make_estate
from tests.parts.mosquitto import mosquitto
from tests.parts.rest import Rest, rest

__all__ = ["database_url", "engine", "rest"]

HUB = str(Path(sys.executable).parent / "metergate-hub")


def figures(page: str) -> dict[str, float]:
    """Read a page with Prometheus' own parser, without labels."""
    return {sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples}


async def test_gateways_are_counted_by_what_they_say(rest: Rest) -> None:
    await make_estate(rest.hub.engine)
    now, key = rest.clock.now(), SigningKey.generate()
    sign = Online("gw-1", online=True, session=1, store=b"1" * 16, software="t", at=now, depth=7, clock_believed=False)
    waiting = Online(
        *("gw-1", True, 2, b"1" * 16, "t", now),
        depth=7,
        oldest=now - dt.timedelta(minutes=2),
        clock_believed=False,
    )
    await note_life_signs(rest.hub.engine, [LifeSign(sign, key.public)], now)
    await note_life_signs(rest.hub.engine, [LifeSign(waiting, key.public)], now)
    await note_life_signs(rest.hub.engine, [LifeSign(sign, SigningKey.generate().public)], now)
    found = figures((await rest.client.get("/metrics")).text)
    assert found["metergate_gateway_outbox_rows"] == 7
    assert found["metergate_gateway_outbox_oldest_seconds"] == 120
    assert found["metergate_gateways_in_conflict"] == 1
    assert found["metergate_gateways_clock_doubted"] == 1


async def test_a_relay_serves_its_figures_where_it_is_told(tmp_path: Path) -> None:
    name, url = await new_postgresql()
    with mosquitto() as broker:
        command = [HUB, "relay", "--database", url, "--broker", broker.url, "--data", str(tmp_path)]
        with subprocess.Popen([*command, "--metrics-port", "0"], stdout=subprocess.PIPE, text=True) as relay:  # noqa: ASYNC220 - nothing else runs here
            assert relay.stdout is not None
            told = json.loads(relay.stdout.readline())
            async with httpx.AsyncClient() as client:
                found = figures((await client.get(told["metrics"])).text)
            relay.send_signal(signal.SIGTERM)
            assert relay.wait(20) == 0
    assert found["metergate_relay_connected"] == 1
    assert found["metergate_relay_store_seconds_count"] == 0
    await drop_postgresql(name)
