"""Two agents under one gateway id are reported, and one agent is never taken for two."""

import datetime as dt
import uuid

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.database import writing
from hub.ingest import store_deliveries
from hub.lifesigns import note_life_signs
from hub.models import Gateway
from hub.rivals import conflict_of
from hub.signs_waiting import LifeSign
from protocol import reports
from protocol.envelopes import SigningKey, fingerprint
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import engine, url_of_walks
from tests.parts.estates import NOW, Estate, GatewayVoice, make_estate, reading
from tests.parts.rest import Rest, rest

__all__ = ["engine", "rest", "url_of_walks"]

KEY = SigningKey.generate()


class Hub:
    """Hears life signs, a minute apart."""

    def __init__(self, engine: AsyncEngine, estate: Estate) -> None:
        self.engine = engine
        self.estate = estate
        self.minutes = 0

    async def hear(self, store: bytes, session: int, *, said: int | None = None, key: SigningKey = KEY) -> None:
        """Hear a sign of a store; ``said`` is the minute of its own time, else now."""
        self.minutes += 1
        at = NOW + dt.timedelta(minutes=self.minutes if said is None else said)
        sign = reports.Online("gw-1", online=True, session=session, store=store, software="test", at=at, status="fine")
        now = NOW + dt.timedelta(minutes=self.minutes)
        await note_life_signs(self.engine, [LifeSign(sign, key.public)], now)

    async def conflict(self) -> str:
        """What the gateway's status says of it."""
        async with writing(self.engine) as session:
            gateway = await session.get(Gateway, self.estate.gateway)
            assert gateway is not None
            return conflict_of(gateway)


@pytest.fixture
async def hub(engine: AsyncEngine) -> Hub:
    return Hub(engine, await make_estate(engine))


async def test_two_stores_that_take_turns_are_two_agents(hub: Hub) -> None:
    one, other = b"1" * 16, b"2" * 16
    for _ in range(3):
        await hub.hear(one, 100)
        await hub.hear(other, 101)
    told = await hub.conflict()
    assert "two agents" in told
    assert one.hex()[:8] in told
    assert other.hex()[:8] in told
    # One of them was stopped: a while later nothing is said any more.
    for _ in range(17):
        await hub.hear(one, 100)
    assert await hub.conflict() == ""


@pytest.mark.parametrize("agents", [3, 5])
async def test_more_than_two_agents_are_told_of_with_all_their_stores(hub: Hub, agents: int) -> None:
    stores = [bytes([number]) * 16 for number in range(1, agents + 1)]
    for _ in range(3):
        for number, store in enumerate(stores):
            await hub.hear(store, 100 + number)
    told = await hub.conflict()
    assert f"{'three' if agents == 3 else agents} agents" in told
    assert all(store.hex()[:8] in told for store in stores)
    # All but one were stopped.
    for _ in range(17):
        await hub.hear(stores[0], 100)
    assert await hub.conflict() == ""


async def test_stores_that_follow_each_other_are_one_agent(hub: Hub) -> None:
    for number in range(6):
        await hub.hear(bytes([number]) * 16, 100 + number)
        await hub.hear(bytes([number]) * 16, 100 + number)
    assert await hub.conflict() == ""
    # Back to the store before, once: somebody moved the folder there and back.
    await hub.hear(bytes([4]) * 16, 200)
    assert await hub.conflict() == ""


async def test_life_signs_that_come_late_or_twice_are_no_rivals(hub: Hub) -> None:
    """Several relays hear each sign, in their own time."""
    one, other = b"1" * 16, b"2" * 16
    await hub.hear(one, 100, said=1)
    for _ in range(5):
        await hub.hear(other, 101, said=2)
        await hub.hear(one, 100, said=1)
    assert await hub.conflict() == ""


async def test_two_agents_with_copies_of_one_store_are_reported(hub: Hub) -> None:
    """The whole card was copied: key, store and seal are the same, only the connections are not."""
    store = b"1" * 16
    for _ in range(3):
        await hub.hear(store, 100)
        await hub.hear(store, 101)
    told = await hub.conflict()
    assert "two agents" in told
    assert store.hex()[:8] in told
    # One of them was stopped.
    for _ in range(17):
        await hub.hear(store, 101)
    assert await hub.conflict() == ""


async def test_signs_of_an_earlier_connection_that_come_late_or_twice_are_no_rivals(hub: Hub) -> None:
    store = b"1" * 16
    await hub.hear(store, 100, said=1)
    for _ in range(5):
        await hub.hear(store, 101, said=2)
        await hub.hear(store, 100, said=1)
    # Its clock was set back meanwhile: what it had said by the old one comes late, and twice.
    for _ in range(5):
        await hub.hear(store, 100, said=3)
    assert await hub.conflict() == ""


async def test_another_key_is_reported_and_nothing_of_it_taken(hub: Hub) -> None:
    rival = SigningKey.generate()
    for _ in range(2):
        await hub.hear(b"1" * 16, 100)
        await hub.hear(b"2" * 16, 101, key=rival)
    told = await hub.conflict()
    assert fingerprint(rival.public) in told
    async with writing(hub.engine) as session:
        gateway = await session.get(Gateway, hub.estate.gateway)
        assert gateway is not None
        assert (gateway.store_id, gateway.session) == (b"1" * 16, 100)


async def test_the_gateway_shows_rate_errors_and_conflict(rest: Rest) -> None:
    engine = rest.hub.engine
    estate = await make_estate(engine)
    voice = GatewayVoice()
    path = f"/v1/gateways/{estate.gateway}"
    shown = await rest.get(path)
    assert (shown["rows_per_second"], shown["drain_seconds"], shown["errors"], shown["conflict"]) == (None, 0.0, [], "")
    sign = reports.Online(
        "gw-1", online=True, session=1, store=voice.store, software="t", at=NOW, depth=600, status="x"
    )
    await note_life_signs(engine, [LifeSign(sign, voice.key.public)], NOW)
    assert (await rest.get(path))["drain_seconds"] is None  # it has not sent anything yet
    meter = estate.meters["M1"]
    # An hour ago: not the rate of now. Then ten rows a second for three seconds.
    for second in (-3600, 0, 1, 2, 3):
        rows = [reading(meter, "1", at=second * 20 + number) for number in range(10)]
        await store_deliveries(engine, [voice.readings(*rows)], NOW + dt.timedelta(seconds=second), 10)
    ends = [
        ("done", "", 5),
        ("failed", "no answer", 1),
        ("failed", "no answer within 2 s", 3),
        ("wrong_meter", "number 7", 2),
        ("failed", "long ago", -60 * 24 * 9),
    ]
    runs = [
        reports.RunReport(uuid.uuid4(), meter, outcome, NOW, NOW + dt.timedelta(minutes=at), cause=cause)
        for outcome, cause, at in ends
    ]
    told = voice.rows(Channel.REPORT, [encode(run) for run in runs])
    await store_deliveries(engine, [told], NOW - dt.timedelta(hours=2), 10)
    shown = await rest.get(path)
    assert (shown["rows_per_second"], shown["drain_seconds"]) == (10.0, 60.0)
    assert [(one["kind"], one["count"], one["cause"]) for one in shown["errors"]] == [
        ("failed", 2, "no answer within 2 s"),
        ("wrong_meter", 1, "number 7"),
    ]
    assert shown["errors"][0]["meter_device"] == str(meter)
    rival = SigningKey.generate()
    later = NOW + dt.timedelta(minutes=1)
    await note_life_signs(engine, [LifeSign(sign, rival.public)], later)
    shown = (await rest.get("/v1/gateways"))["results"][0]
    assert fingerprint(rival.public) in shown["conflict"]
    assert shown["status"] == f"x; {shown['conflict']}"
