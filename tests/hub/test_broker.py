"""The embedded broker answers, carries the largest message, comes back after a kill and ends with its parent."""

import asyncio
import os
import pathlib
import signal
import sys
import time
from subprocess import DEVNULL

import aiomqtt
import pytest

from hub.broker import BrokerError, embedded_broker
from protocol.topics import QOS, relay_filters
from protocol.wire import MAX_MESSAGE_BYTES


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"


async def until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_carries_the_largest_message_over_a_shared_subscription() -> None:
    async with (
        embedded_broker() as broker,
        aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client,
    ):
        await client.subscribe(relay_filters()[0], qos=QOS)
        await client.publish("amr/v1/gw-1/readings", bytes(MAX_MESSAGE_BYTES), qos=QOS)
        message = await asyncio.wait_for(anext(aiter(client.messages)), 10)
        assert len(message.payload) == MAX_MESSAGE_BYTES


async def test_comes_back_on_the_same_port_after_a_kill(tmp_path: pathlib.Path) -> None:
    pid_file = tmp_path / "broker.pid"
    async with embedded_broker(pid_file=pid_file) as broker:
        first = int(pid_file.read_text())
        assert first == broker.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: int(pid_file.read_text()) != first)
        async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.publish("amr/v1/gw-1/online", b"", qos=QOS)
        second = broker.pid
    assert second is not None
    assert not alive(second)
    assert not pid_file.exists()


async def test_says_that_a_port_is_taken() -> None:
    async with embedded_broker() as broker:
        with pytest.raises(BrokerError, match=str(broker.port)):
            async with embedded_broker(broker.port):
                pass


async def test_ends_with_a_parent_that_is_killed(tmp_path: pathlib.Path) -> None:
    pid_file = tmp_path / "broker.pid"
    program = (
        "import asyncio, pathlib, sys\n"
        "from hub.broker import embedded_broker\n"
        "async def main():\n"
        "    async with embedded_broker(pid_file=pathlib.Path(sys.argv[1])):\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(pid_file), stdout=DEVNULL)
    try:
        await until(pid_file.exists)
        child = int(pid_file.read_text())
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not alive(child))
