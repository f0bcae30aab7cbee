"""Simulated lines for the soak, several in one process: throttled 9600 Bd, each on a pseudo-terminal of its own.

``python -m benchmarks._soak_lines FOLDER METERS_PER_LINE INTERVAL LINE ...`` prints one JSON object when all lines are
there: the endpoint of each. Line L has the meters with the addresses 1 to METERS_PER_LINE and the serial numbers
``serial_of(L, address)``; the truth of each line goes to FOLDER/truth-L.jsonl. Ends on SIGTERM.
"""

import asyncio
import contextlib
import json
import pathlib
import signal
import sys

from agent.clocks import system_clock
from agent.simulator.bus import serve_pty, virtual_bus
from benchmarks.soak_site import RATE, serial_of

HISTORY_DAYS = 1.5


async def serve(folder: pathlib.Path, meters: int, interval: int, lines: list[int]) -> None:
    """Serve the lines until SIGTERM."""
    now = system_clock().now
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with contextlib.AsyncExitStack() as stack:
        endpoints = {}
        for line in lines:
            bus = virtual_bus(
                *(f"{address}:{serial_of(line, address)}:EK280" for address in range(1, meters + 1)),
                seed=5,
                now=now,
                interval=interval,
                history_days=HISTORY_DAYS,
                truth=folder / f"truth-{line}.jsonl",
                throttle=True,
                opening_rate=RATE,
                offered_rate=RATE,
                fixed_rate=True,
            )
            endpoints[line] = await stack.enter_async_context(serve_pty(bus))
        sys.stdout.write(json.dumps({"lines": endpoints}) + "\n")
        sys.stdout.flush()
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [int(x) for x in sys.argv[4:]]))
