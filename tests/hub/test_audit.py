"""The audit log: no change without its entry, who made it and what it was; no secret in it; nobody can rewrite it."""

import asyncio
import datetime as dt
import json
import re
import uuid
from collections.abc import Collection, Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import audit, models
from hub.accounts import add_user, change_membership, change_user, remove_user
from hub.cli_tokens import do_in, end_tokens, make_token
from hub.clocks import system_clock
from hub.database import reading, writing
from hub.ingest import store_deliveries
from hub.retention_sweep import sweep
from hub.secrets_box import note_public_half
from hub.tokens import create_token
from protocol.envelopes import SigningKey
from protocol.reports import MeterSystemEvent
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import OF_WALKS, database_url, engine
from tests.parts.estates import GatewayVoice
from tests.parts.rest import TASK, Fleet, Rest, application, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

AUDIT = "/v1/audit"
METERING = "/v1/metering"
SECRETS = ("correct horse battery", "0815secr", "ab" * 16, "whsec_" + "c2VjcmV0" * 5)
PASSWORD, METER_PASSWORD, METER_KEY, WEBHOOK_SECRET = SECRETS
STORING_NOTHING = {
    ("POST", "/v1/auth/jwt/token"),
    ("POST", "/v1/auth/jwt/change-organization"),
    ("POST", "/v1/metering/readings/latest"),
}
"""They give a session, or answer a question that is too long for an address."""


async def entries(rest: Rest, query: str = "") -> list[dict[str, Any]]:
    """Return the log, the newest first."""
    return list((await rest.get(f"{AUDIT}?limit=1000{query}"))["results"])


def changing() -> dict[tuple[str, str], re.Pattern[str]]:
    """Return every method and path of the application that changes something, with what its requests look like."""
    return {
        (method.upper(), path): re.compile(f"{method.upper()} " + re.sub(r"{\w+}", "[^/]+", path))
        for path, item in (application().openapi_schema.paths or {}).items()
        for method in ("post", "put", "patch", "delete")
        if getattr(item, method)
    }


class Editor:
    """Somebody who uses the whole interface."""

    def __init__(self, rest: Rest, fleet: Fleet) -> None:
        self.rest, self.fleet = rest, fleet

    async def everything(self, path: str, edit: Mapping[str, Any], skip: Collection[str] = (), /, **body: Any) -> None:  # noqa: ANN401 - JSON
        """Make an object, replace it, change it, delete it."""
        made = await self.rest.post(path, **body)
        place = f"{path}/{made['id']}"
        if "PUT" not in skip:
            await self.rest.call("PUT", place, {**body, **edit})
            await self.rest.call("PATCH", place, {name: body.get(name) for name in edit})
        await self.rest.call("DELETE", place, status=204)

    async def edit_the_estate(self) -> None:
        """Use all resources that have the same five operations."""
        fleet, metering = self.fleet, METERING
        own = {"organization": fleet.organization}
        name = {"name": "another"}
        await self.everything("/v1/organizations", name, name="new")
        await self.everything("/v1/gateways", name, gateway_id="gw-new", **own, name="")
        await self.everything(f"{metering}/network-interfaces", {"fqdn": "b.example"}, **own, fqdn="a.example", port=1)
        await self.everything(f"{metering}/sim-cards", {"phone_number": "1"}, **own, iccid="1", imsi="2")
        kind = {"manufacturer": "E", "manufacturer_model": "M"}
        await self.everything(f"{metering}/meter-device-types", name, **own, name="new", **kind)
        await self.everything(f"{metering}/meter-device-configs", name, **own, name="new", series=[fleet.series])
        await self.everything(f"{metering}/meter-devices", name, **own, name="new", protocol="lis-200")
        await self.everything(f"{metering}/meter-reading-series", name, **own, name="new", unit="m3")
        await self.everything(f"{metering}/amr-tasks", name, **own, **TASK | {"name": "new"})
        await self.everything(f"{metering}/amr-task-groups", name, **own, name="new", tasks=[fleet.task])
        caller = {"gateway": fleet.gateway, "name": "scada", "public_key": "0" * 64}
        await self.everything("/v1/callers", {"allowed": ["generic_lis200.*"]}, **own, **caller, allowed=[])
        receiver = {"receiver": "dsmr_p1", "endpoint": "socket://10.0.0.7:8023", "receiver_kwargs": {"raster": "hour"}}
        await self.everything(
            "/v1/receivers", {"is_active": False}, **own, gateway=fleet.gateway, name="p1", **receiver, is_active=True
        )
        await self.everything("/v1/retention-policies", {"readings_days": 400}, readings_days=500)
        await self.everything(
            "/v1/users",
            {"password": PASSWORD + "2", "is_active": False},
            username="u",
            password=PASSWORD,
            is_active=True,
        )

    async def use_the_rest(self, engine: AsyncEngine) -> None:
        """Use the operations that only some resources have."""
        rest, fleet, now = self.rest, self.fleet, self.rest.clock.now()
        own = {"organization": fleet.organization}
        user = await rest.post("/v1/users", username="member", password=PASSWORD)
        other = await rest.post("/v1/users", username="other", password=PASSWORD)
        path = "/v1/organizations/memberships"
        await self.everything(path, {"user": other["id"]}, **own, user=user["id"])
        token = await rest.post("/v1/tokens", name="machine", **own, scopes=["read"])
        await rest.call("POST", f"/v1/tokens/{token['id']}/revoke")
        line = f"{METERING}/network-interfaces/{fleet.line}"
        await rest.patch(line, can_block=True)
        await rest.call("POST", f"{line}/block")
        await rest.call("POST", f"{line}/unblock")
        async with writing(engine) as session:
            await note_public_half(session, SigningKey(bytes(32)))
        keys = {"iec62056_21_password": METER_PASSWORD, "dlms_global_authentication_key": METER_KEY}
        await self.everything(f"{METERING}/meter-security-keys", {}, ("PUT",), meter=fleet.meter, **keys)
        await self.use_deadlines(engine)
        await self.use_sheets()
        reading = {"meter_device": fleet.meter, "series": fleet.series, "timestamp": now.isoformat(), "value": "1.50"}
        await self.everything(f"{METERING}/meter-readings", {}, ("PUT",), **own, **reading)
        event = {"meter_device": fleet.meter, "timestamp": now.isoformat(), "title": "door", "content": "open"}
        await self.everything(f"{METERING}/meter-system-events", {}, ("PUT",), **own, **event)
        staged = {"meter_device_name": "late", "series_name": "2:300", "timestamp": now.isoformat()}
        await self.everything(f"{METERING}/staged-meter-readings", {"value": "2"}, **own, **staged, value="1")
        pushed = {"meter": "nobody", "series": "2:300", "timestamp": now.isoformat(), "value": "1"}
        await rest.call("POST", f"{METERING}/new-meter-readings", [pushed], 201)
        meter = f"{METERING}/meter-devices/{fleet.meter}"
        for serial in ("1", "2"):
            await rest.patch(meter, manufacturer_serial=serial)
        period = (await rest.get(f"{METERING}/device-periods?meter_device={fleet.meter}"))["results"][-1]
        period_path = f"{METERING}/device-periods/{period['id']}"
        await rest.call("PUT", period_path, {"since": (now - dt.timedelta(days=1)).isoformat()})
        await rest.patch(period_path, since=(now - dt.timedelta(days=2)).isoformat())
        await self.use_gateways(engine)

    async def use_sheets(self) -> None:
        """Bring meters, what they are assigned to, and their keys as files."""
        sheets = {
            "meters": "name;protocol\r\nOf a sheet;mbus\r\n",
            "assignments": "meter;task_group\r\nOf a sheet;all\r\n",
            "keys": f"meter;iec62056_21_password\r\nOf a sheet;{METER_PASSWORD}\r\n",
        }
        for name, data in sheets.items():
            path, headers = f"/v1/sheets/{name}?organization=utility", {"Content-Type": "text/csv"}
            answer = await self.rest.client.post(path, content=data, headers=headers)
            assert answer.status_code == 200, answer.text

    async def use_deadlines(self, engine: AsyncEngine) -> None:
        """Make a deadline, try its webhook, have its event sent again."""
        rest = self.rest
        body = {"organization": self.fleet.organization, "name": "gas day", "interval": "hour", "within_seconds": 900}
        body |= {"target_percent": "99.5", "webhook_url": "https://receiver.example/", "webhook_secret": WEBHOOK_SECRET}
        made = await rest.post("/v1/deadlines", **body)
        path = f"/v1/deadlines/{made['id']}"
        tried = await rest.post(f"{path}/notifications")
        async with writing(engine) as session:
            await session.execute(sa.update(models.Notification).values(ended_at=rest.clock.now()))
        await rest.call("POST", f"{path}/notifications/{tried['id']}/retry")
        await rest.call("PUT", path, body | {"name": "another"})
        await rest.patch(path, target_percent="98")
        await rest.call("DELETE", path, status=204)

    async def use_gateways(self, engine: AsyncEngine) -> None:
        """Call a meter, fetch gaps, and deal with what could not be read."""
        rest, fleet, now = self.rest, self.fleet, self.rest.clock.now()
        call = {"meter_device": fleet.meter, "meter_execution_type": "generic_lis200", "task_call": "set_time"}
        command = await rest.post(f"{METERING}/amr-tasks/invoke", **call, task_kwargs={})
        await rest.call("POST", f"{command['command_url']}/cancel")
        many = {"meter_execution_type": "generic_lis200", "task_call": "set_time", "task_kwargs": {}}
        batch = await rest.post("/v1/command-batches", **many, gateway=fleet.gateway)
        await rest.call("POST", f"/v1/command-batches/{batch['id']}/cancel")
        span = {"start": (now - dt.timedelta(days=1)).isoformat(), "end": now.isoformat()}
        await rest.post("/v1/backfills", meter_device=fleet.meter, **span)
        organization, gateway, device = (uuid.UUID(one) for one in (fleet.organization, fleet.gateway, fleet.meter))
        dated = {"created_at": now, "updated_at": now}
        window = {"start": now, "end": now, "next_at": now, "noticed_at": now, "cost_seconds": 1.0, "archive": 3}
        owner = {"organization": organization, "gateway": gateway, "meter_device": device}
        push = {
            "id": uuid.uuid4(),
            "gateway": gateway,
            "receiver": uuid.uuid4(),
            "name": "p1",
            "came": now,
            "cause": "",
            "payload": b"?",
        }
        async with writing(engine) as session:
            backfill = models.Backfill(**owner, **window, **dated)
            strange = models.UndecodablePush(**push, size=1, source="", meter="", count=1, received_at=now)
            session.add_all([backfill, strange])
            await session.flush()
            backfill_id, strange_id = backfill.id, strange.id
        for verb in ("pause", "resume", "cancel"):
            await rest.call("POST", f"/v1/backfills/{backfill_id}/{verb}")
        await rest.call("DELETE", f"/v1/undecodable-pushes/{strange_id}", status=204)
        meter = await rest.post(
            f"{METERING}/meter-devices", organization=fleet.organization, name="Unplugged", protocol="lis-200"
        )
        told = MeterSystemEvent(uuid.uuid4(), uuid.UUID(meter["id"]), "Unplugged", now, "0x8103", "door", "open")
        await store_deliveries(engine, [GatewayVoice("gw-utility").rows(Channel.REPORT, [encode(told)])], now, 10)
        await rest.patch(f"{METERING}/meter-devices/{meter['id']}", network_interface=fleet.line)
        quarantined = (await rest.get("/v1/quarantine"))["results"][0]["id"]
        await rest.call("POST", f"/v1/quarantine/{quarantined}/replay")
        await rest.call("DELETE", f"/v1/quarantine/{quarantined}", status=204)
        await rest.call("POST", f"/v1/gateways/{fleet.gateway}/forget-key")


@pytest.mark.parametrize("database_url", OF_WALKS, indirect=True)
async def test_every_path_that_changes_something_leaves_an_entry_and_no_secret(rest: Rest, engine: AsyncEngine) -> None:
    """A path that nobody thought of here fails: use it above."""
    editor = Editor(rest, await create_fleet(rest))
    await editor.edit_the_estate()
    await editor.use_the_rest(engine)
    told = await entries(rest)
    by_request = [one["via"].rstrip("/") for one in told]
    lacking = [
        key
        for key, pattern in changing().items()
        if not any(pattern.fullmatch(via) for via in by_request) and key not in STORING_NOTHING
    ]
    assert lacking == []
    async with reading(engine) as session:
        written = str((await session.execute(sa.text("SELECT * FROM audit"))).all())
    assert not [secret for secret in SECRETS if secret in written]
    assert {one["actor_name"] for one in told} == {"test"}
    changed_secrets = {
        (one["kind"], name) for one in told for name in one["after"] or {} if one["after"][name] == "changed"
    }
    assert changed_secrets == {
        ("user", "password"),
        ("deadline", "webhook_secret"),
        ("collection of security keys", "iec62056_21_password"),
        ("collection of security keys", "dlms_global_authentication_key"),
    }


async def test_an_entry_says_who_changed_what_and_what_it_was(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    path = f"{METERING}/meter-devices/{fleet.meter}"
    await rest.patch(path, name="Boiler house", task_groups=[])
    await rest.patch(path, name="Boiler house")
    await rest.call("PATCH", path, {"name": ""}, 422)
    (edit, create) = await entries(rest, f"&kind=meter%20device&object_id={fleet.meter}")
    assert {name: edit[name] for name in ("actor_kind", "actor_name", "address", "via", "action", "organization")} == {
        "actor_kind": "token",
        "actor_name": "test",
        "address": "127.0.0.1",
        "via": f"PATCH {path}",
        "action": "change",
        "organization": fleet.organization,
    }
    assert edit["before"] == {"name": "Heating plant", "task_groups": [fleet.group]}
    assert edit["after"] == {"name": "Boiler house", "task_groups": []}
    assert edit["at"] == "2026-03-02T12:00:00Z"
    assert (create["action"], create["before"]) == ("create", None)
    assert create["after"]["name"] == "Heating plant"
    reading = {
        "series": fleet.series,
        "timestamp": "2026-03-02T06:00:00Z",
        "value": "1",
        "organization": fleet.organization,
    }
    await rest.post(f"{METERING}/meter-readings", **reading, meter_device=fleet.meter)
    await rest.call("DELETE", f"{path}?with_readings=true", status=204)
    (readings,) = await entries(rest, "&kind=readings%20of%20a%20meter")
    assert readings["before"] == {"meter_device": fleet.meter, "count": 1}
    (gone, *_) = await entries(rest, f"&object_id={fleet.meter}")
    assert (gone["action"], gone["before"]["name"], gone["after"]) == ("delete", "Boiler house", None)
    assert await rest.get(f"{AUDIT}/{gone['id']}") == gone
    assert gone["id"] in [one["id"] for one in await entries(rest, f"&actor={gone['actor']}&action=delete")]
    assert await entries(rest, "&start_time=2026-03-02T12:00:01Z") == []
    assert await entries(rest, "&actor_name=nobody") == []


async def test_who_is_bound_to_an_organization_sees_its_entries_alone(rest: Rest, engine: AsyncEngine) -> None:
    mine, other = await create_fleet(rest, "mine"), await create_fleet(rest, "other")
    await rest.post("/v1/users", username="somebody", password=PASSWORD)
    now = rest.clock.now()
    async with writing(engine) as session:
        key = await create_token(session, "auditor", now, organization=uuid.UUID(mine.organization), scopes=["read"])
        narrow = await create_token(session, "x", now, organization=uuid.UUID(mine.organization), scopes=["configure"])
    theirs = (await entries(rest, f"&organization={other.organization}"))[0]["id"]
    rest.client.headers["Authorization"] = f"Token {key}"
    seen = await entries(rest)
    assert len(seen) == 9
    assert {one["organization"] for one in seen} == {mine.organization}
    await rest.get(f"{AUDIT}/{theirs}", 404)
    assert await entries(rest, f"&organization={other.organization}") == []
    for method in ("POST", "DELETE", "PATCH"):
        await rest.call(method, f"{AUDIT}/{seen[0]['id']}" if method != "POST" else AUDIT, {}, 405)
    rest.client.headers["Authorization"] = f"Token {narrow}"
    await rest.get(AUDIT, 403)


async def test_a_change_that_notes_nothing_is_undone(engine: AsyncEngine) -> None:
    """So a new operation without its note fails where it is first tried."""
    now = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
    author = audit.Author("cli", "somebody", "metergate-hub new-command")

    async def forget(session: AsyncSession, what: str) -> None:
        if what == "row":
            session.add(models.Organization(name="new", created_at=now, updated_at=now))
        else:
            await session.execute(
                sa.insert(models.Organization), [{"name": what, "created_at": now, "updated_at": now}]
            )

    for what in ("row", "statement"):
        with pytest.raises(audit.UnnotedError, match="new-command"):
            async with audit.changing(engine, author, now) as session:
                await forget(session, what)
    async with audit.changing(engine, author, now) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(models.Organization)) == 0
        noted = [
            audit.Noted(action="create", object_id=number, organization=None, after={"n": number}) for number in (1, 2)
        ]
        await audit.note_many(session, "thing", noted)
    async with reading(engine) as session:
        assert (await session.scalars(sa.select(models.AuditEntry.object_id))).all() == ["1", "2"]


async def test_the_database_refuses_to_rewrite_it(rest: Rest, engine: AsyncEngine) -> None:
    await create_fleet(rest)
    with pytest.raises(DBAPIError, match="only added to"):
        async with writing(engine) as session:
            await session.execute(sa.update(models.AuditEntry).values(actor_name="nobody"))


async def test_commands_and_retention_are_noted(rest: Rest, engine: AsyncEngine, database_url: str) -> None:
    """What somebody does with a shell on the hub's machine, and what goes by a policy."""
    clock = system_clock()

    def on_the_machine() -> None:
        made = make_token(database_url, "machine", clock, organization=None, scopes=["staff"], lasts=None)
        assert end_tokens(database_url, "machine", clock) == 1
        add_user(database_url, "u", PASSWORD, clock, organizations=[], founded="New")
        change_user(database_url, "u", clock, password=PASSWORD + "2", is_active=False)
        change_membership(database_url, "u", "New", clock, member=False)
        remove_user(database_url, "u")
        assert str(made.key) not in do_in(database_url, _written)

    await asyncio.to_thread(on_the_machine)
    told = [(one["kind"], one["action"]) for one in reversed(await entries(rest, "&actor_kind=cli"))]
    assert told == [
        ("token", "create"),
        ("token", "revoke"),
        ("organization", "create"),
        ("user", "create"),
        ("membership", "create"),
        ("user", "change"),
        ("membership", "delete"),
        ("user", "delete"),
    ]
    assert PASSWORD not in json.dumps(await entries(rest))
    await rest.post("/v1/retention-policies", audit_days=30)
    rest.clock.shown = dt.datetime.now(dt.UTC) + dt.timedelta(days=40)
    count = len(await entries(rest))
    going = await rest.get("/v1/retention-policies/preview")
    assert sum(one["audit"]["count"] for one in going) == count
    assert (await sweep(engine, rest.clock.now()))["audit"] == count
    left = await entries(rest)
    assert {(one["actor_kind"], one["kind"], one["action"]) for one in left} == {("hub", "retention", "delete")}
    assert left[0]["after"]["of"] == "audit"


async def _written(session: AsyncSession) -> str:
    return str((await session.execute(sa.text("SELECT * FROM audit"))).all())
