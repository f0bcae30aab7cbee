"""Direct invocation over MQTT, without any hub: who may, who may not, and what a caller sees."""

import asyncio
import contextlib
import datetime as dt
import json
import pathlib
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from agent.app import Agent
from agent.cli import cli
from agent.invoke import InvokeError, invoke
from agent.settings import parse_broker
from mqtt.connection import Access, Connection, Outgoing, connect
from protocol.commands import FINAL_STATES, Command, CommandUpdate
from protocol.envelopes import SigningKey, open_envelope
from protocol.reports import decode_report
from protocol.topics import Channel, topic_for
from protocol.wire import encode
from tests.parts.gateways import fast_clock, gateway_settings, meters, running
from tests.parts.mosquitto import Mosquitto, mosquitto
from tests.parts.relay import Relay, a_device, a_grant, a_line, now, relay

READ = "generic_lis200.read_single_value"
ARCHIVE = "generic_lis200.read_archive_by_date"


@pytest.fixture(scope="module")
def broker() -> Iterator[Mosquitto]:
    with mosquitto() as made:
        yield made


@contextlib.asynccontextmanager
async def a_gateway(broker: Mosquitto, folder: pathlib.Path, *callers: tuple[str, SigningKey]) -> AsyncIterator[Relay]:
    """Run an agent with one simulated meter and these callers; the hub's end hears, and can be deaf."""
    gateway = f"gw-{uuid.uuid4().hex[:8]}"
    clock = fast_clock()
    async with meters(clock) as endpoint, relay(broker.url, gateway) as hub:
        line = a_line(endpoint)
        grants = [a_grant(name, key, READ, ARCHIVE) for name, key in callers]
        grants.append(a_grant("late", SigningKey(bytes(32)), READ, expires=now() - dt.timedelta(days=1)))
        await hub.plan(1, lines=[line], devices=[a_device(line)], callers=grants)
        async with running(Agent(gateway_settings(folder, broker.url, gateway), clock)):
            await hub.until(hub.applied)
            yield hub


def a_call(gateway: str, **changes: object) -> Command:
    fields: dict[str, object] = {
        "id": uuid.uuid4(),
        "gateway": gateway,
        "context": "generic_lis200",
        "call": "read_single_value",
        "kwargs": {"address": "2:300"},
        "issued": now(),
        "ttl_seconds": 20,
        "meter": "meter-1",
    }
    return Command(**(fields | changes))  # type: ignore[arg-type]  # fields by name


class Done(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


async def metergate_agent(*arguments: str) -> Done:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent.entry", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    return Done(process.returncode or 0, stdout.decode(), stderr.decode())


async def test_the_command_makes_a_key_and_reads_a_value(broker: Mosquitto, tmp_path: pathlib.Path) -> None:
    made = await metergate_agent("invoke", "--new-key", str(tmp_path / "caller.key"))
    public = made.stdout.split()[-1]
    key = SigningKey(bytes.fromhex((tmp_path / "caller.key").read_text()))
    assert key.public.hex() == public
    async with a_gateway(broker, tmp_path / "agent", ("laptop", key)) as hub:
        access = ("--broker", broker.url, "--caller", "laptop", "--key-file", str(tmp_path / "caller.key"))
        call = ("generic_lis200", "read_single_value", "address=2:300")
        done = await metergate_agent("invoke", *access, hub.gateway, "meter-1", *call, "--json")
        assert done.exit_code == 0, done.stderr
        row = json.loads(done.stdout)
        assert (row["meter"], row["series"], row["unit"]) == ("meter-1", "2:300", "m3")
        assert row["timestamp"].endswith("Z")
        table = await metergate_agent("invoke", *access, hub.gateway, "meter-1", *call)
        assert table.stdout.splitlines()[0].split() == ["meter", "series", "timestamp", "value", "unit"]
        # The hub hears of it by the outbox, with its origin and the whole command.
        await hub.until(lambda: len(hub.readings) == 2)
        updates = [update for update in hub.of(CommandUpdate) if update.state == "done"]
        assert {update.origin for update in updates} == {"laptop"}
        assert all(update.command and update.command.call == "read_single_value" for update in updates)

        over = ("generic_lis200", "set_time")
        refused = await metergate_agent("invoke", *access, hub.gateway, "meter-1", *over)
        assert refused.exit_code == 1
        assert "may not call generic_lis200.set_time" in refused.stderr
        unknown = await metergate_agent("invoke", *access, hub.gateway, "meter-9", *call)
        assert (unknown.exit_code, "no meter meter-9" in unknown.stderr) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("gw", "meter"),
        ("--broker", "mqtt://127.0.0.1", "gw", "meter", "generic_lis200", "read_single_value", "adress=2:300"),
        ("--broker", "mqtt://127.0.0.1", "gw", "meter", "generic_lis200", "read_single_value", "address"),
        ("--broker", "http://127.0.0.1", "gw", "meter", "generic_lis200", "read_single_value", "address=2:300"),
        ("--broker", "mqtt://127.0.0.1", "GW", "meter", "generic_lis200", "read_single_value", "address=2:300"),
    ],
)
def test_wrong_usage_is_status_2(arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(cli, ["invoke", *arguments]).exit_code == 2


def test_a_password_file_without_text_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff")
    call = ("g1", "m", "generic_lis200", "read_single_value", "address=2:300", "--broker", "mqtt://127.0.0.1:1")
    said = CliRunner().invoke(cli, ["invoke", *call, "--broker-password-file", str(tmp_path / "secret")])
    assert said.exit_code == 2
    assert f"{tmp_path}/secret holds no text" in said.stderr


async def test_a_long_result_comes_in_parts(broker: Mosquitto, tmp_path: pathlib.Path) -> None:
    key = SigningKey.generate()
    async with a_gateway(broker, tmp_path, ("laptop", key)) as hub:
        kwargs = {"start_date": "2026-03-01T00:00:00Z", "archive_number": 3, "control_position": 3}
        order = a_call(hub.gateway, call="read_archive_by_date", kwargs=kwargs)
        result = await invoke(Access(parse_broker(broker.url)), "laptop", key, order, 20)
        assert len(result.readings) > 100
        assert result.outcome["readings_in_all"] == len(result.readings)
        await hub.until(lambda: len(hub.readings) == len(result.readings))
        keys = {(reading.series, reading.timestamp) for reading in result.readings}
        assert keys == {(reading.series, reading.timestamp) for reading in hub.readings}


async def test_who_is_not_listed_or_has_another_key_or_an_old_grant_is_refused(
    broker: Mosquitto, tmp_path: pathlib.Path
) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    access = Access(parse_broker(broker.url))
    async with a_gateway(broker, tmp_path, ("laptop", key)) as hub:
        for caller, signer, cause in (
            ("stranger", other, "is not in the plan"),
            ("laptop", other, "not signed with the key"),
            ("late", SigningKey(bytes(32)), "ended at"),
        ):
            with pytest.raises(InvokeError, match=cause):
                await invoke(access, caller, signer, a_call(hub.gateway), 10)
        topic = topic_for(hub.gateway, Channel.INVOKE, "laptop")
        async with connect(access, None) as connection:
            await connection.subscribe([topic_for(hub.gateway, Channel.REPLY, "laptop")])
            await connection.publish(Outgoing(topic, key.seal(topic, encode(a_call("gw-other")))))
            update, _ = await an_end(connection)
        assert (update.state, "it is for gateway 'gw-other'" in update.cause) == ("refused", True)
        assert not hub.runs()


async def test_correlation_is_echoed_and_another_response_topic_is_refused(
    broker: Mosquitto, tmp_path: pathlib.Path
) -> None:
    key = SigningKey.generate()
    async with (
        a_gateway(broker, tmp_path, ("laptop", key)) as hub,
        connect(Access(parse_broker(broker.url)), None) as connection,
    ):
        topic = topic_for(hub.gateway, Channel.INVOKE, "laptop")
        await connection.subscribe([topic_for(hub.gateway, Channel.REPLY, "laptop")])
        order = a_call(hub.gateway)
        envelope = key.seal(topic, encode(order))
        await connection.publish(Outgoing(topic, envelope, correlation=b"4711"))
        first, correlation = await an_end(connection)
        assert (first.state, correlation) == ("done", b"4711")
        # The same command again: told again, not run again; the hub may be deaf meanwhile.
        hub.receipting = False
        await connection.publish(Outgoing(topic, envelope, correlation=b"4712"))
        second, correlation = await an_end(connection)
        assert (second.id, correlation) == (first.id, b"4712")
        misdirected = key.seal(topic, encode(a_call(hub.gateway)))
        await connection.publish(Outgoing(topic, misdirected, response_topic="elsewhere"))
        update, _ = await an_end(connection)
        assert (update.state, "response topic" in update.cause) == ("refused", True)
        # A message moved to another topic is no longer signed.
        elsewhere = topic_for(hub.gateway, Channel.INVOKE, "other")
        await connection.publish(Outgoing(elsewhere, envelope))
        hub.receipting = True
        await hub.until(lambda: len(hub.runs()) == 1)


async def an_end(connection: Connection) -> tuple[CommandUpdate, bytes | None]:
    """Return the next final update, with its correlation data."""
    async with asyncio.timeout(10):
        async for message in connection.messages():
            update = decode_report(open_envelope(message.topic, message.payload).body)
            assert isinstance(update, CommandUpdate)
            if update.state in FINAL_STATES:
                return update, message.correlation
    raise AssertionError("the connection ended")
