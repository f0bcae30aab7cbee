"""What can go wrong between a program and a hub, as exceptions whose text is for people.

    HubError
    ├── SettingsError   it is not said which hub is meant, or with which token
    ├── NotReachable    nobody answered, not in time, or not now (502, 503, 504)
    ├── NotClear        a name that nothing has, or that several things have
    └── Refused         the hub answered with a problem document: status, detail, and the fields that are wrong
        ├── NotAllowed  401 and 403
        ├── NotThere    404
        └── Changed     412: somebody changed it since its ETag was read

No text of an exception holds a token or a password.
"""

import http.client
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

import msgspec


class WrongField(NamedTuple):
    """One field that the hub refuses, and why. ``field`` is a path such as ``task_kwargs.address``."""

    field: str
    text: str


class HubError(Exception):
    """Something went wrong between this program and the hub."""


class SettingsError(HubError):
    """It is not said which hub is meant, or who asks."""


class NotReachable(HubError):  # noqa: N818 - said as a sentence: raise NotReachable(...)
    """The hub does not answer, not in time, or not now. ``retry_after`` is how many seconds it asks for, if it does."""

    def __init__(self, text: str, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class NotClear(HubError):  # noqa: N818 - as above
    """A name that nothing has, or that several things have."""


class Refused(HubError):  # noqa: N818 - as above
    """The hub answered that it does not do this, and why.

    ``errors`` has every field that is wrong; ``retry_after`` is in seconds where the hub says it (429).
    """

    def __init__(self, status: int, detail: str, errors: list[WrongField], retry_after: float | None = None) -> None:
        super().__init__(_said(detail, errors))
        self.status = status
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after


class NotAllowed(Refused):
    """The token is not valid, or does not open this."""


class NotThere(Refused):
    """There is no such thing, or it is another organization's."""


class Changed(Refused):
    """Somebody changed it since its ETag was read: read it again."""


class _Problem(msgspec.Struct):
    """A problem document (RFC 9457), as far as it is one."""

    title: str = ""
    detail: str = ""
    errors: list[dict[str, str]] = []


def _said(detail: str, errors: list[WrongField]) -> str:
    unsaid = [f"{error.field}: {error.text}" for error in errors if error.text not in detail]
    return "; ".join([detail, *unsaid])


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> HubError:
    """Return the exception for an answer of 400 and above; ``headers`` by lower-case name."""
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.MsgspecError:
        # Whoever stands before the hub, such as a proxy, answers in pages of its own.
        problem = _Problem()
    phrase = http.client.responses.get(status, "")
    detail = problem.detail or problem.title or f"the answer was {status} {phrase}"
    errors = [WrongField(error.get("field", ""), error.get("text", "")) for error in problem.errors]
    after = headers.get("retry-after", "")
    seconds = float(after) if after.isdigit() else None
    if status in {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}:
        return NotReachable(detail, seconds)
    kinds = {
        HTTPStatus.UNAUTHORIZED: NotAllowed,
        HTTPStatus.FORBIDDEN: NotAllowed,
        HTTPStatus.NOT_FOUND: NotThere,
        HTTPStatus.PRECONDITION_FAILED: Changed,
    }
    kind = next((made for code, made in kinds.items() if code == status), Refused)
    return kind(status, detail, errors, seconds)
