"""Every row of the published interface (``rest_rows``) against a running hub, on SQLite and on PostgreSQL.

Paths and names are tried on both, fields and signing in on SQLite; ``WALKS=both`` tries everything on both.
"""

import datetime as dt
import decimal
import uuid
from typing import Any

import pytest

from tests.hub.rest_rows import COLLECTIONS, FIELDS, NAMED, PATHS, SIGN_IN, FieldRow, PathRow, fields_of
from tests.parts.databases import OF_WALKS
from tests.parts.running_hub import PASSWORD, RunningHub, Things, running, things

__all__ = ["running", "things"]

OWNERS = {path.rstrip("/"): owner for owner, path in COLLECTIONS.items()}
INVOKE = "/v1/metering/amr-tasks/invoke"
PUSH = "/v1/metering/new-meter-readings"
UNKNOWN = str(uuid.uuid4())
INTEGERS = {COLLECTIONS[row.owner].rstrip("/") for row in FIELDS if (row.name, row.kind) == ("id", "integer")}
"""Collections whose ids are integers."""

TYPES = {
    "uuid": lambda value: bool(uuid.UUID(value)),
    "integer": lambda value: type(value) is int,
    "text": lambda value: isinstance(value, str),
    "uri": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "time": lambda value: dt.datetime.fromisoformat(value).utcoffset() == dt.timedelta(0) and "T" in value,
    "decimal": lambda value: isinstance(value, str) and decimal.Decimal(value).is_finite(),
    "uuids": lambda value: isinstance(value, list) and all(uuid.UUID(one) for one in value),
    "object": lambda value: isinstance(value, dict),
}
WRONG_TYPES: dict[str, list[object]] = {
    "uuid": [1, "no uuid"],
    "integer": ["1", 1.5, True, 10**40],
    "text": [1, {}],
    "uri": [1, "no link"],
    "boolean": ["true", 1],
    "time": [1, "2026-03-02", "2026-03-02T06:00:00"],
    "decimal": ["x", "NaN", "1e40", True],
    "uuids": ["x", [1], [None]],
    "object": ["x", 1, [1]],
}
CLOSED = {
    ("AmrTask", "task_call"),
    ("AmrTask", "schedule"),
    ("AmrTask", "meter_execution_type"),
    ("MeterDevice", "protocol"),
    ("MeterDeviceConfig", "timezone"),
    ("NetworkInterface", "static_ip_address"),
    ("SimCard", "ip_address"),
}
"""Texts that are one of a list, or an address: what else fits their lengths is refused, and rightly."""


def unfilled(owner: str, body: dict[str, Any]) -> set[str]:
    """The required fields that a body lacks."""
    return {row.name for row in fields_of(owner) if row.required} - body.keys()


def check_object(owner: str, answer: dict[str, Any]) -> None:
    """Check that an answer has every published field, in its type."""
    for row in fields_of(owner):
        if row.name == "dlms_master_key":
            assert row.name not in answer
            continue
        value = answer[row.name]
        if row.write_only:
            assert value is None, row
        elif value is None:
            assert row.nullable, row
        elif (owner, row.name) == ("MeterSecurityKeyCollection", "meter"):
            assert TYPES["object"](value), row
        else:
            assert TYPES[row.kind](value), f"{row}: {value!r}"


def make(things: Things, owner: str, **more: object) -> dict[str, Any]:
    """Make a new object."""
    made: dict[str, Any] = things.hub.ask("POST", COLLECTIONS[owner], things.body(owner) | more, 201)
    return made


# --- one case for each method of each path ----------------------------------------------------------------------------


@pytest.mark.parametrize("row", PATHS, ids=str)
def test_path(row: PathRow, running: RunningHub, things: Things) -> None:
    place = row.path.replace("{id}", "1" if row.path.removesuffix("/{id}") in INTEGERS else UNKNOWN)
    refused = running.client.request(row.method, place, headers={"Authorization": ""})
    assert refused.status_code == 401
    assert "Token" in refused.headers["www-authenticate"]
    if row.path == INVOKE:
        _invoke(row, running, things)
    elif row.path == PUSH:
        _push(row, running, things)
    elif row.method == "POST":
        _create(row, running, things)
    elif row.path.endswith("{id}"):
        _use_one(row, running, things)
    else:
        _list(row, running, things)


def _forms(path: str) -> tuple[str, str]:
    return path.rstrip("/"), path.rstrip("/") + "/"


def _create(row: PathRow, running: RunningHub, things: Things) -> None:
    owner = OWNERS[row.path.rstrip("/")]
    for form in _forms(row.path):
        body = things.body(owner)
        made = running.ask("POST", form, body, row.status)
        check_object(owner, made)
        check_object(owner, running.ask("GET", f"{row.path.rstrip('/')}/{made['id']}", status=200))
    assert running.wrong_fields("POST", row.path, {}) >= unfilled(owner, {})
    assert running.wrong_fields("POST", row.path, {**things.body(owner), "colour": "red"}) == {"colour"}
    assert running.client.post(row.path, content=b"{").status_code == 400


def _use_one(row: PathRow, running: RunningHub, things: Things) -> None:
    collection = row.path.removesuffix("/{id}")
    owner = OWNERS[collection]
    integers = collection in INTEGERS
    unknown = "9007199254740993" if integers else UNKNOWN
    for form in _forms(row.path):
        body = things.body(owner)
        made = running.ask("POST", collection, body, 201)
        place = form.replace("{id}", str(made["id"]))
        given = None
        if row.method == "PUT":
            given = made
        elif row.method == "PATCH":
            given = {}
        answer = running.ask(row.method, place, given, row.status)
        if row.method == "DELETE":
            assert answer is None
            running.ask("GET", place, status=404)
        else:
            assert answer == made
        for strange in (unknown, "no-id", "0" if integers else "0" * 31):
            problem = running.ask(row.method, form.replace("{id}", strange), given, 404)
            assert (problem["status"], problem["title"]) == (404, "Not Found")
    if row.method in {"PUT", "PATCH"}:
        place = f"{collection}/{make(things, owner)['id']}"
        assert running.wrong_fields(row.method, place, {**things.body(owner), "colour": "red"}) == {"colour"}
    if row.method == "PUT":
        assert running.wrong_fields("PUT", place, {}) >= unfilled(owner, {})


def _list(row: PathRow, running: RunningHub, things: Things) -> None:
    owner = OWNERS[row.path.rstrip("/")]
    made = [make(things, owner) for _ in range(2)]
    for form in _forms(row.path):
        page = running.ask("GET", f"{form}?limit=1&offset=0", status=row.status)
        assert set(page) == {"count", "next", "previous", "results"}
        assert page["count"] >= 2
        assert page["previous"] is None
        assert len(page["results"]) == 1
        check_object(owner, page["results"][0])
        follow = running.client.get(page["next"]).json()
        assert follow["previous"] is not None
        assert follow["results"] != page["results"]
    for query in ("limit=0", "limit=x", "offset=-1", "colour=red"):
        assert running.wrong_fields("GET", f"{row.path}?{query}", None) == {query.partition("=")[0]}
    for name in row.filters:
        _filter(row.path, owner, name, made[0], running)


def _filter(path: str, owner: str, name: str, made: dict[str, Any], running: RunningHub) -> None:
    def found(text: str) -> set[object]:
        query = {name: text, "limit": "1000"}
        if name.endswith("_time"):
            # So that what other tests made at other times is not on the page.
            query["end_time" if name == "start_time" else "start_time"] = made["timestamp"]
        answer = running.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return {one["id"] for one in answer.json()["results"]}

    if name in {"start_time", "end_time"}:
        at = dt.datetime.fromisoformat(made["timestamp"])
        beyond = at + dt.timedelta(seconds=1 if name == "start_time" else -1)
        berlin = dt.timezone(dt.timedelta(hours=1))
        assert made["id"] in found(at.isoformat())
        assert made["id"] in found(at.astimezone(berlin).isoformat())
        assert made["id"] not in found(beyond.isoformat())
        wrong = "2026-03-02T06:00:00"
    elif name in {"meter_device", "series", "meter"}:
        value = made[name]
        assert made["id"] in found(value["id"] if isinstance(value, dict) else value)
        assert found(UNKNOWN) == set()
        wrong = "no uuid"
    else:
        value = made["meter"][name.removeprefix("meter_")] if owner == "MeterSecurityKeyCollection" else made[name]
        if value is None:
            running.ask("PATCH", f"{path.rstrip('/')}/{made['id']}", {name: f"find {made['id'][:6]}"}, 200)
            value = f"find {made['id'][:6]}"
        assert made["id"] in found(value)
        assert made["id"] not in found(f"{value}%")
        assert made["id"] not in found(value.swapcase() + "x")
        return
    assert running.wrong_fields("GET", f"{path}?{name}={wrong}", None) == {name}


def _invoke(row: PathRow, running: RunningHub, things: Things) -> None:
    call = {
        "meter_device": things.meter,
        "meter_execution_type": "generic_lis200",
        "task_call": "read_single_value",
        "task_kwargs": {"address": "2:300"},
        "run_offset_seconds": 0,
    }
    for form in _forms(row.path):
        answer = running.ask("POST", form, call, row.status)
        assert {name: answer[name] for name in call} == call
        running.ask("POST", f"{answer['command_url']}/cancel", {}, 200)
    running.ask("POST", row.path, {**call, "meter_device": UNKNOWN}, 404)
    running.ask("POST", row.path, {**call, "meter_device": things.new_meter()["id"]}, 409)
    for field, value in (
        ("meter_execution_type", "generic_corus_meter"),
        ("meter_execution_type", "generic_abacus"),
        ("task_call", "read_minds"),
        ("run_offset_seconds", -1),
        ("task_kwargs", 7),
        ("colour", "red"),
    ):
        assert running.wrong_fields("POST", row.path, {**call, field: value}) == {field}
    assert running.wrong_fields("POST", row.path, {**call, "task_kwargs": {}}) == {"task_kwargs.address"}
    required = {"meter_device", "meter_execution_type", "task_call"}
    assert running.wrong_fields("POST", row.path, {}) == required


def _push(row: PathRow, running: RunningHub, things: Things) -> None:
    for form in _forms(row.path):
        new = {"meter": things.meter_name, "series": "1-0:1.8.0", "timestamp": things.instant(), "value": "13.0"}
        one = running.ask("POST", form, new, row.status)
        assert {name: one[name] for name in new} == new
        unknown = {**new, "meter": things.name("nobody")}
        several = running.ask("POST", form, [new, unknown], row.status)
        assert [answer["meter"] for answer in several] == [new["meter"], unknown["meter"]]
        query = {"meter_device_name": unknown["meter"]}
        waiting = running.client.get("/v1/metering/staged-meter-readings", params=query)
        assert waiting.json()["count"] == 1
        # The reading becomes a normal one when its meter comes to be.
        meter = running.post(
            "/v1/metering/meter-devices",
            organization=things.organization,
            name=unknown["meter"],
            protocol="lis-200",
            type=things.type,
        )
        assert running.ask("GET", f"/v1/metering/meter-readings?meter_device={meter['id']}", status=200)["count"] == 1
    assert running.wrong_fields("POST", row.path, {**new, "series": "1-0:2.8.0"}) == {"series"}
    assert running.wrong_fields("POST", row.path, [new, {**new, "value": "NaN"}]) == {"1.value"}
    assert running.wrong_fields("POST", row.path, {}) == {"meter", "series", "timestamp", "value"}


# --- one case for each field of each object ---------------------------------------------------------------------------


@pytest.mark.parametrize("running", OF_WALKS, indirect=True)
@pytest.mark.parametrize("row", FIELDS, ids=str)
def test_field(row: FieldRow, running: RunningHub, things: Things) -> None:
    body = things.body(row.owner)
    assert (row.name in body) >= row.required, "the least body has what is required"
    if row.read_only:
        _leave_to_the_hub(row, running, things)
        return
    _leave_out(row, running, things)
    _make_null(row, running, things)
    for wrong in WRONG_TYPES[row.kind]:
        assert _named(row.name, _refused(row, running, things, wrong)), wrong
    if row.choices:
        _choose(row, running, things)
    elif row.kind in {"text", "uri"}:
        _fill(row, running, things)
    elif row.kind in {"uuid", "uuids"}:
        _refer(row, running, things)


def _refused(row: FieldRow, running: RunningHub, things: Things, wrong: object) -> set[str]:
    return running.wrong_fields("POST", COLLECTIONS[row.owner], {**things.body(row.owner), row.name: wrong})


def _leave_to_the_hub(row: FieldRow, running: RunningHub, things: Things) -> None:
    """What a client says of a field that the hub writes counts for nothing, and is no fault."""
    made = make(things, row.owner)
    body = {**things.body(row.owner), row.name: made[row.name]}
    again = running.ask("POST", COLLECTIONS[row.owner], body, 201)
    assert again["id"] != made["id"]


def _leave_out(row: FieldRow, running: RunningHub, things: Things) -> None:
    path = COLLECTIONS[row.owner]
    without = {name: value for name, value in things.body(row.owner).items() if name != row.name}
    if row.required:
        assert running.wrong_fields("POST", path, without) == {row.name}
    else:
        made = running.ask("POST", path, without, 201)
        assert row.nullable or made[row.name] is not None


def _make_null(row: FieldRow, running: RunningHub, things: Things) -> None:
    path = COLLECTIONS[row.owner]
    body = {**things.body(row.owner), row.name: None}
    if not row.nullable:
        assert running.wrong_fields("POST", path, body) == {row.name}
        return
    answer = running.ask("POST", path, body, 201)
    if row.name == "task_kwargs":
        return  # of a call that takes none they are an empty object
    assert answer.get(row.name) is None


def _refer(row: FieldRow, running: RunningHub, things: Things) -> None:
    path = COLLECTIONS[row.owner]
    assert row.name in _refused(row, running, things, [UNKNOWN] if row.kind == "uuids" else UNKNOWN)
    if row.unique:
        thing = {"tasks": things.task, "series": things.series, "task_groups": things.group, "meter_tasks": things.task}
        twice = [thing[row.name]] * 2
        assert _refused(row, running, things, twice) == {row.name}
        once = running.ask("POST", path, {**things.body(row.owner), row.name: twice[:1]}, 201)
        assert once[row.name] == twice[:1]


def _named(name: str, fields: set[str]) -> bool:
    """Whether the field is named, or a part of it."""
    return any(field == name or field.startswith((f"{name}[", f"{name}.")) for field in fields)


def _choose(row: FieldRow, running: RunningHub, things: Things) -> None:
    path = COLLECTIONS[row.owner]
    for choice in row.choices:
        body = things.body(row.owner) | {row.name: int(choice) if row.kind == "integer" else choice}
        if row.name == "meter_execution_type":
            calls: dict[str, dict[str, Any]] = {
                "generic_lis200": {},
                "generic_iec6205621": {"task_call": "read_readout", "task_kwargs": None},
                "generic_corus_meter": {"is_active": False, "task_call": "read_everything", "task_kwargs": {"a": 1}},
            }
            body |= calls[choice]
        answer = running.ask("POST", path, body, 201)
        assert str(answer[row.name]) == choice
    strange = 9 if row.kind == "integer" else "none of these"
    assert row.name in running.wrong_fields("POST", path, {**things.body(row.owner), row.name: strange})


def _fill(row: FieldRow, running: RunningHub, things: Things) -> None:
    path = COLLECTIONS[row.owner]

    def text(length: int) -> str:
        start = "https://sim.example/" if row.kind == "uri" else things.name("9")
        return (start + "9" * length)[:length]

    def body(length: int) -> dict[str, Any]:
        return things.body(row.owner) | {row.name: text(length)}

    if row.most is not None:
        if (row.owner, row.name) not in CLOSED:
            longest = body(row.most)
            answer = running.ask("POST", path, longest, 201)
            if not row.write_only:
                assert answer[row.name] == longest[row.name]
        assert row.name in running.wrong_fields("POST", path, body(row.most + 1))
    if row.least:
        assert row.name in running.wrong_fields("POST", path, body(0))
    elif (row.owner, row.name) not in CLOSED:
        running.ask("POST", path, body(0), 201)


# --- one case for each path of signing in -----------------------------------------------------------------------------


@pytest.mark.parametrize("running", OF_WALKS, indirect=True)
@pytest.mark.parametrize("row", SIGN_IN, ids=str)
def test_sign_in(row: PathRow, running: RunningHub, things: Things) -> None:
    user = things.new_user()
    other = running.post("/v1/organizations", name=things.name("other"))["id"]
    for organization in (things.organization, other):
        running.post("/v1/organizations/memberships", organization=organization, user=user["id"])
    token, renew, change = (path.path for path in SIGN_IN)
    given = {"username": user["username"], "password": PASSWORD}
    nobody = {"Authorization": ""}
    for form in _forms(row.path):
        answer = running.client.post(token, json=given, headers=nobody)
        assert answer.status_code == 201, answer.text
        bearer = {"Authorization": f"JWT {answer.json()['token']}"}
        bodies: dict[str, object] = {token: given, change: {"organization": other}, renew: None}
        headers = nobody if row.path == token else bearer
        answer = running.client.request(row.method, form, json=bodies[row.path], headers=headers)
        assert answer.status_code == row.status, answer.text
        seen = running.client.get("/v1/organizations", headers={"Authorization": f"JWT {answer.json()['token']}"})
        expected = other if row.path == change else things.organization
        assert [one["id"] for one in seen.json()["results"]] == [expected]
    if row.path == token:
        for organization, status in ((None, 201), (other, 201), (UNKNOWN, 422), ("no uuid", 422)):
            body = {**given, "organization": organization}
            assert running.client.post(token, json=body, headers=nobody).status_code == status
        assert running.wrong_fields("POST", token, {}) == {"username", "password"}
        assert running.wrong_fields("POST", token, {"username": "", "password": ""}) == {"username", "password"}
        wrong = running.client.post(token, json={**given, "password": "wrong"}, headers=nobody)
        assert wrong.status_code == 401
        assert "www-authenticate" in wrong.headers
    else:
        assert running.client.request(row.method, row.path, json={}, headers=nobody).status_code == 401
    if row.path == change:
        for body in ({}, {"organization": None}, {"organization": UNKNOWN}):
            refused = running.client.post(change, json=body, headers=bearer)
            assert refused.status_code == 422
            assert refused.json()["errors"][0]["field"] == "organization"


# --- what is said beside the tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", NAMED)
def test_names_are_unique_in_an_organization(owner: str, running: RunningHub, things: Things) -> None:
    path = COLLECTIONS[owner]
    body = things.body(owner)
    first = running.ask("POST", path, body, 201)
    problem = running.ask("POST", path, {**things.body(owner), "name": body["name"]}, 409)
    assert "name" in problem["detail"]
    other = make(things, owner)
    running.ask("PATCH", f"{path.rstrip('/')}/{other['id']}", {"name": body["name"]}, 409)
    running.ask("PATCH", f"{path.rstrip('/')}/{first['id']}", {"name": body["name"]}, 200)
    if owner != "Organization":
        elsewhere = running.post("/v1/organizations", name=things.name("other"))["id"]
        running.ask("POST", path, {**things.body(owner), "organization": elsewhere, "name": body["name"]}, 201)
