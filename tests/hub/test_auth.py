"""Nothing is answered without a token, and the database does not have the keys."""

import httpx
from sqlalchemy import select, update

from hub.database import reading, writing
from hub.models import Token
from tests.parts.databases import database_url, engine
from tests.parts.rest import Rest, rest

__all__ = ["database_url", "engine", "rest"]


STRANGE = (None, "", "Token", "Token ", "Bearer abc", "JWT abc", "Token wrong", "Token " + "x" * 5000, "Token é")


async def test_no_valid_token_is_401(rest: Rest) -> None:
    transport = rest.client._transport
    for header in STRANGE:
        headers = {} if header is None else {"Authorization": header.encode()}
        async with httpx.AsyncClient(transport=transport, base_url="http://hub", headers=headers) as stranger:  # type: ignore[arg-type]
            for path in ("/v1/organizations/", "/v1/metering/meter-readings", "/v1/commands"):
                answer = await stranger.get(path)
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"] == ("JWT" if header == "JWT abc" else "Token")
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["status"] == 401


async def test_a_revoked_token_is_401(rest: Rest) -> None:
    await rest.get("/v1/organizations")
    async with writing(rest.hub.engine) as session:
        await session.execute(update(Token).values(revoked=rest.clock.now()))
    await rest.get("/v1/organizations", 401)


async def test_keys_are_not_in_the_database(rest: Rest) -> None:
    key = rest.client.headers["Authorization"].removeprefix("Token ")
    assert len(key) >= 43, "32 random bytes"
    async with reading(rest.hub.engine) as session:
        token = (await session.execute(select(Token))).scalar_one()
    assert key.encode() not in token.digest
    assert len(token.digest) == 32


async def test_health_metrics_and_schema_are_open(rest: Rest) -> None:
    async with httpx.AsyncClient(transport=rest.client._transport, base_url="http://hub") as stranger:
        for path in ("/health", "/health/live", "/health/ready", "/metrics", "/schema", "/schema/openapi.json"):
            assert (await stranger.get(path)).status_code == 200, path
