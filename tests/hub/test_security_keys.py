"""Security keys go in and never come out; the database alone opens none of them."""

import json

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.database import reading, writing
from hub.models import MeterSecurityKeys
from hub.secrets_box import note_public_half, unseal
from hub.security_keys import SECRETS, purpose_of
from protocol.envelopes import SigningKey
from tests.parts.databases import engine, url_of_walks
from tests.parts.rest import Rest, create_fleet, rest

__all__ = ["engine", "rest", "url_of_walks"]

PATH = "/v1/metering/meter-security-keys"
KEY = SigningKey(bytes(range(32)))
VALUES = {name: f"secret{number}" for number, name in enumerate(SECRETS)}


async def stored(engine: AsyncEngine) -> dict[str, str]:
    """Open what the database holds, as what has the hub's key can."""
    async with reading(engine) as session:
        row = (await session.scalars(select(MeterSecurityKeys))).one()
    found: dict[str, str] = json.loads(unseal(KEY, row.sealed, purpose_of(row.meter)))
    return found


async def give_key(engine: AsyncEngine) -> None:
    """Do what a relay does when it starts."""
    async with writing(engine) as session:
        await note_public_half(session, KEY)


async def test_keys_go_in_and_never_come_out(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    await give_key(engine)
    made = await rest.post(PATH, meter=fleet.meter, **VALUES)
    assert made["meter"]["id"] == fleet.meter
    assert made["meter"]["name"] == "Heating plant"
    assert made["stored"] == sorted(VALUES)
    assert {made[name] for name in VALUES if name != "dlms_master_key"} == {None}
    assert "dlms_master_key" not in made
    assert await rest.get(f"{PATH}/{made['id']}") == made
    assert (await rest.get(PATH))["results"] == [made]
    assert await stored(engine) == VALUES
    async with reading(engine) as session:
        row = (await session.scalars(select(MeterSecurityKeys))).one()
    assert b"secret" not in row.sealed


async def test_posting_again_replaces_them(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    await give_key(engine)
    first = await rest.post(PATH, meter=fleet.meter, **VALUES)
    rest.clock.advance(minutes=1)
    second = await rest.post(PATH, meter=fleet.meter, iec62056_21_password="0000")  # noqa: S106 - a password like any
    assert second["id"] == first["id"]
    assert second["created_at"] == first["created_at"]
    assert second["updated_at"] > first["updated_at"]
    assert second["stored"] == ["iec62056_21_password"]
    assert await stored(engine) == {"iec62056_21_password": "0000"}
    assert (await rest.get(PATH))["count"] == 1
    for method in ("PUT", "PATCH"):
        await rest.call(method, f"{PATH}/{first['id']}", {}, 405)


async def test_they_go_with_their_meter(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    await give_key(engine)
    made = await rest.post(PATH, meter=fleet.meter, **VALUES)
    await rest.call("DELETE", f"{PATH}/{made['id']}", status=204)
    await rest.get(f"{PATH}/{made['id']}", 404)
    made = await rest.post(PATH, meter=fleet.meter)
    assert made["stored"] == []
    await rest.call("DELETE", f"/v1/metering/meter-devices/{fleet.meter}", status=204)
    assert (await rest.get(PATH))["count"] == 0


async def test_without_a_key_nothing_is_stored(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    problem = await rest.call("POST", PATH, {"meter": fleet.meter, **VALUES}, 503)
    assert "relay" in problem["detail"]
    assert (await rest.get(PATH))["count"] == 0


async def test_a_refusal_does_not_repeat_a_secret(rest: Rest, engine: AsyncEngine) -> None:
    fleet = await create_fleet(rest)
    await give_key(engine)
    for wrong in (
        {"iec62056_21_password": "topsecret"},
        {"iec62056_21_password": "top\u0007se"},
        {"dlms_master_key": "topsecret" * 9},
        {"dlms_master_key": ["topsecret"]},
        {"dlms_master_key": "topsecret", "colour": "red"},
        {"dlms_master_key": "topsecret", "meter": fleet.gateway},
    ):
        answer = await rest.client.post(PATH, json={"meter": fleet.meter, **wrong})
        assert answer.status_code == 422
        assert "top" not in answer.text
