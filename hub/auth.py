"""Who asks: ``Authorization: Token <key>`` of staff and machines; ``hub.access`` says what is open to them."""

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
from hub.state import Hub
from hub.tokens import access_by, find_token, note_use

_LONGEST_KEY = 200

_log = structlog.get_logger(__name__)


def key_from_header(header: str | None) -> str:
    """Take the key out of ``Authorization: Token <key>``.

    Raises:
        NotAuthenticated: saying what is missing.
    """
    if not header:
        raise NotAuthenticated("this needs a token: send the header 'Authorization: Token <key>'")
    scheme, _, key = header.strip().partition(" ")
    if scheme.lower() != "token" or not 0 < len(key.strip()) <= _LONGEST_KEY:
        raise NotAuthenticated("the header Authorization is not of the form 'Token <key>'")
    return key.strip()


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
        key = key_from_header(connection.headers.get("authorization"))
        now = hub.clock.now()
        async with reading(hub.engine) as session:
            token = await find_token(session, key, now)
        if token is None:
            raise NotAuthenticated(
                "the token is not valid, has expired, or was revoked; make one with: metergate-hub token create NAME"
            )
        return access_by(token, now)


async def _note_use(hub: Hub, access: Access) -> None:
    if access.token is None:
        return
    # The request is answered; a database that cannot write now is told of elsewhere.
    with contextlib.suppress(SQLAlchemyError, *UNREACHABLE):
        async with writing(hub.engine) as session:
            await note_use(session, access.token, hub.clock.now())
