"""What the OpenAPI document says beside what the framework finds out by itself: queries, refusals, and what is open.

Rules. Refusals have one form (``hub.problems``) and follow from the kind of operation, so they stand here once and at
no handler. Query parameters are named where they are read; here is of what kind each is. A test asks every operation
for a parameter that it does not have, and compares what it names then with what stands here.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request
from litestar.openapi.plugins import JsonRenderPlugin

from hub.completeness import SCOPES
from hub.deprecated import DEPRECATED
from hub.exports import FORMATS
from hub.latest_readings import PARAMETERS as LATEST
from hub.paging import LARGEST_LIMIT, Condition
from hub.problems import PROBLEM_JSON, ProblemDocument, Wrong
from hub.readings import RESOURCE as READINGS
from hub.received_readings import PARAMETERS as RECEIVED
from hub.resources import Resource

__all__ = ["DescribedJson", "complete"]

Document = dict[str, Any]

_ID: Final = {"type": "string", "format": "uuid"}
_IDS: Final = {"type": "string", "description": "One id, or several with commas between them."}
_INSTANT: Final = {"type": "string", "format": "date-time"}
_FLAG: Final = {"type": "boolean"}
_TEXT: Final = {"type": "string"}


def _number(least: int, largest: int) -> Document:
    return {"type": "integer", "minimum": least, "maximum": largest}


_KINDS: Final[Mapping[str, Document]] = {
    **dict.fromkeys(
        ("organization", "gateway", "group", "task_group", "meter_device", "network_interface", "series", "task"), _ID
    ),
    **dict.fromkeys(("command", "command_batch", "batch", "meter", "request", "object", "user", "token"), _ID),
    **dict.fromkeys(("start", "end", "start_time", "end_time", "received_since"), _INSTANT),
    **dict.fromkeys(("online", "is_active", "reasons", "dry_run", "bom", "with_readings"), _FLAG),
    **dict.fromkeys(("readings_days", "events_days", "staged_days", "audit_days"), _number(1, 36500)),
    "days": _number(1, 366),
    "wait": _number(0, 300),
    "longer_than": _number(0, 366 * 86_400),
    "limit": _number(1, 2**31 - 1),
    "offset": _number(0, 2**31 - 1),
}
"""Of what kind a parameter is, by its name; text unless said here."""

_TRIED: Final = (("00000000-0000-0000-0000-000000000000", _ID), ("2000-01-01T00:00:00Z", _INSTANT))
"""What is given to a filter to find out what it takes."""

_SAID: Final[Mapping[str, str]] = {
    "limit": f"How many of the list; at most {LARGEST_LIMIT} are answered.",
    "offset": "How many of the list are left out before.",
    "cursor": "Where a walk goes on that an empty cursor begins: what next of the answer says.",
    "ordering": "What the list is ordered by; with a minus the other way round.",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """The query of an operation: parameters by name, those without which it is refused, and kinds of its own."""

    names: Collection[str]
    required: Collection[str] = ()
    kinds: Mapping[str, Document] = dataclasses.field(default_factory=dict)

    def described(self) -> list[Document]:
        """Return the parameters as the document has them."""
        return [
            {
                "name": name,
                "in": "query",
                "schema": self.kinds.get(name, _KINDS.get(name, _TEXT)),
                "required": name in self.required,
                **({"description": _SAID[name]} if name in _SAID else {}),
            }
            for name in self.names
        ]


_EXPORT: Final = "/v1/metering/readings/export"
_RECEIVED: Final = "/v1/metering/readings/received"
_CONSUMPTION: Final = ("meter_device", "series", "start_time", "end_time")
_SHEET: Final[Mapping[str, Document]] = {
    "organization": {"type": "string", "description": "Its name or id."},
    "separator": {"type": "string", "enum": ["comma", "semicolon", "tab"]},
    "on_error": {"type": "string", "enum": ["stop", "skip"]},
}
_OWN: Final[Mapping[tuple[str, str], Asked]] = {
    ("get", "/v1/completeness"): Asked((*SCOPES, "start", "end", "reasons")),
    ("get", "/v1/completeness/gaps"): Asked((*SCOPES, "start", "end", "state", "reason", "limit", "offset")),
    ("get", "/v1/completeness/slots"): Asked(
        ("meter_device", "series", "start", "end"), required=("meter_device", "series")
    ),
    ("get", "/v1/completeness/strip"): Asked(("gateway", "group", "meter_device", "days", "end")),
    ("get", "/v1/deadlines/{row_id}/results"): Asked(("start", "end", "by")),
    ("get", "/v1/deadlines/{row_id}/notifications"): Asked(
        ("state", "type", "start_time", "end_time", "limit", "offset")
    ),
    ("get", "/v1/metering/device-periods/consumption"): Asked(_CONSUMPTION, required=_CONSUMPTION),
    ("get", "/v1/retention-policies/preview"): Asked(
        ("organization", "readings_days", "events_days", "staged_days", "audit_days")
    ),
    ("get", _EXPORT): Asked((*READINGS.filters, "format"), kinds={"format": {"type": "string", "enum": list(FORMATS)}}),
    ("get", "/v1/metering/readings/latest"): Asked(LATEST, required=LATEST[:1], kinds=dict.fromkeys(LATEST, _IDS)),
    ("get", _RECEIVED): Asked(RECEIVED),
    ("get", "/v1/commands/{row_id}"): Asked(("wait",)),
    ("get", "/v1/commands/events"): Asked(("gateway", "meter_device", "batch", "state")),
    ("get", "/v1/command-batches/{row_id}/refusals"): Asked(("reason", "limit", "offset")),
    ("get", "/v1/gateways/{row_id}/plans/diff"): Asked(("from", "to")),
    **{
        (method, f"/v1/sheets/{name}"): Asked(names, kinds=_SHEET)
        for method, names in (
            ("get", ("organization", "separator", "bom")),
            ("post", ("dry_run", "on_error", "organization")),
        )
        for name in ("meters", "assignments", "keys")
    },
}
"""Queries of operations that are no resource's list."""

_PROBLEMS: Final[Mapping[int, str]] = {
    400: "The body, or the request itself, cannot be read.",
    401: "Nobody known asks.",
    403: "Who asks may not do this.",
    404: "There is no such thing, or it is another organization's.",
    409: "It does not fit the state of things now.",
    413: "The body is larger than the hub takes.",
    415: "The body is of another kind than expected.",
    422: "It can be read, and is wrong; each field is named.",
    429: "It was tried too often; the header says when to come back.",
    503: "The database does not answer, or the hub is not set up for this; the header says when to come back.",
}
_WITH_BODY: Final = frozenset({"post", "put", "patch"})
_METHODS: Final = (*sorted(_WITH_BODY), "get", "delete")
_SIGNING_IN: Final = "/v1/auth/jwt/token"
_PROBLEM: Final = ProblemDocument.__name__


def _refusals(method: str, path: str, *, body: bool, closed: bool) -> Iterator[int]:
    """Yield the statuses with which an operation may refuse, by what kind of operation it is."""
    yield from (400, 422, 503)
    if closed:
        yield from (401, 403)
    if "{" in path or body:
        yield 404
    if method != "get" or path == _RECEIVED:
        yield 409
    if body:
        yield from (413, 415)
    if path == _SIGNING_IN:
        yield from (401, 429)
    if method == "get" and path.startswith("/v1/command") and path.endswith("/events"):
        # Streams, of which there are only so many, from an event on that must be known.
        yield from (409, 429)
    if path == _EXPORT:
        yield 429


def _headers(status: int) -> Document:
    name = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}.get(status)
    return {} if name is None else {"headers": {name: {"schema": _TEXT}}}


def complete(document: Document, resources: Sequence[Resource], open_paths: Sequence[str]) -> Document:
    """Complete the document in place, and return it; what is complete already stays as it is.

    ``open_paths`` are the patterns of paths that need no token.
    """
    asked = {("get", one.path): _query_of(one) for one in resources if "list" in one.operations} | dict(_OWN)
    schemas = document["components"]["schemas"]
    schemas[_PROBLEM] = msgspec.json.schema(ProblemDocument)["$defs"][_PROBLEM]
    problem = {PROBLEM_JSON: {"schema": {"$ref": f"#/components/schemas/{_PROBLEM}"}}}
    for path, item in document["paths"].items():
        closed = not any(re.search(pattern, path) for pattern in open_paths)
        for method in _METHODS:
            operation = item.get(method)
            if operation is None:
                continue
            if not closed:
                operation["security"] = []
            if (method.upper(), path) in DEPRECATED:
                operation["deprecated"] = True
            parameters = operation.setdefault("parameters", [])
            known = {one["name"] for one in parameters}
            more = asked[method, path].described() if (method, path) in asked else []
            parameters += [one for one in more if one["name"] not in known]
            answers = operation["responses"]
            # The framework's own, which nobody answers here.
            answers.pop(str(int(HTTPStatus.BAD_REQUEST)), None)
            refusals = [*_refusals(method, path, body="requestBody" in operation, closed=closed)]
            if (method, path) in _OWN and any(one["schema"] is _ID for one in more):
                refusals.append(404)
            for status in refusals:
                answer = {"description": _PROBLEMS[status], "content": problem, **_headers(status)}
                answers.setdefault(str(status), answer)
            if path == _EXPORT:
                answers["200"]["content"]["application/jsonl"] = {"schema": _TEXT}
            if str(int(HTTPStatus.PRECONDITION_FAILED)) in answers:
                answers[str(int(HTTPStatus.PRECONDITION_FAILED))]["content"] = problem
    return document


def _query_of(resource: Resource) -> Asked:
    """Return the query of a resource's list."""
    names = [*resource.filters, *(("ordering",) if resource.orderings else ()), "limit", "offset", "cursor"]
    orders = ["", *(f"{sign}{name}" for name in resource.orderings for sign in ("", "-"))]
    # Of one name there are filters by id and by text: found by trying, which cannot be forgotten.
    kinds = {name: found for name, by in resource.filters.items() if (found := _kind_of(name, by)) is not None}
    return Asked(names, kinds={**kinds, "ordering": {"type": "string", "enum": orders}})


def _kind_of(name: str, condition: Condition) -> Document | None:
    """Return what a filter takes, if it is text, an id or an instant."""
    if _takes(condition, name, "-"):
        return _TEXT
    return next((kind for text, kind in _TRIED if _takes(condition, name, text)), None)


def _takes(condition: Condition, name: str, text: str) -> bool:
    try:
        condition(name, text)
    except Wrong:
        return False
    return True


class DescribedJson(JsonRenderPlugin):
    """Shows the document complete."""

    def __init__(self, resources: Sequence[Resource], open_paths: Sequence[str], *, path: Sequence[str]) -> None:
        super().__init__(path=path)
        self._resources, self._open_paths = resources, open_paths

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """Return the document as JSON."""
        return super().render(request, complete(openapi_schema, self._resources, self._open_paths))
