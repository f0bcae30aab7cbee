"""What receivers listen to: datagrams one by one, losses counted, callers bounded, failures told as what they are."""

import asyncio
import contextlib
import datetime as dt
import socket

import pytest

from agent import receiver_links
from agent.links import LinkError, open_link
from agent.receiver_links import listen_to
from receivers.endpoints import parse_endpoint
from receivers.receiver import Arrival, Decoder
from tests.parts.mosquitto import free_port


class Lines:
    """A decoder that knows nothing."""

    def receive(self, data: bytes, at: dt.datetime) -> list[Arrival]:
        del data, at
        return []

    def end(self, at: dt.datetime) -> list[Arrival]:
        del at
        return []


class Heard:
    """A sink that keeps what it hears."""

    silence: float | None = None

    def __init__(self) -> None:
        self.heard: list[tuple[bytes, str]] = []
        self.ceased: list[str] = []
        self.lost = 0
        self.open = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    def begin(self) -> Lines:
        return Lines()

    async def hear(self, decoder: Decoder, data: bytes, source: str) -> bool:
        del decoder
        self.heard.append((data, source))
        await self.gate.wait()
        return data.startswith(b"/")

    def cease(self, decoder: Decoder, source: str) -> None:
        del decoder
        self.ceased.append(source)

    def missed(self, count: int) -> None:
        self.lost += count

    def works(self) -> None:
        self.open.set()


async def until(what: object, seconds: float = 10) -> None:
    assert callable(what)
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110 - what is waited for is counted elsewhere
            await asyncio.sleep(0.01)


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def test_each_datagram_is_heard_by_itself_with_its_source() -> None:
    port, sink = free_port(socket.SOCK_DGRAM), Heard()
    task = asyncio.create_task(listen_to(parse_endpoint(f"udp://127.0.0.1:{port}"), 9600, sink, open_link))
    await sink.open.wait()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as meter:
        meter.bind(("127.0.0.1", 0))
        for payload in (b"one", b"", b"x" * 60_000):
            meter.sendto(payload, ("127.0.0.1", port))
        source = f"127.0.0.1:{meter.getsockname()[1]}"
        await until(lambda: len(sink.heard) == 3)
    assert sink.heard == [(b"one", source), (b"", source), (b"x" * 60_000, source)]
    assert sink.ceased == [source] * 3
    await ended(task)


async def test_datagrams_that_the_kernel_drops_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_links, "_BUFFER_BYTES", 4096)
    port, sink = free_port(socket.SOCK_DGRAM), Heard()
    task = asyncio.create_task(listen_to(parse_endpoint(f"udp://127.0.0.1:{port}"), 9600, sink, open_link))
    await sink.open.wait()
    sink.gate.clear()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as meter:
        for _ in range(300):
            meter.sendto(b"y" * 500, ("127.0.0.1", port))
        await until(lambda: sink.heard)
        sink.gate.set()
        await asyncio.sleep(0.2)
        # What was dropped is told with the next one that comes.
        meter.sendto(b"last", ("127.0.0.1", port))
        await until(lambda: sink.heard[-1][0] == b"last")
    assert sink.lost > 0
    assert len(sink.heard) + sink.lost == 301
    await ended(task)


async def test_more_callers_than_there_is_room_for_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_links, "MOST_CONNECTIONS", 2)
    port, sink = free_port(socket.SOCK_STREAM), Heard()
    task = asyncio.create_task(listen_to(parse_endpoint(f"listen://127.0.0.1:{port}"), 9600, sink, open_link))
    await sink.open.wait()
    writers = []
    for number in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(b"%d" % number)
        if number == 2:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        else:
            await until(lambda wanted=number + 1: len(sink.heard) == wanted)
    assert (sink.lost, [data for data, _ in sink.heard]) == (1, [b"0", b"1"])
    for writer in writers:
        writer.close()
    await until(lambda: len(sink.ceased) == 2)
    await ended(task)


async def test_callers_that_bring_nothing_give_way_to_one_that_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_links, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(receiver_links, "GIVES_WAY", 0.2)
    port, sink = free_port(socket.SOCK_STREAM), Heard()
    task = asyncio.create_task(listen_to(parse_endpoint(f"listen://127.0.0.1:{port}"), 9600, sink, open_link))
    await sink.open.wait()
    calls = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    meter, dripping, _ = calls
    for _ in range(6):
        meter[1].write(b"/meter")
        dripping[1].write(b"x")
        await asyncio.sleep(0.05)
    calls += [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    for number, (_, writer) in enumerate(calls[3:]):
        writer.write(b"/late %d" % number)
    await until(lambda: {b"/late 0", b"/late 1"} <= {data for data, _ in sink.heard})
    meter[1].write(b"/still")
    await until(lambda: sink.heard[-1][0] == b"/still")
    assert sink.lost == 0
    for _, writer in calls:
        writer.close()
    await ended(task)


@pytest.mark.parametrize(
    ("endpoint", "cause"),
    [
        ("/dev/no-such-port", "no such port"),
        ("socket://127.0.0.1:{taken}", "refused"),
        ("listen://127.0.0.1:{held}", "in use"),
        ("listen://no.such.host.invalid:4059", "known"),
        ("udp://no.such.host.invalid:4059", "known"),
        ("mqtt:other", "broker"),
    ],
)
async def test_what_cannot_be_opened_says_why(endpoint: str, cause: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        text = endpoint.format(taken=free_port(socket.SOCK_STREAM), held=held.getsockname()[1])
        with pytest.raises(LinkError) as caught:
            await listen_to(parse_endpoint(text), 9600, Heard(), open_link)
    assert cause in caught.value.what.lower()


async def test_a_connection_that_says_nothing_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_links, "QUIET_SECONDS", 0.1)
    sink, calls = Heard(), list[asyncio.StreamWriter]()
    sink.silence = 0.05

    async def called(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer)
        if len(calls) == 2:
            writer.write(b"here again")

    async with await asyncio.start_server(called, "127.0.0.1", 0) as server:
        endpoint = parse_endpoint(f"socket://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        task = asyncio.create_task(listen_to(endpoint, 9600, sink, open_link))
        await until(lambda: sink.heard)
        await ended(task)
        for writer in calls:
            writer.close()
    assert sink.heard[0][0] == b"here again"
