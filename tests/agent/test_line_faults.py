"""Everything that lines do, by name: the right values arrive through a real session, or the right error does."""

import asyncio
import dataclasses
import json
import pathlib
from typing import Any

import pytest

from agent.conversation import NoAnswer, SessionError, Times
from agent.links import LinkError, open_link
from agent.session import Session, SilentMeter, WrongMeter, open_session
from agent.simulator.bus import VirtualBus, serve_pty, serve_tcp, virtual_bus
from agent.simulator.faults import FAULTS
from agent.simulator.site_faults import Battery
from protocol.iec62056 import Ack, MeterRefusal
from protocol.iec62056.characters import strip_parity
from tests.parts.wires import NOW, DictMemory, device_on, line_at

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
PATIENT = Times(0.8, 5, 2.0, 0.3, 0.05, repeats=6)
CONTROLS = {
    0x00: "NUL",
    0x01: "SOH",
    0x02: "STX",
    0x03: "ETX",
    0x04: "EOT",
    0x06: "ACK",
    0x0A: "LF",
    0x0D: "CR",
    0x15: "NAK",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One fault or setting; ``error``: what it ends in where no value can arrive."""

    faults: tuple[str, ...] = ()
    bus: dict[str, Any] = dataclasses.field(default_factory=dict)
    line: dict[str, Any] = dataclasses.field(default_factory=dict)
    times: Times = PATIENT
    tcp: bool = False
    model: str = "EK280"
    error: type[Exception] | None = None
    says: str = ""
    serial: str | None = None


SLOW = {"rate": 300, "fixed_rate": False}
CASES: dict[str, Case] = {
    "7E1, the parity bit in bit 7": Case(line={"parity": "even"}),
    "7E1, learned": Case(),
    "8N1, learned": Case(("parity_none",)),
    "8N1, set": Case(("parity_none",), line={"parity": "none"}),
    "a converter strips the parity bit": Case(("stripped_parity",)),
    "the parity bit through TCP": Case(tcp=True),
    "the rate changes": Case(line=SLOW, bus={"strict_rate": True}),
    "a fixed rate announces another": Case(("other_rate_id",), bus={"strict_rate": True}),
    "battery wake-up": Case(("battery",), line=SLOW | {"wake_up": True}),
    "a sleeping meter that nobody wakes": Case(
        ("battery",), times=Times(0.2, 2), error=SilentMeter, says="check cable"
    ),
    "local echo": Case(("echo",), line={"echo": True}),
    "local echo that went": Case(line={"echo": True}),
    "NUL noise": Case(("nul_noise=1",)),
    "FF noise": Case(("ff_noise=0.5",)),
    "NUL and FF noise without parity": Case(("nul_noise=1", "ff_noise=0.5", "parity_none")),
    "modem text": Case(("line_noise=1",)),
    "foreign masters": Case(("foreign_master=0.2",)),
    "late answers": Case(("late_answers=0.1",), times=Times(tries=3)),
    "split answers": Case(("split_answers=0.3",)),
    "byte by byte": Case(("one_byte_at_a_time",)),
    "address echo with a medium": Case(model="EK280"),
    "address echo without attribute": Case(model="TC220"),
    "address echo as asked": Case(model="DL220"),
    "no address echo": Case(("no_address",)),
    "rows end with LF": Case(("no_crlf",)),
    "the last row ends with CR LF": Case(("last_row_end",)),
    "trailing blanks": Case(("trailing_blanks",)),
    "trailing blanks and CR LF": Case(("last_row_end", "trailing_blanks")),
    "a device closes early": Case(("close_early=1",), tcp=True, error=LinkError, says="closed the connection"),
    "a device stops early": Case(("close_early=1",), error=SessionError, says="stopped in the middle"),
    "an end before the end": Case(("early_end",)),
    "damaged answers": Case(("corrupt_bcc=0.2",)),
    "flipped bits": Case(("parity_error=0.2",)),
    "flipped pairs": Case(("flip_pairs=0.1",)),
    "lost bytes": Case(("drop_bytes=0.0005",)),
    "bytes from nowhere": Case(("insert_bytes=0.0005",)),
    "bytes twice": Case(("double_bytes=0.0005",)),
    "damaged commands, NAK": Case(("damaged_requests=0.2",)),
    "damaged commands, #0013": Case(("damaged_requests=0.2", "error_telegrams")),
    "an upper-case maker": Case(("slow_maker",)),
    "Modbus": Case(("modbus",), times=Times(0.2, 2), error=SilentMeter, says="Modbus"),
    "nobody": Case(("silent",), times=Times(0.2, 2), error=SilentMeter, says="check cable"),
    "another meter": Case(("wrong_serial",), serial="4711", error=WrongMeter, says="serial number 4710"),
    "no number": Case(("value=NaN",), error=AssertionError, says="NaN"),
}
OWN_TESTS = {"mute_reconnect"}
"""Faults whose test is below, because it takes more than one connection."""


def test_every_fault_is_here_and_on_the_page() -> None:
    used = {fault.partition("=")[0] for case in CASES.values() for fault in case.faults} | OWN_TESTS
    assert used == set(FAULTS)
    table = PAGE.partition("## Faults")[2]
    assert [name for name in FAULTS if f"| `{name}" not in table] == []
    told = {line.split("`")[1].partition("=")[0] for line in table.splitlines() if line.startswith("| `")}
    assert told == set(FAULTS)


def _bus(case: Case) -> VirtualBus:
    settings = {"seed": 5, "now": lambda: NOW, "history_days": 0.3, "faults": case.faults, **case.bus}
    rate = case.line.get("rate", 19200)
    return virtual_bus(
        f"1:4711:{case.model}", opening_rate=rate, fixed_rate=case.line.get("fixed_rate", True), **settings
    )


async def _read(case: Case, endpoint: str, bus: VirtualBus) -> None:
    """Read a value and an archive, and compare them with what the meter holds."""
    line = line_at(endpoint, **({"rate": 19200, "fixed_rate": True} | case.line))
    link = await open_link(endpoint, line.rate)
    archive, position = {"TC220": (3, 2), "DL220": (2, 3)}.get(case.model, (3, 3))
    try:
        async with open_session(
            link, line, device_on(line, serial=case.serial), memory=DictMemory(), now=lambda: NOW, times=case.times
        ) as session:
            known = bus.meters[0]._objects
            total = "2:300" if "2:300" in known else "1:202"
            values = [(await session.read(total))[0], await session.serial_number()]
            assert "NaN" not in values[0], values[0]
            assert values[0].partition("*")[0] == known[total].read()
            assert values[1] == "4711"
            await session.layout(archive)
            rows = [row async for block in session.rows(archive, position, "", "") for row in block]
            assert rows == [list(row.groups) for row in bus.meters[0].archives.rows(archive)]
            assert len(rows) > 5
    finally:
        await link.aclose()


@pytest.mark.parametrize("name", CASES)
async def test_the_right_values_arrive_or_the_right_error(name: str) -> None:
    case = CASES[name]
    bus = _bus(case)
    async with (serve_tcp if case.tcp else serve_pty)(bus) as endpoint:
        if case.error is None:
            await _read(case, endpoint, bus)
        else:
            with pytest.raises(case.error, match=case.says):
                await _read(case, endpoint, bus)


@dataclasses.dataclass(frozen=True)
class Woken:
    """A wake-up in seconds, and whether it wakes."""

    nuls: float
    silence: float
    gap: float = 0.0
    wakes: bool = True


@pytest.mark.parametrize(
    "woken",
    [
        Woken(2.1, 1.5),
        Woken(2.3, 1.7),
        Woken(2.2, 1.6, gap=0.004),
        Woken(2.0, 1.6, wakes=False),
        Woken(2.4, 1.6, wakes=False),
        Woken(2.2, 1.4, wakes=False),
        Woken(2.2, 1.8, wakes=False),
        Woken(2.2, 1.6, gap=0.01, wakes=False),
        Woken(0.0, 0.0, wakes=False),
    ],
)
def test_a_battery_meter_wakes_by_the_standards_times_only(woken: Woken) -> None:
    meter = Battery(None, "")
    half = (woken.nuls - woken.gap) / 2
    now = 100.0
    for part in (half, half):
        if part > 0:
            assert meter.hears(bytes(60), now, now + part, idle=True) == b""
            now += part + woken.gap
    now += woken.silence - woken.gap
    request = b"/?1!\r\n"
    assert meter.hears(request, now, now + 0.2, idle=True) == (request if woken.wakes else b"")
    assert meter.hears(b"R1", now + 0.5, now + 0.6, idle=False) == b"R1"
    assert meter.hears(request, now + 9, now + 9.2, idle=True) == b"", "it sleeps again after the conversation"


async def _session(endpoint: str, work: Any, **settings: Any) -> Any:  # noqa: ANN401 - a test's own
    line = line_at(endpoint, rate=19200, fixed_rate=True)
    link = await open_link(endpoint, line.rate)
    try:
        given = {"memory": DictMemory(), "now": lambda: NOW, "times": PATIENT, **settings}
        async with open_session(link, line, device_on(line), **given) as session:
            return await work(session)
    finally:
        await link.aclose()


def _serial_for(check: int) -> str:
    """A serial number whose answer has this block check, as the EK280 echoes its address."""
    for first in range(0x21, 0x7F):
        for second in range(0x21, 0x7F):
            serial = f"7{chr(first)}{chr(second)}"
            if set(serial) & set("()*\\:,;/!") or not serial.isprintable():
                continue
            found = 0
            for byte in f"7-1:180.2({serial})\x03".encode():
                found ^= byte
            if found == check:
                return serial
    raise AssertionError(f"no serial number makes the block check {check:02x}")


@pytest.mark.parametrize("check", CONTROLS, ids=CONTROLS.values())
async def test_a_block_check_may_be_a_control_character(check: int, tmp_path: pathlib.Path) -> None:
    serial, log = _serial_for(check), tmp_path / "log"
    bus = virtual_bus(
        f"1:{serial}:EK280", seed=5, now=lambda: NOW, history_days=0.1, opening_rate=19200, fixed_rate=True, log=log
    )

    async def read(session: Session) -> str:
        return await session.serial_number()

    async with serve_pty(bus) as endpoint:
        assert await _session(endpoint, read) == serial
    said = [json.loads(line) for line in log.read_text().splitlines()]
    answers = [strip_parity(bytes.fromhex(one["hex"])) for one in said if one["dir"] == "tx"]
    assert answers[-1].endswith(bytes((3, check)))


async def test_an_empty_archive_is_a_refusal_that_reads_as_no_rows() -> None:
    bus = _bus(Case())

    async def read(session: Session) -> None:
        with pytest.raises(MeterRefusal, match="#0103"):
            [row async for row in session.rows(3, 3, "2031-01-01,00:00:00", "2031-01-02,00:00:00")]
        assert await session.serial_number() == "4711", "the session goes on"

    async with serve_pty(bus) as endpoint:
        await _session(endpoint, read)


async def test_an_acknowledgement_of_the_last_block_is_taken_in_silence() -> None:
    bus = _bus(Case())

    async def read(session: Session) -> None:
        await session.read("2:300")
        await session._opening.conversation.say(Ack())
        assert await session._opening.conversation._link.read(0.3) == b""
        assert await session.serial_number() == "4711"

    async with serve_pty(bus) as endpoint:
        await _session(endpoint, read)


async def test_a_converter_that_is_mute_after_a_reconnect_is_opened_anew() -> None:
    async with serve_tcp(_bus(Case(("mute_reconnect",)))) as endpoint:

        async def read(session: Session) -> str:
            return await session.serial_number()

        times = dataclasses.replace(PATIENT, tries=2)
        assert [await _session(endpoint, read, times=times) for _ in range(3)] == ["4711"] * 3
        # The next connection is mute: with one call that cannot be noticed.
        with pytest.raises(SilentMeter):
            await _session(endpoint, read, times=times, calls=1)


async def test_a_meter_that_falls_silent_in_a_session_ends_it_with_its_name() -> None:
    bus = _bus(Case())

    async def read(session: Session) -> None:
        bus._conversations[0]._faults = [FAULTS["silent"](None, "")]
        await session.read("2:300")

    async with serve_pty(bus) as endpoint:
        with pytest.raises(NoAnswer, match="meter-1"):
            await _session(endpoint, read, times=Times(0.3, 1, 0.3, 0.2, 0.05))
        await asyncio.sleep(0)
