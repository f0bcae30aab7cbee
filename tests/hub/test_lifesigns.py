"""Life signs: what a gateway says is noted, and late signs do not bring one back that has gone."""

import asyncio
import dataclasses
import datetime as dt
import uuid

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub.clocks import Clock
from hub.connection import read_url
from hub.database import writing
from hub.lifesigns import note_life_signs
from hub.models import Batch, Gateway
from hub.relay import Relay
from hub.settings import Settings
from hub.signs_waiting import LifeSign
from protocol import reports
from protocol.envelopes import SigningKey
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, make_estate

__all__ = ["database_url", "engine"]


@dataclasses.dataclass
class _Gateway:
    """What several relays hear of one gateway, each in its own time."""

    engine: AsyncEngine
    key: SigningKey = dataclasses.field(default_factory=SigningKey.generate)

    async def known(self) -> tuple[int, bytes | None]:
        """Return the session and the store that the hub takes for the present ones."""
        async with writing(self.engine) as session:
            row = (await session.scalars(sa.select(Gateway))).one()
            return row.session, row.store_id

    async def hear(
        self, *, online: bool, session: int, store: bytes = b"1" * 16, retained: bool = False, at: int | None = None
    ) -> bool:
        """Hear a sign, said at the second ``at`` or else its session's; return whether the gateway is online now."""
        said = NOW + dt.timedelta(seconds=session if at is None else at)
        sign = reports.Online("gw-1", online=online, session=session, store=store, software="test", at=said)
        await note_life_signs(self.engine, [LifeSign(sign, self.key.public, retained)], said)
        async with writing(self.engine) as session_:
            row = (await session_.scalars(Gateway.__table__.select().with_only_columns(Gateway.online))).one()
            return bool(row)


async def test_a_sign_that_comes_after_its_own_connections_will_brings_nobody_back(engine: AsyncEngine) -> None:
    """A relay that was stopped for a while has signs in its queue that the others have long heard."""
    await make_estate(engine)
    gateway = _Gateway(engine)
    assert await gateway.hear(online=True, session=5)
    assert not await gateway.hear(online=False, session=5)
    assert not await gateway.hear(online=True, session=5)
    assert not await gateway.hear(online=True, session=5, retained=True)
    # A new connection has a new session, and another store counts for itself.
    assert await gateway.hear(online=True, session=6)
    assert not await gateway.hear(online=False, session=6)
    assert await gateway.hear(online=True, session=6, store=b"2" * 16)


async def test_an_old_will_changes_nothing(engine: AsyncEngine) -> None:
    await make_estate(engine)
    gateway = _Gateway(engine)
    assert await gateway.hear(online=True, session=9)
    assert await gateway.hear(online=False, session=8)
    assert await gateway.hear(online=False, session=8, store=b"2" * 16)
    assert await gateway.known() == (9, b"1" * 16)
    assert await gateway.hear(online=True, session=10)
    assert await gateway.hear(online=False, session=9)
    assert not await gateway.hear(online=False, session=10)
    assert await gateway.known() == (10, b"1" * 16)


async def test_what_an_earlier_store_said_does_not_bring_it_back(engine: AsyncEngine) -> None:
    """One relay is slower than the other, or a message comes twice: commands must not go to a store that is gone."""
    await make_estate(engine)
    gateway = _Gateway(engine)
    old, new = b"1" * 16, b"2" * 16
    assert await gateway.hear(online=True, session=100, store=old)
    assert await gateway.hear(online=True, session=110, store=old)
    # The card was lost, and the clock begins in the past: the new store counts from there.
    assert await gateway.hear(online=True, session=5, store=new, at=120)
    for session, online in ((100, True), (110, True), (110, False)):
        assert await gateway.hear(online=online, session=session, store=old)
        assert await gateway.known() == (5, new)
    # The folder was put where it had been: it speaks again, which no late message does.
    assert await gateway.hear(online=True, session=130, store=old)
    assert await gateway.known() == (130, old)


async def test_what_lines_did_is_kept_as_it_was_said_last(engine: AsyncEngine) -> None:
    estate = await make_estate(engine, gateway_id="gw-lines")
    key, line = SigningKey.generate(), uuid.uuid4()
    for session, timeouts in ((1, {"m-1": 1}), (2, {"m-1": 4})):
        figures = reports.LineFigures(line, "north", NOW, 12, 81.5, 70_144, 3, {"no_answer": 4}, timeouts, ["m-1"])
        sign = reports.Online(
            "gw-lines", online=True, session=session, store=b"3" * 16, software="test", at=NOW, lines=[figures]
        )
        await note_life_signs(engine, [LifeSign(sign, key.public)], NOW)
    async with writing(engine) as session_:
        row = await session_.get_one(Gateway, estate.gateway)
    assert row.lines[0] | {"since": ""} == {
        "line": str(line),
        "name": "north",
        "since": "",
        "sessions": 12,
        "busy_seconds": 81.5,
        "bytes": 70_144,
        "repeats": 3,
        "errors": {"no_answer": 4},
        "timeouts": {"m-1": 4},
        "silent": ["m-1"],
    }


async def test_a_fleet_is_noted_in_one_transaction(engine: AsyncEngine) -> None:
    """Each of many gateways gets what it is owed; one unknown, one strange key and one repeated sign cost nobody."""
    keys = {}
    for number in range(5):
        estate = await make_estate(engine, gateway_id=f"fleet-{number}")
        keys[f"fleet-{number}"] = (estate.gateway, SigningKey.generate())
    store = b"3" * 16

    def said(name: str, session: int, through: int = 0, depth: int = 0) -> reports.Online:
        plain = reports.Online(name, online=True, session=session, store=store, software="test", at=NOW)
        return msgspec.structs.replace(plain, readings_through=through, depth=depth)

    signs = [LifeSign(said(name, 2, through=7), key.public) for name, (_, key) in keys.items()]
    signs += [
        LifeSign(said("fleet-0", 1, depth=99), keys["fleet-0"][1].public),
        LifeSign(said("fleet-1", 9), SigningKey.generate().public),
        LifeSign(said("fleet-unknown", 1), SigningKey.generate().public),
    ]
    owed = await note_life_signs(engine, signs, NOW)
    assert {heard.gateway for heard in owed.heard} == {gateway for gateway, _ in keys.values()}
    assert all(heard.plan for heard in owed.heard)
    # The database has none of the rows that these agents know as receipted.
    assert [[(one.channel, one.first) for one in heard.resends] for heard in owed.heard] == [[("readings", 1)]] * 5
    async with writing(engine) as session:
        rows = {row.gateway_id: row for row in await session.scalars(sa.select(Gateway))}
    assert all(rows[name].online and rows[name].session == 2 and rows[name].depth == 0 for name in keys)
    assert all(rows[name].public_key == key.public for name, (_, key) in keys.items())


async def test_a_fleets_batches_are_followed_in_one_question(engine: AsyncEngine) -> None:
    """What came, in whatever batches and order, is not asked for again; from the first gap on it is."""
    store, key = b"4" * 16, SigningKey.generate()
    came = {"fleet-0": [(1, 40), (41, 90), (91, 91)], "fleet-1": [(1, 40), (30, 70)], "fleet-2": [(1, 40), (60, 91)]}
    estates = {name: (await make_estate(engine, gateway_id=name)).gateway for name in came}
    async with writing(engine) as session:
        for name, spans in came.items():
            for first, last in reversed(spans):
                batch = {"first": first, "last": last, "digest": bytes(16), "received_at": NOW, "stored_at": NOW}
                session.add(Batch(gateway=estates[name], channel="readings", store=store, **batch))
    looked: list[str] = []

    def hear(*arguments: object) -> None:
        if "FROM batches" in str(arguments[2]):
            looked.append(str(arguments[2]))

    def said(name: str, through: int) -> LifeSign:
        sign = reports.Online(name, online=True, session=through, store=store, software="test", at=NOW)
        return LifeSign(msgspec.structs.replace(sign, readings_through=through), key.public)

    sa.event.listen(engine.sync_engine, "before_cursor_execute", hear)
    try:
        owed = await note_life_signs(engine, [said(name, 40) for name in came], NOW)
        assert [heard.resends for heard in owed.heard] == [()] * 3
        assert len(looked) == 1, "one question for all of them"
    finally:
        sa.event.remove(engine.sync_engine, "before_cursor_execute", hear)
    owed = await note_life_signs(engine, [said(name, 91) for name in came], NOW)
    asked = {heard.gateway_id: [one.first for one in heard.resends] for heard in owed.heard}
    assert asked == {"fleet-0": [], "fleet-1": [71], "fleet-2": [41]}


async def test_who_could_not_be_asked_for_what_is_missing_is_asked_with_the_next_life_sign(engine: AsyncEngine) -> None:
    """The relay had just lost the broker: what the gateway sent next was taken for its answer, and the gap for gone."""
    estate = await make_estate(engine, gateway_id="gw-unasked")
    store, key = b"5" * 16, SigningKey.generate()
    access, never = read_url("mqtt://127.0.0.1:1"), asyncio.Event()
    relay = Relay(
        Settings(database=""), access, engine, Clock(), SigningKey.generate(), never, lambda sealed, _: sealed
    )

    def said(sequence: int, through: int) -> LifeSign:
        plain = reports.Online("gw-unasked", online=True, session=1, store=store, software="test", at=NOW)
        return LifeSign(msgspec.structs.replace(plain, sequence=sequence, readings_through=through), key.public)

    # It has no connection.
    await relay._note([said(1, 40)])
    later = Clock().now() + dt.timedelta(seconds=1)
    async with writing(engine) as session:
        new = {"first": 41, "last": 50, "digest": bytes(16), "received_at": later, "stored_at": later}
        session.add(Batch(gateway=estate.gateway, channel="readings", store=store, **new))
    owed = await note_life_signs(engine, [said(2, 50)], later)
    assert [[one.first for one in heard.resends] for heard in owed.heard] == [[1]]
