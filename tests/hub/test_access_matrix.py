"""Every path and method, asked by everybody: who gets in is said by one table, and what is others' is not there.

The cases are made from the application's OpenAPI document, so a path that nobody thought of here fails: it has no line
in ``hub.access``, or no line in ``EXPECTED`` below, which says the same once more and by hand.
"""

import dataclasses
import datetime as dt
import itertools
import re
import uuid
from typing import Any

import httpx
import pytest

from hub.access import DOORS, door_of, openers
from hub.app import OPEN_PATHS
from hub.database import writing
from hub.models import Membership, User
from hub.scopes import SCOPES, STAFF
from hub.sessions import begin, write_session
from hub.tokens import create_token
from tests.parts.databases import OF_WALKS, database_url, engine
from tests.parts.rest import Fleet, Rest, application, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

PATHS: dict[str, Any] = dict(application().openapi_schema.paths or {})
METHODS = ("get", "post", "put", "patch", "delete")
CASES = sorted((path, method.upper()) for path, item in PATHS.items() for method in METHODS if getattr(item, method))
OPEN = ("/health", "/metrics", "/v1/auth/jwt/token")
ASKED = [(path, method) for path, method in CASES if not path.startswith(OPEN)]

NOBODY, USERS = "", "users"
R, RR, PUSH, CORRECT, CMD, CONF = "read", "read-readings", "push-readings", "correct-readings", "command", "configure"
EXPECTED: dict[str, tuple[str, str, str]] = {
    # path: who looks, who adds, who changes (beside staff, and users where read looks)
    "/v1/auth/jwt/renew": (USERS, USERS, USERS),
    "/v1/auth/jwt/change-organization": (USERS, USERS, USERS),
    "/v1/organizations": (f"{R} {CONF}", NOBODY, NOBODY),
    "/v1/organizations/memberships": (R, NOBODY, NOBODY),
    "/v1/retention-policies": (NOBODY, NOBODY, NOBODY),
    "/v1/users": (NOBODY, NOBODY, NOBODY),
    "/v1/audit": (R, NOBODY, NOBODY),
    "/v1/tokens": (NOBODY, NOBODY, NOBODY),
    "/v1/gateways": (f"{R} {CMD} {CONF}", CONF, CONF),
    "/v1/callers": (R, NOBODY, NOBODY),
    "/v1/receivers": (f"{R} {CONF}", CONF, CONF),
    "/v1/deadlines": (f"{R} {CONF}", CONF, CONF),
    "/v1/commands": (f"{R} {CMD}", CMD, CMD),
    "/v1/command-batches": (f"{R} {CMD}", CMD, CMD),
    "/v1/backfills": (f"{R} {CMD}", CMD, CMD),
    "/v1/completeness": (f"{R} {RR}", NOBODY, NOBODY),
    "/v1/runs": (R, NOBODY, NOBODY),
    "/v1/loss-records": (R, NOBODY, NOBODY),
    "/v1/quarantine": (R, NOBODY, CORRECT),
    "/v1/undecodable-pushes": (R, NOBODY, CORRECT),
    "/v1/sheets": (f"{R} {CONF}", CONF, CONF),
    "/v1/metering/network-interfaces": (f"{R} {CONF}", CONF, CONF),
    "/v1/metering/sim-cards": (f"{R} {CONF}", CONF, CONF),
    "/v1/metering/meter-device-types": (f"{R} {CONF}", CONF, CONF),
    "/v1/metering/meter-device-configs": (f"{R} {CONF}", CONF, CONF),
    "/v1/metering/meter-devices": (f"{R} {RR} {CMD} {CONF}", CONF, CONF),
    "/v1/metering/meter-security-keys": (f"{R} {CONF}", CONF, CONF),
    "/v1/metering/device-periods": (f"{R} {RR} {CONF}", CONF, CONF),
    "/v1/metering/meter-reading-series": (f"{R} {RR} {CONF}", CONF, CONF),
    "/v1/metering/amr-tasks": (f"{R} {CMD} {CONF}", CONF, CONF),
    "/v1/metering/amr-tasks/invoke": (NOBODY, CMD, NOBODY),
    "/v1/metering/amr-task-groups": (f"{R} {CMD} {CONF}", CONF, CONF),
    "/v1/metering/meter-readings": (f"{R} {RR}", PUSH, CORRECT),
    "/v1/metering/readings/export": (f"{R} {RR}", NOBODY, NOBODY),
    "/v1/metering/readings/latest": (f"{R} {RR}", f"{R} {RR}", NOBODY),
    "/v1/metering/readings/received": (f"{R} {RR}", NOBODY, NOBODY),
    "/v1/metering/new-meter-readings": (NOBODY, PUSH, NOBODY),
    "/v1/metering/staged-meter-readings": (f"{R} {RR} {CORRECT}", PUSH, CORRECT),
    "/v1/metering/meter-system-events": (f"{R} {RR}", PUSH, CORRECT),
}


def expected(path: str, method: str) -> set[str]:
    """Return who gets in by the table above."""
    stem = max((one for one in EXPECTED if f"{path}/".startswith(f"{one}/")), key=len, default=None)
    assert stem is not None, f"{path} is new: say here who gets in, and in hub/access.py"
    look, add, change = EXPECTED[stem]
    if method == "GET":
        return set(look.split())
    return set((add if method == "POST" and path == stem else change).split())


class Everybody:
    """Clients of all kinds at one hub, with objects of two organizations in it."""

    def __init__(self, rest: Rest, mine: Fleet, other: Fleet) -> None:
        self.rest, self.mine, self.other = rest, mine, other
        self.headers: dict[str, str] = {}

    async def ask(self, who: str, method: str, path: str, body: object = None) -> httpx.Response:
        """Send a request as one of them."""
        headers = {"Authorization": self.headers[who]} if who in self.headers else {}
        transport = self.rest.client._transport
        async with httpx.AsyncClient(transport=transport, base_url="http://hub", headers=headers) as client:
            return await client.request(method, path, json=body if method != "GET" else None)


@pytest.fixture
async def everybody(rest: Rest) -> Everybody:
    mine, other = await create_fleet(rest, "mine"), await create_fleet(rest, "other")
    hub, now = rest.hub, rest.clock.now()
    assert hub.session_keys is not None
    all_of = Everybody(rest, mine, other)
    async with writing(hub.engine) as session:
        for name, fleet in (("user", mine), ("user of another organization", other)):
            nothing = "-"  # no password
            user = User(username=name, password=nothing, sessions_since=now, created_at=now, updated_at=now)
            session.add(user)
            await session.flush()
            organization = uuid.UUID(fleet.organization)
            session.add(Membership(organization=organization, user=user.id, created_at=now, updated_at=now))
            token, _ = write_session(hub.session_keys, begin(user, organization, now), now)
            all_of.headers[name] = f"JWT {token}"
            if fleet is mine:
                before = now - dt.timedelta(hours=2)
                token, _ = write_session(hub.session_keys, begin(user, organization, before), before)
                all_of.headers["expired user"] = f"JWT {token}"
        own = uuid.UUID(mine.organization)
        for scope in (*SCOPES, "expired"):
            scopes, end = ((scope,), None) if scope in SCOPES else ((STAFF,), now)
            owner = None if scope in {STAFF, "expired"} else own
            key = await create_token(session, scope, now, organization=owner, scopes=scopes, expires=end)
            all_of.headers[scope] = f"Token {key}"
    return all_of


MACHINES = [scope for scope in SCOPES if scope != STAFF]


@pytest.mark.parametrize(("path", "method"), ASKED, ids=[f"{method} {path}" for path, method in ASKED])
def test_the_table_says_who_gets_in(path: str, method: str) -> None:
    stem, door = door_of(path)
    assert stem, f"{path} has no line in hub/access.py, so only staff gets in: say who does"
    wanted = expected(path, method)
    assert door.users == (wanted == {USERS})
    assert door.users or openers(method, path) == wanted


def test_no_line_is_for_a_path_that_is_not_there() -> None:
    there = {"/".join(path.split("/")[:length]) for path in PATHS for length in range(2, 9)}
    assert set(DOORS) <= there
    assert set(DOORS) == set(EXPECTED)
    assert [one for one in OPEN if not any(path.startswith(one) for path in PATHS)] == []
    assert len(OPEN_PATHS) == 4, "a new open path is for everybody: say so in OPEN above"


def own_ids(fleet: Fleet) -> dict[str, str]:
    """Return by path the one object that the organization has there."""
    return {
        "/v1/organizations": fleet.organization,
        "/v1/gateways": fleet.gateway,
        "/v1/metering/network-interfaces": fleet.line,
        "/v1/metering/meter-device-types": fleet.type,
        "/v1/metering/meter-device-configs": fleet.config,
        "/v1/metering/meter-devices": fleet.meter,
        "/v1/metering/meter-reading-series": fleet.series,
        "/v1/metering/amr-tasks": fleet.task,
        "/v1/metering/amr-task-groups": fleet.group,
    }


def concrete(path: str, fleet: Fleet) -> str:
    """Put an id into a path: the organization's own object where the fleet has one, else one that nobody has."""
    return with_id(path, own_ids(fleet).get(path.partition("/{")[0], unused(path)))


def with_id(path: str, row: str) -> str:
    """Put an id into a path; what else stands in braces is nobody's."""
    return re.sub(r"{\w+}", str(uuid.UUID(int=1)), path.replace("{row_id}", row))


def unused(path: str) -> str:
    """Return an id that nothing has."""
    numbered = any(word in path for word in ("-readings/", "-events/", "quarantine/", "memberships/", "audit/"))
    return "999999" if numbered else str(uuid.UUID(int=1))


@pytest.mark.parametrize("database_url", OF_WALKS, indirect=True)
async def test_everybody_at_every_path(everybody: Everybody) -> None:
    """Anonymous and expired 401; who is not let in 403, whether or not it is there; everybody else is answered."""
    for path, method in ASKED:
        wanted = expected(path, method)
        own, theirs = (concrete(path, fleet) for fleet in (everybody.mine, everybody.other))
        for who in ("anonymous", "expired", "expired user"):
            answer = await everybody.ask(who, method, own)
            assert answer.status_code == 401, f"{who}: {method} {path}"
            assert "www-authenticate" in answer.headers
        for who in ("user", "user of another organization", *MACHINES):
            is_user = who not in MACHINES
            # Of many meters the latest readings are asked in a body: that is no change.
            looks = method == "GET" or path.endswith("/readings/latest")
            let_in = bool({USERS, R} & wanted if is_user and looks else {USERS if is_user else who} & wanted)
            if let_in and method in {"PUT", "DELETE"}:
                continue  # what replaces and deletes is asked in the tests of its resource
            answer = await everybody.ask(who, method, own, {"unknown": 1})
            assert (answer.status_code == 403) != let_in, f"{who}: {method} {own}: {answer.text}"
            assert answer.status_code < 500, f"{who}: {method} {own}: {answer.text}"
            if not let_in and own != theirs:
                other = await everybody.ask(who, method, theirs, {"unknown": 1})
                assert (other.status_code, other.text) == (403, answer.text), f"{who}: {method} {theirs}"
        if method == "GET":
            answer = await everybody.ask(STAFF, method, own)
            assert answer.status_code in ({403} if wanted == {USERS} else {200, 404, 422}), f"{method} {own}"


async def test_what_is_others_is_not_there(everybody: Everybody) -> None:
    """For a user, and for a machine with all scopes, the other organization's objects are 404 and in no list."""
    rest, theirs = everybody.rest, everybody.other
    own = uuid.UUID(everybody.mine.organization)
    async with writing(rest.hub.engine) as session:
        key = await create_token(session, "all", rest.clock.now(), organization=own, scopes=MACHINES)
    everybody.headers["machine"] = f"Token {key}"
    words = {*dataclasses.asdict(theirs).values(), "gw-other"}
    for (path, method), who in itertools.product(ASKED, ("user", "machine")):
        allowed = expected(path, method)
        if USERS in allowed or not (allowed if who == "machine" else R in allowed and method == "GET"):
            continue
        if "{row_id}" not in path:
            if method == "GET":
                answer = await everybody.ask(who, method, path)
                assert not [word for word in words if word in answer.text], f"{who}: {method} {path}"
            continue
        answer = await everybody.ask(who, method, concrete(path, theirs), {})
        nobodys = await everybody.ask(who, method, with_id(path, unused(path)), {})
        assert answer.status_code in ({404, 422} if method == "PUT" else {404}), f"{who}: {method} {path}"
        theirs_id = own_ids(theirs).get(path.partition("/{")[0], unused(path))
        assert answer.text.replace(theirs_id, "") == nobodys.text.replace(unused(path), ""), f"{who}: {method} {path}"


async def test_filters_by_what_is_others_find_nothing(everybody: Everybody) -> None:
    theirs = everybody.other
    for path, field in (
        ("/v1/runs", "gateway"),
        ("/v1/commands", "gateway"),
        ("/v1/receivers", "gateway"),
        ("/v1/backfills", "organization"),
        ("/v1/gateways", "organization"),
    ):
        answer = await everybody.ask("user", "GET", f"{path}?{field}={getattr(theirs, field)}")
        assert answer.json()["count"] == 0, path
    for scope in ("organization", "gateway", "group", "meter_device"):
        given = theirs.meter if scope == "meter_device" else getattr(theirs, scope)
        answer = await everybody.ask("user", "GET", f"/v1/completeness?{scope}={given}")
        assert answer.status_code == 404, scope
    query = f"meter_device={theirs.meter}&series={theirs.series}"
    times = "start_time=2026-03-01T00:00:00Z&end_time=2026-03-02T00:00:00Z"
    for path in (f"/v1/completeness/slots?{query}", f"/v1/metering/device-periods/consumption?{query}&{times}"):
        assert (await everybody.ask("user", "GET", path)).status_code == 404, path
