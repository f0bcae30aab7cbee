"""The I/O seam on real pseudo-terminals and sockets."""

import asyncio
import os
import termios
from collections.abc import Iterator

import pytest

from agent.links import LinkError, open_link


@pytest.fixture
def pty() -> Iterator[tuple[int, str]]:
    master, slave = os.openpty()
    os.set_blocking(master, False)
    yield master, os.ttyname(slave)
    os.close(master)
    os.close(slave)


async def test_bytes_pass_unchanged_both_ways(pty: tuple[int, str]) -> None:
    master, path = pty
    link = await open_link(path, 300)
    everything = bytes(range(256))
    await link.write(everything)
    assert os.read(master, 1000) == everything
    os.write(master, everything)
    received = b""
    while len(received) < len(everything):
        received += await link.read(1)
    assert received == everything
    await link.aclose()


async def test_a_port_is_opened_8n1_at_any_rate(pty: tuple[int, str]) -> None:
    master, path = pty
    link = await open_link(path, 12345)
    await link.set_rate(19200)
    _, _, flags, _, speed, _, _ = termios.tcgetattr(master)
    assert flags & termios.CSIZE == termios.CS8
    assert not flags & (termios.PARENB | termios.CSTOPB)
    assert speed == termios.B19200
    await link.aclose()


async def test_nothing_in_time_is_no_bytes(pty: tuple[int, str]) -> None:
    link = await open_link(pty[1], 300)
    assert await link.read(0.01) == b""
    assert await link.read(0) == b""
    await link.aclose()


async def test_a_port_has_one_owner(pty: tuple[int, str]) -> None:
    link = await open_link(pty[1], 300)
    with pytest.raises(LinkError, match="held by another process"):
        await open_link(pty[1], 300)
    await link.aclose()
    await (await open_link(pty[1], 300)).aclose()


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ("/dev/ttyNOBODY", "no such port; check the cable"),
        ("/dev/null", "not a serial port"),
        ("COM1", "use /dev/... or socket"),
        ("socket://nowhere", "host or port is missing"),
        ("socket://h:99999", "not an endpoint"),
        ("socket://nobody.invalid:1", "host name is not known"),
    ],
)
async def test_what_cannot_be_opened_says_why_and_what_to_do(endpoint: str, told: str) -> None:
    with pytest.raises(LinkError, match=told) as raised:
        await open_link(endpoint, 300)
    assert raised.value.endpoint == endpoint


async def test_a_refused_connection_says_so() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(LinkError, match="connection refused"):
        await open_link(f"socket://127.0.0.1:{port}", 300)


async def test_a_closed_connection_is_an_error_not_silence() -> None:
    async def greet_and_leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(greet_and_leave, "127.0.0.1", 0) as server:
        link = await open_link(f"socket://127.0.0.1:{server.sockets[0].getsockname()[1]}", 300)
        await link.set_rate(9600)
        await link.write(b"x")
        assert await link.read(1) == b"x"
        with pytest.raises(LinkError, match="closed the connection"):
            await link.read(1)
        await link.aclose()


async def test_a_port_that_vanishes_is_an_error() -> None:
    master, slave = os.openpty()
    link = await open_link(os.ttyname(slave), 300)
    os.close(slave)
    os.close(master)
    with pytest.raises(LinkError, match="check the cable"):
        await link.read(1)
    await link.aclose()
