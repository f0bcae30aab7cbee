"""How long a reader waits for what: the gap inside a telegram, and the times of the standard."""

import asyncio
import dataclasses
import functools
import operator
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from agent.conversation import SessionError, Times
from agent.line_figures import LineTally
from agent.links import open_link
from agent.session import open_session
from agent.simulator.shared_line import SILENCE_SECONDS
from tests.parts.wires import NOW, QUICK, DictMemory, device_on, line_at

PROMPT = b"\x01P0\x02(1234567)\x03P"


@asynccontextmanager
async def served(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """An endpoint whose connections are all answered to their end: after a call that failed there is another."""
    answers: list[asyncio.Task[None]] = []

    async def to_its_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers.append(asyncio.create_task(to_its_end(reader, writer)))

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        port: socket.socket = server.sockets[0]
        yield f"socket://127.0.0.1:{port.getsockname()[1]}"
        await asyncio.gather(*answers)
        await asyncio.sleep(0)


@asynccontextmanager
async def meter_with_a_gap(seconds: float) -> AsyncIterator[str]:
    """A meter that stops for so long in the middle of its identification."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heard = bytes(byte & 0x7F for byte in await reader.readuntil(b"\n"))
            if heard.endswith(b"!\r\n"):
                writer.write(b"/Els5EK")
                await asyncio.sleep(seconds)
                writer.write(b"280\r\n")
            elif heard.startswith(b"\x06"):
                writer.write(PROMPT)

    async with served(answer) as endpoint:
        yield endpoint


async def opened(endpoint: str, times: Times) -> str:
    line = line_at(endpoint, parity="none")
    link = await open_link(endpoint, 300)
    try:
        async with open_session(
            link, line, device_on(line), memory=DictMemory(), now=lambda: NOW, times=times
        ) as session:
            return session.model
    finally:
        await link.aclose()


async def test_a_gap_inside_a_telegram_is_borne_up_to_its_limit() -> None:
    times = dataclasses.replace(QUICK, identification=0.5, character=0.5, tries=1)
    async with meter_with_a_gap(0.25) as endpoint:
        assert await opened(endpoint, times) == "EK280"
    async with meter_with_a_gap(1.5) as endpoint:
        with pytest.raises(SessionError):
            await opened(endpoint, times)


def test_waits_are_not_shorter_than_the_standard_allows_a_meter() -> None:
    """Gaps of 1.5 s inside a telegram, and answers that come as late; the sheet knows meters that are much later."""
    times = Times()
    assert times.character == 1.5
    assert times.identification * times.tries >= 7.5
    assert times.telegram >= 20


def test_a_simulated_meter_gives_up_when_the_standard_says() -> None:
    assert 60 <= SILENCE_SECONDS <= 120


async def test_after_a_wake_up_that_failed_the_line_rests_before_the_next() -> None:
    """The standard's 1.5 s, counted from when it was clear that nobody answers."""
    heard: list[tuple[float, bytes]] = []

    async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            heard.append((asyncio.get_running_loop().time(), data))

    async with served(listen) as endpoint:
        line = line_at(endpoint, parity="even", wake_up=True)
        link = await open_link(endpoint, 300)
        try:
            with pytest.raises(SessionError):
                async with open_session(
                    link,
                    line,
                    device_on(line),
                    memory=DictMemory(),
                    now=lambda: NOW,
                    times=dataclasses.replace(QUICK, identification=0.2, tries=2),
                ):
                    raise AssertionError("nobody is there")
        finally:
            await link.aclose()
    stream = b"".join(data for _, data in heard)
    assert stream.count(b"\xaf\x3f\xb1\x21\x8d\x0a") == 2
    requests = [at for at, data in heard if b"\xaf" in data]
    wakings = [at for at, data in heard if data.startswith(bytes(8))]
    assert len(wakings) >= 2
    following = next(at for at in wakings if at > requests[0])
    assert following - requests[0] >= 0.2 + 1.5 - 0.05
    assert requests[1] - following >= 1.6 - 0.05


async def telegram(reader: asyncio.StreamReader) -> bytes:
    """What the reader says next, to its line feed or its block check."""
    heard = b""
    while not heard.endswith(b"\n") and heard[-2:-1] != b"\x03":
        heard += await reader.readexactly(1)
    return heard


def framed(text: bytes) -> bytes:
    """An answer as it is on the line, with its block check."""
    return b"\x02" + text + b"\x03" + bytes([functools.reduce(operator.xor, text + b"\x03")])


async def test_a_value_is_there_at_once_and_what_comes_behind_it_answers_nothing() -> None:
    """The meter's reaction time is 200 ms; half of it later somebody says what the next question asks for."""
    loop = asyncio.get_running_loop()
    late: list[float] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heard = await telegram(reader)
            if heard.endswith(b"!\r\n"):
                writer.write(b"/ELS5EK280\r\n")
            elif heard.startswith(b"\x06"):
                writer.write(PROMPT)
            elif b"2:300" in heard:
                writer.write(framed(b"2:300.0(12.5*m3)"))
                await asyncio.sleep(0.1)
                late.append(loop.time())
                writer.write(framed(b"1:180.0(666)"))
            elif b"1:180" in heard:
                writer.write(framed(b"1:180.0(4711)"))

    async with served(answer) as endpoint:
        line = line_at(endpoint, parity="none")
        tally = LineTally(line, NOW)
        link = await open_link(endpoint, 300)
        try:
            async with open_session(
                link,
                line,
                device_on(line),
                memory=DictMemory(),
                now=lambda: NOW,
                times=QUICK,
                observer=tally.ear("meter"),
            ) as session:
                assert await session.read("2:300.0") == ["12.5*m3"]
                assert not late
                assert await session.read("1:180.0") == ["4711"]
                assert late
        finally:
            await link.aclose()
    assert tally.figures().errors == {"protocol": 1}
