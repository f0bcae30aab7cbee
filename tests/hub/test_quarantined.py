"""The quarantine as operators see it: look, replay after a fix, delete."""

import asyncio
import pathlib
import uuid

import sqlalchemy as sa

import hub
from hub.database import writing
from hub.ingest import store_deliveries
from protocol.reports import MeterSystemEvent
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import ONLY_POSTGRESQL, database_url, engine
from tests.parts.estates import GatewayVoice
from tests.parts.rest import Rest, create_fleet, rest

__all__ = ["database_url", "engine", "rest"]

QUARANTINE = "/v1/quarantine"


async def test_a_row_is_replayed_when_its_reason_is_gone(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    meter = await rest.post(
        "/v1/metering/meter-devices", organization=fleet.organization, name="Unplugged", protocol="lis-200"
    )
    now = rest.clock.now()
    event = MeterSystemEvent(uuid.uuid4(), uuid.UUID(meter["id"]), "Unplugged", now, "0x8103", "door", "It was open")
    delivery = GatewayVoice("gw-utility").rows(Channel.REPORT, [encode(event)])
    await store_deliveries(rest.hub.engine, [delivery], now, 10)

    row = (await rest.get(QUARANTINE))["results"][0]
    assert (row["gateway"], row["channel"], row["reason"]) == ("gw-utility", "report-row", "not_this_gateway")
    assert "It was open" in row["content"]
    path = f"{QUARANTINE}/{row['id']}"
    assert "not_this_gateway" in (await rest.call("POST", f"{path}/replay", status=409))["detail"]
    assert (await rest.get("/v1/metering/meter-system-events"))["count"] == 0

    await rest.patch(f"/v1/metering/meter-devices/{meter['id']}", network_interface=fleet.line)
    assert (await rest.call("POST", f"{path}/replay"))["replayed_at"] is not None
    stored = (await rest.get("/v1/metering/meter-system-events"))["results"]
    assert [(row["meter_device"], row["title"], row["code"]) for row in stored] == [(meter["id"], "door", "0x8103")]
    await rest.call("POST", f"{path}/replay", status=409)


async def test_what_can_never_be_read_is_looked_at_and_deleted(rest: Rest) -> None:
    await create_fleet(rest)
    voice = GatewayVoice("gw-utility")
    nonsense = voice.rows(Channel.READINGS, [b"\xc1"])
    await store_deliveries(rest.hub.engine, [nonsense], rest.clock.now(), 10)
    row = (await rest.get(f"{QUARANTINE}?gateway=gw-utility"))["results"][0]
    assert row["payload"]
    assert row["first"] == 1
    path = f"{QUARANTINE}/{row['id']}"
    await rest.call("POST", f"{path}/replay", status=409)
    assert (await rest.get(path))["replayed_at"] is None
    await rest.call("DELETE", path, status=204)
    assert (await rest.get(QUARANTINE))["count"] == 0


@ONLY_POSTGRESQL
async def test_a_replay_that_crosses_another_transaction_is_done_again(rest: Rest) -> None:
    fleet = await create_fleet(rest)
    meter = await rest.post(
        "/v1/metering/meter-devices", organization=fleet.organization, name="Unplugged", protocol="lis-200"
    )
    now = rest.clock.now()
    event = MeterSystemEvent(uuid.uuid4(), uuid.UUID(meter["id"]), "Unplugged", now, "0x8103", "door", "It was open")
    await store_deliveries(rest.hub.engine, [GatewayVoice("gw-utility").rows(Channel.REPORT, [encode(event)])], now, 10)
    await rest.patch(f"/v1/metering/meter-devices/{meter['id']}", network_interface=fleet.line)
    row = (await rest.get(QUARANTINE))["results"][0]["id"]
    async with writing(rest.hub.engine) as session:
        # It has the row that the replay needs last, and will want what the replay has by then: a ring.
        await session.execute(sa.text("SELECT 1 FROM quarantine WHERE id = :row FOR UPDATE"), {"row": row})
        replaying = asyncio.ensure_future(rest.call("POST", f"{QUARANTINE}/{row}/replay"))
        await asyncio.sleep(0.4)
        await session.execute(sa.text("SELECT 1 FROM meter_devices WHERE id = :id FOR UPDATE"), {"id": meter["id"]})
    assert (await replaying)["replayed_at"] is not None
    assert (await rest.get("/v1/metering/meter-system-events"))["count"] == 1


def test_rest_writes_in_one_way() -> None:
    """Who writes past ``in_transaction`` has a request fail that would have gone through a moment later."""
    own = {"ingest", "lifesigns", "maintenance", "adoption", "cli", "database", "resources"}
    own |= {"command_publishing", "plan_publishing", "outbox_progress"}
    # Work of the relay's own, of which a turn that failed is taken again.
    own |= {
        "ledger",
        "flagging",
        "backfilling",
        "cli_ledger",
        "deadlines_kept",
        "webhooks",
        "retention_sweep",
        "key_sealing",
        "partitions",
        "retention_months",
        "audit",
        "processes",
    }
    # Commands, and what is noted of a request that has been answered.
    own |= {"cli_tokens", "secrets_rotation", "auth"}
    for path in pathlib.Path(hub.__file__ or "").parent.glob("*.py"):
        assert path.stem in own or "writing(" not in path.read_text(encoding="utf-8"), path.name
