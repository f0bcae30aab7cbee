"""``metergate-agent read``: the real command against simulated meters on a pseudo-terminal and TCP."""

import asyncio
import datetime as dt
import json
import os
import pathlib
import re
import signal
import sys
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
import pytest_asyncio

from agent.simulator.bus import VirtualBus, serve_pty, serve_tcp, virtual_bus
from contexts.catalogue import CONTEXTS
from tests.parts.commands import MAIN, Said, tool

START, END = "2025-03-11T06:00:00Z", "2025-03-11T12:00:00Z"
NOW = dt.datetime(2025, 3, 12, 9, 30, 10, tzinfo=dt.UTC)
DAY = ("archive_number=3", "control_position=3", f"start_date={START}", f"end_date={END}")


async def read(*arguments: str, **environment: str) -> Said:
    return await tool("read", *arguments, **environment)


def meters(**settings: object) -> VirtualBus:
    return virtual_bus("1:4711:EK280", "2:4712:TC220", seed=7, now=lambda: NOW, **settings)  # type: ignore[arg-type]


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[str]:
    async with serve_pty(meters()) as path:
        yield path


async def test_a_value_is_a_table_for_people(endpoint: str) -> None:
    said = await read(endpoint, "generic_lis200", "read_single_value", "address=2:300", "--address", "1")
    assert said.status == 0, said.err
    assert said.out.startswith("meter 4711, times in ")
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S+ +2:300 +\d+\.\d+ +m3\n", said.out)
    assert said.err == ""


async def test_several_values_are_a_table_each_with_its_text_or_problem(endpoint: str) -> None:
    said = await read(endpoint, "generic_lis200", "read_values", "addresses=2:300,1:180,9:999", "--address", "1")
    assert said.status == 1
    assert re.search(r"\naddress +text +unit +problem\n", said.out)
    assert re.search(r"\n1:180 +4711 *\n", said.out)
    assert re.search(r"\n9:999 +the meter refused with #0002", said.out)
    assert "{" not in said.out


async def test_a_value_as_json_is_one_reading_stamped_by_the_gateway() -> None:
    before = dt.datetime.now(dt.UTC) - dt.timedelta(milliseconds=1)
    async with serve_tcp(meters()) as endpoint:
        said = await read(endpoint, "generic_lis200", "read_single_value", "address=7:310", "--address", "1", "--json")
    (reading,) = said.readings
    assert {key: reading[key] for key in ("meter", "series", "unit")} == {
        "meter": "4711",
        "series": "7:310",
        "unit": "bar",
    }
    assert Decimal(reading["value"]) > 0
    assert before <= dt.datetime.fromisoformat(reading["timestamp"]) <= dt.datetime.now(dt.UTC)


async def test_an_archive_as_json_is_what_the_meter_holds() -> None:
    bus = meters()
    async with serve_pty(bus) as endpoint:
        call = (endpoint, "generic_lis200", "read_archive_by_date")
        zone = ("--address", "1", "--json", "--timezone", "Europe/Berlin")
        said = await read(*call, *DAY, *zone, "--meter", "north")
        without_zone = tuple(text.replace("Z", "").replace("T06", "T07").replace("T12", "T13") for text in DAY)
        local = await read(*call, *without_zone, *zone, "--events")
        assumed = await read(*call, *DAY, *zone[:-2])
    got = {(r["series"], r["timestamp"]): Decimal(r["value"]) for r in said.readings}
    assert {reading["meter"] for reading in said.readings} == {"north"}
    rows = bus.meters[0].archives.rows(3)
    first, last = dt.datetime.fromisoformat(START).timestamp(), dt.datetime.fromisoformat(END).timestamp()
    stamps = {row.clock: Decimal(row.groups[3]) for row in rows if first <= row.clock <= last}
    assert len(stamps) >= 7
    assert {at: value for (series, at), value in got.items() if series == "2:300"} == {
        dt.datetime.fromtimestamp(second, dt.UTC).isoformat().replace("+00:00", "Z"): value
        for second, value in stamps.items()
    }
    assert len(got) == len(said.readings)
    assert said.err.count("\n") == 1
    assert "--timezone" in assumed.err
    readings = [line for line in local.readings if "series" in line]
    assert [(r["series"], r["timestamp"], r["value"]) for r in readings] == [
        (r["series"], r["timestamp"], r["value"]) for r in said.readings
    ]


async def test_the_meters_clock_is_set_behind_its_lock_with_a_password_that_is_never_an_argument(
    tmp_path: pathlib.Path,
) -> None:
    bus = meters(codes={3: "3333", 4: "4444"}, drift=3600)
    file = tmp_path / "code"
    file.write_text("3333\n")
    async with serve_pty(bus) as endpoint:
        # Forced: near a full hour of this machine it would be refused.
        line = ("--address", "1", "--lock", "3", "--timezone", "Europe/Berlin")
        call = (endpoint, "generic_lis200", "set_time", "force=true", *line)
        refused = await read(*call)
        wrong = await read(*call, METERGATE_METER_PASSWORD="123456")  # noqa: S106 - a wrong one
        done = await read(*call, "--password-file", str(file))
        no_zone = await read(*call[:-2])
    assert refused.status == 1
    assert "#0019: no right to write" in refused.err
    assert wrong.status == 1
    assert "#0017: wrong access code (password)" in wrong.err
    assert "123456" not in wrong.err
    assert done.status == 0, done.err
    assert "drift_seconds" in done.out
    assert no_zone.status == 2
    assert "--timezone" in no_zone.err


async def test_a_silent_meter_names_line_and_address(endpoint: str) -> None:
    said = await read(
        endpoint, "generic_lis200", "read_single_value", "address=2:300", "--address", "9", "--tries", "1"
    )
    assert said.status == 1
    assert said.out == ""
    assert f"(address 9) on {endpoint} does not answer" in said.err


async def test_a_meters_refusal_has_status_1_and_its_meaning(endpoint: str) -> None:
    said = await read(endpoint, "generic_lis200", "read_single_value", "address=9:999", "--address", "1")
    assert (said.status, said.out) == (1, "")
    assert "#0002: object not available" in said.err


@pytest.mark.parametrize("text", ["NaN", "1E+400000"])
async def test_a_value_that_is_none_is_no_reading_and_has_status_1_while_the_others_come(text: str) -> None:
    async with serve_tcp(meters(faults=[f"value={text}"])) as endpoint:
        single = await read(
            endpoint, "generic_lis200", "read_single_value", "address=2:300", "--address", "1", "--json"
        )
        archive = await read(endpoint, "generic_lis200", "read_archive_by_date", *DAY, "--address", "1", "--json")
    assert (single.status, single.out) == (1, "")
    assert f"the meter sent {text!r} where a decimal number was expected" in single.err
    assert archive.status == 1
    assert {line["series"] for line in archive.readings} & {"2:300", "2:302"} == {"2:302"}
    assert f"column 4 (2:300) has {text!r}, which is not a decimal number" in archive.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_whoever_is_stopped_leaves_lock_and_line_closed_behind(
    number: signal.Signals, tmp_path: pathlib.Path
) -> None:
    log = tmp_path / "wire.log"
    arguments = (
        "generic_lis200",
        "read_archive_by_offset_seconds",
        *DAY[:2],
        "offset_seconds=172800",
        "--address",
        "1",
    )
    async with serve_pty(meters(throttle=True, log=log)) as endpoint:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", MAIN, "read", endpoint, *arguments, "--timezone", "Europe/Berlin"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "METERGATE_METER_PASSWORD": "00000000"},
        )
        while _spoken(log).count(b"3:V.0") < 1:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.05)
        process.send_signal(number)
        out, err = await process.communicate()
        again = await read(endpoint, "generic_lis200", "read_single_value", "address=2:300", "--address", "1")
    assert (process.returncode, out) == (1, b"")
    assert b"stopped before it was done" in err
    assert b"Traceback" not in err
    closed, broken = _spoken(log).index(b"4:170.0(0)"), _spoken(log).index(b"\x01B0\x03q")
    assert closed < broken
    assert again.status == 0


def _spoken(log: pathlib.Path) -> bytes:
    """What the reader has said so far, without parity."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    text = b"".join(bytes.fromhex(line["hex"]) for line in lines if line["dir"] == "rx")
    return text.translate(bytes(byte & 0x7F for byte in range(256)))


@pytest.mark.parametrize(
    ("endpoint_text", "told"),
    [
        ("/dev/ttyNOBODY", "no such port; check the cable"),
        ("socket://127.0.0.1:1", "connection refused"),
    ],
)
async def test_an_endpoint_that_is_not_there_has_status_1(endpoint_text: str, told: str) -> None:
    said = await read(endpoint_text, "generic_lis200", "read_single_value", "address=2:300")
    assert said.status == 1
    assert told in said.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("generic_lis200", "read_single_value", "addres=2:300"), "addres: unknown"),
        (("generic_lis200", "read_single_value"), "address: missing"),
        (("generic_lis200", "read_single_value", "2:300"), "is not key=value"),
        (("generic_lis200", "read_single_value", "address=1:1", "address=1:2"), "given twice"),
        (("generic_lis200", "read_everything"), "CALL: 'read_everything'"),
        (("generic_lis200", "read_single_value", "address=2:300", "--timezone", "Europe/Atlantis"), "Europe/Atlantis"),
        (("generic_lis200", "read_single_value", "address=2:300", "--password-file", "/dev/null"), "is empty"),
        (("modbus", "read"), "CONTEXT"),
        (("generic_lis200", "read_archive_by_date", *DAY[1:], "archive_number=three"), "archive_number"),
    ],
)
async def test_wrong_usage_has_status_2_and_names_the_key(arguments: tuple[str, ...], told: str) -> None:
    said = await read("/dev/ttyNOBODY", *arguments)
    assert said.status == 2
    assert told in said.err
    assert "Usage: metergate-agent read" in said.err


@pytest.mark.parametrize("text", ["nonsense", "tcp://127.0.0.1:1", "socket://127.0.0.1", "socket://host:port", ""])
async def test_what_is_no_endpoint_is_wrong_usage(text: str) -> None:
    said = await read(text, "generic_lis200", "read_single_value", "address=2:300")
    assert said.status == 2
    assert "use " in said.err
    assert "socket://host:port" in said.err


async def test_a_password_that_no_telegram_can_carry_is_wrong_usage_and_not_shown(tmp_path: pathlib.Path) -> None:
    call = ("/dev/ttyNOBODY", "generic_lis200", "read_single_value", "address=2:300")
    variable = await read(*call, METERGATE_METER_PASSWORD="geh(eim")  # noqa: S106 - a wrong one
    file = tmp_path / "code"
    file.write_bytes(b"\xffgeheim")
    bytes_ = await read(*call, "--password-file", str(file))
    assert (variable.status, bytes_.status) == (2, 2)
    assert "METERGATE_METER_PASSWORD" in variable.err
    assert "--password-file" in bytes_.err
    assert "eim" not in variable.err + bytes_.err.replace(str(file), "")


async def test_help_teaches_every_call_with_examples() -> None:
    said = await read("--help")
    assert said.status == 0
    for context in CONTEXTS.values():
        for name in (context.name, *context.calls):
            assert name in said.out
    assert "METERGATE_METER_PASSWORD" in said.out
    assert "socket://" in said.out
