"""Headers of every answer that tell browsers and caches to keep their hands off, errors included.

Nothing is to be kept (a later user of the same machine or cache would see it), shown in a frame, run, or taken for
another kind than it is. The page of ``/schema``, which is to be looked at in a browser, may use its own style.
Over TLS, which a proxy in front ends and tells of by ``X-Forwarded-Proto``, a client is to come back only so.
``Allow`` names all methods of a path: the framework's own answer to OPTIONS knows those of its first handler only.
"""

from litestar.routes import HTTPRoute
from litestar.types import Message, Scope

from hub.deprecated import DEPRECATED
from hub.openapi_page import POLICY

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_DATA = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_PAGES = ((b"content-security-policy", POLICY.encode()),)
_ONLY_TLS = ((b"strict-transport-security", b"max-age=31536000"),)


async def add_headers(message: Message, scope: Scope) -> None:
    """Add the headers to an answer that begins; those that it has already stay."""
    if message["type"] != "http.response.start":
        return
    wanted = [*_ALWAYS, *(_PAGES if scope["path"].startswith("/schema") else _DATA)]
    if scope["scheme"] == "https":
        wanted += _ONLY_TLS
    kept = list(message["headers"])
    method = str(scope.get("method", ""))
    goes = DEPRECATED.get((method, str(scope.get("path_template", "")).rstrip("/")))
    if goes is not None:
        kept += goes.headers()
    if method == "OPTIONS" and "path_template" in scope:
        routes = (route for route in scope["litestar_app"].routes if isinstance(route, HTTPRoute))
        methods = {
            one for route in routes if route.path_format == scope["path_template"] for one in route.route_handler_map
        }
        kept = [(name, value) for name, value in kept if name.lower() != b"allow"]
        kept.append((b"allow", ", ".join(sorted(methods)).encode()))
    there = {name.lower() for name, _ in kept}
    message["headers"] = [*kept, *((name, value) for name, value in wanted if name not in there)]
