"""Tokens over REST: the key once and nowhere else, every wrong wish named, revoked at once."""

import httpx
import pytest

from tests.parts.databases import database_url, engine
from tests.parts.rest import Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

TOKENS = "/v1/tokens"


async def test_a_token_is_made_used_listed_and_revoked(rest: Rest) -> None:
    fleet = await create_fleet(rest, "mine")
    wish = {"name": "billing", "organization": fleet.organization, "scopes": ["read-readings", "read-readings"]}
    made = await rest.post(TOKENS, **wish, expires="2026-04-01T00:00:00+02:00")
    key = made.pop("key")
    assert made["scopes"] == ["read-readings"]
    assert made["expires"] == "2026-03-31T22:00:00Z"
    headers = {"Authorization": f"Token {key}"}
    async with httpx.AsyncClient(transport=rest.client._transport, base_url="http://hub", headers=headers) as billing:
        assert (await billing.get("/v1/metering/meter-readings")).status_code == 200
        assert (await billing.get(TOKENS)).status_code == 403, "tokens are staff's"
        listed = await rest.client.get(f"{TOKENS}?name=billing")
        assert key not in listed.text
        assert listed.json()["results"] == [{**made, "last_used": "2026-03-02T12:00:00Z"}]
        rest.clock.advance(minutes=5)
        revoked = await rest.call("POST", f"{TOKENS}/{made['id']}/revoke")
        assert revoked["revoked"] == "2026-03-02T12:05:00Z"
        assert (await billing.get("/v1/metering/meter-readings")).status_code == 401
    rest.clock.advance(minutes=5)
    assert await rest.call("POST", f"{TOKENS}/{made['id']}/revoke") == revoked, "for ever, and since when it was"
    assert await rest.get(f"{TOKENS}/{made['id']}") == revoked
    await rest.call("DELETE", f"{TOKENS}/{made['id']}", status=405)


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"organization": None}, "scopes"),
        ({"scopes": ["staff"]}, "organization"),
        ({"scopes": [], "organization": None}, "scopes"),
        ({"scopes": ["staff", "root"], "organization": None}, "scopes.1"),
        ({"scopes": ["read"], "organization": None, "name": " "}, "name"),
        ({"scopes": ["read"], "organization": "00000000-0000-4000-8000-000000000000"}, "organization"),
        ({"scopes": ["read"], "organization": None, "expires": "2026-03-02T12:00:00Z"}, "expires"),
        ({"scopes": ["read"], "organization": None, "key": "mine"}, "key"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_opens_too_much_or_nothing_is_refused(rest: Rest, wish: dict[str, object], field: str) -> None:
    assert await rest.wrong_fields("POST", TOKENS, {"name": "x", **wish}) == {field}
    assert (await rest.get(f"{TOKENS}?name=x"))["count"] == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_staff_is_not_given_to_one_organization(rest: Rest) -> None:
    owner = (await rest.post("/v1/organizations/", name="mine"))["id"]
    assert await rest.wrong_fields("POST", TOKENS, {"name": "x", "organization": owner, "scopes": ["staff"]}) == {
        "organization"
    }
