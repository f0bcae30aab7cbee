"""A store that turns out to be damaged while the agent runs: the agent begins again by itself, with what was saved."""

import asyncio
import pathlib
import random
import uuid

from agent.app import run_agent
from agent.store import Store
from protocol.readings import NewMeterReading
from protocol.reports import LossRecord
from protocol.wire import encode, parse_decimal
from tests.parts.gateways import fast_clock, gateway_settings
from tests.parts.mosquitto import free_port, mosquitto
from tests.parts.relay import relay


async def test_damage_found_at_run_time_is_salvaged_and_told(tmp_path: pathlib.Path) -> None:
    gateway, clock, port = f"gw-{uuid.uuid4().hex[:8]}", fast_clock(), free_port()
    place = gateway_settings(tmp_path, f"mqtt://127.0.0.1:{port}", gateway)
    store = Store(place.store, gateway, clock)
    meter = uuid.uuid4()
    bodies = [
        encode(NewMeterReading("M1", f"2:{number}", clock.now(), parse_decimal("1"), "m3", meter))
        for number in range(2000)
    ]
    with store.transaction():
        store.readings.append(bodies)
    store.close()
    content = bytearray(place.store.read_bytes())
    middle = len(content) // 2 // 1024 * 1024
    content[middle : middle + 4096] = random.Random(3).randbytes(4096)  # noqa: S311 - a seed
    # In place, as a bad block would be: the file still fits its seal, and nobody looks until it is read.
    with place.store.open("r+b") as file:
        file.write(content)
    with mosquitto() as broker:
        async with relay(broker.url, gateway) as hub:
            agent = asyncio.create_task(run_agent(gateway_settings(tmp_path, broker.url, gateway), clock))
            try:
                await hub.until(lambda: hub.online and "damaged" in hub.online[-1].status)
                await hub.until(lambda: hub.of(LossRecord) and hub.online[-1].depth == 0)
            finally:
                agent.cancel()
                await asyncio.wait([agent])
            arrived = {reading.series for reading in hub.readings}
            declared = sum(loss.count for loss in hub.of(LossRecord) if loss.series == "readings")
    assert 0 < 2000 - len(arrived) <= declared < 200
    assert (tmp_path / "agent.db.broken-1").exists()
