"""The door of a relay that has no REST beside it: the paths of ``hub.health``, without a web framework.

It is answered by the loop that relays, not by a thread of its own: while that is stuck, nothing here says ``live``.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

import msgspec

from hub import exposition
from hub.state import Hub
from hub.wellbeing import LIVE, UNAVAILABLE, Health, judge

_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"

_Message = MutableMapping[str, Any]
_Answer = tuple[HTTPStatus, str, bytes]


def door(hub: Hub) -> Callable[..., Awaitable[None]]:
    """Return the ASGI application of a relay's door; it speaks HTTP only, no lifespan."""

    async def application(
        scope: _Message, _receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        status, kind, body = await _answer(hub, scope["method"], scope["path"])
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status.value, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return application


async def _answer(hub: Hub, method: str, path: str) -> _Answer:
    if method not in {"GET", "HEAD"}:
        return HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET is understood\n"
    match path.rstrip("/"):
        case "/health/live":
            return HTTPStatus.OK, _JSON, msgspec.json.encode(Health(status=LIVE))
        case "/health" | "/health/ready":
            health = await judge(hub)
            status = HTTPStatus.SERVICE_UNAVAILABLE if health.status == UNAVAILABLE else HTTPStatus.OK
            return status, _JSON, msgspec.json.encode(health)
        case "/metrics":
            return HTTPStatus.OK, exposition.CONTENT_TYPE, await exposition.page(hub)
    return HTTPStatus.NOT_FOUND, _TEXT, b"/health, /health/live, /health/ready and /metrics are here\n"
