"""Meters, assignments and keys as CSV: in, out and in again; what REST refuses is refused, and nothing is half done."""

import dataclasses
import datetime as dt
import itertools
import json
import pathlib
import uuid
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.database import reading, writing
from hub.models import AuditEntry, Gateway, MeterSecurityKeys
from hub.secrets_box import note_public_half, unseal
from hub.secrets_ring import Ring
from hub.security_keys import purpose_of
from hub.sheet_assignments import COLUMNS as ASSIGNMENTS
from hub.sheet_files import SEPARATORS, render
from hub.sheet_keys import COLUMNS as KEYS
from hub.sheet_meters import COLUMNS as METERS
from hub.tokens import create_token
from protocol.envelopes import SigningKey
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import TASK, Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

KEY = SigningKey(bytes(range(32)))
METER = {"protocol": "lis-200", "type": "EK280", "gateway": "gw-utility", "line": "/dev/ttyS0"}


def sheet(*rows: dict[str, str], separator: str = ";") -> bytes:
    """Return a file with these rows."""
    columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    return render([columns, *([row.get(column, "") for column in columns] for row in rows)], separator)


@dataclasses.dataclass
class Sheets:
    """Sends and fetches sheets."""

    rest: Rest

    async def send(self, name: str, data: bytes, query: str = "", status: int = 200) -> Any:  # noqa: ANN401 - JSON
        """Import; return the decoded answer."""
        headers = {"Content-Type": "text/csv"}
        answer = await self.rest.client.post(f"/v1/sheets/{name}{query}", content=data, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def outcomes(self, name: str, data: bytes, query: str = "") -> dict[str, str]:
        """Import; return the outcome of each row by what it is about."""
        return {row["row"]: row["outcome"] for row in (await self.send(name, data, query))["results"]}

    async def wrong(self, name: str, data: bytes, query: str = "") -> dict[str, str]:
        """Import what is refused; return the texts by line and column."""
        problem = await self.send(name, data, query, 422)
        return {error["field"]: error["text"] for error in problem["errors"]}

    async def fetch(self, name: str, query: str = "") -> bytes:
        """Export."""
        answer = await self.rest.client.get(f"/v1/sheets/{name}{query}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/csv")
        return answer.content

    async def round(self, name: str, query: str = "") -> int:
        """Export, import what came, export again: nothing changes; return how many rows there are."""
        data = await self.fetch(name, query)
        report = await self.send(name, data, query.partition("&")[0])
        assert report["unchanged"] == report["rows"], report
        assert sorted((await self.fetch(name, query)).splitlines()) == sorted(data.splitlines())
        return int(report["rows"])


@pytest.fixture
def sheets(rest: Rest) -> Sheets:
    return Sheets(rest)


async def revision(engine: AsyncEngine, gateway: str) -> int:
    async with reading(engine) as session:
        found = await session.scalar(sa.select(Gateway.desired_revision).where(Gateway.id == uuid.UUID(gateway)))
    assert found is not None
    return found


async def noted(engine: AsyncEngine) -> list[tuple[str, str]]:
    async with reading(engine) as session:
        rows = await session.execute(sa.select(AuditEntry.action, AuditEntry.kind).order_by(AuditEntry.id))
    return [(action, kind) for action, kind in rows]


async def test_meters_come_in_all_or_none_and_go_out_as_they_came(sheets: Sheets, engine: AsyncEngine) -> None:
    fleet = await create_fleet(sheets.rest)
    owner = {"organization": "utility"}
    good = [
        {**owner, "name": f"M{number}", **METER, "commissioned": "2026-01-01T01:00:00+01:00"} for number in range(3)
    ]
    bad = {**owner, "name": "M3", **METER, "timezone": "Europe/Atlantis"}
    before, audited = await revision(engine, fleet.gateway), await noted(engine)

    told = await sheets.send("meters", sheet(*good, bad), "?dry_run=true")
    assert [row["outcome"] for row in told["results"]] == ["created"] * 3 + ["refused"]
    assert told["results"][3]["line"] == 5
    assert told["results"][3]["problems"][0]["column"] == "timezone"
    assert (told["dry_run"], told["imported"], told["created"], told["refused"]) == (True, False, 3, 1)
    problem = await sheets.send("meters", sheet(*good, bad), status=422)
    assert "nothing was imported: 1 of 4 rows are refused; line 5, timezone: 'Europe/Atlantis'" in problem["detail"]
    assert problem["errors"][0]["field"] == "5.timezone"
    assert (await sheets.rest.get("/v1/metering/meter-devices"))["count"] == 1
    assert (await revision(engine, fleet.gateway), await noted(engine)) == (before, audited)

    told = await sheets.send("meters", sheet(*good, bad), "?on_error=skip")
    assert (told["imported"], told["created"], told["refused"]) == (True, 3, 1)
    assert await revision(engine, fleet.gateway) == before + 1, "one edit, one revision"
    assert (await noted(engine))[len(audited) :] == [("create", "meter device")] * 3
    made = (await sheets.rest.get("/v1/metering/meter-devices?name=M1"))["results"][0]
    assert (made["type"], made["network_interface"]) == (fleet.type, fleet.line)
    assert (made["commissioned"], made["timezone"]) == ("2026-01-01T00:00:00Z", None)

    assert set((await sheets.outcomes("meters", sheet(*good))).values()) == {"unchanged"}
    assert await sheets.round("meters") == 4
    assert await revision(engine, fleet.gateway) == before + 1
    assert len(await noted(engine)) == len(audited) + 3, "what changed nothing is no change of anybody's"


async def test_a_row_changes_what_its_columns_say(sheets: Sheets, engine: AsyncEngine) -> None:
    fleet = await create_fleet(sheets.rest)
    other = await sheets.rest.post("/v1/gateways/", organization=fleet.organization, gateway_id="gw-other")
    await sheets.rest.post(
        "/v1/metering/network-interfaces",
        organization=fleet.organization,
        gateway=other["id"],
        static_ip_address="10.0.0.7",
        port=4001,
    )
    before = await revision(engine, fleet.gateway), await revision(engine, other["id"])
    move = {"name": "Heating plant", "manufacturer_serial": "007", "gateway": "gw-other", "line": "10.0.0.7:4001"}
    (row,) = (await sheets.send("meters", sheet(move), "?organization=utility"))["results"]
    assert row["outcome"] == "changed"
    assert {(one["column"], one["before"], one["after"]) for one in row["changes"]} == {
        ("manufacturer_serial", "", "007"),
        ("gateway", "gw-utility", "gw-other"),
        ("line", "/dev/ttyS0", "10.0.0.7:4001"),
    }
    meter = await sheets.rest.get(f"/v1/metering/meter-devices/{fleet.meter}")
    assert (meter["type"], meter["task_groups"], meter["manufacturer_serial"]) == (fleet.type, [fleet.group], "007")
    assert [await revision(engine, fleet.gateway), await revision(engine, other["id"])] == [one + 1 for one in before]
    assert (await noted(engine))[-1] == ("change", "meter device")
    empty = {"name": "Heating plant", "manufacturer_serial": "", "gateway": "", "line": ""}
    await sheets.send("meters", sheet(empty), f"?organization={fleet.organization}")
    meter = await sheets.rest.get(f"/v1/metering/meter-devices/{fleet.meter}")
    assert (meter["manufacturer_serial"], meter["network_interface"]) == (None, None)
    await sheets.rest.patch(f"/v1/metering/meter-devices/{fleet.meter}", manufacturer_serial="")
    assert await sheets.round("meters") == 1


async def test_what_rest_refuses_is_refused_in_its_words(sheets: Sheets) -> None:
    fleet = await create_fleet(sheets.rest)
    cases = {
        "external_system_reference": "x" * 51,
        "protocol": "telepathy",
        "iec62056_21_address": "a b/!",
        "dlms_system_title": "x\x07",
        "disconnector_status": 9,
        "current_transformer_ratio": 2**31,
        "timezone": "Europe/Atlantis",
        "commissioned": "1999-01-01T00:00:00Z",
    }
    for field, value in cases.items():
        body = {"organization": fleet.organization, "name": "M", "protocol": "lis-200", field: value}
        told = (await sheets.rest.call("POST", "/v1/metering/meter-devices", body, 422))["errors"]
        row = {"name": "M", "protocol": "lis-200", field: str(value)}
        assert await sheets.wrong("meters", sheet(row), "?organization=utility") == {
            f"2.{error['field']}": error["text"] for error in told
        }


WRONG_METERS = [
    ({"type": "EK-280"}, "2.type", "did you mean 'EK280'?"),
    ({"gateway": "gw-utilty"}, "2.gateway", "did you mean 'gw-utility'?"),
    ({"line": "/dev/ttyS1"}, "2.line", "gateway gw-utility has no line '/dev/ttyS1'; did you mean '/dev/ttyS0'?"),
    ({"line": ""}, "2.line", "which line of gw-utility?; it has /dev/ttyS0"),
    ({"gateway": ""}, "2.line", "there is no line '/dev/ttyS0' without a gateway"),
    ({"config": "EK"}, "2.config", "the type 'EK280' has the config 'EK280'"),
    ({"name": ""}, "2.name", "this cell must not be empty"),
    ({"protocol": ""}, "2.protocol", "this cell must not be empty"),
    ({"current_transformer_ratio": "1,5"}, "2.current_transformer_ratio", "has a decimal comma"),
    ({"current_transformer_ratio": "1.5"}, "2.current_transformer_ratio", "not a whole number"),
    ({"has_disconnector": "x"}, "2.has_disconnector", "neither true nor false"),
    ({"commissioned": "01.03.2026"}, "2.commissioned", "not a time with an offset"),
    ({"organization": "utilty"}, "2.organization", "did you mean 'utility'?"),
]


async def test_what_only_a_sheet_can_get_wrong(sheets: Sheets) -> None:
    await create_fleet(sheets.rest)
    for cells, field, text in WRONG_METERS:
        row = {"organization": "utility", "name": "M", **METER, **cells}
        told = await sheets.wrong("meters", sheet(row))
        assert list(told) == [field]
        assert text in told[field]


async def test_rows_about_the_same_are_both_refused(sheets: Sheets) -> None:
    await create_fleet(sheets.rest)
    rows = [{"name": name, "protocol": "mbus"} for name in ("A", "B", "A")]
    told = await sheets.wrong("meters", sheet(*rows), "?organization=utility")
    assert told == {"2": "the same stands in line 4", "4": "the same stands in line 2"}
    assert await sheets.wrong("meters", sheet({"name": "C"}), "?organization=utility") == {
        "2.protocol": "this column is required for a new meter"
    }


WRONG_FILES: list[tuple[str, dict[str, str], bytes, int, str]] = [
    ("?on_error=panic", {}, b"name\n", 422, "neither stop nor skip"),
    ("?dry_run=maybe", {}, b"name\n", 422, "neither true nor false"),
    ("?organization=nobody", {}, b"name\n", 422, "there is no organization"),
    ("", {}, b"name\nM\n", 422, "organization: this column is required"),
    ("?organization=utility", {}, b"name,gateway\nM,gw-1\n", 422, "line: this column is required"),
    ("", {"Content-Type": "application/json"}, b"{}", 400, "send the file itself as text/csv"),
    ("", {"Content-Type": "text/csv; charset=iso-8859-1"}, b"name\n", 400, "in UTF-8"),
    ("", {}, b"\xff", 400, "not UTF-8"),
]


async def test_a_file_as_a_whole_is_refused(rest: Rest) -> None:
    await create_fleet(rest)
    for query, headers, data, status, text in WRONG_FILES:
        answer = await rest.client.post(f"/v1/sheets/meters{query}", content=data, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert text in answer.json()["detail"]


async def test_lines_of_the_same_name_are_told_by_their_ids(sheets: Sheets) -> None:
    fleet = await create_fleet(sheets.rest)
    for gateway in (fleet.gateway, fleet.gateway, None):
        line = await sheets.rest.post(
            "/v1/metering/network-interfaces", organization=fleet.organization, gateway=gateway, name="twin"
        )
        await sheets.rest.post(
            "/v1/metering/meter-devices",
            organization=fleet.organization,
            name=f"at {line['id']}",
            protocol="mbus",
            network_interface=line["id"],
        )
    assert await sheets.round("meters") == 4
    told = await sheets.wrong(
        "meters", sheet({"name": "M", "protocol": "mbus", "line": "nowhere"}), "?organization=utility"
    )
    assert "there is no line 'nowhere' in the organization of this row" in told["2.line"]


_TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8)
_ESTATE = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.one_of(st.sampled_from(["=1+1", "'=x", "-5", "@a", "'", 'a"b;c,d', " x ", "007"]), _TEXT),
            "external_system_reference": st.one_of(st.none(), _TEXT),
            "manufacturer_serial": st.one_of(st.none(), _TEXT),
            "protocol": st.sampled_from(["lis-200", "mbus"]),
            "has_disconnector": st.booleans(),
            "disconnector_status": st.sampled_from([None, 0, 2]),
            "current_transformer_ratio": st.integers(-(2**31), 2**31 - 1),
            "timezone": st.sampled_from([None, "Europe/Berlin"]),
            "commissioned": st.one_of(
                st.none(),
                st.datetimes(dt.datetime(2001, 1, 1), dt.datetime(2090, 1, 1), timezones=st.just(dt.UTC)),  # noqa: DTZ001 - hypothesis gives the zone
            ),
        }
    ).filter(lambda meter: bool(meter["name"])),
    max_size=4,
    unique_by=lambda meter: meter["name"],
)


@given(_ESTATE, st.sampled_from(sorted(SEPARATORS)), st.booleans())
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_estate_comes_back(sheets: Sheets, estate: list[dict[str, Any]], separator: str, bom: bool) -> None:  # noqa: FBT001 - as drawn
    owner, other = [(await sheets.rest.post("/v1/organizations/", name=uuid.uuid4().hex))["id"] for _ in range(2)]
    for meter in estate:
        body = json.loads(json.dumps(meter, default=lambda value: value.isoformat()))
        await sheets.rest.post("/v1/metering/meter-devices", organization=owner, **body)
    query = f"?organization={owner}"
    assert await sheets.round("meters", f"{query}&separator={separator}&bom={str(bom).lower()}") == len(estate)
    data = await sheets.fetch("meters", f"{query}&separator={separator}&bom={str(bom).lower()}")
    told = await sheets.send("meters", data, f"?organization={other}")
    assert told["created"] == len(estate)
    there = await sheets.fetch("meters", f"?organization={other}&separator={separator}&bom={str(bom).lower()}")
    assert sorted(there.splitlines()) == sorted(data.splitlines())
    ours = await sheets.rest.get(f"/v1/metering/meter-devices?organization={owner}")
    assert {row["name"]: row["commissioned"] for row in ours["results"]} == {
        meter["name"]: meter["commissioned"] and meter["commissioned"].isoformat().replace("+00:00", "Z")
        for meter in estate
    }


async def test_assignments_are_given_and_taken(sheets: Sheets, engine: AsyncEngine) -> None:
    fleet = await create_fleet(sheets.rest)
    owner = fleet.organization
    await sheets.rest.post("/v1/metering/amr-tasks/", organization=owner, **{**TASK, "name": "own"})
    await sheets.rest.post("/v1/metering/amr-task-groups/", organization=owner, name="night")
    house = {"name": "House", "protocol": "iec62056-21", "manufacturer_serial": "K8EG004046395507"}
    await sheets.send("meters", sheet(house, {**house, "name": "Twin"}), f"?organization={owner}")
    push = {"organization": owner, "gateway": fleet.gateway, "name": "p1", "receiver": "dsmr_p1"}
    receiver = await sheets.rest.post(
        "/v1/receivers", **push, endpoint="socket://10.0.0.7:8023", receiver_kwargs={"raster": "hour"}
    )
    before = await revision(engine, fleet.gateway)
    rows = [
        {"meter": "Heating plant", "task_group": "all"},
        {"meter": "Heating plant", "task_group": "night"},
        {"meter": "Heating plant", "task": "own"},
        {"meter": "House", "gateway": "gw-utility", "receiver": "p1"},
    ]
    told = await sheets.send("assignments", sheet(*rows), "?organization=utility")
    assert [row["outcome"] for row in told["results"]] == ["unchanged", "created", "created", "created"]
    assert told["results"][3]["row"] == "House: receiver gw-utility p1"
    assert await revision(engine, fleet.gateway) == before + 1
    meter = await sheets.rest.get(f"/v1/metering/meter-devices/{fleet.meter}")
    assert (len(meter["task_groups"]), len(meter["meter_tasks"])) == (2, 1)
    assert len((await sheets.rest.get(f"/v1/receivers/{receiver['id']}"))["meter_devices"]) == 1
    assert await sheets.round("assignments") == 4

    twin = {"meter": "Twin", "gateway": "gw-utility", "receiver": "p1"}
    (text,) = (await sheets.wrong("assignments", sheet(twin), "?organization=utility")).values()
    assert "have the same manufacturer_serial" in text
    gone = [{**row, "assigned": "false"} for row in (*rows, twin)]
    outcomes = await sheets.outcomes("assignments", sheet(*gone), "?organization=utility")
    assert [*outcomes.values()] == ["removed"] * 4 + ["unchanged"]
    assert await sheets.round("assignments") == 0
    kinds = [kind for _, kind in await noted(engine)]
    assert kinds[-2:] == ["meter device", "receiver"]


WRONG_ASSIGNMENTS = [
    ({"meter": "Heating plan", "task_group": "all"}, "2.meter", "did you mean 'Heating plant'?"),
    ({"task_group": "al"}, "2.task_group", "there is no task group 'al' in the organization of this row"),
    ({"task": "volumes"}, "2.task", "did you mean 'volume'?"),
    ({"gateway": "gw-utility", "receiver": "x"}, "2.receiver", "there is no receiver 'x' at gateway gw-utility"),
    ({"gateway": "gw", "receiver": "x"}, "2.gateway", "there is no gateway 'gw'"),
    ({"receiver": "x"}, "2.gateway", "a receiver is named with its gateway"),
    ({}, "2", "this one names none"),
    ({"task": "volume", "task_group": "all"}, "2", "this one names 2"),
    ({"task": "volume", "assigned": "perhaps"}, "2.assigned", "neither true nor false"),
]


async def test_wrong_assignments(sheets: Sheets) -> None:
    await create_fleet(sheets.rest)
    for cells, field, text in WRONG_ASSIGNMENTS:
        row = {"meter": "Heating plant", "task_group": "", "task": "", "gateway": "", "receiver": "", **cells}
        told = await sheets.wrong("assignments", sheet(row), "?organization=utility")
        assert list(told) == [field]
        assert text in told[field]


async def test_one_key_is_given_without_the_others_and_none_comes_out(sheets: Sheets, engine: AsyncEngine) -> None:
    fleet = await create_fleet(sheets.rest)
    query = "?organization=utility"
    first = sheet({"meter": "Heating plant", "iec62056_21_password": "12345678", "dlms_master_key": "A1" * 16})
    assert (await sheets.rest.client.post(f"/v1/sheets/keys{query}", content=first)).status_code == 503
    assert await sheets.round("keys", query) == 1, "where nothing is given, no key is needed"
    async with writing(engine) as session:
        await note_public_half(session, KEY)
    before = len(await noted(engine))
    assert await sheets.outcomes("keys", first, query) == {"Heating plant": "created"}
    assert await opened(engine) == {"iec62056_21_password": "12345678", "dlms_master_key": "A1" * 16}
    exported = await sheets.fetch("keys", query)
    assert b"Heating plant,dlms_master_key iec62056_21_password,,,,,,\r\n" in exported
    assert await sheets.round("keys", query) == 1
    second = sheet(
        {"meter": "Heating plant", "dlms_master_key": "B2" * 16, "dlms_global_authentication_key": "C3" * 16}
    )
    answer = await sheets.send("keys", second, query)
    wanted = {
        "iec62056_21_password": "12345678",
        "dlms_master_key": "B2" * 16,
        "dlms_global_authentication_key": "C3" * 16,
    }
    for generation in (2, 3):
        assert await opened(engine) == wanted
        assert await generation_of(engine) == generation, "by it relays see that gateways need the keys anew"
        assert (await sheets.rest.get("/v1/metering/meter-security-keys"))["results"][0]["stored"] == sorted(wanted)
        await sheets.send("keys", second, query)
    assert {(one["column"], one["before"], one["after"]) for one in answer["results"][0]["changes"]} == {
        ("dlms_master_key", "stored", "given"),
        ("dlms_global_authentication_key", "", "given"),
    }
    told = await sheets.send("keys", sheet({"meter": "Heating plant", "iec62056_21_password": "987654321"}), query, 422)
    assert told["errors"][0]["field"] == "2.iec62056_21_password"
    said = json.dumps([answer, told]) + exported.decode()
    async with reading(engine) as session:
        entries = (await session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id).offset(before))).all()
    assert [entry.action for entry in entries] == ["create", "change", "change", "change"]
    said += json.dumps([[entry.before, entry.after] for entry in entries])
    assert not [value for value in (*wanted.values(), "987654321") if value in said]
    await sheets.rest.call("DELETE", f"/v1/metering/meter-devices/{fleet.meter}", status=204)


async def opened(engine: AsyncEngine) -> dict[str, str]:
    """Open what the database holds, as what has the hub's key can."""
    async with reading(engine) as session:
        row = (await session.scalars(sa.select(MeterSecurityKeys))).one()
    found: dict[str, str] = json.loads(unseal(KEY, row.sealed, purpose_of(row.meter)))
    assert row.stored == sorted(found)
    return found


async def generation_of(engine: AsyncEngine) -> int:
    async with reading(engine) as session:
        return (await session.scalars(sa.select(MeterSecurityKeys.generation))).one()


async def test_parts_that_were_sealed_for_different_keys_open_with_the_ring(
    sheets: Sheets, engine: AsyncEngine, tmp_path: pathlib.Path
) -> None:
    await create_fleet(sheets.rest)
    old, new = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
    for key, cells in (
        (old, {"iec62056_21_password": "1", "dlms_master_key": "2"}),
        (new, {"dlms_master_key": "3"}),
    ):
        async with writing(engine) as session:
            await note_public_half(session, key)
        await sheets.send("keys", sheet({"meter": "Heating plant", **cells}), "?organization=utility")
    (tmp_path / "hub.key.secrets").write_text(new.seed.hex() + "\n")
    ring = Ring(old, tmp_path / "hub.key.secrets")
    async with reading(engine) as session:
        row = (await session.scalars(sa.select(MeterSecurityKeys))).one()
    assert json.loads(ring.unseal(row.sealed, purpose_of(row.meter))) == {
        "iec62056_21_password": "1",
        "dlms_master_key": "3",
    }


async def test_nobody_sees_or_touches_what_is_not_theirs(rest: Rest, engine: AsyncEngine) -> None:
    mine, other = await create_fleet(rest, "mine"), await create_fleet(rest, "other")
    await rest.patch(f"/v1/metering/meter-devices/{other.meter}", name="Secret plant")
    async with writing(engine) as session:
        owner = uuid.UUID(mine.organization)
        key = await create_token(
            session, "m", rest.clock.now(), organization=owner, scopes=("configure",), expires=None
        )
    headers = {"Authorization": f"Token {key}"}
    async with httpx.AsyncClient(transport=rest.client._transport, base_url="http://hub", headers=headers) as client:
        for name, columns in (("meters", METERS), ("assignments", ASSIGNMENTS), ("keys", KEYS)):
            exported = await client.get(f"/v1/sheets/{name}")
            assert exported.text.splitlines()[0] == ",".join(columns)
            assert "Secret" not in exported.text
            assert (await client.get(f"/v1/sheets/{name}?organization=other")).status_code == 422
        for row, field in (
            ({"meter": "Secret plant", "task_group": "all"}, "2.meter"),
            ({"organization": "other", "meter": "Secret plant", "task_group": "all"}, "2.organization"),
        ):
            answer = await client.post("/v1/sheets/assignments", content=sheet(row))
            assert [error["field"] for error in answer.json()["errors"]] == [field]
            assert "did you mean" not in answer.text
        answer = await client.post(
            "/v1/sheets/meters",
            content=sheet({"name": "Secret plant", "protocol": "mbus", "gateway": "gw-other", "line": "/dev/ttyS0"}),
        )
        assert "there is no gateway 'gw-other'" in answer.text
        answer = await client.post("/v1/sheets/meters", content=sheet({"name": "Secret plant", "protocol": "mbus"}))
        assert answer.json()["created"] == 1
    assert (await rest.get("/v1/metering/meter-devices?name=Secret%20plant"))["count"] == 2
