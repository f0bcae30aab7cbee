"""``identify`` finds what stands on a line within its time, and gets through beside another master."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator

import pytest

from agent.identify import SERIAL_SETTINGS, SOCKET_SETTINGS, Setting, Way, ways
from agent.links import read_endpoint
from agent.simulator.bus import VirtualBus, serve_pty, serve_tcp, virtual_bus
from protocol.iec62056 import Data, ReadCommand, Request
from protocol.iec62056.characters import with_even_parity
from protocol.iec62056.telegrams import encode
from tests.parts.commands import Said, tool
from tests.parts.wires import NOW

ZONE = ("--timezone", "Europe/Berlin")
CHATTER = with_even_parity(
    encode(Request("77")) + encode(ReadCommand("1:400.0")) + encode(Data("1:400.2(2025-03-12,10:30:00)"))
)


def bus(*specs: str, **settings: object) -> VirtualBus:
    return virtual_bus(*(specs or ("1:4711:EK280",)), seed=7, now=lambda: NOW, **settings)  # type: ignore[arg-type]


def identified_after(said: Said) -> float:
    """Seconds of the trace at which the meter named itself."""
    found = re.search(r"^ *([\d.]+)  <-.*of maker Els", said.err, re.MULTILINE)
    assert found is not None, said.err
    return float(found[1])


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 6.0),
        ({"faults": ["parity_none"]}, 6.0),
        ({"opening_rate": 19200, "fixed_rate": True}, 10.0),
        ({"faults": ["battery"]}, 20.0),
    ],
    ids=["300 Bd", "300 Bd without parity", "wired", "battery"],
)
async def test_what_stands_in_front_of_technicians_most_is_found_soon(
    settings: dict[str, object], seconds: float
) -> None:
    """On a line at wire speed that is deaf to calls at other rates, without any option."""
    async with serve_pty(bus(strict_rate=True, throttle=True, **settings)) as endpoint:
        said = await tool("identify", endpoint, "--no-archives", "--trace", *ZONE)
    assert said.status == 0, said.out
    assert identified_after(said) <= seconds
    assert "calling everybody at 300 Bd opening rate, even parity" in said.err


def test_every_setting_is_called_with_parity_and_without_and_the_slow_one_in_time() -> None:
    for settings in (SERIAL_SETTINGS, SOCKET_SETTINGS):
        tried = ways(settings)
        assert len(tried) == len(set(tried)) == 2 * len(settings)
        assert {way.setting for way in tried} == set(settings)
        assert tried[:2] == [Way(Setting(), even=True), Way(Setting(), even=False)]
    assert ways(SERIAL_SETTINGS).index(Way(Setting(wake_up=True))) <= 4


async def test_beside_another_master_it_gets_through_and_says_what_it_heard() -> None:
    """Telegrams of a foreign conversation stand before every single answer."""
    async with serve_tcp(bus(faults=["foreign_master=1"])) as endpoint:
        said = await tool("identify", endpoint, "--json", *ZONE)
        words = await tool("identify", endpoint, "--no-archives", *ZONE)
        rows = await tool("archive", endpoint, "3", "--last", "30", "--json", *ZONE)
    assert said.status == 0, said.out
    found = json.loads(said.out)
    (meter,) = found["meters"]
    assert (meter["serial"], meter["type"]) == ("4711", "EK280")
    assert {archive["number"] for archive in meter["archives"]} == {1, 2, 3, 4, 5, 7}
    assert all("says" not in archive for archive in meter["archives"])
    assert found["foreign_count"] > 10
    assert sorted(text.partition(" (")[0] for text in found["foreign"]) == [
        "/?77!<CR><LF>",
        "<SOH>R1<STX>1:400.0(1)<ETX>s",
        "<STX>5:321.0(17.25*bar)<ETX>W",
    ]
    assert "another master is at work on this line" in words.out
    assert (rows.status, len(rows.out.splitlines())) == (0, 30)


@contextlib.asynccontextmanager
async def busy_for(endpoint: str, seconds: float) -> AsyncIterator[str]:
    """The line of ``endpoint``, on which another master speaks for so long after each connection is made.

    What is said meanwhile collides and is lost.
    """
    address = read_endpoint(endpoint)
    assert address is not None
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far, back = await asyncio.open_connection(*address)
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            writer.write(CHATTER)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reader.read(4096)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(pump(reader, back))
                group.create_task(pump(far, writer))
        finally:
            writer.close()
            back.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"socket://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_nobody_is_called_while_somebody_speaks() -> None:
    async with serve_tcp(bus()) as endpoint, busy_for(endpoint, 1.5) as busy:
        said = await tool("identify", busy, "--no-archives", "--trace", *ZONE)
    assert said.status == 0, said.out
    assert "serial number     4711" in said.out
    assert "listening until it is silent" in said.err
    assert "<SOH>R1<STX>1:400.0(1)<ETX>s (read 1:400.0; BCC ok)" in said.out
    assert said.err.count("who is there? (every meter)") == 1
