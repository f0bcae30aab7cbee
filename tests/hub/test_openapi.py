"""The OpenAPI document says of every operation what it takes and how it refuses, and operations keep to it."""

import base64
import datetime as dt
import hashlib
import re
from typing import Any, cast

import httpx
import pytest

from hub.deprecated import DEPRECATED, Deprecated
from hub.problems import PROBLEM_JSON
from tests.parts.databases import BOTH, database_url, engine
from tests.parts.rest import Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

pytestmark = pytest.mark.parametrize("database_url", BOTH[:1], indirect=True)
"""The document is the same, whatever is behind it."""

Document = dict[str, Any]

UNKNOWN = "no_such_parameter"
ID = "e3e70682-c209-4cac-a29f-6fbed82c07cd"
THERE_ARE = re.compile(r"no such filter; there are (.*)$")


@pytest.fixture
async def document(rest: Rest) -> Document:
    return cast("Document", (await rest.client.get("/schema/openapi.json")).json())


def operations(document: Document) -> list[tuple[str, str, Document]]:
    methods = ("get", "post", "put", "patch", "delete")
    return [
        (path, method, item[method]) for path, item in document["paths"].items() for method in methods if method in item
    ]


def queried(operation: Document) -> set[str]:
    return {one["name"] for one in operation["parameters"] if one["in"] == "query"}


def concrete(path: str, operation: Document, row: str) -> str:
    """Put ids into a path, each of the kind that it has there."""
    kinds = {one["name"]: one["schema"]["type"] for one in operation["parameters"] if one["in"] == "path"}
    return re.sub(r"\{([^}]*)\}", lambda found: "1" if kinds[found.group(1)] == "integer" else row, path)


async def test_every_parameter_that_an_operation_knows_is_in_the_document_and_no_other(
    rest: Rest, document: Document
) -> None:
    fleet = await create_fleet(rest)
    wrong = {}
    for path, method, operation in operations(document):
        if method != "get" or not path.startswith("/v1"):
            continue
        answer = await rest.client.get(concrete(path, operation, fleet.meter), params={UNKNOWN: "1"})
        errors = answer.json().get("errors", []) if answer.is_client_error else []
        told = [THERE_ARE.search(error["text"]) for error in errors if error["field"] == UNKNOWN]
        names = set(told[0].group(1).split(", ")) - {""} if told and told[0] else set()
        if names != queried(operation) and (told or queried(operation)) and answer.status_code != httpx.codes.NOT_FOUND:
            wrong[path] = (sorted(names), sorted(queried(operation)))
    assert not wrong


async def test_parameters_of_lists_are_of_the_kind_that_the_document_says(rest: Rest, document: Document) -> None:
    wrong = []
    for path, method, operation in operations(document):
        window = {"limit", "offset"} <= queried(operation)
        if method != "get" or not path.startswith("/v1") or not window or "{" in path:
            continue
        for told in operation["parameters"]:
            schema = told["schema"]
            if told["in"] != "query" or schema["type"] != "string" or "enum" in schema or told["name"] == "cursor":
                continue
            taken = [
                not (await rest.client.get(path, params={told["name"]: text})).json().get("errors", [])
                for text in ("no id and no time", ID, "2026-01-01T00:00:00Z")
            ]
            # Words that only few of are known are text too: none of the three is taken then.
            wanted = {"uuid": [False, True, False], "date-time": [False, False, True]}.get(schema.get("format", ""))
            if taken != wanted and (wanted is not None or any(taken) is not all(taken)):
                wrong.append(f"{path}?{told['name']}: {schema}, but {taken}")
    assert not wrong


async def test_every_refusal_has_the_one_form(document: Document) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status >= "400" and not path.startswith("/health"):
                assert list(answer["content"]) == [PROBLEM_JSON], f"{method} {path}: {status}"
        assert ("401" in operation["responses"]) is (operation.get("security") != [] or path.endswith("/token"))


async def test_the_header_allow_names_every_method_that_the_document_has(rest: Rest, document: Document) -> None:
    methods: dict[str, set[str]] = {}
    for path, method, operation in operations(document):
        methods.setdefault(concrete(path, operation, ID), set()).add(method.upper())
    for path, wanted in methods.items():
        answer = await rest.client.options(path)
        assert set(answer.headers["allow"].split(", ")) == wanted | {"OPTIONS"}, path


def decimals(document: Document) -> set[str]:
    """Return the fields of objects that are decimals by the words of this project, which are no floats."""
    words = ("value", "si_multiplier", "target_percent", "consumption")
    found = set()
    for name, schema in document["components"]["schemas"].items():
        for field, told in schema.get("properties", {}).items():
            if field in words and "number" in str(told):
                found.add(f"{name}.{field}")
    return found


async def test_decimals_travel_as_text(document: Document) -> None:
    """A number in JSON is a float to most who read it."""
    assert decimals(document) == set()
    for name in ("MeterReadings", "StagedMeterReading", "MeterReadingsSeries"):
        fields = document["components"]["schemas"][name]["properties"]
        assert "string" in str(fields.get("value", fields.get("si_multiplier")))


async def test_the_page_for_people_is_whole_and_loads_nothing(rest: Rest, document: Document) -> None:
    answer = await rest.client.get("/schema/swagger")
    page = answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert [path for path in document["paths"] if f">{path}</code>" not in page] == []
    assert [name for name in document["components"]["schemas"] if f"<code>{name}</code>" not in page] == []
    assert not re.search(r"<script|\bsrc=|https?:|@import|url\(|\bon\w+=", page)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    anchors = set(re.findall(r'href="#([^"]*)"', page))
    assert anchors <= set(re.findall(r'id="([^"]*)"', page))


async def test_what_goes_is_announced(rest: Rest, monkeypatch: pytest.MonkeyPatch) -> None:
    since, until = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    goes = Deprecated(since, until, "https://hub.example/docs")
    monkeypatch.setitem(cast("dict[tuple[str, str], Deprecated]", DEPRECATED), ("GET", "/v1/gateways"), goes)
    for path in ("/v1/gateways", "/v1/gateways/"):
        headers = (await rest.client.get(path)).headers
        assert headers["Deprecation"] == "@1767225600"
        assert headers["Sunset"] == "Fri, 01 Jan 2027 00:00:00 GMT"
        assert '<https://hub.example/docs>; rel="deprecation"' in headers["Link"]
    assert "Deprecation" not in (await rest.client.get("/v1/runs")).headers
    page = (await rest.client.get("/schema/openapi.json")).json()
    assert page["paths"]["/v1/gateways"]["get"]["deprecated"] is True
    with pytest.raises(ValueError, match="365 days"):
        Deprecated(since, since + dt.timedelta(days=100), "")
