"""Reports on both databases: each counts once, an older one never overwrites, what fits nothing is kept."""

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from hub import models
from hub.database import reading as looking
from hub.ingest import Delivery, store_deliveries
from hub.lifesigns import note_life_signs
from hub.signs_waiting import LifeSign
from protocol import reports
from protocol.plans import Problem
from protocol.topics import Channel
from protocol.wire import encode
from tests.parts.databases import database_url, engine
from tests.parts.estates import NOW, GatewayVoice, make_estate

__all__ = ["database_url", "engine"]


async def rows(engine: AsyncEngine, model: type[models.Base]) -> list[Any]:
    async with looking(engine) as session:
        return list((await session.scalars(sa.select(model))).all())


def event(device: uuid.UUID) -> reports.MeterSystemEvent:
    return reports.MeterSystemEvent(uuid.uuid4(), device, "M1", NOW, "0x8103", "Power failure", "The supply failed.")


async def test_each_report_counts_once(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    device = estate.meters["M1"]
    told = [
        reports.RunReport(uuid.uuid4(), device, "done", NOW, NOW, task=uuid.uuid4(), tick=NOW, readings=3),
        event(device),
        reports.LossRecord(uuid.uuid4(), device, "M1", "2:300", NOW, NOW, 12, "the disk was full"),
    ]
    delivery = voice.rows(Channel.REPORT, [encode(one) for one in told])
    again = voice.rows(Channel.REPORT, [encode(one) for one in reversed(told)])
    outcome = await store_deliveries(engine, [delivery, delivery, again], NOW, 10)
    assert [len(names) for names in outcome.receipts.values()] == [3]
    (run,) = await rows(engine, models.RunReport)
    assert (run.outcome, run.readings, run.tick) == ("done", 3, NOW)
    (logged,) = await rows(engine, models.MeterSystemEvent)
    assert (logged.code, logged.organization, logged.meter_device) == ("0x8103", estate.organization, device)
    (loss,) = await rows(engine, models.LossRecord)
    assert (loss.count, loss.reason) == (12, "the disk was full")


async def test_an_older_plan_applied_never_overwrites_a_newer_one(engine: AsyncEngine) -> None:
    await make_estate(engine)
    voice = GatewayVoice()
    problem = Problem("task", "t", "no such context")
    newer = reports.PlanApplied(uuid.uuid4(), 5, b"5" * 16, NOW, 3, 1, [problem])
    older = reports.PlanApplied(uuid.uuid4(), 4, b"4" * 16, NOW, 2, 9)
    for one in (newer, older):
        await store_deliveries(engine, [voice.rows(Channel.REPORT, [encode(one)])], NOW, 10)
    (gateway,) = await rows(engine, models.Gateway)
    assert (gateway.applied_revision, gateway.applied_digest) == (5, b"5" * 16)
    assert gateway.applied_problems == [{"kind": "task", "item": "t", "text": "no such context"}]
    # Nor does a life sign of the same connection that was said before.
    sign = reports.Online(
        "gw-1", online=True, session=3, store=voice.store, software="test", at=NOW,
        plan_revision=4, plan_digest=b"4" * 16, sequence=0,
    )  # fmt: skip
    await note_life_signs(engine, [LifeSign(sign, voice.key.public)], NOW)
    (gateway,) = await rows(engine, models.Gateway)
    assert gateway.online
    assert (gateway.applied_revision, gateway.applied_digest) == (5, b"5" * 16)


async def test_the_problems_of_a_plan_come_through_after_a_life_sign_that_names_it(engine: AsyncEngine) -> None:
    await make_estate(engine)
    voice = GatewayVoice()
    problem = Problem("task", "t", "no such context")
    applied = reports.PlanApplied(uuid.uuid4(), 5, b"5" * 16, NOW, 3, 1, [problem])
    # The life sign overtakes the report; meanwhile the agent has even told something else.
    sign = reports.Online(
        "gw-1", online=True, session=4, store=voice.store, software="test", at=NOW,
        plan_revision=5, plan_digest=b"5" * 16, sequence=2,
    )  # fmt: skip
    await note_life_signs(engine, [LifeSign(sign, voice.key.public)], NOW)
    other = reports.PlanApplied(uuid.uuid4(), 4, b"4" * 16, NOW, 2, 9, [Problem("line", "l", "an old one")])
    for one in (applied, other):
        await store_deliveries(engine, [voice.rows(Channel.REPORT, [encode(one)])], NOW, 10)
    (gateway,) = await rows(engine, models.Gateway)
    assert (gateway.applied_session, gateway.applied_sequence) == (4, 2)
    assert gateway.applied_problems == [{"kind": "task", "item": "t", "text": "no such context"}]


async def test_an_event_of_a_meter_that_is_not_the_gateways_is_set_aside(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    other = await make_estate(engine, gateway_id="gw-2")
    voice = GatewayVoice()
    told = [event(uuid.uuid4()), event(other.meters["M1"]), event(estate.meters["M1"])]
    strange = encode(reports.Hello(NOW))
    await store_deliveries(engine, [voice.rows(Channel.REPORT, [*(encode(one) for one in told), strange])], NOW, 10)
    assert len(await rows(engine, models.MeterSystemEvent)) == 1
    aside = {row.payload: row.reason for row in await rows(engine, models.Quarantined)}
    assert aside[encode(told[0])] == "unknown_meter"
    assert aside[encode(told[1])] == "not_this_gateway"
    assert "not a report" in aside[strange]


async def test_reports_of_nothing_known_keep_within_the_quarantine(engine: AsyncEngine) -> None:
    estate = await make_estate(engine)
    voice = GatewayVoice()
    strange = [voice.rows(Channel.REPORT, [encode(event(uuid.uuid4())) for _ in range(2)]) for _ in range(3)]
    good = voice.rows(Channel.REPORT, [encode(event(estate.meters["M1"]))])
    outcome = await store_deliveries(engine, [*strange, good], NOW, 5)
    assert [len(names) for names in outcome.receipts.values()] == [3]
    assert outcome.counts["quarantine_full"] == 1
    assert len(await rows(engine, models.Quarantined)) == 4
    # With more room the same delivery is taken.
    outcome = await store_deliveries(engine, strange[2:], NOW, 6)
    assert [len(names) for names in outcome.receipts.values()] == [1]


async def test_plans_that_many_gateways_applied_are_noted_each_by_its_own_order(engine: AsyncEngine) -> None:
    names = ("gw-1", "gw-2", "gw-3")
    voices = {name: GatewayVoice(name) for name in names}
    for name in names:
        await make_estate(engine, gateway_id=name)

    def applied(name: str, revision: int, sequence: int) -> Delivery:
        report = reports.PlanApplied(uuid.uuid4(), revision, bytes([revision]) * 16, NOW, 1, sequence)
        return voices[name].rows(Channel.REPORT, [encode(report)])

    group = [applied("gw-1", 2, 2), applied("gw-2", 5, 1), applied("gw-1", 1, 1), applied("gw-2", 6, 2)]
    await store_deliveries(engine, group, NOW, 10)
    known = {row.gateway_id: row for row in await rows(engine, models.Gateway)}
    assert {name: known[name].applied_revision for name in names} == {"gw-1": 2, "gw-2": 6, "gw-3": 0}
    assert known["gw-2"].applied_digest == bytes([6]) * 16
