"""The meters of the bench ``lines``: one on each of many lines, all in this process, at the pace of their lines.

It is the same meter on each, so that all have the same rows: events and alarms, which follow from the serial number,
would add some to each other meter's, and the longest of many readouts would be compared with one.

``python -m benchmarks._lines_meters FOLDER LINES RATE`` prints one JSON object when all lines are there: the endpoints,
pseudo-terminals, in their order. Line L is logged to FOLDER/wire-L.log. Ends on SIGTERM.
"""

import asyncio
import contextlib
import json
import pathlib
import signal
import sys

from agent.simulator.bus import serve_pty, virtual_bus

HISTORY_DAYS = 2
INTERVAL = 15
SERIAL = 12_000_000


async def serve(folder: pathlib.Path, lines: int, rate: int) -> None:
    """Serve the lines until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        endpoints = []
        for line in range(lines):
            bus = virtual_bus(
                f"1:{SERIAL}:EK280",
                seed=7,
                timezone="UTC",
                interval=INTERVAL,
                history_days=HISTORY_DAYS,
                throttle=True,
                opening_rate=rate,
                offered_rate=rate,
                fixed_rate=True,
                log=folder / f"wire-{line}.log",
            )
            endpoints.append(await stack.enter_async_context(serve_pty(bus)))
        sys.stdout.write(json.dumps({"endpoints": endpoints}) + "\n")
        sys.stdout.flush()
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
