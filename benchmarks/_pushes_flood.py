"""The flood of the bench ``pushes``: a TCP port that says P1 telegrams as fast as it is told, in a process of its own.

``python -m benchmarks._pushes_flood RATE`` prints one JSON object with its endpoint, then says RATE telegrams a second
to whoever is connected, each second the same one with the next second's time. What nobody reads in time is not sent.
"""

import datetime as dt
import json
import socket
import sys
import time

from agent.simulator.pushing import P1Meter

SERIAL = "E0017"
_TICK = 0.01


def main(rate: int) -> None:
    """Serve one connection after the other until the process is ended."""
    meter = P1Meter(7, SERIAL)
    with socket.create_server(("127.0.0.1", 0)) as door:
        sys.stdout.write(json.dumps({"endpoint": f"socket://127.0.0.1:{door.getsockname()[1]}"}) + "\n")
        sys.stdout.flush()
        while True:
            connection, _ = door.accept()
            with connection:
                _flood(connection, meter, rate)


def _flood(connection: socket.socket, meter: P1Meter, rate: int) -> None:
    share = max(1, round(rate * _TICK))
    begun = time.monotonic()
    ticks = 0
    second, payload = 0, b""
    try:
        while True:
            now = time.time()
            if int(now) != second:
                second = int(now)
                payload = meter.payload(dt.datetime.fromtimestamp(second, dt.UTC)) * share
            connection.sendall(payload)
            ticks += 1
            time.sleep(max(0.0, begun + ticks * _TICK - time.monotonic()))
    except ConnectionError:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
