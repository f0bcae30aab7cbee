"""What ingestion keeps of the estate is what the database says, whoever changes it and whenever."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.util import await_only

from hub import models, plans
from hub.database import create_engine, writing
from hub.database import reading as looking
from hub.ingest import BELIEVED_SECONDS, STAGED, UNKNOWN_GATEWAY, store_deliveries
from hub.known_estate import Estate, KnownEstate, known_estate_of
from hub.known_gateways import WRONG_KEY
from hub.migrating import move
from hub.versions import STORED
from tests.parts import estates
from tests.parts.databases import ONLY_POSTGRESQL, database_url, engine
from tests.parts.estates import NOW, GatewayVoice, make_estate, reading

__all__ = ["database_url", "engine"]

TABLES = ("gateways", "meter_devices", "config_series", "device_gateways", "meter_reading_series")

Made = Sequence[estates.Estate]
Edit = Callable[[AsyncSession, Made], Awaitable[object]]


@pytest.fixture
async def elsewhere(database_url: str) -> AsyncIterator[AsyncEngine]:
    """Return another process's way to the same database."""
    made = create_engine(database_url)
    yield made
    await made.dispose()


async def told(estate: Estate, session: AsyncSession, made: Made) -> dict[str, Any]:
    """Return the gateways, and of each what it may bring of each meter, as ingestion takes them."""
    gateways = await estate.gateways(session, [*(one.gateway_id for one in made), "gw-renamed"])
    meters = [meter for one in made for meter in one.meters.values()]
    directory = await estate.meters(session, {meter.bytes for meter in meters})
    found: dict[str, Any] = {"gateways": gateways}
    for gateway, meter in itertools.product([one.gateway for one in made], meters):
        table = directory.table(gateway, meter.bytes)
        found[f"{meter} by {gateway}"] = {name: (one.organization, one.series) for name, one in table.items()}
    return found


async def became(engine: AsyncEngine, voice: GatewayVoice, meter: uuid.UUID, at: int) -> list[str]:
    """Have a reading stored; return what became of it."""
    outcome = await store_deliveries(engine, [voice.readings(reading(meter, "1", at=at))], NOW, 10)
    return [word for word in (STORED, STAGED, WRONG_KEY, UNKNOWN_GATEWAY) if outcome.counts[word]]


async def check(known: KnownEstate, engine: AsyncEngine, made: Made) -> tuple[dict[str, Any], Estate]:
    """Compare what is kept with what the database says; return what that is, and what keeps it."""
    async with writing(engine) as session:
        estate = await known.now(session)
        found = await told(estate, session, made)
        assert found == await told(Estate(), session, made)
        return found, estate


def _set(table: Any, of: Callable[[Made], uuid.UUID], **values: Callable[[Made], Any]) -> Edit:  # noqa: ANN401 - SQLAlchemy's
    async def edit(session: AsyncSession, made: Made) -> None:
        chosen = {name: value(made) for name, value in values.items()}
        await session.execute(sa.update(table).where(table.id == of(made)).values(**chosen))

    return edit


async def _allow(session: AsyncSession, made: Made) -> None:
    one, other = made
    await session.execute(models.config_series.insert().values(config=one.config, series=other.series["9:1"]))


async def _allow_less(session: AsyncSession, made: Made) -> None:
    link = models.config_series.c
    await session.execute(sa.delete(models.config_series).where(link.series == made[0].series["2:300"]))


async def _allow_nothing(session: AsyncSession, _made: Made) -> None:
    how = "TRUNCATE" if session.get_bind().dialect.name == "postgresql" else "DELETE FROM"
    await session.execute(sa.text(f"{how} config_series"))


async def _assign(session: AsyncSession, made: Made) -> None:
    pair = {"device": made[0].meters["M1"], "gateway": made[1].gateway, "since": NOW}
    await session.execute(sa.insert(models.DeviceGateway).values(**pair))


async def _forget_assignments(session: AsyncSession, _made: Made) -> None:
    await session.execute(sa.delete(models.DeviceGateway))


async def _meter_goes(session: AsyncSession, made: Made) -> None:
    await session.execute(sa.delete(models.MeterDevice).where(models.MeterDevice.id == made[0].meters["M1"]))


def _meter(made: Made) -> uuid.UUID:
    return made[0].meters["M1"]


EDITS: dict[str, Edit] = {
    "meter on no line": _set(models.MeterDevice, _meter, network_interface=lambda _: None),
    "meter on another line": _set(models.MeterDevice, _meter, network_interface=lambda made: made[1].line),
    "meter of another type": _set(models.MeterDevice, _meter, type=lambda made: made[1].type),
    "meter of others": _set(models.MeterDevice, _meter, organization=lambda made: made[1].organization),
    "meter gone": _meter_goes,
    "line of another gateway": _set(
        models.NetworkInterface, lambda made: made[0].line, gateway=lambda made: made[1].gateway
    ),
    "type with another config": _set(
        models.MeterDeviceType, lambda made: made[0].type, config=lambda made: made[1].config
    ),
    "series with another name": _set(
        models.ReadingSeries, lambda made: made[0].series["2:300"], name=lambda _: "renamed"
    ),
    "gateway with another id": _set(models.Gateway, lambda made: made[1].gateway, gateway_id=lambda _: "gw-renamed"),
    "gateway of others": _set(
        models.Gateway, lambda made: made[1].gateway, organization=lambda made: made[0].organization
    ),
    "gateway with another key": _set(models.Gateway, lambda made: made[0].gateway, public_key=lambda _: b"1" * 32),
    "a series more": _allow,
    "a series less": _allow_less,
    "no series": _allow_nothing,
    "meter that was another's": _assign,
    "meter that was never another's": _forget_assignments,
}


@pytest.mark.parametrize("edit", EDITS)
async def test_what_is_kept_is_what_is_so_after_an_edit(engine: AsyncEngine, elsewhere: AsyncEngine, edit: str) -> None:
    made = [await make_estate(engine), await make_estate(engine, gateway_id="gw-2", meters=("N1",), series=("9:1",))]
    async with writing(elsewhere) as session:
        pair = {"device": made[0].meters["M2"], "gateway": made[1].gateway, "since": NOW}
        await session.execute(sa.insert(models.DeviceGateway).values(**pair))
    known = KnownEstate()
    before, kept = await check(known, engine, made)
    assert await check(known, engine, made) == (before, kept)
    async with writing(elsewhere) as session:
        await EDITS[edit](session, made)
    after, kept_then = await check(known, engine, made)
    assert after != before
    assert kept_then is not kept
    assert await check(known, engine, made) == (after, kept_then)


async def test_groups_of_the_same_meters_look_nothing_up(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice, said = GatewayVoice(), list[str]()

    def listen(_connection: object, _cursor: object, statement: str, *_others: object) -> None:
        said.append(statement)

    async def store(at: int) -> int:
        delivery = voice.readings(*(reading(meter, "1", at=at) for meter in estate.meters.values()))
        return (await store_deliveries(engine, [delivery], NOW, 10)).counts[STORED]

    # The first pins the gateway's key, which the second sees.
    assert [await store(at) for at in range(2)] == [2, 2]
    sa.event.listen(engine.sync_engine, "before_cursor_execute", listen)
    assert await store(2) == 2
    assert [one for one in said if any(f"FROM {table}" in one or f"JOIN {table}" in one for table in TABLES)] == []
    # What a gateway says of itself is nothing that readings are judged by.
    async with writing(engine) as session:
        await session.execute(sa.update(models.Gateway).values(last_seen=NOW, sequence=5))
    said.clear()
    assert await store(3) == 2
    assert [one for one in said if any(f"FROM {table}" in one for table in TABLES)] == []


async def test_another_plan_for_the_same_meters_changes_nothing_that_is_kept(engine: AsyncEngine) -> None:
    made = [await make_estate(engine)]
    async with writing(engine) as session:
        assert await plans.raise_changed(session, [made[0].gateway], NOW) == ["gw-1"]
    known = KnownEstate()
    told_before, kept = await check(known, engine, made)
    async with writing(engine) as session:
        caller = {
            "organization": made[0].organization,
            "gateway": made[0].gateway,
            "name": "scada",
            "public_key": bytes(32),
            "allowed": ["lis200.*"],
        }
        session.add(models.Caller(**caller, created_at=NOW, updated_at=NOW))
        await session.flush()
        assert await plans.raise_changed(session, [made[0].gateway], NOW) == ["gw-1"]
    assert await check(known, engine, made) == (told_before, kept)


@ONLY_POSTGRESQL
async def test_what_is_changed_and_not_committed_yet_is_not_kept_as_it_was(
    engine: AsyncEngine, elsewhere: AsyncEngine
) -> None:
    estate = await make_estate(engine)
    voice, meter, numbers = GatewayVoice(), estate.meters["M1"], itertools.count()
    assert await became(engine, voice, meter, next(numbers)) == [STORED]
    for commits in (False, True):
        async with elsewhere.connect() as other:
            await other.execute(sa.delete(models.config_series))
            # Counted by now, and to be seen by nobody.
            for _ in range(2):
                assert await became(engine, voice, meter, next(numbers)) == [STORED]
            await (other.commit() if commits else other.rollback())
        assert await became(engine, voice, meter, next(numbers)) == ([STAGED] if commits else [STORED])


@ONLY_POSTGRESQL
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_what_the_database_has_as_its_isolation_makes_nothing_stale(
    engine: AsyncEngine, elsewhere: AsyncEngine, level: str
) -> None:
    made = [await make_estate(engine)]
    async with engine.begin() as connection:
        name = engine.url.database
        await connection.execute(sa.text(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'"))
    await engine.dispose()
    known = KnownEstate()
    other = await elsewhere.connect()
    await other.execute(sa.delete(models.config_series))

    def commit_first(_connection: object, _cursor: object, statement: str, *_others: object) -> None:
        # Counted and seen by nobody when it is asked for, over when it is asked who is at it.
        if "pg_locks" in statement:
            await_only(other.commit())

    sa.event.listen(engine.sync_engine, "before_cursor_execute", commit_first)
    before, _ = await check(known, engine, made)
    sa.event.remove(engine.sync_engine, "before_cursor_execute", commit_first)
    await other.close()
    assert await check(known, engine, made) == (before, known._kept)


@ONLY_POSTGRESQL
async def test_a_count_that_begins_anew_is_another(engine: AsyncEngine, elsewhere: AsyncEngine) -> None:
    made = [await make_estate(engine)]
    known = KnownEstate()
    before, _ = await check(known, engine, made)
    async with engine.connect() as connection:
        count = (await connection.execute(sa.text("SELECT last_value FROM estate_changes"))).scalar_one()
    await move(elsewhere, "0022")
    await move(elsewhere)
    async with writing(elsewhere) as session:
        for _ in range(count - 1):
            await session.execute(sa.update(models.Gateway).values(organization=models.Gateway.organization))
        await session.execute(sa.delete(models.config_series))
    # What it has prepared is of tables that are not there any more.
    await engine.dispose()
    after, _ = await check(known, engine, made)
    assert after != before


async def test_what_was_kept_is_not_believed_over_a_new_connection(engine: AsyncEngine) -> None:
    made = [await make_estate(engine)]
    known = known_estate_of(engine)
    _, kept = await check(known, engine, made)
    assert (await check(known, engine, made))[1] is kept
    # A server that has crashed, and come back, may count again what was rolled back before.
    await engine.dispose()
    assert (await check(known, engine, made))[1] is not kept


@ONLY_POSTGRESQL
async def test_who_waited_for_an_edit_judges_by_it(engine: AsyncEngine, elsewhere: AsyncEngine) -> None:
    meter = (await make_estate(engine)).meters["M1"]
    old, new = GatewayVoice(), GatewayVoice()
    assert await became(engine, old, meter, 0) == [STORED]
    async with writing(elsewhere) as session:
        await session.execute(sa.update(models.Gateway).values(public_key=None))
    async with writing(engine) as session:
        estate = await known_estate_of(engine).now(session)
        await estate.meters(session, {meter.bytes})
    async with elsewhere.connect() as other:
        await other.execute(sa.select(models.Gateway.id).with_for_update(key_share=True))
        waiting = asyncio.create_task(became(engine, new, meter, 1))
        await asyncio.sleep(2 * BELIEVED_SECONDS)
        await other.execute(sa.delete(models.config_series))
        await other.commit()
    assert await waiting == [STAGED]


@ONLY_POSTGRESQL
async def test_who_may_only_write_the_tables_is_counted(engine: AsyncEngine) -> None:
    made = [await make_estate(engine)]
    known, role = KnownEstate(), f"r{uuid.uuid4().hex}"
    before, _ = await check(known, engine, made)
    async with engine.connect() as connection:
        for statement in (
            f"CREATE ROLE {role}",
            f"GRANT SELECT, DELETE ON config_series TO {role}",
            f"SET LOCAL ROLE {role}",
            "SET LOCAL search_path = ''",
            "DELETE FROM public.config_series",
            "RESET ROLE",
            f"DROP OWNED BY {role}",
            f"DROP ROLE {role}",
        ):
            await connection.execute(sa.text(statement))
        await connection.commit()
    after, _ = await check(known, engine, made)
    assert after != before


@ONLY_POSTGRESQL
async def test_who_copies_rows_as_a_replica_does_is_counted(engine: AsyncEngine) -> None:
    made = [await make_estate(engine)]
    known = KnownEstate()
    before, _ = await check(known, engine, made)
    async with writing(engine) as session:
        await session.execute(sa.text("SET LOCAL session_replication_role = replica"))
        await session.execute(sa.delete(models.config_series))
    after, _ = await check(known, engine, made)
    assert after != before


async def test_who_looks_something_up_at_the_same_time_is_told_all_of_it(engine: AsyncEngine) -> None:
    made = [await make_estate(engine, meters=tuple(f"M{n}" for n in range(20)))]
    async with looking(engine) as session:
        expected = await told(Estate(), session, made)
    known, others = KnownEstate(), 5

    async def ask() -> dict[str, Any]:
        async with looking(engine) as session:
            estate = await known.now(session)
            return await told(estate, session, made)

    assert await asyncio.gather(*(ask() for _ in range(others))) == [expected] * others


async def test_what_is_not_there_is_seen_when_it_comes(engine: AsyncEngine) -> None:
    voice, meter = GatewayVoice(), uuid.uuid4()
    for at in range(2):
        assert await became(engine, voice, meter, at) == [UNKNOWN_GATEWAY]
    estate = await make_estate(engine)
    for at in range(2):
        assert await became(engine, voice, meter, at) == [STAGED]
    async with writing(engine) as session:
        new = estates.new_meter("M9", estate.organization, estate.type, estate.line)
        new.id = meter
        session.add(new)
    assert await became(engine, voice, meter, 2) == [STORED]


async def test_a_key_that_is_taken_back_is_believed_no_longer(engine: AsyncEngine, elsewhere: AsyncEngine) -> None:
    meter = (await make_estate(engine)).meters["M1"]
    old, new = GatewayVoice(), GatewayVoice()
    assert [await became(engine, voice, meter, 1) for voice in (old, new, new)] == [[STORED], [WRONG_KEY], [WRONG_KEY]]
    async with writing(elsewhere) as session:
        await session.execute(sa.update(models.Gateway).values(public_key=None))
    assert [await became(engine, voice, meter, 2) for voice in (new, old)] == [[STORED], [WRONG_KEY]]


async def test_it_does_not_grow_without_end(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.known_estate.KEPT", 50)
    made = [await make_estate(engine)]
    known = known_estate_of(engine)
    for _ in range(20):
        async with writing(engine) as session:
            estate = await known.now(session)
            # Ids that nobody knows, as somebody may invent them.
            await estate.meters(session, {uuid.uuid4().bytes for _ in range(10)})
            await estate.gateways(session, {uuid.uuid4().hex for _ in range(10)})
            assert estate.size <= 50 + 20
    await check(known, engine, made)


async def test_many_gateways_that_ask_for_the_same_meters_do_not_make_it_grow(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.known_estate.KEPT", 50)
    known, meters, seen = KnownEstate(), {uuid.uuid4().bytes for _ in range(10)}, list[Estate]()
    for _ in range(20):
        async with looking(engine) as session:
            seen.append(await known.now(session))
            directory = await seen[-1].meters(session, meters)
            gateway = uuid.uuid4()
            assert [directory.table(gateway, meter) for meter in meters] == [{}] * 10
    # Six times ten are more than fifty.
    assert max(seen.count(one) for one in seen) == 6


async def test_as_many_meters_are_kept_as_is_said(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.known_estate.KEPT", 51)
    made = [await make_estate(engine, meters=tuple(f"M{n}" for n in range(49)))]
    known = KnownEstate()
    _, kept = await check(known, engine, made)
    assert (await check(known, engine, made))[1] is kept
