"""Entity tags (RFC 9110, 8.8.3): by which a client says which version of an object it has seen.

A tag has two halves, ``"EDITED.SHOWN"``, each a digest. *Edited* is of what people change: the row's own columns as
they are stored, and what it is linked to. *Shown* is of the answer, which also has what gateways tell and the names of
other objects. ``If-None-Match`` compares both, so a copy that a client kept is never taken for a newer one.
``If-Match`` compares the first half: who has seen the configuration may edit it, whatever a gateway has told since, and
nobody's edit is lost. Digests of contents, not of times: two edits in one instant have two tags.
"""

import base64
import dataclasses
import decimal
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Response
from litestar.openapi.spec import OpenAPIHeader, OpenAPIMediaType, OpenAPIResponse, Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.status_codes import HTTP_304_NOT_MODIFIED, HTTP_412_PRECONDITION_FAILED

from hub.problems import PROBLEM_JSON, Outdated
from hub.state import HubRequest

_BYTES = 12
_HALVES = re.compile(r'"([A-Za-z0-9_-]{16})\.[A-Za-z0-9_-]{16}"')
_LISTED = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
ANY = "*"
"""What stands in the headers for any version."""


Stored = Mapping[str, Any]
"""What of an object counts as edited: stored values by the names of columns and links."""


def tag_of(stored: Stored, shown: msgspec.Struct) -> str:
    """Return the tag of an object whose answer is ``shown``."""
    return f'"{_edited(stored)}.{_digest(shown)}"'


def check_seen(request: HubRequest, stored: Stored, what: str) -> None:
    """Let a request change an object, unless its ``If-Match`` tells of another version than the stored one.

    Call it in the transaction that changes it, when its row is locked. A weak tag names no version exactly and never
    matches. ``what`` names the object in the answer.

    Raises:
        Outdated: when somebody else was faster.
    """
    tags = _tags_in(request, "if-match")
    if tags is None or tags == [ANY]:
        return
    if _edited(stored) not in {found[1] for tag in tags if (found := _HALVES.fullmatch(tag))}:
        raise Outdated(f"{what} is no longer what If-Match names, and was not changed: read it again, then edit that")


def is_known(request: HubRequest, tag: str) -> bool:
    """Whether ``If-None-Match`` says that the client has this version already; there, weak tags count as well."""
    tags = _tags_in(request, "if-none-match")
    return tags is not None and (tags == [ANY] or tag in {one.removeprefix("W/") for one in tags})


def with_tag(shown: Any, tag: str) -> Response[Any]:  # noqa: ANN401 - any answer
    """Return the answer with its tag."""
    return Response(shown, headers={"ETag": tag})


def not_modified(tag: str) -> Response[Any]:
    """Return the answer to who has this version already."""
    return Response(b"", status_code=HTTP_304_NOT_MODIFIED, headers={"ETag": tag})


def _tags_in(request: HubRequest, header: str) -> list[str] | None:
    """Return the tags in a header, or ``["*"]``; None where it is not sent. What is no tag stands for no version."""
    lines = request.headers.getall(header, [])
    if not lines:
        return None
    text = ",".join(lines).strip()
    return [ANY] if text == ANY else [found[0] for found in _LISTED.finditer(text)]


def _edited(stored: Stored) -> str:
    return _digest({name: _same(value) for name, value in stored.items()})


def _digest(value: Any) -> str:  # noqa: ANN401 - whatever has a JSON form
    # The order of a document's fields is the database's own.
    found = hashlib.sha256(msgspec.json.encode(value, order="deterministic")).digest()
    return base64.urlsafe_b64encode(found[:_BYTES]).decode()


def _same(value: Any) -> Any:  # noqa: ANN401 - any column's value
    # 1E+2 comes back as 100 from a database.
    return format(value, "f") if isinstance(value, decimal.Decimal) else value


@dataclasses.dataclass
class Tagged(Operation):
    """What the OpenAPI document says of an operation whose answer is one object: it has a tag."""

    def __post_init__(self) -> None:
        """Add the header to what the framework found out."""
        for status, answer in (self.responses or {}).items():
            if status.startswith("2") and isinstance(answer, OpenAPIResponse):
                answer.headers = {**(answer.headers or {}), "ETag": _ETAG}


@dataclasses.dataclass
class Looked(Tagged):
    """What it says of reading one object: whoever has it already is told so."""

    def __post_init__(self) -> None:
        """Add request header and answer."""
        super().__post_init__()
        self.parameters = [*(self.parameters or []), _header("If-None-Match", "Tags of the copies that you have.")]
        self.responses = {
            **(self.responses or {}),
            str(HTTP_304_NOT_MODIFIED): OpenAPIResponse("You have this version.", headers={"ETag": _ETAG}),
        }


@dataclasses.dataclass
class Edited(Tagged):
    """What it says of changing or deleting one object: only the version that was seen, if that is asked for."""

    def __post_init__(self) -> None:
        """Add request header and answer."""
        super().__post_init__()
        self.parameters = [*(self.parameters or []), _header("If-Match", "Tags of the versions that may be changed.")]
        problem = {PROBLEM_JSON: OpenAPIMediaType(Schema(type=OpenAPIType.OBJECT))}
        self.responses = {
            **(self.responses or {}),
            str(HTTP_412_PRECONDITION_FAILED): OpenAPIResponse("Somebody else was faster.", content=problem),
        }


_ETAG: Final = OpenAPIHeader(Schema(type=OpenAPIType.STRING), description="The version of the object.")


def _header(name: str, description: str) -> Parameter:
    return Parameter(name, "header", Schema(type=OpenAPIType.STRING), description=description, required=False)
