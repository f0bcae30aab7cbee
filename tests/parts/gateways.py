"""An agent of one's own for a test: settings with short waits, a quick clock, simulated meters, start and stop."""

import asyncio
import contextlib
import datetime as dt
import pathlib
from collections.abc import AsyncIterator

from agent.app import Agent
from agent.clocks import Clock
from agent.settings import AgentSettings, Timing, parse_broker
from agent.simulator.bus import serve_tcp, virtual_bus
from protocol.clock_settings import ClockSetting

RATE = 600.0
"""A quarter of an hour takes 1.5 seconds."""


def fast_clock() -> Clock:
    """A clock that begins two minutes before a tick of every schedule up to hourly."""
    start = dt.datetime(2026, 3, 2, 9, 58, tzinfo=dt.UTC)
    return Clock(ClockSetting(start, dt.datetime.now(dt.UTC).timestamp(), RATE))


def gateway_settings(folder: pathlib.Path, url: str, gateway: str, answer: float = 3.0) -> AgentSettings:
    """Settings with everything in one folder."""
    return AgentSettings(
        gateway=gateway,
        broker=parse_broker(url),
        data=folder,
        store=folder / "agent.db",
        key_file=folder / "agent.key",
        timing=Timing(resend=0.4, resend_max=2.0, reconnect=0.05, reconnect_max=0.2, answer=answer),
    )


@contextlib.asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[Agent]:
    """Run the agent for the length of the block, and stop it in order."""
    stop = asyncio.Event()
    task = asyncio.create_task(agent.run(stop))
    try:
        yield agent
    finally:
        stop.set()
        await task


@contextlib.asynccontextmanager
async def meters(clock: Clock) -> AsyncIterator[str]:
    """Serve two meters, addresses 1 and 2, on one TCP line."""
    bus = virtual_bus("1:4711:EK280", "2:4712:EK280", seed=7, now=clock.now)
    async with serve_tcp(bus) as endpoint:
        yield endpoint
