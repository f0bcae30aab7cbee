"""Whatever strangers send: memory stays flat, and a meter beside them is heard in time."""

import asyncio
import contextlib
import os
import pathlib
import socket
import uuid
from collections.abc import AsyncIterator

import pytest

from agent import receiver_links, reception
from agent.simulator.pushing import P1Meter
from agent.simulator.pushing_dlms import CipheredDlmsMeter
from agent.simulator.pushing_ways import outlet
from protocol.plans import Receiver
from receivers.receiver import MAX_BUFFER
from tests.parts.mosquitto import free_port
from tests.parts.receiving import AT, METER, Gateway, connected, gateway, p1, until

SOURCES = 100
EACH = 10
LARGEST = 65_507
"""Bytes of the largest datagram."""
FLAT = 24 << 20
"""Bytes that a process may grow by, its caches and the test's own sockets among them."""


def resident() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def flooded(endpoint: str) -> Receiver:
    return Receiver(uuid.UUID(int=8), "flooded", "dlms_push", endpoint, {"security": "none"}, [])


@contextlib.asynccontextmanager
async def beside(folder: pathlib.Path, other: Receiver) -> AsyncIterator[Gateway]:
    """A gateway with another receiver beside a P1 port, whose meter must be heard in time when the context ends."""
    async with outlet("serve:127.0.0.1:0") as out, gateway(folder, p1(out.place), other) as one:
        await connected(out)
        await until(lambda: len(one.receiving.figures()) == 2 and not one.receiving.trouble())
        before = resident()
        yield one
        await out.send(P1Meter(1, "E0017").payload(AT))
        await until(lambda: METER in {row.device for row in one.readings()}, 5)
        assert resident() - before < FLAT


async def test_datagrams_of_a_hundred_sources_of_the_largest_size(tmp_path: pathlib.Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    async with beside(tmp_path, flooded(f"udp://127.0.0.1:{port}")) as one:
        with contextlib.ExitStack() as meters:
            doors = [meters.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(SOURCES)]
            for _ in range(EACH):
                for door in doors:
                    door.sendto(os.urandom(LARGEST), ("127.0.0.1", port))
                await asyncio.sleep(0)

            def all_counted() -> bool:
                # What the kernel dropped is told with the next one.
                doors[0].sendto(CipheredDlmsMeter(1, "E0018").payload(AT), ("127.0.0.1", port))
                figures = one.receiving.figures()[1]
                return figures.undecodable + figures.missed >= SOURCES * EACH

            await until(all_counted)
        await until(one.refused)
        assert len(one.refused()) <= reception.MOST_REPORTS


async def test_callers_that_say_nothing_and_callers_that_say_a_byte_at_a_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_links, "GIVES_WAY", 0.3)
    port = free_port()
    async with beside(tmp_path, flooded(f"listen://127.0.0.1:{port}")) as one, contextlib.AsyncExitStack() as calls:
        frame = CipheredDlmsMeter(1, "E0018").payload(AT)
        for number in range(receiver_links.MOST_CONNECTIONS + 50):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            calls.callback(writer.close)
            if number % 2:
                writer.write(frame[:1])
        await asyncio.sleep(0.4)
        async with outlet(f"tcp:127.0.0.1:{port}") as meter:
            refused = one.receiving.figures()[1].undecodable
            await meter.send(frame)
            # Its title is nobody's here: it was heard, taken apart, and told.
            await until(lambda: one.receiving.figures()[1].undecodable > refused, 5)


async def heard(one: Gateway, size: int) -> None:
    await until(lambda: one.receiving.figures()[1].bytes == size)


async def test_a_line_that_says_noise_and_telegrams_without_an_end(tmp_path: pathlib.Path) -> None:
    async with outlet("serve:127.0.0.1:0") as noise:
        noisy = Receiver(uuid.UUID(int=8), "noise", "dsmr_p1", noise.place, {}, [])
        async with beside(tmp_path, noisy) as one:
            await connected(noise)
            endless = b"/ISk5\\2MT382-1000\r\n" + b"1-0:1.8.1(000001.000*kWh)\r\n" * 4000
            sent = 0
            for _ in range(12):
                for block in (os.urandom(MAX_BUFFER), endless, b"/!" * (MAX_BUFFER // 2)):
                    await noise.send(block)
                    sent += len(block)
                    await heard(one, sent)
            await noise.send(b"\r\n" + P1Meter(1, "E0019", gas=False).payload(AT))
            await until(lambda: "E0019" in {row.meter for row in one.readings()})
            assert one.receiving.figures()[1].undecodable >= 12
