"""Who may use the REST API: staff tokens, from the first request on (``Authorization: Token <key>``)."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult

from hub.database import reading
from hub.problems import NotAuthenticated
from hub.state import Hub
from hub.tokens import find_token

_LONGEST_KEY = 200


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


class TokenAuthentication(AbstractAuthenticationMiddleware):
    """Lets requests with a valid token through and refuses all others with 401."""

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        """Find the token of the request."""
        hub: Hub = connection.app.state.hub
        key = key_from_header(connection.headers.get("authorization"))
        async with reading(hub.engine) as session:
            token = await find_token(session, key)
        if token is None:
            raise NotAuthenticated(
                "the token is not valid, or was revoked; make one with: metergate-hub token create NAME"
            )
        return AuthenticationResult(user=token.name, auth=token)
