"""What the REST API answers when it does not do what was asked: problem documents (RFC 9457).

400 unreadable, 401 who are you, 403 not for you, 404 no such thing, 409 conflicts with the state, 412 not what was seen
any more, 422 readable but wrong, 429 too often, 503 not now.
A 422 names every wrong field in ``errors``; the sentence in ``detail`` names them too, for clients that show only that.
"""

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from sqlalchemy.exc import DBAPIError

from hub.database import is_out_of_strength

PROBLEM_JSON = "application/problem+json"
_RETRY_AFTER = "5"

_log = structlog.get_logger(__name__)


class WrongField(NamedTuple):
    """One field that is wrong, and why. ``field`` is a path such as ``task_kwargs.address``."""

    field: str
    text: str


class ProblemDocument(msgspec.Struct, frozen=True):
    """The body of every error."""

    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] = []
    type: str = "about:blank"


class ProblemError(Exception):
    """The request cannot be answered as asked."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors: list[WrongField] = []
        self.headers: dict[str, str] = {}


class Unreadable(ProblemError):  # noqa: N818 - said as a sentence: raise Unreadable(...)
    """The body is not JSON."""

    status = HTTPStatus.BAD_REQUEST


class NotAuthenticated(ProblemError):  # noqa: N818 - as above
    """No valid token came with the request; ``challenge`` says which kinds are taken."""

    status = HTTPStatus.UNAUTHORIZED

    def __init__(self, detail: str, challenge: str = "Token") -> None:
        super().__init__(detail)
        self.headers = {"WWW-Authenticate": challenge}


class Forbidden(ProblemError):  # noqa: N818 - as above
    """Who asks is known, and may not do this, whether or not there is such a thing."""

    status = HTTPStatus.FORBIDDEN


class TooOften(ProblemError):  # noqa: N818 - as above
    """The same was tried too often; ``seconds`` from now it may be tried again."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, detail: str, seconds: float) -> None:
        super().__init__(detail)
        self.headers = {"Retry-After": str(max(1, math.ceil(seconds)))}


class Unavailable(ProblemError):  # noqa: N818 - as above
    """This process cannot do that now, or is not set up for it."""

    status = HTTPStatus.SERVICE_UNAVAILABLE


class NotFound(ProblemError):  # noqa: N818 - as above
    """There is no such thing."""

    status = HTTPStatus.NOT_FOUND


class Conflict(ProblemError):  # noqa: N818 - as above
    """What is asked does not fit the state of things; it may fit later."""

    status = HTTPStatus.CONFLICT


class Outdated(ProblemError):  # noqa: N818 - as above
    """What is to be changed is not the version any more that the client has seen."""

    status = HTTPStatus.PRECONDITION_FAILED


class TooLarge(ProblemError):  # noqa: N818 - as above
    """The body is larger than the hub takes."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class Wrong(ProblemError):  # noqa: N818 - as above
    """The request is readable, but fields of it are wrong."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, *errors: WrongField) -> None:
        super().__init__("; ".join(f"{error.field}: {error.text}" for error in errors))
        self.errors = list(errors)


def wrong(field: str, text: str) -> Wrong:
    """Return the error for one wrong field."""
    return Wrong(WrongField(field, text))


def _respond(
    status: int, detail: str, errors: Sequence[WrongField], headers: dict[str, str]
) -> Response[ProblemDocument]:
    return Response(
        ProblemDocument(
            title=HTTPStatus(status).phrase,
            status=status,
            detail=detail,
            errors=[error._asdict() for error in errors],
        ),
        status_code=status,
        media_type=PROBLEM_JSON,
        headers=headers,
    )


def answer_problem(_request: Request[Any, Any, Any], error: ProblemError) -> Response[ProblemDocument]:
    """Answer with the problem that an operation raised."""
    return _respond(error.status, error.detail, error.errors, error.headers)


def answer_bug(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemDocument]:
    """Answer what nobody foresaw without saying what it was, which may be a secret; the log has it all."""
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return _respond(HTTPStatus.INTERNAL_SERVER_ERROR, "the hub failed to answer; its log says why", [], {})


def answer_unreachable(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemDocument]:
    """Answer that the database cannot be reached now; the same request may do later."""
    cause = f"{type(error).__name__}: {error}".partition("\n")[0][:500]
    _log.error("database_failed", method=request.method, path=request.url.path, cause=cause)
    detail = "the hub's database does not answer; try again"
    return _respond(HTTPStatus.SERVICE_UNAVAILABLE, detail, [], {"Retry-After": _RETRY_AFTER})


def answer_database(request: Request[Any, Any, Any], error: DBAPIError) -> Response[ProblemDocument]:
    """Answer for a database that has no strength to do what was asked, or for our bug."""
    return (answer_unreachable if is_out_of_strength(error) else answer_bug)(request, error)


def answer_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[ProblemDocument]:
    """Answer what the framework itself refuses (no such path, method not allowed) in the same form."""
    detail = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.method} is not possible at {request.url.path}"
    return _respond(error.status_code, detail, [], dict(error.headers or {}))
