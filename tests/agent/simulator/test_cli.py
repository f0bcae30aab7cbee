"""``metergate-agent simulate`` as a process: what it announces, how it ends, and that a stranger can read it.

The stranger is the public client ``iec62056-21`` from the package index: what it reads by R1 and R3 equals the truth
file, in which nothing of ours takes part.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from iec62056_21 import lis200
from iec62056_21.client import Iec6205621Client

SIMULATE = [sys.executable, "-m", "agent.simulator"]
CLOCK = {"METERGATE_CLOCK": "2025-10-26T09:59:30Z,1", "METERGATE_ENVIRONMENT": "test"}
METERS = ["--meter", "1:4711:EK280", "--meter", "2:4712:TC220", "--meter", "3:4713:DL220"]


@contextmanager
def simulating(*arguments: str) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [*SIMULATE, *arguments], env=os.environ | CLOCK, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline()), process
        finally:
            process.terminate()


@contextmanager
def public_client(endpoint: str, address: str) -> Iterator[Iec6205621Client]:
    host, port = endpoint.removeprefix("socket://").split(":")
    client = Iec6205621Client.with_tcp_transport(
        (host, int(port)), device_address=address, error_parser_class=lis200.Lis200ErrorParser
    )
    client.connect()
    try:
        client.access_programming_mode()
        yield client
        client.send_break()
    finally:
        client.disconnect()


def archive(
    client: Iec6205621Client,
    number: int,
    position: int,
    *,
    attribute: str = "0",
    start: str = "",
    end: str = "",
    rows_per_block: int | None = None,
) -> list[list[str]]:
    """Read by R1, or by R3 with ``rows_per_block``."""
    command = lis200.ArchiveReadoutCommand(
        archive=number,
        attribute=attribute,
        position=position,
        start=start,
        end=end,
        partial_blocks=rows_per_block is not None,
        rows_per_block=rows_per_block,
    )
    client.transport.send(command.to_bytes())
    lines = client.read_response().data_block.data_lines
    return [[data_set.value for data_set in line.data_sets] for line in lines]


def truth_of(path: Path, serial: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, path.read_text().splitlines()) if line["serial"] == serial]


@pytest.mark.parametrize(
    ("address", "serial", "number", "position", "singles"),
    [
        ("1", "4711", 3, 3, ["2:300.0", "4:302.0", "7:310.0", "6:310_1.0"]),
        ("2", "4712", 3, 2, ["2:300.0", "5:310.0"]),
        ("3", "4713", 4, 3, ["2:202.0", "1:203.0"]),
    ],
)
def test_the_public_client_reads_what_the_truth_says(
    address: str, serial: str, number: int, position: int, singles: list[str], tmp_path: Path
) -> None:
    truth = tmp_path / "truth.jsonl"
    with (
        simulating("--listen", "tcp:127.0.0.1:0", *METERS, "--seed", "3", "--truth", str(truth)) as (announced, _),
        public_client(announced["endpoint"], address) as client,
    ):
        values = [client.read_single_value(single) for single in singles]
        in_one_block = archive(client, number, position)
        in_blocks = archive(client, number, position, rows_per_block=10)
        some = archive(client, number, position, start="2025-10-26,02:00:00", end="2025-10-26,03:00:00")
        sources = archive(client, number, 1, attribute="4")[0]
        lines = truth_of(truth, serial)
    told = [line for line in lines if "single" in line]
    assert [(line["single"], line["value"]) for line in told] == [
        (single.removesuffix(".0"), value.value) for single, value in zip(singles, values, strict=True)
    ]
    rows = [line for line in lines if line.get("archive") == number]
    assert in_blocks == in_one_block == [line["row"] for line in rows]
    assert len(rows) >= 48
    hour = [line["row"] for line in rows if "2025-10-26,02" <= line["local"] <= "2025-10-26,03:00:00"]
    assert some == hour
    assert sum(row[position - 1] == "2025-10-26,02:00:00" for row in some) == 2  # the clock was put back
    for row, line in zip(in_blocks, rows, strict=True):
        by_source = dict(zip(sources, row, strict=True))
        for source, value in line["values"].items():
            instance, _, name = source.partition(":")
            assert by_source[f"{instance:>04}:0{name}"] == value


def test_a_pseudo_terminal_with_a_stable_name(tmp_path: Path) -> None:
    link = tmp_path / "ttyMETER"
    with simulating("--link", str(link), "--meter", ":4711:EK280", "--names", "english") as (announced, process):
        assert announced["endpoint"].startswith("/dev/pts/")
        assert announced["meters"] == [{"address": "", "serial": "4711", "model": "EK280", "language": "english"}]
        assert str(link.readlink()) == announced["endpoint"]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert not link.is_symlink()


def test_a_signal_clears_the_archives_and_the_meter_says_so() -> None:
    with (
        simulating("--listen", "tcp:127.0.0.1:0", *METERS) as (announced, process),
        public_client(announced["endpoint"], "1") as client,
    ):
        assert archive(client, 3, 1)
        process.send_signal(signal.SIGUSR1)
        with pytest.raises(lis200.ArchiveEmptyError):
            archive(client, 3, 1)


def test_it_ends_cleanly_with_a_client_connected(tmp_path: Path) -> None:
    with simulating("--listen", "tcp:127.0.0.1:0", "--log", str(tmp_path / "log")) as (announced, process):
        with public_client(announced["endpoint"], "1") as client:
            assert client.identification == "2EK280"
            process.terminate()
            assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert bytes.fromhex(log[0]["hex"]).translate(bytes(byte & 0x7F for byte in range(256))) == b"/?1!\r\n"
    assert {line["dir"] for line in log} == {"rx", "tx"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fault", "gremlins"], "corrupt_bcc, "),
        (["--fault", "silent=2"], "from 0 to 1"),
        (["--fault", "value"], "value=NaN"),
        (["--fault", "value=(1)"], "without brackets"),
        (["--meter", "1:4711:EK999"], "EK280, TC220, DL220"),
        (["--listen", "udp:1"], "pty or tcp:HOST:PORT"),
        (["--timezone", "Europe/Atlantis"], "not a time zone"),
        (["--interval", "7"], "divisor of 60"),
        (["--offer", "1234"], "cannot be offered"),
        (["--rate", "0"], "--rate"),
        (["--history", "-1"], "--history"),
        (["--drift", "1e300"], "--drift"),
        (["--password-file", "/nowhere"], "does not exist"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(arguments: list[str], said: str) -> None:
    ended = subprocess.run([*SIMULATE, *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_a_port_that_is_taken_ends_with_1() -> None:
    with simulating("--listen", "tcp:127.0.0.1:0") as (announced, _):
        taken = announced["endpoint"].removeprefix("socket://")
        ended = subprocess.run([*SIMULATE, "--listen", f"tcp:{taken}"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert taken in ended.stderr


def test_faults_are_listed() -> None:
    ended = subprocess.run([*SIMULATE, "--fault", "list"], capture_output=True, text=True, check=True)
    assert "silent               The meter does not answer. (probability 1)" in ended.stdout


def test_codes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "code"
    secret.write_text("4=4444\n3=3333\n")
    arguments = ["--listen", "tcp:127.0.0.1:0", "--locked", "--password-file", str(secret)]
    with simulating(*arguments) as (announced, _), public_client(announced["endpoint"], "1") as client:
        with pytest.raises(lis200.NoReadAuthorizationError):
            client.read_single_value("2:300.0")
        client.write_single_value("4:171.0", "4444")
        assert client.read_single_value("4:170.0").value == "1"
        assert client.read_single_value("1:181.0").value == "EK280"
