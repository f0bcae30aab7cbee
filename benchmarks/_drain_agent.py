"""The agent of the bench ``drain``, in a process of its own: the real one, which is also given a reading now and then.

``python -m benchmarks._drain_agent SETTINGS DEVICE METER`` prints a line of JSON when it begins, and ends on SIGTERM.
"""

import asyncio
import datetime as dt
import decimal
import itertools
import json
import pathlib
import signal
import sys
import time
import uuid

from agent.app import Agent, configure_logs
from agent.clocks import Clock
from agent.settings import read_settings
from protocol.readings import FROM_GATEWAY, NewMeterReading
from protocol.wire import encode

PATIENCE = 10.0
EVERY = 0.25
"""Seconds between two fresh readings."""


async def read(agent: Agent, device: uuid.UUID, meter: str) -> None:
    """Store a reading of now, again and again."""
    for number in itertools.count(1):
        now = dt.datetime.now(dt.UTC)
        row = NewMeterReading(
            meter, "2:300", now, decimal.Decimal(number), "m3", device, now, FROM_GATEWAY, None, uuid.uuid4()
        )
        with agent.store.transaction():
            agent.store.readings.append([encode(row)])
        await asyncio.sleep(EVERY)


async def run(settings: str, device: str, meter: str) -> None:
    """Be the agent until SIGTERM."""
    agent = Agent(read_settings(pathlib.Path(settings)), Clock())
    stop = asyncio.Event()
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)
    print(json.dumps({"at": time.time()}), flush=True)
    reading = asyncio.create_task(read(agent, uuid.UUID(device), meter))
    asked = asyncio.create_task(ending.wait())
    running = asyncio.create_task(agent.run(stop))
    await asyncio.wait({asked, running}, return_when=asyncio.FIRST_COMPLETED)
    reading.cancel()
    await asyncio.wait({reading})
    if not running.done():
        # What was read last is delivered before the end, so that store and hub can be compared.
        until = time.monotonic() + PATIENCE
        while agent.store.depth() and time.monotonic() < until:  # noqa: ASYNC110 - receipts set no event
            await asyncio.sleep(0.1)
    stop.set()
    await running


if __name__ == "__main__":
    configure_logs("warning")
    asyncio.run(run(*sys.argv[1:4]))
