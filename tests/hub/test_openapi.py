"""The OpenAPI document says of every operation what it takes and how it refuses, and operations keep to it."""

import re
from typing import Any, cast

import httpx
import pytest

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
