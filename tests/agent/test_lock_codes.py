"""No code of a lock is shown or kept, whichever way it passes: in a meter's audit trail, or said by another master.

The simulated meter writes changed codes into its audit trail in the clear, as the worst of real ones may.
"""

import dataclasses
import json
import pathlib

import pytest

from agent.capture import Heard, Recorder
from agent.links import open_link
from agent.session import cause_of, open_session
from agent.settings import MeterPassword
from agent.simulator.bus import VirtualBus, serve_tcp, virtual_bus
from agent.trace import Trace, readable
from contexts.catalogue import check_call, find_call
from contexts.meters import Moment
from protocol.iec62056 import Data, Password, ReadBlocks, RemoteProtocolError, UnreadableValue, WriteCommand
from protocol.iec62056.characters import strip_parity, with_even_parity
from protocol.iec62056.lock_codes import hidden
from protocol.iec62056.telegrams import encode
from tests.parts.commands import tool
from tests.parts.wires import NOW, QUICK, DictMemory, device_on, line_at

OLD, NEW = "OLDLEAK", "NEWLEAK1"
ZONE = ("--timezone", "Europe/Berlin")
SEVEN = bytes(byte & 0x7F for byte in range(256))


async def meter_with_a_changed_code(endpoint: str) -> None:
    """Change the code of the customer's lock, as an operator's other program would."""
    line = line_at(endpoint)
    link = await open_link(endpoint, line.rate)
    try:
        async with open_session(
            link,
            line,
            device_on(line),
            memory=DictMemory(),
            now=lambda: NOW,
            access=MeterPassword(OLD, lock=4),
            times=QUICK,
        ) as session:
            await session.write("4:171.0", NEW)
    finally:
        await link.aclose()


def bus(model: str, **settings: object) -> VirtualBus:
    return virtual_bus(f"1:4711:{model}", seed=7, now=lambda: NOW, codes={3: OLD, 4: OLD}, **settings)  # type: ignore[arg-type]


def shows_no_code(*texts: str) -> None:
    for text in texts:
        assert "LEAK" not in text, text


@pytest.mark.parametrize(("model", "trail"), [("EK280", "5"), ("DL240", "11")])
async def test_an_audit_trail_tells_no_code_in_tables_files_traces_captures_and_events(
    model: str, trail: str, tmp_path: pathlib.Path
) -> None:
    capture, sheet, truth = tmp_path / "trail.jsonl", tmp_path / "trail.csv", tmp_path / "truth.jsonl"
    events = ("generic_lis200", "read_events", f"archive_number={trail}", "--address", "1", *ZONE)
    async with serve_tcp(bus(model, truth=truth)) as endpoint:
        await meter_with_a_changed_code(endpoint)
        archive = ("archive", endpoint, trail, "--address", "1", *ZONE)
        table = await tool(*archive, "--trace", "--capture", str(capture))
        lines = await tool(*archive, "--json")
        written = await tool(*archive, "--csv", str(sheet))
        told = await tool("read", endpoint, *events, "--json", "--events", "--trace")
    for said in (table, lines, written, told):
        assert said.status == 0, said.err
        shows_no_code(said.out, said.err)
    assert "0004:0171" in table.out
    assert "*******" in table.out
    assert "(0004:0171)(*******)(********)" in table.err
    assert "BCC bad" not in table.err
    assert json.loads(lines.out.splitlines()[-1])["values"][4]["value"] == "*" * len(OLD)
    assert "4:171 (customer lock's code) changed from '***' to '***'" in told.out
    kept = capture.read_text()
    passed = b"".join(bytes.fromhex(json.loads(line).get("data", "")) for line in kept.splitlines())
    shows_no_code(kept, passed.translate(SEVEN).decode(), sheet.read_text(), truth.read_text())
    again = await tool("replay", str(capture), "--trace")
    assert (again.status, again.out) == (table.status, table.out)
    shows_no_code(again.err)


ROW = f"(9)(3)(2024-01-15,06:00:00)(0004:0171)({OLD})({NEW})(0)(0)(0)(1)(CRC Ok)"


def heard_of(*texts: bytes, after: object = None) -> str:
    """What a recorder keeps of telegrams that come after a command, byte by byte."""
    kept: list[bytes] = []
    recorder = Recorder([lambda record: kept.append(bytes.fromhex(record.data) if isinstance(record, Heard) else b"")])
    command = after or ReadBlocks("5:V.0", "3;;;10")
    recorder.said(with_even_parity(encode(command)), command, 9600, 0.0, 0.0)  # type: ignore[arg-type]
    for text in texts:
        for byte in text:
            recorder.heard(bytes((byte,)), 9600, 0.0)
    return strip_parity(b"".join(kept)).decode("latin-1")


def test_what_another_master_says_on_the_line_is_masked_too() -> None:
    foreign = [
        with_even_parity(encode(WriteCommand("4:171.0", NEW))),
        with_even_parity(encode(Data(f"7-4:171.2({OLD})"))),
        with_even_parity(b"\x01P1\x02(3:" + NEW.encode() + b")\x03x"),
    ]
    said = heard_of(*foreign)
    shows_no_code(said)
    assert "4:171.0(********)" in said


@pytest.mark.parametrize("at", range(ROW.index("(0004"), ROW.index(f"({OLD}") + 1))
def test_a_row_whose_address_the_line_has_damaged_shows_no_code_either(at: int) -> None:
    """Whatever one bit does to the address in front of a code: parity shows that it was damaged."""
    for bit in range(7):
        sound = with_even_parity(b"\x02" + ROW.encode() + b"\x03x")
        damaged = bytearray(sound)
        damaged[1 + at] ^= 1 << bit
        shows_no_code(heard_of(bytes(damaged)))


def test_rows_that_name_no_code_are_kept_as_they_came() -> None:
    plain = with_even_parity(encode(Data("(9)(3)(2024-01-15,06:00:00)(0004:0170)(1)(0)(17)(171)(0)(CRC Ok)")))
    assert heard_of(plain) == strip_parity(plain).decode()


def test_causes_and_records_of_failures_show_no_code() -> None:
    error = UnreadableValue(ROW[ROW.index("(0004") :], "one row")
    error.raw = with_even_parity(ROW.encode())
    cause = cause_of(error, "meter 1")
    shows_no_code(cause, bytes.fromhex(cause.rpartition(": ")[2]).translate(SEVEN).decode())
    lines: list[str] = []
    trace = Trace()
    recorder = Recorder([lambda record: lines.extend(trace.lines(record))])
    recorder.failed(RemoteProtocolError(f"the block as it came: {ROW}"), 9600, 0.0)
    shows_no_code(*lines)
    assert "0004:0171" in lines[0]


async def test_a_row_that_does_not_hold_together_is_told_without_codes() -> None:
    line = bus("EK280")
    async with serve_tcp(line) as endpoint:
        await meter_with_a_changed_code(endpoint)
        rows = line.meters[0].archives._rows[5]
        rows[-1] = dataclasses.replace(rows[-1], groups=(*rows[-1].groups[:-1], "CRC Error"))
        asked = line_at(endpoint)
        link = await open_link(endpoint, asked.rate)
        try:
            async with open_session(
                link, asked, device_on(asked), memory=DictMemory(), now=lambda: NOW, times=QUICK
            ) as session:
                kwargs = check_call("generic_lis200", "read_events", {"archive_number": 5})
                answer = await find_call("generic_lis200", "read_events").run(session, Moment(NOW, NOW), kwargs)
        finally:
            await link.aclose()
    assert "CRC Error" in answer.problems[0]
    shows_no_code(*answer.problems, *(event.content for event in answer.events))


@pytest.mark.parametrize("said", [Password(f"3:{OLD}"), Password(OLD), WriteCommand("4:171.0", OLD)])
@pytest.mark.parametrize("damage", [0, 1])
def test_what_another_master_says_is_made_readable_without_its_code(said: Password | WriteCommand, damage: int) -> None:
    """As ``identify`` shows it: with the names of control characters, and a block check that may be wrong."""
    telegram = encode(said)
    text = hidden(readable(telegram[:-1] + bytes([telegram[-1] ^ damage])))
    assert OLD not in text
    assert "*" * len(OLD) in text
