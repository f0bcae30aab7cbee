"""``metergate-hub api`` at a running hub: settings, names, tables, JSON, sessions, and the numbers it ends with."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from client import Changed, Hub, Meter, NotClear, Reading, hub
from client.accounts import read_session, session_file
from client.cli import api
from tests.docs.test_readme import free_port
from tests.parts.running_hub import PASSWORD, RunningHub, Things, running_hub

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def running() -> RunningHub:
    return running_hub("sqlite")


@pytest.fixture(scope="module")
def things(running: RunningHub) -> Things:
    return Things(running)


@pytest.fixture
def environment(running: RunningHub, tmp_path: Path) -> dict[str, str | None]:
    """Nothing but which hub, and a token in a file."""
    (tmp_path / "token").write_text(f"made on Monday\n{running.token}\n", encoding="utf-8")
    names = ("URL", "TOKEN", "TOKEN_FILE", "CA", "SESSION")
    return {
        **{f"METERGATE_HUB_{name}": None for name in names},
        "METERGATE_HUB_URL": running.url,
        "METERGATE_HUB_TOKEN_FILE": str(tmp_path / "token"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "METERGATE_USER_PASSWORD": None,
    }


@pytest.fixture
def call(environment: dict[str, str | None], running: RunningHub) -> Call:
    """Run a command; whatever it says, it says no token."""

    def run(*arguments: str, status: int = 0, said: str = "", **more: str | None) -> Result:
        done = CliRunner().invoke(api, arguments, env={**environment, **more}, input=said)
        assert done.exit_code == status, (
            f"{arguments}: {done.exit_code}\n{done.stdout}\n{done.stderr}\n{done.exception}"
        )
        assert running.token not in done.output + done.stderr
        return done

    return run


def test_what_is_missing_is_said_with_how_it_is_given(call: Call, tmp_path: Path) -> None:
    nobody = call("gateways", status=2, METERGATE_HUB_TOKEN_FILE=None)
    assert "METERGATE_HUB_TOKEN_FILE" in nobody.stderr
    assert "login" in nobody.stderr
    assert "METERGATE_HUB_URL" in call("gateways", status=2, METERGATE_HUB_URL=None).stderr
    assert "cannot be read" in call("--token-file", str(tmp_path / "none"), "gateways", status=2).stderr
    assert "--token" not in call("--help").stdout.replace("--token-file", ""), "a token is never on the command line"
    dead = f"http://127.0.0.1:{free_port()}"
    assert "cannot be reached" in call("--url", dead, "gateways", status=3).stderr
    wrong = call("gateways", status=4, METERGATE_HUB_TOKEN_FILE=None, METERGATE_HUB_TOKEN="no-such-key")  # noqa: S106 - none
    assert "token is not valid" in wrong.stderr
    call("no-such-command", status=2)


def test_every_command_teaches_by_an_example(call: Call) -> None:
    context = click.Context(api)
    for name in api.list_commands(context):
        told = call(name, "--help").stdout
        found = api.get_command(context, name)
        if isinstance(found, click.Group):
            told += "".join(call(name, inner, "--help").stdout for inner in found.list_commands(context))
        assert f"metergate-hub api {name} " in told or name == "logout", name


def test_meters_by_name_and_gateway(call: Call, things: Things, running: RunningHub) -> None:
    gateway = running.ask("GET", f"/v1/metering/network-interfaces/{things.line}")["gateway"]
    gateway_id = running.ask("GET", f"/v1/gateways/{gateway}")["gateway_id"]
    found = call("meters", "list", "--gateway", gateway_id)
    head, row = found.stdout.splitlines()
    assert head.split() == ["NAME", "SERIAL", "PROTOCOL", "LINE", "ID"]
    assert row.split()[0] == things.meter_name
    assert row.split()[-1] == things.meter
    listed = call("meters", "list", "--gateway", gateway, "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in listed] == [things.meter]
    shown = call("meters", "show", things.meter_name).stdout
    assert gateway_id in shown
    assert json.loads(call("meters", "show", things.meter, "--json").stdout)["name"] == things.meter_name
    assert "there is no meter called 'nobody'" in call("meters", "show", "nobody", status=1).stderr
    assert gateway_id in call("gateways", "--offline").stdout
    assert "never" in shown or "away" in shown


def test_a_name_that_several_have_is_answered_with_their_ids(call: Call, things: Things, running: RunningHub) -> None:
    other = running.post("/v1/organizations/", name=things.name("other"))["id"]
    twin = running.post("/v1/metering/meter-devices", organization=other, name=things.meter_name, protocol="lis-200")
    try:
        told = call("why", things.meter_name, status=1).stderr
        assert "2 meters are called" in told
        assert things.meter in told
        assert twin["id"] in told
        with Hub(running.url, running.token) as asked:
            assert str(asked.find(Meter, things.meter_name, organization=other).id) == twin["id"]
    finally:
        running.ask("DELETE", f"/v1/metering/meter-devices/{twin['id']}", status=204)


def test_everything_else_goes_by_its_path(call: Call, things: Things) -> None:
    name = things.name("group")
    made = json.loads(
        call("post", "metering/amr-task-groups", f"organization={things.organization}", f"name={name}").stdout
    )
    path = f"/v1/metering/amr-task-groups/{made['id']}"
    told = call("get", path, "--etag")
    etag = told.stderr.strip().removeprefix("ETag: ")
    assert json.loads(told.stdout) == made
    changed = call("patch", path, f'tasks:=["{things.task}"]', "description=each hour", "--if-match", etag)
    assert json.loads(changed.stdout)["tasks"] == [things.task]
    assert call("patch", path, "description=late", "--if-match", etag, status=1).stderr, "somebody was faster"
    wrong = call("patch", path, "tasks:=7", "colour=red", status=1).stderr
    assert "tasks: " in wrong
    assert "colour: there is no such field" in wrong
    assert "no field" in call("patch", path, "tasks", status=2).stderr
    assert "no JSON" in call("patch", path, "tasks:=[", status=2).stderr
    sent = json.dumps({"organization": things.organization, "name": f"{name}2"})
    assert json.loads(call("put", path, "--body", "-", said=sent).stdout)["tasks"] == []
    lines = call("get", "metering/amr-task-groups", f"name={name}2", "--all").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [made["id"]]
    assert call("delete", path, "--yes").stdout == ""
    call("get", path, status=1)


def test_readings_are_exact_and_come_page_by_page(
    call: Call, things: Things, running: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = things.new_meter()
    values = ["1.10", "12345678901234567890.123456789", "0.00"]
    for hour, value in enumerate(values):
        at = f"2026-02-01T0{hour}:00:00Z"
        running.post(
            "/v1/metering/new-meter-readings", meter=meter["name"], series="1-0:1.8.0", timestamp=at, value=value
        )
    monkeypatch.setattr(hub, "PAGE", 2)
    with Hub(running.url, running.token) as asked:
        rows = list(asked.list(Reading, meter_device=meter["id"], ordering="timestamp"))
        assert [str(row.value) for row in rows] == values
        assert all(row.timestamp.utcoffset() is not None for row in rows)
        assert sorted(str(row.value) for row in asked.list(Reading, meter_device=meter["id"])) == sorted(values)
        assert len(list(asked.list(Reading, most=1, meter_device=meter["id"]))) == 1
        assert asked.count(Reading, meter_device=meter["id"]) == 3
        with pytest.raises(NotClear):
            asked.find(Meter, "nobody at all")
    told = call("readings", meter["name"], "--series", "1-0:1.8.0", "--since", "2026-02-01", "--limit", "2").stdout
    assert [line.split()[3] for line in told.splitlines()[1:]] == values[:0:-1]
    assert "no such readings" in call("readings", meter["name"], "--since", "1h").stdout


def test_the_latest_readings_and_what_was_received_since(
    call: Call, things: Things, running: RunningHub, tmp_path: Path
) -> None:
    first, second = things.new_meter(), things.new_meter()
    kept = tmp_path / "billing.cursor"

    def push(meter: dict[str, Any], hour: int, value: str) -> None:
        at = f"2026-02-01T{hour:02}:00:00Z"
        running.post(
            "/v1/metering/new-meter-readings", meter=meter["name"], series="1-0:1.8.0", timestamp=at, value=value
        )

    def received(*more: str) -> list[str]:
        lines = call("received", "--meter", first["name"], "--cursor-file", str(kept), "--json", *more).stdout
        return [json.loads(line)["value"] for line in lines.splitlines()]

    push(first, 2, "2.50")
    push(first, 1, "1.25")
    push(second, 3, "3.75")
    assert received("--limit", "1") == ["2.50"]
    assert received() == ["1.25"]
    assert received() == []
    push(first, 0, "0.50")
    told = call("received", "--meter", first["name"], "--cursor-file", str(kept)).stdout.splitlines()
    assert [line.split()[0] for line in told[1:]] == [first["name"]]
    assert call("received", "--meter", first["name"], "--cursor-file", str(kept)).stdout == "no reading was received\n"
    told = call("latest", first["name"], second["id"], "--series", "1-0:1.8.0").stdout.splitlines()
    assert [(line.split()[0], line.split()[4]) for line in told[1:]] == [
        (first["name"], "2.50"),
        (second["name"], "3.75"),
    ]
    found = [json.loads(line) for line in call("latest", "--json").stdout.splitlines()]
    assert {first["id"], second["id"]} <= {one["meter_device"] for one in found}
    assert "nothing was read" in call("latest", things.new_meter()["name"]).stdout


def test_gaps_and_backfills_in_words(call: Call, things: Things) -> None:
    assert "nothing was expected" in call("why", things.new_meter()["name"]).stdout
    assert call("gaps", "--reason", "rejected").stdout == "no meter lacks anything\n"
    asked = call("backfill", "ask", "--meter", things.meter_name, "--since", "2d", "--dry-run").stdout
    assert "0 readings of 1 meters are missing" in asked
    call("backfill", "ask", "--since", "2d", status=2)
    assert "no such backfills" in call("backfill", "list", "--meter", things.meter_name).stdout
    assert "no backfill" in call("backfill", "pause", str(uuid.uuid4()), status=1).stderr


def test_a_command_that_nobody_takes_is_left_or_called_off(call: Call, things: Things) -> None:
    made = call("read", things.meter_name, "2:300", "--no-wait", "--context", "generic_lis200").stdout.strip()
    waited = call("command", "follow", made, "--timeout", "0", status=1)
    assert f"command follow {made}" in waited.stderr
    assert made in call("command", "list", "--meter", things.meter_name).stdout
    assert "read_single_value address=2:300" in call("command", "show", made).stdout
    assert call("command", "cancel", made, "--timeout", "20").stdout.startswith("cancelled")
    assert "ended already" in call("command", "cancel", made, status=1).stderr
    assert "unknown" in call("invoke", things.meter_name, "read_values", "adresses=1", status=1).stderr


def test_a_user_signs_in_once_and_the_session_is_theirs_alone(
    call: Call, environment: dict[str, str | None], running: RunningHub, things: Things
) -> None:
    user = things.new_user()
    running.post("/v1/organizations/memberships", user=user["id"], organization=things.organization)
    as_user: dict[str, Any] = {"METERGATE_HUB_TOKEN_FILE": None}
    assert "wrong" in call("login", user["username"], status=4, said="not it\n", **as_user).stderr
    told = call("login", user["username"], said=f"{PASSWORD}\n", **as_user)
    file = session_file({name: value for name, value in environment.items() if value is not None})
    assert file.stat().st_mode & 0o777 == 0o600
    kept = read_session(file)
    assert kept is not None
    assert kept.token not in told.stdout + told.stderr + repr(kept)
    assert PASSWORD not in file.read_text("utf-8")
    seen = call("meters", "list", "--json", **{**as_user, "METERGATE_HUB_URL": None}).stdout.splitlines()
    assert {json.loads(line)["organization"] for line in seen} == {things.organization}
    elsewhere = call("meters", "list", status=2, **{**as_user, "METERGATE_HUB_URL": "https://hub.example.com"})
    assert "who asks?" in elsewhere.stderr, "a session goes to its own hub only"
    assert "change nothing" in call("tokens", "revoke", "x", status=4, **as_user).stderr
    assert (
        "does not belong to 'Nobody'"
        in call("login", "--organization", "Nobody", status=2, said=f"{PASSWORD}\n", **as_user).stderr
    )
    call("logout", **as_user)
    assert not file.exists()
    call("meters", "list", status=2, **as_user)


def test_tokens_are_made_shown_once_used_and_ended(call: Call, things: Things, tmp_path: Path) -> None:
    name = things.name("token")
    call("tokens", "create", name, "--scope", "read", status=2)
    refused = call("tokens", "create", name, "--scope", "root", "--organization", things.organization, status=1).stderr
    assert "scopes.0" in refused
    made = call("tokens", "create", name, "--scope", "read-readings", "--organization", things.organization)
    (tmp_path / "machine").write_text(made.stdout, encoding="utf-8")
    machine = ("--token-file", str(tmp_path / "machine"))
    assert things.meter_name in call(*machine, "meters", "list").stdout
    assert "read" in call(*machine, "gateways", status=4).stderr
    listed = call("tokens", "list")
    assert name in listed.stdout
    assert made.stdout.strip() not in listed.stdout
    assert call("tokens", "revoke", name).stdout == f"{name} is revoked\n"
    assert "revoked" in call(*machine, "meters", "list", status=4).stderr
    assert name not in call("tokens", "list").stdout
    assert name in call("tokens", "list", "--all").stdout


def test_an_edit_from_python_loses_nobodys(things: Things, running: RunningHub) -> None:
    path = f"metering/meter-devices/{things.new_meter()['id']}"
    with Hub(running.url, running.token) as one, Hub(running.url, running.token) as other:
        _, etag = one.get_with_etag(path)
        other.update(path, {"manufacturer_serial": "1"}, if_match=etag)
        with pytest.raises(Changed):
            one.update(path, {"manufacturer_serial": "2"}, if_match=etag)
        assert other.get(path)["manufacturer_serial"] == "1"


def test_many_meters_are_asked_and_called_off(call: Call, things: Things) -> None:
    asked = ("batch", "ask", "read_single_value", "address=2:300", "--meter", things.meter_name)
    made = call(*asked, "--no-wait").stdout.strip()
    assert "of which nobody can call 0" in call("batch", "show", made).stdout
    assert made in call("batch", "list").stdout
    waited = call("batch", "follow", made, "--timeout", "1", status=1).stderr
    assert "0 of 1 have ended" in waited
    assert f"batch follow {made}" in waited
    assert call("batch", "cancel", made).stdout
    call("batch", "ask", "set_time", status=2)
