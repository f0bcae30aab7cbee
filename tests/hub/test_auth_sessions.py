"""Users sign in, renew, change their organization; what ended has ended at once, and nobody learns who is there."""

import base64
import datetime as dt
import json
import uuid
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey
from sqlalchemy import select, update

from hub.database import reading, writing
from hub.models import User
from hub.passwords import DECOY, hash_password, is_outdated, matches
from hub.problems import NotAuthenticated
from hub.session_keys import SessionKeys
from hub.sessions import LIFE, LONGEST, Session, begin, read_session, write_session
from protocol.envelopes import SigningKey
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Rest, rest

__all__ = ["engine", "rest", "url_of_walks"]

PASSWORD = "correct horse \N{BATTERY}"  # noqa: S105 - of users of these tests
OTHER = {"password": "another good one"}
WRONG = {"password": "a wrong one"}
SIGN_IN = "/v1/auth/jwt/token/"
RENEW = "/v1/auth/jwt/renew/"
CHANGE = "/v1/auth/jwt/change-organization/"
_HASH = hash_password(PASSWORD)
"""Made once: it takes a part of a second."""


class Client:
    """A published client: it knows paths, the two headers, and ``token`` of what signing in answers."""

    def __init__(self, rest: Rest, header: str | None = None) -> None:
        headers = {} if header is None else {"Authorization": header}
        self.http = httpx.AsyncClient(transport=rest.client._transport, base_url="http://hub", headers=headers)

    async def call(self, method: str, path: str, body: object = None, status: int = 200) -> Any:  # noqa: ANN401 - JSON
        async with self.http as http:
            answer = await http.request(method, path, json=body)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


async def sign_in(rest: Rest, status: int = 201, /, **body: object) -> Any:  # noqa: ANN401 - JSON
    return await Client(rest).call("POST", SIGN_IN, {"username": "anna", "password": PASSWORD, **body}, status)


async def as_user(
    rest: Rest, token: str, path: str, status: int = 200, method: str = "GET", body: object = None
) -> Any:  # noqa: ANN401 - JSON
    return await Client(rest, f"JWT {token}").call(method, path, body, status)


async def add_user(rest: Rest, username: str = "anna") -> str:
    """Make a user without the time that a new hash takes."""
    now = rest.clock.now()
    user = User(username=username, password=_HASH, sessions_since=now, created_at=now, updated_at=now)
    async with writing(rest.hub.engine) as session:
        session.add(user)
    return str(user.id)


async def join(rest: Rest, user: str, organization: str) -> int:
    member = await rest.post("/v1/organizations/memberships/", organization=organization, user=user)
    return int(member["id"])


@pytest.fixture
async def two(rest: Rest) -> tuple[Rest, str, list[str]]:
    """A hub where anna belongs to two of three organizations."""
    user = await add_user(rest)
    organizations = [(await rest.post("/v1/organizations/", name=name))["id"] for name in ("north", "south", "other")]
    for organization in organizations[:2]:
        await join(rest, user, organization)
    return rest, user, organizations


Two = tuple[Rest, str, list[str]]


async def session_in(two: Two, place: int) -> str:
    """Return a session of anna's in one of the organizations, without the time that a password takes."""
    rest, user, organizations = two
    async with reading(rest.hub.engine) as session:
        row = await session.get(User, uuid.UUID(user))
    assert row is not None
    assert rest.hub.session_keys is not None
    now = rest.clock.now()
    return write_session(rest.hub.session_keys, begin(row, uuid.UUID(organizations[place]), now), now)[0]


async def test_a_user_signs_in_and_sees_one_organization(two: Two) -> None:
    rest, user, (north, south, other) = two
    answer = await sign_in(rest)
    assert (answer["organization"], answer["user"], answer["username"]) == (north, user, "anna")
    assert [one["id"] for one in answer["organizations"]] == [north, south]
    assert dt.datetime.fromisoformat(answer["expires_at"]) == rest.clock.now() + LIFE
    page = await as_user(rest, answer["token"], "/v1/organizations/")
    assert [(row["id"], row["members"]) for row in page["results"]] == [(north, [user])]
    for unseen in (south, other, str(uuid.uuid4())):
        problem = await as_user(rest, answer["token"], f"/v1/organizations/{unseen}", 404)
        assert problem["detail"] == f"there is no organization {unseen}"
    members = await as_user(rest, answer["token"], "/v1/organizations/memberships/")
    assert [row["organization"] for row in members["results"]] == [north]
    again = await sign_in(rest, organization=south, username=" Anna ")
    assert (again["organization"], again["expires_at"]) == (south, answer["expires_at"])


async def test_a_user_may_look_and_change_nothing(two: Two) -> None:
    rest, _, (north, *_) = two
    token = await session_in(two, 0)
    for method, path in (("POST", "/v1/organizations/"), ("PATCH", f"/v1/organizations/{north}")):
        problem = await as_user(rest, token, path, 403, method, {"name": "mine"})
        assert "change nothing" in problem["detail"]
    await as_user(rest, token, "/v1/users", 403)
    await rest.get(RENEW, 403)


async def test_change_of_organization_gives_a_session_there(two: Two) -> None:
    rest, _, (north, south, other) = two
    first = await session_in(two, 0)
    second = await as_user(rest, first, CHANGE, 201, "POST", {"organization": south})
    assert second["organization"] == south
    for token, seen in ((first, north), (second["token"], south)):
        assert [row["id"] for row in (await as_user(rest, token, "/v1/organizations/"))["results"]] == [seen]
    for not_mine in (other, str(uuid.uuid4())):
        problem = await as_user(rest, first, CHANGE, 422, "POST", {"organization": not_mine})
        assert problem["detail"] == f"organization: this user belongs to no organization {not_mine}"
    assert (await sign_in(rest, 422, organization=not_mine))["detail"] == problem["detail"]
    for wrong in ({}, {"organization": "x"}, {"organization": None}, {"organization": south, "name": "x"}):
        await as_user(rest, first, CHANGE, 422, "POST", wrong)


async def test_a_session_is_renewed_until_the_password_is_a_week_old(two: Two) -> None:
    rest, _, (_, south, _) = two
    answer = {"token": await session_in(two, 1)}
    begun = rest.clock.now()
    while rest.clock.now() + dt.timedelta(minutes=50) < begun + LONGEST:
        rest.clock.advance(minutes=50)
        answer = await as_user(rest, answer["token"], RENEW)
        assert answer["organization"] == south
    assert dt.datetime.fromisoformat(answer["expires_at"]) == begun + LONGEST
    rest.clock.shown = begun + LONGEST + dt.timedelta(seconds=11)
    await as_user(rest, answer["token"], RENEW, 401)


async def test_a_session_ends_with_its_time(two: Two) -> None:
    rest, token = two[0], await session_in(two, 0)
    rest.clock.advance(minutes=59)
    await as_user(rest, token, "/v1/organizations/")
    rest.clock.advance(minutes=2)
    problem = await as_user(rest, token, "/v1/organizations/", 401)
    assert "sign in" in problem["detail"]


async def test_what_was_removed_ends_at_once(two: Two) -> None:
    rest, user, (_, south, _) = two
    tokens = [await session_in(two, place) for place in (0, 1)]
    members = (await rest.get("/v1/organizations/memberships/"))["results"]
    await rest.call("DELETE", f"/v1/organizations/memberships/{members[0]['id']}", status=204)
    await as_user(rest, tokens[0], "/v1/organizations/", 401)
    await as_user(rest, tokens[1], "/v1/organizations/")
    await rest.patch(f"/v1/organizations/{south}", is_active=False)
    await as_user(rest, tokens[1], "/v1/organizations/", 401)
    await sign_in(rest, 403)
    await rest.patch(f"/v1/organizations/{south}", is_active=True)
    await as_user(rest, tokens[1], "/v1/organizations/")
    rest.clock.advance(seconds=0.000001)
    await rest.patch(f"/v1/users/{user}", **OTHER)
    await as_user(rest, tokens[1], "/v1/organizations/", 401)
    assert (await sign_in(rest, 401))["detail"] == "the username or the password is wrong"
    last = (await sign_in(rest, **OTHER))["token"]
    await rest.patch(f"/v1/users/{user}", is_active=False)
    await as_user(rest, last, "/v1/organizations/", 401)
    await rest.call("DELETE", f"/v1/users/{user}", status=204)
    assert (await rest.get("/v1/organizations/memberships/"))["count"] == 0


async def test_who_is_told_no_learns_nothing(two: Two) -> None:
    rest = two[0]
    await add_user(rest, "gone")
    async with writing(rest.hub.engine) as session:
        await session.execute(update(User).where(User.username == "gone").values(is_active=False))
    answers = []
    for body in (
        {"username": "nobody"},
        {"password": "wrong"},
        {"username": "gone"},
        {"username": "x\N{GRINNING FACE}"},
    ):
        answer = await Client(rest).http.post(SIGN_IN, json={"username": "anna", "password": PASSWORD} | body)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "JWT"
        answers.append(answer.content)
    assert len(set(answers)) == 1


def test_a_user_that_is_not_there_costs_as_much() -> None:
    assert DECOY.split(":")[:4] == _HASH.split(":")[:4], "the same function at the same cost"
    assert not matches("", DECOY)
    assert matches(PASSWORD, _HASH)
    assert not is_outdated(_HASH)


async def test_an_old_hash_is_made_anew_when_its_user_signs_in(two: Two) -> None:
    rest = two[0]
    cheap = "scrypt:4:8:1:AAAAAAAAAAAAAAAAAAAAAA==:"
    from hub.passwords import _scrypt  # noqa: PLC0415 - only here

    made = cheap + base64.b64encode(_scrypt(PASSWORD, bytes(16), 4, 8, 1)).decode()
    async with writing(rest.hub.engine) as session:
        await session.execute(update(User).values(password=made))
    token = (await sign_in(rest))["token"]
    async with reading(rest.hub.engine) as session:
        kept = (await session.execute(select(User.password))).scalar_one()
    assert not is_outdated(kept)
    await as_user(rest, token, RENEW)


async def test_trying_passwords_is_slowed_down(two: Two) -> None:
    rest = two[0]
    for _ in range(5):
        await sign_in(rest, 401, **WRONG)
    for name in ("anna", "ANNA"):
        answer = await Client(rest).http.post(SIGN_IN, json={"username": name, "password": PASSWORD})
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 30
    assert rest.hub.attempts.take("somebody", "127.0.0.1", rest.clock.monotonic()) == 0


async def test_bad_input_is_refused_clearly(two: Two) -> None:
    rest = two[0]
    wrong: tuple[tuple[object, int], ...] = (
        ({}, 422),
        ({"username": "anna"}, 422),
        ({"username": "", "password": "x"}, 422),
        ({"username": "anna", "password": ""}, 422),
        ({"username": "anna", "password": "x" * 1025}, 422),
        ({"username": "a" * 151, "password": "x"}, 422),
        ({"username": "an\0na", "password": "x"}, 422),
        ({"username": "anna", "password": "\0"}, 422),
        ({"username": 1, "password": "x"}, 422),
        ({"username": "anna", "password": ["x"]}, 422),
        ({"username": "anna", "password": "x", "organization": "x"}, 422),
        ({"username": "anna", "password": "x", "is_staff": True}, 422),
        ([], 422),
        (None, 400),
    )
    for body, status in wrong:
        problem = await Client(rest).call("POST", SIGN_IN, body, status)
        assert PASSWORD not in json.dumps(problem)
    async with Client(rest).http as stranger:
        for content, status in ((b"x" * (10 * 1024 * 1024), 413), (b"[" * 10_000, 400), (b'{"username":"\xff"}', 400)):
            answer = await stranger.post(SIGN_IN, content=content)
            assert answer.status_code == status
            assert answer.headers["content-type"] == "application/problem+json"
    async with Client(rest, f"JWT {await session_in(two, 0)}").http as user:
        assert (await user.post(CHANGE, content=b" " * 1_000_000)).status_code == 413


KEYS_AT = dt.datetime(2026, 3, 2, 12, 0, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SessionKeys:
    return SessionKeys(SigningKey(bytes(32)), tmp_path_factory.mktemp("keys") / "hub.key.sessions")


def session_of(now: dt.datetime) -> Session:
    return Session(user=uuid.uuid4(), organization=uuid.uuid4(), signed_in=now, generation=7)


def forge(keys: SessionKeys, claims: dict[str, object], **header: object) -> str:
    """Sign whatever is said with the right key."""
    key = keys.signing
    return jwt.encode({"alg": "HS256", "kid": key.kid, **header}, claims, key, algorithms=["HS256", "HS512"])


def claims_of(token: str) -> dict[str, object]:
    part = token.split(".")[1]
    claims: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def text_of(document: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def refused(keys: SessionKeys, text: str) -> bool:
    try:
        read_session(keys, text, KEYS_AT)
    except NotAuthenticated:
        return True
    return False


def test_a_session_says_what_was_written(keys: SessionKeys) -> None:
    session = session_of(KEYS_AT)
    token, end = write_session(keys, session, KEYS_AT)
    assert read_session(keys, token, KEYS_AT) == session
    assert end == KEYS_AT + LIFE
    assert len(token) < 600


def test_only_our_own_sessions_are_believed(keys: SessionKeys) -> None:
    token, _ = write_session(keys, session_of(KEYS_AT), KEYS_AT)
    head, body, signature = token.split(".")
    ours = {"alg": "HS256", "kid": keys.signing.kid}
    claims = claims_of(token)
    stranger = OctKey.import_key(b"k" * 32, {"kid": str(keys.signing.kid)})
    named = OctKey.import_key(b"k" * 32, {"kid": "0" * 16})
    forged = {
        "no algorithm": f"{text_of({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        "no algorithm, with our kid": f"{text_of({'alg': 'none', 'kid': keys.signing.kid})}.{body}.{signature}",
        "None": f"{text_of({'alg': 'None'})}.{body}.",
        "no header": f"{text_of({})}.{body}.{signature}",
        "header is no object": f"{text_of([])}.{body}.{signature}",
        "algorithm is no text": f"{text_of({'alg': ['HS256']})}.{body}.{signature}",
        "kid is no text": f"{text_of({'alg': 'HS256', 'kid': {}})}.{body}.{signature}",
        "another algorithm": forge(keys, claims, alg="HS512"),
        "asymmetric": f"{text_of({'alg': 'RS256', 'kid': keys.signing.kid})}.{body}.{signature}",
        "critical": f"{text_of({**ours, 'crit': ['b64'], 'b64': False})}.{body}.{signature}",
        "another key with our kid": jwt.encode({"alg": "HS256", "kid": stranger.kid}, claims, stranger),
        "another key": jwt.encode({"alg": "HS256", "kid": named.kid}, claims, named),
        "another body": f"{head}.{text_of(claims | {'org': str(uuid.uuid4())})}.{signature}",
        "cut": token[:-2],
        "longer": f"{token}.{signature}",
        "empty": "..",
        "encrypted": "a.b.c.d.e",
    }
    for what, text in forged.items():
        assert refused(keys, text), what


def test_claims_that_are_not_ours_are_refused(keys: SessionKeys) -> None:
    token, _ = write_session(keys, session_of(KEYS_AT), KEYS_AT)
    good, now = claims_of(token), int(KEYS_AT.timestamp())
    read_session(keys, forge(keys, good), KEYS_AT)
    for change in (
        {"exp": now - 60},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"nbf": now + 3600},
        {"iat": now + 3600},
        {"iat": None},
        {"iss": "somebody"},
        {"iss": None},
        {"sub": "anna"},
        {"sub": None},
        {"org": 1},
        {"org": None},
        {"auth_time": 10**18},
        {"auth_time": "x"},
        {"gen": None},
        {"gen": "7"},
    ):
        claims = {name: value for name, value in {**good, **change}.items() if value is not None}
        assert refused(keys, forge(keys, claims)), change


@given(st.one_of(st.text(max_size=200), st.lists(st.binary(max_size=60), min_size=3, max_size=5)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_nothing_made_up_is_more_than_refused(keys: SessionKeys, made_up: str | list[bytes]) -> None:
    if isinstance(made_up, list):
        made_up = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in made_up)
    with pytest.raises(NotAuthenticated):
        read_session(keys, made_up, KEYS_AT)


def test_keys_rotate_and_sessions_go_on(keys: SessionKeys) -> None:
    rotated = SessionKeys(SigningKey(bytes(32)), keys.file.with_name("rotated"))
    elsewhere = SessionKeys(SigningKey(bytes(32)), rotated.file)
    session = session_of(KEYS_AT)
    first, _ = write_session(rotated, session, KEYS_AT)
    assert rotated.rotate(keep=True) == elsewhere.signing.kid, "another process sees it at its next look"
    assert rotated.file.stat().st_mode & 0o777 == 0o600
    second, _ = write_session(elsewhere, session, KEYS_AT)
    for token in (first, second):
        assert read_session(rotated, token, KEYS_AT) == session
    rotated.rotate(keep=True)
    with pytest.raises(NotAuthenticated):
        read_session(elsewhere, first, KEYS_AT)
    assert read_session(elsewhere, second, KEYS_AT) == session
    rotated.rotate(keep=False)
    with pytest.raises(NotAuthenticated):
        read_session(elsewhere, second, KEYS_AT)
