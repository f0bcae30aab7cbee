"""The commands of the hub as processes: first line, tokens, exit status, and an end within seconds."""

import asyncio
import contextlib
import io
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import make_url

from benchmarks.postgres import Postgres, postgres
from hub.cli import commands
from hub.entry import main
from tests.parts.databases import new_postgresql
from tests.parts.mosquitto import free_port, mosquitto

HUB = str(Path(sys.executable).parent / "metergate-hub")


def told(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return the JSON object of the first line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    return dict(json.loads(line))


def ended(process: subprocess.Popen[str]) -> int:
    """Send SIGTERM; return the exit status, which comes within seconds."""
    process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    process.communicate(timeout=15)
    assert time.monotonic() - begun < 10
    return process.returncode


class Started(subprocess.Popen[str]):
    """The hub as a process; leaving its block by an error ends it, so that a failed test does not wait for ever."""

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:  # noqa: ANN401, PYI036 - handed on to Popen
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


def started(*arguments: str) -> Started:
    """Start the hub."""
    return Started([HUB, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the hub's command to its end, in a process of its own: its first line, its log and signals are its own."""
    return subprocess.run([HUB, *arguments], capture_output=True, text=True, check=False, timeout=60)


def said(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Do what the command does, from its first line of code to its exit status, in a thread of this process."""

    def call() -> int:
        try:
            main(arguments)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 0
        return 0

    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), ThreadPoolExecutor(1) as pool:
        status = pool.submit(call).result()
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), errors.getvalue())


def test_run_is_everything_in_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    before = done("token", "create", "early", "--data", str(data))
    assert before.returncode == 0, before.stderr
    assert data.stat().st_mode & 0o077 == 0, "what the hub knows is for its own user"
    with started("run", "--data", str(data), "--port", "0", "--mqtt-port", "0") as process:
        urls = told(process)
        assert set(urls) == {"rest", "mqtt"}
        late = said("token", "create", "late", "--data", str(data))
        for token in (before, late):
            key = token.stdout.splitlines()[-1]
            headers = {"Authorization": f"Token {key}"}
            assert httpx.get(f"{urls['rest']}/v1/organizations/", headers=headers).status_code == 200
        assert httpx.get(f"{urls['rest']}/v1/organizations/").status_code == 401
        health = httpx.get(f"{urls['rest']}/health").json()
        assert (health["status"], health["reasons"]) == ("ready", [])
        assert ended(process) == 0
    assert (data / "hub.key").stat().st_mode & 0o777 == 0o600


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = done("run", "--data", str(tmp_path), "--port", port, "--mqtt-port", "0")
    assert answer.returncode == 1
    assert f"127.0.0.1:{port}" in answer.stderr
    assert "--port" in answer.stderr


def test_tokens_are_listed_and_revoked(tmp_path: Path) -> None:
    place = ["--data", str(tmp_path)]
    lost = said("token", "list", *place)
    assert lost.returncode == 1
    assert "metergate-hub migrate" in lost.stderr
    keys = [said("token", "create", name, *place).stdout.split()[-1] for name in ("leaked", "kept")]
    with started("run", *place, "--port", "0", "--mqtt-port", "0") as process:
        rest = told(process)["rest"]
        assert said("token", "revoke", "leaked", *place).returncode == 0
        answers = [httpx.get(f"{rest}/v1/gateways", headers={"Authorization": f"Token {key}"}) for key in keys]
        assert [answer.status_code for answer in answers] == [401, 200]
        ended(process)
    again = said("token", "revoke", "leaked", *place)
    assert again.returncode == 1
    assert "leaked" in again.stderr
    listed = said("token", "list", *place)
    assert [line.split("\t")[0] for line in listed.stdout.splitlines()] == ["leaked", "kept"]
    assert "revoked" in listed.stdout.splitlines()[0]
    assert not any(key in listed.stdout for key in keys)


async def health_of(port: int) -> dict[str, object]:
    """Ask REST for its health until it answers."""
    async with httpx.AsyncClient() as client:
        for _ in range(200):
            try:
                return dict((await client.get(f"http://127.0.0.1:{port}/health")).json())
            except httpx.TransportError:
                await asyncio.sleep(0.1)
    raise AssertionError("REST does not answer")


@pytest.fixture
def database() -> Iterator[Postgres]:
    """A PostgreSQL of its own; its user must reach its folder."""
    with tempfile.TemporaryDirectory() as folder, postgres(Path(folder) / "postgres") as server:
        yield server


async def test_a_database_that_is_away_at_start_is_waited_for(tmp_path: Path, database: Postgres) -> None:
    with mosquitto() as broker:
        assert said("migrate", "--database", database.url()).returncode == 0
        database.end(signal.SIGINT)
        port, other_port = free_port(), free_port()
        serve = started("serve", "--database", database.url(), "--port", str(port))
        relay = started("relay", "--database", database.url(), "--broker", broker.url, "--data", str(tmp_path))
        idle = started("serve", "--database", database.url(), "--port", str(other_port))
        with serve, relay, idle:
            health = await health_of(port)
            assert health["status"] == "unavailable"
            # Before it answers, a signal would end it without a word.
            await health_of(other_port)
            idle.send_signal(signal.SIGTERM)
            log = idle.communicate(timeout=15)[1]
            assert idle.returncode == 0, log
            assert "database_awaited" in log
            database.start()
            assert told(serve)["rest"].endswith(f":{port}")
            assert told(relay) == {"mqtt": broker.url}
            assert (await health_of(port))["status"] == "ready"
            assert ended(serve) == 0
            assert ended(relay) == 0


async def test_a_database_that_refuses_ends_the_process(tmp_path: Path) -> None:
    _, url = await new_postgresql()
    nothing = make_url(url).set(database="nothing").render_as_string(hide_password=False)
    for command in (["serve", "--port", "0"], ["relay", "--broker", "mqtt://127.0.0.1:1", "--data", str(tmp_path)]):
        answer = done(*command, "--database", nothing)
        assert answer.returncode == 1
        assert "does not exist" in answer.stderr
        assert "Traceback" not in answer.stderr


async def test_serve_and_relay_on_postgresql(tmp_path: Path) -> None:
    _, url = await new_postgresql()
    with mosquitto() as broker:
        key = said("token", "create", "x", "--database", url).stdout.splitlines()[-1]
        serve = started("serve", "--database", url, "--port", "0")
        # As few connections to the database as a process can do with.
        few = ("--database-connections", "4")
        relay = started("relay", "--database", url, *few, "--broker", broker.url, "--data", str(tmp_path))
        with serve, relay:
            rest = told(serve)["rest"]
            assert told(relay) == {"mqtt": broker.url}
            headers = {"Authorization": f"Token {key}"}
            async with httpx.AsyncClient(headers=headers) as client:
                assert (await client.get(f"{rest}/v1/gateways")).status_code == 200
            assert ended(serve) == 0
            assert ended(relay) == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["serve"], "--database"),
        (["serve", "--database", "sqlite:///x.db"], "metergate-hub run"),
        (["serve", "--database", "mysql://x/y"], "mysql"),
        (["serve", "--database", "postgresql://x/y", "--database-connections", "3"], "--database-connections"),
        (["relay", "--database", "postgresql://x/y"], "--broker"),
        (["relay", "--database", "postgresql://x/y", "--broker", "mqtt://x"], "--data"),
        (["token", "create", ""], "NAME"),
        (["token", "create"], "NAME"),
        (["token", "create", "x", "--data", "a", "--database", "sqlite:///b"], "not both"),
        (["run", "--port", "70000"], "--port"),
        (["run", "--broker", "http://x"], "mqtt://"),
        (["run", "--broker", "mqtt://x:y"], "port"),
        (["run", "--broker", "mqtt://hub:geheim@x"], "METERGATE_BROKER_PASSWORD"),
        (["serve", "--database", "postgresql://hub:geheim@x/y"], "PGPASSWORD"),
        (["migrate", "--database", "postgresql://hub:geheim@x/y"], "PGPASSWORD"),
        (["token", "create", "x", "--database", "postgresql://hub:geheim@x/y"], "PGPASSWORD"),
        (["migrate", "--database", "nonsense"], "--database"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], text: str) -> None:
    answer = CliRunner().invoke(commands, arguments)
    assert answer.exit_code == 2, answer.output
    assert text in answer.output
    assert "geheim" not in answer.output


def test_two_databases_are_refused_also_where_one_stands_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", f"sqlite:///{tmp_path / 'there' / 'hub.db'}"
    monkeypatch.setenv("METERGATE_DATABASE", there)
    answer = CliRunner().invoke(commands, ["migrate", "--data", str(here), "--database", there])
    assert answer.exit_code == 2, answer.output
    assert "not both" in answer.output
    assert not here.exists()
    # What is typed counts more than what a machine's environment says for all commands.
    assert CliRunner().invoke(commands, ["migrate", "--data", str(here)]).exit_code == 0
    assert (here / "hub.db").exists()
    assert not (tmp_path / "there").exists()
    assert CliRunner().invoke(commands, ["migrate"]).exit_code == 0
    assert (tmp_path / "there" / "hub.db").exists()


def test_the_brokers_password_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "ge:hei/m@ä"  # noqa: S105 - a test's
    (tmp_path / "password").write_text(f"{secret}\n", "utf-8")
    with mosquitto(login=("hub", secret)) as broker:
        place = broker.url.removeprefix("mqtt://")
        for broker_url, variable, value in (
            (f"mqtt://hub@{place}", "METERGATE_BROKER_PASSWORD", secret),
            (f"mqtt://hub@{place}", "METERGATE_BROKER_PASSWORD_FILE", str(tmp_path / "password")),
            (None, "METERGATE_BROKER", f"mqtt://hub:{quote(secret, safe='')}@{place}"),
        ):
            monkeypatch.setenv(variable, value)
            option = ["--broker", broker_url] if broker_url else []
            with started("run", "--data", str(tmp_path), "--port", "0", *option) as process:
                assert told(process)["mqtt"] == broker.url
                argv = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                process.send_signal(signal.SIGTERM)
                log = process.communicate(timeout=15)[1]
            assert process.returncode == 0, log
            for shown in (argv.decode(), log):
                assert not any(form in shown for form in (secret, quote(secret, safe=""), "ge:hei"))
            monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "--data", "/proc/nowhere"], "/proc/nowhere"),
        (["serve", "--database", "postgresql://x@no.such.host.invalid/x"], "no.such.host.invalid/x cannot be used: "),
        (["migrate", "--database", "postgresql://nobody@127.0.0.1:1/x"], "nobody@127.0.0.1:1/x cannot be used: "),
        (["token", "create", "x", "--data", "/dev/null/data"], "/dev/null/data/hub.db cannot be used: "),
    ],
)
def test_work_that_fails_is_1_with_its_cause(arguments: list[str], text: str) -> None:
    answer = done(*arguments) if arguments[0] in {"run", "serve"} else said(*arguments)
    assert answer.returncode == 1, answer.stderr
    assert text in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "hub.db").write_text("no database")
    answer = said("token", "create", "x", "--data", str(tmp_path))
    assert answer.returncode == 1
    assert answer.stderr == f"metergate-hub: the database {tmp_path}/hub.db cannot be used: file is not a database\n"
