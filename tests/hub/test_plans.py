"""Plans on both databases: what they say, which edits concern whom, what raises a revision and what does not."""

import dataclasses
import datetime as dt
import secrets
import uuid
from collections.abc import Collection
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from hub import models, plans
from hub.database import reading as looking
from hub.database import writing
from hub.plan_contents import Content, read_contents
from protocol.envelopes import SigningKey
from protocol.plans import read_plan
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, Estate, make_estate

__all__ = ["database_url", "engine"]


@dataclasses.dataclass
class Tasks:
    own: uuid.UUID
    grouped: uuid.UUID
    group: uuid.UUID


def task(estate: Estate, name: str, **more: Any) -> models.AmrTask:  # noqa: ANN401 - fields of the row
    values = {"schedule": "hourly", "run_offset_seconds": 60, "task_kwargs": {"address": "2:300"}} | more
    return models.AmrTask(
        organization=estate.organization,
        name=name,
        meter_execution_type="generic_lis200",
        task_call="read_single_value",
        created_at=NOW,
        updated_at=NOW,
        **values,
    )


async def give_tasks(engine: AsyncEngine, estate: Estate) -> Tasks:
    """M1 has one task by itself and the same and another in a group; M2 has the group."""
    async with writing(engine) as session:
        own, grouped, idle = task(estate, "own"), task(estate, "grouped"), task(estate, "idle", is_active=False)
        group = models.AmrTaskGroup(organization=estate.organization, name="group", created_at=NOW, updated_at=NOW)
        session.add_all([own, grouped, idle, group])
        await session.flush()
        for member in (own, grouped, idle):
            await session.execute(models.group_tasks.insert().values(group=group.id, task=member.id))
        await session.execute(models.device_tasks.insert().values(device=estate.meters["M1"], task=own.id))
        for meter in estate.meters.values():
            await session.execute(models.device_groups.insert().values(device=meter, group=group.id))
        return Tasks(own.id, grouped.id, group.id)


async def revision(engine: AsyncEngine, gateway: uuid.UUID) -> int:
    async with looking(engine) as session:
        return (
            await session.execute(sa.select(models.Gateway.desired_revision).where(models.Gateway.id == gateway))
        ).scalar_one()


async def edit(engine: AsyncEngine, model: type[models.Base], key: uuid.UUID, **values: Any) -> None:  # noqa: ANN401 - as above
    async with writing(engine) as session:
        await session.execute(sa.update(model).filter_by(id=key).values(**values))


async def raised(engine: AsyncEngine, *gateways: uuid.UUID, at: dt.datetime = NOW) -> list[str]:
    async with writing(engine) as session:
        return await plans.raise_changed(session, gateways, at)


async def test_a_plan_has_lines_meters_tasks_once_and_callers(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    tasks = await give_tasks(engine, estate)
    async with writing(engine) as session:
        await session.execute(
            sa.update(models.MeterDeviceConfig).values(
                mappings=[{"archive": 0, "source": "2:300", "series": "7-0:3.0.0"}]
            )
        )
        await session.execute(
            sa.update(models.MeterDevice)
            .where(models.MeterDevice.name == "M2")
            .values(timezone="Asia/Kolkata", manufacturer_serial="4711", iec62056_21_address="2")
        )
        tcp = models.NetworkInterface(
            organization=estate.organization,
            gateway=estate.gateway,
            fqdn="meter.example",
            port=4001,
            fixed_rate=True,
            created_at=NOW,
            updated_at=NOW,
        )
        session.add(tcp)
        session.add(
            models.Caller(
                organization=estate.organization,
                gateway=estate.gateway,
                name="scada",
                public_key=SigningKey.generate().public,
                allowed=["generic_lis200.*"],
                created_at=NOW,
                updated_at=NOW,
            )
        )
    assert await raised(engine, estate.gateway) == ["gw-1"]
    async with looking(engine) as session:
        rendered = await plans.render(session, estate.gateway)
        again = await plans.render(session, estate.gateway)
    assert rendered is not None
    assert rendered == again
    plan = read_plan(rendered.body)
    assert not plan.problems
    assert (plan.gateway, plan.revision, plan.issued) == ("gw-1", 1, NOW)
    assert {line.endpoint for line in plan.lines.values()} == {"/dev/ttyS0", "socket://meter.example:4001"}
    first, second = plan.devices[estate.meters["M1"]], plan.devices[estate.meters["M2"]]
    assert sorted(first.tasks) == sorted(second.tasks) == sorted([tasks.own, tasks.grouped])
    assert set(plan.tasks) == {tasks.own, tasks.grouped}
    assert (first.timezone, first.address, first.serial) == ("Europe/Berlin", "", None)
    assert (second.timezone, second.address, second.serial) == ("Asia/Kolkata", "2", "4711")
    assert [entry.series for entry in first.mappings] == ["7-0:3.0.0"]
    assert plan.callers["scada"].allows("generic_lis200", "read_single_value")


async def test_meters_of_a_line_that_is_blocked_are_on_no_plan(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await give_tasks(engine, estate)
    await raised(engine, estate.gateway)
    await edit(engine, models.NetworkInterface, estate.line, is_blocked=True)
    assert await raised(engine, estate.gateway) == ["gw-1"]
    async with looking(engine) as session:
        rendered = await plans.render(session, estate.gateway)
    assert rendered is not None
    plan = read_plan(rendered.body)
    assert (plan.lines, plan.devices, plan.tasks) == ({}, {}, {})


async def test_an_edit_that_changes_nothing_raises_nothing(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    tasks = await give_tasks(engine, estate)
    assert await raised(engine, estate.gateway) == ["gw-1"]
    await edit(engine, models.AmrTask, tasks.own, description="for people only")
    assert await raised(engine, estate.gateway, at=NOW + dt.timedelta(hours=1)) == []
    await edit(engine, models.AmrTask, tasks.own, run_offset_seconds=61)
    assert await raised(engine, estate.gateway) == ["gw-1"]
    assert await revision(engine, estate.gateway) == 2


async def test_every_kind_of_edit_finds_its_gateways(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    other = await make_estate(engine, gateway_id="gw-2")
    tasks = await give_tasks(engine, estate)
    async with looking(engine) as session:
        mine = {estate.gateway}
        assert await plans.gateways_of_task(session, tasks.own) == mine
        assert await plans.gateways_of_task(session, tasks.grouped) == mine
        assert await plans.gateways_of_group(session, tasks.group) == mine
        assert await plans.gateways_of_device(session, estate.meters["M2"]) == mine
        assert await plans.gateways_of_interface(session, estate.line) == mine
        assert await plans.gateways_of_type(session, estate.type) == mine
        assert await plans.gateways_of_config(session, estate.config) == mine
        both = estate.meters["M1"], other.meters["M1"]
        assert await plans.gateways_of_device(session, *both) == {estate.gateway, other.gateway}
        assert await plans.gateways_of_device(session, uuid.uuid4()) == set()


async def test_a_meter_that_moves_is_remembered_at_its_old_gateway(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    other = await make_estate(engine, gateway_id="gw-2", meters=())
    await raised(engine, estate.gateway, other.gateway)
    await edit(engine, models.MeterDevice, estate.meters["M1"], network_interface=other.line)
    assert await raised(engine, estate.gateway, other.gateway) == ["gw-1", "gw-2"]
    async with looking(engine) as session:
        found = await session.scalars(
            sa.select(models.DeviceGateway.gateway).where(models.DeviceGateway.device == estate.meters["M1"])
        )
        assert set(found) == {estate.gateway, other.gateway}


async def test_a_plan_that_would_be_too_large_is_refused_and_names_the_gateway(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await raised(engine, estate.gateway)

    # Random digits do not compress below half their number.
    long = task(estate, "long", task_kwargs={"address": secrets.token_hex(300_000)})

    async def add_it() -> None:
        async with writing(engine) as session:
            session.add(long)
            await session.flush()
            await session.execute(models.device_tasks.insert().values(device=estate.meters["M1"], task=long.id))
            await plans.raise_changed(session, [estate.gateway], NOW)

    with pytest.raises(plans.PlanTooLargeError, match="'gw-1'"):
        await add_it()
    assert await revision(engine, estate.gateway) == 1


async def test_lifting_goes_above_what_the_agent_has_and_never_down(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    await raised(engine, estate.gateway)
    for above, expected in ((40, 41), (7, 41), (41, 42)):
        async with writing(engine) as session:
            await plans.lift_above(session, estate.gateway, above, NOW)
        assert await revision(engine, estate.gateway) == expected


async def test_plans_of_many_gateways_are_raised_as_those_of_each_alone(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "GATEWAYS_AT_ONCE", 2)
    monkeypatch.setattr(plans, "_INLINE", 1)
    estates = [await make_estate(engine, gateway_id=f"gw-{number}") for number in range(5)]
    gateways = [estate.gateway for estate in estates]
    await give_tasks(engine, estates[3])

    async def edit_alone() -> list[str]:
        async with writing(engine) as session:
            await plans.one_at_a_time(session)
            return await plans.raise_changed(session, gateways, NOW)

    assert await edit_alone() == [estate.gateway_id for estate in estates]
    assert await edit_alone() == []
    assert await raised(engine, *gateways) == []
    await edit(engine, models.MeterDevice, estates[2].meters["M1"], iec62056_21_address="7")
    assert await edit_alone() == ["gw-2"]
    async with looking(engine) as session:
        kept = await plans.read_desired(session, gateways)
        assert kept == await plans.render_many(session, gateways)
        remembered = (await session.execute(sa.select(models.DeviceGateway.device, models.DeviceGateway.gateway))).all()
    assert [kept[gateway].revision for gateway in gateways] == [1, 1, 2, 1, 1]
    assert len(read_plan(kept[gateways[3]].body).tasks) == 2
    assert set(map(tuple, remembered)) == {
        (meter, estate.gateway) for estate in estates for meter in estate.meters.values()
    }


async def test_a_revision_that_is_lifted_while_plans_are_read_is_not_given_twice(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = await make_estate(engine)
    await raised(engine, estate.gateway)
    await edit(engine, models.MeterDevice, estate.meters["M1"], iec62056_21_address="7")
    read = read_contents
    lifts = [7]

    async def read_and_lift(session: AsyncSession, some: Collection[uuid.UUID]) -> dict[uuid.UUID, Content]:
        found = await read(session, some)
        if lifts:
            # On PostgreSQL by another transaction: the gateway is not locked yet.
            above = lifts.pop()
            if engine.dialect.name == "sqlite":
                await plans.lift_above(session, estate.gateway, above, NOW)
            else:
                async with writing(engine) as other:
                    await plans.lift_above(other, estate.gateway, above, NOW)
        return found

    monkeypatch.setattr(plans, "read_contents", read_and_lift)
    async with writing(engine) as session:
        await plans.one_at_a_time(session)
        assert await plans.raise_changed(session, [estate.gateway], NOW) == ["gw-1"]
    async with looking(engine) as session:
        kept = (await plans.read_desired(session, [estate.gateway]))[estate.gateway]
        assert kept == await plans.render(session, estate.gateway)
    assert kept.revision == 9
