"""The modem of one simulated meter: it says each new row of the meter's archive over MQTT, and keeps nothing.

It stands for other people's devices: it knows the topic and the JSON of the receiver ``amr_um``, and nothing else of
Metergate. Like many of them it calls the broker for each row and goes away again; what it cannot say is lost. It
follows the truth file that the simulator writes.

    python -m deploy.demo.modem TRUTH.jsonl HOST PORT TOPIC METER SERIAL ARCHIVE
"""

import asyncio
import json
import pathlib
import signal
import sys
from collections.abc import Iterator
from typing import Any

from deploy.demo.expected import series_of
from mqtt.addresses import BrokerAddress
from mqtt.connection import Access, BrokerError, Outgoing, connect

LOOK_SECONDS = 0.1
ANSWER_SECONDS = 2.0


def message_of(row: dict[str, Any], meter: str) -> bytes:
    """Return a row of the truth as the message that says it."""
    readings = [
        {
            "meter": meter,
            "series": series_of(source, row["archive"]),
            "timestamp": row["timestamp"],
            "value": value,
            "unit": row["units"][source],
        }
        for source, value in row["values"].items()
    ]
    return json.dumps(readings).encode()


class Follower:
    """Reads what is appended to a truth file, from its end on."""

    def __init__(self, path: pathlib.Path, serial: str, archive: int) -> None:
        self._path, self._wanted = path, (serial, archive)
        self._read = len(path.read_bytes())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the archive that have arisen since the last look."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        for line in map(json.loads, text.splitlines()):
            if (line["serial"], line.get("archive")) == self._wanted and line["values"]:
                yield line


async def say(access: Access, topic: str, message: bytes) -> bool:
    """Call the broker, say it, and go; whether the broker took it."""
    try:
        async with connect(access, None) as connection:
            await connection.publish(Outgoing(topic, message))
    except BrokerError:
        return False
    return True


async def follow(arguments: list[str]) -> None:
    """Push until SIGTERM; one line of JSON for each row says what became of it."""
    truth, host, port, topic, meter, serial, archive = arguments
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    follower = Follower(pathlib.Path(truth), serial, int(archive))
    access = Access(BrokerAddress(host, int(port)), answer=ANSWER_SECONDS)
    print(json.dumps({"topic": topic}), flush=True)
    while not ended.is_set():
        for row in follower.rows():
            said = await say(access, topic, message_of(row, meter))
            sys.stderr.write(json.dumps({"timestamp": row["timestamp"], "said": said}) + "\n")
        await asyncio.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1:]))
