"""Who asks: ``Authorization: Token <key>`` of staff and machines, ``Authorization: JWT <token>`` of users.

Each request is held against the database: what was revoked or removed ends at once. ``hub.access`` says what is open.
"""

import contextlib
from typing import Any

import structlog
from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.types import Receive, Scope, Send
from sqlalchemy.exc import SQLAlchemyError

from hub.access import Access, check_access
from hub.database import UNREACHABLE, reading, writing
from hub.problems import NotAuthenticated
from hub.sessions import LONGEST_TEXT, access_in, read_session
from hub.signing_in import keys_of
from hub.state import Hub
from hub.tokens import access_of_key, note_use

_LONGEST_KEY = {"token": 200, "jwt": LONGEST_TEXT}
"""The schemes, and how long what follows them may be."""

_log = structlog.get_logger(__name__)


def read_header(header: str | None) -> tuple[str, str]:
    """Return scheme, ``token`` or ``jwt``, and key of a header ``Authorization``.

    Raises:
        NotAuthenticated: saying what is missing.
    """
    if not header:
        raise NotAuthenticated("this needs a token: send the header 'Authorization: Token <key>'")
    scheme, _, key = header.strip().partition(" ")
    if not 0 < len(key.strip()) <= _LONGEST_KEY.get(scheme.lower(), 0):
        raise NotAuthenticated("the header Authorization is not of the form 'Token <key>' or 'JWT <token>'")
    return scheme.lower(), key.strip()


class Authentication(AbstractAuthenticationMiddleware):
    """Lets requests through to what is open to them; refuses with 401 who is not known, with 403 what is not open."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, and afterwards note the use of its token: nobody waits for that."""
        await super().__call__(scope, receive, send)
        access = scope.get("auth")
        if isinstance(access, Access) and access.unnoted:
            await _note_use(scope["litestar_app"].state.hub, access)

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        """Find out who asks, and whether this is open to them."""
        hub: Hub = connection.app.state.hub
        access = await self._known(hub, connection)
        method = str(connection.scope.get("method", "GET"))
        check_access(access, method, connection.scope["path_template"])
        return AuthenticationResult(user=access.name, auth=access)

    async def _known(self, hub: Hub, connection: ASGIConnection[Any, Any, Any, Any]) -> Access:
        scheme, key = read_header(connection.headers.get("authorization"))
        now = hub.clock.now()
        if scheme == "jwt":
            said = read_session(keys_of(hub), key, now)
            async with reading(hub.engine) as session:
                return await access_in(session, said)
        access = await access_of_key(hub.engine, key, now)
        if access is None:
            raise NotAuthenticated(
                "the token is not valid, has expired, or was revoked; make one with: metergate-hub token create NAME"
            )
        return access


async def _note_use(hub: Hub, access: Access) -> None:
    if access.token is None:
        return
    # The request is answered; a database that cannot write now is told of elsewhere.
    with contextlib.suppress(SQLAlchemyError, *UNREACHABLE):
        async with writing(hub.engine) as session:
            await note_use(session, access.token, hub.clock.now())
