"""Tokens of machines: their scopes, their organization, their end; and the commands that make them and users."""

import datetime as dt
import json
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import click
import httpx
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import columns
from hub.cli import commands
from hub.database import reading, writing
from hub.migrating import move
from hub.models import Token
from hub.passwords import matches
from hub.scopes import PUSH_READINGS, READ, READ_READINGS
from hub.tokens import create_token
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Fleet, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

READINGS = "/v1/metering/meter-readings"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
PUSH = "/v1/metering/new-meter-readings"
READING = {"meter": "Heating plant", "series": "2:300", "timestamp": "2026-03-02T06:00:00Z", "value": "1.50"}


async def machine(rest: Rest, fleet: Fleet, *scopes: str, days: float | None = None) -> httpx.AsyncClient:
    """Return a client with a new token of a machine of that organization."""
    now = rest.clock.now()
    async with writing(rest.hub.engine) as session:
        key = await create_token(
            session,
            "billing",
            now,
            organization=uuid.UUID(fleet.organization),
            scopes=scopes,
            expires=now + dt.timedelta(days=days) if days is not None else None,
        )
    transport = rest.client._transport
    return httpx.AsyncClient(transport=transport, base_url="http://hub", headers={"Authorization": f"Token {key}"})


async def test_a_machine_does_what_its_scopes_say(rest: Rest) -> None:
    mine, _ = await create_fleet(rest, "mine"), await create_fleet(rest, "other")
    async with await machine(rest, mine, PUSH_READINGS) as pushing, await machine(rest, mine, READ_READINGS) as looking:
        assert (await pushing.post(PUSH, json=READING)).json()["outcome"] == "stored", "by name, of two meters its own"
        assert (await pushing.get(READINGS)).status_code == 403
        refused = await looking.post(PUSH, json=READING)
        assert refused.status_code == 403
        assert "push-readings" in refused.json()["detail"]
        seen = (await looking.get(READINGS)).json()
        assert [row["organization"] for row in seen["results"]] == [mine.organization]
        assert (await looking.get("/v1/gateways")).status_code == 403
        assert (await looking.get("/v1/organizations")).status_code == 403


async def test_the_organization_is_implied_and_no_other_can_be_said(rest: Rest) -> None:
    mine, other = await create_fleet(rest, "mine"), await create_fleet(rest, "other")
    async with await machine(rest, mine, "configure", "push-readings", "command") as client:
        made = await client.post("/v1/metering/meter-reading-series", json={"name": "7:1", "unit": "m3"})
        assert made.json()["organization"] == mine.organization
        path = f"/v1/metering/meter-reading-series/{made.json()['id']}"
        assert (await client.patch(path, json={"unit": "kWh"})).json()["organization"] == mine.organization
        meter = await client.post(
            "/v1/metering/meter-devices", json={"organization": None, "name": "B", "protocol": "lis-200"}
        )
        assert meter.json()["organization"] == mine.organization, "a machine's meters are never nobody's"
        for body in ({"name": "x", "unit": "m3"}, {"name": "x", "unit": "m3", "colour": "red"}):
            answer = await client.post(
                "/v1/metering/meter-reading-series", json=body | {"organization": other.organization}
            )
            assert answer.status_code == 422
        assert (await client.patch(path, json={"organization": other.organization})).status_code == 422
        listed = [READING, READING | {"organization": other.organization}]
        answer = await client.post(PUSH, json=listed)
        assert [error["field"] for error in answer.json()["errors"]] == ["1.organization"]
        body = {"meter_device": other.meter, "meter_execution_type": "generic_lis200", "task_call": "set_time"}
        assert (await client.post("/v1/metering/amr-tasks/invoke", json=body)).status_code == 404
        for field, value in (("type", other.type), ("network_interface", other.line), ("task_groups", [other.group])):
            answer = await client.patch(f"/v1/metering/meter-devices/{mine.meter}", json={field: value})
            theirs = value[0] if isinstance(value, list) else value
            nothing = [UNKNOWN] if isinstance(value, list) else UNKNOWN
            same = await client.patch(f"/v1/metering/meter-devices/{mine.meter}", json={field: nothing})
            assert answer.status_code == same.status_code == 422
            assert answer.text.replace(theirs, UNKNOWN) == same.text, "nothing tells that it exists"


async def test_a_token_ends(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    async with await machine(rest, fleet, READ, days=1) as client:
        assert (await client.get(READINGS)).status_code == 200
        await rest.patch(f"/v1/organizations/{fleet.organization}", is_active=False)
        assert (await client.get(READINGS)).status_code == 401
        await rest.patch(f"/v1/organizations/{fleet.organization}", is_active=True)
        rest.clock.advance(hours=23, minutes=59)
        assert (await client.get(READINGS)).status_code == 200
        rest.clock.advance(minutes=1)
        assert (await client.get(READINGS)).status_code == 401
    async with await machine(rest, fleet, READ) as client:
        async with writing(rest.hub.engine) as session:
            await session.execute(sa.update(Token).where(Token.name == "billing").values(revoked=rest.clock.now()))
        assert (await client.get(READINGS)).status_code == 401


async def test_the_last_use_is_kept_to_the_minute(rest: Rest) -> None:
    async def used() -> dt.datetime | None:
        async with reading(rest.hub.engine) as session:
            return (await session.execute(sa.select(Token.last_used))).scalar_one()

    begun = rest.clock.now()
    await rest.get("/v1/organizations")
    assert await used() == begun
    rest.clock.advance(seconds=59)
    await rest.get("/v1/organizations")
    assert await used() == begun
    rest.clock.advance(seconds=1)
    await rest.get(f"/v1/organizations/{UNKNOWN}", 404)
    assert await used() == begun + dt.timedelta(minutes=1)


async def test_a_token_without_scopes_opens_nothing(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    async with await machine(rest, fleet) as client:
        for path in (READINGS, "/v1/gateways", f"/v1/gateways/{fleet.gateway}", "/v1/users"):
            assert (await client.get(path)).status_code == 403


PASSWORD = "a good long one"  # noqa: S105 - of users of these tests


def run(tmp_path: Path, *arguments: str, status: int = 0) -> Result:
    """Run a command on a hub of its own."""
    environment = {"METERGATE_USER_PASSWORD": PASSWORD, "METERGATE_DATABASE": ""}
    result = CliRunner().invoke(commands, [*arguments, "--data", str(tmp_path)], env=environment)
    assert result.exit_code == status, (arguments, result.output, result.exception)
    return result


def test_the_first_user_of_a_fresh_hub(tmp_path: Path) -> None:
    made = json.loads(run(tmp_path, "user", "create", "Anna", "--new-organization", "Stadtwerke", "--json").output)
    assert (made["username"], made["organizations"]) == ("anna", ["Stadtwerke"])
    assert PASSWORD not in run(tmp_path, "user", "list").output
    with sqlite3.connect(tmp_path / "hub.db") as database:
        (stored,) = database.execute("SELECT password FROM users").fetchone()
    database.close()
    assert matches(PASSWORD, stored)
    run(tmp_path, "user", "create", "anna", status=1)
    run(tmp_path, "user", "disable", "anna")
    assert json.loads(run(tmp_path, "user", "list", "--json").output)[0]["is_active"] is False
    run(tmp_path, "user", "enable", "anna")
    run(tmp_path, "membership", "remove", "anna", "Stadtwerke")
    run(tmp_path, "membership", "remove", "anna", "Stadtwerke", status=1)
    assert json.loads(run(tmp_path, "membership", "list", "--json").output) == []
    run(tmp_path, "membership", "add", "anna", "Stadtwerke")
    assert run(tmp_path, "membership", "list").output.split("\t")[:2] == ["anna", "Stadtwerke"]
    run(tmp_path, "user", "delete", "anna")
    run(tmp_path, "user", "password", "anna", status=1)


def test_a_password_is_never_typed_into_the_command(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from a file 2026\n", "utf-8")
    run(tmp_path, "user", "create", "bela", "--password-file", str(file))
    with sqlite3.connect(tmp_path / "hub.db") as database:
        (stored,) = database.execute("SELECT password FROM users").fetchone()
    database.close()
    assert matches("from a file 2026", stored)
    file.write_text("short", "utf-8")
    assert "characters" in str(
        run(tmp_path, "user", "password", "bela", "--password-file", str(file), status=1).exception
    )
    nobody = CliRunner().invoke(commands, ["user", "create", "c", "--data", str(tmp_path)], env={})
    assert nobody.exit_code == 2
    assert "METERGATE_USER_PASSWORD" in nobody.output


def test_tokens_of_machines_on_the_command_line(tmp_path: Path) -> None:
    run(tmp_path, "user", "create", "anna", "--new-organization", "Stadtwerke")
    staff = run(tmp_path, "token", "create", "ops").output.strip()
    made = json.loads(
        run(
            tmp_path,
            *("token", "create", "billing", "--organization", "Stadtwerke"),
            *("--scope", "read-readings", "--scope", "push-readings", "--days", "30", "--json"),
        ).output
    )
    assert made["scopes"] == ["push-readings", "read-readings"]
    assert made["organization_name"] == "Stadtwerke"
    listed = run(tmp_path, "token", "list").output
    assert made["key"] not in listed
    assert staff not in listed
    assert [line.split("\t")[0] for line in listed.splitlines()] == ["ops", "billing"]
    assert [line.split("\t")[3] for line in listed.splitlines()] == ["staff", "push-readings,read-readings"]
    for wrong in (
        ("--scope", "everything"),
        ("--organization", "Stadtwerke"),
        ("--organization", "Stadtwerke", "--scope", "staff"),
        ("--scope", "read"),
        ("--organization", "Stadtwerke", "--scope", "read", "--all-organizations"),
        ("--days", "0"),
    ):
        run(tmp_path, "token", "create", "wrong", *wrong, status=2)
    run(tmp_path, "token", "create", "wrong", "--organization", "nobody", "--scope", "read", status=1)
    run(tmp_path, "token", "revoke", "billing")
    states = [line["state"] for line in json.loads(run(tmp_path, "token", "list", "--json").output)]
    assert states == ["valid", "revoked"]


def test_the_key_of_sessions_is_rotated(tmp_path: Path) -> None:
    def rotate(*more: str) -> dict[str, str]:
        program = Path(sys.executable).parent / "metergate-hub"
        arguments = [str(program), "user", "rotate-key", "--data", str(tmp_path), "--json", *more]
        return dict(json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout))

    file = tmp_path / "hub.key.sessions"
    first, second = rotate(), rotate()
    assert first["key"] != second["key"]
    assert first["file"] == str(file)
    assert len(file.read_text("ascii").splitlines()) == 2
    rotate("--end-sessions")
    assert len(file.read_text("ascii").splitlines()) == 1
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("group", ["token", "user", "membership"])
def test_every_command_has_help_and_json(group: str) -> None:
    found = commands.commands[group]
    assert isinstance(found, click.Group)
    for name, one in found.commands.items():
        assert one.help, name
        assert any("--json" in parameter.opts for parameter in one.params), name


async def test_tokens_from_before_open_what_they_opened(engine: AsyncEngine) -> None:
    before = sa.table(
        "tokens",
        sa.column("id", sa.Uuid()),
        sa.column("name", sa.String()),
        sa.column("digest", sa.LargeBinary()),
        sa.column("created", columns.UtcDateTime()),
    )
    now = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    async with writing(engine) as session:
        await create_token(session, "limited", now, scopes=(READ,))
    await move(engine, "0008")
    async with engine.begin() as connection:
        values = {"id": uuid.uuid4(), "name": "old", "digest": bytes(32), "created": now}
        await connection.execute(before.insert().values(values))
    await move(engine)
    async with reading(engine) as session:
        token = (await session.execute(sa.select(Token))).scalar_one()
    assert (token.name, token.scopes, token.organization, token.expires) == ("old", ["staff"], None, None)
