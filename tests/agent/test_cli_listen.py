"""``metergate-agent listen`` and ``push`` as processes: what one says, the other shows; what is wrong is said."""

import asyncio
import datetime as dt
import itertools
import json
import pathlib
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.cli_listen import command
from agent.simulator.pushing_dlms import CipheredDlmsMeter, keys
from tests.parts.commands import Said, tool

ROOT = pathlib.Path(__file__).parents[2]
TELEGRAMS = ROOT / "tests" / "receivers" / "transcripts"


@asynccontextmanager
async def pushing(*arguments: str) -> AsyncIterator[str]:
    """Have ``push`` run; gives where it says what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.entry", "push", *arguments), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            yield json.loads(await process.stdout.readline())["place"]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


@asynccontextmanager
async def saying(payload: bytes) -> AsyncIterator[str]:
    """A device server that says one thing to whoever comes."""

    async def called(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(payload)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(called, "127.0.0.1", 0) as server:
        yield f"socket://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def values(said: Said) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.out.splitlines()]


async def test_what_a_simulated_p1_port_says_is_shown(tmp_path: pathlib.Path) -> None:
    truth = tmp_path / "truth.jsonl"
    faults = ("--double", "0.3", "--noise", "0.2", "--seed", "5")
    async with pushing("dsmr_p1", "serve:127.0.0.1:0", "--every", "0.05", "--truth", str(truth), *faults) as place:
        said = await tool("listen", place, "dsmr_p1", "--count", "30", "--json")
    assert said.status == 0, said.err
    shown = [one for one in values(said) if "series" in one]
    assert len(shown) == 30
    told = {
        (row["meter"], row["series"], row["timestamp"].replace("+00:00", "Z"), row["value"])
        for row in map(json.loads, truth.read_text().splitlines())
    }
    assert {(one["meter"], one["series"], one["timestamp"], one["value"]) for one in shown} <= told
    assert all("damaged" in one["cause"] for one in values(said) if "series" not in one)


async def test_a_pseudo_terminal_with_parity_is_listened_to() -> None:
    async with pushing("iec62056_push", "pty", "--every", "0.05", "--serial", "4711") as place:
        said = await tool("listen", place, "iec62056_push", "rate=9600", "--count", "2")
    assert said.status == 0, said.err
    head, first, second = said.out.splitlines()
    assert head.split() == ["meter", "series", "last", "seen", "value", "unit"]
    assert first.split()[:3] == ["4711", "1-0:1.8.0*255", "-"]
    assert second.split()[1:] == ["1-0:21.7.0*255", "-", "747.85", "W"]


async def test_real_telegrams_are_shown_until_the_other_side_closes() -> None:
    payload = (TELEGRAMS / "dsmr_p1" / "emucs-fluvius-gas-water").read_bytes()
    async with saying(payload + payload[:200]) as place:
        said = await tool("listen", place, "dsmr_p1")
    assert said.status == 1
    assert "7FLO2123015189" in said.out
    assert "the telegram was cut: it has no end" in said.err
    assert "the other side has closed the connection" in said.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("/dev/ttyUSB0", "telepathy"), "'telepathy' is no known receiver"),
        (("ttyUSB0", "dsmr_p1"), "'ttyUSB0' is none of /dev/..."),
        (("/dev/ttyUSB0", "dsmr_p1", "rastr=hour"), "receiver_kwargs.rastr: unknown"),
        (("mqtt:other", "dsmr_p1"), "endpoint"),
    ],
)
async def test_wrong_usage_is_said_with_what_there_is(arguments: tuple[str, ...], expected: str) -> None:
    said = await tool("listen", *arguments)
    assert said.status == 2
    assert expected in said.err


async def test_where_nothing_comes_that_is_said() -> None:
    async with saying(b"") as place:
        silent = await tool("listen", place, "dsmr_p1", "--seconds", "1")
    assert silent.status == 1
    away = await tool("listen", place, "dsmr_p1")
    assert away.status == 1
    assert "connection refused" in away.err


async def test_what_is_pushed_aligned_is_of_full_multiples_and_none_is_left_out(tmp_path: pathlib.Path) -> None:
    truth = tmp_path / "truth.jsonl"
    clock = {"METERGATE_CLOCK": "2026-03-02T05:50:00+00:00,9000", "METERGATE_ENVIRONMENT": "test"}
    arguments = ("dlms_push_gas", "udp:127.0.0.1:9", "--aligned", "--every", "900", "--count", "5")
    said = await tool("push", *arguments, "--truth", str(truth), **clock)
    assert said.status == 0, said.err
    at = [row["timestamp"][11:] for row in map(json.loads, truth.read_text().splitlines())]
    assert at[0] in {f"{hour:02}:{minute:02}:00+00:00" for hour in range(24) for minute in (0, 15, 30, 45)}
    instants = [dt.datetime.fromisoformat(f"2026-03-02T{one}") for one in at]
    assert {after - before for before, after in itertools.pairwise(instants)} == {dt.timedelta(minutes=15)}
    wrong = await tool("push", "dlms_push_gas", "udp:127.0.0.1:9", "--aligned", "--every", "0")
    assert (wrong.status, "--every 1" in wrong.err) == (2, True)


# Keys


SERIAL = "4D47530000000017"
AT = dt.datetime(2026, 3, 2, 5, 0, tzinfo=dt.UTC)
KEYS = {kind: key.hex() for kind, key in keys(1, SERIAL).items()}
SHOWN = [("1-0:1.8.0", "kWh"), ("1-0:3.8.0", "kvarh")]


@contextmanager
def device_server(payload: bytes) -> Iterator[str]:
    """As ``saying``, for commands that have no loop around them."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            connection, _ = door.accept()
            with connection:
                connection.sendall(payload)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"socket://127.0.0.1:{door.getsockname()[1]}"
        finally:
            thread.join()


def listen(*arguments: str, typed: str = "", environment: dict[str, str] | None = None) -> Result:
    """What a ciphering meter says, as a technician with these keys sees it."""
    with device_server(CipheredDlmsMeter(1, SERIAL).payload(AT)) as place:
        asked = [place, "dlms_push", "--count", "2", *arguments]
        result = CliRunner().invoke(command, asked, input=typed, env=environment)
    assert not any(key in result.output.lower() for key in KEYS.values())
    return result


def told(result: Result) -> list[tuple[str, str]]:
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["meter"] for row in rows} == {SERIAL}
    return [(row["series"], row["unit"]) for row in rows]


@pytest.mark.parametrize("text", ["{of_all}", "[{title}]\n{of_all}", 'encryption_key = "{zeros}"\n[{title}]\n{of_all}'])
def test_what_a_meter_ciphers_is_shown_with_the_keys_of_a_file(tmp_path: pathlib.Path, text: str) -> None:
    of_all = "\n".join(f'{kind}_key = "{key}"' for kind, key in KEYS.items())
    file = tmp_path / "keys.toml"
    file.write_text(text.format(of_all=of_all, title=SERIAL.lower(), zeros="0" * 32))
    assert told(listen("--keys", str(file), "--json")) == SHOWN


def test_keys_may_be_in_the_environment_or_asked_for() -> None:
    environment = {f"METERGATE_{kind.upper()}_KEY": key for kind, key in KEYS.items()}
    assert told(listen("--json", environment=environment)) == SHOWN
    typed = f"{KEYS['encryption']}\n{KEYS['authentication']}\n"
    assert told(listen("--json", "--ask-keys", typed=typed)) == SHOWN
    # What is typed goes before what is set.
    wrong = environment | {"METERGATE_ENCRYPTION_KEY": "0" * 32}
    assert told(listen("--json", "--ask-keys", typed=typed, environment=wrong)) == SHOWN


def test_without_keys_or_with_others_it_is_said_what_lacks() -> None:
    without = listen()
    assert without.exit_code == 1
    assert f"{SERIAL}: no encryption key of this meter is known" in without.stderr
    assert "what is ciphered needs keys: --keys FILE" in without.stderr
    environment = {f"METERGATE_{kind.upper()}_KEY": "0" * 32 for kind in KEYS}
    other = listen("--json", environment=environment)
    assert other.exit_code == 1
    assert "its tag is wrong: another key" in json.loads(other.stdout)["cause"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('encryption_key = "{key}"\nlock_key = "{key}"', "`lock_key` is none of encryption_key, authentication_key"),
        ('[4D4D]\nencryption = "{key}"', "`4D4D.encryption` is none of"),
        ('encryption_key = "{key}00"', "encryption_key` has 17 bytes: expected 32 hex digits"),
        ('encryption_key = "{key}x"', "encryption_key` is not hex"),
        ('[4D4D]\nencryption_key = ["{key}"]', "4D4D.encryption_key` has 0 bytes"),
        ("encryption_key = {key}", "is no TOML"),
    ],
)
def test_a_wrong_file_of_keys_is_named_without_what_is_in_it(tmp_path: pathlib.Path, text: str, expected: str) -> None:
    key = "c0ffee" * 5 + "00"
    file = tmp_path / "keys.toml"
    file.write_text(text.format(key=key))
    result = CliRunner().invoke(command, ["udp://127.0.0.1:1", "dlms_push", "--keys", str(file)])
    assert result.exit_code == 2
    assert expected in result.output
    assert key not in result.output


def test_a_receiver_without_ciphers_takes_no_keys() -> None:
    result = CliRunner().invoke(command, ["/dev/ttyUSB0", "dsmr_p1", "--ask-keys"])
    assert result.exit_code == 2
    assert "dsmr_p1 takes no keys" in result.output
