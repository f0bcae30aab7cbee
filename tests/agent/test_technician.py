"""``identify``, ``archive``, ``replay`` and ``capture``: real commands, simulated meters in several states."""

import asyncio
import csv
import datetime as dt
import json
import os
import pathlib
import re
import signal
import sys

import pytest

from agent.simulator.bus import VirtualBus, serve_pty, serve_tcp, virtual_bus
from agent.simulator.recorded import read_persona
from tests.parts.commands import MAIN, tool

NOW = dt.datetime(2025, 3, 12, 9, 30, 10, tzinfo=dt.UTC)
ZONE = ("--timezone", "Europe/Berlin")
SECRET = {"METERGATE_METER_PASSWORD": "LEAK"}
CODE = {"METERGATE_METER_PASSWORD": "00000000"}


def bus(*specs: str, **settings: object) -> VirtualBus:
    return virtual_bus(*(specs or ("1:4711:EK280",)), seed=7, now=lambda: NOW, **settings)  # type: ignore[arg-type]


async def test_a_meter_is_found_at_whatever_rate_its_port_stands() -> None:
    quick = ("--patience", "0.4", "--no-archives", "--json")
    async with serve_pty(bus(opening_rate=9600, fixed_rate=True, strict_rate=True)) as endpoint:
        wired = await tool("identify", endpoint, *quick)
    async with serve_pty(bus(strict_rate=True, faults=["parity_none"])) as endpoint:
        optical = await tool("identify", endpoint, *quick)
    (found,) = json.loads(wired.out)["meters"]
    assert wired.status == 0, wired.err
    assert found["setting"] == {"rate": 9600, "fixed_rate": True, "wake_up": False}
    assert (found["parity"], found["serial"], found["type"]) == ("even", "4711", "EK280")
    (found,) = json.loads(optical.out)["meters"]
    assert found["parity"] == "none"
    assert found["setting"] == {"rate": 300, "fixed_rate": False, "wake_up": False}


async def test_three_meters_in_different_states_on_one_bus(tmp_path: pathlib.Path) -> None:
    states = ("1:4711:EK280", "2:4712:TC220,drift=90", "3:4713:EK280,locked")
    capture = tmp_path / "bus.jsonl"
    async with serve_tcp(bus(*states)) as endpoint:
        everybody = await tool("identify", endpoint)
        each = await tool(
            "identify", endpoint, "--address", "1-4", "--patience", "0.5", "--capture", str(capture), *ZONE
        )
        opened = await tool("identify", endpoint, "--address", "3", "--json", *ZONE, **CODE)
    assert everybody.status == 4
    assert "several meters at once" in everybody.out
    assert "or 1-16" in everybody.out
    assert each.status == 3
    fine, drifting, locked = each.out.split("Els ")[1:]
    assert "serial number     4711" in fine
    assert re.search(r"\n +3 +\d\d +18  2025-03-10 \d\d:00:00  2025-03-12 10:00:00\n", fine)
    assert "shows more" not in fine
    assert "TC220" in drifting
    assert "serial number     4712" in drifting
    apart = [float(re.findall(r"\(([+-][\d.]+) s against", text)[0]) for text in (fine, drifting)]
    assert apart[1] - apart[0] == pytest.approx(90, abs=30)
    assert "shows more when a lock is open" in locked
    assert "archive  rows" not in locked
    assert "nobody answers at address 4" in locked
    (meter,) = json.loads(opened.out)["meters"]
    assert meter["serial"] == "4713"
    assert meter["locks"]["4 customer"] == "open"
    assert {archive["number"] for archive in meter["archives"]} == {1, 2, 3, 4, 5, 7}
    again = await tool("replay", str(capture))
    assert (again.status, again.out) == (each.status, each.out)


async def test_a_line_that_returns_what_is_said_is_told_from_the_meter_on_it() -> None:
    """Optical heads and two-wire RS-485: the request, programming mode and all commands come back."""
    quick = ("--patience", "0.6", "--no-archives", "--json")
    async with serve_pty(bus(strict_rate=True, faults=["echo"])) as endpoint:
        optical = await tool("identify", endpoint, *quick)
        again = await tool("read", endpoint, "generic_lis200", "read_single_value", "address=1:180", "--echo", "--json")
    async with serve_tcp(bus(faults=["echo", "parity_none"])) as endpoint:
        server = await tool("identify", endpoint, *quick)
    for said, parity in ((optical, "even"), (server, "none")):
        assert said.status == 0, said.out + said.err
        (found,) = json.loads(said.out)["meters"]
        assert (found["serial"], found["echo"], found["parity"]) == ("4711", True, parity)
    assert again.status == 0, again.err


async def test_a_sleeping_meter_is_woken_as_it_wants_it_right_after_calls_that_failed() -> None:
    """The standard asks for a rest after a failed call; without it the wake-up of the right parity is not heard."""
    async with serve_tcp(bus(faults=["battery"])) as endpoint:
        said = await tool("identify", endpoint, "--patience", "0.4", "--no-archives", "--json")
    (found,) = json.loads(said.out)["meters"]
    assert (found["serial"], found["parity"]) == ("4711", "even")
    assert found["setting"]["wake_up"] is True


async def test_a_meter_of_another_make_is_not_taken_for_lis_200() -> None:
    async with serve_tcp(bus("1:5:ELECTRIC-C")) as endpoint:
        said = await tool("identify", endpoint, "--patience", "0.6")
    assert said.status == 0, said.err
    assert "protocol          IEC 62056-21\n" in said.out
    assert "ER01" not in said.out
    assert f"metergate-agent read {endpoint} generic_iec6205621 read_readout" in said.out


async def test_nobody_is_status_3_with_hints() -> None:
    async with serve_pty(bus("7:4711:EK280")) as endpoint:
        said = await tool("identify", endpoint, "--address", "9", "--rate", "9600", "--patience", "0.3")
    assert said.status == 3
    assert "nobody answers at address 9" in said.out
    assert "Modbus" in said.out


async def test_an_archive_is_a_table_lines_or_a_file_and_is_cut_to_its_range(tmp_path: pathlib.Path) -> None:
    line = bus()
    day = ("--from", "2025-03-11T07:00", "--to", "2025-03-11T13:00", *ZONE)
    file = tmp_path / "day.csv"
    async with serve_tcp(line) as endpoint:
        table = await tool("archive", endpoint, "3", "--last", "3", *ZONE)
        lines = await tool("archive", endpoint, "3", *day, "--json")
        written = await tool("archive", endpoint, "3", *day, "--csv", str(file))
        none = await tool("archive", endpoint, "3", "--from", "2031-01-01", *ZONE)
        missing = await tool("archive", endpoint, "9", *ZONE)
    rows = list(line.meters[0].archives.rows(3))
    assert table.status == 0, table.err
    shown = [row.split() for row in table.out.splitlines() if "CRC Ok" in row]
    assert [row[1] for row in shown] == [str(row.aono) for row in rows[-3:]]
    objects = [json.loads(text) for text in lines.out.splitlines()]
    low, high = (dt.datetime(2025, 3, 11, hour, tzinfo=dt.UTC).timestamp() for hour in (6, 12))
    inside = [row for row in rows if low <= row.clock <= high]
    assert [row["number"] for row in objects] == [row.aono for row in inside]
    assert objects[0]["timestamp"] == "2025-03-11T06:00:00Z"
    assert objects[0]["local"] == "2025-03-11T07:00:00"
    assert [value["value"] for value in objects[0]["values"]] == [text.strip() for text in inside[0].groups]
    with file.open(newline="") as opened:
        head, *content = csv.reader(opened)
    assert len(content) == len(inside)
    assert len(head) == len(content[0])
    assert f"{len(inside)} rows" in written.out
    assert (none.status, "no row in that range" in none.out) == (0, True)
    assert missing.status == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("archive", "/dev/ttyNOBODY", "3", "--last", "0"), "--last"),
        (("archive", "/dev/ttyNOBODY", "3", "--last", "soon"), "90m, 24h, 7d"),
        (("archive", "/dev/ttyNOBODY", "3", "--last", "3", "--from", "2025-01-01"), "cannot be combined"),
        (("archive", "/dev/ttyNOBODY", "3", "--from", "yesterday"), "--from"),
        (("archive", "/dev/ttyNOBODY", "3", "--from", "2025-01-02", "--to", "2025-01-01"), "is before --from"),
        (("archive", "/dev/ttyNOBODY", "3", "--json", "--csv", "x"), "choose one"),
        (("identify", "/dev/ttyNOBODY", "--address", "1-999"), "1 to 256"),
        (("identify", "/dev/ttyNOBODY", "--address", "a/b"), "no bus address"),
        (("identify", "ttyUSB0"), "socket://host:port"),
    ],
)
async def test_wrong_usage_has_status_2_and_says_what_to_write(arguments: tuple[str, ...], told: str) -> None:
    said = await tool(*arguments)
    assert said.status == 2
    assert told in said.err


async def test_a_capture_replays_to_the_same_words_and_holds_no_code(tmp_path: pathlib.Path) -> None:
    capture = tmp_path / "read.jsonl"
    call = ("generic_lis200", "read_single_value", "address=2:300", "--address", "1", *ZONE)
    echo = ("--echo",)
    async with serve_tcp(bus("1:4711:EK280,locked", codes={3: "LEAK", 4: "LEAK"}, faults=["echo"])) as endpoint:
        first = await tool("read", endpoint, *call, *echo, "--trace", "--capture", str(capture), **SECRET)
        twice = await tool("read", endpoint, *call, *echo, "--capture", str(capture))
    replay = await tool("replay", str(capture), "--trace")
    assert first.status == 0, first.err
    assert (replay.status, replay.out) == (0, first.out)
    assert (twice.status, "never overwritten" in twice.err) == (2, True)
    kept = capture.read_text()
    sent = b"".join(
        bytes.fromhex(record["data"]) for line in kept.splitlines() if "data" in (record := json.loads(line))
    ).translate(bytes(byte & 0x7F for byte in range(256)))
    assert b"4:171.0(****)" in sent
    for text in (kept, first.out, first.err, replay.err, sent.decode("latin-1")):
        assert "LEAK" not in text
    assert "write 4:171.0; BCC ok (code masked)" in first.err
    assert replay.err.splitlines()[1:3] == first.err.splitlines()[1:3]
    assert capture.stat().st_mode & 0o077 == 0


async def test_a_readout_that_was_stopped_is_replayed_up_to_there_with_its_goodbye(tmp_path: pathlib.Path) -> None:
    capture = tmp_path / "stopped.jsonl"
    async with serve_pty(bus(opening_rate=9600, fixed_rate=True, throttle=True)) as endpoint:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", MAIN, "archive", endpoint, "3", "--last", "40", "--json", *ZONE),
            *("--rate", "9600", "--fixed-rate", "--capture", str(capture)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        shown = await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        after = await tool("identify", endpoint, "--rate", "9600", "--no-archives")
    assert process.returncode == 1
    assert b"stopped before it was done" in err
    replay = await tool("replay", str(capture), "--trace")
    assert (replay.status, replay.out.encode()) == (1, shown + out)
    assert "told to stop" in replay.err
    assert "<SOH>B0<ETX>q" in replay.err
    assert replay.err.encode().endswith(err)
    assert after.status == 0, after.out


async def test_a_replay_that_goes_another_way_names_the_place(tmp_path: pathlib.Path) -> None:
    capture = tmp_path / "read.jsonl"
    async with serve_tcp(bus()) as endpoint:
        await tool("read", endpoint, "generic_lis200", "read_single_value", "address=2:300", "--capture", str(capture))
    text = capture.read_text().replace('"address=2:300"', "").replace('{"address":"2:300"}', '{"address":"2:302"}')
    capture.write_text(text)
    said = await tool("replay", str(capture))
    assert said.status == 1
    assert "2:302.0(1)" in said.err
    assert "was said then" in said.err
    capture.write_text("{}\n")
    assert (await tool("replay", str(capture))).status == 2


async def test_a_failure_is_captured_and_replayed_too(tmp_path: pathlib.Path) -> None:
    capture = tmp_path / "silent.jsonl"
    call = ("generic_lis200", "read_single_value", "address=2:300", "--address", "9", "--tries", "1", *ZONE)
    async with serve_tcp(bus()) as endpoint:
        first = await tool("read", endpoint, *call, "--capture", str(capture))
    again = await tool("replay", str(capture))
    assert first.status == again.status == 1
    assert first.err == again.err


async def test_a_capture_becomes_a_meter_that_answers_the_same_and_a_test_that_passes(tmp_path: pathlib.Path) -> None:
    capture, persona, test = tmp_path / "a.jsonl", tmp_path / "a.json", tmp_path / "field" / "test_a.py"
    line = bus("1:4711:EK280,drift=90")
    async with serve_tcp(line) as endpoint:
        real = await tool("archive", endpoint, "3", "--last", "8", "--address", "1", *ZONE, "--capture", str(capture))
    made = await tool("capture", str(capture), "--persona", str(persona), "--test", str(test))
    assert made.status == 0, made.err
    again = await tool("capture", str(capture), "--persona", str(persona))
    assert (again.status, "exists" in again.err) == (2, True)
    async with serve_tcp(virtual_bus(recorded=[read_persona(persona)], now=lambda: NOW)) as endpoint:
        copy = await tool("archive", endpoint, "3", "--last", "8", "--address", "1", *ZONE)
        fewer = await tool("archive", endpoint, "3", "--from", "2025-03-12T08:00", "--address", "1", *ZONE, "--json")
        unknown = await tool("read", endpoint, "generic_lis200", "read_single_value", "address=2:300", "--address", "1")
    assert copy.out == real.out
    assert json.loads(fewer.out.splitlines()[0])["local"] == "2025-03-12T08:00:00"
    assert "#0002" in unknown.err
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


async def test_ports_and_every_help_teach_with_examples() -> None:
    ports = await tool("ports", "--json")
    assert ports.status == 0
    for text in ports.out.splitlines():
        assert json.loads(text)["path"].startswith("/dev/")
    for name in ("ports", "identify", "archive", "read", "replay", "capture"):
        said = await tool(name, "--help")
        assert said.status == 0
        assert f"metergate-agent {name}" in said.out
        assert "Exit status:" in " ".join(said.out.split())
        assert "--json" in said.out
