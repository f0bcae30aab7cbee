"""What lines tell of themselves: on the metrics page, in the life sign, and to a person beside the agent."""

import json
import pathlib
import uuid

import pytest
from click.testing import CliRunner

from agent import line_figures
from agent.app import Agent
from agent.cli import cli
from agent.clocks import Clock
from agent.conversation import NoAnswer
from agent.line_figures import LineTally
from agent.links import LinkError
from agent.metrics import render
from agent.workers import Workers
from protocol import iec62056
from protocol.plans import Line
from protocol.reports import LineFigures
from protocol.wire import encode
from tests.parts.gateways import gateway_settings, running
from tests.parts.mosquitto import free_port
from tests.parts.wires import NOW


def tally_of(name: str = "north") -> LineTally:
    return LineTally(Line(uuid.uuid4(), name, "/dev/ttyS1"), NOW)


def test_repeats_and_errors_are_counted_by_kind_and_time_outs_by_meter() -> None:
    tally = tally_of()
    ear = tally.ear("m-1")
    read = iec62056.ReadCommand("2:300")
    ear.said(bytes(10), read, 9600, 0, 1)
    ear.heard(bytes(30), 9600, 2)
    ear.understood(iec62056.Ack(), 9600, 2)
    ear.said(bytes(10), read, 9600, 3, 4)
    assert tally.figures().repeats == 0, "asking twice is not asking again"
    ear.failed(iec62056.DamagedTelegram("x"), 9600, 5)
    ear.said(b"\x15", iec62056.Nak(), 9600, 5, 5)
    ear.failed(NoAnswer("x"), 9600, 6)
    ear.said(bytes(10), read, 9600, 6, 7)
    ear.failed(NoAnswer("x", broken_off=True), 9600, 8)
    ear.failed(LinkError("/dev/x", "gone"), 9600, 8)
    ear.failed(iec62056.RemoteProtocolError("x"), 9600, 8)
    ear.understood(iec62056.Nak(), 9600, 9)
    tally.session(2.5)
    found = tally.figures(["m-2", "m-1"])
    assert (found.bytes, found.repeats, found.sessions, found.busy_seconds) == (61, 2, 1, 2.5)
    assert found.errors == {"damaged": 1, "no_answer": 1, "broken_off": 1, "link": 1, "protocol": 1, "nak": 1}
    assert found.timeouts == {"m-1": 2}
    assert found.silent == ["m-1", "m-2"]
    page = render(line_figures.samples([found]))
    assert 'metergate_agent_line_errors_total{line="north",kind="nak"} 1' in page
    assert 'metergate_agent_meter_timeouts_total{line="north",meter="m-1"} 2' in page
    assert 'metergate_agent_line_busy_seconds_total{line="north"} 2.5' in page


def test_a_life_sign_holds_the_lines_with_most_errors_when_not_all_fit() -> None:
    many = [
        LineFigures(uuid.uuid4(), f"line-{number:04}", NOW, errors={"no_answer": number}, silent=["m" * 90] * 5)
        for number in range(500)
    ]
    kept = line_figures.reported(many)
    assert 10 < len(kept) < 500
    assert sum(len(encode(one)) for one in kept) <= line_figures.MOST_REPORTED_BYTES
    assert {one.name for one in kept} == {one.name for one in many[-len(kept) :]}
    assert [one.name for one in kept] == sorted(one.name for one in kept)


async def test_the_command_shows_what_the_agent_keeps(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = gateway_settings(tmp_path, f"mqtt://127.0.0.1:{free_port()}", "gw-1")
    tally = tally_of()
    ear = tally.ear("m-1")
    ear.failed(NoAnswer("x"), 9600, 6)
    tally.session(12.0)
    monkeypatch.setattr(Workers, "figures", lambda _workers: [tally.figures(["m-1"])])
    async with running(Agent(settings, Clock())) as agent:
        agent._keep_figures()
    config = tmp_path / "agent.toml"
    config.write_text(f'gateway = "gw-1"\nbroker = "mqtt://localhost"\ndata = "{settings.store.parent}"\n')
    text = CliRunner().invoke(cli, ["lines", "--config", str(config)])
    assert text.exit_code == 0, text.output
    assert "line north, since 2025-03-12 09:30:10Z:" in text.output
    assert "1 sessions, 12 s in use" in text.output
    assert "errors: no_answer 1" in text.output
    assert "no answer: m-1 1 times" in text.output
    assert "left alone because silent: m-1" in text.output
    shown = json.loads(CliRunner().invoke(cli, ["lines", "--config", str(config), "--json"]).output)
    assert shown[0]["timeouts"] == {"m-1": 1}


def test_the_command_says_what_is_wrong(tmp_path: pathlib.Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'gateway = "gw-1"\nbroker = "mqtt://localhost"\ndata = "{tmp_path}"\n')
    assert CliRunner().invoke(cli, ["lines", "--config", str(config)]).exit_code == 1
    assert CliRunner().invoke(cli, ["lines", "--config", str(tmp_path / "no.toml")]).exit_code == 2
