"""One line, several meters: addressing, pace, rates, collisions, faults; over a pty and over TCP alike."""

import asyncio
import gc
import json
import socket
import time
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from agent.links import LinkError
from agent.simulator.bus import VirtualBus, serve_pty, serve_tcp, virtual_bus
from protocol.iec62056 import Iec62056Error, MeterRefusal
from tests.agent.simulator.plain_reader import Reader, SetClock, Silence, reading

Serve = Callable[[VirtualBus], AbstractAsyncContextManager[str]]
SERVES = [pytest.param(serve_pty, id="pty"), pytest.param(serve_tcp, id="tcp")]


@asynccontextmanager
async def opened(serve: Serve, bus: VirtualBus, address: str = "1", rate: int = 300) -> AsyncIterator[Reader]:
    async with serve(bus) as endpoint, reading(endpoint, opening_rate=rate) as reader:
        await reader.open(address)
        yield reader


@pytest.mark.parametrize("serve", SERVES)
async def test_a_meter_answers_when_it_is_called(serve: Serve, clock: SetClock) -> None:
    bus = virtual_bus("007:4711:EK280", "8:4712:TC220", now=clock.now)
    async with serve(bus) as endpoint, reading(endpoint) as reader:
        who = await reader.open("7")
        assert (who.maker, who.ident, who.escapes, who.reaction_time) == ("Els", "EK280", "\\2", 0.02)
        assert await reader.value("1:180") == "4711"
        await reader.end()
        assert (await reader.open("0008")).ident == "TC220"
        assert await reader.value("1:180.0") == "4712"
        await reader.end()


@pytest.mark.parametrize("serve", SERVES)
async def test_readers_come_and_go(serve: Serve, clock: SetClock) -> None:
    bus = virtual_bus("1:4711:EK280", now=clock.now)
    async with serve(bus) as endpoint:
        for _ in range(3):
            async with reading(endpoint) as reader:
                await reader.open("1")
                assert await reader.rows("3:V.0") == [row.groups for row in bus.meters[0].archives.rows(3)]
                await reader.end()


async def test_a_meter_that_is_not_called_is_silent(clock: SetClock) -> None:
    async with serve_tcp(virtual_bus("1:4711:EK280", now=clock.now)) as endpoint, reading(endpoint, patience=0.2) as it:
        with pytest.raises(Silence):
            await it.open("2")


async def test_a_general_call_is_answered_by_one_meter_and_unintelligible_from_two(clock: SetClock) -> None:
    async with serve_tcp(virtual_bus("1:4711:EK280", now=clock.now)) as endpoint, reading(endpoint) as reader:
        assert (await reader.open("")).ident == "EK280"
    bus = virtual_bus("1:4711:EK280", "2:4712:EK280", now=clock.now)
    async with serve_tcp(bus) as endpoint:
        async with reading(endpoint, patience=0.2) as reader:
            with pytest.raises(Silence):
                await reader.open("")
        async with reading(endpoint) as reader:
            await reader.open("2")
            assert await reader.value("1:180") == "4712"


async def test_the_line_keeps_its_pace_both_ways(clock: SetClock, tmp_path: Path) -> None:
    """At 9600 Bd a byte takes 1.04 ms; what is measured here may only be slower, by what a busy machine adds."""
    log = tmp_path / "wire.jsonl"
    bus = virtual_bus(
        "1:4711:EK280", now=clock.now, throttle=True, opening_rate=9600, offered_rate=9600, fixed_rate=True, log=log
    )
    async with opened(serve_pty, bus, rate=9600) as reader:
        newest = bus.meters[0].archives.rows(3)[-1].aono
        started = time.monotonic()
        rows = await reader.rows("3:V.0", f"2;{newest - 7};;48")
        elapsed = time.monotonic() - started
    sent = sum(len("".join(f"({group})" for group in row)) + 2 for row in rows)
    assert sent / 960 < elapsed < sent / 960 * 1.5 + 1
    chunks = [json.loads(line) for line in log.read_text().splitlines()]
    answer = chunks[-1]
    assert (answer["dir"], answer["serial"]) == ("tx", "4711")
    assert answer["end"] - answer["start"] == pytest.approx(len(answer["hex"]) / 2 / 960, rel=0.001)
    assert answer["start"] - chunks[-2]["end"] >= 0.02
    assert [chunk["end"] for chunk in chunks] == sorted(chunk["end"] for chunk in chunks)


async def test_a_slow_opening_is_slow_and_the_offered_rate_is_faster(clock: SetClock) -> None:
    bus = virtual_bus("1:4711:EK280", now=clock.now, throttle=True, opening_rate=600, offered_rate=19200)
    async with serve_pty(bus) as endpoint, reading(endpoint, opening_rate=600, patience=2) as reader:
        started = time.monotonic()
        await reader.open("1")
        opened_after = time.monotonic() - started
        assert bus.rate == 19200
        await reader.value("2:300")
        assert opened_after > 28 / 60
        assert time.monotonic() - started - opened_after < opened_after
        await reader.end()
        await asyncio.sleep(0.1)
        assert bus.rate == 600


async def test_an_abandoned_conversation_ends_by_itself(clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.simulator.shared_line.SILENCE_SECONDS", 0.2)
    bus = virtual_bus("1:4711:EK280", now=clock.now)
    async with serve_pty(bus) as endpoint:
        async with reading(endpoint) as reader:
            await reader.open("1")
            assert bus.rate == 19200
        await asyncio.sleep(0.4)
        assert bus.rate == 300
    bus = virtual_bus("1:4711:EK280", now=clock.now)
    async with serve_tcp(bus) as endpoint:
        async with reading(endpoint) as reader:
            await reader.open("1")
        await asyncio.sleep(0.4)
        async with reading(endpoint) as reader:
            await asyncio.sleep(0.1)
            assert bus.rate == 300


async def test_rows_arise_while_nobody_reads(clock: SetClock, tmp_path: Path) -> None:
    truth = tmp_path / "truth.jsonl"
    async with serve_tcp(virtual_bus("1:4711:EK280", now=clock.now, truth=truth)):
        before = truth.read_text().count('"archive": 3')
        clock.advance(hours=3)
        await asyncio.sleep(0.3)
        assert truth.read_text().count('"archive": 3') == before + 3


# --- faults ----------------------------------------------------------------------------------------------------------

BEARABLE = [
    "corrupt_bcc=0.3",
    "parity_error=0.3",
    "nul_noise=1",
    "ff_noise=1",
    "line_noise=1",
    "split_answers=1",
    "one_byte_at_a_time",
    "no_crlf",
    "trailing_blanks",
    "parity_none",
    "late_answers=0",
]


@pytest.mark.parametrize("fault", BEARABLE)
async def test_a_careful_reader_bears_it(fault: str, clock: SetClock) -> None:
    # At a fixed rate, so that the opening's parity and its repetition are not what is tested here.
    bus = virtual_bus("1:4711:EK280", now=clock.now, history_days=0.5, faults=[fault], seed=5)
    async with serve_tcp(bus) as endpoint, reading(endpoint, patience=2) as reader:
        await reader.open("1")
        rows = await reader.rows("3:V.0", ";;;2")
        assert rows == [row.groups for row in bus.meters[0].archives.rows(3)]
        assert (reader.damaged > 0) == fault.startswith(("corrupt_bcc", "parity_error"))


async def test_silent(clock: SetClock) -> None:
    bus = virtual_bus("1:4711:EK280", now=clock.now, faults=["silent"])
    async with serve_tcp(bus) as endpoint, reading(endpoint, patience=0.2) as reader:
        with pytest.raises(Silence):
            await reader.open("1")


async def test_a_fault_may_be_that_of_one_meter_alone(clock: SetClock) -> None:
    def bus() -> VirtualBus:
        return virtual_bus("1:11111:EK280", "2:22222:EK280,fault=silent", now=clock.now)

    async with opened(serve_pty, bus()) as reader:
        assert "11111" in await reader.read("1:180")
    async with serve_pty(bus()) as endpoint, reading(endpoint, patience=0.2) as reader:
        with pytest.raises(Silence):
            await reader.open("2")
    with pytest.raises(ValueError, match="no fault is called 'nonsense'"):
        virtual_bus("1:11111:EK280,fault=nonsense", now=clock.now)


async def test_echo(clock: SetClock) -> None:
    async with serve_tcp(virtual_bus("1:4711:EK280", now=clock.now, faults=["echo"])) as endpoint:
        host, port = endpoint.removeprefix("socket://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"/?1!\r\n")
        assert await reader.readline() == b"/?1!\r\n"
        assert await reader.readline() == b"/Els6\\2EK280\r\n"
        writer.close()
        await writer.wait_closed()


async def test_close_early(clock: SetClock) -> None:
    bus = virtual_bus("1:4711:EK280", now=clock.now, faults=["close_early=1"])
    async with serve_tcp(bus) as endpoint, reading(endpoint) as reader:
        with pytest.raises(LinkError, match="closed the connection"):
            await reader.open("1")


async def test_wrong_serial(clock: SetClock) -> None:
    async with opened(serve_tcp, virtual_bus("1:4711:EK280", now=clock.now, faults=["wrong_serial"])) as reader:
        assert await reader.value("1:180") != "4711"


async def test_slow_maker(clock: SetClock) -> None:
    async with opened(serve_tcp, virtual_bus("1:4711:EK280", now=clock.now, faults=["slow_maker"])) as reader:
        started = time.monotonic()
        await reader.value("2:300")
        assert time.monotonic() - started >= 0.2


async def test_lost_bytes_are_noticed(clock: SetClock) -> None:
    bus = virtual_bus("1:4711:EK280", now=clock.now, faults=["drop_bytes=0.02"], seed=2)
    async with serve_tcp(bus) as endpoint, reading(endpoint, patience=0.2) as reader:
        with pytest.raises((Silence, Iec62056Error)):
            await _read_often(reader)


async def _read_often(reader: Reader) -> None:
    for _ in range(30):
        await reader.open("1")
        await reader.rows("3:V.0")


async def test_two_meters_with_one_address_are_refused(clock: SetClock) -> None:
    with pytest.raises(ValueError, match="address '1'"):
        virtual_bus("01:4711:EK280", "1:4712:EK280", now=clock.now)


async def test_a_refusal_reaches_the_reader(clock: SetClock) -> None:
    async with opened(serve_tcp, virtual_bus("1:4711:EK280", now=clock.now)) as reader:
        with pytest.raises(MeterRefusal, match="#0002"):
            await reader.value("1:FFF")


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_is_closed_however_early_the_line_ends(turns: int) -> None:
    bus = virtual_bus("1:4711:EK280", history_days=1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        async with serve_tcp(bus) as endpoint:
            address = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
            with socket.create_connection(address), socket.create_connection(address):
                for _ in range(turns):
                    await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        gc.collect()
    assert [str(one.message) for one in told if "unclosed" in str(one.message)] == []
