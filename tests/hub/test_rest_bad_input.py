"""Bad input on purpose, at every door: clear 4xx problem documents, nothing stored, bounded memory, no secret said."""

import contextlib
import http.client
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.hub.rest_rows import COLLECTIONS, FIELDS, PATHS, FieldRow, PathRow, fields_of
from tests.parts.databases import BOTH, OF_WALKS
from tests.parts.running_hub import RunningHub, Things, running, things

__all__ = ["running", "things"]

MEBI = 1024 * 1024
SECRET = "Sesame-0815"  # noqa: S105 - what must be found nowhere
CONTROLS = ("\x00", "\x01", "\x1b[2J", "\x7f", "\x85", "\n", "a\r\nSet-Cookie: b=c")
TRICKS = ("' OR '1'='1", "'; DROP TABLE organizations; --", "%' UNION SELECT digest FROM tokens --", "../../etc/passwd")
FREE_TEXT = {"description", "unit_description", "content"}
NUMBERS = ("NaN", "Infinity", "-Infinity", "1e40", "9" * 41, "1e-40", "1e999999999", "0x10", "\u0661", "1_000")
INSTANTS = (
    "2026-03-02T06:00:00",
    "2026-03-02",
    "9999-12-31T23:59:59-14:00",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "2026-02-30T00:00:00Z",
    "2026-03-02T25:00:00Z",
    "now",
)


def writers() -> list[PathRow]:
    """Every row of the interface that takes a body."""
    return [row for row in PATHS if row.method in {"POST", "PUT", "PATCH"}]


class Answer(NamedTuple):
    """What came back, whole."""

    status: int
    kind: str
    body: bytes


def problem_of(answer: Answer) -> dict[str, Any]:
    """Check that an answer is a refusal in the form of all refusals; return it."""
    assert 400 <= answer.status < 500, answer
    assert answer.kind == "application/problem+json"
    document: dict[str, Any] = json.loads(answer.body)
    assert document["status"] == answer.status
    assert document["detail"]
    return document


def send(
    running: RunningHub, method: str, path: str, body: bytes | Iterator[bytes], kind: str = "application/json"
) -> Answer:
    """Send bytes as they are, an iterator's in chunks; the answer may come before all of them went."""
    place = urlsplit(running.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    with contextlib.closing(connection):
        headers = {"Authorization": f"Token {running.token}", "Content-Type": kind}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers.get("content-type", ""), answer.read())


def count_of(running: RunningHub, path: str) -> int:
    """How many objects there are in the collection that a path is of."""
    door = {"/v1/metering/new-meter-readings": "/v1/metering/meter-readings"}
    place = path.removesuffix("/{id}").rstrip("/")
    place = door.get(place, place.removesuffix("/invoke"))
    return int(running.ask("GET", f"{place}?limit=1", status=200)["count"])


def place_of(row: PathRow, things: Things) -> str:
    """Return the address of something that is there, for rows with an id."""
    if "{id}" not in row.path:
        return row.path
    collection = row.path.removesuffix("/{id}")
    owner = next(owner for owner, path in COLLECTIONS.items() if path.rstrip("/") == collection)
    made = things.hub.ask("POST", collection, things.body(owner), 201)
    return f"{collection}/{made['id']}"


BEFORE_A_DATABASE = pytest.mark.parametrize("running", OF_WALKS, indirect=True)
"""What is refused before a database is asked is the same on both."""


@BEFORE_A_DATABASE
@pytest.mark.parametrize("row", writers(), ids=str)
def test_bodies_that_are_none(row: PathRow, running: RunningHub, things: Things) -> None:
    place = place_of(row, things)
    before = count_of(running, row.path)
    deep = 100_000
    for body, status in (
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"name": "\xff"}', 400),
        (b'{"name": NaN}', 400),
        (b"[" * deep + b"]" * deep, 422),
        (b'{"a": ' * deep + b"1" + b"}" * deep, 400),
        (b'{"name": ' + b"[" * deep + b"]" * deep + b"}", 400),
        (b"null", 422),
        (b'"text"', 422),
        (b"7", 422),
        (b"[[]]", 422),
        (b'{"\x00": 1}', 400),
        (b'{"__proto__": {"is_active": true}, "__class__": "x"}', 422),
    ):
        answer = send(running, row.method, place, body)
        problem_of(answer)
        assert answer.status in {status, 400, 422}, (body[:20], answer.status)
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = send(running, row.method, place, b"name=x", kind)
        problem_of(answer)
    assert count_of(running, row.path) == before


@BEFORE_A_DATABASE
@pytest.mark.parametrize("row", writers(), ids=str)
def test_ten_mebibytes(row: PathRow, running: RunningHub, things: Things) -> None:
    place = place_of(row, things)
    before, peak = count_of(running, row.path), running.peak_bytes()
    text = b'{"name": "' + b"x" * 10 * MEBI + b'"}'
    pieces = (text[start : start + 65536] for start in range(0, len(text), 65536))
    for body in (text, pieces):
        answer = send(running, row.method, place, body)
        assert answer.status == 413
        problem_of(answer)
    # Within the bound, and nothing that fits.
    answer = send(running, row.method, place, b'{"name": "' + b"x" * 7 * MEBI + b'"}')
    assert answer.status == 422
    assert len(json.dumps(problem_of(answer))) < 4096
    assert count_of(running, row.path) == before
    assert running.peak_bytes() - peak < 64 * MEBI


TEXTS = [row for row in FIELDS if row.kind == "text" and not row.read_only]
ON_EACH = [
    (kind, row)
    for kind in BOTH
    for row in TEXTS
    if kind in OF_WALKS or row.name == next(text.name for text in TEXTS if text.owner == row.owner)
]
"""What PostgreSQL keeps of a text hangs on the text: of each object one field is enough."""


@pytest.mark.parametrize(("running", "row"), ON_EACH, ids=str, indirect=["running"])
def test_texts(row: FieldRow, running: RunningHub, things: Things) -> None:
    path = COLLECTIONS[row.owner]
    for character in CONTROLS:
        if row.name in FREE_TEXT and character.isspace():
            continue
        if row.name in FREE_TEXT and "\r\n" in character:
            continue
        body = {**things.body(row.owner), row.name: character}
        assert row.name in running.wrong_fields("POST", path, body), repr(character)
    surrogate = json.dumps({**things.body(row.owner), row.name: "X"}).replace('"X"', '"\\ud800"')
    problem_of(send(running, "POST", path, surrogate.encode()))
    most = row.most if row.most is not None else 50
    # Four bytes each in UTF-8: what is stored comes back, or is refused by name; characters are counted, not bytes.
    for text in ("\U0001d50a🔥"[:most], "🔥" * most, "\u202e\u200dabc"[:most], *(trick[:most] for trick in TRICKS)):
        answer = running.client.post(path, json={**things.body(row.owner), row.name: text})
        if answer.status_code == 201:
            made = answer.json()
            assert row.write_only or made[row.name] == text
            assert running.ask("GET", f"{path.rstrip('/')}/{made['id']}", status=200) == made
            if "/meter-readings" not in path:
                running.ask("DELETE", f"{path.rstrip('/')}/{made['id']}", status=204)
        elif answer.status_code == 409:
            assert "same" in answer.json()["detail"]
        else:
            assert row.name in {error["field"] for error in answer.json()["errors"]}, text


NUMERIC = [row for row in FIELDS if row.kind in {"integer", "decimal"} and not row.read_only]


@pytest.mark.parametrize("row", NUMERIC, ids=str)
def test_numbers(row: FieldRow, running: RunningHub, things: Things) -> None:
    path = COLLECTIONS[row.owner]
    for text in NUMBERS:
        body = {**things.body(row.owner), row.name: text}
        assert running.wrong_fields("POST", path, body) == {row.name}, text
    for bare in ("1e40", "1" * 41, "1e999999999", str(2**31), str(-(2**63)), "-1" if row.name == "port" else "1e400"):
        if row.kind == "decimal" and bare in {str(2**31), str(-(2**63))}:
            continue
        text = json.dumps({**things.body(row.owner), row.name: "X"}).replace('"X"', bare)
        answer = send(running, "POST", path, text.encode())
        problem = problem_of(answer)
        assert {error["field"] for error in problem["errors"]} == {row.name}, bare


TIMES = [row for row in FIELDS if row.kind == "time" and not row.read_only]


@pytest.mark.parametrize("row", TIMES, ids=str)
def test_instants(row: FieldRow, running: RunningHub, things: Things) -> None:
    path = COLLECTIONS[row.owner]
    for text in INSTANTS:
        body = {**things.body(row.owner), row.name: text}
        assert running.wrong_fields("POST", path, body) == {row.name}, text
    answer = running.client.post(path, json={**things.body(row.owner), row.name: "9999-12-31T23:59:59Z"})
    if row.owner == "MeterReadings":
        assert answer.status_code == 422
    else:
        assert answer.status_code == 201
        assert answer.json()[row.name] == "9999-12-31T23:59:59Z"


LISTS = [row for row in PATHS if row.method == "GET" and "{id}" not in row.path]


@pytest.mark.parametrize("row", LISTS, ids=str)
def test_queries(row: PathRow, running: RunningHub) -> None:
    for name in row.filters:
        for text in (*TRICKS, "🔥", "x" * 8000, "\x01", "\n"):
            answer = running.client.get(row.path, params={name: text})
            assert answer.status_code in {200, 422}, (name, text)
            if answer.status_code == 200:
                assert answer.json()["count"] == 0, (name, text)
    for query in (
        "limit=1e9",
        "limit=99999999999999999999",
        "offset=-0",
        "limit=%00",
        "%00=1",
        "limit=1&colour",
        "x" * 60_000,
    ):
        answer = running.client.get(f"{row.path}?{query}")
        assert answer.status_code in {200, 400, 414, 422, 431}, query
    for query in ("limit=1;DROP", "offset=1' OR 1=1"):
        running.ask("GET", f"{row.path}?{query}", status=422)


@BEFORE_A_DATABASE
@pytest.mark.parametrize("path", COLLECTIONS.values())
def test_paths(path: str, running: RunningHub) -> None:
    bare = path.rstrip("/")
    for strange in (
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e",
        "%00",
        "' OR 1=1",
        "1;DROP TABLE tokens",
        "%f0%9f%94%a5",
        "%ff",
        "1e3",
        "-1",
        "9" * 400,
        "0x1",
        "x" * 20_000,
        str(uuid.uuid4()).replace("-", "%2d") + "%20",
    ):
        for method in ("GET", "DELETE"):
            answer = running.client.request(method, f"{bare}/{strange}")
            assert answer.status_code in {404, 405, 414}, (method, strange, answer.status_code)
            assert answer.headers["content-type"] == "application/problem+json"
    for method in ("TRACE", "PROPFIND", "PUT", "DELETE"):
        answer = running.client.request(method, bare)
        assert answer.status_code == 405
    assert running.client.get(f"/{bare}").status_code in {200, 404}
    assert running.client.get(f"{bare}//").status_code in {200, 404}


def raw(running: RunningHub, request: bytes) -> bytes:
    """Send bytes to the hub; return what it answers until it hangs up or is silent."""
    place = urlsplit(running.url)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=2) as link:
        link.sendall(request)
        found = b""
        try:
            while piece := link.recv(65536):
                found += piece
        except TimeoutError:
            pass
        return found


def test_headers(running: RunningHub) -> None:
    key = f"Authorization: Token {running.token}\r\n".encode()
    start = b"GET /v1/organizations?limit=1 HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n"
    begun = b"POST /v1/organizations HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n" + key
    refused = (
        start + b"Authorization: Token " + b"x" * 100 + b"\r\n\r\n",
        start + b"Authorization: " + b"x" * 60_000 + b"\r\n\r\n",
        start + b"Authorization: Token \xff\xfe\r\n\r\n",
        start + b"Authorization: Basic YWRtaW46YWRtaW4=\r\n\r\n",
        start + b"Authorization: Token\r\n\r\n",
        start + b"Authorization:\r\n\r\n",
        start + b"X-Forwarded-User: admin\r\nX-Original-URL: /health\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        begun + b"Content-Length: -1\r\n\r\n",
        begun + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n{}  ",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    )  # fmt: skip
    for request in refused:
        status = raw(running, request).split(b" ")[1:2]
        assert status == [] or status[0][:1] == b"4", (request[:200], status)
    # A host and a path that a client made up are its own affair; what is answered is the same.
    odd = b"GET /v1/organizations?limit=1 HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n" + key + b"\r\n"
    assert raw(running, odd).startswith(b"HTTP/1.1 200")
    smuggled = (
        begun
        + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/tokens HTTP/1.1\r\n\r\n"
    )  # fmt: skip
    answers = raw(running, smuggled)
    assert answers.count(b"HTTP/1.1") <= 1
    assert b"HTTP/1.1 4" in answers or not answers


def test_a_list_of_new_readings_is_taken_whole_or_not_at_all(running: RunningHub, things: Things) -> None:
    path = "/v1/metering/new-meter-readings"
    good = {"meter": things.meter_name, "series": "1-0:1.8.0", "timestamp": things.instant(), "value": "1"}
    before = count_of(running, path)
    bad: object
    for bad in (
        {**good, "timestamp": "2026-03-02T06:00:00"},
        {**good, "timestamp": "9999-12-31T23:59:59Z"},
        {**good, "value": "NaN"},
        {**good, "value": "1e40"},
        {**good, "value": 10**40},
        {**good, "meter": "\x01"},
        {**good, "meter": "x" * 51},
        {**good, "series": ""},
        {**good, "series": "1-0:2.8.0"},
        {**good, "organization": str(uuid.uuid4())},
        {**good, "colour": "red"},
        [],
        None,
    ):
        problem = running.ask("POST", path, [good, bad], 422)
        assert all(error["field"].startswith("1") for error in problem["errors"]), problem
    problem = running.ask("POST", path, [good] * 10_001, 422)
    assert "10001" in problem["detail"]
    assert count_of(running, path) == before


def test_secrets_are_said_nowhere(running: RunningHub, things: Things) -> None:
    path = COLLECTIONS["MeterSecurityKeyCollection"]
    meter = things.new_meter()["id"]
    names = [row.name for row in fields_of("MeterSecurityKeyCollection") if row.write_only]
    good = dict.fromkeys(names, SECRET[:8])
    answers = [running.client.post(path, json={"meter": meter, **good})]
    assert answers[0].status_code == 201
    answers += [running.client.get(f"{path}/{answers[0].json()['id']}"), running.client.get(path)]
    for name in names:
        for wrong in (SECRET * 9, SECRET[:4] + "\x01", [SECRET], {"a": SECRET}):
            answers.append(running.client.post(path, json={"meter": meter, **good, name: wrong}))
            assert answers[-1].status_code == 422
    answers.append(running.client.post(path, content=f'{{"meter": "{SECRET}"'))
    answers.append(running.client.get("/v1/organizations", headers={"Authorization": f"Token {SECRET}"}))
    answers.append(running.client.get("/v1/organizations", headers={"Authorization": f"{SECRET} x"}))
    for answer in answers:
        assert SECRET[:8] not in answer.text
    log = running.log()
    assert SECRET[:8] not in log
    assert running.token not in log
    assert "request_failed" not in log, log[log.index("request_failed") - 200 :][:2000]
