"""A gateway whose disk takes nothing any more: it goes on, says so, and makes up for it when it can write again."""

import asyncio
import contextlib
import datetime as dt
import itertools
import os
import pathlib
import resource
import sys
import uuid
from collections.abc import AsyncIterator

from tests.parts.gateways import RATE, fast_clock, meters
from tests.parts.mosquitto import mosquitto
from tests.parts.relay import a_device, a_line, a_task, an_archive_task, relay

NOTHING, EVERYTHING = 0, resource.RLIM_INFINITY


@contextlib.asynccontextmanager
async def agent_process(folder: pathlib.Path, gateway: str, broker: str, start: dt.datetime) -> AsyncIterator[int]:
    """Run the agent as a process of its own, on a clock that shows what ours does; yield its process id."""
    settings = folder / "agent.toml"
    settings.write_text(
        f'gateway = "{gateway}"\nbroker = "{broker}"\ndata = "{folder}"\n[timing]\nresend = 0.4\nreconnect = 0.1\n'
    )
    clock = {"METERGATE_CLOCK": f"{start.isoformat()},{RATE:g}", "METERGATE_ENVIRONMENT": "test"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.entry", "run", "--config", str(settings),
        env={**os.environ, **clock}, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
        assert process.returncode is None, "the agent has ended"
    finally:
        process.terminate()
        await process.wait()


def may_write(pid: int, most: int) -> None:
    """Let a process write files up to so many bytes; more fails, as on a disk without room."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, EVERYTHING))


async def test_a_full_disk_is_said_survived_and_made_up_for(tmp_path: pathlib.Path) -> None:
    gateway = f"gw-{uuid.uuid4().hex[:8]}"
    clock = fast_clock()
    with mosquitto() as broker:
        async with meters(clock) as endpoint, relay(broker.url, gateway) as hub:
            single, archive, line = a_task(), an_archive_task("quarterly"), a_line(endpoint)
            device = a_device(line, tasks=[single.id, archive.id])
            await hub.plan(1, lines=[line], devices=[device], tasks=[single, archive])
            async with agent_process(tmp_path, gateway, broker.url, clock.now()) as pid:
                await hub.until(lambda: len([run for run in hub.runs() if run.outcome == "done"]) >= 2)
                may_write(pid, NOTHING)
                await hub.until(lambda: "cannot be written" in hub.online[-1].status)
                full = clock.now()
                await asyncio.sleep(3)
                may_write(pid, EVERYTHING)
                await hub.until(lambda: "cannot be written" not in hub.online[-1].status)
                again = clock.now()
                await hub.until(
                    lambda: any(
                        run.tick and run.tick > again and run.task == archive.id and run.outcome == "done"
                        for run in hub.runs()
                    )
                )
                await hub.until(lambda: hub.online[-1].depth == 0 and hub.online[-1].online)
    # Every tick of each task has ended exactly once, those while nothing could be written included.
    for task in (single.id, archive.id):
        quarter = dt.timedelta(minutes=15)
        runs = [run for run in hub.runs() if run.task == task]
        ticks = sorted(run.tick - number * quarter for run in runs if run.tick for number in range(run.count))
        assert len(ticks) == len(set(ticks))
        assert {b - a for a, b in itertools.pairwise(ticks)} == {dt.timedelta(minutes=15)}
    # The archive's rows of that time were read from the meter afterwards.
    stamps = {r.timestamp for r in hub.readings if r.run in {run.id for run in hub.runs() if run.task == archive.id}}
    assert any(full - dt.timedelta(hours=1) <= stamp <= again for stamp in stamps)
