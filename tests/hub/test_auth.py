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


async def test_every_answer_has_its_headers(rest: Rest) -> None:
    for path, status in (("/v1/organizations/", 200), ("/v1/nowhere", 404), ("/health", 200), ("/schema/swagger", 200)):
        answer = await rest.client.get(path)
        assert answer.status_code == status
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert (answer.headers.get("Cache-Control") == "no-store") == (not path.startswith("/schema"))
        assert "Strict-Transport-Security" not in answer.headers
    async with httpx.AsyncClient(transport=rest.client._transport, base_url="https://hub") as stranger:
        for path in ("/v1/organizations/", "/v1/gateways"):
            answer = await stranger.get(path)
            assert answer.status_code == 401
            assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
            assert answer.headers["Cache-Control"] == "no-store"
